"""Shards: what is committed is read back in order, whatever is damaged is named, what is removed leaves the disk."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modeling_rogle.index import shards as shards
from modeling_rogle.index.shards import Index, IndexWriter, write_table
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.late_interaction import dequantize_regions, quantize_regions
from tests.modeling_rogle.index.test_manifest import HEADER

REGIONS, DIMENSION = 11, 8
FACE = "0123456789abcdef" * 2 + ".jpg"


def unit_rows(*shape: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def facts(first: int, count: int) -> list[dict]:
    return [
        {"path": f"path-{n}", "sha256": f"hash-{n}", "width": n + 1, "height": 2 * n + 1, "bytes": n}
        for n in range(first, first + count)
    ]


def writer(path: Path, **fields) -> IndexWriter:
    path.mkdir(exist_ok=True)
    return IndexWriter(path, {**HEADER, "images": 0, "shards": [], "next_id": 0, **fields})


def filled(path: Path, counts: list[int], **fields) -> tuple[np.ndarray, np.ndarray]:
    """An index written in commits of so many rows; gives what it must hold."""
    total = sum(counts)
    images, regions = unit_rows(total, DIMENSION), unit_rows(total, REGIONS, DIMENSION, seed=1)
    writing, start = writer(path, **fields), 0
    for count in counts:
        writing.add(facts(start, count), images[start : start + count], regions[start : start + count])
        writing.commit()
        start += count
    return images, regions


def test_what_is_committed_is_read_back_in_order(tmp_path):
    images, regions = filled(tmp_path, [4, 1, 7])
    index = Index(tmp_path)
    assert len(index.shards) == 3 and len(index) == 12
    assert index.paths == [f"path-{n}" for n in range(12)] and index.ids.tolist() == list(range(12))
    np.testing.assert_array_equal(index.sizes, [(n + 1, 2 * n + 1) for n in range(12)])
    np.testing.assert_array_equal(index.global_rows(), images)
    some = np.array([11, 0, 4, 4, 5])
    np.testing.assert_array_equal(index.global_rows(some), images[some])
    np.testing.assert_allclose(index.region_rows(some), regions[some], atol=0.02)
    cosines = np.einsum("sd,ntd->nst", images[:3], index.region_rows(some))
    np.testing.assert_allclose(index.region_cosines(some, images[:3]), cosines, atol=1e-6)
    assert index.region_cosines(some, images[:0]).shape == (5, 0, REGIONS)


def test_bfloat16_halves_the_file_and_loses_little(tmp_path):
    images, _ = filled(tmp_path, [9], precision="bfloat16")
    index = Index(tmp_path)
    np.testing.assert_allclose(index.global_rows(), images, atol=4e-3)
    assert index.shards[0].global_embeds.nbytes == images.nbytes // 2


def test_shards_melt_together_as_they_pile_up(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SMALL_SHARD", 8)
    monkeypatch.setattr(shards, "MAX_SHARD", 24)
    images, _ = filled(tmp_path, [1] * 40)
    index = Index(tmp_path)
    assert len(index.shards) <= 16
    np.testing.assert_array_equal(index.global_rows(), images)
    assert index.paths == [f"path-{n}" for n in range(40)]
    last = IndexWriter(tmp_path, index.header)
    last.commit(complete=True)
    after = Index(tmp_path)
    assert [shard.rows for shard in after.shards][-1] <= 24 and all(shard.rows <= 24 for shard in after.shards)
    assert len(after.shards) <= len(index.shards)
    np.testing.assert_array_equal(after.global_rows(), images)
    assert len([name for name in os.listdir(tmp_path) if name.startswith("shard-")]) == len(after.shards)


def test_an_index_opened_before_still_answers_after_others_wrote(tmp_path):
    images, _ = filled(tmp_path, [5, 5])
    before = Index(tmp_path)
    writing = IndexWriter(tmp_path, before.header)
    writing.remove([2])
    writing.add(facts(10, 3), unit_rows(3, DIMENSION, seed=3), unit_rows(3, REGIONS, DIMENSION))
    writing.commit(complete=True)
    np.testing.assert_array_equal(before.global_rows(), images)
    after = Index(tmp_path)
    assert after.paths == [f"path-{n}" for n in range(13) if n != 2]
    assert after.ids.tolist() == [n for n in range(13) if n != 2]


def test_a_reader_that_met_a_writer_reads_again(tmp_path, monkeypatch):
    filled(tmp_path, [3])
    old = shards.read_manifest(tmp_path)
    writing = IndexWriter(tmp_path, old)
    writing.remove([0])
    writing.commit()  # its shard is not the one that the old manifest names
    answers = iter([old])
    real = shards.read_manifest
    monkeypatch.setattr(shards, "read_manifest", lambda *args: next(answers, None) or real(*args))
    assert Index(tmp_path).paths == ["path-1", "path-2"]


def test_what_is_removed_is_on_no_disk_any_more(tmp_path):
    images, regions = filled(tmp_path, [4, 4])
    (tmp_path / "pictures").mkdir()
    writing = IndexWriter(tmp_path, Index(tmp_path).header)
    writing.add([{**facts(8, 1)[0], "picture": FACE}], unit_rows(1, DIMENSION, seed=5), regions[:1])
    (tmp_path / "pictures" / FACE).write_bytes(b"a face")
    writing.commit()
    writing.remove([1, 8])
    writing.commit()
    left = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    for trace in (b"a face", images[1].tobytes(), quantize_regions(regions[1])[0].tobytes()):
        assert trace not in left
    assert images[2].tobytes() in left
    told = [pq.read_table(file).to_pydict() for file in tmp_path.rglob("*.parquet")]
    assert sorted(path for table in told for path in table["path"]) == [f"path-{n}" for n in (0, 2, 3, 4, 5, 6, 7)]
    assert "hash-1" not in [digest for table in told for digest in table["sha256"]]
    assert len(Index(tmp_path)) == 7


def test_the_users_columns_are_joined_by_path_and_by_scene(tmp_path):
    writing = writer(tmp_path)
    rows = [*facts(0, 2), {**facts(2, 1)[0], "path": "scene#0", "scene": "scene"}]
    writing.add(rows, unit_rows(3, DIMENSION), unit_rows(3, REGIONS, DIMENSION))
    table = pa.table({"path": ["scene", "path-1", "nobody"], "camera": ["c1", "c2", "c3"], "n": [1, None, 3]})
    write_table(table, tmp_path / "metadata-00000001.parquet")
    writing.commit(metadata="metadata-00000001.parquet")
    assert Index(tmp_path).table.select(["camera", "n"]).to_pydict() == {
        "camera": [None, "c2", "c1"],
        "n": [None, None, 1],
    }


def test_bytes_lose_little():
    rows = unit_rows(50, 4, 64)
    back = dequantize_regions(*quantize_regions(rows))
    assert np.linalg.norm(back, axis=-1) == pytest.approx(1.0, abs=1e-5)
    assert (back * rows).sum(-1).min() > 0.9995
    assert np.isfinite(dequantize_regions(*quantize_regions(np.zeros((2, 3), dtype=np.float32)))).all()


@pytest.mark.parametrize("name", ["images.parquet", "global.npy", "regions.npy", "region_scales.npy"])
@pytest.mark.parametrize("harm", ["missing", "cut", "shorter"])
def test_an_index_with_a_damaged_file_names_it(tmp_path, name, harm):
    filled(tmp_path, [6])
    file = next(tmp_path.glob(f"shard-*/{name}"))
    if harm == "missing":
        file.unlink()
    elif harm == "cut":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif file.suffix == ".npy":
        np.save(file, np.load(file)[:-1])
    else:
        pq.write_table(pq.read_table(file)[:-1], file)
    with pytest.raises(GalleryError) as caught:
        Index(tmp_path)
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["/tmp/victim.txt", "../" + FACE, FACE + "\n", "../" * 9 + "victim.jpg"])
def test_a_image_that_no_index_has_is_named_before_anything_is_removed(tmp_path, name):
    filled(tmp_path, [3])
    (file,) = tmp_path.glob("shard-*/images.parquet")
    table = pq.read_table(file)
    place = table.schema.get_field_index("picture")
    write_table(table.set_column(place, "picture", pa.array([FACE, None, name])), file)
    with pytest.raises(GalleryError, match="images.parquet: field 'picture' holds .*, no image of an index") as caught:
        Index(tmp_path)
    assert "\n" not in str(caught.value)


def test_nothing_is_written_where_the_folder_of_images_is_a_link(tmp_path):
    filled(tmp_path / "index", [3])
    (tmp_path / "index" / "pictures").symlink_to(tmp_path)
    with pytest.raises(GalleryError, match="pictures: a symbolic link, no folder of an index"):
        IndexWriter(tmp_path / "index", Index(tmp_path / "index").header)


def test_an_empty_index_opens(tmp_path):
    writer(tmp_path).commit()
    index = Index(tmp_path)
    assert len(index) == 0 and index.global_rows().shape == (0, DIMENSION)
