"""The recipe of a run: command-line flags, YAML files, checks, and the folder that a run writes to."""

import argparse
import os
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml

from train.checkpoints import write_text


@dataclass
class Recipe:
    """Every choice of a run, saved in its folder as recipe.yaml. Each field but `model_config` is a flag."""

    out: str = field(default="runs/small", metadata={"help": "folder of checkpoints, log, curves, results and card"})
    dataset: str = field(
        default="synthetic", metadata={"help": "data set: synthetic, synthetic-tiny, pvlg, cuhk_pedes, icfg_pedes, ..."}
    )
    data_root: str | None = field(
        default=None, metadata={"help": "folder of the data set; not needed for synthetic data"}
    )
    stream: bool = field(
        default=False,
        metadata={"help": "read training images from the Parquet files of pvlg; --data-root may be a Hub name"},
    )
    shuffle_buffer: int = field(default=2048, metadata={"help": "number of rows that --stream shuffles together"})
    image_root: str | None = field(
        default=None, metadata={"help": "folder of the images, if they are not in --data-root"}
    )
    model: str | None = field(
        default=None, metadata={"help": "folder or Hub name of a Rogle or CLIP checkpoint (default: a new small model)"}
    )
    model_config: dict[str, Any] = field(default_factory=dict)
    regions: str = field(
        default="rows",
        metadata={
            "help": "source of region-sentence pairs. rows: the data set, or mining if it has no pairs. mined: mining "
            "(RSM). none: no local branch"
        },
    )
    mine_epoch: int = field(default=2, metadata={"help": "number of epochs without pairs before they are mined"})
    mine_every: int = field(default=0, metadata={"help": "number of epochs between two minings; 0 mines once"})
    epochs: int = field(default=10, metadata={"help": "number of passes over the training images"})
    batch_size: int = field(
        default=32, metadata={"help": "images per step and process; the losses see the images of all processes"}
    )
    micro_batches: int = field(
        default=1,
        metadata={"help": "number of parts a batch is embedded in (gradient caching): less memory, equal gradients"},
    )
    images_per_identity: int = field(
        default=1, metadata={"help": "images of an identity that are put into a batch together; 1 groups none"}
    )
    learning_rate: float = field(
        default=1e-3, metadata={"help": "maximum learning rate, between warm-up and cosine decay"}
    )
    warmup_share: float = field(default=0.1, metadata={"help": "share of the steps with a rising learning rate"})
    weight_decay: float = field(
        default=0.05, metadata={"help": "weight decay of matrices; vectors and position tables have none"}
    )
    max_grad_norm: float = field(default=1.0, metadata={"help": "norm that gradients are clipped to"})
    long_share: float = field(default=0.6, metadata={"help": "probability of the long caption of an image"})
    max_pairs: int = field(default=4, metadata={"help": "maximum number of region-sentence pairs per image and step"})
    flip: float = field(
        default=0.5, metadata={"help": "probability of a mirrored image, unless the texts name left or right"}
    )
    crop: float = field(
        default=0.0, metadata={"help": "probability of a shift by up to 1/16 of the image's height and width"}
    )
    erase: float = field(default=0.0, metadata={"help": "probability that 2 to 20 %% of the image are erased"})
    approximate: float = field(default=0.0, metadata={"help": "probability of an approximate caption (CTLG's PDG)"})
    mix: float = field(
        default=0.0, metadata={"help": "probability of mixing an image and its caption with others (CTLG's PDG)"}
    )
    shuffle_captions: float = field(
        default=0.0, metadata={"help": "share of images that get another image's captions, to measure robustness"}
    )
    shuffle_sentences: float = field(
        default=0.0, metadata={"help": "share of regions that get another region's sentence, to measure robustness"}
    )
    lora_rank: int = field(default=0, metadata={"help": "rank of the adapters (peft) to train; 0 trains all weights"})
    lora_targets: str = field(default="both", metadata={"help": "towers with adapters: both, vision or text"})
    mixed_precision: str = field(default="no", metadata={"help": "precision of training: no, bf16 or fp16"})
    compile: bool = field(
        default=False, metadata={"help": "compile the image tower by torch.compile; its shapes are constant"}
    )
    workers: int = field(
        default=0, metadata={"help": "number of data worker processes; 0 keeps the resized images in memory"}
    )
    image_cache: str = field(
        default="auto",
        metadata={"help": "folder of the resized images; auto: the cache of datasets; none: no cache on disk"},
    )
    threads: int = field(default=0, metadata={"help": "CPU threads of a run without a GPU; 0: one per core"})
    seed: int = field(default=0, metadata={"help": "seed of weights and data order"})
    seeds: list[int] = field(
        default_factory=list,
        metadata={"help": "seeds of several runs in --out/seed-N, with mean and deviation (default: one run)"},
    )
    resume: str | None = field(
        default=None,
        metadata={
            "nargs": "?",
            "const": "auto",
            "help": "checkpoint to resume from; without a value, or auto: the newest complete one in --out",
        },
    )
    save_steps: int = field(
        default=0, metadata={"help": "steps between two checkpoints; 0 writes them after each epoch only"}
    )
    keep_checkpoints: int = field(default=2, metadata={"help": "number of checkpoints to keep"})
    max_bad_steps: int = field(
        default=5, metadata={"help": "number of steps with a NaN or infinite loss or gradient that ends the run"}
    )
    max_bad_images: int = field(default=10, metadata={"help": "number of unreadable images that ends the run"})
    trackers: str = field(
        default="auto",
        metadata={
            "help": "Accelerate's trackers, separated by commas; auto: tensorboard if installed; none: no tracker"
        },
    )


# Fields of RogleConfig that a recipe may override: type and help. Each is a flag and a flat key of the YAML file.
MODEL_FIELDS: dict[str, tuple[type, str]] = {
    "region_feature": (str, "embedding of a region: patch_mean, dense_roi or crop"),
    "global_loss": (str, "image-caption loss: itc, sdm, tal or cmpm"),
    "itc_temperature": (float, "fixed temperature of itc (CTLG: 0.02); 0 learns it"),
    "same_identity": (str, "role of other pairs of an identity in itc: positive or excluded"),
    "local_loss_weight": (float, "weight of the region-sentence contrastive loss"),
    "local_contrast": (str, "image side of the region-sentence loss: region or crop"),
    "tsl_text_weight": (float, "weight of the token-similarity loss of sentences"),
    "tsl_image_weight": (float, "weight of the token-similarity loss of regions"),
    "tsl_detach_target": (bool, "stop the gradient at the target of the token-similarity losses"),
    "id_loss_weight": (float, "weight of the identity classification loss"),
    "id_loss": (str, "identity loss: softmax or cmpc"),
    "short_loss_weight": (float, "weight of a second contrastive loss with short captions (Long-CLIP)"),
    "short_components": (int, "number of principal components of the image in that loss"),
    "head": (str, "head of another system: none, acsa, parts or implicit_relations"),
    "head_loss_weight": (float, "weight of the head's loss"),
    "head_temperature": (float, "temperature of the local loss of acsa"),
    "head_layers": (int, "number of blocks of parts and implicit_relations"),
    "part_slots": (int, "number of slots of parts"),
    "part_margin": (float, "margin of parts, as a cosine"),
    "commonality": (float, "share of the margin of parts that a common part loses, in [0, 1]"),
    "mask_probability": (float, "share of the words that implicit_relations masks"),
    "reliability_local": (str, "reliability of region-sentence pairs: none, places or gmm_consensus"),
    "reliability_global": (str, "reliability of image-caption pairs: none, identity or gmm_consensus"),
}

RENAMED = {"picture_cache": "image_cache"}  # old key -> new key; old flags stay as hidden aliases
# Deleted keys of older recipe.yaml files, with the default that they must have.
DELETED = {
    "layer_decay": 1.0, "ema_decay": 0.0, "drop_sentences": 0.0, "reorder_sentences": 0.0, "lora_alpha": 0,
    "lora_dora": False, "distill_weight": 0.0, "soft_negatives": 0.0,
}  # fmt: skip
MINIMUM = {
    "epochs": 1, "batch_size": 1, "micro_batches": 1, "images_per_identity": 1, "keep_checkpoints": 1,
    "max_bad_steps": 1, "max_bad_images": 1, "save_steps": 0, "max_pairs": 0, "mine_epoch": 0, "mine_every": 0,
    "lora_rank": 0, "shuffle_buffer": 1,
}  # fmt: skip
PROBABILITIES = (
    "long_share", "flip", "warmup_share", "shuffle_captions", "shuffle_sentences", "crop", "erase", "approximate",
    "mix",
)  # fmt: skip
METAVARS = {int: "N", float: "X", str: "TEXT", bool: "BOOL"}
# Fields that a resumed run may change.
FREE_TO_CHANGE = (
    "resume", "threads", "seeds", "workers", "save_steps", "keep_checkpoints", "max_bad_steps", "max_bad_images",
    "trackers", "image_cache",
)  # fmt: skip


def read_recipe(argv: Sequence[str] | None = None) -> Recipe:
    """Reads the command line and its `--config` file. Flags override the file, the file overrides the defaults.

    Args:
        argv (defaults to `None`): arguments; None takes those of the process.

    Raises:
        SystemExit: a wrong flag, key or value; the message names it in one line.
    """
    parser = _parser()
    known, unknown = parser.parse_known_args(argv)
    for argument in unknown:
        flag = argument.split("=")[0]
        if flag.startswith("--") and flag[2:].replace("-", "_") in DELETED:
            raise SystemExit(f"{flag}: this option does not exist any more")
    path = known.config
    if path:
        parser.set_defaults(**_read_config(path))
    values = vars(parser.parse_args(argv))
    values.pop("config")
    model_config = {name: values.pop(name) for name in MODEL_FIELDS if name in values}
    recipe = Recipe(**values, model_config={k: value for k, value in model_config.items() if value is not None})
    # Before it named a checkpoint, the field was a bool.
    if recipe.resume in (True, False, "true", "True", "false", "False"):
        recipe.resume = "auto" if str(recipe.resume).lower() == "true" else None
    _check(recipe)
    return recipe


def flat_fields(recipe: Recipe) -> dict[str, Any]:
    """All fields of a recipe and the overridden fields of RogleConfig in one dict, as in a YAML file."""
    values = asdict(recipe)
    model_config = values.pop("model_config")
    return values | {name: model_config[name] for name in MODEL_FIELDS if name in model_config}


def claim_folder(out: Path, recipe: Recipe) -> None:
    """Takes a folder for this run: an empty one, or with `--resume` the folder of an equal recipe.

    If a run was killed within `checkpoints.save_folder`, its older best model is restored.

    Args:
        out: created if needed; recipe.yaml is written.
        recipe: the run's recipe.

    Raises:
        SystemExit: the folder belongs to another run; the message names the first field that differs.
    """
    values = {name: value for name, value in flat_fields(recipe).items() if name not in ("resume", "threads", "seeds")}
    saved = out / "recipe.yaml"
    names = {path.name for path in out.iterdir()} if out.exists() else set()
    if names - {"recipe.yaml", "environment.json", "trackers"}:  # a run writes these before its first step
        if not recipe.resume:
            raise SystemExit(f"--out {out} is not empty: pass --resume to continue that run, or another folder")
        stored = current_keys(yaml.safe_load(saved.read_text(encoding="utf-8")), saved) if saved.exists() else {}
        before = flat_fields(Recipe()) | stored
        for name in [*Recipe.__dataclass_fields__, *MODEL_FIELDS]:
            old, new = before.get(name), values.get(name)
            if name not in FREE_TO_CHANGE and old != new:
                raise SystemExit(f"--resume: {saved} has {name} = {old!r}, this command {new!r}")
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "best").exists() and (out / "best.old").exists():
        os.replace(out / "best.old", out / "best")
    write_text(saved, yaml.safe_dump(values, sort_keys=False))


def current_keys(values: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """Maps the keys of a YAML file of an older version to those of this one.

    Args:
        values: content of the file.
        path: named in the error message.

    Raises:
        SystemExit: a deleted key with a value other than its old default.
    """
    for name, default in DELETED.items():
        if name in values and values[name] not in (default, None):
            raise SystemExit(f"{path}: {name} = {values[name]!r}: this option does not exist any more")
    return {RENAMED.get(name, name): value for name, value in values.items() if name not in DELETED}


def _read_config(path: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SystemExit(f"--config {path}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise SystemExit(f"--config {path}: it must hold `field: value` lines, not {values!r}")
    values = current_keys(values, path)
    known = [name for name in (*Recipe.__dataclass_fields__, *MODEL_FIELDS) if name != "model_config"]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise SystemExit(f"--config {path}: unknown field {unknown[0]!r}; fields are {', '.join(known)}")
    return values


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default to each help text, unless it is None or empty: then the help text states it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, []):
            return action.help
        return super()._get_help_string(action)


def _parser() -> argparse.ArgumentParser:
    """A flag for each field of `Recipe` but `model_config`, and for each of `MODEL_FIELDS`."""
    parser = argparse.ArgumentParser(
        prog="train.py",
        usage="train.py [--config FILE] [--FIELD VALUE ...]",
        description="Trains Rogle; see docs/training.md.",
        formatter_class=_HelpFormatter,
    )
    parser.add_argument(
        "--config", metavar="FILE", help="YAML file of fields, such as those in train/configs (default: no file)"
    )
    for item in fields(Recipe):
        if item.name == "model_config":
            continue
        default = item.default if item.default is not MISSING else item.default_factory()
        options = dict(item.metadata)
        if item.default is None and "default" not in options["help"]:
            options["help"] += " (default: none)"
        _add_flag(parser, item.name, _value_type(item.type), default, options)
    group = parser.add_argument_group("model", "Override fields of the model configuration (default: as in --model).")
    for name, (kind, text) in MODEL_FIELDS.items():
        _add_flag(group, name, kind, argparse.SUPPRESS, {"help": text})
    return parser


def _add_flag(parser: Any, name: str, kind: type | list[type], default: Any, options: dict[str, Any]) -> None:
    """Adds a flag with dashes. Spellings with underscores and old names are hidden aliases."""
    item = kind[0] if isinstance(kind, list) else kind
    options = {"type": _as_bool if item is bool else item, "metavar": METAVARS[item]} | options
    if isinstance(kind, list):
        options["nargs"] = "+"
    elif kind is bool:
        options |= {"nargs": "?", "const": True}
    parser.add_argument(_flag(name), dest=name, default=default, **options)
    old_names = [old for old, new in RENAMED.items() if new == name]
    aliases = [*map(_flag, old_names), *("--" + alias for alias in (name, *old_names) if "_" in alias)]
    if aliases:
        parser.add_argument(*aliases, dest=name, default=argparse.SUPPRESS, **options | {"help": argparse.SUPPRESS})


def _value_type(annotation: Any) -> type | list[type]:
    """`str | None` -> `str`; `list[int]` -> `[int]`."""
    if get_origin(annotation) is list:
        return [get_args(annotation)[0]]
    if isinstance(annotation, types.UnionType):
        return next(kind for kind in get_args(annotation) if kind is not type(None))
    return annotation


def _as_bool(text: str) -> bool:
    if text.lower() in ("yes", "true", "t", "y", "1"):
        return True
    if text.lower() in ("no", "false", "f", "n", "0"):
        return False
    raise argparse.ArgumentTypeError(f"must be true or false, not {text!r}")


def _check(recipe: Recipe) -> None:
    """Raises SystemExit, with one line that names the flag, for a value out of range or flags that exclude others."""
    for name, minimum in MINIMUM.items():
        value = getattr(recipe, name)
        if not isinstance(value, int) or value < minimum:
            raise SystemExit(f"{_flag(name)} must be a whole number of at least {minimum}, not {value!r}")
    if not recipe.max_grad_norm > 0:
        raise SystemExit(f"--max-grad-norm must be positive, not {recipe.max_grad_norm!r}")
    for name in PROBABILITIES:
        value = getattr(recipe, name)
        if not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise SystemExit(f"{_flag(name)} must lie in [0, 1], not {value!r}")
    if recipe.regions not in ("rows", "mined", "none"):
        raise SystemExit(f"--regions must be rows, mined or none, not {recipe.regions!r}")
    if recipe.stream and (recipe.dataset != "pvlg" or recipe.data_root is None):
        raise SystemExit("--stream reads the Parquet files of P-VLG: it needs --dataset pvlg and --data-root")
    if recipe.stream and recipe.mix:
        raise SystemExit(f"--mix {recipe.mix} reads images in any order: it cannot be combined with --stream")
    if recipe.stream and recipe.regions == "mined":
        raise SystemExit("--regions mined reads all images: it cannot be combined with --stream")
    if recipe.mix and recipe.model_config.get("id_loss_weight"):
        raise SystemExit("--mix makes pairs without an identity: it cannot be combined with --id-loss-weight")
    if recipe.lora_targets not in ("both", "vision", "text"):
        raise SystemExit(f"--lora-targets must be both, vision or text, not {recipe.lora_targets!r}")
    head = recipe.model_config.get("head")
    if recipe.lora_rank and head in ("parts", "implicit_relations"):
        raise SystemExit(
            f"--lora-rank trains adapters of the two towers only: it cannot be combined with --head {head}"
        )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


__all__ = ["MODEL_FIELDS", "Recipe", "claim_folder", "current_keys", "flat_fields", "read_recipe"]
