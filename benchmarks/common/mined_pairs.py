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
        Percentages. A mined pair is correct if its box has IoU >= 0.5 with the ground-truth box of the sentence.

        - `precision`: correct pairs among the mined ones
        - `recall`: correct pairs among the sentences that have a ground-truth box
        - `none_f1`: F1 score of "this sentence has no region"
    """
    correct = n_mined = n_true = none_correct = none_mined = none_true = 0
    for row, regions in zip(rows.remove_columns("image"), mined, strict=True):
        true_boxes = {region["sentence"]: region["bbox"] for region in row["regions"]}
        mined_boxes = {region["sentence"]: region["bbox"] for region in regions}
        for sentence in range(len(row["sentences"])):
            has_true, has_mined = sentence in true_boxes, sentence in mined_boxes
            n_true, n_mined = n_true + has_true, n_mined + has_mined
            none_true, none_mined = none_true + (not has_true), none_mined + (not has_mined)
            none_correct += not has_true and not has_mined
            if has_true and has_mined:
                iou = box_iou(box_corners(true_boxes[sentence]), box_corners(mined_boxes[sentence]))
                correct += bool(iou[0, 0] >= 0.5)
    return {
        "precision": 100 * correct / max(n_mined, 1),
        "recall": 100 * correct / max(n_true, 1),
        "none_f1": 200 * none_correct / max(none_mined + none_true, 1),
    }


def box_corners(bbox: Sequence[float]) -> np.ndarray:
    """`[1, 4]` x0, y0, x1, y1 of a box x, y, width, height."""
    x, y, w, h = bbox
    return np.array([[x, y, x + w, y + h]])


__all__ = ["box_corners", "score_mined_pairs"]
