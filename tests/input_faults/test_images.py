"""Every entry point reads every image file with a fault as the pixels that it shows, and counts ignored metadata."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling_rogle.inference.image_encoder import encode_pixels
from tests.input_faults.entry_points import COUNTING, IMAGE_ENTRY_POINTS, Outcome, World
from tests.input_faults.images import IMAGES, person, saved

# The processor takes images that the user opened with Pillow, which fails on these.
NOT_OPENED = ("EXIF with a wrong checksum", "compressed text of 8 MB")
# The processor reads no metadata, so it does not rotate.
NOT_ROTATED = ("negative rational", "ASCII width")

# These encode the template regions in the same forward pass.
WITH_TEMPLATES = ("rogle index", "Gallery.build", "pipeline", "demo")


def written(world: World, name: str, suffix: str, content: bytes) -> Path:
    folder = world.tmp / "images"
    folder.mkdir()
    (folder / f"{name}{suffix}").write_bytes(content)
    return folder / f"{name}{suffix}"


def counted(outcome: Outcome) -> bool:
    by_report = outcome.counts.get("unreadable metadata", 0) == 1
    return by_report or any("metadata that cannot be read" in message for message in outcome.messages)


@pytest.mark.parametrize("fault", IMAGES)
@pytest.mark.parametrize("entry", IMAGE_ENTRY_POINTS)
def test_the_pixels_are_used(world: World, entry: str, fault: str):
    if entry == "processor" and fault in NOT_OPENED + NOT_ROTATED:
        pytest.skip("the user's own Pillow reads the file")
    image = IMAGES[fault]
    file = written(world, "a", image.suffix, image.make())
    outcome = IMAGE_ENTRY_POINTS[entry](world, file)
    assert not outcome.failed, outcome.messages
    expected = world.embed([Image.fromarray(image.expected())])
    np.testing.assert_allclose(outcome.embeds, expected, atol=2e-3 if "RGBA" in fault else 2e-5)
    if entry in COUNTING:
        assert counted(outcome) == image.counted, outcome


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("entry", IMAGE_ENTRY_POINTS)
def test_an_ordinary_image_gives_the_embedding_of_the_plain_path(world: World, entry: str, kind: str):
    content = saved(person(), kind)
    file = written(world, "a", f".{kind.lower()}", content)
    with Image.open(file) as image:
        plain = [image.convert("RGB")]
    outcome = IMAGE_ENTRY_POINTS[entry](world, file)
    if entry in WITH_TEMPLATES:
        pixels = world.processor.image_processor(plain, return_tensors="pt")["pixel_values"]
        np.testing.assert_array_equal(outcome.embeds, encode_pixels(world.model, pixels)[0])
    elif entry in ("build", "processor", "endpoint"):
        np.testing.assert_array_equal(outcome.embeds.astype(np.float32), world.embed(plain))
    else:  # other boxes in the forward pass, or another runtime: equal up to rounding
        np.testing.assert_allclose(outcome.embeds, world.embed(plain), atol=2e-5)
    assert not counted(outcome) and not outcome.failed
