"""Measures a vector store against exact search, and raises its effort until its recall is high enough."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from modeling_rogle.index.exact_search import exact_search, exact_search_batch
from modeling_rogle.index.shards import Index
from modeling_rogle.index.vector_store import EXACT_ROWS, VectorStore, find_candidates

TARGET_RECALL = 0.99  # recall@10 up to which a store's effort is raised
TIMED_QUERIES = 20  # queries on which a store is timed against exact search
_EQUAL = 1e-6  # cosines that differ by less are equal: which of two copies of an image is found does not matter

Results = Sequence[tuple[np.ndarray, np.ndarray]]  # for each query, rows and cosines


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
    """Raises a store's effort until its recall, also with a filter, reaches TARGET_RECALL, and measures it.

    Args:
        store: the store, filled from `index`. Its `effort` is changed.
        index: the index.
        queries: `[q, D]` unit vectors. Use some hundreds: the measured recall of few queries varies by chance.
        count: number of results of which the recall is measured.
    """
    synced_until_id = int(index.ids[-1]) + 1

    def through_store(query: np.ndarray, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        candidates = find_candidates(index, query, count, rows, store, synced_until_id)
        return exact_search(index, query, count, candidates)

    half: np.ndarray | None = np.flatnonzero(np.random.default_rng(0).random(len(index)) < 0.5)
    expected = exact_search_batch(index, queries, count)
    expected_of_half = None
    if half is not None and (len(half) > EXACT_ROWS or count < len(half) <= store.max_filter):
        expected_of_half = exact_search_batch(index, queries, count, half)
    while True:
        recall = recall_of([through_store(query) for query in queries], expected)
        filtered_recall = recall
        if expected_of_half is not None and (recall >= TARGET_RECALL or store.effort >= store.max_effort):
            filtered_recall = recall_of([through_store(query, half) for query in queries], expected_of_half)
        if min(recall, filtered_recall) >= TARGET_RECALL or store.effort >= store.max_effort:
            break
        store.effort = min(2 * store.effort, store.max_effort)
    speedup = _speedup(through_store, lambda query: exact_search(index, query, count), queries[:TIMED_QUERIES])
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


def recall_of(results: Results, expected: Results) -> float:
    """Share in [0, 1] of the expected results that were found. A result with an equal cosine counts as found.

    Args:
        results: for each query, rows and exact cosines, best first.
        expected: the same from exact search.
    """
    found = total = 0
    for (_, cosines), (_, best) in zip(results, expected, strict=True):
        total += len(best)
        if len(best):
            found += min(len(best), int((cosines >= best[-1] - _EQUAL).sum()))
    return found / total if total else 1.0


__all__ = ["TARGET_RECALL", "StoreQuality", "recall_of", "tune"]
