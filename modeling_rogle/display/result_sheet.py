"""Images of search results: the query, the ranked persons, and the region that each sentence found. Pillow only."""

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from modeling_rogle.inference.image_io import ImageError, printable_path, read_image
from modeling_rogle.search.gallery import Match, SentenceMatch

# Dark enough for text on white, apart for colour-blind eyes too; the number beside each says the same without colour.
COLOURS = ("#c1272d", "#0062b8", "#1b7f3b", "#8e2fa8", "#b85c00", "#007f86", "#c2187f", "#5c5c00", "#3f3fbf", "#704214")
RIGHT, WRONG = "#1b7f3b", "#c1272d"
INK, GREY, PALE, PAPER = "#1a1a1a", "#6b6b6b", "#f1f1ef", "#ffffff"

CELL, THUMB_HEIGHT, MARGIN, GAP = 236, 372, 32, 18
TEXT, SMALL = 19, 15
MAX_DRAWN = 100  # results; far more would be an image that no format holds
MAX_SENTENCES = 12  # drawn; the others are counted
MAX_LINES = 4  # of one sentence
MARK = 18  # side of a number's square
DASH = 14
VERDICT = 6  # width of the frame around a right or wrong result
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def draw_results(
    matches: Sequence[Match],
    query: str,
    path: str | Path,
    correct: Sequence[bool] | None = None,
    columns: int = 5,
    verdict: str | None = None,
) -> Path:
    """Draws ranked results with the best region of each sentence in that sentence's colour, and saves the image.

    Args:
        matches: of one `Gallery.search`, best first; the first 100 are drawn, the heading counts the others.
        query: the description that was searched for.
        path: where to save (.png, .jpg or .webp); its folder is made.
        correct: for each match whether it is the person looked for, framed green with a tick or red with a cross.
        columns: results in a row.
        verdict: a line under the sentences, as "nobody here matches".

    Returns:
        `path`.

    Raises:
        ValueError: nothing to draw, another suffix, or `correct` of another length.
    """
    path = Path(path)
    check_suffix(path)
    if not matches:
        raise ValueError("no results to draw")
    if correct is not None and len(correct) != len(matches):
        raise ValueError(f"correct has {len(correct)} entries for {len(matches)} matches")
    left_out = max(0, len(matches) - MAX_DRAWN)
    matches = matches[:MAX_DRAWN]
    columns = max(1, min(columns, len(matches)))
    width = max(2 * MARGIN + columns * CELL + (columns - 1) * GAP, 760)
    sentences = matches[0].sentences
    heading = _heading(len(matches), left_out, sentences, width - 2 * MARGIN, verdict)
    cells = [_cell(match, None if correct is None else correct[i]) for i, match in enumerate(matches)]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    height = MARGIN + heading.height + sum(GAP + max(cell.height for cell in row) for row in rows) + MARGIN

    canvas = Image.new("RGB", (width, height), PAPER)
    canvas.paste(heading, (MARGIN, MARGIN))
    y = MARGIN + heading.height
    for row in rows:
        y += GAP
        for column, cell in enumerate(row):
            canvas.paste(cell, (MARGIN + column * (CELL + GAP), y))
        y += max(cell.height for cell in row)
    return save_figure(canvas, path)


def check_suffix(path: str | Path) -> None:
    """Raises ValueError for an image's path that [`draw_results`] could not save, before any work is done."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: save the image as {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")


def colour_of(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def font_of(size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def wrap(text: str, font: ImageFont.FreeTypeFont, width: float, most: int = MAX_LINES) -> list[str]:
    """Breaks a text into lines of at most `width` pixels, inside a word only when it is longer than a line; at most
    `most` lines, the last then ends in an ellipsis."""
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
    if len(lines) > most:
        last = lines[most - 1]
        while last and font.getlength(f"{last} …") > width:
            last = last[:-1]
        lines = [*lines[: most - 1], f"{last.rstrip()} …"]
    return lines


def _elided(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The end of a file name tells more than its middle: the middle goes."""
    if font.getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        shorter = f"{text[: kept // 3]}…{text[len(text) - (kept - kept // 3) :]}"
        if font.getlength(shorter) <= width:
            return shorter
    return "…"


def draw_mark(draw: ImageDraw.ImageDraw, x: float, y: float, number: int, side: int = MARK) -> None:
    draw.rectangle((x, y, x + side - 1, y + side - 1), fill=colour_of(number))
    draw.text((x + side / 2, y + side / 2), str(number + 1), fill=PAPER, font=font_of(side * 0.72), anchor="mm")


def _heading(
    results: int, more: int, sentences: Sequence[SentenceMatch], width: int, verdict: str | None
) -> Image.Image:
    font, small = font_of(TEXT), font_of(SMALL)
    blocks = [wrap(item.sentence, font, width - MARK - 12) for item in sentences[:MAX_SENTENCES]]
    left_out = len(sentences) - len(blocks)
    line_height, block_gap = TEXT + 7, 5
    said = wrap(verdict, font, width) if verdict else []
    height = 26 + sum(len(lines) * line_height + block_gap for lines in blocks) + (24 if left_out else 0)
    height += len(said) * line_height
    image = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((0, 0), _title(results, more), fill=GREY, font=small)
    y = 26
    for number, lines in enumerate(blocks):
        draw_mark(draw, 0, y + 2, number)
        for line in lines:
            draw.text((MARK + 12, y), line, fill=colour_of(number), font=font)
            y += line_height
        y += block_gap
    if left_out:
        draw.text((MARK + 12, y), f"and {left_out} more sentences, not drawn", fill=GREY, font=small)
        y += 24
    for line in said:
        draw.text((0, y), line, fill=INK, font=font)
        y += line_height
    return image


def _title(results: int, more: int) -> str:
    plural = "s" if results != 1 else ""
    return f"{results} best result{plural}{f' (and {more} more, not drawn)' if more else ''} for"


@dataclass(frozen=True)
class _Thumb:
    image: Image.Image | None
    left: int
    top: int
    scale: float  # thumbnail pixels per pixel of the image


def _thumb(match: Match, border: int) -> _Thumb:
    # Whole and undistorted: a person is tall, and the feet are half of what a sentence talks about.
    scale = min((CELL - 2 * border) / match.width, (THUMB_HEIGHT - 2 * border) / match.height)
    size = max(1, round(match.width * scale)), max(1, round(match.height * scale))
    left, top = (CELL - size[0]) // 2, (THUMB_HEIGHT - size[1]) // 2
    try:
        image = read_image(match.file, match.path, (size[1], size[0])).image
    except ImageError:
        return _Thumb(None, left, top, scale)
    return _Thumb(image.resize(size, Image.Resampling.LANCZOS), left, top, scale)


def draw_result(match: Match) -> Image.Image:
    """One result as [`draw_results`] draws it: the whole image with its regions, and what is known of them below."""
    return _cell(match, None)


def _cell(match: Match, correct: bool | None) -> Image.Image:
    small = font_of(SMALL)
    listed = match.sentences[:MAX_SENTENCES]
    below, line_height = THUMB_HEIGHT + 8, SMALL + 6
    image = Image.new("RGB", (CELL, below + 2 * line_height + 6 + len(listed) * line_height), PAPER)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, CELL - 1, THUMB_HEIGHT - 1), fill=PALE)
    thumb = _thumb(match, 0 if correct is None else VERDICT)
    if thumb.image is None:
        draw.text((CELL / 2, THUMB_HEIGHT / 2), "image not there any more", fill=GREY, font=small, anchor="mm")
    else:
        image.paste(thumb.image, (thumb.left, thumb.top))
        _draw_regions(draw, listed, thumb)
    rank = f"#{match.rank}"
    draw.text((0, below), rank, fill=INK, font=font_of(TEXT))
    if correct is not None:
        _draw_verdict(draw, correct, font_of(TEXT).getlength(rank) + 8, below + 1)
    chance = "" if match.probability is None else f"{match.probability:.0%}   "
    draw.text((CELL, below + 2), f"{chance}score {match.score:.3f}", fill=INK, font=small, anchor="ra")
    name = _elided(printable_path(match.path), small, CELL)
    draw.text((0, below + line_height + 4), name, fill=GREY, font=small)
    y = below + 2 * line_height + 6
    for number, found in enumerate(listed):
        draw_mark(draw, 0, y + 1, number, SMALL + 1)
        draw.text((SMALL + 10, y), found.label, fill=colour_of(number), font=small)
        moved = f"{found.moved:+d} rank{'s' * (abs(found.moved) != 1)}   " if found.moved else ""
        draw.text((CELL, y), f"{moved}{found.score:.2f}", fill=GREY, font=small, anchor="ra")
        y += line_height
    return image


def _draw_regions(draw: ImageDraw.ImageDraw, listed: Sequence[SentenceMatch], thumb: _Thumb) -> None:
    by_box: dict[tuple[float, ...], list[int]] = {}
    for number, found in enumerate(listed):
        if found.box is not None:
            by_box.setdefault(found.box, []).append(number)
    taken: list[tuple[float, float]] = []
    marks: list[tuple[float, float, int]] = []
    for box, numbers in by_box.items():
        x, y, w, h = (value * thumb.scale for value in box)
        x0, y0 = thumb.left + x, thumb.top + y
        _draw_frame(draw, x0, y0, max(x0 + w - 1, x0 + 4), max(y0 + h - 1, y0 + 4), numbers)
        above = y0 - MARK if y0 >= MARK else y0  # beside the region where there is room, not on it
        for number in numbers:
            place = _free_place(x0, above, taken)
            taken.append(place)
            marks.append((*place, number))
    for x, y, number in marks:  # over all frames
        draw_mark(draw, x, y, number)


def _draw_frame(draw: ImageDraw.ImageDraw, x0: float, y0: float, x1: float, y1: float, numbers: Sequence[int]) -> None:
    """A frame on a white ground; sentences that share a region take turns along it, in dashes."""
    draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=PAPER, width=5)
    if len(numbers) == 1:
        draw.rectangle((x0, y0, x1, y1), outline=colour_of(numbers[0]), width=3)
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
            draw.rectangle((left + dx[0], top + dy[0], right + dx[1], bottom + dy[1]), fill=colour_of(numbers[turn]))
            turn = (turn + 1) % len(numbers)


def _free_place(x: float, y: float, taken: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The first place for a mark from a frame's corner to the right, then in the rows below, that no other mark has."""
    x, y = min(max(x, 0), CELL - MARK), min(max(y, 0), THUMB_HEIGHT - MARK)
    for step in range(200):
        down, right = divmod(step, 4)
        place = min(x + right * MARK, CELL - MARK), min(y + down * MARK, THUMB_HEIGHT - MARK)
        if all(abs(place[0] - other[0]) >= MARK or abs(place[1] - other[1]) >= MARK for other in taken):
            return place
    return x, y


def _draw_verdict(draw: ImageDraw.ImageDraw, correct: bool, x: float, y: float) -> None:
    colour = RIGHT if correct else WRONG
    draw.rectangle((0, 0, CELL - 1, THUMB_HEIGHT - 1), outline=colour, width=VERDICT)
    draw.rectangle((x, y, x + 20, y + 20), fill=colour)
    if correct:
        draw.line((x + 4, y + 10, x + 9, y + 15, x + 16, y + 5), fill=PAPER, width=3, joint="curve")
    else:
        draw.line((x + 5, y + 5, x + 15, y + 15), fill=PAPER, width=3)
        draw.line((x + 15, y + 5, x + 5, y + 15), fill=PAPER, width=3)


def save_figure(image: Image.Image, path: Path) -> Path:
    """Writes an image atomically, in the format that the suffix names; makes the folder. Returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, so that the last step is one rename, and with the suffix that names the format.
    unfinished = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    try:
        image.save(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


__all__ = ["check_suffix", "colour_of", "draw_mark", "draw_result", "draw_results", "font_of", "save_figure", "wrap"]
