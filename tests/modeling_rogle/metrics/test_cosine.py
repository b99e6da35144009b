"""Cosine similarity in blocks: ties, parts of the queries, precision."""

import functools
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_rogle.metrics.cosine import cosine
from modeling_rogle.metrics.retrieval import global_scores


@functools.cache
def rounds_by_position(n_gallery: int, dimension: int) -> bool:
    """Whether the BLAS of this machine gives equal rows of one product different bits."""
    rng = np.random.default_rng(0)
    query = np.repeat(rng.standard_normal((1, dimension), dtype=np.float32), 639, axis=0)
    product = query @ rng.standard_normal((n_gallery, dimension), dtype=np.float32).T
    return bool((product != product[0]).any())


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 500), st.integers(1, 70), st.data())
def test_parts_of_the_queries_give_the_values_of_the_whole(n_query: int, n_gallery: int, dimension: int, data) -> None:
    rng = np.random.default_rng(n_query * 10_000 + n_gallery * 100 + dimension)
    query, gallery = (rng.standard_normal((n, dimension)).astype(np.float32) for n in (n_query, n_gallery))
    start = data.draw(st.integers(0, n_query - 1))
    stop = data.draw(st.integers(start + 1, n_query))
    whole = cosine(query, gallery)(0, n_query)
    for part in (cosine(query, gallery)(start, stop), cosine(query[start:stop], gallery)(0, stop - start)):
        if rounds_by_position(n_gallery, dimension):
            np.testing.assert_allclose(part, whole[start:stop], rtol=0, atol=1e-6)
        else:
            assert (part == whole[start:stop]).all()


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_products_of_torch_are_full_float32_at_any_precision_of_the_caller(precision: str) -> None:
    rng = np.random.default_rng(7)
    query, gallery = (rng.standard_normal((n, 96)).astype(np.float32) for n in (80, 70))
    gallery[5] = gallery[9] = gallery[40]
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            block = cosine(query, gallery, device="cpu")(0, 80)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision("highest")
    assert block.dtype == torch.float32 and (block[:, 5] == block[:, 40]).all()
    assert block.numpy() == pytest.approx(cosine(query, gallery)(0, 80), abs=1e-6)
    ids = np.arange(80) % 9, np.arange(70) % 9
    expected = global_scores(query, ids[0], gallery, ids[1])
    assert global_scores(query, ids[0], gallery, ids[1], device="cpu") == pytest.approx(expected, abs=1e-4)


def test_equal_gallery_vectors_tie_exactly() -> None:
    # A matrix product may round equal columns differently.
    rng = np.random.default_rng(1)
    query, gallery = rng.standard_normal((50, 33)).astype(np.float32), rng.standard_normal((4, 33)).astype(np.float32)
    block = cosine(query, gallery[[0, 1, 2, 1, 3, 1, 0]])(0, 50)
    assert (block[:, [1, 1, 0]] == block[:, [3, 5, 6]]).all()
    unit = query / np.linalg.norm(query, axis=1, keepdims=True)
    assert block[:, :3] == pytest.approx(
        unit @ (gallery[:3] / np.linalg.norm(gallery[:3], axis=1)[:, None]).T, abs=1e-6
    )


def test_a_zero_vector_has_similarity_0() -> None:
    assert (cosine(np.zeros((1, 3), np.float32), np.ones((2, 3), np.float32))(0, 1) == 0).all()


def test_equal_gallery_rows_need_no_copy_of_the_gallery() -> None:
    rng = np.random.default_rng(11)
    query, gallery = rng.standard_normal((70, 33)), rng.standard_normal((901, 33)).astype(np.float32)
    gallery[[900, 17, 400]] = gallery[3]
    gallery[12] = gallery[11]
    similarity = cosine(query.astype(np.float32), gallery)(0, 70)
    assert (similarity[:, [900, 17, 400]] == similarity[:, [3]]).all() and (
        similarity[:, 12] == similarity[:, 11]
    ).all()
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (query, gallery.astype(np.float64))]
    np.testing.assert_allclose(similarity, unit[0] @ unit[1].T, atol=1e-5)
    tracemalloc.start()
    cosine(query.astype(np.float32), gallery)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    plain = gallery.copy()
    plain[[900, 17, 400, 12]] = rng.standard_normal((4, 33))
    tracemalloc.start()
    cosine(query.astype(np.float32), plain)
    assert peak < tracemalloc.get_traced_memory()[1] + gallery.nbytes / 2
    tracemalloc.stop()
