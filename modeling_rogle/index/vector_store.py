"""Nearest neighbours among the global embeddings: exact search in the shards, or candidates from a vector store.

The shards hold all embeddings and are searched exactly by default. A vector store (faiss in a file of the index, Milvus
in a local file or on a server) returns candidates without reading all embeddings, and may miss some. Candidates are
scored again from the shards, so scores do not depend on the store. Rows that the store does not hold yet are searched
exactly and merged.

Recall is measured when the store is filled, on sentences like those of real queries. The store's effort is raised until
recall@10 is 0.99; a store below 0.95 is not used. Its speed relative to exact search is measured on the same queries,
and `rogle index` warns where the store is slower.

A filter that passes few rows is answered exactly. For other filters the store returns more candidates, in proportion to
the rows that the filter removes. (Stores that filter inside their graph lose results: recall 0.77 and 0.35 were
measured.) Recall with a filter is measured as well. Below 0.95, or if too few candidates pass, the search is exact
and warns.

A new kind of store implements `VectorStore` in a module of its own and is added to `open_store`.
"""

import importlib.util
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from modeling_rogle.index.shards import Index, as_float
from modeling_rogle.index.store_address import public_address, resolve_store
from modeling_rogle.inference.errors import GalleryError

MIN_RECALL = 0.95  # recall@10 below which a store is not used
TARGET_RECALL = 0.99  # recall@10 up to which a store's effort is raised
EXACT_SHARE = 0.1  # a filter that passes at most this share of the rows is answered exactly
EXACT_ROWS = 20_000  # a filter that passes at most this many rows is answered exactly
OVERSAMPLING = 1.5  # factor on the number of candidates that a filter requires on average
TIMED_QUERIES = 20  # queries on which a store is timed against exact search
MIN_CANDIDATES = 64  # candidates of any search: quantised vectors are ordered roughly, the shards correct the order
_SCAN_SHARE = 0.25  # a filter that passes more is a mask over a scan, because gathering the rows would cost more
_BLOCK_ROWS = 512  # bfloat16 rows that are converted to float32 at once: they stay in the cache
_GATHERED_ROWS = 32_768  # rows that are copied into memory at once


class VectorStore(Protocol):
    """Unit vectors by id, with approximate search by inner product.

    Attributes:
        can_delete: whether `delete` removes vectors from the disk. If False, the store is cleared and filled again.
        effort: search effort; recall and time grow with it.
    """

    can_delete: bool
    effort: int

    @property
    def max_effort(self) -> int:
        """Largest useful effort."""
        ...

    def add(self, ids: np.ndarray, embeds: np.ndarray) -> None:
        """Adds vectors or replaces those with the same ids.

        Args:
            ids: `[n]` int64.
            embeds: float32 `[n, D]` unit vectors.
        """

    def delete(self, ids: np.ndarray) -> None:
        """Deletes vectors; unknown ids are ignored."""

    def clear(self) -> None:
        """Deletes all vectors, also from the disk."""

    def search(self, query: np.ndarray, count: int) -> np.ndarray:
        """Returns the ids of at most `count` vectors near to `query` `[D]`, best first.

        Raises:
            GalleryError: the store does not answer.
        """

    def saved(self) -> dict[str, Any]:
        """Writes added vectors to the disk and returns the fields that the manifest needs to find them."""

    def close(self) -> None:
        """Releases the store's files and connections."""


def open_store(uri: str, path: Path, header: dict[str, Any]) -> VectorStore:
    """Opens the vector store of an index.

    Args:
        uri: `faiss` or `faiss-ivf` (inverted file), `faiss-hnsw` (graph), `milvus` (a local file in the index), a path
            that ends in `.db`, or `http://host:19530`. An index's own URI goes through [`trusted_address`] first.
        path: the index folder.
        header: the manifest. Its `store`, if it has the same URI, describes what the store holds.

    Raises:
        GalleryError: the URI is unknown, a package is not installed, the store's file is missing, or the server does
            not answer.
    """
    uri = resolve_store(uri) or ""
    stored = header.get("store")
    if stored is not None and public_address(stored["uri"]) != public_address(uri):
        stored = None
    if uri in ("faiss", "faiss-ivf", "faiss-hnsw"):
        from modeling_rogle.index.faiss_store import FaissStore

        return FaissStore(path, uri, header["dimension"], header["images"], stored)
    if uri == "milvus" or uri.endswith(".db") or "://" in uri:
        from modeling_rogle.index.milvus_store import MilvusStore

        return MilvusStore(str(path / "milvus.db") if uri == "milvus" else uri, header["dimension"], header, stored)
    raise GalleryError(
        f"store {public_address(uri)!r}: not one of exact, faiss, faiss-ivf, faiss-hnsw, milvus, FILE.db, http://host:port"
    )


def check_store(uri: str, path: Path, dimension: int) -> None:
    """Checks before an index exists that its store can be used.

    Args:
        uri: see [`open_store`].
        path: the index folder, which need not exist.
        dimension: length of an embedding.

    Raises:
        GalleryError: the URI is unknown, a package is not installed, or the server does not answer.
    """
    if (uri == "milvus" or uri.endswith(".db")) and importlib.util.find_spec("milvus_lite") is None:
        raise GalleryError(f"store {uri}: milvus-lite is not installed; pip install pymilvus milvus-lite")
    if uri != "milvus" and not uri.endswith(".db"):
        open_store(uri, path, {"dimension": dimension, "images": 0, "collection": "rogle_unknown"}).close()


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


def _cosines(stored: np.ndarray, query: np.ndarray) -> np.ndarray:
    if stored.dtype == np.float32:
        return np.asarray(stored) @ query
    cosines = np.empty(len(stored), dtype=np.float32)  # a product in bfloat16 would round the cosines to ties
    for start in range(0, len(stored), _BLOCK_ROWS):
        cosines[start : start + _BLOCK_ROWS] = as_float(stored[start : start + _BLOCK_ROWS]) @ query
    return cosines


def _gathered_cosines(index: Index, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    starts = range(0, len(rows), _GATHERED_ROWS)
    parts = [index.global_rows(rows[start : start + _GATHERED_ROWS]) @ query for start in starts]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)


def _best(rows: np.ndarray, cosines: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((rows, -cosines))[:count]
    return rows[order], cosines[order]


def nearest(
    index: Index,
    query: np.ndarray,
    count: int,
    rows: np.ndarray | None = None,
    store: VectorStore | None = None,
    synced_until_id: int = 0,
    filtered_recall: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the rows with the highest cosine to a query, through a store where its recall allows it.

    Args:
        index: the index.
        query: `[D]` unit vector.
        count: number of rows to return.
        rows: ascending row numbers to search; all rows by default.
        store: the store that returns candidates; None searches exactly.
        synced_until_id: smaller ids are in the store, the others are searched exactly.
        filtered_recall: measured recall@10 of the store with a filter.

    Returns:
        rows `[k]` int64 and their cosines `[k]` float32, best first, as [`exact_search`] returns them.

    Warns:
        UserWarning: the search was exact because the store does not answer, its recall with a filter is too low, or
            too few of its candidates pass the filter.
    """
    total, allowed = len(index), len(index) if rows is None else len(rows)
    if store is None or (rows is not None and allowed <= max(EXACT_ROWS, EXACT_SHARE * total)):
        return exact_search(index, query, count, rows)
    if rows is not None and filtered_recall < MIN_RECALL:
        share = f"{100 * filtered_recall:.1f} %"
        warnings.warn(f"store: finds {share} of the best ten with a filter; searched exactly instead", stacklevel=3)
        return exact_search(index, query, count, rows)
    try:
        candidates = _candidates(index, query, count, rows, store, synced_until_id)
    except GalleryError as error:
        warnings.warn(f"{error}; searched exactly instead", stacklevel=3)
        return exact_search(index, query, count, rows)
    if len(candidates) < min(count, allowed):
        share = f"{len(candidates)} of {min(count, allowed)}"
        warnings.warn(f"store: returned only {share} results; searched exactly instead", stacklevel=3)
        return exact_search(index, query, count, rows)
    return exact_search(index, query, count, candidates)


def _candidates(
    index: Index, query: np.ndarray, count: int, rows: np.ndarray | None, store: VectorStore, synced_until_id: int
) -> np.ndarray:
    """Returns, ascending: the rows that the store finds, and all rows that it does not hold; those in `rows` only."""
    total = len(index)
    wanted = count if rows is None else int(np.ceil(OVERSAMPLING * count * total / len(rows)))
    ids = store.search(query, min(max(wanted, MIN_CANDIDATES), total))
    # Ids ascend with the rows: shards are only appended, and merging keeps their order. Deleted ids are dropped here.
    candidates = np.searchsorted(index.ids, ids)
    candidates = candidates[(candidates < total) & (index.ids[np.minimum(candidates, total - 1)] == ids)]
    candidates = np.union1d(candidates, np.arange(np.searchsorted(index.ids, synced_until_id), total))
    return candidates if rows is None else np.intersect1d(candidates, rows, assume_unique=True)


@dataclass(frozen=True)
class StoreQuality:
    """What was measured of a store on a set of queries.

    Attributes:
        recall: share in [0, 1] of the exact best results that the store finds.
        filtered_recall: the same with a filter that passes a random half of the rows.
        speedup: median ratio of the time of an exact search to the time of a search through the store.
    """

    recall: float
    filtered_recall: float
    speedup: float


def tune(store: VectorStore, index: Index, queries: np.ndarray, count: int = 10) -> StoreQuality:
    """Raises a store's effort until its recall reaches TARGET_RECALL or its maximum effort, and measures it.

    Args:
        store: the store, filled from `index`. Its `effort` is changed.
        index: the index.
        queries: `[q, D]` unit vectors. Use some hundreds: the measured recall of few queries varies by chance.
        count: number of results of which the recall is measured.
    """
    synced_until_id = int(index.ids[-1]) + 1

    def exact(query: np.ndarray) -> np.ndarray:
        return exact_search(index, query, count)[0]

    def through_store(query: np.ndarray) -> np.ndarray:
        return exact_search(index, query, count, _candidates(index, query, count, None, store, synced_until_id))[0]

    expected = [exact(query) for query in queries]
    while True:
        recall = _recall([through_store(query) for query in queries], expected)
        if recall >= TARGET_RECALL or store.effort >= store.max_effort:
            break
        store.effort = min(2 * store.effort, store.max_effort)
    speedup = _speedup(through_store, exact, queries[:TIMED_QUERIES])
    filtered_recall = recall
    half = np.flatnonzero(np.random.default_rng(0).random(len(index)) < 0.5)
    if len(half) > EXACT_ROWS:
        expected = [exact_search(index, query, count, half)[0] for query in queries]
        candidates = [_candidates(index, query, count, half, store, synced_until_id) for query in queries]
        filtered_recall = _recall(candidates, expected)
    return StoreQuality(recall, filtered_recall, speedup)


def _speedup(
    search: Callable[[np.ndarray], object], reference: Callable[[np.ndarray], object], queries: np.ndarray
) -> float:
    """Returns the median over queries of the reference's time divided by the search's time.

    The two calls of a query follow each other, so that load from other programs affects both. Wall-clock time is
    measured because a store may run on another machine.
    """
    ratios = []
    for query in queries:
        started = time.perf_counter()
        search(query)
        between = time.perf_counter()
        reference(query)
        ratios.append((time.perf_counter() - between) / max(between - started, 1e-9))
    return float(np.median(ratios))


def _recall(results: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    hits = sum(len(np.intersect1d(rows, best)) for rows, best in zip(results, expected, strict=True))
    return hits / sum(len(best) for best in expected)


__all__ = [
    "EXACT_ROWS",
    "MIN_RECALL",
    "TARGET_RECALL",
    "StoreQuality",
    "VectorStore",
    "check_store",
    "exact_search",
    "nearest",
    "open_store",
    "tune",
]
