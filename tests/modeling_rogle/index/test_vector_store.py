"""Exact search equals sorting all cosines; a store is used only where its measured recall allows it."""

import warnings

import numpy as np
import pytest

from modeling_rogle.index import exact_search as exact_search_module
from modeling_rogle.index import store_quality
from modeling_rogle.index import vector_store as stores
from modeling_rogle.index.exact_search import exact_search, exact_search_batch
from modeling_rogle.index.shards import Index
from modeling_rogle.index.store_quality import recall_of, tune
from modeling_rogle.index.vector_store import nearest, open_store
from modeling_rogle.inference.errors import GalleryError
from tests.helpers.index_files import REGIONS, clustered, clustered_index, empty_writer, image_rows, unit_rows
from tests.helpers.index_files import STORE_DIMENSION as DIMENSION
from tests.helpers.index_files import STORE_ROWS as ROWS


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def index(request, tmp_path_factory) -> Index:
    return clustered_index(tmp_path_factory.mktemp("store") / "index", request.param)


class Exhaustive:
    """A store that searches exactly and returns the share `effort` / 8 of the rows."""

    can_delete, max_effort, max_filter = True, 8, 0

    def __init__(self, index: Index, effort: int = 8):
        self.index, self.effort, self.searches = index, effort, 0

    def search(self, query: np.ndarray, count: int) -> np.ndarray:
        self.searches += 1
        ids = self.index.ids[exact_search(self.index, query, count)[0]]
        return ids[ids % 8 < self.effort]


@pytest.mark.parametrize("count", [1, 10, 200, 599, 600, 5000])
def test_exact_search_equals_sorting_everything(index, count):
    query = unit_rows(DIMENSION, seed=7)
    scores = index.global_rows() @ query
    rows, cosines = exact_search(index, query, count)
    assert rows.tolist() == np.argsort(-scores, kind="stable")[:count].tolist()
    np.testing.assert_allclose(cosines, scores[rows], atol=1e-6)
    for some in (np.arange(0, ROWS, 7), np.setdiff1d(np.arange(ROWS), np.arange(40, 300))):  # read, and masked
        rows, cosines = exact_search(index, query, count, some)
        assert rows.tolist() == some[np.argsort(-scores[some], kind="stable")][:count].tolist()
        np.testing.assert_allclose(cosines, scores[rows], atol=1e-6)


@pytest.mark.parametrize("count", [1, 10, 700])
def test_a_batch_of_queries_gives_what_each_query_gives(index, count, monkeypatch):
    monkeypatch.setattr(exact_search_module, "_BATCH_ROWS", 64)
    queries = unit_rows(5, DIMENSION, seed=7)
    for some in (None, np.arange(0, ROWS, 7)):
        batch = exact_search_batch(index, queries, count, some)
        for query, (rows, cosines) in zip(queries, batch, strict=True):
            expected = exact_search(index, query, count, some)
            assert rows.tolist() == expected[0].tolist()
            np.testing.assert_allclose(cosines, expected[1], atol=1e-6)


def test_a_result_with_an_equal_score_counts_as_found():
    expected = [(np.array([1, 2]), np.float32([0.9, 0.5]))]
    assert recall_of([(np.array([1, 3]), np.float32([0.9, 0.5]))], expected) == 1.0
    assert recall_of([(np.array([1, 4]), np.float32([0.9, 0.4]))], expected) == 0.5


def test_of_equal_scores_the_earlier_rows_win(tmp_path):
    writer = empty_writer(tmp_path, dimension=2)
    for start in (0, 10):
        writer.add(image_rows(start, 10), np.tile(np.float32([1, 0]), (10, 1)), np.ones((10, REGIONS, 2), np.float32))
        writer.commit()
    assert exact_search(Index(tmp_path), np.float32([1, 0]), 13)[0].tolist() == list(range(13))


def test_a_search_through_a_store_equals_exact_search(index, monkeypatch):
    monkeypatch.setattr(stores, "EXACT_ROWS", 10)
    query, store = unit_rows(DIMENSION, seed=8), Exhaustive(index)
    half = np.arange(0, ROWS, 2)
    for rows in (None, half):
        expected = exact_search(index, query, 10, rows)
        result = nearest(index, query, 10, rows, store, ROWS)
        np.testing.assert_array_equal(result[0], expected[0])
        np.testing.assert_allclose(result[1], expected[1], atol=1e-6)
    assert store.searches == 2
    nearest(index, query, 10, np.arange(9), store, ROWS)
    assert store.searches == 2  # nine rows are read exactly


def test_a_store_that_can_filter_gets_the_ids_that_pass(index):
    query, half, passed = unit_rows(DIMENSION, seed=8), np.arange(0, ROWS, 2), []

    class Filtering(Exhaustive):
        max_filter = ROWS

        def search(self, query, count, ids=None):
            passed.append((count, ids.tolist()))
            return ids[np.argsort(-(self.index.global_rows(ids) @ query))[:count]]

    result = nearest(index, query, 10, half, Filtering(index), ROWS)
    assert result[0].tolist() == exact_search(index, query, 10, half)[0].tolist()
    assert passed == [(stores.MIN_CANDIDATES, half.tolist())]


def test_rows_that_the_store_does_not_hold_are_searched_exactly(index):
    query = unit_rows(DIMENSION, seed=9)
    store = Exhaustive(index)
    result = nearest(index, query, 10, None, store, 300)
    store.search = lambda query, count: exact_search(index, query, count, np.arange(300))[0]
    assert nearest(index, query, 10, None, store, 300)[0].tolist() == result[0].tolist()
    assert result[0].tolist() == exact_search(index, query, 10)[0].tolist()


def test_a_store_that_does_not_answer_or_returns_too_few_is_replaced_by_exact_search(index, monkeypatch):
    monkeypatch.setattr(stores, "EXACT_ROWS", 10)
    query, store = unit_rows(DIMENSION, seed=9), Exhaustive(index)
    expected = exact_search(index, query, 10, np.arange(1, ROWS, 2))[0].tolist()
    store.search = lambda *_: np.arange(0, 400, 2)  # none of them passes
    with pytest.warns(UserWarning, match="only 0 of 10 results"):
        assert nearest(index, query, 10, np.arange(1, ROWS, 2), store, ROWS)[0].tolist() == expected

    def gone(*_):
        raise GalleryError("store http://gone: no answer")

    store.search = gone
    with pytest.warns(UserWarning, match="store http://gone: no answer"):
        assert nearest(index, query, 10, None, store, ROWS)[0].tolist() == exact_search(index, query, 10)[0].tolist()


def test_a_store_with_a_low_recall_with_filters_is_not_used_with_one(index, monkeypatch):
    monkeypatch.setattr(stores, "EXACT_ROWS", 10)
    query, store, half = unit_rows(DIMENSION, seed=9), Exhaustive(index), np.arange(1, ROWS, 2)
    with pytest.warns(UserWarning, match="80.0 %"):
        result = nearest(index, query, 10, half, store, ROWS, filtered_recall=0.8)
    assert not store.searches and result[0].tolist() == exact_search(index, query, 10, half)[0].tolist()
    nearest(index, query, 10, None, store, ROWS, filtered_recall=0.8)
    assert store.searches == 1


def test_deleted_ids_are_dropped(tmp_path):
    index = clustered_index(tmp_path / "index")
    query = unit_rows(DIMENSION, seed=4)
    writer = empty_writer(tmp_path / "index", **{k: v for k, v in index.header.items() if k != "path"})
    best = exact_search(index, query, 3)[0]
    writer.remove(index.ids[best])
    writer.commit()
    after, stale = Index(tmp_path / "index"), Exhaustive(index)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = nearest(after, query, 5, None, stale, ROWS)[0]
    assert result.tolist() == exact_search(after, query, 5)[0].tolist()


def test_the_effort_rises_until_the_recall_is_reached_or_cannot_be(index):
    queries = clustered(12)
    good = Exhaustive(index, effort=1)
    quality = tune(good, index, queries)
    assert quality.recall == 1.0 and good.effort == 8 and quality.speedup > 0
    poor = Exhaustive(index, effort=1)
    poor.max_effort = 2
    assert 0.1 < tune(poor, index, queries).recall < 0.5 and poor.effort == 2


class Clock:
    """A clock that advances with the work done, `slower` times as fast from the time `busy` on."""

    def __init__(self, busy: float, slower: float):
        self.now, self.busy, self.slower = 0.0, busy, slower

    def perf_counter(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds * (self.slower if self.now >= self.busy else 1.0)


@pytest.mark.parametrize("busy", [0.0, 45.0, 70.0, 90.0, 1e9])
def test_the_speedup_does_not_depend_on_the_load_of_the_machine(index, monkeypatch, busy):
    clock, exactly = Clock(busy, 10.0), store_quality.exact_search

    def exact(index, query, count, rows=None):
        if rows is None:
            clock.work(4.0)
        return exactly(index, query, count, rows)

    class Quick(Exhaustive):
        def search(self, query, count):
            clock.work(1.0)
            return super().search(query, count)

    monkeypatch.setattr(store_quality, "time", clock)
    monkeypatch.setattr(store_quality, "exact_search", exact)
    assert tune(Quick(index), index, clustered(12)).speedup == pytest.approx(4.0)


def test_recall_with_a_filter_is_measured_separately(index, monkeypatch):
    monkeypatch.setattr(store_quality, "EXACT_ROWS", 10)
    monkeypatch.setattr(stores, "MIN_CANDIDATES", 1)
    monkeypatch.setattr(stores, "OVERSAMPLING", 0.25)  # too few candidates of the half that passes
    quality = tune(Exhaustive(index), index, clustered(12))
    assert quality.recall == 1.0 and quality.filtered_recall < 0.6


def test_a_store_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(GalleryError, match="store 'elastic': not one of exact, faiss"):
        open_store("elastic", tmp_path, {})
