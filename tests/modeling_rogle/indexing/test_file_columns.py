"""Times and cameras from file names and EXIF become columns, unless the user's table has them."""

from datetime import datetime
from pathlib import Path

import pytest
from PIL import Image

from modeling_rogle.indexing.file_columns import columns_of_name, time_of_exif
from modeling_rogle.indexing.image_sources import find_source
from modeling_rogle.inference.loading import load_model
from modeling_rogle.search.gallery import Gallery
from tests.helpers.image_files import QUERY, make_images


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("0002_c1_0381.jpg", {"camera": "c1", "frame": 381}),
        ("0002_c3s2_000451_03.jpg", {"camera": "c3", "frame": 451}),
        ("0001_c2_f0046182.jpg", {"camera": "c2", "frame": 46182}),
        ("IMG_20260131_235959.jpg", {"time": datetime(2026, 1, 31, 23, 59, 59)}),
        ("2026-01-31T08-15-00.png", {"time": datetime(2026, 1, 31, 8, 15)}),
        ("door 2026-01-31 08.15.00.png", {"time": datetime(2026, 1, 31, 8, 15)}),
        ("2026-01-31.png", {"time": datetime(2026, 1, 31)}),
        ("2026-13-31.png", {}),
        ("120260131.png", {}),
        ("photo.png", {}),
        ("c1.png", {}),
    ],
)
def test_columns_of_a_name(name, expected):
    assert columns_of_name(name) == expected


def write_photo(file: Path, taken: str) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = taken
    Image.new("RGB", (20, 50), "red").save(file, exif=exif)


def test_the_time_of_a_photograph(tmp_path):
    write_photo(tmp_path / "a.jpg", "2025:12:24 18:30:00")
    assert time_of_exif(tmp_path / "a.jpg") == datetime(2025, 12, 24, 18, 30)
    write_photo(tmp_path / "b.jpg", "0000:00:00 00:00:00")
    (tmp_path / "c.jpg").write_text("x")
    Image.new("RGB", (4, 4)).save(tmp_path / "d.jpg")
    assert [time_of_exif(tmp_path / name) for name in ("b.jpg", "c.jpg", "d.jpg", "gone.jpg")] == [None] * 4


def test_columns_of_files_are_filtered_and_the_users_win(tiny_checkpoint, tmp_path):
    tools, folder = load_model(tiny_checkpoint), tmp_path / "images"
    make_images(folder, 1)
    for name in ("0002_c1_0381.jpg", "0003_c2_0017.jpg"):
        Image.new("RGB", (20, 50), "blue").save(folder / name)
    write_photo(folder / "photo.jpg", "2025:12:24 18:30:00")
    gallery = Gallery.build(folder, *tools, tmp_path / "index", progress=False)
    assert [match.path for match in gallery.search(QUERY, where="camera = 'c2' and frame < 20")] == ["0003_c2_0017.jpg"]
    assert [match.path for match in gallery.search(QUERY, where="time > '2025-12-24 12:00'")] == ["photo.jpg"]
    assert gallery.table.column("camera").to_pylist().count(None) == 2
    (folder / "metadata.csv").write_text("file_name,camera\n00.png,7\n")
    source = find_source(folder)
    assert source.added_columns == ("time", "frame")
    assert dict(zip(*(source.metadata.column(name).to_pylist() for name in ("path", "camera")), strict=True)) == {
        "00.png": 7,
        "0002_c1_0381.jpg": None,
        "0003_c2_0017.jpg": None,
        "photo.jpg": None,
    }
    assert Gallery.build(folder, *tools, tmp_path / "index", progress=False).report.added == 0
    # A part without a table of its own does not change the type of the user's column.
    (folder / "more").mkdir()
    Image.new("RGB", (20, 50), "green").save(folder / "more" / "0004_c9_0001.jpg")
    gallery = Gallery.build(folder / "more", *tools, tmp_path / "index", progress=False, append=True)
    assert gallery.schema.field("camera").type == "int64" and len(gallery) == 5
    assert [match.path for match in gallery.search(QUERY, where="frame = 1")] == ["more/0004_c9_0001.jpg"]
