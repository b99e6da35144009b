"""The manifest: an invalid field is named in one line, foreign files are never removed, one process writes."""

import json
import os
from pathlib import Path

import pytest

from modeling_rogle.index.manifest import (
    VERSION,
    check_index_folder,
    locked,
    read_manifest,
    remove_unreferenced,
    upgraded,
    write_manifest,
)
from modeling_rogle.inference.errors import GalleryError
from tests.helpers.index_files import HEADER

PREPROCESSING = {"image_size": [224, 224], "max_tokens": 77, "fit": "pad"}


@pytest.fixture
def index(tmp_path: Path) -> Path:
    write_manifest(tmp_path, HEADER)
    return tmp_path


def test_a_manifest_is_read_as_it_was_written(index):
    assert read_manifest(index) == HEADER
    assert os.listdir(index) == ["index.json"]


def test_format_2_and_the_optional_fields_of_format_3_are_read(index):
    for fields in (
        {"version": 2},
        {"id": "0" * 32, "preprocessing": PREPROCESSING, "encoder": {"engine": "onnx", "precision": "int8"}},
        {"text_encoder": {"file": "text.onnx"}, "local_tokens": {"count": 8}, "unknown": ["ignored"]},
        dict.fromkeys(("id", "preprocessing", "encoder", "text_encoder", "local_tokens")),
    ):
        write_manifest(index, HEADER | fields)
        assert read_manifest(index) == HEADER | fields


def test_upgrading_gives_an_identifier_once(index):
    first = upgraded({**HEADER, "version": 2})
    assert first["version"] == VERSION and upgraded(first) == first
    write_manifest(index, first)
    assert read_manifest(index)["id"] == first["id"] != upgraded(HEADER)["id"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "not the manifest of a Rogle index"),
        ({"version": 1}, "format 1, this program reads formats 2 and 3; build the index again"),
        ({"version": VERSION + 1}, f"format {VERSION + 1}, .*; update Rogle"),
        ({"images": "ten"}, "field 'images' is missing or not a int"),
        ({"images": 4}, "fields 'shards' and 'images' disagree"),
        ({"precision": "int4"}, "field 'precision' is 'int4'"),
        ({"shards": [{"name": "../elsewhere", "rows": 3}]}, "field 'shards' holds .* not a shard"),
        ({"shards": [{"name": "shard-00000001", "rows": -3}]}, "field 'shards' holds .* not a shard"),
        ({"metadata": "/etc/passwd"}, "field 'metadata' is '/etc/passwd'"),
        ({"store": {"uri": "faiss", "upto": 3, "file": "../x"}}, "field 'store'"),
        ({"store": {"uri": "milvus", "upto": 3, "effort": "much"}}, "field 'store'"),
        ({"store": {"uri": "milvus", "upto": 3}}, "field 'collection' is None"),
        ({"store": {"uri": "milvus", "upto": 3}, "collection": "../../home"}, "field 'collection' is '../../home'"),
        ({"template_boxes": [[0, 0, 1]] * 11}, "field 'template_boxes' holds .* not four numbers"),
        ({"template_boxes": [[0, 0, 1, "1"]] * 11}, "field 'template_boxes' holds"),
        ({"template_boxes": [[0, 0, 1, float("nan")]] * 11}, "field 'template_boxes' holds"),
        ({"template_boxes": [0, 0, 1, 1] * 11}, "field 'template_boxes' holds 0"),
        ({"template_labels": ["head"]}, "field 'template_labels' is not 11 names"),
        ({"template_labels": [1] * 11}, "field 'template_labels' is not 11 names"),
        ({"skipped": ["a.png"]}, "field 'skipped' holds an entry without a path"),
        ({"id": "../elsewhere"}, "field 'id' is '../elsewhere', not 32 hex digits"),
        ({"preprocessing": [384, 128]}, "field 'preprocessing' is not an object"),
        ({"preprocessing": {"fit": "pad", "max_tokens": 77}}, "field 'preprocessing.image_size' is None"),
        ({"preprocessing": PREPROCESSING | {"image_size": [224, -1]}}, "field 'preprocessing.image_size' is"),
        ({"preprocessing": PREPROCESSING | {"max_tokens": "77"}}, "field 'preprocessing.max_tokens' is '77'"),
        ({"preprocessing": PREPROCESSING | {"fit": "zoom"}}, "field 'preprocessing.fit' is 'zoom', not one of squeeze"),
        (
            {"encoder": {"engine": "jax", "precision": "int8"}},
            "field 'encoder.engine' is 'jax', not one of torch, onnx",
        ),
        ({"encoder": {"engine": "onnx"}}, "field 'encoder.precision' is None"),
        ({"text_encoder": "files"}, "field 'text_encoder' is not an object"),
        ({"local_tokens": 8}, "field 'local_tokens' is not an object"),
    ],
)
def test_an_invalid_manifest_is_refused(index, change, message):
    (index / "index.json").write_text(json.dumps({**HEADER, **change}))
    with pytest.raises(GalleryError, match=message) as caught:
        read_manifest(index)
    assert "index.json" in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_that_is_not_an_index_is_refused(tmp_path, index):
    with pytest.raises(FileNotFoundError, match="no such index"):
        read_manifest(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(GalleryError, match="not an index"):
        read_manifest(tmp_path / "empty")
    (tmp_path / "empty" / "index.json.building").write_text("{}")
    with pytest.raises(GalleryError, match="unfinished index"):
        read_manifest(tmp_path / "empty")
    (index / "index.json").write_text('{"format": ')
    with pytest.raises(GalleryError, match="index.json: damaged"):
        read_manifest(index)


def test_only_unreferenced_parts_of_an_index_are_removed(index):
    (index / "shard-00000001").mkdir()
    (index / "shard-00000002").mkdir()
    for name in (
        "metadata-00000001.parquet",
        "faiss-00000001.index",
        "index.json.new",
        "photo.jpg",
        "calibration.json",
    ):
        (index / name).write_text("x")
    remove_unreferenced(index)
    assert sorted(os.listdir(index)) == ["calibration.json", "index.json", "photo.jpg", "shard-00000001"]


def test_a_folder_with_other_files_is_refused(index):
    check_index_folder(index)
    check_index_folder(index / "new")
    (index / "photo.jpg").write_text("x")
    with pytest.raises(GalleryError, match="holds 'photo.jpg'"):
        check_index_folder(index)
    with pytest.raises(GalleryError, match="is a file"):
        check_index_folder(index / "photo.jpg")


def test_a_second_writer_is_refused_and_a_killed_process_releases_the_lock(index):
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        with locked(index):
            os.write(go, b"x")
            os.kill(os.getpid(), 9)
    os.read(ready, 1)
    os.waitpid(child, 0)
    with locked(index):  # the killed process does not hold it any more
        with pytest.raises(GalleryError, match="another process is writing this index"), locked(index):
            pass
    with locked(index):
        pass
