"""Where a sentence may point: candidate regions of a pedestrian crop, the first step of Region-to-Sentence Matching.

A proposer takes an image and the texts of its sentences and gives boxes. Those of this file need no weights:

    templates                where the parts of an upright person lie; the image is not looked at
    templates+felzenszwalb   these, then what stands out in this image (`segments.py`); the default
    grid                     overlapping cells of several sizes; knows nothing of persons

`sam`, `open_vocabulary` and `parser` read a model of transformers (`model_proposals.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dataset_pvlg.proposals.felzenszwalb import segment_boxes

LEAST_AREA, MOST_AREA = 0.005, 0.8  # of the image; less cannot be described, more is the whole image
WHOLE_IMAGE = "whole person"  # label of the last candidate, as modeling_rogle.matching.assignment names it
PROPOSER_NAMES = ("templates", "templates+felzenszwalb", "grid", "sam", "open_vocabulary", "parser")
DEFAULT_PROPOSER = "templates+felzenszwalb"
_SAME = 0.9  # IoU above which two boxes are one
# Segments come by the hundred: nearer neighbours than this would take the places of boxes that show something else.
_SAME_SEGMENT = 0.8


@dataclass(frozen=True)
class Proposals:
    """Candidates of one image.

    boxes: float32 `[N, 4]` x0, y0, x1, y1 in [0, 1] of its width and height; the LAST row is the whole image, 0 0 1 1,
        and the others cover 0.5 to 80 % of it. labels: N names: a part of `features.REGION_LABELS`, a noun phrase, a
        class of the model, `segment`, `mask` or `cell`; the last is `whole person`.
    """

    boxes: np.ndarray
    labels: tuple[str, ...]


Proposer = Callable[[Image.Image, Sequence[str]], Proposals]


def _both_sides(*boxes: tuple[float, float, float, float]) -> list[tuple[float, float, float, float]]:
    """Each box and its mirror image: which hand holds a thing is not known."""
    return [side for x0, y0, x1, y1 in boxes for side in ((x0, y0, x1, y1), (1 - x1, y0, 1 - x0, y1))]


# Parts of an upright person in a crop: fractions x0, y0, x1, y1. A head is 1/7.5 of the height plus hair and hat, the
# trunk ends at half of it, the soles at its end; several of each because crops are tighter or looser, a person seen
# from the side is half as wide, and a step is twice as wide as a stand. Checked on synthetic boxes alone.
_TEMPLATES = {
    "head": [
        (0.30, 0.03, 0.70, 0.24),
        (0.25, 0.08, 0.75, 0.30),
        (0.35, 0.02, 0.65, 0.16),
        *_both_sides((0.15, 0.03, 0.55, 0.26)),
    ],
    "upper body": [
        (0.15, 0.18, 0.85, 0.56),
        (0.28, 0.18, 0.72, 0.55),
        (0.08, 0.15, 0.92, 0.75),  # a coat or a long dress
    ],
    "lower body": [
        (0.22, 0.52, 0.78, 0.90),
        (0.35, 0.55, 0.65, 0.85),
        (0.05, 0.50, 0.95, 0.88),
        (0.25, 0.68, 0.75, 0.92),  # below a coat
        (0.20, 0.45, 0.80, 0.95),
    ],
    "feet": [
        (0.25, 0.86, 0.75, 0.96),
        (0.28, 0.91, 0.72, 1.00),
        (0.05, 0.86, 0.95, 0.97),
        (0.28, 0.80, 0.72, 0.94),
        (0.08, 0.77, 0.92, 0.92),
        (0.35, 0.85, 0.65, 0.98),
        *_both_sides((0.15, 0.86, 0.50, 0.98)),
    ],
    "bag": [
        (0.20, 0.20, 0.80, 0.50),  # on the back
        (0.30, 0.30, 0.70, 0.60),
        (0.30, 0.48, 0.70, 0.70),
        *_both_sides((0.03, 0.50, 0.40, 0.66), (0.00, 0.50, 0.45, 0.85), (0.00, 0.30, 0.42, 0.68)),
    ],
    "carried item": _both_sides((0.03, 0.42, 0.30, 0.60), (0.05, 0.25, 0.35, 0.40), (0.00, 0.42, 0.25, 0.87)),
}
_GRIDS = ((2, 1), (3, 2), (5, 2), (10, 1), (5, 3))  # rows x columns, each with half-way cells


def load_proposer(name: str = DEFAULT_PROPOSER, model: str | Path | None = None, most: int = 120) -> Proposer:
    """A proposer by its name.

    Args:
        name: one of `PROPOSER_NAMES`.
        model: folder or Hub name of the weights that `sam`, `open_vocabulary` and `parser` read.
        most: boxes of an image at most, the whole image among them.

    Returns:
        `propose(image, texts) -> Proposals`: the image in any mode and the texts of its sentences, which only
        `open_vocabulary` reads. Boxes above an IoU of 0.9 with an earlier one (0.8 for segments) are left out.

    Raises:
        ValueError: an unknown name, weights missing, not needed or of another kind, `most` under 2; one line.
        ImportError: the proposer needs a package that is absent; one line.
    """
    if name not in PROPOSER_NAMES:
        raise ValueError(f"proposer {name!r} is not known; known are {', '.join(PROPOSER_NAMES)}")
    if most < 2:
        raise ValueError(f"most must be at least 2, a region and the whole image, not {most}")
    if name in ("sam", "open_vocabulary", "parser"):
        if model is None:
            raise ValueError(f"proposer {name!r} reads weights: name a model")
        from dataset_pvlg.proposals.model_proposers import load_model_proposer

        return load_model_proposer(name, str(model), most)
    if model is not None:
        raise ValueError(f"proposer {name!r} reads no weights: it takes no model")
    if name == "grid":
        return lambda image, texts: propose_grid(most)
    if name == "templates":
        return lambda image, texts: propose_templates(most)
    segment_boxes(Image.new("RGB", (8, 8)))  # a missing package is told now, not after hours
    return lambda image, texts: propose_segments(image, most)


def propose_templates(most: int = 120) -> Proposals:
    """Where the parts of an upright person lie in a tight crop: 36 boxes and the whole image."""
    boxes = [(label, box) for label, places in _TEMPLATES.items() for box in places]
    return tidy([box for _, box in boxes], [label for label, _ in boxes], most)


def propose_segments(image: Image.Image, most: int = 120) -> Proposals:
    """The templates, then the boxes of `segments.segment_boxes` that are none of these, as many as there is room."""
    templates = propose_templates(most)
    found = segment_boxes(image)
    boxes = np.concatenate([templates.boxes[:-1], found])
    labels = [*templates.labels[:-1], *["segment"] * len(found)]
    return tidy(boxes, labels, most, same=_SAME_SEGMENT)


def propose_grid(most: int = 120) -> Proposals:
    """Cells from halves to a 15th of the image, each grid with its half-way cells: 109 boxes and the whole image.

    With room for fewer, the grids that fit in whole, the coarse ones first: half a grid would favour the head.
    """
    boxes: list[tuple[float, float, float, float]] = []
    for rows, columns in _GRIDS:
        if len(boxes) + (2 * rows - 1) * (2 * columns - 1) > most - 1:
            break
        for y in np.arange(2 * rows - 1) / (2 * rows):
            for x in np.arange(2 * columns - 1) / (2 * columns):
                boxes.append((x, y, x + 1 / columns, y + 1 / rows))
    return tidy(boxes, ["cell"] * len(boxes), most)


def tidy(
    boxes: Sequence[Sequence[float]] | np.ndarray, labels: Sequence[str], most: int, same: float = _SAME
) -> Proposals:
    """What every proposer ends with.

    Args:
        boxes: `[N, 4]` x0, y0, x1, y1 as fractions, the most wanted first; clipped here to the image.
        labels: N names.
        most: boxes at most, the whole image among them.
        same: IoU with an earlier box above which a box is left out.

    Returns:
        Boxes of 0.5 to 80 % of the image in their order, none twice, at most `most - 1`, then the whole image.
    """
    edges = np.clip(np.asarray(boxes, dtype=np.float64).reshape(-1, 4), 0.0, 1.0)
    areas = np.clip(edges[:, 2:] - edges[:, :2], 0.0, None).prod(axis=1)
    kept: list[int] = []
    for n in np.flatnonzero((areas >= LEAST_AREA) & (areas <= MOST_AREA)):
        if len(kept) == most - 1:
            break
        low, high = np.maximum(edges[kept, :2], edges[n, :2]), np.minimum(edges[kept, 2:], edges[n, 2:])
        shared = np.clip(high - low, 0.0, None).prod(axis=1)
        if not (shared > same * (areas[kept] + areas[n] - shared)).any():
            kept.append(int(n))
    whole = np.array([[0.0, 0.0, 1.0, 1.0]])
    return Proposals(np.concatenate([edges[kept], whole]).astype(np.float32), (*(labels[n] for n in kept), WHOLE_IMAGE))


__all__ = ["DEFAULT_PROPOSER", "PROPOSER_NAMES", "Proposals", "Proposer", "load_proposer", "tidy"]
