"""TorchEncoder equals a forward pass of the model; bfloat16 is close to float32 and chosen only where it is faster."""

import time

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_rogle.box_ops import template_boxes
from modeling_rogle.inference import image_encoder
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.inference.image_encoder import (
    TorchEncoder,
    encode_pixels,
    encode_with_templates,
    fast_bfloat16,
    finite,
    with_fast_dtype,
)
from modeling_rogle.inference.loading import fingerprint

TEXTS = ("A man wears a red jacket.", "A woman in a blue coat. She carries a bag.")


@pytest.fixture
def encoder(tiny_model, tiny_processor) -> TorchEncoder:
    return TorchEncoder(tiny_model, tiny_processor)


@pytest.fixture
def images() -> list[Image.Image]:
    noise = np.random.default_rng(0)
    return [Image.fromarray(noise.integers(0, 256, (40, 20, 3), dtype=np.uint8)) for _ in range(3)]


def test_texts_equal_a_forward_pass_of_the_model(encoder):
    embeds = encoder.encode_texts(TEXTS)
    tokens = encoder.processor(text=list(TEXTS), return_tensors="pt")
    np.testing.assert_array_equal(embeds, encoder.model.encode_texts(tokens["input_ids"]).numpy())
    assert embeds.dtype == np.float32 and embeds.shape == (2, encoder.dimension)
    np.testing.assert_allclose(np.linalg.norm(embeds, axis=1), 1.0, atol=1e-5)


def test_a_text_over_the_limit_keeps_the_sentences_that_fit(encoder):
    first = "A man wears a red jacket and black pants. "
    text = first + "His shoes are white. " * 30
    assert encoder.count_tokens(text) > encoder.max_tokens == 64
    encoder.model.config.text_config.max_position_embeddings = encoder.count_tokens(first) + 3
    np.testing.assert_allclose(encoder.encode_texts([text]), encoder.encode_texts([first.strip()]), atol=1e-6)


def test_tokens_are_counted_with_start_and_end(encoder):
    assert encoder.count_tokens("") == 2
    assert encoder.count_tokens(TEXTS[0]) == len(encoder.processor.tokenizer(TEXTS[0])["input_ids"])


def test_images_equal_a_forward_pass_of_the_model(encoder, images):
    embeds, regions = encoder.encode_images(images)
    pixels = encoder.processor(images=images, return_tensors="pt")["pixel_values"]
    for got, expected in zip((embeds, regions), encode_pixels(encoder.model, pixels), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert embeds.shape == (3, encoder.dimension) and regions.shape == (3, len(template_boxes()), encoder.dimension)


def test_nothing_to_encode(encoder):
    assert encoder.encode_texts([]).shape == (0, encoder.dimension)
    embeds, regions = encoder.encode_images([])
    assert embeds.shape == (0, encoder.dimension) and regions.shape == (0, len(template_boxes()), encoder.dimension)


def test_the_attributes_follow_the_model(encoder):
    assert encoder.has_image_encoder and encoder.image_size == (32, 16)
    encoder.model.config.local_weight = 0.25
    assert encoder.local_weight == 0.25
    assert encoder.fingerprint == fingerprint(encoder.model)


def test_the_fingerprint_is_computed_once(encoder, monkeypatch):
    calls = []
    monkeypatch.setattr(image_encoder, "fingerprint", lambda model: calls.append(model) or "sha")
    assert not calls
    assert encoder.fingerprint == encoder.fingerprint == "sha" and len(calls) == 1


def test_an_image_and_its_templates(tiny_model):
    pixels = torch.randn(3, 3, 32, 16)
    images, regions = encode_pixels(tiny_model, pixels)
    boxes = torch.from_numpy(template_boxes())
    for number in range(3):
        owner = torch.zeros(len(boxes), dtype=torch.long)
        image, parts = tiny_model.encode_images(pixels[number : number + 1], boxes, owner)
        np.testing.assert_allclose(images[number], image[0], atol=1e-5)
        np.testing.assert_allclose(regions[number], parts, atol=1e-5)


def test_templates_and_other_boxes_in_one_forward_pass(encoder, images):
    boxes, box_image = torch.tensor([[0.1, 0.1, 0.6, 0.5], [0.0, 0.0, 1.0, 1.0]]), torch.tensor([2, 0])
    embeds, templates, regions = encode_with_templates(encoder.model, encoder.processor, images, boxes, box_image)
    expected = encoder.encode_images(images)
    np.testing.assert_allclose(embeds, expected[0], atol=1e-6)
    np.testing.assert_allclose(templates, expected[1], atol=1e-6)
    pixels = encoder.processor(images=images, return_tensors="pt")["pixel_values"]
    np.testing.assert_allclose(regions, encoder.model.encode_images(pixels, boxes, box_image)[1], atol=1e-6)


def test_bfloat16_is_close_and_still_unit_length(tiny_model):
    pixels = torch.randn(8, 3, 32, 16)
    exact, rounded = encode_pixels(tiny_model, pixels), encode_pixels(tiny_model.to(torch.bfloat16), pixels)
    for one, other in zip(exact, rounded, strict=True):
        assert other.dtype == np.float32 and not np.array_equal(one, other)
        assert (one * other).sum(-1).min() > 0.99
        np.testing.assert_allclose(np.linalg.norm(other, axis=-1), 1.0, atol=1e-5)


def test_a_copy_in_bfloat16_indexes_where_that_is_fast_and_the_model_is_wide(tiny_model, monkeypatch):
    for fast, width, dtype in ((True, 32, torch.float32), (False, 768, torch.float32), (True, 768, torch.bfloat16)):
        monkeypatch.setattr(image_encoder, "fast_bfloat16", lambda device, fast=fast: fast)
        tiny_model.config.vision_config.hidden_size = width
        model = with_fast_dtype(tiny_model)
        assert model.dtype == dtype and tiny_model.dtype == torch.float32
        assert (model is tiny_model) == (dtype == torch.float32)


def test_embeddings_that_are_not_finite_are_refused():
    with pytest.raises(GalleryError, match="not finite"):
        finite(torch.tensor([1.0, float("nan")]))


@pytest.fixture
def unmeasured():
    """The measurement of a process is forgotten before and after the test."""
    fast_bfloat16.cache_clear()
    yield
    fast_bfloat16.cache_clear()


@pytest.mark.parametrize("slow", [torch.float32, torch.bfloat16])
def test_the_choice_of_bfloat16_follows_the_measured_time(slow, unmeasured, monkeypatch):
    linear = torch.nn.functional.linear

    def delayed(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if rows.dtype == slow:
            time.sleep(0.1)
        return linear(rows, weight)

    monkeypatch.setattr(torch.nn.functional, "linear", delayed)
    assert fast_bfloat16("cpu") == (slow == torch.float32)


def test_bfloat16_is_measured_once(unmeasured, monkeypatch):
    first = fast_bfloat16("cpu")
    monkeypatch.delattr(torch.nn.functional, "linear")
    assert fast_bfloat16("cpu") is first


def test_bfloat16_on_other_devices(unmeasured):
    assert fast_bfloat16("meta") is False
    assert fast_bfloat16("cuda") == (torch.cuda.is_available() and torch.cuda.is_bf16_supported(False))
