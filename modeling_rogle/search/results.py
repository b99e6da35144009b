"""Results of a search: the images in order, and the best region of each sentence."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from modeling_rogle.index.manifest import COPIES_FOLDER, COPY_COLUMN
from modeling_rogle.index.shards import SCHEMA, Index
from modeling_rogle.late_interaction import Interaction, ranks
from modeling_rogle.search.query import Query


@dataclass(frozen=True)
class SentenceMatch:
    """The region of an image that matches a sentence best.

    Attributes:
        sentence: the sentence.
        start: offset of the sentence in the query.
        end: offset of the end of the sentence in the query.
        label: name of the region; empty for a model without trained regions.
        box: bounding box x, y, w, h in pixels of the image; None if the whole image matches best, and for a model
            without trained regions.
        score: cosine of the sentence and the region.
        moved: number of ranks that the sentence raised (+) or lowered (-) the image: its rank without the sentence
            minus its rank.
    """

    sentence: str
    start: int
    end: int
    label: str
    box: tuple[float, float, float, float] | None
    score: float
    moved: int | None = None


@dataclass(frozen=True)
class Match:
    """One result of a search.

    Attributes:
        rank: rank from 1.
        path: path of the image relative to the indexed folder.
        file: absolute path of the image.
        score: final score, which determines the rank.
        global_score: cosine of the query and the image.
        width: width in pixels of the upright image (EXIF orientation applied).
        height: height in pixels of the upright image.
        sentences: the best region of each sentence of the query.
        global_rank: rank by `global_score` only.
        metadata: the user's columns.
        scene: the full image, for a person that a detector found in it.
        scene_file: absolute path of the full image, for such a person in a folder of images.
        scene_box: bounding box x, y, w, h of that person in pixels of the full image.
        probability: probability that the image shows the described person; None without a calibration and for results
            that late interaction did not rerank.
        others: paths of the other images that this result stands for, best first: exact copies and, where results are
            grouped, the rest of the group.
    """

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
    scene_file: Path | None = None
    scene_box: tuple[float, float, float, float] | None = None
    probability: float | None = None
    others: tuple[str, ...] = ()


class Matches(list[Match]):
    """The results of a search, best first.

    Attributes:
        no_match: whether the described person is likely not in the gallery; None without a calibration.
        false_alarm_rate: share of searches for absent people that get False in `no_match`, as `rogle calibrate`
            measured it, or its target if it was not measured; None without a calibration.
        false_alarm_interval: 95 % interval of the measured rate; None if it was not measured.
        trained_regions: whether the regions come from a model that learnt them; otherwise each sentence has the whole
            image, without a box.
    """

    no_match: bool | None = None
    false_alarm_rate: float | None = None
    false_alarm_interval: tuple[float, float] | None = None
    trained_regions: bool = True


def make_matches(
    index: Index,
    query: Query,
    interaction: Interaction,
    rows: np.ndarray,
    global_scores: np.ndarray,
    order: np.ndarray,
    others: Sequence[Sequence[int]],
    trained_regions: bool = True,
) -> Matches:
    """Creates the results of a search in the given order.

    Args:
        index: the index that was searched.
        query: the query, with S sentences.
        interaction: late interaction of the n candidates.
        rows: `[n]` rows of the candidates in the index.
        global_scores: `[n]` cosines of the query and the candidates.
        order: `[k]` positions among the candidates, best first.
        others: for each result, the rows of the other images that it stands for.
        trained_regions: show the best region of each sentence. Default: True.
    """
    global_ranks = ranks(global_scores)
    facts = index.table.take(rows[order]).to_pylist()
    matches = Matches()
    matches.trained_regions = trained_regions
    labels, folder = index.header["template_labels"], index.header["folder"]
    if not trained_regions:  # each sentence has the last template, the whole image, and no name
        labels, interaction = [""], replace(interaction, cosines=interaction.cosines[..., -1:])
    for rank, (candidate, row) in enumerate(zip(order.tolist(), facts, strict=True), start=1):
        path, copy, box = row["path"], row[COPY_COLUMN], row["box"]
        matches.append(
            Match(
                rank=rank,
                path=path,
                file=Path(folder, path) if copy is None else index.path.absolute() / COPIES_FOLDER / copy,
                score=float(interaction.score[candidate]),
                global_score=float(global_scores[candidate]),
                width=row["width"],
                height=row["height"],
                sentences=_sentence_matches(index, labels, query, interaction, candidate, row["width"], row["height"]),
                global_rank=int(global_ranks[candidate]),
                metadata={name: value for name, value in row.items() if name not in SCHEMA.names},
                scene=row["scene"],
                scene_file=Path(folder, row["scene"]) if row["scene"] and index.header["files"] else None,
                scene_box=None if box is None else tuple(box),
                others=tuple(index.paths[other] for other in others[rank - 1]),
            )
        )
    return matches


def _sentence_matches(
    index: Index, labels: list[str], query: Query, interaction: Interaction, candidate: int, width: int, height: int
) -> tuple[SentenceMatch, ...]:
    matches = []
    cosines, moved = interaction.cosines[candidate], interaction.moved[candidate]
    for (sentence, start, end), region_cosines, ranks_moved in zip(query.sentences, cosines, moved, strict=True):
        region = int(region_cosines.argmax())
        box = None
        if region < len(labels) - 1:  # the last template is the whole image, which needs no box
            x0, y0, x1, y1 = index.boxes[region].tolist()
            pixels = (x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height)
            box = tuple(round(value, 2) for value in pixels)
        score = float(region_cosines[region])
        matches.append(SentenceMatch(sentence, start, end, labels[region], box, score, int(ranks_moved)))
    return tuple(matches)


__all__ = ["Match", "Matches", "SentenceMatch", "make_matches"]
