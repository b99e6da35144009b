"""Writing an index: small shards are merged, removed rows leave the disk, readers are not disturbed."""

import os

import numpy as np
import pyarrow.parquet as pq
import pytest

from modeling_rogle.index import index_writer
from modeling_rogle.index.index_writer import IndexWriter
from modeling_rogle.index.shards import Index
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.late_interaction import quantize_regions
from tests.helpers.index_files import DIMENSION, REGIONS, filled_index, image_rows, unit_rows

COPY = "0123456789abcdef" * 2 + ".jpg"


def test_small_shards_are_merged(tmp_path, monkeypatch):
    monkeypatch.setattr(index_writer, "SMALL_SHARD", 8)
    monkeypatch.setattr(index_writer, "MAX_SHARD", 24)
    images, _ = filled_index(tmp_path, [1] * 40)
    index = Index(tmp_path)
    assert len(index.shards) <= 16
    np.testing.assert_array_equal(index.global_rows(), images)
    assert index.paths == [f"path-{n}" for n in range(40)]
    writer = IndexWriter(tmp_path, index.header)
    writer.commit(complete=True)
    after = Index(tmp_path)
    assert [shard.rows for shard in after.shards][-1] <= 24 and all(shard.rows <= 24 for shard in after.shards)
    assert len(after.shards) <= len(index.shards)
    np.testing.assert_array_equal(after.global_rows(), images)
    assert len([name for name in os.listdir(tmp_path) if name.startswith("shard-")]) == len(after.shards)


def test_an_open_index_stays_readable_after_a_write(tmp_path):
    images, _ = filled_index(tmp_path, [5, 5])
    before = Index(tmp_path)
    writer = IndexWriter(tmp_path, before.header)
    writer.remove([2])
    writer.add(image_rows(10, 3), unit_rows(3, DIMENSION, seed=3), unit_rows(3, REGIONS, DIMENSION))
    writer.commit(complete=True)
    np.testing.assert_array_equal(before.global_rows(), images)
    after = Index(tmp_path)
    assert after.paths == [f"path-{n}" for n in range(13) if n != 2]
    assert after.ids.tolist() == [n for n in range(13) if n != 2]


def test_removed_rows_leave_the_disk(tmp_path):
    images, regions = filled_index(tmp_path, [4, 4])
    (tmp_path / "pictures").mkdir()
    writer = IndexWriter(tmp_path, Index(tmp_path).header)
    writer.add([{**image_rows(8, 1)[0], "picture": COPY}], unit_rows(1, DIMENSION, seed=5), regions[:1])
    (tmp_path / "pictures" / COPY).write_bytes(b"a face")
    writer.commit()
    writer.remove([1, 8])
    writer.commit()
    left = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    for trace in (b"a face", images[1].tobytes(), quantize_regions(regions[1])[0].tobytes()):
        assert trace not in left
    assert images[2].tobytes() in left
    tables = [pq.read_table(file).to_pydict() for file in tmp_path.rglob("*.parquet")]
    assert sorted(path for table in tables for path in table["path"]) == [f"path-{n}" for n in (0, 2, 3, 4, 5, 6, 7)]
    assert "hash-1" not in [digest for table in tables for digest in table["sha256"]]
    assert len(Index(tmp_path)) == 7


def test_a_folder_of_copies_that_is_a_link_is_refused(tmp_path):
    filled_index(tmp_path / "index", [3])
    (tmp_path / "index" / "pictures").symlink_to(tmp_path)
    with pytest.raises(GalleryError, match="pictures: is a symbolic link"):
        IndexWriter(tmp_path / "index", Index(tmp_path / "index").header)
