"""Exact ranks, block by block: what stands ahead of a positive is counted, nothing is argsorted.

A worked example, 3 queries x 4 gallery items (identities of the gallery: 1 2 1 3):

    query of identity 1:  0.9 0.8 0.3 0.1   positives at ranks 1 and 3: AP = (1/1 + 2/3) / 2 = 0.8333, INP = 2/3
    query of identity 2:  0.6 0.5 0.4 0.2   positive at rank 2:         AP = 1/2,                      INP = 1/2
    query of identity 3:  0.7 0.2 0.1 0.7   the positive ties with a negative, which goes ahead: rank 2, AP = INP = 1/2

    R@1 = 33.33, R@5 = 100, mAP = 61.11, mINP = 55.56, median rank 2

The definitions are those that the field's codes share (mean over queries, every positive counted, full ranking); the
tie rule is ours, since theirs is whatever an unstable sort leaves. numpy on a CPU; blocks that are tensors of another
device are counted there.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

TIES = ("pessimistic", "optimistic", "stable")
BLOCK_BYTES = 64 << 20  # one block of similarities
COUNT_UP_TO = 6  # positives of one query; beyond, sorting what reaches them costs less than counting for each
FAR = 3  # of those positives, the last ones, which may lie so far down that it is again cheaper to count for each
THREAD_FROM = 1 << 21  # similarities in a block; below, starting threads costs more than they save

# (start, stop) of the queries -> [stop - start, n_gallery] similarities.
SimilarityBlock = Callable[[int, int], Any]
# (start, stop) of the queries -> rows (counted from start) and gallery columns of the pairs.
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

    @property
    def kept(self) -> np.ndarray:
        """`[Q]` bool: the query has a positive, so that the means are over it."""
        return self.n_positives > 0

    @classmethod
    def concatenate(cls, parts: "Sequence[Ranking]") -> "Ranking":
        """Rankings of consecutive queries against one gallery -> one."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def take(self, queries: np.ndarray) -> "Ranking":
        """The ranking of some of the queries: a `[Q]` bool mask, or indices, which may repeat (bootstrap)."""
        return Ranking(*(getattr(self, field.name)[queries] for field in fields(self)))

    def scores(self) -> dict[str, float]:
        """`R@1`, `R@5`, `R@10`, `mAP`, `mINP` in percent and `median_rank` of the first positive, over `queries`.

        `dropped_queries` had no positive. All are 0 where no query had one (`queries` is then 0).
        """
        kept = self.kept
        n = int(kept.sum())

        def percent(values: np.ndarray) -> float:
            return 100.0 * float(values[kept].mean()) if n else 0.0

        result = {f"R@{k}": percent(self.first_rank <= k) for k in (1, 5, 10)}
        result |= {"mAP": percent(self.average_precision), "mINP": percent(self.inverse_penalty)}
        result["median_rank"] = float(np.median(self.first_rank[kept])) if n else 0.0
        return result | {"queries": n, "dropped_queries": len(kept) - n}


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
    """Ranks the positives of each query among the gallery.

    Memory is one block of similarities and the pairs in it, whatever the number of queries.

    Args:
        similarity_block: (start, stop) -> `[stop - start, n_gallery]` float32 (or float64), larger is more alike; an
            array, or a tensor of any device.
        n_query, n_gallery: both at least 1.
        positives: (start, stop) -> row and column of each positive, see `same_id`.
        ignore: the same for gallery items that are removed from that query's list, positives among them.
        ties: between a positive and a negative of equal similarity, `"pessimistic"` puts the negative ahead,
            `"optimistic"` the positive, `"stable"` the one that comes first in the gallery.
            Positives that tie with one another cost nothing.
        block_rows: queries a block; as many as `block_bytes` hold when None.
        block_bytes: memory budget of a block of float32, `BLOCK_BYTES` (64 MiB) when None.
        threads: CPU threads that count; OMP_NUM_THREADS, or the cores this process may use, when None. Figures do not
            depend on it.

    Raises:
        ValueError: an unknown tie rule, no query, an empty gallery, similarities of the wrong shape, in half precision
            (bfloat16 moves published figures by up to 0.4 points) or not finite where a query has a positive, pairs
            outside the block.
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
    step = block_rows or max(1, (block_bytes or BLOCK_BYTES) // (4 * n_gallery))
    threads = threads or cpu_threads()
    for start in range(0, n_query, step):
        stop = min(start + step, n_query)
        block = _checked_block(similarity_block(start, stop), start, stop, n_gallery)
        pairs = _pair_keys(positives(start, stop), "positives", block.shape)
        ignored = np.empty(0, dtype=np.int64)
        if ignore is not None:
            ignored = _pair_keys(ignore(start, stop), "ignore", block.shape)
            pairs = np.setdiff1d(pairs, ignored, assume_unique=True)
        if not len(pairs):
            continue
        rows, columns, values = _best_first(block, pairs)
        owners, begins, counts = np.unique(rows, return_index=True, return_counts=True)
        nth = np.arange(len(rows)) - np.repeat(begins, counts)
        ranks = _count_ahead(block, rows, columns, values, ties, threads)
        if ranks is None:
            raise ValueError(f"similarity_block({start}, {stop}) holds a value that is not finite")
        if len(ignored):
            ranks -= _ahead_in_list((rows, columns, values), _best_first(block, ignored), ties)
        # The positives that were counted too stand in their own order instead.
        ranks -= _ahead_of_own(rows, values, nth, ties)
        nth += 1
        ranks += nth
        queries = start + owners
        first[queries], found[queries] = ranks[begins], counts
        average_precision[queries] = np.add.reduceat(nth / ranks, begins) / counts
        inverse_penalty[queries] = counts / ranks[begins + counts - 1]
    return Ranking(first, average_precision, inverse_penalty, found)


def _best_first(block: Any, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and similarities of pairs: by row, by falling similarity, by column."""
    rows, columns = np.divmod(keys, block.shape[1])
    values = _to_numpy(block[_like(block, rows), _like(block, columns)])
    order = np.lexsort((columns, -values, rows))
    return rows[order], columns[order], values[order]


def _ahead_of_own(rows: np.ndarray, values: np.ndarray, nth: np.ndarray, ties: str) -> np.ndarray:
    """`_count_ahead` among the listed pairs themselves, the `nth` of their rows (from 0)."""
    if ties == "stable":
        return nth
    tied = np.zeros(len(rows) + 1, dtype=bool)  # with the pair before it
    tied[1:-1] = (rows[1:] == rows[:-1]) & (values[1:] == values[:-1])
    if not tied.any():
        return nth + (ties == "pessimistic")
    runs = np.flatnonzero(~tied)
    length = np.diff(runs)
    first = np.repeat(nth[runs[:-1]], length)
    return first + np.repeat(length, length) if ties == "pessimistic" else first


def _ahead_in_list(pairs: tuple[np.ndarray, ...], others: tuple[np.ndarray, ...], ties: str) -> np.ndarray:
    """`_count_ahead` among the listed gallery items of each row instead of all; both lists as `_best_first` gives."""
    n = len(others[0])
    rows, columns, values = (np.concatenate(parts) for parts in zip(others, pairs, strict=True))
    is_pair = np.arange(len(rows)) >= n
    if ties == "stable":
        last = 2 * columns + ~is_pair  # an item is not ahead of itself
    else:
        last = is_pair if ties == "pessimistic" else ~is_pair
    order = np.lexsort((last, -values, rows))
    n_others = np.empty(len(order), dtype=np.int64)
    n_others[order] = np.cumsum(~is_pair[order])  # up to each entry, all rows before its own included
    return n_others[n:] - np.searchsorted(others[0], pairs[0], "left")


def _count_ahead(
    block: Any, rows: np.ndarray, columns: np.ndarray, values: np.ndarray, ties: str, threads: int
) -> np.ndarray | None:
    """How many gallery items stand ahead of each pair in its row of the block; None if a row is not finite.

    These are, besides the more similar ones: the equal ones, itself included (pessimistic); none (optimistic); the
    equal ones of earlier columns (stable).
    """
    if not isinstance(block, np.ndarray):
        return _count_ahead_on_device(block, rows, columns, values, ties)
    owners, begins, counts = np.unique(rows, return_index=True, return_counts=True)
    ends = begins + counts
    ahead = np.empty(len(rows), dtype=np.int64)
    beats, side = (np.greater_equal, "left") if ties == "pessimistic" else (np.greater, "right")

    def count(part: slice) -> bool:
        for row, begin, end in zip(owners[part].tolist(), begins[part].tolist(), ends[part].tolist(), strict=True):
            line, wanted = block[row], values[begin:end]
            # The quickest pass that a NaN or an infinity cannot get through; it also brings the row into the cache.
            if not (np.isfinite(line.dot(line)) or np.isfinite(line).all()):
                return False
            near = max(begin, end - FAR) if end - begin > COUNT_UP_TO else begin
            if near > begin:
                # `compress` is twice as fast as indexing by a mask.
                reach = line.compress(line >= values[near - 1])
                reach.sort()
                ahead[begin:near] = len(reach) - reach.searchsorted(wanted[: near - begin], side)
            ahead[near:end] = [np.count_nonzero(beats(line, value)) for value in wanted[near - begin :]]
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
    """`_count_ahead` of a tensor, where it is: per-row work would be one kernel launch a query."""
    import torch

    if not bool(torch.isfinite(block.min()) & torch.isfinite(block.max())):  # these carry NaN
        return None
    nth = np.arange(len(rows)) - np.searchsorted(rows, rows, "left")
    at, place = _like(block, rows), _like(block, nth)
    value = torch.from_numpy(values).to(block.device)
    wanted = torch.full((len(block), int(nth.max()) + 1), torch.inf, dtype=block.dtype, device=block.device)
    wanted[at, place] = value
    if wanted.shape[1] <= 8 * COUNT_UP_TO:
        beats = torch.ge if ties == "pessimistic" else torch.gt
        table = torch.stack([beats(block, column[:, None]).sum(1) for column in wanted.unbind(1)], dim=1)
    else:
        ordered = block.sort(dim=1).values
        table = block.shape[1] - torch.searchsorted(ordered, wanted, right=ties != "pessimistic")
    ahead = table[at, place]
    if ties == "stable":
        column, positions = _like(block, columns), torch.arange(block.shape[1], device=block.device)
        for part in torch.arange(len(rows), device=block.device).split(len(block)):
            equal = (block[at[part]] == value[part, None]) & (positions < column[part, None])
            ahead[part] += equal.sum(1)
    return ahead.cpu().numpy()


def _like(block: Any, index: np.ndarray) -> Any:
    """Indices as what `block` is indexed by."""
    if isinstance(block, np.ndarray):
        return index
    import torch

    return torch.from_numpy(index).to(block.device)


def _to_numpy(values: Any) -> np.ndarray:
    return values if isinstance(values, np.ndarray) else values.cpu().numpy()


def cpu_threads() -> int:
    """OMP_NUM_THREADS where it is set, else the cores that this process may use."""
    told = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if told.isdigit() and int(told) > 0:
        return int(told)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _checked_block(block: Any, start: int, stop: int, n_gallery: int) -> Any:
    where = f"similarity_block({start}, {stop})"
    dtype = str(block.dtype).removeprefix("torch.")
    if dtype not in ("float32", "float64"):
        raise ValueError(f"{where} is {dtype}: ranks need float32, half precision makes ties that are not there")
    if hasattr(block, "detach"):
        block = block.detach()
        if block.device.type == "cpu":
            block = block.numpy()
    else:
        block = np.asarray(block)
    if tuple(block.shape) != (stop - start, n_gallery):
        raise ValueError(f"{where} has shape {tuple(block.shape)}, not {(stop - start, n_gallery)}")
    return block


def _pair_keys(pairs: Any, name: str, shape: tuple[int, int]) -> np.ndarray:
    """row * n_gallery + column of each pair, ascending, each once."""
    rows, columns = (np.asarray(part, dtype=np.int64) for part in pairs)
    for part, limit, what in ((rows, shape[0], "row"), (columns, shape[1], "column")):
        if len(part) and not (0 <= part.min() and part.max() < limit):
            raise ValueError(f"{name} names a {what} outside 0..{limit - 1}")
    return np.unique(rows * shape[1] + columns)


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


__all__ = ["BLOCK_BYTES", "TIES", "PairsOf", "Ranking", "SimilarityBlock", "cpu_threads", "rank", "same_id"]
