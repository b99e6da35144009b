"""Basics of every result image: colours, fonts, wrapped text, numbered marks, frames, and saving a file atomically.

Pillow only: no torch, so that results of the ONNX encoder can be drawn without it.
"""

import os
import secrets
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

# Dark enough for text on white and distinct for colour-blind readers; a number next to each colour repeats the meaning.
COLOURS = ("#c1272d", "#0062b8", "#1b7f3b", "#8e2fa8", "#b85c00", "#007f86", "#c2187f", "#5c5c00", "#3f3fbf", "#704214")
RIGHT, WRONG = "#1b7f3b", "#c1272d"
INK, GREY, PALE, PAPER = "#1a1a1a", "#6b6b6b", "#f1f1ef", "#ffffff"

# Pixels: a cell with one image, the outer margin, the gap between cells, and the two font sizes.
CELL, CELL_HEIGHT, MARGIN, GAP = 236, 372, 32, 18
TEXT, SMALL = 19, 15
MARK = 18  # side of the square around a sentence's number
DASH = 14  # length of a dash of a frame that several sentences share
MAX_LINES = 4
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def check_image_suffix(path: str | Path) -> None:
    """Checks that [`save_image`] can write this format, before any work is done.

    Raises:
        ValueError: the suffix is not one of `SUFFIXES`.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: save the image as {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")


def save_image(image: Image.Image, path: Path) -> Path:
    """Writes an image atomically in the format of its suffix, and creates the folder.

    An existing file stays complete until the new one replaces it.

    Returns:
        `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, so that the last step is one rename, and with the suffix that selects the format.
    unfinished = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    try:
        image.save(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def sentence_colour(number: int) -> str:
    """The colour of the sentence with this number, from 0; colours repeat after the tenth."""
    return COLOURS[number % len(COLOURS)]


def load_font(size: float) -> Font:
    """Pillow's built-in font, which needs no font file on the machine."""
    return ImageFont.load_default(size)


def fit_size(width: int, height: int, max_width: int, max_height: int) -> tuple[tuple[int, int], float]:
    """The largest size with the same aspect ratio inside a rectangle.

    Returns:
        The size (width, height), each at least 1, and the scale: new pixels per old pixel.
    """
    scale = min(max_width / width, max_height / height)
    return (max(1, round(width * scale)), max(1, round(height * scale))), scale


def wrap_text(text: str, font: Font, width: float, max_lines: int = MAX_LINES) -> list[str]:
    """Breaks a text into lines.

    Args:
        text: any text; white space is collapsed.
        font: the font it will be drawn with.
        width: pixels of a line; a word is broken only if it is longer than a line.
        max_lines: further text is cut, and the last line ends in an ellipsis. Default: 4.
    """
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if font.getlength(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        while font.getlength(word) > width:
            fitting = max(1, next(n for n in range(1, len(word) + 1) if font.getlength(word[:n]) > width) - 1)
            lines.append(word[:fitting])
            word = word[fitting:]
        line = word
    lines = lines + [line] if line else lines
    if len(lines) > max_lines:
        last = lines[max_lines - 1]
        while last and font.getlength(f"{last} …") > width:
            last = last[:-1]
        lines = [*lines[: max_lines - 1], f"{last.rstrip()} …"]
    return lines


def shorten_middle(text: str, font: Font, width: float) -> str:
    """Shortens a text to `width` pixels by cutting its middle, because the end of a file name matters more."""
    if font.getlength(text) <= width:
        return text
    for length in range(len(text) - 1, 1, -1):
        shorter = f"{text[: length // 3]}…{text[len(text) - (length - length // 3) :]}"
        if font.getlength(shorter) <= width:
            return shorter
    return "…"


def draw_number(draw: ImageDraw.ImageDraw, x: float, y: float, number: int, side: int = MARK) -> None:
    """Draws the mark of a sentence: its number plus one, white on a square of the sentence's colour."""
    draw.rectangle((x, y, x + side - 1, y + side - 1), fill=sentence_colour(number))
    draw.text((x + side / 2, y + side / 2), str(number + 1), fill=PAPER, font=load_font(side * 0.72), anchor="mm")


def draw_frame(draw: ImageDraw.ImageDraw, x0: float, y0: float, x1: float, y1: float, numbers: Sequence[int]) -> None:
    """Draws a frame on a white ground in the colour of its sentence, or in dashes of the colours of several sentences.

    Args:
        draw: the canvas.
        x0: left edge in pixels.
        y0: top edge in pixels.
        x1: right edge in pixels, inclusive.
        y1: bottom edge in pixels, inclusive.
        numbers: the sentences of this region, from 0.
    """
    draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=PAPER, width=5)
    if len(numbers) == 1:
        draw.rectangle((x0, y0, x1, y1), outline=sentence_colour(numbers[0]), width=3)
        return
    corners = ((x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0))
    turn = 0
    for (ax, ay), (bx, by) in pairwise(corners):
        length = abs(bx - ax) + abs(by - ay)
        dashes = max(1, round(length / DASH))
        for i in range(dashes):
            ends = [(ax + (bx - ax) * t / dashes, ay + (by - ay) * t / dashes) for t in (i, i + 1)]
            left, right = sorted(x for x, _ in ends)
            top, bottom = sorted(y for _, y in ends)
            # Inwards from the outline, as rectangle() draws it.
            dx = (0, 2) if ax == bx == x0 else (-2, 0) if ax == bx else (0, 0)
            dy = (0, 2) if ay == by == y0 else (-2, 0) if ay == by else (0, 0)
            colour = sentence_colour(numbers[turn])
            draw.rectangle((left + dx[0], top + dy[0], right + dx[1], bottom + dy[1]), fill=colour)
            turn = (turn + 1) % len(numbers)


__all__ = [
    "check_image_suffix",
    "draw_frame",
    "draw_number",
    "fit_size",
    "load_font",
    "save_image",
    "sentence_colour",
    "shorten_middle",
    "wrap_text",
]
