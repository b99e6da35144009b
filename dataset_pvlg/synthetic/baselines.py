"""Baselines of the data card: look-ups that never open an image, colour rules, and the attribute oracle."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from dataset_pvlg.synthetic import words
from dataset_pvlg.synthetic.canvas import RGB
from dataset_pvlg.synthetic.facts import FactTable
from dataset_pvlg.synthetic.identities import TYPES

# Boxes of body parts of a standing person, x0 y0 x1 y1 as fractions of the image. Nothing is fitted.
BODY = {
    "head": (0.27, 0.0, 0.73, 0.19), "upper": (0.05, 0.16, 0.95, 0.6), "lower": (0.17, 0.55, 0.8, 0.93),
    "feet": (0.22, 0.86, 0.78, 1.0), "bag": (0.2, 0.3, 0.8, 0.65), "ground": (0.0, 0.7, 0.6, 1.0),
    "overhead": (0.05, 0.0, 0.95, 0.25),
}  # fmt: skip
PART_OF = {
    "top": "upper", "dress": "upper", "bottom": "lower", "footwear": "feet", "bag": "bag", "hair": "head",
    "hat": "head", "scarf": "upper", "umbrella": "overhead", "suitcase": "ground", "pushchair": "lower",
    "bicycle": "lower",
    "dog": "ground",
}  # fmt: skip
CANDIDATES = 400  # true boxes of a word from which its constant boxes are chosen
RIDGE = 3.0

_WORD = re.compile(r"[a-z'-]+")


def _patterns(table: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]) -> dict[str, str]:
    return {word: name for name, lists in table.items() for options in lists for word in options}


_NOUNS = _patterns(words.NOUNS)
_NOUN = re.compile(r"\b(" + "|".join(sorted(map(re.escape, _NOUNS), key=len, reverse=True)) + r")\b")
_COLOUR_NAMES = _patterns(words.HAIR_COLOURS) | _patterns(words.COLOURS)
_COLOUR = re.compile(r"\b(" + "|".join(sorted(map(re.escape, _COLOUR_NAMES), key=len, reverse=True)) + r")\b")


def nouns_of(text: str) -> list[str]:
    """The kinds and types that a sentence names, in order, without repetition."""
    return list(dict.fromkeys(_NOUNS[word] for word in _NOUN.findall(text.lower())))


def colours_of(text: str) -> list[str]:
    """The colours that a sentence names."""
    return [_COLOUR_NAMES[word] for word in _COLOUR.findall(text.lower())]


def pairs_of(rows: Sequence[dict]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """All region-sentence pairs of some rows.

    Returns:
        The sentence of each pair; float `[N, 4]` its true box, x0 y0 x1 y1 as fractions; int `[N]` its row.
    """
    texts, boxes, owner = [], [], []
    for n, row in enumerate(rows):
        for region in row["regions"]:
            if region["sentence"] >= 0:
                x, y, w, h = region["bbox"]
                texts.append(row["sentences"][region["sentence"]]["text"])
                boxes.append((x / row["width"], y / row["height"], (x + w) / row["width"], (y + h) / row["height"]))
                owner.append(n)
    return texts, np.array(boxes, np.float64).reshape(-1, 4), np.array(owner, np.int64)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union `[N, M]` of boxes `[N, 4]` and `[M, 4]`, x0 y0 x1 y1."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    inside = np.clip(high - low, 0, None).prod(-1)
    area_a, area_b = (np.clip(c[:, 2:] - c[:, :2], 0, None).prod(-1) for c in (a, b))
    return inside / np.maximum(area_a[:, None] + area_b[None, :] - inside, 1e-9)


def _best_boxes(boxes: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """The boxes, chosen greedily from `boxes`, that cover most of them at IoU 0.5."""
    candidates = boxes[rng.permutation(len(boxes))[:CANDIDATES]]
    covers = iou(candidates, boxes[:4000]) >= 0.5
    chosen, left = [], np.ones(covers.shape[1], bool)
    for _ in range(count):
        best = int((covers & left).sum(1).argmax())
        chosen.append(candidates[best])
        left &= ~covers[best]
    return np.array(chosen)


class LookUp:
    """An image-free baseline: a box, or a few, for each sentence.

    Args:
        texts: N training sentences.
        boxes: float `[N, 4]`, their true boxes.
        count: boxes for each noun.
    """

    def __init__(self, texts: Sequence[str], boxes: np.ndarray, count: int) -> None:
        rng = np.random.default_rng(0)
        by_noun: dict[str, list[int]] = {}
        self.fallback = _best_boxes(boxes, count, rng)
        for n, text in enumerate(texts):
            for noun in nouns_of(text):
                by_noun.setdefault(noun, []).append(n)
        self.boxes = {noun: _best_boxes(boxes[numbers], count, rng) for noun, numbers in by_noun.items()}

    def predict(self, text: str) -> np.ndarray:
        """float `[K, 4]`: the boxes of all nouns of a sentence, or the most frequent ones of the training set."""
        found = [self.boxes[noun] for noun in nouns_of(text) if noun in self.boxes]
        return np.concatenate(found) if found else self.fallback


class Proportions:
    """The look-up that was never fitted: the body part of each noun, at its place on a standing person."""

    def predict(self, text: str) -> np.ndarray:
        """float `[K, 4]`: the boxes of all nouns; the box of the upper body without a noun."""
        parts = [BODY[PART_OF[TYPES.get(noun, noun)]] for noun in nouns_of(text)]
        return np.array(parts or [BODY["upper"]])


class WordRegression:
    """Ridge regression of the box on the words of a sentence.

    Args:
        texts: N training sentences.
        boxes: float `[N, 4]`, their true boxes.
    """

    def __init__(self, texts: Sequence[str], boxes: np.ndarray) -> None:
        vocabulary = sorted({word for text in texts for word in _WORD.findall(text.lower())})
        self.index = {word: n for n, word in enumerate(vocabulary)}
        x = np.stack([self._features(text) for text in texts])
        self.weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ boxes)

    def _features(self, text: str) -> np.ndarray:
        x = np.zeros(len(self.index) + 1)
        x[-1] = 1.0
        x[[self.index[word] for word in _WORD.findall(text.lower()) if word in self.index]] = 1.0
        return x

    def predict(self, text: str) -> np.ndarray:
        """float `[1, 4]`: one box."""
        return (self._features(text) @ self.weights)[None]


def recall(look_up, texts: Sequence[str], boxes: np.ndarray) -> float:
    """Percentage of pairs of which one predicted box has an IoU of at least 0.5 with the true box."""
    hits = [iou(look_up.predict(text), box[None]).max() >= 0.5 for text, box in zip(texts, boxes, strict=True)]
    return float(100 * np.mean(hits))


def _to_lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D65) of sRGB values from 0 to 255."""
    c = rgb / 255
    c = np.where(c > 0.04045, ((c + 0.055) / 1.055) ** 2.4, c / 12.92)
    xyz = c @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    xyz /= np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


_STEP = 8
_GRID = np.stack(np.meshgrid(*[np.arange(_STEP // 2, 256, _STEP)] * 3, indexing="ij"), -1).astype(float)
_PALETTE = _to_lab(np.array([*RGB.values(), (215, 180, 110)], float))  # the last one is blonde
NAMES = [*RGB, "blonde"]
_NEAREST = ((_to_lab(_GRID)[..., None, :] - _PALETTE) ** 2).sum(-1).argmin(-1).astype(np.uint8)


def colour_map(image: Image.Image, size: tuple[int, int] = (48, 96)) -> np.ndarray:
    """uint8 `[H, W]`: index of the nearest named colour of every pixel of a smaller copy."""
    pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BILINEAR)) // _STEP
    return _NEAREST[pixels[..., 0], pixels[..., 1], pixels[..., 2]]


def _evidence(shares: np.ndarray) -> np.ndarray:
    logs = np.log(shares + 0.01)
    return (logs - np.nanmean(logs, 0)) / (np.nanstd(logs, 0) + 1e-6)


def colour_scores(rows: Sequence[dict], maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores `[Q, G]` of long captions and images by colours alone: of the whole image, and at the true parts' heights.

    The second rule reads, in each image of the gallery, the rows of the image that the *true* box of the described part
    covers, over the middle half of the width.

    Args:
        rows: the rows.
        maps: `[N, H, W]` of [`colour_map`].
    """
    count, high, wide = len(NAMES), maps.shape[1], maps.shape[2]
    onehot = np.stack([(maps == c).mean((1, 2)) for c in range(count)], 1)
    whole = _evidence(onehot)
    labels = sorted({region["label"] for row in rows for region in row["regions"]})
    bands = {label: np.full((len(rows), count), np.nan) for label in labels}
    for n, row in enumerate(rows):
        for label in labels:
            boxes = [r["bbox"] for r in row["regions"] if r["label"] == label]
            if boxes:
                y0, y1 = min(b[1] for b in boxes), max(b[1] + b[3] for b in boxes)
                a, b = int(y0 / row["height"] * high), max(int(np.ceil(y1 / row["height"] * high)), 1)
                band = maps[n, min(a, high - 1) : b, wide // 4 : wide - wide // 4]
                bands[label][n] = np.bincount(band.ravel(), minlength=count) / band.size
    bands = {label: np.nan_to_num(_evidence(band)) for label, band in bands.items()}
    scores = np.zeros((2, len(rows), len(rows)), np.float32)
    for q, row in enumerate(rows):
        pairs, colours = set(), set()
        for n, sentence in enumerate(row["sentences"]):
            named = colours_of(sentence["text"])
            colours |= set(named)
            pairs |= {(c, r["label"]) for r in row["regions"] if r["sentence"] == n for c in named}
        for c in colours:
            scores[0, q] += whole[:, NAMES.index(c)]
        for c, label in sorted(pairs):
            scores[1, q] += bands[label][:, NAMES.index(c)]
    return scores[0], scores[1]


def fact_table(rows: Sequence[dict]) -> FactTable:
    """The attributes of all regions of some rows; a region with several sentences counts once."""
    return FactTable([regions_of(row)[1] for row in rows])


def regions_of(row: dict) -> tuple[np.ndarray, list[list[str]], list[list[int]]]:
    """The different regions of a row: float `[R, 4]` boxes as fractions, their attributes, and their sentences."""
    boxes, attributes = {}, {}
    sentences: dict[tuple, list[int]] = {}
    for region in row["regions"]:
        key = (*region["bbox"], *region["attributes"])
        x, y, w, h = region["bbox"]
        boxes[key] = (x / row["width"], y / row["height"], (x + w) / row["width"], (y + h) / row["height"])
        attributes[key] = list(region["attributes"])
        sentences.setdefault(key, [])
        if region["sentence"] >= 0:
            sentences[key].append(region["sentence"])
    return np.array(list(boxes.values())).reshape(-1, 4), list(attributes.values()), list(sentences.values())


def oracle_scores(rows: Sequence[dict], table: FactTable) -> np.ndarray:
    """float32 `[Q, G]`: number of sentences of a long caption that are true of an image, by attributes."""
    known: dict[str, np.ndarray] = {}
    scores = np.zeros((len(rows), table.images), np.float32)
    for q, row in enumerate(rows):
        for groups in row["claims"]:
            if groups:
                key = str(groups)
                if key not in known:
                    known[key] = table.images_where(groups)
                scores[q] += known[key]
    return scores


def recall_at_1(scores: np.ndarray, query_ids: np.ndarray, gallery_ids: np.ndarray) -> float:
    """R@1 in percent by identity; a tie of a right and a wrong image counts as a miss."""
    relevant = query_ids[:, None] == gallery_ids[None, :]
    best = np.where(relevant, scores, -np.inf).max(axis=1)
    best_other = np.where(relevant, -np.inf, scores).max(axis=1)
    return float(100 * (best > best_other).mean())
