"""Compares a source with an existing index: images to encode, rows to remove, and the metadata of the result."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from modeling_rogle.index.index_writer import write_table
from modeling_rogle.index.manifest import new_name
from modeling_rogle.index.shards import Index, read_parquet
from modeling_rogle.indexing.image_sources import Item, Source
from modeling_rogle.inference.errors import GalleryError


@dataclass(frozen=True)
class Changes:
    """What differs between a source and an index.

    Attributes:
        items: items that are new or have changed, to be encoded.
        removed_rows: row numbers of the index whose image has changed or is missing.
    """

    items: list[Item]
    removed_rows: list[int]


def find_changes(source: Source, index: Index | None, append: bool) -> Changes:
    """Compares a source with an index by path, size and modification time, then by SHA-256.

    Args:
        source: the source.
        index: the index; None if there is none yet.
        append: keep rows whose image is not in the source.
    """
    if index is None:
        return Changes(list(source.items), [])
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, path in enumerate(pc.coalesce(index.table.column("scene"), index.table.column("path")).to_pylist()):
        rows_of[path].append(row)
    sizes, digests = (index.table.column(name).to_pylist() for name in ("bytes", "sha256"))
    times = index.table.column("mtime").cast(pa.int64()).to_pylist()
    items: list[Item] = []
    removed: list[int] = []
    for item in source.items:
        rows = rows_of.pop(item.path, [])  # several for the persons of a scene
        if not rows or not _is_unchanged(source, item, sizes[rows[0]], times[rows[0]], digests[rows[0]]):
            removed += rows
            items.append(item)
    if not append:
        removed += [row for rows in rows_of.values() for row in rows]
    return Changes(items, removed)


def _is_unchanged(source: Source, item: Item, size: int, mtime: int | None, digest: str) -> bool:
    if item.mtime is not None and item.bytes != size:
        return False
    return item.mtime is not None and item.mtime == mtime or source.digest(item) == digest


def update_metadata(path: Path, name: str | None, source: Source, append: bool) -> str | None:
    """Writes the user's metadata of an index.

    Args:
        path: the index folder.
        name: file name of the current metadata, None if there are none.
        source: the source with the new metadata.
        append: keep the metadata of images that are not in the source.

    Returns:
        file name of the new metadata: `name` if nothing has changed, None if there are none.

    Raises:
        GalleryError: a column has another type in the index than in the source.
    """
    new = source.metadata
    old = None if name is None else read_parquet(path / name)
    if append and old is not None:
        if new is None:
            new = old
        else:
            for column in source.added_columns:  # the user's column of that name wins
                if column in old.column_names and old.schema.field(column).type != new.schema.field(column).type:
                    new = new.drop_columns([column])
            others = old.filter(pc.invert(pc.is_in(old.column("path"), value_set=new.column("path"))))
            try:
                new = pa.concat_tables([others, new], promote_options="permissive")
            except pa.ArrowException as error:
                reason = str(error).split("\n")[0]
                raise GalleryError(f"{source.root}: metadata do not fit those of the index ({reason})") from error
    if new is None:
        return None
    new = new.combine_chunks()
    if old is not None and old.equals(new):
        return name
    name = new_name("metadata", ".parquet")
    write_table(new, path / name)
    return name


__all__ = ["Changes", "find_changes", "update_metadata"]
