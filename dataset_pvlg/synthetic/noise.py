"""What goes wrong in real pedestrian data, as rates. All zero by default; for tests and robustness studies.

Text faults change captions and keep the sentence offsets right; image faults change the stored bytes or the boxes.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, fields

import numpy as np
from PIL import Image

from dataset_pvlg.synthetic.captions import Captions

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
    """Rates in [0, 1], each the share of images (swapped: of identities' images) that suffer the fault."""

    glued: float = 0.0  # sentences joined without a blank
    double_blanks: float = 0.0  # two blanks between sentences, and before some words
    duplicate: float = 0.0  # the second short caption repeats the first
    contradictory: float = 0.0  # the second short caption contradicts the first
    swapped: float = 0.0  # all captions are those of another identity
    misspelt: float = 0.0
    cjk: float = 0.0  # full-width punctuation
    missing: float = 0.0  # no image, only its path
    odd_mode: float = 0.0  # palette or RGBA PNG, grey BMP, CMYK JPEG
    exif: float = 0.0  # stored on its side with an EXIF orientation that says so
    thin_box: float = 0.0  # one box of the image is 1 pixel wide

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0.0 <= getattr(self, field.name) <= 1.0:
                raise ValueError(f"noise rate {field.name} must be in [0, 1], got {getattr(self, field.name)}")


def _sub(text: str, table: dict[str, str]) -> str:
    def change(match: re.Match) -> str:
        word = match[0]
        other = table.get(word.lower(), word)
        return other[0].upper() + other[1:] if word[0].isupper() else other

    return _WORD.sub(change, text)


def spoil_captions(captions: Captions, noise: Noise, rng: np.random.Generator) -> tuple[list[str], list[str], str]:
    """(short captions, sentence texts, the blank between sentences) with text faults put in."""
    short, texts, blank = list(captions.short), [text for text, _ in captions.sentences], " "
    # one draw for each fault in a fixed order: turning one knob does not move the others
    draw = dict(zip([f.name for f in fields(noise)], rng.random(len(fields(noise))), strict=True))
    if draw["duplicate"] < noise.duplicate:
        short[1] = short[0]
    if draw["contradictory"] < noise.contradictory:
        short[1] = _sub(short[0], _CONTRARY)
    if draw["misspelt"] < noise.misspelt:
        short, texts = [_sub(t, _MISSPELT) for t in short], [_sub(t, _MISSPELT) for t in texts]
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


def spoil_image(image: Image.Image, noise: Noise, rng: np.random.Generator, quality: int) -> tuple[bytes | None, str]:
    """(encoded bytes or None for a missing file, file suffix). Without faults: a JPEG of the given quality."""
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
        exif[0x0112] = 6  # shown turned clockwise by 90 degrees, so the pixels lie turned the other way
        image.transpose(Image.Transpose.ROTATE_90).save(out, "JPEG", quality=quality, exif=exif)
        return out.getvalue(), ".jpg"
    image.save(out, "JPEG", quality=quality)
    return out.getvalue(), ".jpg"


def thin_boxes(boxes: dict[str, tuple], noise: Noise, rng: np.random.Generator) -> dict[str, tuple]:
    """The boxes, one of them made 1 pixel wide where the fault strikes."""
    if not boxes or rng.random() >= noise.thin_box:
        return boxes
    label = sorted(boxes)[int(rng.integers(len(boxes)))]
    x, y, _, height = boxes[label]
    return {**boxes, label: (x, y, 1.0, height)}
