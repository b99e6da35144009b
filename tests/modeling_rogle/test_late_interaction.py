"""Late interaction: the fused score, the int8 regions of an index and their cosines."""

import numpy as np
import pytest

from modeling_rogle.late_interaction import (
    dequantize_regions,
    fuse,
    late_interaction,
    quantize_regions,
    ranks,
    region_cosines,
)
from tests.helpers.index_files import unit_rows


@pytest.mark.parametrize("weight", [0.3, np.float64(0.3)])
def test_fused_scores_stay_float32(weight):
    scores = fuse(np.array([0.5, 1.0], dtype=np.float32), np.array([1.0, 0.0], dtype=np.float32), weight)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, [0.65, 0.7], atol=1e-7)


def test_a_query_without_sentences_keeps_its_global_scores():
    scores = np.array([0.2, 0.1], dtype=np.float32)
    result = late_interaction(scores, np.zeros((2, 0, 11), dtype=np.float32), 0.5)
    np.testing.assert_array_equal(result.score, scores)
    assert result.moved.shape == (2, 0)


def test_cosines_of_int8_regions_equal_those_of_their_unit_vectors():
    rng = np.random.default_rng(0)
    regions = rng.normal(size=(5, 3, 16)).astype(np.float32)
    sentences = rng.normal(size=(4, 16)).astype(np.float32)
    stored, scales = quantize_regions(regions)
    units = dequantize_regions(stored, scales)
    np.testing.assert_allclose(np.linalg.norm(units, axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(
        region_cosines(stored, scales, sentences), np.einsum("ntd,sd->nst", units, sentences), atol=1e-5
    )
    unrounded = regions / np.linalg.norm(regions, axis=-1, keepdims=True)
    assert np.abs(units - unrounded).max() < 0.01


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_late_interaction_equals_its_definition(weight):
    n, count, regions = 30, 3, unit_rows(30, 4, 8)
    global_scores, sentences = unit_rows(n, 8, seed=1)[:, 0], unit_rows(count, 8, seed=2)

    def score(i: int, without: int | None) -> float:
        best = [max(sentences[s] @ region for region in regions[i]) for s in range(count) if s != without]
        return (1 - weight) * global_scores[i] + weight * np.mean(best)

    result = late_interaction(global_scores, np.einsum("sd,ntd->nst", sentences, regions), weight)
    scores = np.array([score(i, None) for i in range(n)])
    np.testing.assert_allclose(result.score, scores, atol=1e-6)
    for sentence in range(count):
        rest = np.array([score(i, sentence) for i in range(n)])
        expected = [(rest > rest[i]).sum() - (scores > scores[i]).sum() for i in range(n)]
        assert result.moved[:, sentence].tolist() == expected
    assert (result.moved == 0).all() == (weight == 0.0)


def test_equal_scores_rank_in_their_order():
    assert ranks(np.array([0.1, 0.5, 0.5, 0.9])).tolist() == [4, 2, 3, 1]
