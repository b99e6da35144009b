"""Faults of real pedestrian data as rates, for tests and robustness studies. All rates are zero by default.

Text faults change captions, and sentence offsets stay correct. Image faults change the stored bytes or the boxes.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, fields

import numpy as np
from PIL import Image

_MISSPELT = {
    "wearing": "waering",
    "jacket": "jaket",
    "shirt": "shrit",
    "striped": "stripped",
    "sneakers": "sneekers",
    "trousers": "trowsers",
    "carrying": "carring",
    "glasses": "glases",
    "backpack": "backpak",
    "camera": "camara",
    "walking": "waking",
    "standing": "standng",
}
_CONTRARY = {"black": "white", "white": "black", "blue": "red", "red": "blue", "short": "long", "long": "short"}
_CONTRARY |= {"man": "woman", "woman": "man", "he": "she", "she": "he", "his": "her", "her": "his"}
_CJK = str.maketrans({".": "。", ",": "，"})
_WORD = re.compile(r"[A-Za-z-]+")


@dataclass(frozen=True)
class Noise:
    """Share of images with each fault, in [0, 1].

    Raises:
        ValueError: a rate is out of range; the message names it.
    """

    glued: float = 0.0  # no blank between sentences
    double_blanks: float = 0.0  # two blanks between sentences and before some words
    duplicate: float = 0.0  # the second short caption repeats the first
    contradictory: float = 0.0  # the second short caption contradicts the first
    swapped: float = 0.0  # all captions describe another identity
    misspelt: float = 0.0  # some words are misspelt
    cjk: float = 0.0  # full-width punctuation
    missing: float = 0.0  # no image, only its path
    odd_mode: float = 0.0  # palette or RGBA PNG, grey BMP, CMYK JPEG
    exif: float = 0.0  # rotated by 90 degrees, with an EXIF orientation that undoes it
    thin_box: float = 0.0  # one box is 1 pixel wide

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0.0 <= getattr(self, field.name) <= 1.0:
                raise ValueError(f"noise rate {field.name} must be in [0, 1], got {getattr(self, field.name)}")


def _replace_words(text: str, table: dict[str, str]) -> str:
    def replace(match: re.Match) -> str:
        word = match[0]
        other = table.get(word.lower(), word)
        return other[0].upper() + other[1:] if word[0].isupper() else other

    return _WORD.sub(replace, text)


def add_text_faults(
    short: list[str], texts: list[str], noise: Noise, rng: np.random.Generator
) -> tuple[list[str], list[str], str]:
    """Applies the text faults to the captions of one image.

    Args:
        short: the two short captions.
        texts: the sentences of the long caption.
        noise: rates of all faults.
        rng: random generator.

    Returns:
        The short captions, the texts of the sentences, and the blank between two sentences.
    """
    short, texts, blank = list(short), list(texts), " "
    # One random number for each fault in a fixed order, so that changing one rate does not affect the other faults.
    draw = dict(zip([f.name for f in fields(noise)], rng.random(len(fields(noise))), strict=True))
    if draw["duplicate"] < noise.duplicate:
        short[1] = short[0]
    if draw["contradictory"] < noise.contradictory:
        short[1] = _replace_words(short[0], _CONTRARY)
    if draw["misspelt"] < noise.misspelt:
        short, texts = [_replace_words(t, _MISSPELT) for t in short], [_replace_words(t, _MISSPELT) for t in texts]
    if draw["cjk"] < noise.cjk:
        short, texts = [t.translate(_CJK) for t in short], [t.translate(_CJK) for t in texts]
    if draw["glued"] < noise.glued:
        blank = ""
        short = [re.sub(r"\. ", ".", t) for t in short]
    elif draw["double_blanks"] < noise.double_blanks:
        blank = "  "
        short = [t.replace(" ", "  ") for t in short]
        texts = [t.replace(" is ", "  is ") for t in texts]
    return short, texts, blank


def encode_with_faults(
    image: Image.Image, noise: Noise, rng: np.random.Generator, quality: int
) -> tuple[bytes | None, str]:
    """Encodes an image and applies the image faults.

    Args:
        image: RGB.
        noise: rates of all faults.
        rng: random generator.
        quality: JPEG quality.

    Returns:
        The encoded bytes, or None for a missing file, and the suffix of the file. Without faults it is a JPEG.
    """
    out = io.BytesIO()
    draws = rng.random(3)
    if draws[0] < noise.missing:
        return None, ".jpg"
    if draws[1] < noise.odd_mode:
        mode, kind = [("P", "PNG"), ("RGBA", "PNG"), ("L", "BMP"), ("CMYK", "JPEG")][int(rng.integers(4))]
        image.convert(mode).save(out, kind)
        return out.getvalue(), {"PNG": ".png", "BMP": ".bmp", "JPEG": ".jpg"}[kind]
    if draws[2] < noise.exif:
        exif = Image.Exif()
        exif[0x0112] = 6  # viewers rotate it clockwise by 90 degrees, so the pixels are rotated counterclockwise
        image.transpose(Image.Transpose.ROTATE_90).save(out, "JPEG", quality=quality, exif=exif)
        return out.getvalue(), ".jpg"
    image.save(out, "JPEG", quality=quality)
    return out.getvalue(), ".jpg"


def thin_boxes(boxes: dict[str, tuple], noise: Noise, rng: np.random.Generator) -> dict[str, tuple]:
    """The boxes of an image, one of them reduced to a width of 1 pixel with the rate `thin_box`."""
    if not boxes or rng.random() >= noise.thin_box:
        return boxes
    label = sorted(boxes)[int(rng.integers(len(boxes)))]
    x, y, _, height = boxes[label]
    return {**boxes, label: (x, y, 1.0, height)}
