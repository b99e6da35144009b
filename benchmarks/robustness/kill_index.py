"""python -m benchmarks.robustness.kill_index [--moments N] [--images N]

kill -9 at N moments of indexing, spread evenly over the time that it takes undisturbed, from before the first commit to
after the last. After each the gallery must open with every image that the progress bar had counted as done, and going
on must give the same rows as an undisturbed run. Images and model are made here; a table is printed, and the exit
status is 1 if anything was lost.
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
from PIL import Image

from benchmarks.common import forks  # noqa: F401  its children are killed
from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.index.shards import Index
from modeling_rogle.indexing import item_encoder
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.search.gallery import Gallery

BATCH = 4


@dataclass(frozen=True)
class Kill:
    """One kill: after how many seconds; images that the bar had counted; images in the index found afterwards;
    whether going on gave the rows of an undisturbed run, and how many of them were encoded again."""

    seconds: float
    reported: int
    found: int
    same: bool
    encoded_again: int


def draw_images(folder: Path, count: int) -> Path:
    """`count` different images of 60 x 150 px."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for number in range(count):
        small = draw.integers(0, 256, (15, 6, 3), dtype=np.uint8)
        Image.fromarray(small).resize((60, 150)).save(folder / f"{number:04d}.jpg")
    return folder


def same_rows(index: Path, other: Path) -> bool:
    """Whether two indexes hold the same images with the same embeddings, up to rounding."""
    first, second = Index(index), Index(other)
    order, other_order = (np.argsort(opened.paths) for opened in (first, second))
    facts = [
        opened.table.select(["path", "sha256"]).take(rows).to_pydict()
        for opened, rows in ((first, order), (second, other_order))
    ]
    if facts[0] != facts[1] or not first.header["complete"]:
        return False
    near = np.abs(first.global_rows(order) - second.global_rows(other_order)).max(initial=0.0) < 1e-5
    return bool(near and np.abs(first.region_rows(order) - second.region_rows(other_order)).max(initial=0.0) < 0.02)


def index_killed_after(
    seconds: float, folder: Path, tools: tuple[RogleModel, RogleProcessor], out: Path, log: Path
) -> int:
    """Indexes in a child process, kills that after some seconds, and gives how many images its bar had counted."""
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


def kills(moments: int, folder: Path, tools: tuple[RogleModel, RogleProcessor], work: Path) -> list[Kill]:
    """Kills one indexing at each of `moments` moments; every commit is as small as one batch."""
    before, item_encoder.COMMIT_SECONDS = item_encoder.COMMIT_SECONDS, 0.0
    try:
        for warm in ("warm-up", "whole"):
            started = time.perf_counter()
            Gallery.build(folder, *tools, work / warm, BATCH, progress=False)
        undisturbed = time.perf_counter() - started
        done = []
        for moment in range(moments):
            out, seconds = work / f"killed-{moment}", undisturbed * 1.1 * (moment + 0.5) / moments
            reported = index_killed_after(seconds, folder, tools, out, work / "log")
            try:
                found = len(Gallery.open(out, *tools))
            except (GalleryError, FileNotFoundError):  # killed before the first commit
                found = 0
            report = Gallery.build(folder, *tools, out, BATCH, progress=False).report
            same = same_rows(out, work / "whole") and report.kept == found
            done.append(Kill(seconds, reported, found, same, report.added - (len(Index(out)) - found)))
        return done
    finally:
        item_encoder.COMMIT_SECONDS = before


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="kill -9 at many moments of indexing, and what is left.")
    parser.add_argument("--moments", type=int, default=20, help="kills (default 20)")
    parser.add_argument("--images", type=int, default=200, help="images indexed (default 200)")
    args = parser.parse_args(argv)
    from transformers import CLIPImageProcessorPil

    from benchmarks.speed.step import configurations
    from train.small_model import train_tokenizer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config, _ = configurations("tiny")
    images = CLIPImageProcessorPil(size={"height": 32, "width": 16}, do_center_crop=False)
    tools = RogleModel(config).eval(), RogleProcessor(images, train_tokenizer(["A man in red."] * 20, max_length=64))
    with tempfile.TemporaryDirectory() as work:
        found = kills(args.moments, draw_images(Path(work, "images"), args.images), tools, Path(work))
    print("| killed after s | reported done | in the index | rows after going on |\n|---|---|---|---|")
    for kill in found:
        print(f"| {kill.seconds:.2f} | {kill.reported} | {kill.found} | {'the same' if kill.same else 'OTHERS'} |")
    lost = [kill for kill in found if kill.found < kill.reported or not kill.same or kill.encoded_again]
    print(f"\n{len(found)} kills, {len(lost)} with a loss")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
