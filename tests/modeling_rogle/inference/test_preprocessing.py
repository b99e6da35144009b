"""Plain CLIP weights are used as they were trained: image size, text length, and how an image is fitted."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPProcessor

from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.image_io import decode_image, fit_image, fitted_size
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.inference.image_encoder import TorchEncoder
from modeling_rogle.inference.loading import clip_preprocessing, load_model, preprocessing_of
from modeling_rogle.inference.preprocessing import PERSON_SEARCH, Preprocessing
from tests.helpers.clip_folders import CONFIGS, MEAN, write_clip

SIZES = ((64, 128), (300, 170), (224, 224), (97, 503), (500, 333), (1, 900), (1023, 767))
COLOUR = tuple(round(255 * value) for value in MEAN)
TEXTS = ["a man in a red jacket", "A woman walks. She carries a white handbag over her left shoulder."]


def noise(size: tuple[int, int]) -> Image.Image:
    pixels = np.random.default_rng(size[0]).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", [(224, 224), (384, 128), (64, 96)])
def test_an_image_is_padded_as_by_pillow_and_cropped_as_by_clip(size, target):
    image, (rows, columns) = noise(size), target
    padded = fit_image(image, target, "pad", Image.Resampling.BICUBIC, COLOUR)
    if 1 not in size:  # Pillow rounds the width of a line to zero and fails
        expected = ImageOps.pad(image, (columns, rows), Image.Resampling.BICUBIC, color=COLOUR)
        np.testing.assert_array_equal(np.asarray(padded), np.asarray(expected))
    assert padded.size == (columns, rows)
    squeezed = fit_image(image, target, "squeeze", Image.Resampling.BICUBIC, COLOUR)
    np.testing.assert_array_equal(np.asarray(squeezed), np.asarray(image.resize((columns, rows), 3)))
    cropped = fit_image(image, target, "crop", Image.Resampling.BICUBIC, COLOUR)
    assert cropped.size == (columns, rows)
    if rows == columns:
        clip = CLIPImageProcessorPil(size={"shortest_edge": rows}, crop_size={"height": rows, "width": columns})
        expected = clip(images=image, do_normalize=False, do_rescale=False, return_tensors="np")["pixel_values"][0]
        np.testing.assert_array_equal(np.asarray(cropped), expected.transpose(1, 2, 0))


@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_a_large_image_is_reduced_without_changing_its_aspect_ratio(tmp_path, fit):
    noise((4000, 1500)).save(tmp_path / "a.jpg", quality=95)
    decoded = decode_image((tmp_path / "a.jpg").read_bytes(), "a.jpg", (224, 224), fit=fit)
    assert (decoded.width, decoded.height) == (4000, 1500)
    assert decoded.image.width / decoded.image.height == pytest.approx(4000 / 1500, rel=0.02)
    width, height = fitted_size((4000, 1500), (224, 224), fit)
    assert decoded.image.width < 4000 and decoded.image.width >= 2 * width and decoded.image.height >= 2 * height


def test_the_settings_of_plain_weights_and_of_a_rogle_checkpoint(tmp_path, tiny_checkpoint):
    clip = write_clip(tmp_path / "clip", "openai/clip-vit-base-patch32", layers=1)
    assert clip_preprocessing(clip) == Preprocessing((224, 224), 77, "pad")
    assert clip_preprocessing(clip, (384, 128), 248, "squeeze") == PERSON_SEARCH
    assert clip_preprocessing(tiny_checkpoint) is None
    with pytest.raises(GalleryError, match="reads texts of 77 tokens; 40 would drop trained positions"):
        clip_preprocessing(clip, max_tokens=40)
    with pytest.raises(GalleryError, match="image_size .* is not a multiple of patch_size 32"):
        load_model(clip, Preprocessing((100, 100), 77))
    model, processor = load_model(clip, PERSON_SEARCH)
    assert preprocessing_of(model, processor) == PERSON_SEARCH
    # `from_pretrained` gives the shape of person search, as before.
    same = RogleModel.from_pretrained(clip)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in same.state_dict().items())
    assert not model.config.trained_regions
    assert preprocessing_of(*load_model(tiny_checkpoint, PERSON_SEARCH)) == Preprocessing((32, 16), 64, "squeeze")


def test_a_saved_model_keeps_its_fit(tmp_path, tiny_processor, tiny_checkpoint):
    processor = RogleProcessor.from_pretrained(tiny_checkpoint)
    assert "fit" not in json.loads((tiny_checkpoint / "processor_config.json").read_text())
    processor.fit = "pad"
    processor.save_pretrained(tmp_path)
    assert RogleProcessor.from_pretrained(tmp_path).fit == "pad"
    with pytest.raises(ValueError, match="fit must be one of"):
        RogleProcessor(processor.image_processor, processor.tokenizer, fit="zoom")


def reference(clip: CLIPModel, processor: CLIPProcessor, images: list[Image.Image], **options) -> torch.Tensor:
    """Unit vectors of `CLIPModel` itself."""
    pixels = processor.image_processor(images=images, return_tensors="pt", **options)["pixel_values"]
    with torch.no_grad():
        return torch.nn.functional.normalize(clip.get_image_features(pixel_values=pixels).pooler_output, dim=-1)


def check_equality(folder: Path) -> dict[str, float]:
    """The largest difference from `CLIPModel` of each fit, and of the texts."""
    clip = CLIPModel.from_pretrained(folder).eval()
    processor = CLIPProcessor.from_pretrained(folder)
    images = [noise(size) for size in SIZES if 1 not in size]
    resize = {"pad": lambda i: ImageOps.pad(i, (224, 224), Image.Resampling.BICUBIC, color=COLOUR)}
    resize["squeeze"] = lambda i: i.resize((224, 224), Image.Resampling.BICUBIC)
    resize["crop"] = lambda i: i  # CLIP's own processor crops
    largest = {}
    for fit, prepare in resize.items():
        encoder = TorchEncoder(*load_model(folder, clip_preprocessing(folder, fit=fit)))
        difference = encoder.encode_images(images)[0] - reference(clip, processor, [prepare(i) for i in images]).numpy()
        largest[fit] = float(np.abs(difference).max())
    tokens = processor.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        texts = torch.nn.functional.normalize(clip.get_text_features(**tokens).pooler_output, dim=-1)
    return largest | {"texts": float(np.abs(encoder.encode_texts(TEXTS) - texts.numpy()).max())}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_every_fit_gives_the_embeddings_of_clip(tmp_path, name):
    differences = check_equality(write_clip(tmp_path / "clip", name, layers=2))
    assert all(value <= 1e-5 for value in differences.values()), differences
