"""Anchor boxes: 48 fixed boxes of a pedestrian crop, in which Region-to-Sentence Matching works.

The position prior (position_prior.py) and the region matcher (region_matcher.py) have parameters for each anchor box.
Any other box is a weighted mean of the anchor boxes that it overlaps most.
"""

import numpy as np
import torch

from modeling_rogle.box_ops import TEMPLATE_LABELS, box_iou, template_boxes

# x0, y0, x1, y1 as fractions of width and height, sorted from head to feet. Chosen greedily: each box covers, at IoU
# 0.5, as many region boxes of the synthetic P-VLG training split as possible that the boxes before it do not cover
# (`python -m benchmarks.quality.anchors` prints them). No annotated photograph was used.
_ANCHOR_BOXES = (
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
NEAREST = 3  # anchor boxes in the weighted mean of any other box


def anchor_boxes() -> np.ndarray:
    """The anchor boxes, without the whole image.

    Returns:
        float32 `[K, 4]`, x0, y0, x1, y1 in [0, 1]; a new array on each call.
    """
    return np.array(_ANCHOR_BOXES, dtype=np.float32)


def random_boxes(count: int, rng: np.random.Generator) -> np.ndarray:
    """Random boxes around the anchor boxes, as training candidates for a matcher that will see any proposal.

    Each box is an anchor box that was shifted and scaled. The first half is moved a little, the second half far.

    Args:
        count: number of boxes.
        rng: source of randomness.

    Returns:
        float32 `[count, 4]`, x0, y0, x1, y1 in [0, 1].
    """
    drawn = anchor_boxes()[rng.integers(len(_ANCHOR_BOXES), size=count)]
    size, near = drawn[:, 2:] - drawn[:, :2], np.arange(count)[:, None] < count // 2
    centre = (drawn[:, 2:] + drawn[:, :2]) / 2 + size * rng.normal(0, np.where(near, 0.12, 0.35), size.shape)
    half = size * np.exp(rng.normal(0, np.where(near, 0.2, 0.5), size.shape)) / 2
    low, high = np.clip(centre - half, 0, 0.98), np.clip(centre + half, 0.02, 1)
    return np.concatenate([low, np.maximum(high, low + 0.02)], axis=1).astype(np.float32)


def iou_with_anchors(boxes: np.ndarray) -> torch.Tensor:
    """Intersection over union of boxes with all anchor boxes.

    Args:
        boxes: `[N, 4]`, x0, y0, x1, y1 in [0, 1].

    Returns:
        float64 `[N, K]`.
    """
    return box_iou(boxes, anchor_boxes())


def anchor_weights(boxes: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Expresses boxes as weighted means of anchor boxes.

    Args:
        boxes: `[N, 4]`, x0, y0, x1, y1 in [0, 1].

    Returns:
        index: int64 `[N, 3]`, the anchor boxes with the highest IoU.
        weights: float32 `[N, 3]`, proportional to the inverse of the squared distance 1 - IoU; each row sums to 1. An
            anchor box has all its weight on itself.
    """
    distance, index = (1 - iou_with_anchors(boxes)).topk(NEAREST, dim=1, largest=False)
    weight = (distance + 1e-6).pow(-2)
    return index, (weight / weight.sum(1, keepdim=True)).float()


def nearest_template_labels(boxes: np.ndarray) -> list[str]:
    """The body part of the template box (templates.py) that each box overlaps most.

    Args:
        boxes: `[N, 4]`, x0, y0, x1, y1 in [0, 1].

    Returns:
        N labels.
    """
    overlaps = box_iou(boxes, template_boxes())
    return [TEMPLATE_LABELS[i] for i in overlaps.numpy().argmax(1)]


__all__ = ["NEAREST", "anchor_boxes", "anchor_weights", "iou_with_anchors", "nearest_template_labels", "random_boxes"]
