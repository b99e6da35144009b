"""Proposers that load weights. Each is a pipeline of transformers for any model that supports its task:

    sam              mask-generation: boxes of all masks (needs torchvision)
    open_vocabulary  zero-shot-object-detection: the noun phrases of the sentences
    parser           image-segmentation: hair, trousers, left shoe, ... and pairs of these

A model may miss regions, so the templates of `templates.py` are added after its boxes. (In FAST-GOAL, arXiv 2605.26615,
a detector with a fixed grid is better than the detector only: 74.3 against 69.4 R@1 on DOCCI.)
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from PIL import Image

from dataset_pvlg.proposals.base import MAX_BOXES, Proposals, Proposer, select_boxes
from dataset_pvlg.proposals.noun_phrases import noun_phrases
from dataset_pvlg.proposals.templates import propose_templates
from modeling_rogle.image_io import to_rgb
from modeling_rogle.inference.loading import best_device

TASKS = {"sam": "mask-generation", "open_vocabulary": "zero-shot-object-detection", "parser": "image-segmentation"}
_POINTS_PER_BATCH = 128
_MIN_SCORE = 0.1  # of a detection
_MAX_DETECTIONS = 10  # of one phrase
_STRAY_PERCENT = 0.5  # of the pixels of a mask, ignored at each side of its box

# (x0, y0, x1, y1 in pixels, label), the most important first.
_LabelledBoxes = list[tuple[tuple[float, float, float, float], str]]


def load_model_proposer(name: str, model: str, max_boxes: int = MAX_BOXES) -> Proposer:
    """A proposer of `TASKS`; see [`dataset_pvlg.proposals.proposers.load_proposer`].

    Args:
        name: `sam`, `open_vocabulary` or `parser`.
        model: folder or Hub name of the weights.
        max_boxes: maximum number of candidates of an image, including the whole image. Default: 120.

    Returns:
        `propose(image, texts) -> Proposals`.

    Raises:
        ValueError: the model cannot be loaded for the task.
        ImportError: `sam` without torchvision.
    """
    from transformers import pipeline
    from transformers.utils import is_torchvision_available

    if name == "sam" and not is_torchvision_available():
        raise ImportError(
            "proposer sam: mask generation needs torchvision, in the build that matches torch; "
            "open_vocabulary, parser and templates+felzenszwalb work without it"
        )
    try:
        run = pipeline(TASKS[name], model=model, device=best_device())
    except Exception as error:  # transformers raises many types of exception for an unsuitable folder
        reason = " ".join(str(error).split("\n")[0].split())
        raise ValueError(f"proposer {name}: {model} cannot be loaded for {TASKS[name]} ({reason})") from error
    find_boxes = {"sam": _mask_boxes, "open_vocabulary": _phrase_boxes, "parser": _part_boxes}[name]
    return lambda image, texts: _propose(find_boxes, run, to_rgb(image), texts, max_boxes)


@torch.no_grad()
def _propose(
    find_boxes: Callable[[Any, Image.Image, Sequence[str]], _LabelledBoxes],
    run: Any,
    image: Image.Image,
    texts: Sequence[str],
    max_boxes: int,
) -> Proposals:
    labelled = find_boxes(run, image, texts)
    templates = propose_templates(max_boxes)
    size = np.array([*image.size, *image.size], dtype=np.float64)
    boxes = np.array([box for box, _ in labelled], dtype=np.float64).reshape(-1, 4) / size
    labels = [label for _, label in labelled]
    all_boxes = np.concatenate([boxes, templates.boxes[:-1]])
    return select_boxes(all_boxes, [*labels, *templates.labels[:-1]], max_boxes)


def _mask_boxes(run: Any, image: Image.Image, texts: Sequence[str]) -> _LabelledBoxes:
    """Boxes of the masks for a grid of points, by descending score."""
    result = run(image, points_per_batch=_POINTS_PER_BATCH)
    order = np.argsort(-np.asarray(result["scores"], dtype=np.float64), kind="stable")
    return [(box, "mask") for n in order if (box := _box_of(np.asarray(result["masks"][n])))]


def _phrase_boxes(run: Any, image: Image.Image, texts: Sequence[str]) -> _LabelledBoxes:
    """Detections of the noun phrases: the best one of every phrase first, then the second best ones, and so on."""
    phrases = list(dict.fromkeys(phrase for text in texts for phrase in noun_phrases(text)))
    if not phrases:
        return []
    by_phrase: dict[str, list[dict[str, Any]]] = {phrase: [] for phrase in phrases}
    for detection in run(image, candidate_labels=phrases, threshold=_MIN_SCORE):  # sorted by score
        by_phrase[detection["label"]].append(detection)
    boxes: _LabelledBoxes = []
    for rank in range(_MAX_DETECTIONS):
        same_rank = [detections[rank] for detections in by_phrase.values() if rank < len(detections)]
        for detection in sorted(same_rank, key=lambda detection: -detection["score"]):
            corners = tuple(detection["box"][side] for side in ("xmin", "ymin", "xmax", "ymax"))
            boxes.append((corners, detection["label"]))
    return boxes


def _part_boxes(run: Any, image: Image.Image, texts: Sequence[str]) -> _LabelledBoxes:
    """Boxes of all parts, then of all pairs of parts, such as both shoes or a shirt and the arms."""
    parts = [
        (box, part["label"])
        for part in run(image)
        if str(part["label"]).lower() != "background" and (box := _box_of(np.asarray(part["mask"])))
    ]
    pairs = [
        ((min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])), f"{label} and {other}")
        for (a, label), (b, other) in combinations(parts, 2)
    ]
    return parts + pairs


def _box_of(mask: np.ndarray) -> tuple[float, float, float, float] | None:
    """The box of a mask `[H, W]` without stray pixels at its sides; None for an empty mask."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return None
    (x0, x1), (y0, y1) = (
        np.percentile(values, [_STRAY_PERCENT, 100 - _STRAY_PERCENT], method="nearest").tolist()
        for values in (columns, rows)
    )
    return float(x0), float(y0), float(x1 + 1), float(y1 + 1)


__all__ = ["TASKS", "load_model_proposer"]
