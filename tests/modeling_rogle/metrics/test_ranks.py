"""Exact ranks against plain loops, the tie rules and bad blocks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_rogle.metrics import ranks
from modeling_rogle.metrics.ranks import rank, same_id
from tests.helpers.metrics import scores_by_loops


def scores_of(similarity, query_ids, gallery_ids, **options) -> dict[str, float]:
    similarity = np.asarray(similarity, dtype=np.float32)
    pairs = same_id(np.asarray(query_ids, dtype=np.int64), np.asarray(gallery_ids, dtype=np.int64))
    return rank(lambda a, b: similarity[a:b], *similarity.shape, pairs, **options).scores()


@st.composite
def tables(draw):
    """A similarity matrix on a coarse grid (many ties) with ids, some of them without a partner."""
    n_query, n_gallery = draw(st.integers(1, 6)), draw(st.integers(1, 70))
    cells = st.lists(st.integers(-2, 3), min_size=n_query * n_gallery, max_size=n_query * n_gallery)
    similarity = np.array(draw(cells), dtype=np.float32).reshape(n_query, n_gallery) / 4
    ids = st.integers(0, draw(st.integers(0, 5)))
    query_ids = draw(st.lists(ids, min_size=n_query, max_size=n_query))
    return similarity, query_ids, draw(st.lists(ids, min_size=n_gallery, max_size=n_gallery))


# A long gallery of one identity also crosses from counting to sorting.
@settings(max_examples=150, deadline=None)
@given(tables(), st.sampled_from(ranks.TIES), st.integers(1, 3))
def test_equals_plain_loops(table, ties, block_rows) -> None:
    similarity, query_ids, gallery_ids = table
    found = scores_of(similarity, query_ids, gallery_ids, ties=ties, block_rows=block_rows)
    assert found == pytest.approx(scores_by_loops(similarity, query_ids, gallery_ids, ties), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(tables(), st.sampled_from(("pessimistic", "optimistic")))
def test_counting_equals_sorting(table, ties) -> None:
    counted = scores_of(*table, ties=ties)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "COUNT_UP_TO", 0)
        assert scores_of(*table, ties=ties) == counted


@settings(max_examples=60, deadline=None)
@given(tables(), st.sampled_from(ranks.TIES), st.booleans())
def test_counting_on_the_device_gives_the_same(table, ties, by_sorting) -> None:
    similarity, query_ids, gallery_ids = table
    pairs = same_id(np.array(query_ids), np.array(gallery_ids))(0, len(query_ids))
    if not len(pairs[0]):
        return
    listed = ranks._best_first(similarity, ranks._pair_keys(pairs, "positives", similarity.shape))[:3]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "COUNT_UP_TO", 0 if by_sorting else 99)
        # The path of a CUDA block; `rank` itself uses NumPy for CPU tensors.
        found = ranks._count_ahead_on_device(torch.from_numpy(similarity), *listed, ties)
    assert found.tolist() == ranks._count_ahead(similarity, *listed, ties, threads=1).tolist()


@pytest.mark.parametrize("ties", ranks.TIES)
def test_threads_and_blocks_do_not_change_the_figures(monkeypatch: pytest.MonkeyPatch, ties: str) -> None:
    rng = np.random.default_rng(5)
    similarity = (rng.integers(0, 50, (37, 400)) / 50).astype(np.float32)
    pairs = same_id(np.arange(37) % 5, np.arange(400) % 6)
    one = rank(lambda a, b: similarity[a:b], 37, 400, pairs, ties=ties, threads=1)
    monkeypatch.setattr(ranks, "THREAD_FROM", 1)
    for options in ({"threads": 3}, {"threads": 3, "block_rows": 7}, {"threads": 50}, {"block_bytes": 4 * 400 * 5}):
        other = rank(lambda a, b: similarity[a:b], 37, 400, pairs, ties=ties, **options)
        assert all((getattr(one, name) == getattr(other, name)).all() for name in vars(one))


@settings(max_examples=60, deadline=None)
@given(tables(), st.data())
def test_ignored_items_are_removed(table, data) -> None:
    similarity, query_ids, gallery_ids = table
    cells = st.tuples(st.integers(0, len(query_ids) - 1), st.integers(0, len(gallery_ids) - 1))
    ignored = sorted(data.draw(st.sets(cells, max_size=30)))

    def ignore(start, stop):
        inside = [(q - start, g) for q, g in ignored if start <= q < stop]
        return [q for q, _ in inside], [g for _, g in inside]

    before = similarity.copy()
    found = scores_of(similarity, query_ids, gallery_ids, ignore=ignore, block_rows=2)
    assert found == pytest.approx(scores_by_loops(similarity, query_ids, gallery_ids, ignored=set(ignored)), abs=1e-9)
    assert (similarity == before).all(), "the caller's matrix was written to"


@settings(max_examples=60, deadline=None)
@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_the_gallery_does_not_matter(table, random) -> None:
    similarity, query_ids, gallery_ids = table
    order = list(range(len(gallery_ids)))
    random.shuffle(order)
    assert scores_of(similarity, query_ids, gallery_ids) == pytest.approx(
        scores_of(similarity[:, order], query_ids, [gallery_ids[g] for g in order]), abs=1e-9
    )


@settings(max_examples=60, deadline=None)
@given(tables())
def test_the_tie_rules_are_ordered(table) -> None:
    bad, middle, good = (scores_of(*table, ties=ties) for ties in ("pessimistic", "stable", "optimistic"))
    for name in ("R@1", "R@5", "R@10", "mAP", "mINP"):
        assert bad[name] <= middle[name] + 1e-9 <= good[name] + 2e-9


def test_the_example_of_the_docstring() -> None:
    similarity = [[0.9, 0.8, 0.3, 0.1], [0.6, 0.5, 0.4, 0.2], [0.7, 0.2, 0.1, 0.7]]
    pairs = same_id(np.array([1, 2, 3]), np.array([1, 2, 1, 3]))
    found = rank(lambda a, b: np.float32(similarity)[a:b], 3, 4, pairs)
    assert found.first_rank.tolist() == [1, 2, 2]
    assert found.n_positives.tolist() == [2, 1, 1]
    assert found.average_precision == pytest.approx([5 / 6, 1 / 2, 1 / 2])
    assert found.inverse_penalty == pytest.approx([2 / 3, 1 / 2, 1 / 2])
    expected = {"R@1": 33.33, "R@5": 100, "R@10": 100, "mAP": 61.11, "mINP": 55.56, "median_rank": 2}
    assert found.scores() == pytest.approx(expected | {"queries": 3, "dropped_queries": 0}, abs=0.005)


def test_a_bad_block_is_refused() -> None:
    pairs = same_id(np.arange(2), np.arange(2))
    with pytest.raises(ValueError, match="not finite"):
        rank(lambda a, b: np.array([[0, np.nan], [0, 1]], np.float32), 2, 2, pairs)
    with pytest.raises(ValueError, match="shape"):
        rank(lambda a, b: np.zeros((2, 3), np.float32), 2, 2, pairs)
    with pytest.raises(ValueError, match="positives names a column outside 0..1"):
        rank(lambda a, b: np.zeros((2, 2), np.float32), 2, 2, lambda a, b: ([0], [-1]))
    with pytest.raises(ValueError, match="gallery is empty"):
        rank(lambda a, b: np.zeros((2, 0), np.float32), 2, 0, pairs)
