"""Reference lines of the local protocol, which need no model: random order, an image-free floor, and a ceiling.

They are printed with every table of the local protocol. A model that does not exceed the floor need not have used the
image. The ceiling is that of a model that knows all facts of all regions.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from modeling_rogle.evaluation.box_lookup import MIN_PAIRS, WordBoxes, keyword_boxes, true_pairs
from modeling_rogle.evaluation.local_protocol import (
    grounding,
    rank_sentences,
    region_relevance,
    true_regions_of_images,
)
from modeling_rogle.evaluation.protocols import RankedQueries, local_line
from modeling_rogle.evaluation.split_embeddings import SplitEmbeddings, without_images
from modeling_rogle.metrics.ranks import PairsOf, SimilarityBlock
from modeling_rogle.metrics.relevance import FactIndex, fact_pairs

RANDOM, LOOK_UP, ORACLE = "local/random", "local/look-up", "local/oracle"
REFERENCES = (RANDOM, LOOK_UP, ORACLE)
FITTED_ROWS = 2000  # training rows that the look-up is fitted on, evenly spread


def fit_look_up(rows: Any) -> WordBoxes | None:
    """Fits the image-free look-up.

    Args:
        rows: training rows; of the images nothing is read. None if there are none.

    Returns:
        One box for each word; None with fewer than 100 pairs of an annotator or of the generator. The
        look-up is then that of keywords and template boxes.
    """
    if rows is None or len(rows) == 0:
        return None
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(FITTED_ROWS, len(rows))).round().astype(int))
    rows = without_images(rows)
    rows = rows.select(chosen) if hasattr(rows, "select") else [rows[int(n)] for n in chosen]
    texts, boxes = true_pairs(rows)
    return WordBoxes.fit(texts, boxes) if len(texts) >= MIN_PAIRS else None


def sentences_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The sentences of all long captions, in the order of `encode_split`."""
    return [sentence["text"] for row in without_images(rows) if row["caption"] for sentence in row["sentences"]]


def reference_lines(
    embeddings: SplitEmbeddings, texts: Sequence[str], look_up: WordBoxes | None = None, ties: str = "pessimistic"
) -> dict[str, RankedQueries]:
    """The reference lines of a split.

    Args:
        embeddings: the split; its embeddings are not read.
        texts: its K sentences, see `sentences_of`.
        look_up: a fitted look-up; by default keywords and template boxes.
        ties: see `ranks.rank`.

    Returns:
        By line of the results: `local/random` (random similarities); `local/look-up` (the IoU of a region with the
        box that the words of the sentence suggest); if the rows have facts, `local/oracle` (knows the facts of every
        region, and orders regions with the same facts at random). Empty if no sentence has a region.
    """
    if not len(embeddings.own_regions):
        return {}
    relevance = region_relevance(embeddings)
    true = true_regions_of_images(embeddings, relevance)
    scored = np.unique(true[:, 0])
    boxes = keyword_boxes(texts) if look_up is None else look_up.boxes(texts)
    n_regions = len(embeddings.region_image)
    scorers: dict[str, SimilarityBlock] = {
        RANDOM: _random(n_regions),
        LOOK_UP: _overlap(boxes, region_corners(embeddings)),
    }
    if bool(embeddings.facts_known):
        index = FactIndex(embeddings.region_facts.numpy(), embeddings.region_image.numpy())
        scorers[ORACLE] = _oracle(fact_pairs(index, embeddings.claims.numpy(), len(texts)), n_regions)
    lines = {}
    for name, similarity in scorers.items():
        ranking = rank_sentences(embeddings, relevance, ties, similarity)
        extra = grounding(embeddings, true, boxes[scored]) if name == LOOK_UP else {}
        lines[name] = local_line(embeddings, ranking, extra)
    return lines


def region_corners(embeddings: SplitEmbeddings) -> np.ndarray:
    """float32 `[R, 4]`, the regions as x0, y0, x1, y1 in [0, 1] of their image."""
    boxes, sizes = embeddings.region_boxes, embeddings.image_sizes[embeddings.region_image].float()
    return np.concatenate([boxes[:, :2] / sizes, (boxes[:, :2] + boxes[:, 2:]) / sizes], axis=1).clip(0, 1)


def _random(n_regions: int) -> SimilarityBlock:
    def block(start: int, stop: int) -> np.ndarray:
        return np.random.default_rng(start).random((stop - start, n_regions), dtype=np.float32)

    return block


def _overlap(boxes: np.ndarray, regions: np.ndarray) -> SimilarityBlock:
    """IoU of boxes `[S, 4]` and regions `[R, 4]`."""
    region_areas = (regions[:, 2:] - regions[:, :2]).prod(axis=1)

    def block(start: int, stop: int) -> np.ndarray:
        part, inverse = np.unique(boxes[start:stop], axis=0, return_inverse=True)
        low = np.maximum(part[:, None, 0], regions[:, 0])
        shared = np.minimum(part[:, None, 2], regions[:, 2]) - low
        np.clip(shared, 0, None, out=shared)
        low = np.maximum(part[:, None, 1], regions[:, 1])
        shared *= np.clip(np.minimum(part[:, None, 3], regions[:, 3]) - low, 0, None)
        areas = (part[:, 2:] - part[:, :2]).prod(axis=1)
        shared /= np.maximum(areas[:, None] + region_areas - shared, 1e-9)
        return shared[inverse.reshape(-1)]

    return block


def _oracle(true: PairsOf, n_regions: int) -> SimilarityBlock:
    random = _random(n_regions)

    def block(start: int, stop: int) -> np.ndarray:
        similarity = random(start, stop)
        rows, columns = true(start, stop)[:2]
        similarity[rows, columns] += 1
        return similarity

    return block


__all__ = ["LOOK_UP", "ORACLE", "RANDOM", "REFERENCES", "fit_look_up", "reference_lines", "sentences_of"]
