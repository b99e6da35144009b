"""What all proposers share: the type of their result, and the selection of boxes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from modeling_rogle.box_ops import box_iou

MIN_AREA, MAX_AREA = 0.005, 0.8  # fractions of the image; smaller boxes show nothing, larger ones the whole image
MAX_IOU = 0.9  # a box with a larger IoU with an earlier box is a duplicate
WHOLE_IMAGE = "whole person"  # label of the last candidate, as in `modeling_rogle.box_ops.TEMPLATE_LABELS`
MAX_BOXES = 120  # default number of candidates of an image


@dataclass(frozen=True)
class Proposals:
    """Candidate regions of one image.

    Args:
        boxes: float32 `[N, 4]` x0, y0, x1, y1 as fractions of width and height. The LAST row is the whole image
            (0, 0, 1, 1); each other box covers 0.5 to 80 % of it.
        labels: N names. Each is a part of `dataset_pvlg.features.REGION_LABELS`, a noun phrase, a class of the model,
            `segment`, `mask` or `cell`. The last one is `whole person`.
    """

    boxes: np.ndarray
    labels: tuple[str, ...]


Proposer = Callable[[Image.Image, Sequence[str]], Proposals]  # of an image and the texts of its sentences


def select_boxes(
    boxes: Sequence[Sequence[float]] | np.ndarray, labels: Sequence[str], max_boxes: int, max_iou: float = MAX_IOU
) -> Proposals:
    """Selects the candidates of an image: clips boxes, and drops small, large and duplicate ones.

    Args:
        boxes: `[N, 4]` x0, y0, x1, y1 as fractions of width and height, the most important first.
        labels: N names.
        max_boxes: maximum number of candidates, including the whole image.
        max_iou: a box whose IoU with an earlier one is larger is dropped. Default: 0.9.

    Returns:
        At most `max_boxes - 1` boxes in their order, then the whole image.
    """
    edges = np.clip(np.asarray(boxes, dtype=np.float64).reshape(-1, 4), 0.0, 1.0)
    areas = np.clip(edges[:, 2:] - edges[:, :2], 0.0, None).prod(axis=1)
    candidates = np.flatnonzero((areas >= MIN_AREA) & (areas <= MAX_AREA))
    duplicates = (box_iou(edges[candidates], edges[candidates]) > max_iou).numpy()
    selected: list[int] = []  # indices into `candidates`
    for n in range(len(candidates)):
        if len(selected) == max_boxes - 1:
            break
        if not duplicates[selected, n].any():
            selected.append(n)
    chosen = candidates[selected].tolist()
    whole = np.array([[0.0, 0.0, 1.0, 1.0]])
    return Proposals(
        np.concatenate([edges[chosen], whole]).astype(np.float32), (*(labels[n] for n in chosen), WHOLE_IMAGE)
    )


__all__ = ["MAX_BOXES", "WHOLE_IMAGE", "Proposals", "Proposer", "select_boxes"]
