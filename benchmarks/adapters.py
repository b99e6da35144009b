"""python benchmarks/adapters.py --model runs/start/best [--rank 5] [--rates 3e-3 1e-2] [--epochs 2] [--out DIR]

What adapters give up, and what they save: all weights and adapters alone are trained from the same checkpoint for the
same epochs. Printed for each: share of the parameters trained, R@1 of long captions on validation (which the learning
rate of the adapters is chosen on) and on test, the share of the whole fine-tune's gain on test, and the megabytes that
model, optimizer and two steps of --images images add to a process of its own. Finished runs in --out are not done
again; what follows -- goes to train.py.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "train")]

import torch  # noqa: E402
from lora import add_adapters  # noqa: E402
from step import configurations, measure_memory, peak_bytes, random_batch  # noqa: E402

from dataset_pvlg.load import load_rows  # noqa: E402
from modeling_rogle import RogleModel, RogleProcessor  # noqa: E402
from modeling_rogle.protocols import both_protocols, encode_split  # noqa: E402

SCORE = "global/long/R@1"


def train(out: Path, args: argparse.Namespace, rate: float, rank: int) -> tuple[float, float]:
    """R@1 on validation (of the epoch that is kept) and on test."""
    if not (out / "results.json").exists():
        command = [sys.executable, str(ROOT / "train" / "train.py"), "--model", str(args.model), "--out", str(out)]
        command += ["--epochs", str(args.epochs), "--learning-rate", str(rate), "--lora-rank", str(rank)]
        command += ["--trackers", "none", "--resume", "auto", *args.more]
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with open(out.with_suffix(".log"), "w", encoding="utf-8") as log:
            done = subprocess.run(command, stdout=log, stderr=log, check=False, env=os.environ | {"PYTHONPATH": paths})
        if done.returncode:
            raise SystemExit(f"a run failed; its messages: {log.name}")
    log = [json.loads(line) for line in (out / "train_log.jsonl").read_text().splitlines()]
    results = json.loads((out / "results.json").read_text())["results"]
    return max(entry[f"validation/{SCORE}"] for entry in log), results[SCORE]


def scores_of(folder: Path) -> tuple[float, float]:
    """R@1 of the checkpoint that all start from, on validation and test of the synthetic data."""
    model, processor = RogleModel.from_pretrained(folder).eval(), RogleProcessor.from_pretrained(folder)
    data = load_rows("synthetic")[0]
    splits = [encode_split(model, processor, data[split], progress=False) for split in ("validation", "test")]
    return tuple(both_protocols(each)[SCORE] for each in splits)


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
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of the whole fine-tune")
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-3, 1e-2], help="of the adapters, one is chosen")
    parser.add_argument("--epochs", type=int, default=2)
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
    _, start = scores_of(args.model)
    whole = train(args.out / f"full-{args.rate}", args, args.rate, 0)
    found = {rate: train(args.out / f"lora-{args.rank}-{rate}", args, rate, args.rank) for rate in args.rates}
    best = max(found, key=lambda rate: found[rate][0])
    print(
        f"\n| | learning rate | validation R@1 | test R@1 | gain on test (start {start:.1f}) |\n|---|---|---|---|---|"
    )
    for name, rate, (chosen, test) in [("all", args.rate, whole), *(("adapters", r, s) for r, s in found.items())]:
        share = f", {(test - start) / (whole[1] - start):.0%}" if name != "all" and whole[1] > start else ""
        mark = " (chosen)" if name != "all" and rate == best else ""
        print(f"| {name} | {rate}{mark} | {chosen:.1f} | {test:.1f} | {test - start:+.1f}{share} |")


if __name__ == "__main__":
    main()
