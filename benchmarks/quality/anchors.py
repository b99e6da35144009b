"""Chooses the anchor boxes of modeling_rogle/matching/anchors.py again and prints how many regions they cover.

    python -m benchmarks.quality.anchors [--count 48]

The boxes are chosen on the ground-truth boxes of the *training* split of synthetic P-VLG v1. The coverage is measured
on the validation split, at IoU 0.5.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np
from datasets import Dataset

from dataset_pvlg.loading import load_rows
from modeling_rogle.box_ops import box_iou
from modeling_rogle.matching.anchors import anchor_boxes

CANDIDATES, TARGETS = 4000, 8000  # training boxes that may become an anchor, and training boxes to cover


def region_boxes(rows: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The boxes of P-VLG rows, each region of an image once.

    Returns:
        float32 `[N, 4]` x0, y0, x1, y1 in [0, 1], and their labels `[N]`.
    """
    boxes, labels = [], []
    for row in rows.remove_columns("image"):
        for label, (x, y, w, h) in sorted({(r["label"], tuple(r["bbox"])) for r in row["regions"]}):
            boxes.append([x / row["width"], y / row["height"], (x + w) / row["width"], (y + h) / row["height"]])
            labels.append(label)
    return np.array(boxes, dtype=np.float32), np.array(labels)


def choose_anchors(boxes: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Chooses anchors greedily: each covers the most boxes, at IoU 0.5, that no anchor before it covers.

    Args:
        boxes: `[N, 4]`.
        count: number of anchors.
        seed: of the sampling of candidates and boxes. Default: 0.

    Returns:
        `[count, 4]`, rounded to hundredths, sorted from top to bottom.
    """
    rng = np.random.default_rng(seed)
    candidates = boxes[rng.choice(len(boxes), min(CANDIDATES, len(boxes)), replace=False)]
    targets = boxes[rng.choice(len(boxes), min(TARGETS, len(boxes)), replace=False)]
    covers = (box_iou(targets, candidates) >= 0.5).numpy()
    uncovered, chosen = np.ones(len(targets), dtype=bool), []
    for _ in range(count):
        chosen.append(int((covers & uncovered[:, None]).sum(0).argmax()))
        uncovered &= ~covers[:, chosen[-1]]
    anchors = candidates[chosen].round(2)
    return anchors[np.lexsort((anchors[:, 0] + anchors[:, 2], anchors[:, 1] + anchors[:, 3]))]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.anchors", description="Choose anchor boxes and print what they cover."
    )
    default = len(anchor_boxes())
    parser.add_argument("--count", type=int, default=default, help=f"number of anchor boxes (default: {default})")
    count = parser.parse_args(argv).count
    data, _ = load_rows("synthetic-v1")
    anchors = choose_anchors(region_boxes(data["train"])[0], count)
    for anchor in anchors:
        print("(" + ", ".join(f"{v:.2f}" for v in anchor) + "),")
    boxes, labels = region_boxes(data["validation"])
    print("| anchors | label | validation boxes | covered at IoU 0.5 |\n|---|---|---|---|")
    for name, each in (("chosen now", anchors), ("in the package", anchor_boxes())):
        covered = box_iou(boxes, each).numpy().max(1) >= 0.5
        for label in ("all", *sorted(set(labels))):
            has_label = np.ones(len(labels), dtype=bool) if label == "all" else labels == label
            print(f"| {name} | {label} | {has_label.sum()} | {100 * covered[has_label].mean():.1f} % |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
