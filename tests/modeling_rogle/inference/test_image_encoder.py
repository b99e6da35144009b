"""Pixels -> embeddings: what a forward of the model gives; bfloat16 close to it; only where it is worth it."""

import numpy as np
import pytest
import torch

from modeling_rogle.inference import image_encoder as embedding
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.inference.image_encoder import encode_pixels, finite, image_encoder
from modeling_rogle.templates import template_boxes


def test_a_image_and_its_templates(tiny_model):
    pixels = torch.randn(3, 3, 32, 16)
    images, regions = encode_pixels(tiny_model, pixels)
    boxes = torch.from_numpy(template_boxes())
    for number in range(3):
        owner = torch.zeros(len(boxes), dtype=torch.long)
        image, parts = tiny_model.encode_images(pixels[number : number + 1], boxes, owner)
        np.testing.assert_allclose(images[number], image[0], atol=1e-5)
        np.testing.assert_allclose(regions[number], parts, atol=1e-5)


def test_bfloat16_is_close_and_still_unit_length(tiny_model):
    pixels = torch.randn(8, 3, 32, 16)
    exact, rounded = encode_pixels(tiny_model, pixels), encode_pixels(tiny_model.to(torch.bfloat16), pixels)
    for one, other in zip(exact, rounded, strict=True):
        assert other.dtype == np.float32 and not np.array_equal(one, other)
        assert (one * other).sum(-1).min() > 0.99
        np.testing.assert_allclose(np.linalg.norm(other, axis=-1), 1.0, atol=1e-5)


def test_a_copy_in_bfloat16_indexes_where_that_is_fast_and_the_model_is_wide(tiny_model, monkeypatch):
    for fast, width, dtype in ((True, 32, torch.float32), (False, 768, torch.float32), (True, 768, torch.bfloat16)):
        monkeypatch.setattr(embedding, "fast_bfloat16", lambda device, fast=fast: fast)
        tiny_model.config.vision_config.hidden_size = width
        encoder = image_encoder(tiny_model)
        assert encoder.dtype == dtype and tiny_model.dtype == torch.float32
        assert (encoder is tiny_model) == (dtype == torch.float32)


def test_embeddings_that_are_not_finite_are_refused():
    with pytest.raises(GalleryError, match="its weights are broken"):
        finite(torch.tensor([1.0, float("nan")]))
