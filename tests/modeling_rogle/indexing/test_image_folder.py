"""Which images of a folder are read, and how unchecked files fail."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling_rogle.indexing.image_folder import image_files
from modeling_rogle.inference.image_io import ImageError, printable_path, read_image
from tests.helpers.image_files import write_bomb


def save(path: Path, size: tuple[int, int] = (12, 30), **kwargs) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **kwargs)
    return path


def test_images_are_found_in_sub_folders_in_sorted_order_and_other_files_counted(tmp_path):
    for name in ("b/2.jpg", "a.png", "b/1.JPEG"):
        save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "b" / "metadata.csv").write_text("what is known of images is no other file")
    assert image_files(tmp_path) == (["a.png", "b/1.JPEG", "b/2.jpg"], [], 1)


def test_an_index_inside_the_folder_is_none_of_its_images(tmp_path):
    save(tmp_path / "a.jpg")
    for name in ("index.json", "index.json.building"):
        save(tmp_path / name.replace(".", "-") / "pictures" / "copy.jpg")
        (tmp_path / name.replace(".", "-") / name).write_text('{"format": "rogle-gallery"}')
    save(tmp_path / "web" / "b.jpg")
    (tmp_path / "web" / "index.json").write_text('{"title": "not ours"}')
    assert image_files(tmp_path) == (["a.jpg", "web/b.jpg"], [], 1)


@pytest.mark.parametrize("kind", ["png", "tiff", "ppm"])
def test_grey_of_sixteen_bits_keeps_its_greys(tmp_path, kind):
    grey = np.linspace(0, 255, 40 * 20).astype(np.uint16).reshape(40, 20)
    file = tmp_path / f"a.{kind}"
    if kind == "ppm":
        file.write_bytes(b"P5 20 40 65535\n" + (grey << 8).astype(">u2").tobytes())
    else:
        Image.fromarray(grey << 8).save(file)
    found = np.asarray(read_image(file, file.name).image)
    np.testing.assert_array_equal(found, np.repeat(grey[..., None], 3, axis=2))


def test_links_are_followed_inside_the_folder_only(tmp_path):
    root = tmp_path / "root"
    save(root / "a.jpg")
    save(tmp_path / "outside" / "secret.jpg")
    (root / "in.jpg").symlink_to("a.jpg")
    (root / "out.jpg").symlink_to(tmp_path / "outside" / "secret.jpg")
    (root / "outdir").symlink_to(tmp_path / "outside")
    (root / "loop").symlink_to(root)
    (root / "broken.jpg").symlink_to("nowhere.jpg")
    files, skipped, ignored = image_files(root)
    assert files == ["a.jpg", "in.jpg"]
    assert {item.path: item.reason for item in skipped} == {
        "out.jpg": "symbolic link out of the folder",
        "outdir": "symbolic link out of the folder",
        "broken.jpg": "broken symbolic link",
    }
    assert ignored == 0


def test_what_is_no_regular_file_of_some_bytes_is_refused_without_opening_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")  # opening it would wait for ever
    (tmp_path / "empty.png").touch()
    with open(tmp_path / "huge.jpg", "wb") as file:
        file.truncate(300 * 2**20)
    files, skipped, _ = image_files(tmp_path)
    assert files == []
    assert [item.reason for item in skipped] == [
        "empty file",
        "314572800 bytes, over the limit of 268435456",
        "not a regular file",
    ]


def test_a_name_that_is_not_utf8_is_refused_and_can_be_shown(tmp_path):
    name = os.fsencode(tmp_path) + b"/bad\xff\n.jpg"
    with open(name, "wb") as file:
        file.write(b"x")
    _, skipped, _ = image_files(tmp_path)
    assert skipped[0].reason == "file name is not UTF-8"
    assert printable_path(skipped[0].path) == "bad\\xff\\n.jpg"


def test_a_image_carries_hash_and_upright_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    file = save(tmp_path / "turned.jpg", (40, 20), exif=exif)
    image = read_image(file, "turned.jpg")
    assert (image.width, image.height) == image.image.size == (20, 40)
    assert image.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert image.bytes == file.stat().st_size


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    file = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    Image.new("RGB", (8, 8), "red").convert(mode).save(file)
    assert read_image(file, file.name).image.mode == "RGB"


def test_a_large_jpeg_is_decoded_smaller_but_never_below_what_is_needed(tmp_path):
    file = save(tmp_path / "large.jpg", (800, 1600))
    image = read_image(file, "large.jpg", min_size=(100, 50))
    assert (image.width, image.height) == (800, 1600)
    assert image.image.size == (100, 200)  # 1/8
    assert read_image(file, "large.jpg", min_size=(1600, 800)).image.size == (800, 1600)


@pytest.mark.parametrize("kind", ["png", "bmp", "webp", "gif", "tiff", "ppm", "jpg"])
def test_no_large_image_is_held(tmp_path, kind):
    file = save(tmp_path / f"1.{kind}", (400, 1000))
    image = read_image(file, file.name, (30, 12))
    assert (image.width, image.height) == (400, 1000)
    assert 24 <= image.image.width < 48 and 60 <= image.image.height < 120
    with Image.open(file) as whole:
        expected = np.asarray(whole.convert("RGB").resize((12, 30), Image.Resampling.BOX), dtype=int)
    found = np.asarray(image.image.resize((12, 30), Image.Resampling.BOX), dtype=int)
    assert np.abs(found - expected).mean() < 3


def test_a_strip_is_kept_smaller_along_its_length(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = read_image(save(tmp_path / "strip.png", (5000, 30), exif=exif), "strip.png", min_size=(100, 50))
    assert (image.width, image.height) == (30, 5000) and image.image.size == (30, 200)


def test_formats_that_start_other_programs_are_never_opened(tmp_path, monkeypatch):
    save(tmp_path / "page.eps")
    os.rename(tmp_path / "page.eps", tmp_path / "page.jpg")
    Image.open(tmp_path / "page.jpg").close()  # Pillow alone goes by the content and would ask Ghostscript
    with pytest.raises(ImageError, match="not an image that Pillow can read"):
        read_image(tmp_path / "page.jpg", "page.jpg")


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("text.jpg", lambda path: path.write_text("not an image"), "not an image that Pillow can read"),
        (
            "cut.jpg",
            lambda path: path.write_bytes(save(path, (60, 90)).read_bytes()[:1500]),
            "truncated or damaged: image file is truncated",
        ),
        ("cut.png", lambda path: path.write_bytes(save(path, (60, 90)).read_bytes()[:1500]), "truncated or damaged: "),
        ("bomb.png", lambda path: write_bomb(path, 50_000, 50_000), "over the limit of 80 million pixels"),
        ("big.png", lambda path: write_bomb(path, 9_000, 9_000), "9000 x 9000 is over the limit of 80 million pixels"),
        ("gone.png", lambda path: None, "cannot be read: No such file or directory"),
    ],
)
def test_a_file_that_is_no_whole_image_gives_a_reason(tmp_path, name, make, reason):
    make(tmp_path / name)
    with pytest.raises(ImageError) as caught:
        read_image(tmp_path / name, name)
    assert str(caught.value).startswith(reason)
