"""Where the nearest global embeddings are looked up: exactly, in the shards themselves, or in a store beside them.

The shards of an index are its exact store and hold everything. A store beside them (faiss in a file of the index,
Milvus in a file or a cluster) finds candidates without reading all of it and may miss some, so it is believed only as
far as it was measured: its recall on sentences like those that people ask is measured when it is filled, its effort is
raised until 0.99, and a store under 0.95 is not asked. Whether it is faster than the exact search on these very vectors
is measured with it, and said where it is not. Whatever it finds is scored again from the shards, so scores never depend
on the store. What the store does not hold yet is read exactly and merged.

Filters: to few rows, exactly those are read; to many, the store is asked for as many more as the filter takes away
(stores that filter inside their graph lose hits: 0.77 and 0.35 were measured). That recall is measured as well; under
0.95, or if less passes than was asked for, the search is exact, and says so.
"""

import importlib.util
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from modeling_rogle.index.shards import Index, as_float
from modeling_rogle.inference.errors import GalleryError

MIN_RECALL = 0.95  # recall@10 under which a store is not asked
TARGET_RECALL = 0.99  # recall@10 that its effort is raised to
EXACT_SHARE = 0.1  # a filter that lets at most this share of the rows through is answered exactly
EXACT_ROWS = 20_000  # and so is any that lets no more rows through than this
MARGIN = 1.5  # how many more than the share of the filter demands are asked for
TIMED = 20  # queries that a store is raced on against the exact search
LEAST = 64  # that a store is asked for: its order is rough where its vectors are codes, the shards put it right
_WIDE = 0.25  # a filter that lets more through is a mask over a scan: gathering the rows would cost more than they do
_BLOCK = 512  # bfloat16 rows that are converted to float32 at once: they stay in the cache
_ROWS_AT_ONCE = 32_768  # rows that are copied into memory at once


class VectorStore(Protocol):
    """Unit vectors by id, and those nearest to a query by inner product, perhaps not all of them.

    forgets: whether `delete` takes the vectors off the disk; if not, it is cleared and filled again.
    effort, max_effort: how hard a search tries; the recall grows with it.
    """

    forgets: bool
    effort: int
    max_effort: int

    def add(self, ids: np.ndarray, embeds: np.ndarray) -> None:
        """Takes `[n]` int64 ids, new or known, and `[n, D]` float32 unit vectors."""

    def delete(self, ids: np.ndarray) -> None:
        """Forgets some ids; unknown ones do nothing."""

    def clear(self) -> None:
        """Forgets everything, off the disk."""

    def search(self, query: np.ndarray, count: int) -> np.ndarray:
        """The ids nearest to `[D]`, best first, at most `count`. Raises GalleryError if the store is not there."""

    def saved(self) -> dict[str, Any]:
        """Makes what was added outlive the process; gives what the manifest must hold to find it again."""

    def close(self) -> None: ...


def open_store(uri: str, path: Path, header: dict[str, Any]) -> VectorStore:
    """The store that `uri` names, of the index at `path`: `faiss`, `faiss-ivf`, `faiss-hnsw`; `milvus` (a file in the
    index), a path that ends in `.db`, or `http://host:19530`. What it holds already is found through the manifest.

    Raises:
        GalleryError: no such store, its package is not installed, its file is missing, or it does not answer.
    """
    known = header.get("store") if (header.get("store") or {}).get("uri") == uri else None
    if uri in ("faiss", "faiss-ivf", "faiss-hnsw"):
        from modeling_rogle.index.faiss_store import FaissStore

        return FaissStore(path, uri, header["dimension"], header["images"], known)
    if uri == "milvus" or uri.endswith(".db") or "://" in uri:
        from modeling_rogle.index.milvus_store import MilvusStore

        return MilvusStore(str(path / "milvus.db") if uri == "milvus" else uri, header["dimension"], header, known)
    raise GalleryError(
        f"store {uri!r}: not one of exact, faiss, faiss-ivf, faiss-hnsw, milvus, FILE.db, http://host:port"
    )


def resolve_store(uri: str | None) -> str | None:
    """Returns the URI of a store with a local file's path made absolute, because an index is opened from any folder."""
    return os.path.abspath(uri) if uri and uri.endswith(".db") and "://" not in uri else uri


def check_store(uri: str, path: Path, dimension: int) -> None:
    """Raises as [`open_store`] what can be known before there is an index: no such store, a package that is not
    installed, a server that does not answer."""
    if (uri == "milvus" or uri.endswith(".db")) and importlib.util.find_spec("milvus_lite") is None:
        raise GalleryError(f"store {uri}: milvus-lite is not installed; pip install pymilvus milvus-lite")
    if uri != "milvus" and not uri.endswith(".db"):
        open_store(uri, path, {"dimension": dimension, "images": 0, "collection": "rogle_unknown"}).close()


def exact_search(
    index: Index, query: np.ndarray, count: int, rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the highest cosine with a query, read block by block.

    Args:
        query: `[D]` float32 unit vector.
        count: how many.
        rows: only among these, ascending; all by default.

    Returns:
        rows `[k]` int64 and their cosines `[k]` float32, best first; of equal ones the earlier row.
    """
    asked = np.ascontiguousarray(query, dtype=np.float32)
    count = count if rows is None else min(count, len(rows))
    if rows is not None and len(rows) <= _WIDE * len(index):
        return _best(rows, _matched(index, rows, asked), count)
    hidden = None
    if rows is not None:
        hidden = np.ones(len(index), dtype=bool)
        hidden[rows] = False
    found, scores = [], []
    for shard, start in zip(index.shards, index.starts, strict=False):
        block = _cosines(shard.global_embeds, asked)
        if hidden is not None:
            block[hidden[start : start + len(block)]] = -np.inf
        if len(block) > count:
            cut = np.partition(block, len(block) - count)[len(block) - count]
            best = np.flatnonzero(block >= cut)  # includes all rows that tie at the cut: the earlier ones are wanted
        else:
            best = np.arange(len(block))
        found.append(best + start)
        scores.append(block[best])
    if not found:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
    return _best(np.concatenate(found), np.concatenate(scores), count)


def _cosines(stored: np.ndarray, query: np.ndarray) -> np.ndarray:
    if stored.dtype == np.float32:
        return np.asarray(stored) @ query
    cosines = np.empty(len(stored), dtype=np.float32)  # a product in bfloat16 would round the scores to ties
    for start in range(0, len(stored), _BLOCK):
        cosines[start : start + _BLOCK] = as_float(stored[start : start + _BLOCK]) @ query
    return cosines


def _matched(index: Index, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    parts = [index.global_rows(rows[n : n + _ROWS_AT_ONCE]) @ query for n in range(0, len(rows), _ROWS_AT_ONCE)]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)


def _best(rows: np.ndarray, scores: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((rows, -scores))[:count]
    return rows[order], scores[order]


def nearest(
    index: Index,
    query: np.ndarray,
    count: int,
    rows: np.ndarray | None = None,
    store: VectorStore | None = None,
    upto: int = 0,
    filtered: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """As [`exact_search`], by way of a store where it can be trusted.

    Args:
        store: looked up in; None searches exactly.
        upto: ids below are in the store, the others are read exactly.
        filtered: the store's recall through a filter, as it was measured.

    Warns:
        UserWarning: the store did not answer, loses too much through filters, or had not enough that passes this one:
            the search was exact.
    """
    total, allowed = len(index), len(index) if rows is None else len(rows)
    if store is None or (rows is not None and allowed <= max(EXACT_ROWS, EXACT_SHARE * total)):
        return exact_search(index, query, count, rows)
    if rows is not None and filtered < MIN_RECALL:
        share = f"{100 * filtered:.1f} %"
        warnings.warn(f"store: finds {share} of the best ten through filters; searched exactly instead", stacklevel=3)
        return exact_search(index, query, count, rows)
    try:
        places = _candidates(index, query, count, rows, store, upto)
    except GalleryError as error:
        warnings.warn(f"{error}; searched exactly instead", stacklevel=3)
        return exact_search(index, query, count, rows)
    if len(places) < min(count, allowed):
        found = f"{len(places)} of {min(count, allowed)} results"
        warnings.warn(f"store: only {found} came back; searched exactly instead", stacklevel=3)
        return exact_search(index, query, count, rows)
    return exact_search(index, query, count, places)


def _candidates(
    index: Index, query: np.ndarray, count: int, rows: np.ndarray | None, store: VectorStore, upto: int
) -> np.ndarray:
    """Rows that the store finds and that pass the filter, and every row that it does not hold; ascending."""
    total = len(index)
    asked = count if rows is None else int(np.ceil(MARGIN * count * total / len(rows)))
    ids = store.search(query, min(max(asked, LEAST), total))
    # ids ascend with the rows: shards are only ever appended, and keep their order when they melt.
    places = np.searchsorted(index.ids, ids)
    places = places[(places < total) & (index.ids[np.minimum(places, total - 1)] == ids)]
    places = np.union1d(places, np.arange(np.searchsorted(index.ids, upto), total))
    return places if rows is None else np.intersect1d(places, rows, assume_unique=True)


@dataclass(frozen=True)
class StoreQuality:
    """What a store was measured to find of the exact best, in [0, 1]: `recall` of all, `filtered` through a filter that
    lets a random half through; `gain`: how many times as fast as the exact search a search by way of it is."""

    recall: float
    filtered: float
    gain: float


def tune(store: VectorStore, index: Index, queries: np.ndarray, count: int = 10) -> StoreQuality:
    """Raises a store's effort until its recall@`count` on `queries` `[q, D]` is 0.99 without a filter, or no further,
    and measures what that costs. Of few queries chance decides: one in forty may find nothing."""
    upto = int(index.ids[-1]) + 1
    rows = np.flatnonzero(np.random.default_rng(0).random(len(index)) < 0.5)

    def exact(query: np.ndarray) -> np.ndarray:
        return exact_search(index, query, count)[0]

    def found(query: np.ndarray) -> np.ndarray:
        return exact_search(index, query, count, _candidates(index, query, count, None, store, upto))[0]

    wanted = [exact(query) for query in queries]
    while (
        recall := _recall([found(query) for query in queries], wanted)
    ) < TARGET_RECALL and store.effort < store.max_effort:
        store.effort = min(2 * store.effort, store.max_effort)
    gain = _times_as_fast(found, exact, queries[:TIMED])
    through = recall
    if len(rows) > EXACT_ROWS:
        wanted = [exact_search(index, query, count, rows)[0] for query in queries]
        through = _recall([_candidates(index, query, count, rows, store, upto) for query in queries], wanted)
    return StoreQuality(recall, through, gain)


def _times_as_fast(
    one: Callable[[np.ndarray], object], other: Callable[[np.ndarray], object], queries: np.ndarray
) -> float:
    """How many times as fast as `other` a search by `one` is: the median over queries of the ratio of two calls, one
    straight after the other, so that whatever else the machine does meets both. Of the clock on the wall: a store may
    lie on another machine, whose work is not this process' time."""
    ratios = []
    for query in queries:
        before = time.perf_counter()
        one(query)
        between = time.perf_counter()
        other(query)
        ratios.append((time.perf_counter() - between) / max(between - before, 1e-9))
    return float(np.median(ratios))


def _recall(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    hits = sum(len(np.intersect1d(some, best)) for some, best in zip(found, wanted, strict=True))
    return hits / sum(len(best) for best in wanted)


__all__ = ["TARGET_RECALL", "EXACT_ROWS", "MIN_RECALL", "StoreQuality", "VectorStore", "check_store", "exact_search", "nearest",
           "open_store", "resolve_store", "tune"]  # fmt: skip
