"""Changes between a source and an index, and the metadata of the result."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modeling_rogle.index.index_writer import write_table
from modeling_rogle.index.shards import Index
from modeling_rogle.indexing.changes import find_changes, update_metadata
from modeling_rogle.indexing.image_sources import Item, Source
from modeling_rogle.inference.errors import GalleryError
from tests.helpers.image_files import write_colour
from tests.helpers.index_files import filled_index

OLD = "metadata-00000001.parquet"


def source_of(root: Path, names: list[str], metadata: pa.Table | None = None) -> Source:
    return Source(str(root), [Item(name, name, bytes=n, mtime=0) for n, name in enumerate(names)], [], 0, metadata)


def test_everything_is_new_without_an_index(tmp_path):
    changes = find_changes(source_of(tmp_path, ["a", "b"]), None, append=False)
    assert [item.path for item in changes.items] == ["a", "b"] and changes.removed_rows == []


@pytest.mark.parametrize(("append", "removed"), [(False, [0, 2]), (True, [0])])
def test_changed_images_are_encoded_and_missing_ones_removed_unless_appending(tmp_path, append, removed):
    filled_index(tmp_path / "index", [3])  # of path-0, path-1 and path-2 with 0, 1 and 2 bytes
    write_colour(tmp_path / "path-0.png").rename(tmp_path / "path-0")

    class Unchanged(Source):
        def digest(self, item: Item) -> str | None:
            return "hash-1" if item.path == "path-1" else super().digest(item)

    source = Unchanged(**vars(source_of(tmp_path, ["path-0", "path-1", "new"])))
    changes = find_changes(source, Index(tmp_path / "index"), append)
    assert [item.path for item in changes.items] == ["path-0", "new"] and changes.removed_rows == removed


def test_metadata_are_replaced_kept_or_merged(tmp_path):
    old = pa.table({"path": ["a", "b"], "camera": ["c1", "c2"]})
    new = pa.table({"path": ["b", "c"], "camera": ["c3", "c4"]})
    write_table(old, tmp_path / OLD)
    assert update_metadata(tmp_path, None, source_of(tmp_path, []), append=False) is None
    assert update_metadata(tmp_path, OLD, source_of(tmp_path, []), append=False) is None
    assert update_metadata(tmp_path, OLD, source_of(tmp_path, []), append=True) == OLD
    assert update_metadata(tmp_path, OLD, source_of(tmp_path, [], old), append=False) == OLD
    replaced = update_metadata(tmp_path, OLD, source_of(tmp_path, [], new), append=False)
    assert pq.read_table(tmp_path / replaced).equals(new)
    merged = update_metadata(tmp_path, OLD, source_of(tmp_path, [], new), append=True)
    assert pq.read_table(tmp_path / merged).to_pydict() == {"path": ["a", "b", "c"], "camera": ["c1", "c3", "c4"]}


def test_metadata_of_another_type_cannot_be_appended(tmp_path):
    write_table(pa.table({"path": ["a"], "camera": ["c1"]}), tmp_path / OLD)
    new = pa.table({"path": ["b"], "camera": [[1.0]]})
    with pytest.raises(GalleryError, match="metadata do not fit") as caught:
        update_metadata(tmp_path, OLD, source_of(tmp_path, [], new), append=True)
    assert "\n" not in str(caught.value)
