"""Pixels -> embeddings: what a forward of the model gives; bfloat16 close to it; only where it is worth it."""

import numpy as np
import pytest
import torch

import modeling_rogle.embedding as embedding
from modeling_rogle.embedding import encode_pixels, encodes_in_bfloat16, finite
from modeling_rogle.manifest import GalleryError
from modeling_rogle.matching import template_boxes


def test_a_picture_and_its_templates(tiny_model):
    pixels = torch.randn(3, 3, 32, 16)
    images, regions = encode_pixels(tiny_model, pixels)
    boxes = torch.from_numpy(template_boxes())
    for number in range(3):
        owner = torch.zeros(len(boxes), dtype=torch.long)
        image, parts = tiny_model.encode_images(pixels[number : number + 1], boxes, owner)
        np.testing.assert_allclose(images[number], image[0], atol=1e-5)
        np.testing.assert_allclose(regions[number], parts, atol=1e-5)


def test_bfloat16_is_close_and_still_unit_length(tiny_model, monkeypatch):
    pixels = torch.randn(8, 3, 32, 16)
    exact = encode_pixels(tiny_model, pixels)
    monkeypatch.setattr(embedding, "encodes_in_bfloat16", lambda model: True)
    rounded = encode_pixels(tiny_model, pixels)
    for one, other in zip(exact, rounded, strict=True):
        assert other.dtype == np.float32 and not np.array_equal(one, other)
        assert (one * other).sum(-1).min() > 0.999
        np.testing.assert_allclose(np.linalg.norm(other, axis=-1), 1.0, atol=1e-5)


def test_a_small_model_is_never_rounded(tiny_model, monkeypatch):
    assert not encodes_in_bfloat16(tiny_model)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert not encodes_in_bfloat16(tiny_model)
    tiny_model.config.vision_config.hidden_size = 768
    assert encodes_in_bfloat16(tiny_model)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert not encodes_in_bfloat16(tiny_model)


def test_embeddings_that_are_not_finite_are_refused():
    with pytest.raises(GalleryError, match="its weights are broken"):
        finite(torch.tensor([1.0, float("nan")]))
