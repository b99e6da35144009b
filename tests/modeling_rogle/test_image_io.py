"""Decoding of image files from an untrusted source: orientation, modes, reduction, damaged files."""

import hashlib
import os

import numpy as np
import pytest
from PIL import Image

from modeling_rogle.image_io import ImageError, read_image, to_rgb, upright_rgb
from tests.helpers.image_files import write_bomb, write_noise


@pytest.mark.parametrize("kind", ["png", "tiff", "ppm"])
def test_16_bit_grey_values_are_scaled_to_8_bits(tmp_path, kind):
    grey = np.linspace(0, 255, 40 * 20).astype(np.uint16).reshape(40, 20)
    file = tmp_path / f"a.{kind}"
    if kind == "ppm":
        file.write_bytes(b"P5 20 40 65535\n" + (grey << 8).astype(">u2").tobytes())
    else:
        Image.fromarray(grey << 8).save(file)
    pixels = np.asarray(read_image(file, file.name).image)
    np.testing.assert_array_equal(pixels, np.repeat(grey[..., None], 3, axis=2))


def test_a_decoded_image_has_its_hash_and_upright_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    file = write_noise(tmp_path / "turned.jpg", (40, 20), exif=exif)
    image = read_image(file, "turned.jpg")
    assert (image.width, image.height) == image.image.size == (20, 40)
    assert image.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert image.bytes == file.stat().st_size


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_every_mode_is_converted_to_rgb(tmp_path, mode):
    file = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    Image.new("RGB", (8, 8), "red").convert(mode).save(file)
    assert read_image(file, file.name).image.mode == "RGB"


def test_a_large_jpeg_is_decoded_smaller_but_never_below_what_is_needed(tmp_path):
    file = write_noise(tmp_path / "large.jpg", (800, 1600))
    image = read_image(file, "large.jpg", min_size=(100, 50))
    assert (image.width, image.height) == (800, 1600)
    assert image.image.size == (100, 200)  # 1/8
    assert read_image(file, "large.jpg", min_size=(1600, 800)).image.size == (800, 1600)


@pytest.mark.parametrize("kind", ["png", "bmp", "webp", "gif", "tiff", "ppm", "jpg"])
def test_a_large_image_of_any_format_is_reduced(tmp_path, kind):
    file = write_noise(tmp_path / f"1.{kind}", (400, 1000))
    image = read_image(file, file.name, (30, 12))
    assert (image.width, image.height) == (400, 1000)
    assert 24 <= image.image.width < 48 and 60 <= image.image.height < 120
    with Image.open(file) as original:
        expected = np.asarray(original.convert("RGB").resize((12, 30), Image.Resampling.BOX), dtype=int)
    pixels = np.asarray(image.image.resize((12, 30), Image.Resampling.BOX), dtype=int)
    assert np.abs(pixels - expected).mean() < 3


def test_a_strip_is_reduced_along_its_length(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = read_image(write_noise(tmp_path / "strip.png", (5000, 30), exif=exif), "strip.png", min_size=(100, 50))
    assert (image.width, image.height) == (30, 5000) and image.image.size == (30, 200)


def test_formats_that_start_other_programs_are_refused(tmp_path, monkeypatch):
    write_noise(tmp_path / "page.eps")
    os.rename(tmp_path / "page.eps", tmp_path / "page.jpg")
    Image.open(tmp_path / "page.jpg").close()  # Pillow itself detects the format by content and would start Ghostscript
    with pytest.raises(ImageError, match="not an image that Pillow can read"):
        read_image(tmp_path / "page.jpg", "page.jpg")


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("text.jpg", lambda path: path.write_text("not an image"), "not an image that Pillow can read"),
        (
            "cut.jpg",
            lambda path: path.write_bytes(write_noise(path, (60, 90)).read_bytes()[:1500]),
            "truncated or damaged: image file is truncated",
        ),
        (
            "cut.png",
            lambda path: path.write_bytes(write_noise(path, (60, 90)).read_bytes()[:1500]),
            "truncated or damaged: ",
        ),
        ("bomb.png", lambda path: write_bomb(path, 50_000, 50_000), "over the limit of 80 million pixels"),
        ("big.png", lambda path: write_bomb(path, 9_000, 9_000), "9000 x 9000 is over the limit of 80 million pixels"),
        ("gone.png", lambda path: None, "cannot be read: No such file or directory"),
    ],
)
def test_a_damaged_file_gives_a_reason(tmp_path, name, make, reason):
    make(tmp_path / name)
    with pytest.raises(ImageError) as caught:
        read_image(tmp_path / name, name)
    assert str(caught.value).startswith(reason)


def test_an_open_image_is_turned_once(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = write_noise(tmp_path / "turned.jpg", (40, 20), exif=exif)
    decoded = read_image(file, "turned.jpg").image
    with Image.open(file) as opened:
        np.testing.assert_array_equal(np.asarray(upright_rgb(opened)), np.asarray(decoded))
    np.testing.assert_array_equal(np.asarray(upright_rgb(decoded)), np.asarray(decoded))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA"])
def test_opaque_images_of_8_bits_are_converted_as_by_pillow(mode):
    pixels = np.random.default_rng(0).integers(1, 255, (8, 6, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image = image.convert("L").convert(mode) if mode in ("I", "F", "LA", "PA") else image.convert(mode, dither=0)
    np.testing.assert_array_equal(np.asarray(to_rgb(image)), np.asarray(image.convert("RGB")))


def test_deep_grey_has_one_definition():
    values = np.array([[0, 255, 256, 65535]])
    deep = [Image.fromarray(values.astype(kind)) for kind in (np.uint16, np.int32, np.float32)]
    for image in deep:
        assert [to_rgb(image).getpixel((x, 0)) for x in range(4)] == [(v >> 8,) * 3 for v in values[0].tolist()]
    unit = Image.fromarray(np.array([[0, 0.5, 1, np.nan]], dtype=np.float32))
    assert [to_rgb(unit).getpixel((x, 0))[0] for x in range(4)] == [0, 128, 255, 0]
