"""accelerate launch --num_processes 1 train/train.py [--config train/configs/vitb16.yaml] [--dataset cuhk_pedes ...]

Trains Rogle: both branches, validated each epoch, the checkpoint chosen on *validation*, both protocols on test at the
end. Without arguments: a small model from scratch on the embedded synthetic P-VLG, minutes on two CPU cores. Every
field of `Recipe` is a flag (dashes) and a key of the YAML file; flags win. One process so far.
"""

import json
import math
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import set_seed
from huggingface_hub.errors import StrictDataclassError
from noise import shuffle_captions, shuffle_sentences
from pairs import EpochSampler, PairDataset, normalize_pictures
from report import draw_curves, write_card
from small_model import build_small_model
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import HfArgumentParser, get_cosine_schedule_with_warmup
from trust import close_epoch, observe

from dataset_pvlg.load import load_rows
from dataset_pvlg.mine import mine_rows
from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.protocols import both_protocols, encode_split, fit_local_weight, format_table
from modeling_rogle.reliability import PairReliability

# Fields of RogleConfig that a recipe may override.
MODEL_FIELDS = (
    "region_feature",
    "global_loss",
    "local_loss_weight",
    "tsl_text_weight",
    "tsl_image_weight",
    "distill_weight",
    "id_loss_weight",
    "soft_negatives",
    "reliability_local",
    "reliability_global",
)


@dataclass
class Recipe:
    """What a run needs to be repeated; saved in its folder as recipe.yaml."""

    out: str = field(default="runs/small", metadata={"help": "folder of checkpoints, log, curves, results and card"})
    dataset: str = field(default="synthetic", metadata={"help": "synthetic, synthetic-tiny, pvlg, cuhk_pedes, ..."})
    data_root: str | None = field(default=None, metadata={"help": "folder of the data set (not for synthetic)"})
    image_root: str | None = field(default=None, metadata={"help": "folder of its pictures, where not in data_root"})
    model: str | None = field(
        default=None, metadata={"help": "Rogle or CLIP folder or Hub name; none: a small new one"}
    )
    regions: str = field(
        default="rows",
        metadata={"help": "rows: the data's own, or mined by RSM if none is paired; mined; none: no local branch"},
    )
    epochs: int = field(default=10, metadata={"help": "passes over the training images"})
    batch_size: int = field(default=32, metadata={"help": "images a step"})
    learning_rate: float = field(default=1e-3, metadata={"help": "peak, after the warm-up, before the cosine"})
    warmup_share: float = field(default=0.1, metadata={"help": "share of the steps that warm up"})
    weight_decay: float = field(default=0.05, metadata={"help": "of matrices; vectors and position tables have none"})
    max_grad_norm: float = field(default=1.0, metadata={"help": "gradients are clipped to this norm"})
    long_share: float = field(default=0.6, metadata={"help": "probability that an image's caption is the long one"})
    max_pairs: int = field(default=4, metadata={"help": "region-sentence pairs an image and step"})
    flip: float = field(
        default=0.5, metadata={"help": "probability of a mirror image, unless the words say left or right"}
    )
    region_feature: str | None = field(default=None, metadata={"help": "overrides the model's, as do the next nine"})
    global_loss: str | None = field(default=None, metadata={"help": "itc, sdm or tal"})
    local_loss_weight: float | None = field(default=None, metadata={"help": "of the region-sentence contrast"})
    tsl_text_weight: float | None = field(default=None, metadata={"help": "of the token similarity of sentences"})
    tsl_image_weight: float | None = field(default=None, metadata={"help": "of the token similarity of regions"})
    distill_weight: float | None = field(default=None, metadata={"help": "of regions towards their crops"})
    id_loss_weight: float | None = field(default=None, metadata={"help": "of the identity classification"})
    soft_negatives: float | None = field(default=None, metadata={"help": "in [0, 1]: near-equal sentences repel less"})
    reliability_local: str | None = field(
        default=None, metadata={"help": "trust in region-sentence pairs: none, margin, gmm_consensus or evidential"}
    )
    reliability_global: str | None = field(default=None, metadata={"help": "trust in image-caption pairs, likewise"})
    shuffle_captions: float = field(
        default=0.0, metadata={"help": "share of images given another's captions, on purpose"}
    )
    shuffle_sentences: float = field(default=0.0, metadata={"help": "share of regions given another's sentence"})
    mixed_precision: str = field(default="no", metadata={"help": "no, bf16 or fp16"})
    workers: int = field(default=0, metadata={"help": "data processes; 0 keeps the resized pictures in memory"})
    threads: int = field(default=0, metadata={"help": "CPU threads of a run without a GPU; 0: as many as cores"})
    seed: int = field(default=0, metadata={"help": "of weights and data order"})
    resume: bool = field(default=False, metadata={"help": "go on from the last finished epoch in --out"})
    max_bad_steps: int = field(default=5, metadata={"help": "stop after this many steps with a NaN or infinite loss"})


def read_recipe(argv: Sequence[str] | None = None) -> Recipe:
    """Command line and `--config` YAML -> Recipe; flags win over the file, the file over the defaults."""
    parser = HfArgumentParser(Recipe, description=__doc__.split("\n\n")[1])
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
    for name in ("epochs", "batch_size", "max_bad_steps"):
        if not isinstance(recipe[name], int) or recipe[name] < 1:
            raise SystemExit(f"--{name.replace('_', '-')} must be a whole number from 1, not {recipe[name]!r}")
    for name in ("long_share", "flip", "warmup_share", "shuffle_captions", "shuffle_sentences"):
        if not isinstance(recipe[name], (int, float)) or not 0 <= recipe[name] <= 1:
            raise SystemExit(f"--{name.replace('_', '-')} must lie in [0, 1], not {recipe[name]!r}")
    if recipe["regions"] not in ("rows", "mined", "none"):
        raise SystemExit(f"--regions must be rows, mined or none, not {recipe['regions']!r}")
    return Recipe(**recipe)


def prepare_model(
    recipe: Recipe, captions: Sequence[str], num_identities: int = 0
) -> tuple[RogleModel, RogleProcessor]:
    """Loads `recipe.model`, or builds the small model with a tokenizer trained on the captions.

    `num_identities`: classes of the identity loss, read only when the recipe asks for it.
    """
    fields = {name: getattr(recipe, name) for name in MODEL_FIELDS if getattr(recipe, name) is not None}
    if fields.get("id_loss_weight", 0) > 0:
        fields["num_identities"] = num_identities
    if recipe.model is None:
        return build_small_model(captions, **fields)
    try:
        model = RogleModel.from_pretrained(recipe.model, dtype=torch.float32, **fields)
        processor = RogleProcessor.from_pretrained(recipe.model)
    except OSError as error:
        raise ValueError(f"--model {recipe.model}: {error}") from error
    return model, processor


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict]:
    """Two groups: matrices decay; vectors, scales and position tables do not."""
    decay, free = [], []
    for name, parameter in model.named_parameters():
        (free if parameter.ndim < 2 or "position_embedding" in name else decay).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def write_text(path: Path, text: str) -> None:
    """Atomically: a killed run leaves the old file or the new one."""
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def write_json(path: Path, content: object) -> None:
    write_text(path, json.dumps(content, indent=1) + "\n")


def save_folder(target: Path, write) -> None:
    """Writes a folder beside `target`, then puts it in its place; a run killed in between resumes from the old one."""
    part, old = target.with_name(target.name + ".part"), target.with_name(target.name + ".old")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write(part)
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(part, target)
    shutil.rmtree(old, ignore_errors=True)


def claim_folder(out: Path, recipe: Recipe) -> None:
    """Takes `out` for this run: an empty folder, or with --resume the one of the same recipe.

    Of a run killed inside [`save_folder`] the older checkpoint is put back.
    """
    mine = {k: v for k, v in asdict(recipe).items() if k not in ("resume", "threads")}
    saved = out / "recipe.yaml"
    found = {path.name for path in out.iterdir()} if out.exists() else set()
    if found - {"recipe.yaml"}:  # killed before its first epoch, a run has left nothing but its recipe
        if not recipe.resume:
            raise SystemExit(f"--out {out} is not empty: pass --resume to go on with that run, or name another folder")
        theirs = yaml.safe_load(saved.read_text(encoding="utf-8")) if saved.exists() else {}
        changed = [k for k in mine if theirs.get(k) != mine[k]]
        if changed:
            k = changed[0]
            raise SystemExit(f"--resume: {saved} has {k} = {theirs.get(k)!r}, this command {mine[k]!r}")
    out.mkdir(parents=True, exist_ok=True)
    for name in ("state", "best"):
        if not (out / name).exists() and (out / f"{name}.old").exists():
            os.replace(out / f"{name}.old", out / name)
    write_text(saved, yaml.safe_dump(mine, sort_keys=False))


def main(argv: Sequence[str] | None = None) -> dict:
    """Runs one recipe and returns the test scores."""
    recipe = read_recipe(argv)
    accelerator = Accelerator(mixed_precision=recipe.mixed_precision)
    say = accelerator.print
    if accelerator.device.type == "cpu" and accelerator.num_processes == 1:
        # `accelerate launch` leaves one thread to a process unless it is told otherwise.
        torch.set_num_threads(recipe.threads or os.cpu_count() or 1)
    set_seed(recipe.seed)
    out = Path(recipe.out)
    if accelerator.num_processes > 1:
        raise SystemExit("train.py runs in one process so far: accelerate launch --num_processes 1 train/train.py ...")
    try:
        data, read_report = load_rows(recipe.dataset, recipe.data_root, recipe.image_root)
        if read_report is not None:
            say(read_report)
        absent = [split for split in ("train", "validation", "test") if not len(data.get(split, ()))]
        if absent:
            raise ValueError(f"{recipe.dataset}: no rows in split {absent[0]!r}, which a run needs")
        train_rows = data["train"]
        captions = train_rows["caption"][:] + [c for row in train_rows["captions"][:] for c in row]
        model, processor = prepare_model(recipe, captions, len(set(train_rows["person_id"][:])))
    except (ValueError, OSError, StrictDataclassError) as error:  # the user's data or checkpoint, not our code
        raise SystemExit(f"train.py: {' '.join(str(error).split())}") from None
    claim_folder(out, recipe)
    paired = any(region["sentence"] >= 0 for regions in train_rows["regions"][:] for region in regions)
    if recipe.regions == "mined" or (recipe.regions == "rows" and not paired):
        say("no paired regions in the data: mining them (RSM)" if recipe.regions == "rows" else "mining (RSM)")
        train_rows, mined = mine_rows(model.to(accelerator.device), processor, train_rows)
        say(f"mined: {mined}")
    pairs = PairDataset(
        train_rows,
        processor,
        long_share=recipe.long_share,
        max_pairs=0 if recipe.regions == "none" else recipe.max_pairs,
        flip=recipe.flip,
        seed=recipe.seed,
        cache_bytes=0 if recipe.workers else 2 << 30,
    )
    truth = {
        "global": shuffle_captions(pairs, recipe.shuffle_captions, recipe.seed),
        "local": shuffle_sentences(pairs, recipe.shuffle_sentences, recipe.seed),
    }
    trust = {
        "global": PairReliability(model.config.reliability_global, len(pairs)),
        "local": PairReliability(model.config.reliability_local, pairs.n_pairs),
    }
    sampler = EpochSampler(len(pairs), recipe.seed)
    loader = DataLoader(
        pairs,
        batch_size=min(recipe.batch_size, len(pairs)),
        sampler=sampler,
        collate_fn=pairs.collate,
        num_workers=recipe.workers,
        drop_last=True,
    )
    optimizer = torch.optim.AdamW(
        parameter_groups(model, recipe.weight_decay), lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True
    )
    steps = recipe.epochs * len(loader)
    schedule = get_cosine_schedule_with_warmup(optimizer, int(recipe.warmup_share * steps), steps)
    model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
    accelerator.register_for_checkpointing(*trust.values())
    bare = accelerator.unwrap_model(model)
    progress = {
        "epoch": 0,
        "best": -1.0,
        "best_epoch": 0,
        "bad_steps": 0,
        "bad_images": [],
        "seconds": 0.0,
        "cpu_seconds": 0.0,
        "history": [],
    }
    if (out / "state").is_dir():
        accelerator.load_state(str(out / "state"))
        progress = json.loads((out / "state" / "progress.json").read_text(encoding="utf-8"))
        say(f"resumed after epoch {progress['epoch']} of {recipe.epochs}")
    size = sum(p.numel() for p in bare.parameters())
    if processor.truncated_captions:
        limit = processor.tokenizer.model_max_length
        say(f"{processor.truncated_captions} captions over {limit} tokens were cut at a sentence's end")
    say(f"{len(pairs)} images, {steps} steps, {size:,} parameters, {accelerator.device}")

    log = out / "train_log.jsonl"
    bar = tqdm(
        total=steps, initial=progress["epoch"] * len(loader), disable=not accelerator.is_main_process, desc="train"
    )
    for epoch in range(progress["epoch"], recipe.epochs):
        started, cpu_started = time.perf_counter(), time.process_time()
        # Through the loader: Accelerate hands its own count of epochs to sampler and data, which a resumed run lacks.
        loader.set_epoch(epoch)
        pairs.set_epoch(epoch)
        if trust["local"].kind != "none":
            pairs.trust = trust["local"].weights().numpy()
        model.train()
        sums: dict[str, float] = {}
        finite = 0
        for batch in loader:
            image_ids, rows, numbers = batch.pop("image_ids"), batch.pop("row_numbers"), batch.pop("pair_numbers")
            batch["pixel_values"] = normalize_pictures(batch.pop("pictures"), processor)
            if trust["global"].kind != "none":
                batch["caption_weight"] = trust["global"].weights(rows.cpu()).to(accelerator.device)
            if trust["local"].kind != "none" and "pair_weight" in batch:
                batch["pair_weight"] = batch["pair_weight"] * trust["local"].weights(numbers.cpu()).to(
                    accelerator.device
                )
            output = model(**batch, return_loss=True)
            loss = output.loss.item()
            if not math.isfinite(loss):
                progress["bad_steps"] += 1
                progress["bad_images"] += image_ids
                write_json(out / "bad_steps.json", {"image_ids": progress["bad_images"]})
                if progress["bad_steps"] >= recipe.max_bad_steps:
                    raise SystemExit(f"loss is {loss} in {progress['bad_steps']} steps: {out}/bad_steps.json")
                optimizer.zero_grad()
                schedule.step()
                bar.update()
                continue
            observe(trust, bare, output, batch, rows, numbers)
            accelerator.backward(output.loss)
            accelerator.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            finite += 1
            for name, value in output.items():
                if name.startswith("loss"):
                    sums[name] = sums.get(name, 0.0) + value.item()
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}", best=f"{max(progress['best'], 0):.1f}")
        trusted = close_epoch(trust, truth)
        progress["cpu_seconds"] += time.process_time() - cpu_started  # of training alone
        model.eval()
        found = both_protocols(encode_split(bare, processor, data["validation"], progress=False, split="validation"))
        progress["seconds"] += time.perf_counter() - started
        entry = {"epoch": epoch + 1, "step": (epoch + 1) * len(loader), "seconds": round(progress["seconds"], 1)}
        entry |= {"cpu_seconds": round(progress["cpu_seconds"], 1)} | trusted
        entry |= {name: total / max(finite, 1) for name, total in sums.items()}
        entry |= {f"validation/{name}": value for name, value in found.items()}
        progress["history"].append(entry)
        progress["epoch"] = epoch + 1
        if found["global/long/R@1"] > progress["best"]:
            progress["best"], progress["best_epoch"] = found["global/long/R@1"], epoch + 1
            save_folder(out / "best", lambda d: (bare.save_pretrained(d), processor.save_pretrained(d)))
        save_folder(out / "state", lambda d: _save_state(accelerator, d, progress))
        write_text(log, "".join(json.dumps(entry) + "\n" for entry in progress["history"]))
    bar.close()

    best = RogleModel.from_pretrained(out / "best").to(accelerator.device).eval()
    validation = encode_split(best, processor, data["validation"], progress=False, split="validation")
    best.config.local_weight, _ = fit_local_weight(validation)
    save_folder(out / "best", lambda d: (best.save_pretrained(d), processor.save_pretrained(d)))
    results = both_protocols(
        encode_split(best, processor, data["test"], progress=False, split="test"), best.config.local_weight
    )
    command = "accelerate launch --num_processes 1 train/train.py " + shlex.join(sys.argv[1:] if argv is None else argv)
    summary = {
        "command": command.strip(),
        "split": "test",
        "chosen_on": f"validation R@1 of long captions, epoch {progress['best_epoch']} of {recipe.epochs}",
        "local_weight": best.config.local_weight,
        "training_seconds": round(progress["seconds"], 1),
        "bad_steps": progress["bad_steps"],
        "results": results,
    }
    if accelerator.is_main_process:
        write_json(out / "results.json", summary)
        draw_curves(progress["history"], out / "curves.png")
        write_card(out / "best" / "README.md", asdict(recipe), summary)
    minutes = progress["seconds"] / 60
    say(f"best epoch {progress['best_epoch']}, chosen on validation; trained {minutes:.1f} min; test split:")
    say(format_table(results))
    return results


def _save_state(accelerator: Accelerator, folder: Path, progress: dict) -> None:
    accelerator.save_state(str(folder))
    write_json(folder / "progress.json", progress)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:  # one line that names file and field; from deep inside it would be a trace
        raise SystemExit(f"train.py: {' '.join(str(error).split())}") from error
