"""python -m benchmarks.quality.proposals [--proposers templates,grid,...] [--split validation] [--pedestrians DIR] [--out FILE]

What matching can find at best: the share of true boxes that some proposal meets at IoU 0.5 (recall@0.5) and at 0.7, by
label, with boxes and process CPU milliseconds an image, on synthetic P-VLG (its validation split unless named). With
--pedestrians, also on the hand-placed boxes of a folder of real images: `annotations.json`, a list of
{file_path, width, height, regions: [{label, bbox: [x0, y0, x1, y1] in pixels}]}. The templates were never fitted to
those. A proposer that reads weights is written as NAME=MODEL; it gets the true captions' sentences.
"""

import argparse
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from dataset_pvlg.proposals.base import Proposer
from dataset_pvlg.proposals.proposers import load_proposer
from dataset_pvlg.synthetic.dataset import SyntheticConfig, rows
from modeling_rogle.box_ops import box_iou

WEIGHT_FREE = ("templates", "grid", "templates+felzenszwalb")

# Image, texts of its sentences, true boxes [N, 4] x0, y0, x1, y1 as fractions, their labels.
Sample = tuple[Image.Image, list[str], np.ndarray, list[str]]


def synthetic_samples(split: str, count: int | None) -> Iterator[Sample]:
    """Rows of synthetic P-VLG from the first on, each true box once."""
    config = SyntheticConfig()
    for row in islice(rows(split, 0, config.identities(split), config), count):
        size = np.array([row["width"], row["height"]] * 2, dtype=np.float64)
        boxes = {(region["label"], *region["bbox"]): None for region in row["regions"]}
        edges = np.array([[x, y, x + w, y + h] for _, x, y, w, h in boxes]).reshape(-1, 4) / size
        texts = [sentence["text"] for sentence in row["sentences"]]
        with Image.open(BytesIO(row["image"]["bytes"])) as image:
            yield image.convert("RGB"), texts, edges, [label for label, *_ in boxes]


def annotated_samples(folder: Path) -> Iterator[Sample]:
    """The images of a folder that have hand-placed boxes."""
    file = folder / "annotations.json"
    for row in json.loads(file.read_text(encoding="utf-8")):
        if row["regions"]:
            size = np.array([row["width"], row["height"]] * 2, dtype=np.float64)
            boxes = np.array([region["bbox"] for region in row["regions"]], dtype=np.float64) / size
            with Image.open(folder / row["file_path"]) as image:
                yield image.convert("RGB"), row["sentences"], boxes, [region["label"] for region in row["regions"]]


def measure(propose: Proposer, samples: Iterable[Sample]) -> dict:
    """Recall by label and over all, mean best IoU, boxes and CPU milliseconds an image, the largest number of boxes.

    Raises:
        ValueError: no true box at all.
    """
    overlaps: dict[str, list[float]] = {}
    counts, seconds = [], []
    for image, texts, true, labels in samples:
        started = time.process_time()
        found = propose(image, texts)
        seconds.append(time.process_time() - started)
        counts.append(len(found.boxes))
        for label, overlap in zip(labels, box_iou(found.boxes, true).amax(0).tolist(), strict=True):
            overlaps.setdefault(label, []).append(overlap)
    if not overlaps:
        raise ValueError("no image has a true box: there is no recall to measure")
    every = {"all": [overlap for label in overlaps.values() for overlap in label], **dict(sorted(overlaps.items()))}
    return {
        "images": len(counts),
        "boxes": {label: len(found) for label, found in every.items()},
        "recall@0.5": {label: float(np.mean(np.array(found) >= 0.5)) for label, found in every.items()},
        "recall@0.7": {label: float(np.mean(np.array(found) >= 0.7)) for label, found in every.items()},
        "mean best IoU": float(np.mean(every["all"])),
        "proposals": float(np.mean(counts)),
        "most proposals": max(counts),
        "cpu_ms": 1e3 * float(np.mean(seconds)),
    }


def table(title: str, found: dict[str, dict]) -> str:
    """Markdown: a row a proposer; recall@0.5 over all and by label, the number of true boxes in the head."""
    counts = next(iter(found.values()))["boxes"]
    head = [
        "proposer",
        "boxes",
        "CPU ms",
        "mean IoU",
        "R@0.7",
        *(f"{label} ({count})" for label, count in counts.items()),
    ]
    lines = [f"{title}: recall@0.5", "", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, each in found.items():
        cells = [name, f"{each['proposals']:.0f}", f"{each['cpu_ms']:.0f}", f"{each['mean best IoU']:.2f}"]
        cells += [f"{each['recall@0.7']['all']:.3f}", *(f"{value:.3f}" for value in each["recall@0.5"].values())]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Recall of region proposals.")
    parser.add_argument("--proposers", default=",".join(WEIGHT_FREE), help="names, or NAME=MODEL, with commas between")
    parser.add_argument("--split", default="validation", choices=("train", "validation", "test"))
    parser.add_argument("--count", type=int, help="synthetic images at most, from the first on")
    parser.add_argument("--most", type=int, default=120, help="boxes of an image, the whole image among them")
    parser.add_argument("--pedestrians", type=Path, help="folder of real images with annotations.json")
    parser.add_argument("--out", type=Path, help="JSON of all that was measured")
    args = parser.parse_args(argv)
    proposers: dict[str, Proposer] = {}
    for each in args.proposers.split(","):
        name, _, model = each.partition("=")
        try:
            proposers[each] = load_proposer(name, model or None, args.most)
        except (ValueError, ImportError) as error:
            parser.error(str(error))

    sets = {f"synthetic {args.split}": list(synthetic_samples(args.split, args.count))}
    if args.pedestrians:
        try:
            sets["hand-placed boxes"] = list(annotated_samples(args.pedestrians))
        except OSError as error:
            parser.error(f"--pedestrians: {error}")
    found = {
        title: {name: measure(propose, samples) for name, propose in proposers.items()}
        for title, samples in sets.items()
    }
    for title, each in found.items():
        print(table(title, each))
    if args.out:
        beside = args.out.with_name(args.out.name + ".part")
        beside.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        os.replace(beside, args.out)


if __name__ == "__main__":
    main()
