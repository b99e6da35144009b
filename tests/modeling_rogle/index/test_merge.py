"""Merging indexes: rows are kept bit for bit, paths and ids are unique, parts that do not fit are named, kills."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from modeling_rogle import Gallery, RogleModel, RogleProcessor
from modeling_rogle.cli.main import main
from modeling_rogle.index import merge
from modeling_rogle.index.exact_search import exact_search
from modeling_rogle.index.index_writer import write_table
from modeling_rogle.index.manifest import MANIFEST, read_manifest
from modeling_rogle.index.merge import merge_indexes
from modeling_rogle.index.shards import Index
from modeling_rogle.inference.errors import GalleryError
from tests.helpers.image_files import make_images
from tests.helpers.index_files import DIMENSION, REGIONS, empty_writer, image_rows, unit_rows


def part(path: Path, first: int, counts: list[int], **fields: object) -> Index:
    """An index of the images `path-<first>` and following, with random embeddings."""
    writer = empty_writer(path, **{"files": True, **fields})
    for number, count in enumerate(counts):
        images = unit_rows(count, DIMENSION, seed=first + number)
        writer.add(image_rows(first, count), images, unit_rows(count, REGIONS, DIMENSION, seed=first))
        writer.commit()
        first += count
    return Index(path)


def stored(index: Index, rows: np.ndarray | None = None) -> list[np.ndarray]:
    """The arrays of an index as they are stored, for some rows."""
    arrays = [[shard.global_embeds, shard.regions, shard.scales] for shard in index.shards]
    joined = [np.concatenate(column) for column in zip(*arrays, strict=True)]
    return joined if rows is None else [array[rows] for array in joined]


def test_rows_are_kept_bit_for_bit_and_arrays_are_linked(tmp_path):
    parts = [part(tmp_path / "a", 0, [30, 5]), part(tmp_path / "b", 35, [20]), part(tmp_path / "c", 55, [1])]
    report = merge_indexes([index.path for index in parts], tmp_path / "out")
    merged = Index(report.path)
    assert (report.images, report.duplicates, len(merged.shards)) == (56, 0, 4)
    expected = [np.concatenate(column) for column in zip(*map(stored, parts), strict=True)]
    for array, other in zip(stored(merged), expected, strict=True):
        assert array.tobytes() == other.tobytes()
    assert merged.ids.tolist() == list(range(56)) and merged.header["next_id"] == 56
    tables = pa.concat_tables([index.table.drop_columns(["id"]) for index in parts])
    assert merged.table.drop_columns(["id"]).equals(tables)
    file = merged.shards[0].path / "global.npy"
    assert os.path.samefile(file, parts[0].shards[0].path / "global.npy")
    assert merged.header["id"] not in {index.header.get("id") for index in parts}
    query = unit_rows(DIMENSION, seed=99)
    rows, cosines = exact_search(merged, query, 10)
    scores = np.concatenate([index.global_rows() for index in parts]) @ query
    assert rows.tolist() == np.argsort(-scores, kind="stable")[:10].tolist()
    np.testing.assert_allclose(cosines, scores[rows], atol=1e-6)


def test_a_path_in_two_parts_is_refused_or_kept_once(tmp_path):
    first, last = part(tmp_path / "a", 0, [10]), part(tmp_path / "b", 7, [10])
    paths = [first.path, last.path]
    with pytest.raises(GalleryError, match=f"{last.path}: path-7 is in {first.path} too; .*--prefer"):
        merge_indexes(paths, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    for prefer, (from_first, from_last) in (("first", (10, 7)), ("last", (7, 10))):
        report = merge_indexes(paths, tmp_path / prefer, prefer)
        merged = Index(report.path)
        assert (report.images, report.duplicates) == (17, 3) and merged.paths == [f"path-{n}" for n in range(17)]
        expected = [stored(first, np.arange(from_first)), stored(last, np.arange(10 - from_last, 10))]
        for array, *others in zip(stored(merged), *expected, strict=True):
            assert array.tobytes() == np.concatenate(others).tobytes()


def test_metadata_skipped_images_and_folders_are_joined(tmp_path):
    parts = []
    columns = {"a": {"camera": ["c1", "c2"]}, "b": {"camera": ["c3", "c4"], "age": [1, 2]}}
    for name, first in (("a", 0), ("b", 2)):
        skipped = [{"path": f"bad-{name}", "reason": "empty"}]
        index = part(tmp_path / name, first, [2], folder=f"/images/{name}", skipped=skipped, ignored=1)
        write_table(pa.table({"path": index.paths, **columns[name]}), index.path / "metadata-00000000.parquet")
        header = {**index.header, "metadata": "metadata-00000000.parquet"}
        (index.path / MANIFEST).write_text(json.dumps(header))
        parts.append(index.path)
    merged = Index(merge_indexes(parts, tmp_path / "out").path)
    assert merged.paths == ["a/path-0", "a/path-1", "b/path-2", "b/path-3"] and merged.header["folder"] == "/images"
    assert merged.table.column("camera").to_pylist() == ["c1", "c2", "c3", "c4"]
    assert merged.table.column("age").to_pylist() == [None, None, 1, 2]
    assert [entry["path"] for entry in merged.header["skipped"]] == ["a/bad-a", "b/bad-b"]
    assert merged.header["ignored"] == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": {"path": "other", "fingerprint": "1" * 64}}, "b: made by another model \\(other\\) than .*a"),
        ({"precision": "bfloat16"}, "b: precision bfloat16, but float32 in .*a"),
        ({"detector": "detr"}, "b: detector detr, but None"),
        ({"complete": False}, "b: an unfinished index; run `rogle index`"),
        ({"files": False}, "b: files False, but True"),
    ],
)
def test_parts_that_do_not_fit_are_named_and_nothing_is_written(tmp_path, capsys, fields, message):
    part(tmp_path / "a", 0, [2]), part(tmp_path / "b", 2, [2], **fields)
    names = [str(tmp_path / name) for name in ("a", "b", "out")]
    with pytest.raises(GalleryError, match=message) as caught:
        merge_indexes(names[:2], names[2])
    assert "\n" not in str(caught.value) and sorted(os.listdir(tmp_path)) == ["a", "b"]
    assert main(["merge", *names[:2], "--out", names[2]]) == 2
    assert capsys.readouterr().err.startswith("rogle merge: ")


def test_an_existing_folder_and_one_part_are_refused(tmp_path):
    part(tmp_path / "a", 0, [2])
    with pytest.raises(GalleryError, match="at least two"):
        merge_indexes([tmp_path / "a"], tmp_path / "out")
    with pytest.raises(GalleryError, match="a: exists already"):
        merge_indexes([tmp_path / "a", tmp_path / "a"], tmp_path / "a")
    with pytest.raises(FileNotFoundError, match="none: no such index"):
        merge_indexes([tmp_path / "a", tmp_path / "none"], tmp_path / "out")


def test_a_merge_of_indexed_folders_equals_one_index_of_all_and_can_be_updated(tiny_checkpoint, tmp_path, capsys):
    tools = RogleModel.from_pretrained(tiny_checkpoint).eval(), RogleProcessor.from_pretrained(tiny_checkpoint)
    folder, query = tmp_path / "images", "A man in a red jacket. He carries a bag."
    for name in ("a", "b"):
        make_images(folder / name, 4)
        Gallery.build(folder / name, *tools, tmp_path / name, progress=False)
    assert main(["merge", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "out")]) == 0
    assert "8 images of 2 indexes" in capsys.readouterr().err
    whole = Gallery.build(folder, *tools, tmp_path / "whole", progress=False)
    merged = Gallery.build(folder, *tools, tmp_path / "out", progress=False)
    assert (merged.report.added, merged.report.kept, merged.paths) == (0, 8, whole.paths)
    np.testing.assert_allclose(merged.encode_gallery(), whole.encode_gallery(), atol=1e-5)
    results = [gallery.search(query, top_k=8) for gallery in (merged, whole)]
    assert [match.path for match in results[0]] == [match.path for match in results[1]]
    assert merged.delete(["a/00.png"]) == 1 and len(Index(tmp_path / "a")) == 4  # the part stays as it is


@pytest.mark.slow
def test_a_killed_merge_leaves_no_index_and_can_be_repeated(tmp_path, monkeypatch):
    parts = [part(tmp_path / name, 100 * n, [20, 20, 20]).path for n, name in enumerate(("a", "b"))]
    before = [Index(path).global_rows().tobytes() for path in parts]
    write = merge._merged_shard

    def slowly(*args: object) -> dict:
        time.sleep(0.02)
        return write(*args)

    monkeypatch.setattr(merge, "_merged_shard", slowly)
    for moment in range(20):
        out = tmp_path / f"out-{moment}"
        child = os.fork()
        if child == 0:
            try:
                merge_indexes(parts, out)
            finally:
                os._exit(0)
        time.sleep(0.008 * moment)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if out.exists():  # the merge had finished
            assert read_manifest(out)["images"] == 120
        else:
            assert merge_indexes(parts, out).images == 120
        assert Index(out).global_rows().tobytes() == b"".join(before)
        assert not list(tmp_path.glob(".*.merging"))
    assert [Index(path).global_rows().tobytes() for path in parts] == before
