"""Accuracy and memory of LoRA adapters, against fine-tuning all weights.

    python -m benchmarks.quality.adapters --model runs/start/best [--rank 5] [--rates 3e-3 1e-2] [--epochs 4]
        [--out DIR]

Both start from the same checkpoint and train for the same epochs on images of other cameras: synthetic P-VLG made
darker, bluer and softer, with grain; 375 identities. Printed for each are:

- the share of trained parameters
- R@1 of long captions on validation (both learning rates are chosen on it) and on test
- the share of the test gain of fine-tuning all weights
- the megabytes that model, optimizer and two steps of --images images add to a process of its own

Finished runs in --out are kept. Words after -- are flags of train.py.
"""

import argparse
import io
import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import DatasetDict
from PIL import Image

from benchmarks.common.memory import measure_memory, peak_bytes
from benchmarks.common.processes import child_environment
from benchmarks.common.random_models import SIZES, configurations, random_batch
from benchmarks.common.training_runs import TRAIN, check_cell, write_splits
from dataset_pvlg.arrow_io import pack_rows
from dataset_pvlg.loading import load_rows
from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.evaluation.protocols import both_protocols
from modeling_rogle.evaluation.split_embeddings import encode_split
from train.lora import add_adapters

SCORE = "global/long/R@1"
COLOUR_CAST = (0.70, 0.85, 1.0)  # factors of red, green and blue
GAMMA, GRAIN, SOFTNESS = 1.6, 6.0, 2  # grain in 1/255, softness in pixels


def other_camera(image: Image.Image, seed: int) -> Image.Image:
    """The image as another camera would take it; `seed` is that of the grain."""
    width, height = image.size
    small = (max(width // SOFTNESS, 1), max(height // SOFTNESS, 1))
    image = image.convert("RGB").resize(small, Image.Resampling.BOX)
    light = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    pixels = 255 * light**GAMMA * np.array(COLOUR_CAST, dtype=np.float32)
    pixels += np.random.default_rng(seed).normal(0, GRAIN, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))


def write_other_cameras(data: DatasetDict, people: int, folder: Path) -> Path:
    """Writes the images of another camera, unless the folder exists.

    Args:
        data: splits of P-VLG.
        people: number of identities of the training split to keep.
        folder: to write to; it is returned.
    """

    def rows() -> Iterator[tuple[str, dict]]:
        for split, table in data.items():
            person_ids = table["person_id"][:]
            included = set(list(dict.fromkeys(person_ids))[:people]) if split == "train" else set(person_ids)
            for number in (n for n, person in enumerate(person_ids) if person in included):
                row, stored = table[number], io.BytesIO()
                other_camera(row["image"], number).save(stored, "JPEG", quality=90)
                yield split, row | {"image": {"bytes": stored.getvalue(), "path": None}}

    if not folder.exists():
        write_splits(folder, pack_rows(rows()))
    return folder


def train(out: Path, data: Path, args: argparse.Namespace, rate: float, rank: int) -> tuple[float, float]:
    """Trains one run unless it is finished.

    Args:
        out: folder of the run.
        data: folder of the data set.
        args: arguments of this program.
        rate: learning rate.
        rank: of the adapters; 0 trains all weights.

    Returns:
        R@1 on validation, of the best epoch, and on test.

    Raises:
        SystemExit: the run failed, or `out` holds a run with another model, data set or number of epochs.
    """
    shared = ["--model", str(args.model), "--dataset", "pvlg", "--data-root", str(data), "--epochs", str(args.epochs)]
    shared += ["--learning-rate", str(rate), "--lora-rank", str(rank)]
    check_cell(out, shared)
    if not (out / "results.json").exists():
        command = [*TRAIN, *shared, "--out", str(out), "--trackers", "none", "--resume", "auto", *args.more]
        with open(out.with_suffix(".log"), "w", encoding="utf-8") as log:
            done = subprocess.run(command, stdout=log, stderr=log, check=False, env=child_environment())
        if done.returncode:
            raise SystemExit(f"a run failed; log: {log.name}")
    curve = [json.loads(line) for line in (out / "train_log.jsonl").read_text().splitlines()]
    results = json.loads((out / "results.json").read_text())["results"]
    return max(entry[f"validation/{SCORE}"] for entry in curve), results[SCORE]


def score_on_test(folder: Path, data: DatasetDict) -> float:
    """R@1 of a checkpoint on the test split."""
    model, processor = RogleModel.from_pretrained(folder).eval(), RogleProcessor.from_pretrained(folder)
    return both_protocols(encode_split(model, processor, data["test"], progress=False))[SCORE]


def count_parameters(model: RogleModel) -> tuple[int, int]:
    """Number of trained parameters, and of all."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trained, sum(p.numel() for p in model.parameters())


def random_model(size: str, rank: int) -> RogleModel:
    """A model of a size with random weights, and with adapters if `rank` is not 0."""
    model = RogleModel(configurations(size)[0])
    if rank:
        add_adapters(model, rank)
    return model


def print_memory(rank: int, size: str, images: int) -> None:
    """Prints the bytes that a model, its optimizer and two steps on random data add to this process."""
    random_model("tiny", 1)  # the memory of peft itself is not counted
    before = peak_bytes()
    model = random_model(size, rank).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, fused=True)
    for _ in range(2):
        model(**random_batch(model.config, images, 4), return_loss=True).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(peak_bytes() - before)


def markdown(start: float, all_weights: dict[float, tuple], adapters: dict[float, tuple]) -> str:
    """The table of scores.

    Args:
        start: test R@1 of the checkpoint before fine-tuning.
        all_weights: learning rate -> R@1 on validation and test.
        adapters: the same for adapters.
    """
    chosen = [max(each, key=lambda rate, each=each: each[rate][0]) for each in (all_weights, adapters)]
    full_gain = all_weights[chosen[0]][1] - start
    lines = ["| | learning rate | validation R@1 | test R@1 | gain | share of the gain of all weights |"]
    lines.append("|---|---|---|---|---|---|")
    for name, scores, best in (("all weights", all_weights, chosen[0]), ("adapters", adapters, chosen[1])):
        for rate, (validation, test) in scores.items():
            mark = " (chosen)" if rate == best else ""
            share = f"{(test - start) / full_gain:.0%}" if full_gain > 0 else "-"
            lines.append(f"| {name} | {rate}{mark} | {validation:.1f} | {test:.1f} | {test - start:+.1f} | {share} |")
    return "\n".join(lines)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.adapters",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, metavar="DIR", help="checkpoint of the small model to start from")
    parser.add_argument("--rank", type=int, default=5, help="rank of the adapters (default: 5)")
    parser.add_argument(
        "--full-rates",
        type=float,
        nargs="+",
        default=[3e-4, 1e-3],
        metavar="RATE",
        help="learning rates for all weights (default: 3e-4 1e-3)",
    )
    parser.add_argument(
        "--rates",
        type=float,
        nargs="+",
        default=[3e-3, 1e-2],
        metavar="RATE",
        help="learning rates for adapters (default: 3e-3 1e-2)",
    )
    parser.add_argument("--epochs", type=int, default=4, help="epochs of a run (default: 4)")
    parser.add_argument("--dataset", default="synthetic", help="synthetic or synthetic-tiny (default: synthetic)")
    parser.add_argument("--people", type=int, default=375, help="training identities (default: 375)")
    parser.add_argument("--out", type=Path, default=Path("runs/adapters"), help="folder (default: runs/adapters)")
    parser.add_argument(
        "--size", choices=SIZES, default="small", help="model whose memory is measured (default: small)"
    )
    parser.add_argument("--images", type=int, default=32, help="images a step of that measurement (default: 32)")
    parser.add_argument("--memory-only", action="store_true", help="measure the memory only (default: off)")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("more", nargs="*", help="flags of train.py, after --")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    torch.set_num_threads(1)
    if args.memory_of is not None:
        print_memory(args.memory_of, args.size, args.images)
        return
    options = ["--size", args.size, "--images", str(args.images)]
    for name, rank in (("all weights", 0), ("adapters", args.rank)):
        trained, total = count_parameters(random_model(args.size, rank))
        added = measure_memory("benchmarks.quality.adapters", str(rank), options) / 2**20
        share = f"{trained:,} of {total:,} parameters trained ({trained / total:.1%})"
        print(f"{args.size}, {name}: {share}, {added:.0f} MiB", flush=True)
    if args.memory_only:
        return
    args.out.mkdir(parents=True, exist_ok=True)
    plain = load_rows(args.dataset)[0]
    data = write_other_cameras(plain, args.people, args.out / f"{args.dataset}-{args.people}")
    before, start = score_on_test(args.model, plain), score_on_test(args.model, load_rows("pvlg", data)[0])
    print(f"test R@1 of {args.model}: {before:.1f} on images of the same cameras, {start:.1f} on those of others\n")
    all_weights = {rate: train(args.out / f"full-{rate}", data, args, rate, 0) for rate in args.full_rates}
    adapters = {rate: train(args.out / f"lora-{args.rank}-{rate}", data, args, rate, args.rank) for rate in args.rates}
    print(markdown(start, all_weights, adapters))


if __name__ == "__main__":
    main()
