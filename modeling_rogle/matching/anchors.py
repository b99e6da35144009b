"""Where on a pedestrian crop a sentence's part may be: forty-eight boxes that stand for all others.

What Region-to-Sentence Matching learns of places (position_prior.py, region_matcher.py) it learns for these; any other
box is the weighted mean of those that it overlaps.
"""

import numpy as np
import torch

from modeling_rogle.box_ops import box_iou
from modeling_rogle.templates import TEMPLATE_LABELS, template_boxes

# Fractions x0, y0, x1, y1 of width and height, from the head down. Chosen greedily, each to cover at IoU 0.5 as many as
# possible of the boxes of synthetic P-VLG's training images that those before it leave uncovered
# (`python -m benchmarks.quality.anchors` prints them); no annotated photograph was looked at.
_PLACES = (
    (0.29, 0.04, 0.69, 0.23), (0.35, 0.04, 0.70, 0.26), (0.28, 0.04, 0.68, 0.27), (0.28, 0.11, 0.70, 0.29),
    (0.27, 0.08, 0.72, 0.33), (0.31, 0.27, 0.44, 0.36), (0.12, 0.27, 0.23, 0.37), (0.02, 0.26, 0.33, 0.39),
    (0.27, 0.20, 0.73, 0.45), (0.44, 0.26, 0.76, 0.39), (0.56, 0.28, 0.69, 0.37), (0.29, 0.27, 0.57, 0.39),
    (0.76, 0.28, 0.90, 0.38), (0.64, 0.27, 0.92, 0.40), (0.21, 0.21, 0.81, 0.53), (0.07, 0.20, 0.85, 0.56),
    (0.32, 0.20, 0.68, 0.56), (0.06, 0.31, 0.55, 0.58), (0.32, 0.40, 0.68, 0.60), (0.08, 0.45, 0.21, 0.57),
    (0.47, 0.44, 0.62, 0.59), (0.77, 0.46, 0.92, 0.59), (0.14, 0.46, 0.29, 0.61), (0.39, 0.47, 0.53, 0.60),
    (0.65, 0.47, 0.97, 0.63), (0.53, 0.50, 0.82, 0.66), (0.10, 0.51, 0.37, 0.66), (0.64, 0.52, 0.92, 0.67),
    (0.33, 0.53, 0.70, 0.69), (0.15, 0.45, 0.96, 0.86), (0.35, 0.54, 0.66, 0.81), (0.71, 0.51, 0.97, 0.87),
    (0.22, 0.52, 0.75, 0.89), (0.40, 0.52, 0.68, 0.89), (0.04, 0.50, 0.34, 0.94), (0.59, 0.51, 0.89, 0.96),
    (0.02, 0.67, 0.88, 0.90), (0.30, 0.78, 0.72, 0.88), (0.27, 0.73, 0.70, 0.95), (0.26, 0.82, 0.69, 0.93),
    (0.00, 0.82, 0.95, 0.95), (0.20, 0.78, 0.75, 0.99), (0.28, 0.85, 0.58, 0.96), (0.29, 0.87, 0.73, 0.97),
    (0.38, 0.87, 0.75, 0.97), (0.14, 0.88, 0.95, 0.97), (0.21, 0.90, 0.76, 0.99), (0.29, 0.91, 0.70, 0.99),
)  # fmt: skip
NEAREST = 3  # places that a box is the mean of


def place_boxes() -> np.ndarray:
    """float32 `[K, 4]` x0, y0, x1, y1 in [0, 1], without the whole image. A fresh array on each call."""
    return np.array(_PLACES, dtype=np.float32)


def boxes_around(count: int, rng: np.random.Generator) -> np.ndarray:
    """float32 `[count, 4]`: places drawn at random, moved and stretched, one half a little, the other far.

    What lies between places, for a judge that will meet proposals of all kinds.
    """
    drawn = place_boxes()[rng.integers(len(_PLACES), size=count)]
    size, little = drawn[:, 2:] - drawn[:, :2], np.arange(count)[:, None] < count // 2
    centre = (drawn[:, 2:] + drawn[:, :2]) / 2 + size * rng.normal(0, np.where(little, 0.12, 0.35), size.shape)
    half = size * np.exp(rng.normal(0, np.where(little, 0.2, 0.5), size.shape)) / 2
    low, high = np.clip(centre - half, 0, 0.98), np.clip(centre + half, 0.02, 1)
    return np.concatenate([low, np.maximum(high, low + 0.02)], axis=1).astype(np.float32)


def place_shares(boxes: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Which places a box is like, and how much.

    Args:
        boxes: `[N, 4]` x0, y0, x1, y1 in [0, 1].

    Returns:
        `[N, 3]` int64, the places that overlap it most, and `[N, 3]` fp32, their shares: inversely as the squared
        distance 1 - IoU, summing to 1, so that a box which is a place is that place alone.
    """
    distance = 1 - box_iou(boxes, place_boxes())
    near, index = distance.topk(NEAREST, dim=1, largest=False)
    weight = (near + 1e-6).pow(-2)
    return index, (weight / weight.sum(1, keepdim=True)).float()


def place_labels(boxes: np.ndarray) -> list[str]:
    """The body part of the template (matching.py) that each box `[N, 4]` overlaps most."""
    return [TEMPLATE_LABELS[i] for i in box_iou(boxes, template_boxes()).numpy().argmax(1)]


__all__ = ["NEAREST", "boxes_around", "place_boxes", "place_labels", "place_shares"]
