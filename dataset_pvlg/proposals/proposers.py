"""Proposers of candidate regions in a pedestrian crop, the first step of Region-to-Sentence Matching.

A proposer takes an image and the texts of its sentences and returns boxes. These need no weights:

    templates                usual boxes of body parts; they do not depend on the image
    templates+felzenszwalb   the templates, then segments of the image (`felzenszwalb.py`); the default
    grid                     overlapping cells of several sizes

`sam`, `open_vocabulary` and `parser` load a model of transformers (`model_proposers.py`).
"""

from pathlib import Path

import numpy as np
from PIL import Image

from dataset_pvlg.proposals.base import MAX_BOXES, Proposals, Proposer, select_boxes
from dataset_pvlg.proposals.felzenszwalb import segment_boxes
from dataset_pvlg.proposals.templates import propose_templates

PROPOSER_NAMES = ("templates", "templates+felzenszwalb", "grid", "sam", "open_vocabulary", "parser")
DEFAULT_PROPOSER = "templates+felzenszwalb"
_MAX_SEGMENT_IOU = 0.8  # lower than for other boxes: hundreds of similar segments would crowd out the others
_GRIDS = ((2, 1), (3, 2), (5, 2), (10, 1), (5, 3))  # rows x columns, each also shifted by half a cell


def load_proposer(
    name: str = DEFAULT_PROPOSER, model: str | Path | None = None, max_boxes: int = MAX_BOXES
) -> Proposer:
    """A proposer by its name.

    Args:
        name: one of `PROPOSER_NAMES`. Default: templates+felzenszwalb.
        model: folder or Hub name of the weights for `sam`, `open_vocabulary` and `parser`. None for the others.
        max_boxes: maximum number of candidates of an image, including the whole image. Default: 120.

    Returns:
        `propose(image, texts) -> Proposals`, for an image in any mode and the texts of its sentences. Only
        `open_vocabulary` uses the texts. A box whose IoU with an earlier one is above 0.9 (segments: 0.8) is dropped.

    Raises:
        ValueError: an unknown name, missing, unused or unsuitable weights, or `max_boxes` under 2.
        ImportError: a package that the proposer needs is not installed.
    """
    if name not in PROPOSER_NAMES:
        raise ValueError(f"proposer {name!r} is not known; known are {', '.join(PROPOSER_NAMES)}")
    if max_boxes < 2:
        raise ValueError(f"max_boxes must be at least 2, for a region and the whole image, not {max_boxes}")
    if name in ("sam", "open_vocabulary", "parser"):
        if model is None:
            raise ValueError(f"proposer {name!r} needs weights: use {name}=MODEL")
        from dataset_pvlg.proposals.model_proposers import load_model_proposer

        return load_model_proposer(name, str(model), max_boxes)
    if model is not None:
        raise ValueError(f"proposer {name!r} has no weights: it takes no model")
    if name == "grid":
        return lambda image, texts: propose_grid(max_boxes)
    if name == "templates":
        return lambda image, texts: propose_templates(max_boxes)
    segment_boxes(Image.new("RGB", (8, 8)))  # a missing package is reported now, not in the middle of a run
    return lambda image, texts: propose_segments(image, max_boxes)


def propose_segments(image: Image.Image, max_boxes: int = MAX_BOXES) -> Proposals:
    """The templates, then boxes of segments.

    Args:
        image: any mode.
        max_boxes: maximum number of candidates, including the whole image. Default: 120.
    """
    templates = propose_templates(max_boxes)
    segments = segment_boxes(image)
    boxes = np.concatenate([templates.boxes[:-1], segments])
    labels = [*templates.labels[:-1], *["segment"] * len(segments)]
    return select_boxes(boxes, labels, max_boxes, max_iou=_MAX_SEGMENT_IOU)


def propose_grid(max_boxes: int = MAX_BOXES) -> Proposals:
    """Cells from a half to a 15th of the image.

    Args:
        max_boxes: maximum number of candidates, including the whole image. Default: 120.

    Returns:
        109 cells and the whole image, or only the coarse grids that fit completely: half a grid would favour the head.
    """
    boxes: list[tuple[float, float, float, float]] = []
    for rows, columns in _GRIDS:
        if len(boxes) + (2 * rows - 1) * (2 * columns - 1) > max_boxes - 1:
            break
        for y in np.arange(2 * rows - 1) / (2 * rows):
            for x in np.arange(2 * columns - 1) / (2 * columns):
                boxes.append((x, y, x + 1 / columns, y + 1 / rows))
    return select_boxes(boxes, ["cell"] * len(boxes), max_boxes)


__all__ = ["DEFAULT_PROPOSER", "PROPOSER_NAMES", "load_proposer"]
