"""Exact ranks, block by block: the gallery items ahead of each positive are counted, nothing is fully sorted.

A worked example with 3 queries and 4 gallery items (identities of the gallery: 1 2 1 3):

    query of identity 1:  0.9 0.8 0.3 0.1   positives at ranks 1 and 3: AP = (1/1 + 2/3) / 2 = 0.8333, INP = 2/3
    query of identity 2:  0.6 0.5 0.4 0.2   positive at rank 2:         AP = 1/2,                      INP = 1/2
    query of identity 3:  0.7 0.2 0.1 0.7   the positive ties with a negative, which ranks first: rank 2, AP = INP = 1/2

    R@1 = 33.33, R@5 = 100, mAP = 61.11, mINP = 55.56, median rank 2

The definitions are those of the field's evaluation codes: mean over queries, all positives, full ranking. The tie rule
is ours; in other codes it is the result of an unstable sort. NumPy counts on the CPU. Blocks that are tensors on
another device are counted on that device.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

TIES = ("pessimistic", "optimistic", "stable")
BLOCK_BYTES = 64 << 20  # size of one block of similarities
COUNT_UP_TO = 6  # positives per query; with more, sorting the items ahead of them is cheaper than counting for each
FAR = 3  # the last positives of such a query are counted too: they may rank so low that sorting is slower
TOP_OF_NDCG = 10
THREAD_FROM = 1 << 21  # similarities in a block; threads are slower for fewer

# (start, stop) of the queries -> [stop - start, n_gallery] similarities.
SimilarityBlock = Callable[[int, int], Any]
# (start, stop) of the queries -> rows (counted from start) and gallery columns of pairs, and for graded relevance the
# grade of each pair, an integer from 1.
PairsOf = Callable[[int, int], tuple[np.ndarray, ...]]


@dataclass(frozen=True)
class Ranking:
    """The result of `rank` for Q queries. A query without a positive has 0 in every field but n_candidates.

    Attributes:
        first_rank: int64 `[Q]`, rank of the first positive, from 1.
        average_precision: float64 `[Q]` in [0, 1], mean over all positives of the precision at their rank.
        inverse_penalty: float64 `[Q]` in [0, 1], INP: number of positives / rank of the last positive.
        n_positives: int64 `[Q]`.
        r_precision: float64 `[Q]` in [0, 1], share of positives among the first n_positives items.
        ndcg: float64 `[Q]` in [0, 1], nDCG@10: the sum of grade / log2(1 + rank) over positives of rank <= 10, divided
            by the largest such sum.
        n_candidates: int64 `[Q]`, gallery items that are not ignored.
    """

    first_rank: np.ndarray
    average_precision: np.ndarray
    inverse_penalty: np.ndarray
    n_positives: np.ndarray
    r_precision: np.ndarray
    ndcg: np.ndarray
    n_candidates: np.ndarray

    @property
    def has_positive(self) -> np.ndarray:
        """bool `[Q]`: queries with a positive; only these count in the means."""
        return self.n_positives > 0

    @classmethod
    def concatenate(cls, parts: "Sequence[Ranking]") -> "Ranking":
        """Joins the rankings of consecutive queries against one gallery."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def take(self, queries: np.ndarray) -> "Ranking":
        """The ranking of some queries.

        Args:
            queries: bool mask `[Q]`, or indices, which may repeat (bootstrap).
        """
        return Ranking(*(getattr(self, field.name)[queries] for field in fields(self)))

    def scores(self) -> dict[str, float]:
        """Means over the queries that have a positive.

        Returns:
            `R@1`, `R@5`, `R@10`, `mAP` and `mINP` in percent, `median_rank` of the first positive, `queries` (number of
            queries with a positive) and `dropped_queries` (without one). All means are 0 if no query has a positive.
        """
        scored = self.has_positive
        n = int(scored.sum())

        def percent(values: np.ndarray) -> float:
            return 100.0 * float(values[scored].mean()) if n else 0.0

        result = {f"R@{k}": percent(self.first_rank <= k) for k in (1, 5, 10)}
        result |= {"mAP": percent(self.average_precision), "mINP": percent(self.inverse_penalty)}
        result["median_rank"] = float(np.median(self.first_rank[scored])) if n else 0.0
        return result | {"queries": n, "dropped_queries": len(scored) - n}

    def graded_scores(self) -> dict[str, float]:
        """Means over the queries that have a positive, for queries with many positives of several grades.

        Returns:
            `R@1`, `R@5`, `R@10`, `R-precision`, `mAP`, `nDCG@10` and `chance` (the expected R@1 of a random order) in
            percent, `positives` (median number of positives), `queries` and `dropped_queries`.
        """
        scored = self.has_positive
        n = int(scored.sum())
        values = {"R-precision": self.r_precision, "mAP": self.average_precision, "nDCG@10": self.ndcg}
        values["chance"] = self.n_positives / np.maximum(self.n_candidates, 1)
        result = {f"R@{k}": 100.0 * float((self.first_rank[scored] <= k).mean()) if n else 0.0 for k in (1, 5, 10)}
        result |= {name: 100.0 * float(value[scored].mean()) if n else 0.0 for name, value in values.items()}
        result["positives"] = float(np.median(self.n_positives[scored])) if n else 0.0
        return result | {"queries": n, "dropped_queries": len(scored) - n}


def rank(
    similarity_block: SimilarityBlock,
    n_query: int,
    n_gallery: int,
    positives: PairsOf,
    ignore: PairsOf | None = None,
    ties: str = "pessimistic",
    block_rows: int | None = None,
    block_bytes: int | None = None,
    threads: int | None = None,
) -> Ranking:
    """Ranks the positives of each query in the gallery.

    Memory is one block of similarities and the pairs in it, for any number of queries.

    Args:
        similarity_block: (start, stop) -> `[stop - start, n_gallery]` float32 or float64, array or tensor of any
            device; higher means more similar.
        n_query: number of queries, at least 1.
        n_gallery: number of gallery items, at least 1.
        positives: (start, stop) -> row and column of each positive, see `same_id`, and its grade; without grades all
            are 1. Of several grades of a pair, the highest counts.
        ignore: the same for gallery items that are removed from the list of a query, even if they are positives; none
            by default.
        ties: order of a positive and a negative of equal similarity. `"pessimistic"`, the default: the negative first;
            `"optimistic"`: the positive first; `"stable"`: gallery order. Among positives, the lower grade comes first
            (pessimistic) or the higher one (optimistic); without grades, ties among positives have no effect.
        block_rows: queries per block; by default as many as `block_bytes` allow.
        block_bytes: size of a block of float32 in bytes; `BLOCK_BYTES` (64 MiB) by default.
        threads: CPU threads that count; by default OMP_NUM_THREADS, or the cores that this process may use. The figures
            do not depend on it.

    Returns:
        The ranking of each query.

    Raises:
        ValueError: an unknown tie rule, no query, or an empty gallery; pairs outside the block; similarities
            of the wrong shape, in half precision, or not finite for a query with a positive. (bfloat16 changes
            published figures by up to 0.4 points.)
    """
    if ties not in TIES:
        raise ValueError(f"ties must be one of {TIES}, not {ties!r}")
    if n_query < 1:
        raise ValueError("there is no query to rank")
    if n_gallery < 1:
        raise ValueError("the gallery is empty")
    first_rank, n_positives = np.zeros(n_query, dtype=np.int64), np.zeros(n_query, dtype=np.int64)
    n_candidates = np.full(n_query, n_gallery, dtype=np.int64)
    average_precision, inverse_penalty, r_precision, ndcg = np.zeros((4, n_query))
    step = block_rows or max(1, (block_bytes or BLOCK_BYTES) // (4 * n_gallery))
    threads = threads or cpu_threads()
    for start in range(0, n_query, step):
        stop = min(start + step, n_query)
        block = _checked_block(similarity_block(start, stop), start, stop, n_gallery)
        pairs, grades = _graded_keys(positives(start, stop), block.shape)
        ignored = np.empty(0, dtype=np.int64)
        if ignore is not None:
            ignored = _pair_keys(ignore(start, stop), "ignore", block.shape)
            n_candidates[start:stop] -= np.bincount(ignored // n_gallery, minlength=stop - start)
            kept = ~np.isin(pairs, ignored, assume_unique=True)
            pairs, grades = pairs[kept], grades[kept] if grades is not None else None
        if not len(pairs):
            continue
        rows, columns, values, grades = _best_first(block, pairs, grades, ties)
        owners, begins, counts = np.unique(rows, return_index=True, return_counts=True)
        nth = np.arange(len(rows)) - np.repeat(begins, counts)
        ranks = _count_ahead(block, rows, columns, values, ties, threads)
        if ranks is None:
            raise ValueError(f"similarity_block({start}, {stop}) holds a value that is not finite")
        if len(ignored):
            ranks -= _ahead_in_list((rows, columns, values), _best_first(block, ignored)[:3], ties)
        # Other positives were counted too; each positive is placed behind those that rank before it instead.
        ranks -= _ahead_of_own(rows, values, nth, ties)
        nth += 1
        ranks += nth
        queries = start + owners
        first_rank[queries], n_positives[queries] = ranks[begins], counts
        average_precision[queries] = np.add.reduceat(nth / ranks, begins) / counts
        inverse_penalty[queries] = counts / ranks[begins + counts - 1]
        r_precision[queries] = np.add.reduceat(ranks <= np.repeat(counts, counts), begins, dtype=np.int64) / counts
        ndcg[queries] = _ndcg(rows, ranks, nth, begins, grades)
    return Ranking(first_rank, average_precision, inverse_penalty, n_positives, r_precision, ndcg, n_candidates)


def _ndcg(
    rows: np.ndarray, ranks: np.ndarray, nth: np.ndarray, begins: np.ndarray, grades: np.ndarray | None
) -> np.ndarray:
    """nDCG@10 of each query of a block; `nth` is the position of each positive among those of its row, from 1."""
    discounts = np.zeros(TOP_OF_NDCG + 2)  # by rank; 0 for ranks from 11
    discounts[1 : TOP_OF_NDCG + 1] = 1 / np.log2(1 + np.arange(1, TOP_OF_NDCG + 1))
    gains, best_gains = np.ones(len(rows)), np.ones(len(rows))
    if grades is not None:
        gains, best_gains = grades, grades[np.lexsort((-grades, rows))]
    found = np.add.reduceat(gains * discounts[np.minimum(ranks, TOP_OF_NDCG + 1)], begins)
    return found / np.add.reduceat(best_gains * discounts[np.minimum(nth, TOP_OF_NDCG + 1)], begins)


def _graded_keys(pairs: tuple[np.ndarray, ...], shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray | None]:
    """`_pair_keys` of positives, and the grade of each; None without grades."""
    if len(pairs) == 2:
        return _pair_keys(pairs, "positives", shape), None
    keys, grades = _pair_keys(pairs[:2], "positives", shape, unique=False), np.asarray(pairs[2])
    if len(grades) != len(keys) or (len(grades) and grades.min() < 1):
        raise ValueError("positives must have one grade each, an integer from 1")
    order = np.lexsort((-grades, keys))
    keys, first = np.unique(keys[order], return_index=True)
    return keys, grades[order][first]


def _best_first(
    block: Any, keys: np.ndarray, grades: np.ndarray | None = None, ties: str = "stable"
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Rows, columns, similarities and grades of pairs, sorted by row, then falling similarity, then the tie rule."""
    rows, columns = np.divmod(keys, block.shape[1])
    values = to_numpy(block[index_like(block, rows), index_like(block, columns)])
    if grades is None or ties == "stable":
        order = np.lexsort((columns, -values, rows))
    else:
        order = np.lexsort((columns, grades if ties == "pessimistic" else -grades, -values, rows))
    return rows[order], columns[order], values[order], grades[order] if grades is not None else None


def _ahead_of_own(rows: np.ndarray, values: np.ndarray, nth: np.ndarray, ties: str) -> np.ndarray:
    """`_count_ahead` among the pairs themselves; `nth` is the position of each pair in its row, from 0."""
    if ties == "stable":
        return nth
    tied = np.zeros(len(rows) + 1, dtype=bool)  # equal to the pair before it
    tied[1:-1] = (rows[1:] == rows[:-1]) & (values[1:] == values[:-1])
    if not tied.any():
        return nth + (ties == "pessimistic")
    runs = np.flatnonzero(~tied)
    length = np.diff(runs)
    start = np.repeat(nth[runs[:-1]], length)
    return start + np.repeat(length, length) if ties == "pessimistic" else start


def _ahead_in_list(pairs: tuple[np.ndarray, ...], others: tuple[np.ndarray, ...], ties: str) -> np.ndarray:
    """`_count_ahead` among the listed gallery items `others` only; both lists are results of `_best_first`."""
    n = len(others[0])
    rows, columns, values = (np.concatenate(parts) for parts in zip(others, pairs, strict=True))
    is_pair = np.arange(len(rows)) >= n
    if ties == "stable":
        last = 2 * columns + ~is_pair  # an item is not ahead of itself
    else:
        last = is_pair if ties == "pessimistic" else ~is_pair
    order = np.lexsort((last, -values, rows))
    n_others = np.empty(len(order), dtype=np.int64)
    n_others[order] = np.cumsum(~is_pair[order])  # up to each entry, including all rows before its own
    return n_others[n:] - np.searchsorted(others[0], pairs[0], "left")


def _count_ahead(
    block: Any, rows: np.ndarray, columns: np.ndarray, values: np.ndarray, ties: str, threads: int
) -> np.ndarray | None:
    """Number of gallery items that rank ahead of each pair in its row of the block; None if a row is not finite.

    More similar items rank ahead. Of equally similar items, all rank ahead, the pair itself included (pessimistic),
    none (optimistic), or those of earlier columns (stable).
    """
    if not isinstance(block, np.ndarray):
        return _count_ahead_on_device(block, rows, columns, values, ties)
    owners, begins, counts = np.unique(rows, return_index=True, return_counts=True)
    ends = begins + counts
    ahead = np.empty(len(rows), dtype=np.int64)
    beats, side = (np.greater_equal, "left") if ties == "pessimistic" else (np.greater, "right")

    def count(part: slice) -> bool:
        for row, begin, end in zip(owners[part].tolist(), begins[part].tolist(), ends[part].tolist(), strict=True):
            line, pair_values = block[row], values[begin:end]
            # The fastest check for NaN and infinity; it also loads the row into the cache.
            if not (np.isfinite(line.dot(line)) or np.isfinite(line).all()):
                return False
            near = max(begin, end - FAR) if end - begin > COUNT_UP_TO else begin
            if near > begin:
                # `compress` is twice as fast as indexing with a mask.
                best = line.compress(line >= values[near - 1])
                best.sort()
                ahead[begin:near] = len(best) - best.searchsorted(pair_values[: near - begin], side)
            ahead[near:end] = [np.count_nonzero(beats(line, value)) for value in pair_values[near - begin :]]
            if ties == "stable":
                for pair in range(begin, end):
                    ahead[pair] += np.count_nonzero(line[: columns[pair]] == values[pair])
        return True

    workers = threads if block.size >= THREAD_FROM else 1
    share = -(-len(owners) // workers)
    parts = [slice(at, at + share) for at in range(0, len(owners), share)]
    if len(parts) == 1:
        return ahead if count(parts[0]) else None
    with ThreadPoolExecutor(workers) as pool:
        return ahead if all(pool.map(count, parts)) else None


def _count_ahead_on_device(
    block: Any, rows: np.ndarray, columns: np.ndarray, values: np.ndarray, ties: str
) -> np.ndarray | None:
    """`_count_ahead` of a tensor on its device, for all rows at once, which takes fewer kernel launches."""
    import torch

    if not bool(torch.isfinite(block.min()) & torch.isfinite(block.max())):  # min and max propagate NaN
        return None
    nth = np.arange(len(rows)) - np.searchsorted(rows, rows, "left")
    row, slot = index_like(block, rows), index_like(block, nth)
    value = torch.from_numpy(values).to(block.device)
    table = torch.full((len(block), int(nth.max()) + 1), torch.inf, dtype=block.dtype, device=block.device)
    table[row, slot] = value
    if table.shape[1] <= 8 * COUNT_UP_TO:
        beats = torch.ge if ties == "pessimistic" else torch.gt
        counts = torch.stack([beats(block, column[:, None]).sum(1) for column in table.unbind(1)], dim=1)
    else:
        ordered = block.sort(dim=1).values
        counts = block.shape[1] - torch.searchsorted(ordered, table, right=ties != "pessimistic")
    ahead = counts[row, slot]
    if ties == "stable":
        column, positions = index_like(block, columns), torch.arange(block.shape[1], device=block.device)
        for part in torch.arange(len(rows), device=block.device).split(len(block)):
            equal = (block[row[part]] == value[part, None]) & (positions < column[part, None])
            ahead[part] += equal.sum(1)
    return ahead.cpu().numpy()


def index_like(block: Any, index: np.ndarray) -> Any:
    """Converts indices to the type that indexes `block`."""
    if isinstance(block, np.ndarray):
        return index
    import torch

    return torch.from_numpy(index).to(block.device)


def to_numpy(values: Any) -> np.ndarray:
    """The array of an array or of a tensor of any device."""
    return values if isinstance(values, np.ndarray) else values.cpu().numpy()


def cpu_threads() -> int:
    """Default number of threads: OMP_NUM_THREADS if it is set, else the cores that this process may use."""
    setting = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if setting.isdigit() and int(setting) > 0:
        return int(setting)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _checked_block(block: Any, start: int, stop: int, n_gallery: int) -> Any:
    name = f"similarity_block({start}, {stop})"
    dtype = str(block.dtype).removeprefix("torch.")
    if dtype not in ("float32", "float64"):
        raise ValueError(f"{name} is {dtype}: ranks need float32, because half precision creates ties")
    if hasattr(block, "detach"):
        block = block.detach()
        if block.device.type == "cpu":
            block = block.numpy()
    else:
        block = np.asarray(block)
    if tuple(block.shape) != (stop - start, n_gallery):
        raise ValueError(f"{name} has shape {tuple(block.shape)}, not {(stop - start, n_gallery)}")
    return block


def _pair_keys(pairs: Any, name: str, shape: tuple[int, int], unique: bool = True) -> np.ndarray:
    """row * n_gallery + column of each pair; distinct and ascending by default."""
    rows, columns = (np.asarray(part, dtype=np.int64) for part in pairs)
    for part, limit, what in ((rows, shape[0], "row"), (columns, shape[1], "column")):
        if len(part) and not (0 <= part.min() and part.max() < limit):
            raise ValueError(f"{name} names a {what} outside 0..{limit - 1}")
    keys = rows * shape[1] + columns
    return np.unique(keys) if unique else keys


def same_id(query_ids: np.ndarray, gallery_ids: np.ndarray) -> PairsOf:
    """Pairs of equal ids, in the form that `rank` reads.

    Args:
        query_ids: int64 `[Q]`.
        gallery_ids: int64 `[G]`.

    Returns:
        A function (start, stop) -> rows, counted from start, and gallery columns.
    """
    order = np.argsort(gallery_ids, kind="stable")
    ordered = gallery_ids[order]
    first, last = np.searchsorted(ordered, query_ids, "left"), np.searchsorted(ordered, query_ids, "right")

    def pairs(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        counts = last[start:stop] - first[start:stop]
        nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(np.arange(stop - start), counts), order[np.repeat(first[start:stop], counts) + nth]

    return pairs


__all__ = [
    "BLOCK_BYTES", "TIES", "PairsOf", "Ranking", "SimilarityBlock", "cpu_threads", "index_like", "rank", "same_id",
    "to_numpy",
]  # fmt: skip
