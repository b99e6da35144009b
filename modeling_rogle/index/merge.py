"""Merges indexes of different images into one, without encoding an image again.

Shards never change, so their arrays are linked into the merged index, not copied. Only the tables are written again:
ids must be unique in the merged index, and paths are relative to a folder that holds all indexed folders. A shard that
loses a row is written again.
"""

import contextlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from modeling_rogle.image_io import printable_path
from modeling_rogle.index.index_writer import IndexWriter, write_table
from modeling_rogle.index.manifest import COPIES_FOLDER, COPY_COLUMN, locked, new_id, new_name, upgraded, write_manifest
from modeling_rogle.index.shards import Index, Shard, read_parquet
from modeling_rogle.inference.errors import GalleryError

PREFERENCES = ("first", "last")
# Fields of the manifest that must be equal. The fingerprint of a model includes its image size and text length.
_EQUAL = (
    "dimension", "precision", "template_boxes", "template_labels", "detector", "detector_threshold", "files",
    "preprocessing", "encoder", "local_tokens",
)  # fmt: skip


@dataclass(frozen=True)
class MergeReport:
    """What a merge did.

    Attributes:
        path: the merged index.
        images: number of its images.
        duplicates: number of images that were dropped because another part holds their path.
    """

    path: Path
    images: int
    duplicates: int


def merge_indexes(parts: Sequence[str | Path], out: str | Path, prefer: str | None = None) -> MergeReport:
    """Merges indexes. The parts stay as they are; a merge that is killed leaves no index, and can be started again.

    The merged index has no vector store and no calibration: both depend on all images.

    Args:
        parts: two or more index folders, made by the same model with the same settings. The images keep this order.
        out: folder of the merged index, which must not exist.
        prefer: `first` or `last`, the part whose image is kept if several parts hold the same path. Default: a path in
            several parts is an error.

    Raises:
        FileNotFoundError: a part does not exist.
        GalleryError: `out` exists, a part is unfinished or damaged, the settings or the columns of metadata of two
            parts differ, or two parts hold the same path. Nothing is written then.
    """
    out = Path(out)
    if len(parts) < 2:
        raise GalleryError("merging needs at least two indexes")
    if prefer not in (None, *PREFERENCES):
        raise GalleryError(f"prefer must be {' or '.join(PREFERENCES)}, not {prefer!r}")
    if os.path.lexists(out):
        raise GalleryError(f"{out}: exists already; choose another folder")
    indexes = [Index(Path(part)) for part in parts]
    for index in indexes:
        _check(indexes[0], index)
    folder, prefixes = _common_folder(indexes)
    kept = _kept_rows(indexes, prefixes, prefer)
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.parent / f".{out.name}.merging"
    unfinished.mkdir(exist_ok=True)
    with locked(unfinished):
        for left in unfinished.iterdir():  # by a killed process
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        header = _write(indexes, prefixes, kept, folder, unfinished)
        os.rename(unfinished, out)
    return MergeReport(out, header["images"], sum(map(len, indexes)) - header["images"])


def _check(first: Index, index: Index) -> None:
    if not index.header["complete"]:
        raise GalleryError(f"{index.path}: an unfinished index; run `rogle index` again to finish it")
    models = [each.header["model"] for each in (first, index)]
    if models[0]["fingerprint"] != models[1]["fingerprint"]:
        raise GalleryError(f"{index.path}: made by another model ({models[1].get('path')}) than {first.path}")
    for name in _EQUAL:
        values = [each.header.get(name) for each in (first, index)]
        if values[0] != values[1]:
            text = [printable_path(str(value))[:60] for value in values]
            raise GalleryError(f"{index.path}: {name.replace('_', ' ')} {text[1]}, but {text[0]} in {first.path}")


def _common_folder(indexes: Sequence[Index]) -> tuple[str, list[str]]:
    """The folder that holds all indexed folders, and the prefix of each index's paths in it."""
    folders = [index.header["folder"] for index in indexes]
    if len(set(folders)) == 1:
        return folders[0], [""] * len(folders)
    if not indexes[0].header.get("files", True):
        raise GalleryError(f"{indexes[1].path}: of the data set {folders[1]}, but {indexes[0].path} is of {folders[0]}")
    common = os.path.commonpath(folders)
    relative = [os.path.relpath(folder, common).replace(os.sep, "/") for folder in folders]
    return common, ["" if path == "." else f"{path}/" for path in relative]


def _kept_rows(indexes: Sequence[Index], prefixes: Sequence[str], prefer: str | None) -> list[np.ndarray]:
    """Row numbers of each index that the merged index holds."""
    owner: dict[str, int] = {}
    for number, (index, prefix) in enumerate(zip(indexes, prefixes, strict=True)):
        for path in index.paths:
            path = prefix + path
            if path in owner and prefer is None:
                first = indexes[owner[path]].path
                name = printable_path(path)
                raise GalleryError(f"{index.path}: {name} is in {first} too; keep one with --prefer first or last")
            if path not in owner or prefer == "last":
                owner[path] = number
    return [
        np.flatnonzero(np.array([owner[prefix + path] == number for path in index.paths], dtype=bool))
        for number, (index, prefix) in enumerate(zip(indexes, prefixes, strict=True))
    ]


def _write(
    indexes: Sequence[Index], prefixes: Sequence[str], kept: Sequence[np.ndarray], folder: str, out: Path
) -> dict[str, Any]:
    """Writes the merged index and returns its manifest."""
    header = upgraded(indexes[0].header) | {
        "id": new_id(),
        "folder": folder,
        "collection": new_name("rogle").replace("-", "_"),
        "store": None,
        "text_encoder": None,
        "metadata": None,
        "skipped": [],
        "ignored": sum(index.header.get("ignored") or 0 for index in indexes),
    }
    writer, shards, next_id, metadata = IndexWriter(out, header), [], 0, []
    for index, prefix, rows in zip(indexes, prefixes, kept, strict=True):
        for shard, start in zip(index.shards, index.starts, strict=False):
            part = rows[(rows >= start) & (rows < start + shard.rows)] - start
            if len(part):
                shards.append(_merged_shard(writer, shard, part, prefix, next_id))
                next_id += len(part)
        _link_copies(index, rows, out)
        if index.header.get("metadata"):
            metadata.append(_kept_metadata(index, prefix, rows))
        header["skipped"] += [{**entry, "path": prefix + entry["path"]} for entry in index.header["skipped"]]
    if metadata:
        header["metadata"] = new_name("metadata", ".parquet")
        write_table(_joined(metadata, indexes), out / header["metadata"])
    header |= {"shards": shards, "images": next_id, "next_id": next_id}
    write_manifest(out, header)
    return header


def _merged_shard(writer: IndexWriter, shard: Shard, rows: np.ndarray, prefix: str, next_id: int) -> dict[str, Any]:
    """Writes a shard with new ids and paths, and returns its entry of the manifest. All rows: its arrays are linked."""
    if len(rows) == shard.rows:
        name = new_name("shard")
        (writer.path / name).mkdir()
        for file in shard.path.iterdir():
            if file.name != "images.parquet":
                _link(file, writer.path / name / file.name)
    else:
        name = writer.write_shard(shard.parts(rows))["name"]
    table = shard.table.take(pa.array(rows))
    ids = pa.array(np.arange(next_id, next_id + len(rows)))
    table = table.set_column(table.schema.get_field_index("id"), table.schema.field("id"), ids)
    table = _prefixed(table, ("path", "scene"), prefix)
    (writer.path / name / "images.parquet").unlink(missing_ok=True)
    write_table(table, writer.path / name / "images.parquet")
    return {"name": name, "rows": len(rows)}


def _prefixed(table: pa.Table, columns: Sequence[str], prefix: str) -> pa.Table:
    for name in columns if prefix else ():
        values = pc.binary_join_element_wise(pa.scalar(prefix), table.column(name), "")
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), values)
    return table


def _link(file: Path, target: Path) -> None:
    """Links a file, or copies it where the target is on another file system."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)


def _link_copies(index: Index, rows: np.ndarray, out: Path) -> None:
    names = index.table.column(COPY_COLUMN).take(pa.array(rows)).drop_null().to_pylist()
    if names:
        (out / COPIES_FOLDER).mkdir(exist_ok=True)
    for name in names:
        with contextlib.suppress(FileExistsError):
            _link(index.path / COPIES_FOLDER / name, out / COPIES_FOLDER / name)


def _kept_metadata(index: Index, prefix: str, rows: np.ndarray) -> pa.Table:
    table = index.table.take(pa.array(rows))
    keys = pc.coalesce(table.column("scene"), table.column("path"))
    metadata = read_parquet(index.path / index.header["metadata"])
    return _prefixed(metadata.filter(pc.is_in(metadata.column("path"), value_set=keys)), ("path",), prefix)


def _joined(tables: Sequence[pa.Table], indexes: Sequence[Index]) -> pa.Table:
    """One table of metadata. Of a scene whose persons come from several parts, the first row stays."""
    try:
        table = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    except pa.ArrowException as error:
        names = ", ".join(str(index.path) for index in indexes if index.header.get("metadata"))
        raise GalleryError(f"{names}: metadata do not fit together ({str(error).splitlines()[0]})") from error
    first = np.unique(np.array(table.column("path").to_pylist(), dtype=object), return_index=True)[1]
    return table.take(pa.array(np.sort(first)))


__all__ = ["PREFERENCES", "MergeReport", "merge_indexes"]
