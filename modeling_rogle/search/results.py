"""Results of a search: what was found, how it ranks, and which region and sentence it ranks there for."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modeling_rogle.index.manifest import COPIES_FOLDER, COPY_COLUMN
from modeling_rogle.index.shards import SCHEMA, Index
from modeling_rogle.late_interaction import Interaction, ranks
from modeling_rogle.search.query import Query


@dataclass(frozen=True)
class SentenceMatch:
    """The region of an image that fits a sentence best: its label, its cosine (`score`) and its `box` x, y, w, h in
    pixels of the image, None when the whole image fits best. `start`, `end`: the sentence's offsets in the query.
    `moved`: the ranks that the sentence lifted the image (+) or sank it (-): its rank without, minus its rank."""

    sentence: str
    start: int
    end: int
    label: str
    box: tuple[float, float, float, float] | None
    score: float
    moved: int | None = None


@dataclass(frozen=True)
class Match:
    """A result. `path` is relative to the indexed folder, `file` absolute; `score` ranks, `global_score` is the cosine
    of query and image, `global_rank` the rank by that alone; width and height in pixels of the upright image (EXIF
    applied). `metadata`: the user's columns; `scene`, `scene_box`: of a person that a detector found, the full image
    and x, y, w, h in its pixels; `probability` that this is the described person, None without a calibration or beyond
    late interaction."""

    rank: int
    path: str
    file: Path
    score: float
    global_score: float
    width: int
    height: int
    sentences: tuple[SentenceMatch, ...]
    global_rank: int = 0
    metadata: dict[str, Any] = field(default_factory=dict)
    scene: str | None = None
    scene_box: tuple[float, float, float, float] | None = None
    probability: float | None = None


class Matches(list[Match]):
    """The results of a search, best first. `nobody`: the person described is likely not in the gallery, at
    `false_alarm_rate`; both None without a calibration or beyond late interaction."""

    nobody: bool | None = None
    false_alarm_rate: float | None = None


def as_matches(
    index: Index, asked: Query, met: Interaction, rows: np.ndarray, global_scores: np.ndarray, order: np.ndarray
) -> Matches:
    """Results in the order given.

    Args:
        rows: `[n]` the candidates; global_scores: `[n]` their cosines; met: what late interaction made of them.
        order: places among the candidates, best first.
    """
    by_global = ranks(global_scores)
    facts = index.table.take(rows[order]).to_pylist()
    found = Matches()
    for rank, (place, fact) in enumerate(zip(order.tolist(), facts, strict=True), start=1):
        path, image, box = fact["path"], fact[COPY_COLUMN], fact["box"]
        found.append(
            Match(
                rank=rank,
                path=path,
                file=Path(index.header["folder"], path) if image is None else index.path / COPIES_FOLDER / image,
                score=float(met.score[place]),
                global_score=float(global_scores[place]),
                width=fact["width"],
                height=fact["height"],
                sentences=_explained(index, asked, met, place, fact["width"], fact["height"]),
                global_rank=int(by_global[place]),
                metadata={name: value for name, value in fact.items() if name not in SCHEMA.names},
                scene=fact["scene"],
                scene_box=None if box is None else tuple(box),
            )
        )
    return found


def _explained(
    index: Index, asked: Query, met: Interaction, place: int, width: int, height: int
) -> tuple[SentenceMatch, ...]:
    explained = []
    for (text, start, end), row, moved in zip(asked.sentences, met.cosines[place], met.moved[place], strict=True):
        region = int(row.argmax())  # of one cosine a region
        x0, y0, x1, y1 = index.boxes[region].tolist()
        # The last template is the whole image: a frame around everything would explain nothing.
        whole = region == len(row) - 1
        corners = (x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height)
        box = None if whole else tuple(round(value, 2) for value in corners)
        label = index.header["template_labels"][region]
        explained.append(SentenceMatch(text, start, end, label, box, float(row[region]), int(moved)))
    return tuple(explained)


__all__ = ["Match", "Matches", "SentenceMatch", "as_matches"]
