"""The local protocol: sentences against the regions of the whole gallery and of their own image, and grounding.

`eval/pvlg/README.md` defines the protocol. Relevance comes as sparse pairs with grades, see `relevance.py`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .cosine import cosine
from .inputs import as_embeddings, as_ids, check_length, device_for, embedding_pair
from .pairs import last_block_kept, listed_pairs, selected
from .ranks import PairsOf, Ranking, SimilarityBlock, index_like, rank, same_id, to_numpy


@dataclass(frozen=True)
class LocalRanking:
    """The result of the local protocol for Q sentences.

    Attributes:
        ranking: ranks among the regions of the whole gallery.
        within_hit: bool `[Q]`, whether the best region of the sentence's own image is relevant.
        within_chance: float64 `[Q]`, share of relevant regions among those of the own image. 0 where none is relevant;
            such a sentence does not count within the image.
    """

    ranking: Ranking
    within_hit: np.ndarray
    within_chance: np.ndarray

    def scores(self) -> dict[str, float]:
        """Means over the sentences.

        Returns:
            `Ranking.graded_scores`, and of the own image `within-R@1` and `within-chance` (the expected value of a
            random order) in percent, and `within-queries`, the number of sentences.
        """
        scored = self.within_chance > 0
        n = int(scored.sum())
        result = self.ranking.graded_scores()
        result["within-R@1"] = 100.0 * float(self.within_hit[scored].mean()) if n else 0.0
        result["within-chance"] = 100.0 * float(self.within_chance[scored].mean()) if n else 0.0
        return result | {"within-queries": n}


def rank_regions(
    similarity_block: SimilarityBlock,
    relevance: PairsOf,
    sentence_image: np.ndarray,
    region_image: np.ndarray,
    ties: str = "pessimistic",
    block_rows: int | None = None,
) -> LocalRanking:
    """The local protocol for any similarity.

    Args:
        similarity_block: see `rank`.
        relevance: sparse pairs with grades, see `local_ranking`.
        sentence_image: int64 `[Q]`, the image of each sentence.
        region_image: int64 `[R]`, the image of each region.
        ties: see `rank`.
        block_rows: see `rank`.

    Returns:
        The ranks, in the gallery and within the image.
    """
    n_query, n_region = len(sentence_image), len(region_image)
    relevance = last_block_kept(relevance)
    positives, ignored = positives_of(relevance), ignored_of(relevance)
    inside = same_id(sentence_image, region_image)
    hit, chance = np.zeros(n_query, dtype=bool), np.zeros(n_query)

    def block(start: int, stop: int) -> Any:
        similarity = similarity_block(start, stop)
        rows, columns = inside(start, stop)
        kept = ~_isin((rows, columns), ignored(start, stop), n_region)
        rows, columns = rows[kept], columns[kept]
        relevant = _isin((rows, columns), positives(start, stop), n_region)
        values = to_numpy(similarity[index_like(similarity, rows), index_like(similarity, columns)])
        tie = {"pessimistic": relevant, "optimistic": ~relevant, "stable": columns}[ties]
        order = np.lexsort((tie, -values, rows))
        owners, best = np.unique(rows[order], return_index=True)
        hit[start + owners] = relevant[order][best]
        counts = np.bincount(rows, minlength=stop - start)
        n_relevant = np.bincount(rows, relevant, stop - start)
        chance[start:stop] = n_relevant / np.maximum(counts, 1)
        return similarity

    ranking = rank(block, n_query, n_region, positives, ignored, ties, block_rows)
    return LocalRanking(ranking, hit, chance)


def _isin(pairs: tuple[np.ndarray, ...], listed: tuple[np.ndarray, ...], n_columns: int) -> np.ndarray:
    return np.isin(pairs[0] * n_columns + pairs[1], listed[0] * n_columns + listed[1])


def local_ranking(
    sentence_embeds: Any,
    sentence_image_ids: Any,
    gallery_embeds: Any,
    gallery_image_ids: Any,
    relevance: Any,
    ties: str = "pessimistic",
    device: Any = None,
) -> LocalRanking:
    """Local protocol: one sentence against all regions; every region of which it is true is relevant.

    Args:
        sentence_embeds: `[S, D]`, as in `global_ranking`.
        sentence_image_ids: `[S]` id of the image that each sentence describes.
        gallery_embeds: `[R, D]`.
        gallery_image_ids: `[R]` id of the image of each region.
        relevance: `[P, 3]` row of the sentence, row of the region, grade. Grades are 3 for a region that is paired with
            the sentence, 2 for another one of the same identity of which it is true, 1 for one of another identity,
            and 0 for a region that is ignored. Of several grades of a pair, the highest counts. Regions that are not
            listed are wrong. Or a function (start, stop) ->
            rows counted from start, columns and grades, see `relevance.py`.
        ties: see `global_ranking`.
        device: see `global_ranking`.

    Returns:
        The ranking of each sentence.

    Raises:
        ValueError: as `global_ranking`; also relevance of another shape, or with a row outside the arrays.
    """
    device = device_for(gallery_embeds, device)
    query, gallery = embedding_pair(sentence_embeds, gallery_embeds, "sentence_embeds", "gallery_embeds")
    image = as_ids(sentence_image_ids, "sentence_image_ids", len(query), "sentence_embeds")
    region_image = as_ids(gallery_image_ids, "gallery_image_ids", len(gallery), "gallery_embeds")
    pairs = as_relevance(relevance, len(query), len(gallery))
    return rank_regions(cosine(query, gallery, device, reuse=True), pairs, image, region_image, ties)


def local_scores(
    sentence_embeds: Any,
    sentence_image_ids: Any,
    gallery_embeds: Any,
    gallery_image_ids: Any,
    relevance: Any,
    ties: str = "pessimistic",
    device: Any = None,
) -> dict[str, float]:
    """Means of `local_ranking`, with the same arguments and errors.

    Returns:
        `LocalRanking.scores`, and `gallery`, the number of regions.
    """
    queries = (sentence_embeds, sentence_image_ids)
    ranking = local_ranking(*queries, gallery_embeds, gallery_image_ids, relevance, ties, device)
    return ranking.scores() | {"gallery": len(gallery_embeds)}


def as_relevance(relevance: Any, n_query: int, n_gallery: int) -> PairsOf:
    """Checks the argument `relevance` of `local_ranking`. Raises ValueError."""
    if callable(relevance):
        return relevance
    table = np.asarray(relevance.tolist() if hasattr(relevance, "detach") else relevance)
    if table.size == 0:
        table = np.zeros((0, 3), dtype=np.int64)
    if table.ndim != 2 or table.shape[1] != 3 or table.dtype.kind not in "iu":
        raise ValueError(f"relevance must be rows of three integers, not {table.dtype} of shape {list(table.shape)}")
    for column, limit, what in ((0, n_query, "query"), (1, n_gallery, "gallery row"), (2, 4, "grade")):
        if len(table) and not (0 <= table[:, column].min() and table[:, column].max() < limit):
            raise ValueError(f"relevance names a {what} outside 0..{limit - 1}")
    # Of several grades of a pair, the highest counts, and an ignored pair has the lowest.
    table = table.astype(np.int64)[np.argsort(-table[:, 2], kind="stable")]
    return listed_pairs(table[np.unique(table[:, 0] * n_gallery + table[:, 1], return_index=True)[1]], n_query)


def positives_of(relevance: PairsOf) -> PairsOf:
    """The pairs with a grade above 0."""
    return selected(relevance, lambda rows, columns, grades: grades > 0)


def ignored_of(relevance: PairsOf) -> PairsOf:
    """Queries and gallery rows of the pairs with grade 0."""
    pairs = selected(relevance, lambda rows, columns, grades: grades == 0)
    return lambda start, stop: pairs(start, stop)[:2]


def grounding_scores(
    pred_boxes: Any, true_boxes: Any, image_sizes: Any = None, box_queries: Any = None
) -> dict[str, float]:
    """Grounding: how well the predicted box of each sentence fits one of its regions in the image.

    Args:
        pred_boxes: `[N, 4]` x, y, w, h in pixels of the stored image, or any other unit.
        true_boxes: `[M, 4]`, in the same unit.
        image_sizes: `[N, 2]` width and height, to which both boxes are clipped first; no clipping by default.
        box_queries: `[M]` row of `pred_boxes` that each true box belongs to. By default M is N, one box each.

    Returns:
        `pointing`: percent of predicted boxes whose centre lies in a true box, edges included. `IoU@0.5`: percent with
        an intersection over union of at least 0.5 with a true box. `grounded`: N. The percentages are 0 for N = 0.

    Raises:
        ValueError: different lengths, values that are not finite, a true box without area, or a prediction without a
            true box.
    """
    pred, true = as_embeddings(pred_boxes, "pred_boxes", 4), as_embeddings(true_boxes, "true_boxes", 4)
    n = len(pred)
    if box_queries is None:
        check_length(n, "pred_boxes", len(true), "true_boxes")
        query = np.arange(n)
    else:
        query = as_ids(box_queries, "box_queries", len(true), "true_boxes")
        if len(query) and not (0 <= query.min() and query.max() < n):
            raise ValueError(f"box_queries names a row outside 0..{n - 1}")
        if len(np.unique(query)) < n:
            raise ValueError(f"box_queries lacks row {int(np.setdiff1d(np.arange(n), query)[0])} of pred_boxes")
    pred, true = (np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], axis=1).astype(np.float64) for b in (pred, true))
    if image_sizes is not None:
        sizes = as_embeddings(image_sizes, "image_sizes", 2)
        check_length(len(sizes), "image_sizes", n, "pred_boxes")
        pred, true = np.clip(pred, 0, np.tile(sizes, 2)), np.clip(true, 0, np.tile(sizes[query], 2))
    true_area = (true[:, 2:] - true[:, :2]).prod(axis=1)
    if (true[:, 2:] <= true[:, :2]).any():
        bad = int(np.argmax((true[:, 2:] <= true[:, :2]).any(axis=1)))
        raise ValueError(f"true_boxes[{bad}] has no area")
    pred = pred[query]
    centre = (pred[:, :2] + pred[:, 2:]) / 2
    size = np.minimum(pred[:, 2:], true[:, 2:]) - np.maximum(pred[:, :2], true[:, :2])
    intersection = np.clip(size, 0, None).prod(axis=1)
    pred_area = np.clip(pred[:, 2:] - pred[:, :2], 0, None).prod(axis=1)
    hits = {
        "pointing": ((centre >= true[:, :2]) & (centre <= true[:, 2:])).all(axis=1),
        "IoU@0.5": intersection / (pred_area + true_area - intersection) >= 0.5,
    }
    result = {name: 100.0 * len(np.unique(query[hit])) / n if n else 0.0 for name, hit in hits.items()}
    return result | {"grounded": n}


__all__ = [
    "LocalRanking", "as_relevance", "grounding_scores", "ignored_of", "local_ranking", "local_scores", "positives_of",
    "rank_regions",
]  # fmt: skip
