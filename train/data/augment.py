"""Changes of image and caption in training that keep bounding boxes and sentence spans correct."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Augmentation:
    """Probabilities of the changes; each defaults to 0.0, never.

    Args:
        crop (`float`): shift the image by up to 1/16 of its height and width (the field's padding and random crop).
            The border is filled with the image's mean colour.
        erase (`float`): paint a rectangle of 2 to 20 % of the image in its mean colour (Random Erasing,
            arXiv 1708.04896).
        approximate (`float`): make a caption approximate (`dataset_pvlg/generation/text_edits.py`).
        mix (`float`): average the image with one of another person and join both captions. A mixed pair has no
            regions, and its identity is its own. With `approximate=0.5` this is the batch side of PDG
            (arXiv 2311.09084), which mixes features half of the time. Averaged pixels are averaged patch embeddings,
            the first features of a ViT, because these are linear.
    """

    crop: float = 0.0
    erase: float = 0.0
    approximate: float = 0.0
    mix: float = 0.0

    def __bool__(self) -> bool:
        return any(asdict(self).values())

    def change_image(
        self, image: np.ndarray, boxes: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Crops and erases.

        Args:
            image: `[3, height, width]` uint8, not modified.
            boxes: `[n, 4]` float32 x0, y0, x1, y1 in [0, 1].
            rng: source of the draws.

        Returns:
            The new image, the new boxes, and `[n]` bool: whether at least half of the box is still visible. The
            sentence of any other box no longer describes it.
        """
        visible = np.ones(len(boxes))
        if rng.random() < self.crop:
            _, h, w = image.shape
            down, right = (int(rng.integers(-(size // 16), size // 16 + 1)) for size in (h, w))
            image = _shift(image, down, right)
            moved = boxes + np.array([right / w, down / h, right / w, down / h], dtype=np.float32)
            before, boxes = _area(boxes), moved.clip(0, 1)
            visible = _area(boxes) / np.maximum(before, 1e-12)
        if rng.random() < self.erase:
            _, h, w = image.shape
            area, ratio = rng.uniform(0.02, 0.2), np.exp(rng.uniform(-1, 1))
            height, width = min(np.sqrt(area * ratio), 1.0), min(np.sqrt(area / ratio), 1.0)
            top, left = rng.uniform(0, 1 - height), rng.uniform(0, 1 - width)
            rows = slice(int(top * h), max(int(top * h) + 1, round((top + height) * h)))
            columns = slice(int(left * w), max(int(left * w) + 1, round((left + width) * w)))
            image = image.copy()
            image[:, rows, columns] = _mean_colour(image)
            erased = np.array([columns.start / w, rows.start / h, columns.stop / w, rows.stop / h], dtype=np.float32)
            hidden = np.concatenate(
                [np.maximum(boxes[:, :2], erased[:2]), np.minimum(boxes[:, 2:], erased[2:])], axis=1
            )
            hidden[:, 2:] = np.maximum(hidden[:, 2:], hidden[:, :2])
            visible = visible * (1 - _area(hidden) / np.maximum(_area(boxes), 1e-12))
        return image, boxes, visible >= 0.5


def mix_images(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The mean of two uint8 images of equal size."""
    return ((first.astype(np.uint16) + second) // 2).astype(np.uint8)


def join_captions(first: Sequence[int], second: Sequence[int], limit: int) -> list[int]:
    """Joins the tokens of two captions. If the result is too long, each caption keeps at most half of the limit.

    Args:
        first: token ids, with start and end of text.
        second: token ids, with start and end of text.
        limit: maximum number of tokens of the result.
    """
    head, tail = list(first[1:-1]), list(second[1:-1])
    available = limit - 2
    head = head[: max(available - len(tail), (available + 1) // 2)]
    return [first[0], *head, *tail[: available - len(head)], first[-1]]


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


__all__ = ["Augmentation", "join_captions", "mix_images"]
