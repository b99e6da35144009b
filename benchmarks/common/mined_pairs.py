"""Scores of mined region-sentence pairs against the ground truth of P-VLG rows."""

from collections.abc import Sequence

import numpy as np
from datasets import Dataset

from modeling_rogle.box_ops import box_iou


def score_mined_pairs(rows: Dataset, mined: Sequence[Sequence[dict]]) -> dict[str, float]:
    """Compares mined regions with the regions of the rows.

    Args:
        rows: P-VLG rows with ground-truth regions.
        mined: for each row, regions with `sentence` and `bbox`, as `match_rows` returns them.

    Returns:
        Percentages. A mined pair is correct if its box has IoU >= 0.5 with a ground-truth box of the sentence.

        - `precision`: correct pairs among the mined ones
        - `recall`: ground-truth pairs whose box has IoU >= 0.5 with a mined box of the sentence
        - `none_f1`: F1 score of "this sentence has no region"
    """
    correct = found = n_mined = n_true = none_correct = none_mined = none_true = 0
    for row, regions in zip(rows.remove_columns("image"), mined, strict=True):
        for sentence in range(len(row["sentences"])):
            true_boxes, mined_boxes = _boxes_of(row["regions"], sentence), _boxes_of(regions, sentence)
            n_true, n_mined = n_true + len(true_boxes), n_mined + len(mined_boxes)
            none_true, none_mined = none_true + (not len(true_boxes)), none_mined + (not len(mined_boxes))
            none_correct += not len(true_boxes) and not len(mined_boxes)
            if len(true_boxes) and len(mined_boxes):
                hit = box_iou(true_boxes, mined_boxes).numpy() >= 0.5
                correct, found = correct + int(hit.any(0).sum()), found + int(hit.any(1).sum())
    return {
        "precision": 100 * correct / max(n_mined, 1),
        "recall": 100 * found / max(n_true, 1),
        "none_f1": 200 * none_correct / max(none_mined + none_true, 1),
    }


def _boxes_of(regions: Sequence[dict], sentence: int) -> np.ndarray:
    """`[n, 4]` x0, y0, x1, y1 of the distinct boxes of a sentence."""
    boxes = {tuple(region["bbox"]): None for region in regions if region["sentence"] == sentence}
    return np.concatenate([np.zeros((0, 4)), *(box_corners(box) for box in boxes)])


def box_corners(bbox: Sequence[float]) -> np.ndarray:
    """`[1, 4]` x0, y0, x1, y1 of a box x, y, width, height."""
    x, y, w, h = bbox
    return np.array([[x, y, x + w, y + h]])


__all__ = ["box_corners", "score_mined_pairs"]
