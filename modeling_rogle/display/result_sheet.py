"""The result image of a search: the query, the ranked persons, and the region that matches each sentence.

Pillow only: no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from modeling_rogle.display.drawing import (
    CELL,
    CELL_HEIGHT,
    GAP,
    GREY,
    INK,
    MARGIN,
    MARK,
    PALE,
    PAPER,
    RIGHT,
    SMALL,
    TEXT,
    WRONG,
    check_image_suffix,
    draw_frame,
    draw_number,
    fit_size,
    load_font,
    save_image,
    sentence_colour,
    shorten_middle,
    wrap_text,
)
from modeling_rogle.display.scenes import draw_scene
from modeling_rogle.image_io import ImageError, printable_path, read_image

if TYPE_CHECKING:
    from modeling_rogle.search.results import Match, SentenceMatch

MAX_RESULTS = 100  # an image of many more exceeds the size limits of the formats
MAX_SENTENCES = 12
SCENE_HEIGHT = 140  # pixels: most of a scene below its person
VERDICT = 6  # pixels: the frame around a correct or wrong result


def draw_results(
    matches: Sequence[Match],
    path: str | Path,
    correct: Sequence[bool] | None = None,
    columns: int = 5,
    verdict: str | None = None,
) -> Path:
    """Draws ranked results, with the best region of each sentence in that sentence's colour, and saves the image.

    Args:
        matches: the results of one `Gallery.search`, best first. The first 100 are drawn; the heading counts the rest.
            The first 12 sentences are drawn.
        path: the file to write (.png, .jpg or .webp); its folder is created.
        correct: for each match, whether it shows the person searched for: a green frame with a tick, or a red frame
            with a cross. Default: no frames.
        columns: results per row. Default: 5.
        verdict: a line below the sentences, for example [`text_output.verdict`]. Default: none.

    Returns:
        `path`.

    Raises:
        ValueError: there are no matches, the suffix is not supported, or `correct` has another length than `matches`.
    """
    path = Path(path)
    check_image_suffix(path)
    if not matches:
        raise ValueError("no results to draw")
    if correct is not None and len(correct) != len(matches):
        raise ValueError(f"correct has {len(correct)} entries for {len(matches)} matches")
    not_drawn = max(0, len(matches) - MAX_RESULTS)
    matches = matches[:MAX_RESULTS]
    columns = max(1, min(columns, len(matches)))
    width = max(2 * MARGIN + columns * CELL + (columns - 1) * GAP, 760)
    heading = _heading(_title(len(matches), not_drawn), matches[0].sentences, width - 2 * MARGIN, verdict)
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
    return save_image(canvas, path)


def draw_result(match: Match) -> Image.Image:
    """Draws one result as [`draw_results`] does: the whole image with its regions, and its scores below."""
    return _cell(match, None)


def _heading(title: str, sentences: Sequence[SentenceMatch], width: int, verdict: str | None) -> Image.Image:
    font, small = load_font(TEXT), load_font(SMALL)
    blocks = [wrap_text(item.sentence, font, width - MARK - 12) for item in sentences[:MAX_SENTENCES]]
    not_drawn = len(sentences) - len(blocks)
    line_height, block_gap = TEXT + 7, 5
    verdict_lines = wrap_text(verdict, font, width) if verdict else []
    height = 26 + sum(len(lines) * line_height + block_gap for lines in blocks) + (24 if not_drawn else 0)
    height += len(verdict_lines) * line_height
    image = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((0, 0), title, fill=GREY, font=small)
    y = 26
    for number, lines in enumerate(blocks):
        draw_number(draw, 0, y + 2, number)
        for line in lines:
            draw.text((MARK + 12, y), line, fill=sentence_colour(number), font=font)
            y += line_height
        y += block_gap
    if not_drawn:
        draw.text((MARK + 12, y), f"and {not_drawn} more sentences, not drawn", fill=GREY, font=small)
        y += 24
    for line in verdict_lines:
        draw.text((0, y), line, fill=INK, font=font)
        y += line_height
    return image


def _title(results: int, not_drawn: int) -> str:
    plural = "s" if results != 1 else ""
    return f"{results} best result{plural}{f' (and {not_drawn} more, not drawn)' if not_drawn else ''} for"


@dataclass(frozen=True)
class _Thumbnail:
    image: Image.Image | None  # None if the file cannot be read any more
    left: int
    top: int
    scale: float  # thumbnail pixels per pixel of the image


def _thumbnail(match: Match, border: int) -> _Thumbnail:
    # The whole image without distortion: a person is tall, and many sentences describe the shoes.
    size, scale = fit_size(match.width, match.height, CELL - 2 * border, CELL_HEIGHT - 2 * border)
    left, top = (CELL - size[0]) // 2, (CELL_HEIGHT - size[1]) // 2
    try:
        image = read_image(match.file, match.path, (size[1], size[0])).image
    except ImageError:
        return _Thumbnail(None, left, top, scale)
    return _Thumbnail(image.resize(size, Image.Resampling.LANCZOS), left, top, scale)


def _cell(match: Match, correct: bool | None) -> Image.Image:
    small = load_font(SMALL)
    sentences = match.sentences[:MAX_SENTENCES]
    scene = draw_scene(match, CELL, SCENE_HEIGHT)
    below, line_height = CELL_HEIGHT + 8 + (0 if scene is None else scene.height + 8), SMALL + 6
    image = Image.new("RGB", (CELL, below + 2 * line_height + 6 + len(sentences) * line_height), PAPER)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, CELL - 1, CELL_HEIGHT - 1), fill=PALE)
    thumbnail = _thumbnail(match, 0 if correct is None else VERDICT)
    if thumbnail.image is None:
        draw.text((CELL / 2, CELL_HEIGHT / 2), "image not available", fill=GREY, font=small, anchor="mm")
    else:
        image.paste(thumbnail.image, (thumbnail.left, thumbnail.top))
        _draw_regions(draw, sentences, thumbnail)
    if scene is not None:
        image.paste(scene, ((CELL - scene.width) // 2, CELL_HEIGHT + 8))
    rank = f"#{match.rank}"
    draw.text((0, below), rank, fill=INK, font=load_font(TEXT))
    if correct is not None:
        _draw_verdict(draw, correct, load_font(TEXT).getlength(rank) + 8, below + 1)
    probability = "" if match.probability is None else f"{match.probability:.0%}   "
    draw.text((CELL, below + 2), f"{probability}score {match.score:.3f}", fill=INK, font=small, anchor="ra")
    name = shorten_middle(printable_path(match.path), small, CELL)
    draw.text((0, below + line_height + 4), name, fill=GREY, font=small)
    y = below + 2 * line_height + 6
    for number, sentence in enumerate(sentences):
        draw_number(draw, 0, y + 1, number, SMALL + 1)
        draw.text((SMALL + 10, y), sentence.label, fill=sentence_colour(number), font=small)
        moved = f"{sentence.moved:+d} rank{'s' * (abs(sentence.moved) != 1)}   " if sentence.moved else ""
        draw.text((CELL, y), f"{moved}{sentence.score:.2f}", fill=GREY, font=small, anchor="ra")
        y += line_height
    return image


def _draw_regions(draw: ImageDraw.ImageDraw, sentences: Sequence[SentenceMatch], thumbnail: _Thumbnail) -> None:
    by_box: dict[tuple[float, ...], list[int]] = {}
    for number, sentence in enumerate(sentences):
        if sentence.box is not None:
            by_box.setdefault(sentence.box, []).append(number)
    taken: list[tuple[float, float]] = []
    marks: list[tuple[float, float, int]] = []
    for box, numbers in by_box.items():
        x, y, w, h = (value * thumbnail.scale for value in box)
        x0, y0 = thumbnail.left + x, thumbnail.top + y
        draw_frame(draw, x0, y0, max(x0 + w - 1, x0 + 4), max(y0 + h - 1, y0 + 4), numbers)
        above = y0 - MARK if y0 >= MARK else y0  # above the region if there is space, not on it
        for number in numbers:
            position = _free_position(x0, above, taken)
            taken.append(position)
            marks.append((*position, number))
    for x, y, number in marks:  # over all frames
        draw_number(draw, x, y, number)


def _free_position(x: float, y: float, taken: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The first free position of a mark: from a frame's corner to the right, then in the rows below."""
    x, y = min(max(x, 0), CELL - MARK), min(max(y, 0), CELL_HEIGHT - MARK)
    for step in range(200):
        down, right = divmod(step, 4)
        position = min(x + right * MARK, CELL - MARK), min(y + down * MARK, CELL_HEIGHT - MARK)
        if all(abs(position[0] - other[0]) >= MARK or abs(position[1] - other[1]) >= MARK for other in taken):
            return position
    return x, y


def _draw_verdict(draw: ImageDraw.ImageDraw, correct: bool, x: float, y: float) -> None:
    colour = RIGHT if correct else WRONG
    draw.rectangle((0, 0, CELL - 1, CELL_HEIGHT - 1), outline=colour, width=VERDICT)
    draw.rectangle((x, y, x + 20, y + 20), fill=colour)
    if correct:
        draw.line((x + 4, y + 10, x + 9, y + 15, x + 16, y + 5), fill=PAPER, width=3, joint="curve")
    else:
        draw.line((x + 5, y + 5, x + 15, y + 15), fill=PAPER, width=3)
        draw.line((x + 15, y + 5, x + 5, y + 15), fill=PAPER, width=3)


__all__ = ["draw_result", "draw_results"]
