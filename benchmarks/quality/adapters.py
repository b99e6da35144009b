"""python -m benchmarks.quality.adapters --model runs/start/best [--rank 5] [--rates 3e-3 1e-2] [--epochs 4] [--out DIR]

What adapters give up, and what they save: all weights and adapters alone are trained from the same checkpoint for the
same epochs, on what adapters are for: a trained model meets images of other cameras (synthetic P-VLG seen darker,
bluer, softer and with grain; 375 of its people to learn from). Printed for each: share of the parameters trained, R@1
of long captions on validation (which both learning rates are chosen on) and on test, the share of the whole fine-tune's
gain on test, and the megabytes that model, optimizer and two steps of --images images add to a process of its own.
Finished runs in --out are not done again; what follows -- goes to train.py.
"""

import argparse
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from datasets import DatasetDict  # noqa: E402
from PIL import Image  # noqa: E402

from benchmarks.common.training_runs import check_cell, write_splits  # noqa: E402
from benchmarks.speed.step import configurations, measure_memory, peak_bytes, random_batch  # noqa: E402
from dataset_pvlg.arrow_io import pack_rows  # noqa: E402
from dataset_pvlg.loading import load_rows  # noqa: E402
from modeling_rogle import RogleModel, RogleProcessor  # noqa: E402
from modeling_rogle.evaluation.protocols import both_protocols  # noqa: E402
from modeling_rogle.evaluation.split_embeddings import encode_split  # noqa: E402
from train.lora import add_adapters  # noqa: E402

SCORE = "global/long/R@1"
CAST = (0.70, 0.85, 1.0)  # of red, green and blue
GAMMA, GRAIN, SOFT = 1.6, 6.0, 2  # grain in 1/255, softness in pixels


def other_camera(image: Image.Image, key: int) -> Image.Image:
    """The image as another camera would have taken it; `key` seeds the grain."""
    width, height = image.size
    image = image.convert("RGB").resize((max(width // SOFT, 1), max(height // SOFT, 1)), Image.Resampling.BOX)
    light = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    seen = 255 * light**GAMMA * np.array(CAST, dtype=np.float32)
    seen += np.random.default_rng(key).normal(0, GRAIN, seen.shape)
    return Image.fromarray(seen.clip(0, 255).round().astype(np.uint8))


def other_cameras(data: DatasetDict, people: int, folder: Path) -> Path:
    """P-VLG of the first people of the training split, and of all of the others, seen by another camera; made once."""

    def rows() -> Iterator[tuple[str, dict]]:
        for split, table in data.items():
            who = table["person_id"][:]
            kept = set(list(dict.fromkeys(who))[:people]) if split == "train" else set(who)
            for number in (n for n, person in enumerate(who) if person in kept):
                row, stored = table[number], io.BytesIO()
                other_camera(row["image"], number).save(stored, "JPEG", quality=90)
                yield split, row | {"image": {"bytes": stored.getvalue(), "path": None}}

    if not folder.exists():
        write_splits(folder, pack_rows(rows()))
    return folder


def train(out: Path, data: Path, args: argparse.Namespace, rate: float, rank: int) -> tuple[float, float]:
    """R@1 on validation (of the epoch that is kept) and on test.

    Raises:
        SystemExit: the run failed, or what lies in `out` is one of another model, data or length.
    """
    common = ["--model", str(args.model), "--dataset", "pvlg", "--data-root", str(data), "--epochs", str(args.epochs)]
    common += ["--learning-rate", str(rate), "--lora-rank", str(rank)]
    check_cell(out, common)
    if not (out / "results.json").exists():
        command = [sys.executable, str(ROOT / "train" / "train.py"), *common, "--out", str(out)]
        command += ["--trackers", "none", "--resume", "auto", *args.more]
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with open(out.with_suffix(".log"), "w", encoding="utf-8") as log:
            done = subprocess.run(command, stdout=log, stderr=log, check=False, env=os.environ | {"PYTHONPATH": paths})
        if done.returncode:
            raise SystemExit(f"a run failed; its messages: {log.name}")
    log = [json.loads(line) for line in (out / "train_log.jsonl").read_text().splitlines()]
    results = json.loads((out / "results.json").read_text())["results"]
    return max(entry[f"validation/{SCORE}"] for entry in log), results[SCORE]


def score_of(folder: Path, data: DatasetDict) -> float:
    """R@1 on test of the checkpoint that all start from."""
    model, processor = RogleModel.from_pretrained(folder).eval(), RogleProcessor.from_pretrained(folder)
    return both_protocols(encode_split(model, processor, data["test"], progress=False))[SCORE]


def trained(model: RogleModel) -> tuple[int, int]:
    """Parameters that are trained, and all of them."""
    return tuple(sum(p.numel() for p in model.parameters() if p.requires_grad or every) for every in (False, True))


def with_adapters(model: RogleModel, rank: int) -> RogleModel:
    if rank:
        add_adapters(model, rank)
    return model


def steps(rank: int, size: str, images: int) -> None:
    """Two of them, on random data."""
    config, _ = configurations(size)
    model = with_adapters(RogleModel(config), rank).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, fused=True)
    for _ in range(2):
        model(**random_batch(config, images, 4), return_loss=True).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="checkpoint of the small model that all start from")
    parser.add_argument("--rank", type=int, default=5)
    parser.add_argument("--whole-rates", type=float, nargs="+", default=[3e-4, 1e-3], help="of the whole fine-tune")
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-3, 1e-2], help="of the adapters")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--dataset", default="synthetic", help="synthetic or synthetic-tiny, seen by another camera")
    parser.add_argument("--people", type=int, default=375, help="of its training split, to learn from")
    parser.add_argument("--out", type=Path, default=Path("runs/adapters"))
    parser.add_argument("--size", default="small", help="of the model whose memory is measured")
    parser.add_argument("--images", type=int, default=32, help="of the steps whose memory is measured")
    parser.add_argument("--memory-only", action="store_true")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("more", nargs="*", help="flags of train.py, after --")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    if args.memory_of is not None:
        with_adapters(RogleModel(configurations("tiny")[0]), 1)  # what peft itself takes is not counted
        before = peak_bytes()
        steps(args.memory_of, args.size, args.images)
        print(peak_bytes() - before)
        return
    for name, rank in (("all weights", 0), ("adapters", args.rank)):
        some, every = trained(with_adapters(RogleModel(configurations(args.size)[0]), rank))
        added = measure_memory(str(rank), ["--size", args.size, "--images", str(args.images)], __file__) / 2**20
        print(f"{args.size}, {name}: {some:,} of {every:,} trained ({some / every:.1%}), {added:.0f} MiB", flush=True)
    if args.memory_only:
        return
    args.out.mkdir(parents=True, exist_ok=True)
    plain = load_rows(args.dataset)[0]
    data = other_cameras(plain, args.people, args.out / f"{args.dataset}-{args.people}")
    seen = load_rows("pvlg", data)[0]
    before, start = score_of(args.model, plain), score_of(args.model, seen)
    print(f"test R@1 of {args.model}: {before:.1f} on the images that it knows, {start:.1f} of other cameras\n")
    whole = {rate: train(args.out / f"full-{rate}", data, args, rate, 0) for rate in args.whole_rates}
    found = {rate: train(args.out / f"lora-{args.rank}-{rate}", data, args, rate, args.rank) for rate in args.rates}
    chosen = [max(each, key=lambda rate, each=each: each[rate][0]) for each in (whole, found)]
    gain = whole[chosen[0]][1] - start
    print(
        "| | learning rate | validation R@1 | test R@1 | gain | of the whole fine-tune's |\n|---|---|---|---|---|---|"
    )
    for name, each, best in (("all weights", whole, chosen[0]), ("adapters", found, chosen[1])):
        for rate, (validation, test) in each.items():
            mark = " (chosen)" if rate == best else ""
            share = f"{(test - start) / gain:.0%}" if gain > 0 else "-"
            print(f"| {name} | {rate}{mark} | {validation:.1f} | {test:.1f} | {test - start:+.1f} | {share} |")


if __name__ == "__main__":
    main()
