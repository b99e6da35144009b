"""Folders, globs and data sets as sources of images; their metadata; one-line errors."""

import io
import json
import os
from datetime import datetime
from pathlib import Path

import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Image

from modeling_rogle.image_io import ImageError
from modeling_rogle.indexing.image_sources import find_source
from modeling_rogle.inference.errors import GalleryError
from tests.helpers.image_files import data_rows, write_colour


def paths(source) -> list[str]:
    return [item.path for item in source.items]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a/1.png", "a/2.jpg", "b/1.png", "c.png"):
        write_colour(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").write_text("x")
    return tmp_path / "photos"


def test_a_folder_and_globs_in_it(photos):
    source = find_source(photos)
    assert paths(source) == ["c.png", "a/1.png", "a/2.jpg", "b/1.png"] and source.ignored == 1
    assert source.root == str(photos.resolve())
    assert paths(find_source(f"{photos}/*/1.png")) == ["a/1.png", "b/1.png"]
    assert paths(find_source(f"{photos}/**/*.png")) == ["c.png", "a/1.png", "b/1.png"]
    assert find_source(f"{photos}/a/*.png").root == str(photos / "a")


def test_paths_are_relative_to_the_indexed_folder(photos):
    assert paths(find_source(photos / "a", root=photos)) == ["a/1.png", "a/2.jpg"]
    with pytest.raises(GalleryError, match="not inside .*/a, the folder of this index"):
        find_source(photos / "b", root=photos / "a")


def test_a_link_out_of_the_folder_is_refused_through_a_glob_too(photos, tmp_path):
    write_colour(tmp_path / "secret.png")
    (photos / "a" / "9.png").symlink_to(tmp_path / "secret.png")
    source = find_source(f"{photos}/a/*.png")
    assert paths(source) == ["1.png"]
    assert [(item.path, item.reason) for item in source.skipped] == [("9.png", "symbolic link out of the folder")]


def test_metadata_files_are_typed_and_the_nearest_file_is_used(photos):
    (photos / "metadata.csv").write_text(
        "file_name,camera,time,count\nc.png,c1,2026-01-02 03:04:05,4\na/1.png,c9,2026-01-02 03:04:06,5\ngone.png,c1,,\n"
    )
    rows = [
        {"file_name": "1.png", "camera": "c2", "night": True},
        {"file_name": "2.jpg", "camera": "c3", "night": False},
    ]
    (photos / "a" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = find_source(photos).metadata
    rows = {row["path"]: row for row in table.to_pylist()}
    assert set(rows) == {"a/1.png", "a/2.jpg", "c.png"}
    assert rows["c.png"] | {"path": ""} == {
        "path": "",
        "camera": "c1",
        "time": datetime(2026, 1, 2, 3, 4, 5),
        "count": 4,
        "night": None,
    }
    assert (rows["a/1.png"]["camera"], rows["a/1.png"]["night"], rows["a/1.png"]["time"]) == ("c2", True, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,camera\nc.png,1\n", "metadata.csv: no column 'file_name'; it has name, camera"),
        ("file_name,sha256\nc.png,1\n", "metadata.csv: column 'sha256' is reserved"),
        ("file_name,x\nc.png,1\nc.png,2\n", "metadata.csv: field 'file_name': c.png occurs twice"),
        ("file_name,x,x\nc.png,1,2\n", "metadata.csv: column 'x' occurs twice"),
        ("file_name,x,file_name\nc.png,1,2\n", "metadata.csv: column 'file_name' occurs twice"),
        ("file_name,x\nc.png,1,2,3\n", "metadata.csv: cannot be read"),
    ],
)
def test_invalid_metadata_are_refused(photos, text, message):
    (photos / "metadata.csv").write_text(text)
    with pytest.raises(GalleryError, match=message) as caught:
        find_source(photos)
    assert "\n" not in str(caught.value)


def test_metadata_behind_a_link_out_of_the_folder_are_not_read(photos, tmp_path):
    (tmp_path / "secret.csv").write_text("password\nx\n")
    (photos / "metadata.csv").symlink_to(tmp_path / "secret.csv")
    (photos / "a" / "metadata.csv").write_text("file_name,camera\n1.png,c1\n")
    with pytest.warns(UserWarning, match="metadata.csv: symbolic link out of the folder; not read"):
        table = find_source(photos).metadata
    assert table.to_pylist() == [{"camera": "c1", "path": "a/1.png"}]


@pytest.mark.parametrize("kind", ["list", "dataset", "shuffled", "saved", "parquet"])
def test_rows_of_a_data_set(tmp_path, kind):
    data = data_rows()
    if kind != "list":
        made = Dataset.from_list([{**row, "image": None} for row in data]).remove_columns("image")
        made = made.add_column("image", [{"bytes": encoded(row["image"]), "path": None} for row in data])
        data = made.cast_column("image", Image())
    if kind == "shuffled":
        data = data.select([2, 0, 1])
    if kind == "saved":
        data.save_to_disk(tmp_path / "saved")
        data = tmp_path / "saved"
    if kind == "parquet":
        (tmp_path / "data").mkdir()
        data.select([0]).to_parquet(tmp_path / "data" / "0.parquet")
        data.select([1, 2]).to_parquet(tmp_path / "data" / "1.parquet")
        data = tmp_path
    source = find_source(data)
    assert sorted(paths(source)) == ["p/0", "p/1", "p/2"]
    for item in source.items:
        number = int(item.path[2:])
        read = source.read(item)
        assert (read.width, read.height) == (6 + number, 12) and item.sha256 == f"{number:064d}"
    metadata = {row["path"]: row for row in source.metadata.to_pylist()}
    assert metadata["p/1"] == {"path": "p/1", "person_id": 1, "camera": "c1"} and metadata["p/0"]["camera"] is None


def encoded(image: PIL.Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_a_row_without_an_image_is_refused():
    source = find_source([{**data_rows(1)[0], "image": None}])
    with pytest.raises(ImageError, match="field 'image' is null"):
        source.read(source.items[0])


def test_data_sets_that_cannot_be_indexed(tmp_path):
    with pytest.raises(GalleryError, match="data set: no rows"):
        find_source([])
    with pytest.raises(GalleryError, match="no column 'image_id'; it has name"):
        find_source([{"name": "x", "image": None}])
    with pytest.raises(GalleryError, match="field 'image_id': p/0 occurs twice"):
        find_source(data_rows(1) * 2)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "x.parquet")
    with pytest.raises(GalleryError, match="x.parquet: no column 'image' and 'image_id'; it has a"):
        find_source(tmp_path)
    (tmp_path / "x.parquet").write_text("x")
    with pytest.raises(GalleryError, match="x.parquet: not a Parquet file, or damaged"):
        find_source(tmp_path)
    os.remove(tmp_path / "x.parquet")
    with pytest.raises(GalleryError, match="no images in this folder"):
        find_source(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        find_source(tmp_path / "gone")
    write_colour(tmp_path / "a.png")
    with pytest.raises(GalleryError, match="no images match"):
        find_source(f"{tmp_path}/*.jpg")
