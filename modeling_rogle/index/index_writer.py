"""Writes an index: adds rows in new shards, removes rows, merges small shards, and publishes all of it at once."""

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from modeling_rogle.index.manifest import (
    COPIES_FOLDER,
    COPY_COLUMN,
    MANIFEST,
    new_name,
    remove_unreferenced,
    upgraded,
    write_manifest,
)
from modeling_rogle.index.shards import SCHEMA, Rows, Shard, as_stored, global_dtype
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.late_interaction import quantize_regions

MAX_SHARD = 65_536  # images; 500 MB at width 512 with 11 regions. Deleting one image rewrites one shard.
SMALL_SHARD = 4_096  # images
FAN_IN = 16  # number of shards of similar size that are merged into one


class IndexWriter:
    """Adds and removes rows; [`IndexWriter.commit`] publishes them. The caller holds the lock of the index.

    Args:
        path: the index folder, which must exist.
        header: the manifest to start from. Its fields `shards`, `images` and `next_id` are maintained here, and the
            first commit writes it in the current format.
        name: file name of the manifest that is written.

    Raises:
        GalleryError: the folder of copies is a symbolic link, so that removing a copy could remove a file elsewhere.
    """

    def __init__(self, path: Path, header: dict[str, Any], name: str = MANIFEST):
        if (path / COPIES_FOLDER).is_symlink():
            raise GalleryError(f"{path / COPIES_FOLDER}: is a symbolic link, not a folder of an index")
        self.path, self.header, self.name = path, upgraded(header), name
        self.pending: list[Rows] = []
        self.removed: set[int] = set()
        self._opened: dict[str, tuple[np.ndarray, tuple[np.ndarray, ...]]] = {}  # ids and embeddings of a shard
        self.orphans: list[str] = []  # copies of removed rows, deleted once no manifest refers to them

    @property
    def pending_rows(self) -> int:
        """Number of added rows that are not committed yet."""
        return sum(len(part[0]) for part in self.pending)

    def add(
        self,
        rows: Sequence[dict[str, Any]],
        images: np.ndarray,
        regions: np.ndarray,
        copy_of: Mapping[int, int] | None = None,
    ) -> None:
        """Adds images with the next commit.

        Args:
            rows: n rows with the columns of SCHEMA, without `id`; missing columns are null.
            images: float32 `[m, D]` unit vectors of the m rows that are not in `copy_of`, in order.
            regions: float32 `[m, T, D]` unit vectors of the same rows.
            copy_of: position in `rows` -> id of an earlier row whose stored embeddings this row shares. Default: none.
        """
        copy_of = copy_of or {}
        first = self.header["next_id"]
        self.header["next_id"] += len(rows)
        table = pa.Table.from_pylist([{**row, "id": first + n} for n, row in enumerate(rows)], schema=SCHEMA)
        stored = (as_stored(images, self.header["precision"]), *quantize_regions(regions))
        if copy_of:
            encoded = [n for n in range(len(rows)) if n not in copy_of]
            parts = [np.empty((len(rows), *part.shape[1:]), part.dtype) for part in stored]
            for part, values in zip(parts, stored, strict=True):
                part[encoded] = values
            for n, number in sorted(copy_of.items()):
                earlier = [part[number - first] for part in parts] if number >= first else self._stored(number)
                for part, values in zip(parts, earlier, strict=True):
                    part[n] = values
            stored = (parts[0], parts[1], parts[2])
        self.pending.append((table, *stored))

    def ids_by_file(self) -> dict[tuple, int]:
        """SHA-256 of the file of a committed row, and in a scene the numbers of its box -> the lowest such id."""
        ids: dict[tuple, int] = {}
        for entry in self.header["shards"]:
            table = Shard.open(self.path, self.header, entry).table.select(["id", "sha256", "box"])
            for row in table.to_pylist():
                ids.setdefault((row["sha256"], *(row["box"] or ())), row["id"])
        return ids

    def _stored(self, number: int) -> Sequence[np.ndarray]:
        """The stored embedding, regions and scales of the row with an id."""
        for table, *arrays in reversed(self.pending):
            start = table["id"][0].as_py()
            if start <= number < start + len(table):
                return [array[number - start] for array in arrays]
        for entry in self.header["shards"]:
            if entry["name"] not in self._opened:
                shard = Shard.open(self.path, self.header, entry)
                arrays = (shard.global_embeds, shard.regions, shard.scales)
                self._opened[entry["name"]] = shard.table["id"].to_numpy(), arrays
            ids, arrays = self._opened[entry["name"]]
            position = int(np.searchsorted(ids, number))
            if position < len(ids) and ids[position] == number:
                return [array[position] for array in arrays]
        raise KeyError(number)

    def remove(self, ids: Iterable[int]) -> None:
        """Removes rows with the next commit."""
        self.removed.update(int(number) for number in ids)

    def commit(self, **fields: Any) -> None:
        """Writes the added rows, drops the removed ones and replaces the manifest.

        Args:
            fields: fields of the manifest to change. `complete=True` also merges all small shards.
        """
        shards = list(self.header["shards"])
        if self.removed:
            shards = [kept for shard in shards if (kept := self._without_removed(shard)) is not None]
        if self.pending:
            shards.append(self.write_shard(iter(self.pending)))
        if fields.get("complete", False):
            shards = self._merged(shards, MAX_SHARD, 2)
        else:
            for size in (SMALL_SHARD, MAX_SHARD):
                shards = self._merged(shards, size, FAN_IN)
        self.header |= {**fields, "shards": shards, "images": sum(shard["rows"] for shard in shards)}
        write_manifest(self.path, self.header, self.name)
        remove_unreferenced(self.path)
        for copy in self.orphans:
            (self.path / COPIES_FOLDER / copy).unlink(missing_ok=True)
        self.pending, self.removed, self.orphans = [], set(), []
        self._opened = {name: self._opened[name] for name in self._opened.keys() & {entry["name"] for entry in shards}}

    def _without_removed(self, entry: dict[str, Any]) -> dict[str, Any] | None:
        """Returns the entry of a shard without the removed rows; None if no row is left."""
        shard = Shard.open(self.path, self.header, entry)
        removed = np.isin(shard.table.column("id").to_numpy(), list(self.removed))
        if not removed.any():
            return entry
        self.orphans += shard.table.column(COPY_COLUMN).filter(pa.array(removed)).drop_null().to_pylist()
        return None if removed.all() else self.write_shard(shard.parts(np.flatnonzero(~removed)))

    def _merged(self, shards: list[dict[str, Any]], max_rows: int, min_count: int) -> list[dict[str, Any]]:
        """Merges the last shards with fewer than `max_rows` rows, if there are at least `min_count` of them.

        A merged shard has at most MAX_SHARD rows. The order of the rows does not change.
        """
        first = len(shards)
        while first and shards[first - 1]["rows"] < max_rows:
            first -= 1
        if len(shards) - first < min_count:
            return shards
        merged = shards[:first]
        group: list[dict[str, Any]] = []
        for entry in shards[first:]:
            if sum(member["rows"] for member in group) + entry["rows"] > MAX_SHARD:
                merged.append(self._joined(group))
                group = []
            group.append(entry)
        return [*merged, self._joined(group)]

    def _joined(self, entries: list[dict[str, Any]]) -> dict[str, Any]:
        """Writes the rows of several shards into one and returns its entry; a single shard stays as it is."""
        if len(entries) == 1:
            return entries[0]
        shards = (Shard.open(self.path, self.header, entry) for entry in entries)
        return self.write_shard(part for shard in shards for part in shard.parts())

    def write_shard(self, parts: Iterable[Rows]) -> dict[str, Any]:
        """Writes a shard, which no manifest names yet, and returns its entry of the manifest."""
        header, name = self.header, new_name("shard")
        folder, regions = self.path / name, len(header["template_boxes"])
        folder.mkdir()
        files = (
            _RowFile(folder / "global.npy", global_dtype(header["precision"]), (header["dimension"],)),
            _RowFile(folder / "regions.npy", np.int8, (regions, header["dimension"])),
            _RowFile(folder / "region_scales.npy", np.float32, (regions,)),
        )
        tables = []
        with contextlib.ExitStack() as stack:
            for file in files:
                stack.callback(file.close)
            for table, *arrays in parts:
                tables.append(table)
                for file, rows in zip(files, arrays, strict=True):
                    file.append(rows)
        table = pa.concat_tables(tables)
        write_table(table, folder / "images.parquet")
        return {"name": name, "rows": len(table)}


class _RowFile:
    """An .npy file that grows by rows, so that the array need not fit into memory."""

    def __init__(self, path: Path, dtype: Any, row_shape: tuple[int, ...]):
        self.dtype, self.row_shape, self.rows = np.dtype(dtype), row_shape, 0
        self.file = open(path, "wb")
        self._write_header()

    def _write_header(self) -> None:
        # numpy pads this header so that the first axis can grow in place.
        shape = (self.rows, *self.row_shape)
        fields = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.file, fields)

    def append(self, rows: np.ndarray) -> None:
        if rows.shape[1:] != self.row_shape:
            raise ValueError(f"{self.file.name}: rows of shape {rows.shape[1:]}, the file holds {self.row_shape}")
        self.file.write(np.ascontiguousarray(rows, dtype=self.dtype).data)
        self.rows += len(rows)

    def close(self) -> None:
        """Writes the final number of rows into the header and flushes the file to the disk."""
        self.file.seek(0)
        self._write_header()
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()


def write_table(table: pa.Table, file: Path) -> None:
    """Writes a Parquet file, which is on the disk when this returns."""
    with open(file, "wb") as sink:
        pq.write_table(table, sink)
        sink.flush()
        os.fsync(sink.fileno())


__all__ = ["MAX_SHARD", "SMALL_SHARD", "IndexWriter", "write_table"]
