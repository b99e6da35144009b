"""Changes of image and caption in training that keep boxes, spans and words true."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Augmentation:
    """Probabilities, each 0 for never.

    crop: the image is shifted by up to 1/16 of its height and width (the field's padding and random crop); what
        comes in is of the image's mean colour.
    erase: a rectangle of 2 to 20 % of the image is painted in its mean colour (Random Erasing, arXiv 1708.04896).
    drop: of each sentence to leave the long caption; one always stays.
    reorder: the sentences of the long caption are shuffled.
    approximate: of a caption to be approximate text (`dataset_pvlg/generation/text_edits.py`), where it was not reordered.
    mix: of an image to be averaged with another's, under both captions joined; such a pair has no regions and is
        nobody else's. With `approximate` 0.5 the batch side of PDG (arXiv 2311.09084), which mixes features half of the
        time: averaged pixels are averaged patch embeddings, the first features of a ViT, for those are linear.
    """

    crop: float = 0.0
    erase: float = 0.0
    drop: float = 0.0
    reorder: float = 0.0
    approximate: float = 0.0
    mix: float = 0.0

    def __bool__(self) -> bool:
        return any(asdict(self).values())

    def change_image(
        self, image: np.ndarray, boxes: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Crops and erases.

        Args:
            image: `[3, h, w]` uint8, left as it is.
            boxes: `[n, 4]` float32 x0, y0, x1, y1 in [0, 1].

        Returns:
            Image, boxes, and `[n]` bool: false for a box of which less than half is still to be seen, whose sentence
            would no longer be true of it.
        """
        seen = np.ones(len(boxes))
        if rng.random() < self.crop:
            _, h, w = image.shape
            down, right = (int(rng.integers(-(size // 16), size // 16 + 1)) for size in (h, w))
            image = _shift(image, down, right)
            moved = boxes + np.array([right / w, down / h, right / w, down / h], dtype=np.float32)
            before, boxes = _area(boxes), moved.clip(0, 1)
            seen = _area(boxes) / np.maximum(before, 1e-12)
        if rng.random() < self.erase:
            _, h, w = image.shape
            area, ratio = rng.uniform(0.02, 0.2), np.exp(rng.uniform(-1, 1))
            height, width = min(np.sqrt(area * ratio), 1.0), min(np.sqrt(area / ratio), 1.0)
            top, left = rng.uniform(0, 1 - height), rng.uniform(0, 1 - width)
            rows = slice(int(top * h), max(int(top * h) + 1, round((top + height) * h)))
            columns = slice(int(left * w), max(int(left * w) + 1, round((left + width) * w)))
            image = image.copy()
            image[:, rows, columns] = _mean_colour(image)
            hole = np.array([columns.start / w, rows.start / h, columns.stop / w, rows.stop / h], dtype=np.float32)
            common = np.concatenate([np.maximum(boxes[:, :2], hole[:2]), np.minimum(boxes[:, 2:], hole[2:])], axis=1)
            common[:, 2:] = np.maximum(common[:, 2:], common[:, :2])
            seen = seen * (1 - _area(common) / np.maximum(_area(boxes), 1e-12))
        return image, boxes, seen >= 0.5

    def order_of_sentences(self, count: int, rng: np.random.Generator) -> list[int] | None:
        """Which sentences the caption keeps, in which order; None: the caption stays as it is."""
        kept = np.flatnonzero(rng.random(count) >= self.drop)
        if count and not len(kept):
            kept = rng.integers(count, size=1)
        if rng.random() < self.reorder:
            kept = rng.permutation(kept)
        order = kept.tolist()
        return None if order == list(range(count)) else order


def rebuild_caption(
    sentences: Sequence[Sequence[int]], order: Sequence[int], limit: int
) -> tuple[list[int], dict[int, tuple[int, int]]]:
    """A caption of some of its sentences, from their tokens: CLIP's tokenizer never joins words.

    Args:
        sentences: token ids of each, with start and end of text.
        order: of those to take.
        limit: of tokens; the first sentence that does not fit ends the caption, unless it is the first of all.

    Returns:
        Token ids, with start and end of text, and for each sentence in it first and past-last token.
    """
    start, end = sentences[order[0]][0], sentences[order[0]][-1]
    caption, places = [start], {}
    for number in order:
        words = list(sentences[number][1:-1])
        if len(caption) + len(words) + 1 > limit:
            if not places:
                caption += words[: limit - 2]
            break
        places[number] = (len(caption), len(caption) + len(words))
        caption += words
    return [*caption, end], places


def mix_images(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The mean of two uint8 images of one size."""
    return ((one.astype(np.uint16) + other) // 2).astype(np.uint8)


def join_captions(one: Sequence[int], other: Sequence[int], limit: int) -> list[int]:
    """Two captions' tokens after each other, within `limit`: where both are too long, each keeps its half of the room.

    Args:
        one, other: token ids, with start and end of text.
    """
    first, second = list(one[1:-1]), list(other[1:-1])
    room = limit - 2
    keep = max(room - len(second), (room + 1) // 2)
    first = first[:keep]
    return [one[0], *first, *second[: room - len(first)], one[-1]]


def _shift(image: np.ndarray, down: int, right: int) -> np.ndarray:
    _, h, w = image.shape
    out = np.empty_like(image)
    out[:] = _mean_colour(image)
    out[:, max(down, 0) : h + min(down, 0), max(right, 0) : w + min(right, 0)] = image[
        :, max(-down, 0) : h - max(down, 0), max(-right, 0) : w - max(right, 0)
    ]
    return out


def _mean_colour(image: np.ndarray) -> np.ndarray:
    return image.mean(axis=(1, 2)).round().astype(image.dtype)[:, None, None]


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


__all__ = ["Augmentation", "join_captions", "mix_images", "rebuild_caption"]
