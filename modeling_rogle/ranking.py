"""Exact retrieval metrics: ranks of the positives are counted block by block, nothing is argsorted, numpy only.

A worked example, 3 queries x 4 gallery items (identities of the gallery: 1 2 1 3):

    query of identity 1:  0.9 0.8 0.3 0.1   positives at ranks 1 and 3: AP = (1/1 + 2/3) / 2 = 0.8333, INP = 2/3
    query of identity 2:  0.6 0.5 0.4 0.2   positive at rank 2:         AP = 1/2,                      INP = 1/2
    query of identity 3:  0.7 0.2 0.1 0.7   the positive ties with a negative, which goes ahead: rank 2, AP = INP = 1/2

    R@1 = 33.33, R@5 = 100, mAP = 61.11, mINP = 55.56

The definitions are those that the field's codes share (mean over queries, every positive counted, full ranking); the
tie rule is ours, since theirs is whatever an unstable sort leaves.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

TIES = ("pessimistic", "optimistic", "stable")
BLOCK_BYTES = 32 << 20  # one block of similarities
COUNT_UP_TO = 48  # positives of one query; up to here counting costs less than sorting the row

# (start, stop) of the queries -> [stop - start, n_gallery] similarities.
SimilarityBlock = Callable[[int, int], Any]
# (start, stop) of the queries -> rows (counted from start) and gallery columns of the pairs, each pair once.
PairsOf = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Ranking:
    """What `rank` found for each of Q queries; a query without a positive has 0 everywhere.

    first_rank (`[Q]` int64): rank of the first positive, from 1.
    average_precision (`[Q]` float64): mean over all positives of the precision at their rank, in [0, 1].
    inverse_penalty (`[Q]` float64): INP, positives / rank of the last positive, in [0, 1].
    n_positives (`[Q]` int64).
    """

    first_rank: np.ndarray
    average_precision: np.ndarray
    inverse_penalty: np.ndarray
    n_positives: np.ndarray

    @classmethod
    def concatenate(cls, parts: "Sequence[Ranking]") -> "Ranking":
        """Rankings of consecutive queries against one gallery -> one."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def scores(self) -> dict[str, float]:
        """`R@1`, `R@5`, `R@10`, `mAP`, `mINP` in percent over `queries`; `dropped_queries` had no positive.

        All five are 0 where no query had a positive (`queries` is then 0).
        """
        scored = self.n_positives > 0
        n = int(scored.sum())

        def percent(values: np.ndarray) -> float:
            return 100.0 * float(values[scored].mean()) if n else 0.0

        result = {f"R@{k}": percent(self.first_rank <= k) for k in (1, 5, 10)}
        result |= {"mAP": percent(self.average_precision), "mINP": percent(self.inverse_penalty)}
        return result | {"queries": n, "dropped_queries": len(scored) - n}


def rank(
    similarity_block: SimilarityBlock,
    n_query: int,
    n_gallery: int,
    positives: PairsOf,
    ignore: PairsOf | None = None,
    ties: str = "pessimistic",
    block_rows: int | None = None,
) -> Ranking:
    """Ranks the positives of each query among the gallery.

    Memory is one block of similarities, about 32 MiB (twice that with `ignore`), whatever the number of queries.

    Args:
        similarity_block: (start, stop) -> `[stop - start, n_gallery]` float32 (or float64), larger is more alike.
        n_query, n_gallery: both at least 1.
        positives: (start, stop) -> row and column of each positive, see `same_id`.
        ignore: the same for gallery items that are removed from that query's list, positives among them.
        ties: between a positive and a negative of equal similarity, `"pessimistic"` puts the negative ahead,
            `"optimistic"` the positive, `"stable"` the one that comes first in the gallery (slower: sorts each row).
            Positives that tie with one another cost nothing.
        block_rows: queries a block, chosen from the memory budget when None.

    Raises:
        ValueError: an unknown tie rule, no query, an empty gallery, similarities of the wrong shape, in half precision
            (bfloat16 moves published figures by up to 0.4 points) or not finite, pairs outside the block.
    """
    if ties not in TIES:
        raise ValueError(f"ties must be one of {TIES}, not {ties!r}")
    if n_query < 1:
        raise ValueError("there is no query to rank")
    if n_gallery < 1:
        raise ValueError("the gallery is empty")
    first = np.zeros(n_query, dtype=np.int64)
    found = np.zeros(n_query, dtype=np.int64)
    average_precision = np.zeros(n_query)
    inverse_penalty = np.zeros(n_query)
    step = block_rows or max(1, BLOCK_BYTES // (4 * n_gallery))
    for start in range(0, n_query, step):
        stop = min(start + step, n_query)
        block = _checked_block(similarity_block(start, stop), start, stop, n_gallery)
        rows, columns = _checked_pairs(positives(start, stop), "positives", block.shape)
        if ignore is not None:
            block = block.copy()  # the caller's may be a view of a matrix that it keeps
            block[_checked_pairs(ignore(start, stop), "ignore", block.shape)] = -np.inf
            kept = block[rows, columns] > -np.inf
            rows, columns = rows[kept], columns[kept]
        order = np.argsort(rows, kind="stable")
        columns = columns[order]
        counts = np.bincount(rows, minlength=stop - start)
        ends = np.cumsum(counts)
        for row in np.flatnonzero(counts):
            ranks = _positive_ranks(block[row], columns[ends[row] - counts[row] : ends[row]], ties)
            query, n = start + row, len(ranks)
            first[query], found[query] = ranks[0], n
            average_precision[query] = (np.arange(1, n + 1) / ranks).mean()
            inverse_penalty[query] = n / ranks[-1]
    return Ranking(first, average_precision, inverse_penalty, found)


def _positive_ranks(similarity: np.ndarray, columns: np.ndarray, ties: str) -> np.ndarray:
    """Ranks, from 1 and ascending, of the gallery `columns` in one row of similarities."""
    if ties == "stable":
        position = np.empty(len(similarity), dtype=np.int64)
        position[np.argsort(-similarity, kind="stable")] = np.arange(1, len(similarity) + 1)
        return np.sort(position[columns])
    ascending = np.sort(similarity[columns])
    values, side = ascending[::-1], "left" if ties == "pessimistic" else "right"
    # Everything at least as similar as (pessimistic), or more similar than (optimistic), each positive ...
    if len(values) > COUNT_UP_TO:
        ahead = len(similarity) - np.searchsorted(np.sort(similarity), values, side)
    else:
        beats = np.greater_equal if ties == "pessimistic" else np.greater
        ahead = np.array([np.count_nonzero(beats(similarity, value)) for value in values])
    # ... less the positives among them, which stand in their own order instead.
    return ahead - (len(values) - np.searchsorted(ascending, values, side)) + np.arange(1, len(values) + 1)


def _checked_block(block: Any, start: int, stop: int, n_gallery: int) -> np.ndarray:
    where = f"similarity_block({start}, {stop})"
    dtype = str(block.dtype).removeprefix("torch.")
    if dtype not in ("float32", "float64"):
        raise ValueError(f"{where} is {dtype}: ranks need float32, half precision makes ties that are not there")
    block = block.detach().cpu().numpy() if hasattr(block, "detach") else np.asarray(block)
    if block.shape != (stop - start, n_gallery):
        raise ValueError(f"{where} has shape {block.shape}, not {(stop - start, n_gallery)}")
    if not (np.isfinite(block.min()) and np.isfinite(block.max())):  # min and max carry NaN, and need no copy
        raise ValueError(f"{where} holds a value that is not finite")
    return block


def _checked_pairs(pairs: Any, name: str, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = (np.asarray(part, dtype=np.int64) for part in pairs)
    for part, limit, what in ((rows, shape[0], "row"), (columns, shape[1], "column")):
        if len(part) and not (0 <= part.min() and part.max() < limit):
            raise ValueError(f"{name} names a {what} outside 0..{limit - 1}")
    return rows, columns


def same_id(query_ids: np.ndarray, gallery_ids: np.ndarray) -> PairsOf:
    """The pairs of equal ids (int64, `[Q]` and `[G]`), as `rank` asks for them."""
    order = np.argsort(gallery_ids, kind="stable")
    ordered = gallery_ids[order]
    first, last = np.searchsorted(ordered, query_ids, "left"), np.searchsorted(ordered, query_ids, "right")

    def pairs(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        counts = last[start:stop] - first[start:stop]
        nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(np.arange(stop - start), counts), order[np.repeat(first[start:stop], counts) + nth]

    return pairs


def cosine(query_embeds: np.ndarray, gallery_embeds: np.ndarray) -> SimilarityBlock:
    """Cosine similarities of `[Q, D]` and `[G, D]` float32, as `rank` asks for them; a zero vector is 0 to all.

    Equal gallery rows are multiplied once and so tie exactly. A matrix product need not give equal columns equal bits,
    and a model that maps everything to one point would then be ranked by rounding errors.
    """
    seen: dict[bytes, int] = {}
    digests = (hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in gallery_embeds)
    slot = np.array([seen.setdefault(digest, len(seen)) for digest in digests], dtype=np.int64)
    repeated = len(seen) < len(gallery_embeds)
    if repeated:
        gallery_embeds = gallery_embeds[np.unique(slot, return_index=True)[1]]
    tiny = np.finfo(np.float32).tiny
    gallery_norms = np.maximum(np.linalg.norm(gallery_embeds, axis=1), tiny)

    def block(start: int, stop: int) -> np.ndarray:
        query = query_embeds[start:stop]
        query = query / np.maximum(np.linalg.norm(query, axis=1, keepdims=True), tiny)
        similarity = query @ gallery_embeds.T
        similarity /= gallery_norms
        return similarity[:, slot] if repeated else similarity

    return block


def global_scores(
    query_embeds: Any, query_ids: Any, gallery_embeds: Any, gallery_ids: Any, ties: str = "pessimistic"
) -> dict[str, float]:
    """Global protocol: every gallery item of the query's identity is relevant.

    Args:
        query_embeds, gallery_embeds: `[Q, D]` and `[G, D]`, arrays, tensors or lists; half precision is upcast to
            float32. Need not be unit vectors: similarity is the cosine.
        query_ids, gallery_ids: `[Q]` and `[G]` integers, the identities.
        ties: see `rank`.

    Returns:
        See `Ranking.scores`, and `gallery`, the number of its items.

    Raises:
        ValueError: lengths or dimensions that differ, embeddings that are not finite, ids that are not integers, no
            query, an empty gallery.
    """
    query, gallery = _embedding_pair(query_embeds, gallery_embeds, "query_embeds", "gallery_embeds")
    wanted = as_ids(query_ids, "query_ids", len(query), "query_embeds")
    offered = as_ids(gallery_ids, "gallery_ids", len(gallery), "gallery_embeds")
    ranking = rank(cosine(query, gallery), len(query), len(gallery), same_id(wanted, offered), ties=ties)
    return ranking.scores() | {"gallery": len(gallery)}


def local_scores(
    sentence_embeds: Any,
    target_region_ids: Any,
    query_person_ids: Any,
    query_text_ids: Any,
    gallery_embeds: Any,
    gallery_region_ids: Any,
    gallery_person_ids: Any,
    gallery_text_ids: Any,
    ties: str = "pessimistic",
) -> dict[str, float]:
    """Local protocol: sentence -> regions of the whole gallery, relevant is the one region paired with the sentence.

    Regions of the same identity whose own sentence has the same text are ignored: they show what the sentence says.

    Args:
        sentence_embeds: `[S, D]`, as in `global_scores`.
        target_region_ids: `[S]` ids in `gallery_region_ids`; -1, or an id that is not there, leaves the sentence out,
            and it is counted in `dropped_queries`.
        query_person_ids, query_text_ids: `[S]`; equal text ids mean equal texts, -1 is equal to none.
        gallery_embeds, gallery_region_ids, gallery_person_ids: `[R, D]` and `[R]`; region ids are not negative and
            occur once: one box of one image is one region, however many sentences speak of it.
        gallery_text_ids: `[R]` text id of the region's own sentence, -1 for none; or R lists, for regions that have
            several sentences or none.
        ties: see `rank`.

    Returns, Raises:
        As `global_scores`; also ValueError for a region id that is negative or occurs twice.
    """
    query, gallery = _embedding_pair(sentence_embeds, gallery_embeds, "sentence_embeds", "gallery_embeds")
    target = as_ids(target_region_ids, "target_region_ids", len(query), "sentence_embeds")
    region = as_ids(gallery_region_ids, "gallery_region_ids", len(gallery), "gallery_embeds")
    if len(np.unique(region)) < len(region) or (len(region) and region.min() < 0):
        raise ValueError("gallery_region_ids must be non-negative and each occur once")
    query_person = as_ids(query_person_ids, "query_person_ids", len(query), "sentence_embeds")
    query_text = as_ids(query_text_ids, "query_text_ids", len(query), "sentence_embeds")
    gallery_person = as_ids(gallery_person_ids, "gallery_person_ids", len(gallery), "gallery_embeds")
    owner, text = _texts_of_regions(gallery_text_ids, len(gallery))
    people, texts = np.concatenate([query_person, gallery_person[owner]]), np.concatenate([query_text, text])
    code = np.unique(np.stack([people, texts], axis=1), axis=0, return_inverse=True)[1].reshape(-1)
    query_code = np.where(query_text >= 0, code[: len(query)], -1)  # codes start at 0: -1 meets nothing
    equal_sentence = same_id(query_code, code[len(query) :])

    def ignore(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        rows, said = equal_sentence(start, stop)
        columns = owner[said]
        others = region[columns] != target[start:stop][rows]
        return rows[others], columns[others]

    ranking = rank(cosine(query, gallery), len(query), len(gallery), same_id(target, region), ignore, ties)
    return ranking.scores() | {"gallery": len(gallery)}


def _texts_of_regions(text_ids: Any, n_regions: int) -> tuple[np.ndarray, np.ndarray]:
    """Region and text id of every (region, sentence) pair."""
    # A tensor has no lists in it, and is slow to look through.
    kinds = set() if hasattr(text_ids, "detach") else {isinstance(ids, list | tuple) for ids in text_ids}
    if len(kinds) > 1:
        raise ValueError("gallery_text_ids mixes integers and lists of them; every region needs the same kind")
    if True in kinds:
        _same_length(len(text_ids), "gallery_text_ids", n_regions, "gallery_embeds")
        owner = np.repeat(np.arange(n_regions), [len(ids) for ids in text_ids])
        flat = [text for ids in text_ids for text in ids]
        return owner, as_ids(flat, "gallery_text_ids", len(owner), "gallery_text_ids")
    return np.arange(n_regions), as_ids(text_ids, "gallery_text_ids", n_regions, "gallery_embeds")


def grounding_scores(pred_boxes: Any, true_boxes: Any, image_sizes: Any = None) -> dict[str, float]:
    """Grounding in the image: does the best box for a sentence lie where the sentence's region is?

    Args:
        pred_boxes, true_boxes: `[N, 4]` x, y, w, h in one unit (pixels of the stored image).
        image_sizes: `[N, 2]` width and height; both boxes are then clipped to the image first.

    Returns:
        `pointing`: percent of predicted boxes whose centre lies in the true box, edges included; `IoU@0.5`: percent
        with intersection over union of at least 0.5; `grounded`: N. Both are 0 for N = 0.

    Raises:
        ValueError: lengths that differ, values that are not finite, a true box without area.
    """
    pred, true = as_embeddings(pred_boxes, "pred_boxes", 4), as_embeddings(true_boxes, "true_boxes", 4)
    _same_length(len(pred), "pred_boxes", len(true), "true_boxes")
    pred, true = (np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], axis=1).astype(np.float64) for b in (pred, true))
    if image_sizes is not None:
        sizes = as_embeddings(image_sizes, "image_sizes", 2)
        _same_length(len(sizes), "image_sizes", len(true), "true_boxes")
        pred, true = (np.clip(b, 0, np.tile(sizes, 2)) for b in (pred, true))
    true_area = (true[:, 2:] - true[:, :2]).prod(axis=1)
    if (true[:, 2:] <= true[:, :2]).any():
        raise ValueError(f"true_boxes[{int(np.argmin(true_area))}] has no area")
    centre = (pred[:, :2] + pred[:, 2:]) / 2
    pointing = ((centre >= true[:, :2]) & (centre <= true[:, 2:])).all(axis=1)
    overlap = np.clip(np.minimum(pred[:, 2:], true[:, 2:]) - np.maximum(pred[:, :2], true[:, :2]), 0, None).prod(axis=1)
    pred_area = np.clip(pred[:, 2:] - pred[:, :2], 0, None).prod(axis=1)
    hit = overlap / (pred_area + true_area - overlap) >= 0.5
    n = len(true)
    return {
        "pointing": 100.0 * float(pointing.mean()) if n else 0.0,
        "IoU@0.5": 100.0 * float(hit.mean()) if n else 0.0,
        "grounded": n,
    }


def as_embeddings(values: Any, name: str, columns: int | None = None) -> np.ndarray:
    """Array, tensor or lists -> `[N, columns]` float32.

    Raises:
        ValueError: another shape, or a value that is not finite; the message names `name`.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu().float().numpy()
    values = np.asarray(values, dtype=np.float32)
    if values.size == 0 and columns:
        values = values.reshape(0, columns)
    if values.ndim != 2 or (columns and values.shape[1] != columns):
        raise ValueError(f"{name} must have shape [N, {columns or 'D'}], not {list(values.shape)}")
    if values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
        raise ValueError(f"{name} holds a value that is not finite (row {int(np.argmin(np.isfinite(values).all(1)))})")
    return np.ascontiguousarray(values)


def as_ids(values: Any, name: str, length: int, of: str) -> np.ndarray:
    """Array, tensor or list -> `[length]` int64.

    Raises:
        ValueError: not integers, or another length than that of the argument `of`; the message names both.
    """
    try:
        values = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{name} must be a list of integers, not of lists") from error
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
        raise ValueError(f"{name} must be a list of integers, not {values.dtype} of shape {list(values.shape)}")
    _same_length(len(values), name, length, of)
    return values.astype(np.int64)


def _embedding_pair(query: Any, gallery: Any, query_name: str, gallery_name: str) -> tuple[np.ndarray, np.ndarray]:
    if len(gallery) == 0:
        raise ValueError(f"{gallery_name} is empty")
    if len(query) == 0:
        raise ValueError(f"{query_name} is empty")
    query, gallery = as_embeddings(query, query_name), as_embeddings(gallery, gallery_name)
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(f"{query_name} has {query.shape[1]} dimensions, {gallery_name} has {gallery.shape[1]}")
    return query, gallery


def _same_length(n: int, name: str, m: int, other: str) -> None:
    if n != m:
        raise ValueError(f"{name} has {n} rows, {other} has {m}")


__all__ = [
    "Ranking", "as_embeddings", "as_ids", "cosine", "global_scores", "grounding_scores", "local_scores", "rank",
    "same_id",
]  # fmt: skip
