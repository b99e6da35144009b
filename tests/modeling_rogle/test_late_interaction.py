"""Late interaction: the fused score, the int8 regions of an index and their cosines."""

import numpy as np
import pytest

from modeling_rogle.late_interaction import dequantize_regions, fuse, late_interaction, quantize_regions, region_cosines


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


def test_cosines_of_int8_regions_equal_those_of_the_unit_vectors_they_stand_for():
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
