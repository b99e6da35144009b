"""Deletes images from an index: finds the rows that a path names, and removes every trace of them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from modeling_rogle.image_io import printable_path
from modeling_rogle.index.index_writer import IndexWriter, write_table
from modeling_rogle.index.manifest import MANIFEST, STAGED_MANIFEST, new_name, read_manifest
from modeling_rogle.index.path_spellings import PathSpellings
from modeling_rogle.index.shards import Index, read_parquet
from modeling_rogle.index.store_address import trusted_address
from modeling_rogle.index.store_sync import delete_from_store, sync_store
from modeling_rogle.inference.errors import GalleryError


def find_rows(index: Index, paths: Sequence[str | Path]) -> tuple[set[int], set[str]]:
    """Finds what paths name in an index.

    Args:
        index: the index.
        paths: paths relative to the indexed folder, or absolute. The path of a scene names all of its persons. A path
            that is not in the index may be another spelling of one that is, see [`PathSpellings`].

    Returns:
        the row numbers, and the names in the manifest's list of skipped images.

    Raises:
        GalleryError: a path is not in the index.
    """
    rows_of: dict[str, list[int]] = {path: [row] for row, path in enumerate(index.paths)}
    for row, scene in enumerate(index.table.column("scene").to_pylist()):
        if scene is not None:
            rows_of.setdefault(scene, []).append(row)
    skipped = {entry["path"] for entry in index.header["skipped"]}
    rows: set[int] = set()
    skipped_names: set[str] = set()
    spellings: PathSpellings | None = None
    for path in paths:
        for name in _possible_names(index, path):
            if name in rows_of or printable_path(name) in skipped:
                rows.update(rows_of.get(name, ()))
                skipped_names.update({printable_path(name)} & skipped)
                break
        else:
            spellings = spellings or PathSpellings([*rows_of, *skipped])
            found = spellings.find(_possible_names(index, path)[0] if _possible_names(index, path) else str(path))
            if found is None:
                raise GalleryError(f"{index.path}: {printable_path(path)} is not in this index; nothing was deleted")
            rows.update(rows_of.get(found, ()))
            skipped_names.update({printable_path(found)} & skipped)
    return rows, skipped_names


def _possible_names(index: Index, path: str | Path) -> list[str]:
    """Returns the paths in the index that a user's path may name."""
    if not index.header.get("files", True):
        return [str(path)]
    folder = Path(index.header["folder"])
    named = folder / path
    # The user may name the folder through a link, so its links are resolved; an image that is a link keeps its name.
    resolved = Path(os.path.realpath(named.parent), named.name)
    return [file.relative_to(folder).as_posix() for file in (named, resolved) if file.is_relative_to(folder)]


def remove_images(path: Path, removed: set[str], skipped: set[str], given: str | None = None) -> None:
    """Removes images and names of skipped images from an index. The caller holds its lock.

    Args:
        path: the index folder.
        removed: paths of images, as in the index.
        skipped: names in the manifest's list of skipped images.
        given: the store that the user named; see [`trusted_address`]. Default: none.

    Raises:
        GalleryError: the vector store does not answer, or only the index names it. Nothing was deleted then.
    """
    _remove(path, MANIFEST, removed, skipped, given)
    if (path / STAGED_MANIFEST).exists():  # of an unfinished replacement, which holds the images too
        _remove(path, STAGED_MANIFEST, removed, skipped, given)
    uri = (read_manifest(path).get("store") or {}).get("uri")
    address = trusted_address(uri, given) if uri else None
    if address:  # otherwise only names of skipped images were removed
        sync_store(path, address)


def _remove(path: Path, name: str, removed: set[str], skipped: set[str], given: str | None) -> None:
    """Removes images, their metadata and names of skipped images from one manifest."""
    index = Index(path, name)
    header = index.header
    ids = index.ids[[row for row, image in enumerate(index.paths) if image in removed]]
    fields: dict[str, Any] = {"skipped": [entry for entry in header["skipped"] if entry["path"] not in skipped]}
    writer = IndexWriter(path, header, name)
    writer.remove(ids)
    if header.get("metadata") is not None:
        metadata = read_parquet(path / header["metadata"])
        kept = _kept_metadata(index, metadata.column("path").to_pylist(), removed, skipped)
        if not all(kept):
            fields["metadata"] = new_name("metadata", ".parquet")
            write_table(metadata.filter(pa.array(kept)), path / fields["metadata"])
    if header.get("store") and len(ids):
        fields["store"] = delete_from_store(path, header, ids, given)
    writer.commit(**fields, complete=header["complete"])


def _kept_metadata(index: Index, keys: Sequence[str], removed: set[str], skipped: set[str]) -> list[bool]:
    """Returns for each key of the metadata whether its row stays. The metadata of a scene go with its last person."""
    image_keys = pc.coalesce(index.table.column("scene"), index.table.column("path")).to_pylist()
    used = {key for key, path in zip(image_keys, index.paths, strict=True) if path not in removed}
    unused = set(image_keys) - used
    return [key not in unused and (key in used or printable_path(key) not in skipped) for key in keys]


__all__ = ["find_rows", "remove_images"]
