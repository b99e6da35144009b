"""Exact search for the nearest global embeddings in the shards: one query, or several queries that share one pass."""

import numpy as np

from modeling_rogle.index.shards import Index

_SCAN_SHARE = 0.25  # a filter that passes more is a mask over a scan, because gathering the rows would cost more
_BLOCK_ROWS = 512  # bfloat16 rows that are converted to float32 at once: they stay in the cache
_BATCH_ROWS = 8_192  # rows that several queries are multiplied with at once
_GATHERED_ROWS = 32_768  # rows that are copied into memory at once


def exact_search(
    index: Index, query: np.ndarray, count: int, rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the rows with the highest cosine to a query.

    Args:
        index: the index, which is read block by block.
        query: `[D]` unit vector.
        count: number of rows to return.
        rows: ascending row numbers to search; all rows by default.

    Returns:
        rows `[k]` int64 and their cosines `[k]` float32, best first; of equal cosines the earlier row comes first.
    """
    query = np.ascontiguousarray(query, dtype=np.float32)
    count = count if rows is None else min(count, len(rows))
    if rows is not None and len(rows) <= _SCAN_SHARE * len(index):
        return _best(rows, _gathered_cosines(index, rows, query), count)
    excluded = None
    if rows is not None:
        excluded = np.ones(len(index), dtype=bool)
        excluded[rows] = False
    best_rows, best_cosines = [], []
    for shard, start in zip(index.shards, index.starts, strict=False):
        cosines = _cosines(shard.global_embeds, query)
        if excluded is not None:
            cosines[excluded[start : start + len(cosines)]] = -np.inf
        if len(cosines) > count:
            threshold = np.partition(cosines, len(cosines) - count)[len(cosines) - count]
            best = np.flatnonzero(cosines >= threshold)  # with all ties at the threshold: the earlier rows are wanted
        else:
            best = np.arange(len(cosines))
        best_rows.append(best + start)
        best_cosines.append(cosines[best])
    if not best_rows:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
    return _best(np.concatenate(best_rows), np.concatenate(best_cosines), count)


def exact_search_batch(
    index: Index, queries: np.ndarray, count: int, rows: np.ndarray | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Finds for each of several queries what [`exact_search`] finds. The embeddings are read once.

    Args:
        index: the index.
        queries: `[q, D]` unit vectors.
        count: number of rows to return for a query.
        rows: ascending row numbers to search; all rows by default.

    Returns:
        for each query, rows `[k]` int64 and their cosines `[k]` float32, best first. The cosines may differ from those
        of [`exact_search`] by 1e-6, because the products are summed in another order.
    """
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    numbers = np.arange(len(index)) if rows is None else rows
    best = [(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)) for _ in queries]
    for start in range(0, len(numbers), _BATCH_ROWS):
        block = numbers[start : start + _BATCH_ROWS]
        cosines = queries @ index.global_rows(block).T
        for n, row in enumerate(cosines):
            known_rows, known = best[n]
            better = np.flatnonzero(row > known[-1]) if len(known) == count else np.arange(len(row))
            if len(better):
                best[n] = _best(
                    np.concatenate([known_rows, block[better]]), np.concatenate([known, row[better]]), count
                )
    return best


def _cosines(stored: np.ndarray, query: np.ndarray) -> np.ndarray:
    if stored.dtype == np.float32:
        return np.asarray(stored) @ query
    # A product in bfloat16 would round the cosines to ties. The block is reused: a new one would be cleared each time.
    cosines = np.empty(len(stored), dtype=np.float32)
    block = np.empty((_BLOCK_ROWS, stored.shape[1]), dtype=np.uint32)
    for start in range(0, len(stored), _BLOCK_ROWS):
        part = np.asarray(stored[start : start + _BLOCK_ROWS])
        bits = block[: len(part)]
        np.copyto(bits, part)
        np.left_shift(bits, 16, out=bits)  # a bfloat16 is the upper half of a float32
        np.dot(bits.view(np.float32), query, out=cosines[start : start + len(part)])
    return cosines


def _gathered_cosines(index: Index, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    starts = range(0, len(rows), _GATHERED_ROWS)
    parts = [index.global_rows(rows[start : start + _GATHERED_ROWS]) @ query for start in starts]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)


def _best(rows: np.ndarray, cosines: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((rows, -cosines))[:count]
    return rows[order], cosines[order]


__all__ = ["exact_search", "exact_search_batch"]
