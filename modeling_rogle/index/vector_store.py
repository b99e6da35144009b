"""Nearest neighbours among the global embeddings: exact search in the shards, or candidates from a vector store.

The shards hold all embeddings and are searched exactly by default. A vector store (faiss in a file of the index, Milvus
or PostgreSQL with pgvector on a server) returns candidates without reading all embeddings, and may miss some.
Candidates are scored again from the shards, so scores do not depend on the store. Rows that the store does not hold yet
are searched exactly and merged.

Recall is measured when the store is filled, on sentences like those of real queries. The store's effort is raised until
recall@10 is 0.99; a store below 0.95 is not used. Its speed relative to exact search is measured on the same queries,
and `rogle index` warns where the store is slower.

A store that can restrict a search to given ids does so for filters that pass at most `max_filter` rows. Other filters
that pass few rows are answered exactly. For the rest the store returns more candidates, in proportion to the rows that
the filter removes. Recall with a filter is measured as well. Below 0.95, or if too few candidates pass, the search is
exact and warns.

A new kind of store implements `VectorStore` in a module of its own and is added to `open_store`.
"""

import warnings
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from modeling_rogle.index.exact_search import exact_search
from modeling_rogle.index.shards import Index
from modeling_rogle.index.store_address import is_milvus_lite, not_contacted, public_address
from modeling_rogle.inference.errors import GalleryError

MIN_RECALL = 0.95  # recall@10 below which a store is not used
EXACT_SHARE = 0.1  # a filter that passes at most this share of the rows is answered exactly
EXACT_ROWS = 5_000  # a filter that passes at most this many rows is answered exactly: 10 MB are read at width 512
OVERSAMPLING = 1.5  # factor on the number of candidates that a filter requires on average
MIN_CANDIDATES = 64  # candidates of any search: quantised vectors are ordered roughly, the shards correct the order


class VectorStore(Protocol):
    """Unit vectors by id, with approximate search by inner product.

    Attributes:
        can_delete: whether `delete` removes vectors from the disk. If False, the store is cleared and filled again.
        max_filter: largest number of ids that a search can be restricted to; 0 if it cannot be restricted.
        effort: search effort; recall and time grow with it.
    """

    can_delete: bool
    max_filter: int
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

    def finish(self, progress: bool) -> None:
        """Waits until added vectors are searched as they will be from now on, for example through a server's graph.

        Args:
            progress: show a progress bar.
        """

    def built(self) -> str | None:
        """Describes what a search reads. If it changes, the measured quality no longer applies. None: no change."""

    def delete(self, ids: np.ndarray) -> None:
        """Deletes vectors; unknown ids are ignored."""

    def clear(self) -> None:
        """Deletes all vectors, also from the disk."""

    def search(self, query: np.ndarray, count: int, ids: np.ndarray | None = None) -> np.ndarray:
        """Returns the ids of at most `count` vectors near to `query` `[D]`, best first.

        Args:
            query: `[D]` unit vector.
            count: number of ids.
            ids: ascending ids to search, at most `max_filter`. Default: all.

        Raises:
            GalleryError: the store does not answer.
        """

    def saved(self) -> dict[str, Any]:
        """Writes added vectors to the disk and returns the fields that the manifest needs to find them."""

    def close(self) -> None:
        """Releases the store's files and connections."""


def open_store(uri: str, path: Path, header: dict[str, Any], writing: bool = False) -> VectorStore:
    """Opens the vector store of an index.

    Args:
        uri: `faiss-flat` (8-bit codes, exact candidates), `faiss` or `faiss-ivf` (inverted file), `faiss-hnsw` (graph),
            `http://host:19530` (Milvus), or `postgresql://host/database` (pgvector). An index's own URI goes through
            [`trusted_address`] first.
        path: the index folder.
        header: the manifest. Its `store`, if it has the same URI, describes what the store holds.
        writing: the store will be changed. A collection on a server that belongs to the index from which this one was
            copied is refused then. Default: False.

    Raises:
        GalleryError: the URI is unknown, a package is not installed, the store's file is missing, the server does not
            answer, or its collection is not that of this index.
    """
    stored = header.get("store")
    if stored is not None and public_address(stored["uri"]) != public_address(uri):
        stored = None
    if uri == "faiss-flat":
        from modeling_rogle.index.flat_store import FlatStore

        return FlatStore(path, header["dimension"], stored)
    if uri in ("faiss", "faiss-ivf", "faiss-hnsw"):
        from modeling_rogle.index.faiss_store import FaissStore

        return FaissStore(path, uri, header["dimension"], header["images"], stored)
    if uri.startswith(("http://", "https://")):
        from modeling_rogle.index.milvus_store import MilvusStore

        return MilvusStore(uri, path, header, stored, writing)
    if uri.startswith(("postgresql://", "postgres://")):
        from modeling_rogle.index.pgvector_store import PgvectorStore

        return PgvectorStore(uri, path, header, stored, writing)
    if is_milvus_lite(uri):
        raise GalleryError(not_contacted(uri))
    raise GalleryError(
        f"store {public_address(uri)!r}: not one of exact, faiss-flat, faiss, faiss-ivf, faiss-hnsw, http://host:port, "
        "postgresql://host/database"
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
    open_store(uri, path, {"dimension": dimension, "images": 0, "collection": "rogle_unknown"}).close()


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
    if store is None or (rows is not None and _is_answered_exactly(allowed, total, count, store)):
        return exact_search(index, query, count, rows)
    if rows is not None and filtered_recall < MIN_RECALL:
        share = f"{100 * filtered_recall:.1f} %"
        warnings.warn(f"store: finds {share} of the best ten with a filter; searched exactly instead", stacklevel=3)
        return exact_search(index, query, count, rows)
    try:
        candidates = find_candidates(index, query, count, rows, store, synced_until_id)
    except GalleryError as error:
        warnings.warn(f"{error}; searched exactly instead", stacklevel=3)
        return exact_search(index, query, count, rows)
    if len(candidates) < min(count, allowed):
        share = f"{len(candidates)} of {min(count, allowed)}"
        warnings.warn(f"store: returned only {share} results; searched exactly instead", stacklevel=3)
        return exact_search(index, query, count, rows)
    return exact_search(index, query, count, candidates)


def _is_answered_exactly(allowed: int, total: int, count: int, store: VectorStore) -> bool:
    """Whether a filter that passes `allowed` of `total` rows is answered from the shards."""
    if allowed <= max(count, MIN_CANDIDATES):  # each row that passes is a candidate
        return True
    return allowed > store.max_filter and allowed <= max(EXACT_ROWS, EXACT_SHARE * total)


def find_candidates(
    index: Index, query: np.ndarray, count: int, rows: np.ndarray | None, store: VectorStore, synced_until_id: int
) -> np.ndarray:
    """Returns, ascending: the rows that the store finds, and all rows that it does not hold; those in `rows` only.

    Args:
        index: the index.
        query: `[D]` unit vector.
        count: number of results that are wanted.
        rows: ascending row numbers that a filter passes; None without a filter.
        store: the store.
        synced_until_id: smaller ids are in the store.
    """
    total, passing, wanted = len(index), None, count
    if rows is not None and len(rows) <= store.max_filter:
        passing = index.ids[rows]
    elif rows is not None:
        wanted = int(np.ceil(OVERSAMPLING * count * total / len(rows)))
    count = min(max(wanted, MIN_CANDIDATES), total)
    ids = store.search(query, count) if passing is None else store.search(query, count, passing)
    # Ids ascend with the rows: shards are only appended, and merging keeps their order. Deleted ids are dropped here.
    candidates = np.searchsorted(index.ids, ids)
    candidates = candidates[(candidates < total) & (index.ids[np.minimum(candidates, total - 1)] == ids)]
    candidates = np.union1d(candidates, np.arange(np.searchsorted(index.ids, synced_until_id), total))
    return candidates if rows is None else np.intersect1d(candidates, rows, assume_unique=True)


__all__ = ["EXACT_ROWS", "MIN_RECALL", "VectorStore", "check_store", "find_candidates", "nearest", "open_store"]
