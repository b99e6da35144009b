"""A result image of the worst queries: the caption, the first correct image with its rank, and the top results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from modeling_rogle.display.drawing import GREY, INK, PALE, PAPER, RIGHT, WRONG, save_image, wrap_text
from modeling_rogle.evaluation.fusion import caption_similarities
from modeling_rogle.evaluation.protocols import RankedQueries
from modeling_rogle.evaluation.split_embeddings import SplitEmbeddings
from modeling_rogle.image_io import decode_stored
from modeling_rogle.inference.row_images import undecoded
from modeling_rogle.late_interaction import fuse

SHOWN = 5  # results per query
CELL, TALL, GAP, MARGIN, BAND = 132, 296, 12, 28, 26
TEXT, SMALL = 15, 13
FRAME, MAX_LINES = 5, 7


@dataclass(frozen=True)
class Failure:
    """One caption and its top results.

    Attributes:
        text: the caption.
        image: row of the caption's own image.
        first_correct: row of the best-ranked image of the same identity.
        rank: rank of that image, from 1.
        average_precision: of this query, in [0, 1].
        top: rows of the top results.
        correct: whether each of them has the same identity.
    """

    text: str
    image: int
    first_correct: int
    rank: int
    average_precision: float
    top: list[int]
    correct: list[bool]


def worst_queries(
    embeddings: SplitEmbeddings, ranked: RankedQueries, texts: Sequence[str], count: int, local_weight: float = 0.0
) -> list[Failure]:
    """The captions with the worst first correct image; on equal ranks, those with the lower average precision.

    Args:
        embeddings: the split.
        ranked: a line of captions against images, of kind `long` or `short`.
        texts: the texts of all captions of that kind.
        count: number of captions.
        local_weight: the weight that the line was ranked with, 0 by default.

    Returns:
        At most `count` failures, the worst first.

    Raises:
        ValueError: a line of another kind of query.
    """
    if ranked.kind not in ("long", "short"):
        raise ValueError(f"failures are drawn of captions against images, not of queries of kind {ranked.kind!r}")
    ranking, people = ranked.ranking, embeddings.image_person_ids.numpy()
    similarities = caption_similarities(embeddings, getattr(embeddings, ranked.kind))
    scored = np.flatnonzero(ranking.n_positives > 0)
    order = np.lexsort((scored, ranking.average_precision[scored], -ranking.first_rank[scored]))
    failures = []
    for row in scored[order][:count]:
        query = int(ranked.query[row])
        scores = fuse(*similarities(query, query + 1), local_weight)[0]
        same = people == ranked.person_ids[row]
        order_of_images = np.lexsort((same, -scores))  # on equal scores the wrong image first, as in the ranking
        failures.append(
            Failure(
                text=texts[query],
                image=int(ranked.image[row]),
                first_correct=int(order_of_images[same[order_of_images]][0]),
                rank=int(ranking.first_rank[row]),
                average_precision=float(ranking.average_precision[row]),
                top=order_of_images[:SHOWN].tolist(),
                correct=same[order_of_images[:SHOWN]].tolist(),
            )
        )
    return failures


def draw_failures(failures: Sequence[Failure], rows: Sequence[Mapping[str, Any]], path: Path, title: str) -> Path:
    """Draws failures one below the other and saves the image atomically.

    Args:
        failures: see `worst_queries`.
        rows: the rows of the split, with images.
        path: output file, .webp, .png or .jpg.
        title: heading: model, data, protocol.

    Returns:
        The path.

    Raises:
        ValueError: there are no failures.
    """
    if not failures:
        raise ValueError("there are no failures to draw")
    width = 2 * MARGIN + (1 + SHOWN) * CELL + SHOWN * GAP + 2 * GAP
    rows = undecoded(rows)
    strips = [_strip(failure, rows, width - 2 * MARGIN) for failure in failures]
    heading = wrap_text(title, _font(TEXT), width - 2 * MARGIN, max_lines=3)
    top = MARGIN + len(heading) * (TEXT + 7)
    canvas = Image.new("RGB", (width, top + sum(s.height + BAND for s in strips) + MARGIN), PAPER)
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(heading):
        draw.text((MARGIN, MARGIN + number * (TEXT + 7)), line, fill=GREY, font=_font(TEXT))
    for strip in strips:
        draw.line((MARGIN, top + BAND // 2, width - MARGIN, top + BAND // 2), fill=PALE, width=2)
        canvas.paste(strip, (MARGIN, top + BAND))
        top += BAND + strip.height
    return save_image(canvas, path)


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _strip(failure: Failure, rows: Sequence[Mapping[str, Any]], width: int) -> Image.Image:
    lines = wrap_text(failure.text, _font(TEXT), width, max_lines=MAX_LINES)
    below = len(lines) * (TEXT + 6) + 10
    image = Image.new("RGB", (width, below + TALL + SMALL + 8), PAPER)
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((0, number * (TEXT + 6)), line, fill=INK, font=_font(TEXT))
    # The correct image is left of a gap, the ranked list right of it.
    _paste(image, draw, rows[failure.first_correct], 0, below, None, f"first correct: #{failure.rank}")
    for number, (row, correct) in enumerate(zip(failure.top, failure.correct, strict=True)):
        left = CELL + 3 * GAP + number * (CELL + GAP)
        _paste(image, draw, rows[row], left, below, correct, f"#{number + 1}")
    return image


def _paste(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    row: Mapping[str, Any],
    x: int,
    y: int,
    correct: bool | None,
    label: str,
) -> None:
    photo = decode_stored(row["image"], "").image
    scale = min((CELL - 2 * FRAME) / photo.width, (TALL - 2 * FRAME) / photo.height)
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    draw.rectangle((x, y, x + CELL - 1, y + TALL - 1), fill=PALE)
    canvas.paste(photo.resize(size, Image.Resampling.LANCZOS), (x + (CELL - size[0]) // 2, y + (TALL - size[1]) // 2))
    colour = INK
    if correct is not None:
        colour = RIGHT if correct else WRONG
        draw.rectangle((x, y, x + CELL - 1, y + TALL - 1), outline=colour, width=FRAME)
        label += " correct" if correct else " wrong"  # in words too, for readers who cannot separate red from green
    draw.text((x, y + TALL + 4), label, fill=colour, font=_font(SMALL))
