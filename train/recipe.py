"""Every choice of a run: the command line and the YAML file, checked, and the folder that the run claims."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import yaml
from transformers import HfArgumentParser

from train.checkpoints import write_text

# Fields of RogleConfig that a recipe may override.
MODEL_FIELDS = (
    "region_feature",
    "global_loss",
    "itc_temperature",
    "same_identity",
    "local_loss_weight",
    "local_contrast",
    "tsl_text_weight",
    "tsl_image_weight",
    "tsl_detach_target",
    "id_loss_weight",
    "id_loss",
    "short_loss_weight",
    "short_components",
    "head",
    "head_loss_weight",
    "head_temperature",
    "head_layers",
    "part_slots",
    "part_margin",
    "commonality",
    "mask_probability",
    "reliability_local",
    "reliability_global",
)


@dataclass
class Recipe:
    """What a run needs to be repeated; saved in its folder as recipe.yaml."""

    out: str = field(default="runs/small", metadata={"help": "folder of checkpoints, log, curves, results and card"})
    dataset: str = field(default="synthetic", metadata={"help": "synthetic, synthetic-tiny, pvlg, cuhk_pedes, ..."})
    data_root: str | None = field(default=None, metadata={"help": "folder of the data set (not for synthetic)"})
    stream: bool = field(
        default=False, metadata={"help": "read images from pvlg's Parquet as needed; --data-root may be a Hub name"}
    )
    shuffle_buffer: int = field(default=2048, metadata={"help": "rows that --stream shuffles with each other"})
    image_root: str | None = field(default=None, metadata={"help": "folder of its images, where not in data_root"})
    model: str | None = field(
        default=None, metadata={"help": "Rogle or CLIP folder or Hub name; none: a small new one"}
    )
    regions: str = field(
        default="rows",
        metadata={"help": "rows: the data's own, or mined if none is paired; mined: all by RSM; none: no local branch"},
    )
    mine_epoch: int = field(default=2, metadata={"help": "epochs without pairs before RSM mines; 0: at once"})
    mine_every: int = field(default=0, metadata={"help": "epochs from one mining to the next; 0: once"})
    epochs: int = field(default=10, metadata={"help": "passes over the training images"})
    batch_size: int = field(default=32, metadata={"help": "images a step in each process; losses see all of them"})
    micro_batches: int = field(
        default=1, metadata={"help": "gradient caching: embed the batch in this many parts, for less memory, exactly"}
    )
    images_per_identity: int = field(
        default=1, metadata={"help": "images of an identity put into a batch together; 1: as they come"}
    )
    learning_rate: float = field(default=1e-3, metadata={"help": "peak, after the warm-up, before the cosine"})
    warmup_share: float = field(default=0.1, metadata={"help": "share of the steps that warm up"})
    weight_decay: float = field(default=0.05, metadata={"help": "of matrices; vectors and position tables have none"})
    layer_decay: float = field(
        default=1.0, metadata={"help": "learning rate of each block relative to the next above it; 1: one rate for all"}
    )
    ema_decay: float = field(
        default=0.0, metadata={"help": "validate and keep a moving average of the weights, e.g. 0.999; 0: none"}
    )
    max_grad_norm: float = field(default=1.0, metadata={"help": "gradients are clipped to this norm"})
    long_share: float = field(default=0.6, metadata={"help": "probability that an image's caption is the long one"})
    max_pairs: int = field(default=4, metadata={"help": "region-sentence pairs an image and step"})
    flip: float = field(
        default=0.5, metadata={"help": "probability of a mirror image, unless the words say left or right"}
    )
    crop: float = field(default=0.0, metadata={"help": "probability of a shift by up to 1/16 of height and width"})
    erase: float = field(default=0.0, metadata={"help": "probability that a rectangle of 2 to 20 %% is erased"})
    drop_sentences: float = field(default=0.0, metadata={"help": "probability of each sentence to leave its caption"})
    reorder_sentences: float = field(default=0.0, metadata={"help": "probability that a caption's are shuffled"})
    approximate: float = field(
        default=0.0, metadata={"help": "probability that a caption's words are approximate (PDG)"}
    )
    mix: float = field(default=0.0, metadata={"help": "probability of a mix with another image and its caption (PDG)"})
    region_feature: str | None = field(
        default=None, metadata={"help": "overrides the model's, as do all down to trust"}
    )
    global_loss: str | None = field(default=None, metadata={"help": "itc, sdm, tal or cmpm"})
    itc_temperature: float | None = field(default=None, metadata={"help": "of itc, fixed (CTLG's 0.02); 0: learnt"})
    same_identity: str | None = field(default=None, metadata={"help": "other pairs of an identity: positive, excluded"})
    local_loss_weight: float | None = field(default=None, metadata={"help": "of the region-sentence contrast"})
    local_contrast: str | None = field(default=None, metadata={"help": "its image side: region or crop"})
    tsl_text_weight: float | None = field(default=None, metadata={"help": "of the token similarity of sentences"})
    tsl_image_weight: float | None = field(default=None, metadata={"help": "of the token similarity of regions"})
    tsl_detach_target: bool | None = field(default=None, metadata={"help": "no gradient to the similarity's target"})
    id_loss_weight: float | None = field(default=None, metadata={"help": "of the identity classification"})
    id_loss: str | None = field(default=None, metadata={"help": "softmax or cmpc"})
    short_loss_weight: float | None = field(
        default=None, metadata={"help": "of the short captions' own contrast, beside the long one (Long-CLIP)"}
    )
    short_components: int | None = field(default=None, metadata={"help": "of the image that short captions are shown"})
    head: str | None = field(default=None, metadata={"help": "none, acsa, parts or implicit_relations"})
    head_loss_weight: float | None = field(default=None, metadata={"help": "of the head's loss"})
    head_temperature: float | None = field(default=None, metadata={"help": "of acsa's local distribution"})
    head_layers: int | None = field(default=None, metadata={"help": "blocks of parts and of implicit_relations"})
    part_slots: int | None = field(default=None, metadata={"help": "of parts"})
    part_margin: float | None = field(default=None, metadata={"help": "of parts, in units of cosine"})
    commonality: float | None = field(default=None, metadata={"help": "in [0, 1]: common parts give up margin"})
    mask_probability: float | None = field(default=None, metadata={"help": "of words, for implicit_relations"})
    reliability_local: str | None = field(
        default=None,
        metadata={"help": "trust in region-sentence pairs: none, places, gmm_consensus"},
    )
    reliability_global: str | None = field(
        default=None,
        metadata={"help": "trust in image-caption pairs: none, identity, gmm_consensus"},
    )
    shuffle_captions: float = field(
        default=0.0, metadata={"help": "share of images given another's captions, on purpose"}
    )
    shuffle_sentences: float = field(default=0.0, metadata={"help": "share of regions given another's sentence"})
    lora_rank: int = field(default=0, metadata={"help": "train adapters of this rank (peft); 0: all weights"})
    lora_alpha: int = field(default=0, metadata={"help": "scale of the adapters; 0: twice the rank"})
    lora_targets: str = field(default="both", metadata={"help": "both, vision or text"})
    lora_dora: bool = field(default=False, metadata={"help": "weight-decomposed adapters (DoRA)"})
    mixed_precision: str = field(default="no", metadata={"help": "no, bf16 or fp16"})
    compile: bool = field(default=False, metadata={"help": "torch.compile the image tower, whose shapes stay"})
    workers: int = field(default=0, metadata={"help": "data processes; 0 keeps the resized images in memory"})
    image_cache: str = field(
        default="auto",
        metadata={"help": "folder of images resized once, where they are not in memory; auto: datasets' own; none"},
    )
    threads: int = field(default=0, metadata={"help": "CPU threads of a run without a GPU; 0: as many as cores"})
    seed: int = field(default=0, metadata={"help": "of weights and data order"})
    seeds: list[int] = field(
        default_factory=list, metadata={"help": "one run for each, in --out/seed-N, and their mean and spread"}
    )
    resume: str | None = field(
        default=None,
        metadata={"nargs": "?", "const": "auto", "help": "auto: go on from the newest whole checkpoint in --out"},
    )
    save_steps: int = field(default=0, metadata={"help": "steps between checkpoints; 0: after each epoch only"})
    keep_checkpoints: int = field(default=2, metadata={"help": "the last so many are kept"})
    max_bad_steps: int = field(
        default=5, metadata={"help": "stop after so many steps with a NaN or infinite loss or gradient"}
    )
    max_bad_images: int = field(default=10, metadata={"help": "stop after so many images that cannot be read"})
    trackers: str = field(
        default="auto", metadata={"help": "of Accelerate, with commas; auto: tensorboard if installed; none"}
    )


WHOLE = {  # and the least that each may be
    "epochs": 1, "batch_size": 1, "micro_batches": 1, "images_per_identity": 1, "keep_checkpoints": 1,
    "max_bad_steps": 1, "max_bad_images": 1, "save_steps": 0, "max_pairs": 0, "mine_epoch": 0, "mine_every": 0,
    "lora_rank": 0, "lora_alpha": 0, "shuffle_buffer": 1,
}  # fmt: skip
SHARES = (
    "long_share", "flip", "warmup_share", "shuffle_captions", "shuffle_sentences", "crop", "erase", "drop_sentences",
    "reorder_sentences", "approximate", "mix", "layer_decay", "ema_decay",
)  # fmt: skip
# Of two runs that differ in these alone, one may go on where the other stopped.
FREE_TO_CHANGE = (
    "resume", "threads", "seeds", "workers", "save_steps", "keep_checkpoints", "max_bad_steps", "max_bad_images",
    "trackers", "image_cache",
)  # fmt: skip


def read_recipe(argv: Sequence[str] | None = None) -> Recipe:
    """Command line and `--config` YAML -> Recipe; flags win over the file, the file over the defaults."""
    parser = HfArgumentParser(Recipe, description="Trains Rogle; see docs/training.md.")
    parser.add_argument("--config", help="YAML file of recipe fields")
    path = parser.parse_known_args(argv)[0].config
    if path:
        try:
            given = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise SystemExit(f"--config {path}: {' '.join(str(error).split())}") from None
        unknown = sorted(set(given) - set(Recipe.__dataclass_fields__)) if isinstance(given, dict) else [str(given)]
        if unknown:
            raise SystemExit(
                f"{path}: unknown field {unknown[0]!r}; fields are {', '.join(Recipe.__dataclass_fields__)}"
            )
        parser.set_defaults(**given)
    recipe = vars(parser.parse_args(argv))
    recipe.pop("config")
    for name, least in WHOLE.items():
        if not isinstance(recipe[name], int) or recipe[name] < least:
            raise SystemExit(f"--{name.replace('_', '-')} must be a whole number from {least}, not {recipe[name]!r}")
    if not recipe["max_grad_norm"] > 0:
        raise SystemExit(f"--max-grad-norm must be positive, not {recipe['max_grad_norm']!r}")
    for name in SHARES:
        if not isinstance(recipe[name], (int, float)) or not 0 <= recipe[name] <= 1:
            raise SystemExit(f"--{name.replace('_', '-')} must lie in [0, 1], not {recipe[name]!r}")
    if recipe["regions"] not in ("rows", "mined", "none"):
        raise SystemExit(f"--regions must be rows, mined or none, not {recipe['regions']!r}")
    if recipe["stream"] and (recipe["dataset"] != "pvlg" or recipe["data_root"] is None):
        raise SystemExit("--stream reads the Parquet of P-VLG: it needs --dataset pvlg and --data-root")
    for name, why in (("mix", "mixes in images from anywhere"), ("regions", "reads all images for it")):
        if recipe["stream"] and recipe[name] not in (0, "rows", "none"):
            raise SystemExit(f"--{name} {recipe[name]} {why}: not with --stream")
    if recipe["mix"] and recipe["id_loss_weight"]:
        raise SystemExit("--mix leaves a pair without an identity to classify: not with --id-loss-weight")
    if recipe["lora_targets"] not in ("both", "vision", "text"):
        raise SystemExit(f"--lora-targets must be both, vision or text, not {recipe['lora_targets']!r}")
    if recipe["lora_rank"] and recipe["ema_decay"]:
        raise SystemExit("--ema-decay averages whole weights: not with --lora-rank")
    if recipe["lora_rank"] and recipe["head"] in ("parts", "implicit_relations"):
        raise SystemExit(f"--lora-rank trains adapters of the two towers alone: not with --head {recipe['head']}")
    if recipe["resume"] in (True, False, "true", "True", "false", "False"):  # as it was before it named a checkpoint
        recipe["resume"] = "auto" if str(recipe["resume"]).lower() == "true" else None
    return Recipe(**recipe)


def claim_folder(out: Path, recipe: Recipe) -> None:
    """Takes `out` for this run: an empty folder, or with --resume the one of the same recipe.

    Of a run killed inside `checkpoints.save_folder` the older best is put back.
    """
    mine = {k: v for k, v in asdict(recipe).items() if k not in ("resume", "threads", "seeds")}
    saved = out / "recipe.yaml"
    found = {path.name for path in out.iterdir()} if out.exists() else set()
    if found - {"recipe.yaml", "environment.json", "trackers"}:  # what a run leaves that is killed in its first steps
        if not recipe.resume:
            raise SystemExit(f"--out {out} is not empty: pass --resume to go on with that run, or name another folder")
        theirs = asdict(Recipe()) | (yaml.safe_load(saved.read_text(encoding="utf-8")) if saved.exists() else {})
        changed = [k for k in mine if k not in FREE_TO_CHANGE and theirs[k] != mine[k]]
        if changed:
            k = changed[0]
            raise SystemExit(f"--resume: {saved} has {k} = {theirs[k]!r}, this command {mine[k]!r}")
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "best").exists() and (out / "best.old").exists():
        os.replace(out / "best.old", out / "best")
    write_text(saved, yaml.safe_dump(mine, sort_keys=False))
