"""python -m benchmarks.quality.anchors: the places of modeling_rogle/matching/anchors.py, chosen again, and what they cover.

Reads the boxes of synthetic P-VLG's *training* split alone to choose them; the table of what they cover is of
validation.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from dataset_pvlg.loading import load_rows
from modeling_rogle.box_ops import box_iou
from modeling_rogle.matching.anchors import anchor_boxes

CANDIDATES, ASKED = 4000, 8000  # training boxes that may become a place, and that are to be covered


def region_boxes(rows) -> tuple[np.ndarray, np.ndarray]:
    """float32 `[N, 4]` x0, y0, x1, y1 in [0, 1], each region of an image once, and its label."""
    boxes, labels = [], []
    for row in rows.remove_columns("image"):
        for label, (x, y, w, h) in sorted({(r["label"], tuple(r["bbox"])) for r in row["regions"]}):
            boxes.append([x / row["width"], y / row["height"], (x + w) / row["width"], (y + h) / row["height"]])
            labels.append(label)
    return np.array(boxes, dtype=np.float32), np.array(labels)


def choose_places(boxes: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Greedy coverage at IoU 0.5: `[count, 4]`, rounded to hundredths, sorted from the top down."""
    rng = np.random.default_rng(seed)
    candidates = boxes[rng.choice(len(boxes), min(CANDIDATES, len(boxes)), replace=False)]
    asked = boxes[rng.choice(len(boxes), min(ASKED, len(boxes)), replace=False)]
    covers = (box_iou(asked, candidates) >= 0.5).numpy()
    open_, chosen = np.ones(len(asked), dtype=bool), []
    for _ in range(count):
        chosen.append(int((covers & open_[:, None]).sum(0).argmax()))
        open_ &= ~covers[:, chosen[-1]]
    places = candidates[chosen].round(2)
    return places[np.lexsort((places[:, 0] + places[:, 2], places[:, 1] + places[:, 3]))]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.anchors", description=__doc__.split("\n\n")[0])
    parser.add_argument("--count", type=int, default=len(anchor_boxes()))
    count = parser.parse_args(argv).count
    data, _ = load_rows("synthetic")
    places = choose_places(region_boxes(data["train"])[0], count)
    for place in places:
        print("(" + ", ".join(f"{v:.2f}" for v in place) + "),")
    boxes, labels = region_boxes(data["validation"])
    print("| places | label | validation boxes | covered at IoU 0.5 |\n|---|---|---|---|")
    for name, each in (("these", places), ("in the package", anchor_boxes())):
        covered = box_iou(boxes, each).numpy().max(1) >= 0.5
        for label in ("all", *sorted(set(labels))):
            these = np.ones(len(labels), dtype=bool) if label == "all" else labels == label
            print(f"| {name} | {label} | {these.sum()} | {100 * covered[these].mean():.1f} % |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
