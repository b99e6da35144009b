"""An image-free baseline: the box of a sentence is looked up from its words, the image is never read."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modeling_rogle.box_ops import TEMPLATE_LABELS, template_boxes
from modeling_rogle.sentences import PART_OF

_WORD = re.compile(r"[a-z]+")
MIN_PAIRS = 100  # training pairs below which the regression is not fitted
MAX_WORDS = 1000  # most frequent words that the regression reads
RIDGE = 3.0  # weight of the squared coefficients


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
class BoxRegression:
    """A linear regression from the words of a sentence to its box.

    Attributes:
        words: V words -> their columns.
        weights: float64 `[V + 1, 4]`, the last row is the intercept.
    """

    words: dict[str, int]
    weights: np.ndarray

    @classmethod
    def fit(cls, texts: Sequence[str], boxes: np.ndarray) -> "BoxRegression":
        """Fits ridge regression on pairs of a sentence and a box.

        Args:
            texts: N sentences.
            boxes: float `[N, 4]` x0, y0, x1, y1 in [0, 1].
        """
        counts: dict[str, int] = {}
        for text in texts:
            for word in set(_WORD.findall(text.lower())):
                counts[word] = counts.get(word, 0) + 1
        frequent = sorted(counts, key=lambda word: (-counts[word], word))[:MAX_WORDS]
        model = cls({word: column for column, word in enumerate(frequent)}, np.zeros((len(frequent) + 1, 4)))
        gram, moments = np.zeros(2 * (len(frequent) + 1,)), np.zeros((len(frequent) + 1, 4))
        for start in range(0, len(texts), 4096):
            table = model._table(texts[start : start + 4096])
            gram += table.T @ table
            moments += table.T @ boxes[start : start + 4096]
        penalty = RIDGE * np.eye(len(gram))
        penalty[-1, -1] = 0
        return cls(model.words, np.linalg.solve(gram + penalty, moments))

    def boxes(self, texts: Sequence[str]) -> np.ndarray:
        """float32 `[S, 4]` x0, y0, x1, y1 of S sentences, clipped to the image."""
        parts = [self._table(texts[at : at + 4096]) @ self.weights for at in range(0, len(texts), 4096)]
        boxes = np.clip(np.concatenate([*parts, np.zeros((0, 4))]), 0, 1)
        return np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), boxes[:, 2:]], axis=1).astype(np.float32)

    def _table(self, texts: Sequence[str]) -> np.ndarray:
        table = np.zeros((len(texts), len(self.words) + 1))
        table[:, -1] = 1
        for row, text in enumerate(texts):
            table[row, [self.words[word] for word in set(_WORD.findall(text.lower())) if word in self.words]] = 1
        return table


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


__all__ = ["MIN_PAIRS", "BoxRegression", "keyword_boxes", "true_pairs"]
