"""An image-free baseline: the box of a sentence is looked up from its words, the image is never read."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modeling_rogle.box_ops import TEMPLATE_LABELS, box_iou, template_boxes
from modeling_rogle.sentences import PART_OF

_WORD = re.compile(r"[a-z]+")
MIN_PAIRS = 100  # training pairs below which no boxes are fitted
MIN_OF_WORD = 10  # training pairs of a word
MAX_BOXES, MAX_CANDIDATES = 500, 100  # training boxes of a word that are covered, and that may be chosen
SHRINKAGE = 5.0  # lowers the share of rare words


def keyword_boxes(texts: Sequence[str]) -> np.ndarray:
    """The template box of the part of a person that each sentence names first.

    Nothing is fitted: the boxes follow body proportions, see `box_ops.py`.

    Args:
        texts: S sentences.

    Returns:
        float32 `[S, 4]` x0, y0, x1, y1 in [0, 1]; the whole image for a sentence that names no part.
    """
    templates, boxes = template_boxes(), []
    for text in texts:
        label = next((PART_OF[word] for word in _WORD.findall(text.lower()) if word in PART_OF), "whole person")
        boxes.append(templates[TEMPLATE_LABELS.index(label)])
    return np.array(boxes, dtype=np.float32).reshape(-1, 4)


@dataclass(frozen=True)
class WordBoxes:
    """One constant box for each word; a sentence takes the box of its most reliable word.

    Attributes:
        by_word: word -> share of its training boxes that its box covers (slightly lower for rare words), and the box.
        other: the box of a sentence without a known word.
    """

    by_word: dict[str, tuple[float, np.ndarray]]
    other: np.ndarray

    @classmethod
    def fit(cls, texts: Sequence[str], boxes: np.ndarray) -> "WordBoxes":
        """Chooses for each word the training box with an IoU of at least 0.5 with most training boxes of the word.

        Args:
            texts: N sentences.
            boxes: float `[N, 4]` x0, y0, x1, y1 in [0, 1].
        """
        members: dict[str, list[int]] = {}
        for n, text in enumerate(texts):
            for word in set(_WORD.findall(text.lower())):
                members.setdefault(word, []).append(n)
        chosen = {word: _central_box(boxes[np.array(numbers)]) for word, numbers in sorted(members.items())
                  if len(numbers) >= MIN_OF_WORD}  # fmt: skip
        return cls(chosen, _central_box(boxes)[1])

    def boxes(self, texts: Sequence[str]) -> np.ndarray:
        """float32 `[S, 4]` x0, y0, x1, y1 of S sentences."""
        found = []
        for text in texts:
            known = [self.by_word[word] for word in sorted(set(_WORD.findall(text.lower()))) if word in self.by_word]
            found.append(max(known, key=lambda entry: entry[0])[1] if known else self.other)
        return np.array(found, dtype=np.float32).reshape(-1, 4)


def _central_box(boxes: np.ndarray) -> tuple[float, np.ndarray]:
    """The box, among the first ones, that covers most of `boxes` `[N, 4]`, and the share that it covers."""
    others = boxes[:: max(1, len(boxes) // MAX_BOXES)]
    candidates = others[:: max(1, len(others) // MAX_CANDIDATES)]
    covered = (box_iou(candidates, others) >= 0.5).sum(1).numpy()
    best = int(covered.argmax())
    return float(covered[best] / (len(others) + SHRINKAGE)), candidates[best]


def true_pairs(rows: Iterable[Mapping[str, Any]]) -> tuple[list[str], np.ndarray]:
    """Sentences and boxes that an annotator or the generator paired; mined pairs (origin `rsm`) are left out.

    Args:
        rows: P-VLG rows; the images are not read.

    Returns:
        N sentences, and float64 `[N, 4]` x0, y0, x1, y1 in [0, 1].
    """
    texts, boxes = [], []
    for row in rows:
        for region in row["regions"]:
            if region["sentence"] >= 0 and region["origin"] != "rsm":
                x, y, width, height = region["bbox"]
                texts.append(row["sentences"][region["sentence"]]["text"])
                boxes.append((x, y, x + width, y + height) / np.array([row["width"], row["height"]] * 2))
    return texts, np.clip(np.array(boxes, dtype=np.float64).reshape(-1, 4), 0, 1)


__all__ = ["MIN_PAIRS", "WordBoxes", "keyword_boxes", "true_pairs"]
