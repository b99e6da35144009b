"""Indexing that is killed with SIGKILL and started again, against an uninterrupted run.

    python -m benchmarks.robustness.kill_index [--moments N] [--images N]

The N moments are spread evenly over the time of an uninterrupted run, from before the first commit to after the last.
After each kill the gallery must open with every image that the progress bar had counted, and resumed indexing must give
the rows of an uninterrupted run. Images and model are generated here. A table is printed. The exit status is 1 if
anything was lost.
"""

import argparse
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import forks  # noqa: F401 (children are killed)
from benchmarks.common.random_images import write_random_images
from benchmarks.common.random_models import configurations, random_processor
from modeling_rogle import Gallery, RogleModel, RogleProcessor
from modeling_rogle.index.shards import Index
from modeling_rogle.indexing import item_encoder
from modeling_rogle.inference.errors import GalleryError

BATCH = 4


@dataclass(frozen=True)
class Kill:
    """Result of one kill.

    Attributes:
        seconds: time from the start to the kill.
        reported: number of images that the progress bar had counted.
        indexed: number of images in the index after the kill.
        same: whether resumed indexing gave the rows of an uninterrupted run.
        encoded_again: number of indexed images that were encoded again.
    """

    seconds: float
    reported: int
    indexed: int
    same: bool
    encoded_again: int

    @property
    def lost(self) -> bool:
        return self.indexed < self.reported or not self.same or bool(self.encoded_again)


def same_rows(path: Path, other_path: Path) -> bool:
    """Whether two complete indexes have the same images with the same embeddings, except for rounding."""
    first, second = Index(path), Index(other_path)
    order, other_order = (np.argsort(index.paths) for index in (first, second))
    facts = [
        index.table.select(["path", "sha256"]).take(rows).to_pydict()
        for index, rows in ((first, order), (second, other_order))
    ]
    if facts[0] != facts[1] or not first.header["complete"]:
        return False
    near = np.abs(first.global_rows(order) - second.global_rows(other_order)).max(initial=0.0) < 1e-5
    return bool(near and np.abs(first.region_rows(order) - second.region_rows(other_order)).max(initial=0.0) < 0.02)


def index_and_kill(seconds: float, folder: Path, tools: tuple[RogleModel, RogleProcessor], out: Path, log: Path) -> int:
    """Indexes in a child process and kills it.

    Args:
        seconds: time until the kill.
        folder: of the images.
        tools: model and processor.
        out: folder of the index.
        log: file for the child's progress bar.

    Returns:
        Number of images that the progress bar had counted.
    """
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            Gallery.build(folder, *tools, out, BATCH)
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    counted = re.findall(r"(\d+)/\d+ \[", log.read_text() if log.exists() else "")
    return int(counted[-1]) if counted else 0


def run_kills(moments: int, folder: Path, tools: tuple[RogleModel, RogleProcessor], work: Path) -> list[Kill]:
    """Kills one indexing at each of `moments` moments. Every commit has one batch.

    Args:
        moments: number of kills.
        folder: of the images.
        tools: model and processor.
        work: folder for the indexes.
    """
    commit_seconds, item_encoder.COMMIT_SECONDS = item_encoder.COMMIT_SECONDS, 0.0
    try:
        for name in ("warm-up", "uninterrupted"):
            started = time.perf_counter()
            Gallery.build(folder, *tools, work / name, BATCH, progress=False)
        duration = time.perf_counter() - started
        kills = []
        for moment in range(moments):
            out, seconds = work / f"killed-{moment}", duration * 1.1 * (moment + 0.5) / moments
            reported = index_and_kill(seconds, folder, tools, out, work / "log")
            try:
                indexed = len(Gallery.open(out, *tools))
            except (GalleryError, FileNotFoundError):  # killed before the first commit
                indexed = 0
            report = Gallery.build(folder, *tools, out, BATCH, progress=False).report
            same = same_rows(out, work / "uninterrupted") and report.kept == indexed
            kills.append(Kill(seconds, reported, indexed, same, report.added - (len(Index(out)) - indexed)))
        return kills
    finally:
        item_encoder.COMMIT_SECONDS = commit_seconds


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.robustness.kill_index", description="Kill indexing at many moments and resume it."
    )
    parser.add_argument("--moments", type=int, default=20, help="number of kills (default: 20)")
    parser.add_argument("--images", type=int, default=200, help="number of images (default: 200)")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tools = RogleModel(configurations("tiny")[0]).eval(), random_processor("tiny")
    with tempfile.TemporaryDirectory() as work:
        kills = run_kills(args.moments, write_random_images(Path(work, "images"), args.images), tools, Path(work))
    print("| killed after s | reported done | in the index | rows after resuming |\n|---|---|---|---|")
    for kill in kills:
        print(f"| {kill.seconds:.2f} | {kill.reported} | {kill.indexed} | {'the same' if kill.same else 'DIFFERENT'} |")
    lost = sum(kill.lost for kill in kills)
    print(f"\n{len(kills)} kills, {lost} with a loss")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
