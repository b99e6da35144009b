"""Gallery.build and Gallery.delete: invalid images, folders that cannot be indexed, and deletion from the disk."""

import json
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.search.gallery import Gallery
from tests.helpers.image_files import QUERY, make_images, write_bomb


def test_invalid_images_are_skipped_and_listed(tools, tmp_path):
    folder = make_images(tmp_path / "images", 4)
    (folder / "text.jpg").write_text("no image")
    (folder / "cut.jpg").write_bytes(b"")
    Image.new("RGB", (60, 90), "red").save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:700])
    (folder / "notes.md").write_text("x")
    (folder / "link.png").symlink_to(Path(sys.executable).resolve())
    report = Gallery.build(folder, *tools, tmp_path / "index", batch_size=2, progress=False).report
    assert (report.images, report.ignored) == (4, 1)
    assert {item.path for item in report.skipped} == {"text.jpg", "cut.jpg", "link.png"}
    header = json.loads((tmp_path / "index" / "index.json").read_text())
    assert [item["path"] for item in header["skipped"]] == [item.path for item in report.skipped]
    assert len(Gallery.open(tmp_path / "index", *tools).search(QUERY)) == 4


def test_the_warning_filters_of_the_caller_are_unchanged_after_indexing(tools, tmp_path):
    before = list(warnings.filters)
    Gallery.build(make_images(tmp_path / "images", 9), *tools, tmp_path / "index", 2, progress=False)
    assert warnings.filters == before  # the decoding threads must not touch them


def test_folders_that_cannot_be_indexed(tools, tmp_path):
    empty, others, unreadable = (tmp_path / name for name in ("empty", "others", "unreadable"))
    for folder in (empty, others, unreadable):
        folder.mkdir()
    (others / "a.txt").write_text("x")
    (unreadable / "a.jpg").write_text("x")
    out = tmp_path / "index"
    for folder, kind, message in (
        (tmp_path / "gone", FileNotFoundError, "gone: no such folder"),
        (others / "a.txt", GalleryError, "a.txt: not a folder"),
        (empty, GalleryError, "empty: no images in this folder"),
        (others, GalleryError, "others: no images in this folder, only 1 other files"),
        (
            unreadable,
            GalleryError,
            "unreadable: none of 1 images can be indexed (a.jpg: not an image that Pillow can read)",
        ),
    ):
        with pytest.raises(kind) as caught:
            Gallery.build(folder, *tools, out, progress=False)
        assert str(caught.value) == f"{folder.parent}/{message}"
        assert not out.exists()


def test_a_folder_with_other_files_is_never_overwritten(tools, tmp_path):
    folder = make_images(tmp_path / "images", 2)
    for out in (folder, folder / "00.png"):
        with pytest.raises(GalleryError, match="not part of an index|is a file"):
            Gallery.build(folder, *tools, out, progress=False)
    assert sorted(os.listdir(folder)) == ["00.png", "01.png"]


def test_an_index_of_another_precision_replaces_the_old_one_completely(tools, copied):
    (copied / "shard-00000000").mkdir()  # what a killed build leaves
    (copied / "index.json.new").write_text("half")
    before = Gallery.open(copied)
    Gallery.build(before.folder, *tools, copied, progress=False, precision="bfloat16")
    assert Gallery.open(copied).paths == before.paths and len(os.listdir(copied)) == 2
    assert Gallery.open(copied).header["id"] != before.header["id"]


def test_an_index_of_another_folder_is_refused_and_unchanged(tools, copied, tmp_path):
    before, few = {file: file.read_bytes() for file in copied.rglob("*.*")}, make_images(tmp_path / "few", 2)
    with pytest.raises(GalleryError) as caught:
        Gallery.build(few, *tools, copied, progress=False)
    folder = Gallery.open(copied).folder
    message = f"{copied}: the index of {folder}, not of {few}; choose another --out, or delete {copied} first"
    assert str(caught.value) == message
    assert {file: file.read_bytes() for file in copied.rglob("*.*")} == before


def test_a_build_that_fails_leaves_the_old_index(tools, tmp_path):
    folder, index = make_images(tmp_path / "images", 3), tmp_path / "index"
    Gallery.build(folder, *tools, index, progress=False)
    before = sorted(index.rglob("*"))
    for file in folder.iterdir():
        file.write_text("x")
    with pytest.raises(GalleryError, match="none of 3 images can be indexed"):
        Gallery.build(folder, *tools, index, progress=False, precision="bfloat16")
    assert sorted(index.rglob("*")) == before
    assert len(Gallery.open(index)) == 3


def test_broken_weights_are_refused_in_a_search_and_in_a_build(tiny_model, tiny_processor, copied, tmp_path):
    message = "embeddings that are not finite"
    folder = make_images(tmp_path / "images", 2)
    Gallery.build(folder, tiny_model, tiny_processor, tmp_path / "whole", progress=False)
    gallery = Gallery.open(tmp_path / "whole", tiny_model, tiny_processor)
    with torch.no_grad():
        tiny_model.text_projection.weight[0, 0] = float("nan")
        tiny_model.visual_projection.weight[0, 0] = float("nan")
    with pytest.raises(GalleryError, match=message):
        gallery.search(QUERY)
    with pytest.raises(GalleryError, match=message):
        Gallery.build(folder, tiny_model, tiny_processor, tmp_path / "broken", progress=False)
    assert not (tmp_path / "broken").exists()


def stored(index: Path) -> tuple[dict[str, list], np.ndarray, np.ndarray]:
    """Contents of the files: metadata, embeddings and int8 regions."""
    (data,) = index.glob("shard-*")
    table = pq.read_table(data / "images.parquet").to_pydict()
    return table, np.load(data / "global.npy"), np.load(data / "regions.npy")


def test_a_deleted_image_leaves_no_trace_on_disk(copied, tools):
    gallery = Gallery.open(copied, *tools)
    before = {match.path: match for match in gallery.search(QUERY)}
    table, *arrays = stored(copied)
    gone = [table["path"].index(name) for name in ("03.png", "07.png")]
    assert gallery.delete(["03.png", gallery.folder / "07.png"]) == 2
    after = {match.path: match for match in gallery.search(QUERY)}
    assert set(before) - set(after) == {"03.png", "07.png"}
    for path in after:
        assert after[path].score == pytest.approx(before[path].score, abs=1e-6)
        assert after[path].file == before[path].file
    assert after == {match.path: match for match in Gallery.open(copied, *tools).search(QUERY)}
    assert len(list(copied.rglob("*"))) == 6  # index.json and one shard of four files
    left, *left_arrays = stored(copied)
    everything = b"".join(file.read_bytes() for file in copied.rglob("*.*"))
    assert len(left["path"]) == 8
    for row in gone:
        for field in ("path", "sha256"):
            assert table[field][row] not in left[field] and table[field][row].encode() not in everything
        for array, remaining in zip(arrays, left_arrays, strict=True):
            assert not (remaining == array[row]).all(axis=tuple(range(1, array.ndim))).any()
            assert array[row].tobytes() not in everything
    assert (gallery.folder / "03.png").is_file()


def test_deleting_by_a_path_through_a_link(copied, tools, tmp_path):
    gallery = Gallery.open(copied)
    (tmp_path / "link").symlink_to(gallery.folder)
    assert gallery.delete([tmp_path / "link" / "03.png", "./04.png", gallery.folder / "x" / ".." / "05.png"]) == 3
    assert not {"03.png", "04.png", "05.png"} & set(gallery.paths) and len(gallery) == 7
    with pytest.raises(GalleryError, match="03.png is not in this index"):
        gallery.delete([tmp_path / "03.png"])


def test_the_name_of_a_skipped_image_can_be_deleted(tools, tmp_path):
    folder, index = make_images(tmp_path / "images", 2), tmp_path / "index"
    for name in ("anna.jpg", "bert\n.jpg"):
        (folder / name).write_text("no image")
    Gallery.build(folder, *tools, index, progress=False)
    assert "anna" in (index / "index.json").read_text()
    assert Gallery.open(index).delete(["anna.jpg"]) == 1
    (skipped,) = json.loads((index / "index.json").read_text())["skipped"]
    assert skipped["path"] == "bert\\n.jpg"
    assert Gallery.open(index).delete(["00.png", folder / "bert\n.jpg"]) == 2
    assert json.loads((index / "index.json").read_text())["skipped"] == []
    assert Gallery.open(index, *tools).paths == ["01.png"]


def test_deleting_is_all_or_nothing(copied, tools):
    gallery = Gallery.open(copied)
    with pytest.raises(GalleryError, match="11.png is not in this index; nothing was deleted"):
        gallery.delete(["00.png", "11.png"])
    assert len(Gallery.open(copied)) == 10
    assert gallery.delete([]) == 0
    assert gallery.delete(gallery.paths) == 10
    with pytest.raises(GalleryError, match="no image is left in this index"):
        Gallery.open(copied, *tools).search(QUERY)


def test_an_image_too_large_to_decode_is_skipped(tools, tmp_path):
    folder = make_images(tmp_path / "images", 2)
    write_bomb(folder / "bomb.png", 50_000, 50_000)
    report = Gallery.build(folder, *tools, tmp_path / "index", progress=False).report
    assert [(item.path, item.reason) for item in report.skipped] == [
        ("bomb.png", "over the limit of 80 million pixels")
    ]


def test_real_pedestrians(test_data, tools, tmp_path):
    folder = test_data / "pedestrians" / "imgs"
    report = Gallery.build(folder, *tools, tmp_path / "index", progress=False).report
    assert (report.images, report.skipped) == (90, ())
    matches = Gallery.open(tmp_path / "index").search(QUERY, top_k=10, local_weight=0.5)
    assert len({match.path for match in matches}) == 10
    assert all(match.file.is_file() for match in matches)
