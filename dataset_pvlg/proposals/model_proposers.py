"""Proposers that read weights, each a pipeline of transformers and any model that serves its task:

    sam              mask-generation: boxes of all masks, whatever they show (needs torchvision)
    open_vocabulary  zero-shot-object-detection: what the sentences name, by their noun phrases
    parser           image-segmentation: hair, trousers, left shoe, ... and pairs of these

A model may find nothing, or not everything: the templates of `proposals.py` follow what it found. (In FAST-GOAL,
arXiv 2605.26615, a detector with a fixed grid beats the detector alone, 74.3 to 69.4 R@1 on DOCCI.)
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from PIL import Image

from dataset_pvlg.proposals.noun_phrases import noun_phrases
from dataset_pvlg.proposals.proposers import Proposals, Proposer, propose_templates, tidy
from modeling_rogle.inference.loading import best_device

TASKS = {"sam": "mask-generation", "open_vocabulary": "zero-shot-object-detection", "parser": "image-segmentation"}
_POINTS_AT_ONCE = 128
_LEAST_SCORE = 0.1  # of a detection
_MOST_DETECTIONS = 10  # of one phrase
_STRAY = 0.5  # percent of a mask's pixels that may lie outside its box at each side

# Boxes in pixels x0, y0, x1, y1 with their names, the most wanted first.
_Found = list[tuple[tuple[float, float, float, float], str]]


def load_model_proposer(name: str, model: str, most: int = 120) -> Proposer:
    """A proposer of `TASKS`; see [`dataset_pvlg.proposals.proposers.load_proposer`].

    Args:
        name: `sam`, `open_vocabulary` or `parser`.
        model: folder or Hub name.
        most: boxes of an image at most, the whole image among them.

    Raises:
        ValueError: no model of this kind there; one line.
        ImportError: `sam` without torchvision; one line.
    """
    from transformers import pipeline
    from transformers.utils import is_torchvision_available

    if name == "sam" and not is_torchvision_available():
        raise ImportError(
            "proposer sam: mask generation needs torchvision, of the very build that fits torch; "
            "the proposers open_vocabulary, parser and templates+felzenszwalb do without"
        )
    try:
        run = pipeline(TASKS[name], model=model, device=best_device())
    except Exception as error:  # transformers raises almost anything for a folder that is something else
        reason = " ".join(str(error).split("\n")[0].split())
        raise ValueError(f"proposer {name}: {model} cannot be loaded for {TASKS[name]} ({reason})") from error
    find = {"sam": _masks, "open_vocabulary": _named, "parser": _parsed}[name]
    return lambda image, texts: _propose(find, run, image.convert("RGB"), texts, most)


@torch.no_grad()
def _propose(
    find: Callable[[Any, Image.Image, Sequence[str]], _Found],
    run: Any,
    image: Image.Image,
    texts: Sequence[str],
    most: int,
) -> Proposals:
    found = find(run, image, texts)
    templates = propose_templates(most)
    size = np.array([*image.size, *image.size], dtype=np.float64)
    boxes = np.array([box for box, _ in found], dtype=np.float64).reshape(-1, 4) / size
    labels = [label for _, label in found]
    return tidy(np.concatenate([boxes, templates.boxes[:-1]]), [*labels, *templates.labels[:-1]], most)


def _masks(run: Any, image: Image.Image, texts: Sequence[str]) -> _Found:
    """Boxes of the masks that a grid of points brings up, the surest first."""
    made = run(image, points_per_batch=_POINTS_AT_ONCE)
    order = np.argsort(-np.asarray(made["scores"], dtype=np.float64), kind="stable")
    return [(box, "mask") for n in order if (box := _box_of(np.asarray(made["masks"][n])))]


def _named(run: Any, image: Image.Image, texts: Sequence[str]) -> _Found:
    """What the sentences name: the best of every phrase first, then the second best, so that none is crowded out."""
    phrases = list(dict.fromkeys(phrase for text in texts for phrase in noun_phrases(text)))
    if not phrases:
        return []
    by_phrase: dict[str, list[dict[str, Any]]] = {phrase: [] for phrase in phrases}
    for thing in run(image, candidate_labels=phrases, threshold=_LEAST_SCORE):  # sorted by score
        by_phrase[thing["label"]].append(thing)
    found: _Found = []
    for place in range(_MOST_DETECTIONS):
        level = [things[place] for things in by_phrase.values() if place < len(things)]
        for thing in sorted(level, key=lambda thing: -thing["score"]):
            found.append((tuple(thing["box"][side] for side in ("xmin", "ymin", "xmax", "ymax")), thing["label"]))
    return found


def _parsed(run: Any, image: Image.Image, texts: Sequence[str]) -> _Found:
    """Each part, then each two of them: both shoes, hair and face, a shirt and the arms."""
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
    """The box of a mask `[H, W]`, stray pixels at its edges left out; None if it is empty."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return None
    (x0, x1), (y0, y1) = (
        np.percentile(places, [_STRAY, 100 - _STRAY], method="nearest").tolist() for places in (columns, rows)
    )
    return float(x0), float(y0), float(x1 + 1), float(y1 + 1)


__all__ = ["TASKS", "load_model_proposer"]
