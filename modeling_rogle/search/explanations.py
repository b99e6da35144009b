"""Explains results with crops: the best region of each sentence, from one forward pass per region and image.

This needs no trained regions: every region is encoded as an image of its own.
"""

from dataclasses import replace

import numpy as np
from PIL import Image

from modeling_rogle.image_io import ImageError, read_image
from modeling_rogle.search.query import Encoder
from modeling_rogle.search.results import Match, Matches, SentenceMatch

_Box = tuple[float, float, float, float]


def explain_with_crops(encoder: Encoder, matches: Matches, boxes: np.ndarray, labels: tuple[str, ...]) -> int:
    """Replaces the regions of results with those whose crops match the sentences best. Scores and ranks stay.

    Args:
        encoder: the encoder of the index.
        matches: the results of a search, changed in place. An image that cannot be read any more keeps its regions.
        boxes: `[T, 4]` regions x0, y0, x1, y1 in [0, 1]; the last one is the whole image.
        labels: T names of the regions.

    Returns:
        the number of crops that were encoded.
    """
    if not matches or not matches[0].sentences:  # the query is an image
        return 0
    texts = encoder.encode_texts([item.sentence for item in matches[0].sentences])
    encoded = 0
    for number, match in enumerate(matches):
        try:
            image = read_image(match.file, match.path).image
        except ImageError:
            continue
        crops, pixels = _crops(image, boxes, match)
        cosines = texts @ encoder.encode_images(crops)[0].T
        encoded += len(crops)
        sentences = [
            _best(sentence, row, labels, pixels) for sentence, row in zip(match.sentences, cosines, strict=True)
        ]
        matches[number] = replace(match, sentences=tuple(sentences))
    return encoded


def _crops(image: Image.Image, boxes: np.ndarray, match: Match) -> tuple[list[Image.Image], list[_Box]]:
    """Crops of an image, and their boxes x, y, w, h in pixels of the indexed image, which a copy may have reduced."""
    crops, pixels = [], []
    across, down = match.width / image.width, match.height / image.height
    for x0, y0, x1, y1 in boxes.tolist():
        left, top = min(round(x0 * image.width), image.width - 1), min(round(y0 * image.height), image.height - 1)
        right, bottom = max(left + 1, round(x1 * image.width)), max(top + 1, round(y1 * image.height))
        crops.append(image.crop((left, top, right, bottom)))
        pixels.append((left * across, top * down, (right - left) * across, (bottom - top) * down))
    return crops, pixels


def _best(sentence: SentenceMatch, cosines: np.ndarray, labels: tuple[str, ...], pixels: list[_Box]) -> SentenceMatch:
    region = int(cosines.argmax())
    box = pixels[region] if region < len(labels) - 1 else None  # the whole image needs no box
    return replace(sentence, label=labels[region], box=box, score=float(cosines[region]))


__all__ = ["explain_with_crops"]
