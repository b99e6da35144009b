"""Taking images out of an index: which rows a path stands for, and every place that knows of them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from modeling_rogle.index.manifest import MANIFEST, STAGED_MANIFEST, new_name, read_manifest
from modeling_rogle.index.shards import Index, IndexWriter, read_parquet, write_table
from modeling_rogle.index.store_sync import delete_from_store, sync_store
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.inference.image_io import printable_path


def find_rows(index: Index, paths: Sequence[str | Path]) -> tuple[set[int], set[str]]:
    """Rows, and names of skipped images, that paths stand for; relative to the indexed folder, or absolute.

    Raises:
        GalleryError: a path is not in the index.
    """
    rows_of: dict[str, list[int]] = {path: [row] for row, path in enumerate(index.paths)}
    for row, scene in enumerate(index.table.column("scene").to_pylist()):
        if scene is not None:
            rows_of.setdefault(scene, []).append(row)
    listed = {item["path"] for item in index.header["skipped"]}
    rows: set[int] = set()
    names: set[str] = set()
    for path in paths:
        for name in _possible(index, path):
            if name in rows_of or printable_path(name) in listed:
                rows.update(rows_of.get(name, ()))
                names.update({printable_path(name)} & listed)
                break
        else:
            raise GalleryError(f"{index.path}: {printable_path(path)} is not in this index; nothing was deleted")
    return rows, names


def _possible(index: Index, path: str | Path) -> list[str]:
    if not index.header["files"]:
        return [str(path)]
    folder = Path(index.header["folder"])
    written = folder / path
    # The folder may have been named through a link; an image that is a link itself keeps its name.
    places = (written, Path(os.path.realpath(written.parent), written.name))
    return [place.relative_to(folder).as_posix() for place in places if place.is_relative_to(folder)]


def remove_images(path: Path, gone: set[str], skipped: set[str]) -> None:
    """Takes images, and names of skipped ones, out of the index at `path`, whose lock the caller holds.

    Raises:
        GalleryError: a store that holds them does not answer; nothing was deleted then.
    """
    _remove(path, MANIFEST, gone, skipped)
    if (path / STAGED_MANIFEST).exists():  # a replacement that was never finished
        _remove(path, STAGED_MANIFEST, gone, skipped)
    uri = (read_manifest(path).get("store") or {}).get("uri")
    if uri:
        sync_store(path, uri)


def _remove(path: Path, name: str, gone: set[str], skipped: set[str]) -> None:
    """Takes images out of one manifest, with what is known of them, and names out of its list of skipped ones."""
    index = Index(path, name)
    ids = index.ids[[row for row, found in enumerate(index.paths) if found in gone]]
    header = index.header
    fields: dict[str, Any] = {"skipped": [item for item in header["skipped"] if item["path"] not in skipped]}
    writer = IndexWriter(path, header, name)
    writer.remove(ids)
    if header["metadata"] is not None:
        # Of a scene its metadata go with its last person.
        keys = pc.coalesce(index.table.column("scene"), index.table.column("path")).to_pylist()
        kept = {key for key, found in zip(keys, index.paths, strict=True) if found not in gone}
        lost = set(keys) - kept
        known = read_parquet(path / header["metadata"])
        mask = [
            one not in lost and (one in kept or printable_path(one) not in skipped)
            for one in known.column("path").to_pylist()
        ]
        if not all(mask):
            fields["metadata"] = new_name("metadata", ".parquet")
            write_table(known.filter(pa.array(mask)), path / fields["metadata"])
    if header.get("store") and len(ids):
        fields["store"] = delete_from_store(path, header, ids)
    writer.commit(**fields, complete=header["complete"])


__all__ = ["find_rows", "remove_images"]
