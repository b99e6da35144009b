"""Recall of region proposals: the share of ground-truth boxes that some proposal covers. It bounds matching.

    python -m benchmarks.quality.proposals [--proposers templates,grid,...] [--split validation] [--pedestrians DIR]
        [--out FILE.json]

Printed are recall at IoU 0.5 (by label) and at IoU 0.7, boxes an image and CPU milliseconds an image, on synthetic
P-VLG. With --pedestrians they are also measured on manually placed boxes of real images, which the templates were not
fitted to. That folder has an `annotations.json`: a list of {file_path, width, height, sentences, regions: [{label,
bbox: [x0, y0, x1, y1] in pixels}]}. Write NAME=MODEL for a proposer that loads weights; it gets the sentences of the
ground-truth captions.
"""

import argparse
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common.tables import write_json
from dataset_pvlg.proposals.base import Proposer
from dataset_pvlg.proposals.proposers import load_proposer
from dataset_pvlg.synthetic.dataset import SyntheticConfig, rows
from modeling_rogle.box_ops import box_iou

WEIGHT_FREE = ("templates", "grid", "templates+felzenszwalb")

# Image, its sentences, ground-truth boxes [N, 4] x0, y0, x1, y1 in [0, 1], their labels.
Sample = tuple[Image.Image, list[str], np.ndarray, list[str]]


def synthetic_samples(split: str, count: int | None) -> Iterator[Sample]:
    """The first `count` rows of a split of synthetic P-VLG (None: all), each box once."""
    config = SyntheticConfig()
    for row in islice(rows(split, 0, config.identities(split), config), count):
        size = np.array([row["width"], row["height"]] * 2, dtype=np.float64)
        boxes = {(region["label"], *region["bbox"]): None for region in row["regions"]}
        corners = np.array([[x, y, x + w, y + h] for _, x, y, w, h in boxes]).reshape(-1, 4) / size
        texts = [sentence["text"] for sentence in row["sentences"]]
        with Image.open(BytesIO(row["image"]["bytes"])) as image:
            yield image.convert("RGB"), texts, corners, [label for label, *_ in boxes]


def annotated_samples(folder: Path) -> Iterator[Sample]:
    """The images of a folder that have boxes in its `annotations.json`."""
    file = folder / "annotations.json"
    for row in json.loads(file.read_text(encoding="utf-8")):
        if row["regions"]:
            size = np.array([row["width"], row["height"]] * 2, dtype=np.float64)
            boxes = np.array([region["bbox"] for region in row["regions"]], dtype=np.float64) / size
            with Image.open(folder / row["file_path"]) as image:
                yield image.convert("RGB"), row["sentences"], boxes, [region["label"] for region in row["regions"]]


def measure(propose: Proposer, samples: Iterable[Sample]) -> dict:
    """Recall of a proposer.

    Returns:
        For all boxes and for each label, their number (`boxes`), `recall@0.5` and `recall@0.7`; besides, `mean best
        IoU`, the mean and the largest number of `proposals` an image, and CPU milliseconds an image.

    Raises:
        ValueError: the samples have no box.
    """
    best_iou: dict[str, list[float]] = {}
    counts, seconds = [], []
    for image, texts, boxes, labels in samples:
        started = time.process_time()
        proposals = propose(image, texts)
        seconds.append(time.process_time() - started)
        counts.append(len(proposals.boxes))
        for label, overlap in zip(labels, box_iou(proposals.boxes, boxes).amax(0).tolist(), strict=True):
            best_iou.setdefault(label, []).append(overlap)
    if not best_iou:
        raise ValueError("no image has a ground-truth box: recall is undefined")
    by_label = {"all": [iou for ious in best_iou.values() for iou in ious], **dict(sorted(best_iou.items()))}
    return {
        "images": len(counts),
        "boxes": {label: len(ious) for label, ious in by_label.items()},
        "recall@0.5": {label: float(np.mean(np.array(ious) >= 0.5)) for label, ious in by_label.items()},
        "recall@0.7": {label: float(np.mean(np.array(ious) >= 0.7)) for label, ious in by_label.items()},
        "mean best IoU": float(np.mean(by_label["all"])),
        "proposals": float(np.mean(counts)),
        "most proposals": max(counts),
        "cpu_ms": 1e3 * float(np.mean(seconds)),
    }


def table(title: str, results: Mapping[str, dict]) -> str:
    """A Markdown table with a row for each proposer: recall at IoU 0.5, with the number of boxes in the head."""
    counts = next(iter(results.values()))["boxes"]
    head = ["proposer", "boxes", "CPU ms", "mean IoU", "R@0.7"]
    head += [f"{label} ({count})" for label, count in counts.items()]
    lines = [f"{title}: recall@0.5", "", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, result in results.items():
        cells = [name, f"{result['proposals']:.0f}", f"{result['cpu_ms']:.0f}", f"{result['mean best IoU']:.2f}"]
        cells += [f"{result['recall@0.7']['all']:.3f}", *(f"{value:.3f}" for value in result["recall@0.5"].values())]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.proposals", description="Recall of region proposals."
    )
    parser.add_argument(
        "--proposers",
        default=",".join(WEIGHT_FREE),
        metavar="NAMES",
        help=f"comma-separated names, or NAME=MODEL (default: {','.join(WEIGHT_FREE)})",
    )
    parser.add_argument(
        "--split",
        default="validation",
        choices=("train", "validation", "test"),
        help="split of synthetic P-VLG (default: validation)",
    )
    parser.add_argument("--count", type=int, help="number of synthetic images (default: all)")
    parser.add_argument("--most", type=int, default=120, help="largest number of boxes an image (default: 120)")
    parser.add_argument(
        "--pedestrians", type=Path, metavar="DIR", help="folder of real images with annotations.json (default: none)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all figures to a JSON file (default: none)")
    args = parser.parse_args(argv)
    proposers: dict[str, Proposer] = {}
    for text in args.proposers.split(","):
        name, _, model = text.partition("=")
        try:
            proposers[text] = load_proposer(name, model or None, args.most)
        except (ValueError, ImportError) as error:
            parser.error(str(error))

    sets = {f"synthetic {args.split}": list(synthetic_samples(args.split, args.count))}
    if args.pedestrians:
        try:
            sets["manually placed boxes"] = list(annotated_samples(args.pedestrians))
        except OSError as error:
            parser.error(f"--pedestrians: {error}")
    results = {
        title: {name: measure(propose, samples) for name, propose in proposers.items()}
        for title, samples in sets.items()
    }
    for title, by_proposer in results.items():
        print(table(title, by_proposer))
    if args.out:
        write_json(args.out, results)


if __name__ == "__main__":
    main()
