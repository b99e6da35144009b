"""The index on disk: immutable shards of rows, and a manifest that says which of them count.

    index.json                   format, model, indexed folder, shards in order (manifest.py)
    shard-<hex>/
        images.parquet           SCHEMA below: a row an image
        global.npy               [n, D] unit vectors, float32, or bfloat16 as uint16
        regions.npy              [n, T, D] int8, T template regions an image, at most 16
        region_scales.npy        [n, T] float32: an int8 row times its scale has unit length
    metadata-<hex>.parquet       the user's columns (camera, time, ...) by `path`
    images/                    copies of images that are no file of their own: crops of scenes, rows of a data set

Nothing that a manifest names is ever changed: a writer makes new shards, replaces the manifest in one step and then
removes what it no longer names. So whoever reads has one state of the index, killed writers lose at most what they had
not committed, and small shards melt into larger ones as they pile up.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from modeling_rogle.index.manifest import (
    COPIES_FOLDER,
    COPY_COLUMN,
    MANIFEST,
    new_name,
    read_manifest,
    remove_unreferenced,
    write_manifest,
)
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.late_interaction import dequantize_regions, quantize_regions, region_cosines

MAX_REGIONS = 16
MAX_SHARD = 65_536  # images; at width 512 with 11 regions 500 MB, what deleting one image rewrites at most
SMALL_SHARD = 4_096
FAN_IN = 16  # so many shards of one size become one
SCHEMA = pa.schema(
    [
        ("id", pa.int64()),  # never given twice in an index
        ("path", pa.string()),  # relative to the indexed folder; `scene#n` for the nth person of a scene; or image_id
        ("sha256", pa.string()),  # of the file
        ("width", pa.int32()),  # pixels of the upright image, or of the crop
        ("height", pa.int32()),
        ("bytes", pa.int64()),
        ("mtime", pa.timestamp("us", tz="UTC")),
        ("scene", pa.string()),  # the full image that a detector found this person in
        ("box", pa.list_(pa.float32(), 4)),  # x, y, w, h in pixels of the scene
        (COPY_COLUMN, pa.string()),  # <32 hex>.jpg in pictures/, null where the image is a file of the folder
    ]
)
_IMAGE = r"\A[0-9a-f]{32}\.jpg\z"  # these names are joined to images/ and removed: never a path
_ROWS_AT_ONCE = 4096


def as_stored(embeds: np.ndarray, precision: str) -> np.ndarray:
    """float32 `[n, D]` -> what global.npy holds: the same, or the bits of bfloat16 as uint16."""
    embeds = np.ascontiguousarray(embeds, dtype=np.float32)
    if precision == "float32":
        return embeds
    bits = embeds.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)  # rounded to nearest, ties to even


def as_float(stored: np.ndarray) -> np.ndarray:
    """The inverse of [`as_stored`], by the type of the array."""
    if stored.dtype == np.float32:
        return stored
    return (stored.astype(np.uint32) << 16).view(np.float32)  # a bfloat16 is the upper half of a float32


class _RowFile:
    """An .npy file that grows by rows and need not fit into memory; its header gets the count at the end."""

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
        self.file.seek(0)
        self._write_header()
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()


class Shard:
    """One shard, opened: table of n rows, and memory-mapped global_embeds `[n, D]` as stored, regions `[n, T, D]`
    int8, scales `[n, T]`.

    Raises:
        GalleryError: a file is missing, damaged, of another shape than the manifest says, or names an image that no
            index has; it is named.
    """

    def __init__(self, path: Path, rows: int, dimension: int, regions: int, precision: str):
        self.path, self.rows = path, rows
        kind = np.float32 if precision == "float32" else np.uint16
        self.global_embeds = _mapped(path / "global.npy", kind, (rows, dimension))
        self.regions = _mapped(path / "regions.npy", np.int8, (rows, regions, dimension))
        self.scales = _mapped(path / "region_scales.npy", np.float32, (rows, regions))
        self.table = read_parquet(path / "images.parquet", SCHEMA)
        if len(self.table) != rows:
            raise GalleryError(
                f"{path / 'images.parquet'}: {len(self.table)} rows, {MANIFEST} says {rows}; build the index again"
            )
        images = self.table.column(COPY_COLUMN).drop_null()
        foreign = images.filter(pc.invert(pc.match_substring_regex(images, _IMAGE)))
        if len(foreign):
            name = foreign[0].as_py()[:80]
            raise GalleryError(f"{path / 'images.parquet'}: field 'picture' holds {name!r}, no image of an index")

    def parts(self, kept: np.ndarray | None = None) -> Iterator[tuple[pa.Table, np.ndarray, np.ndarray, np.ndarray]]:
        """Table, global, regions and scales of the rows `kept` (all by default), some thousands at a time."""
        for start in range(0, self.rows if kept is None else len(kept), _ROWS_AT_ONCE):
            part: Any = slice(start, start + _ROWS_AT_ONCE)
            table = self.table[part]
            if kept is not None:
                part = kept[part]
                table = self.table.take(pa.array(part))
            yield table, self.global_embeds[part], self.regions[part], self.scales[part]


def _mapped(file: Path, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.load(file, mmap_mode="r" if shape[0] else None, allow_pickle=False)  # mmap refuses an empty array
    except (OSError, ValueError, EOFError) as error:
        raise GalleryError(f"{file}: missing or damaged; build the index again") from error
    if array.dtype != dtype or array.shape != shape:
        raise GalleryError(f"{file}: {array.dtype}{list(array.shape)}, {MANIFEST} says {np.dtype(dtype)}{list(shape)}")
    return array


def read_parquet(file: Path, schema: pa.Schema | None = None) -> pa.Table:
    """A table. Raises GalleryError, naming the file, if it is missing, damaged or of another schema."""
    try:
        return pq.read_table(file, schema=schema)
    except (OSError, pa.ArrowException) as error:
        raise GalleryError(f"{file}: missing or damaged; build the index again") from error


class Index:
    """One state of an index, opened for reading; N rows in the order of its shards.

    table: SCHEMA and the user's columns; paths: N strings; ids `[N]` int64; sizes `[N, 2]` width and height in pixels;
    boxes `[T, 4]` in [0, 1].

    Raises:
        FileNotFoundError: no such folder.
        GalleryError: not an index, of another version, or incomplete; the file is named.
    """

    def __init__(self, path: Path, name: str = MANIFEST):
        self.path = path
        for attempt in range(20):
            self.header = read_manifest(path, name)
            try:
                self._open()
                break
            except GalleryError:
                # Perhaps a writer replaced the manifest since, and removed what the old one named.
                if attempt == 19 or read_manifest(path, name) == self.header:
                    raise

    def _open(self) -> None:
        header = self.header
        self.boxes = np.array(header["template_boxes"], dtype=np.float32).reshape(-1, 4)
        self.shards = [
            Shard(self.path / shard["name"], shard["rows"], header["dimension"], len(self.boxes), header["precision"])
            for shard in header["shards"]
        ]
        self.starts = np.cumsum([0, *(shard.rows for shard in self.shards)])
        facts = pa.concat_tables([SCHEMA.empty_table(), *(shard.table for shard in self.shards)])
        self.paths: list[str] = facts.column("path").to_pylist()
        self.ids = facts.column("id").to_numpy()
        self.sizes = np.stack([facts.column(name).to_numpy() for name in ("width", "height")], axis=1)
        self.table = self._with_metadata(facts)

    def _with_metadata(self, facts: pa.Table) -> pa.Table:
        if self.header.get("metadata") is None:
            return facts
        found = read_parquet(self.path / self.header["metadata"])
        # The persons of a scene share what is known of the scene.
        key = pc.coalesce(facts.column("scene"), facts.column("path"))
        rows = pc.index_in(key, value_set=found.column("path"))
        for name in found.column_names:
            if name not in SCHEMA.names:
                facts = facts.append_column(name, found.column(name).take(rows))
        return facts

    def __len__(self) -> int:
        return len(self.paths)

    def _by_shard(self, rows: np.ndarray) -> Iterator[tuple[Shard, np.ndarray, np.ndarray]]:
        owner = np.searchsorted(self.starts, rows, side="right") - 1
        for number in np.unique(owner):
            places = np.flatnonzero(owner == number)
            yield self.shards[number], places, rows[places] - self.starts[number]

    def global_rows(self, rows: np.ndarray | None = None) -> np.ndarray:
        """float32 `[n, D]`, the global embeddings of some rows or of all, in memory."""
        rows = np.arange(len(self)) if rows is None else np.asarray(rows, dtype=np.int64)
        found = np.empty((len(rows), self.header["dimension"]), dtype=np.float32)
        for shard, places, local in self._by_shard(rows):
            found[places] = as_float(shard.global_embeds[local])
        return found

    def region_rows(self, rows: np.ndarray) -> np.ndarray:
        """float32 `[n, T, D]`, the regions of some rows as unit vectors."""
        rows = np.asarray(rows, dtype=np.int64)
        found = np.empty((len(rows), len(self.boxes), self.header["dimension"]), dtype=np.float32)
        for shard, places, local in self._by_shard(rows):
            found[places] = dequantize_regions(shard.regions[local], shard.scales[local])
        return found

    def region_cosines(self, rows: np.ndarray, embeds: np.ndarray) -> np.ndarray:
        """float32 `[n, S, T]`, the cosines of `[S, D]` unit vectors with the regions of some rows."""
        rows = np.asarray(rows, dtype=np.int64)
        found = np.empty((len(rows), len(embeds), len(self.boxes)), dtype=np.float32)
        for shard, places, local in self._by_shard(rows):
            found[places] = region_cosines(shard.regions[local], shard.scales[local], embeds)
        return found


class IndexWriter:
    """Adds and removes rows of one manifest; [`IndexWriter.commit`] makes them the index. The caller holds the lock.

    Args:
        path: the index folder, which exists.
        header: the manifest to go on from; `shards`, `images` and `next_id` are kept here.
        name: file name of the manifest that is written.

    Raises:
        GalleryError: the folder of images is a link, and what is removed there would be somebody's.
    """

    def __init__(self, path: Path, header: dict[str, Any], name: str = MANIFEST):
        if (path / COPIES_FOLDER).is_symlink():
            raise GalleryError(f"{path / COPIES_FOLDER}: a symbolic link, no folder of an index")
        self.path, self.header, self.name = path, dict(header), name
        self.pending: list[tuple[pa.Table, np.ndarray, np.ndarray, np.ndarray]] = []
        self.removed: set[int] = set()
        self.orphans: list[str] = []  # images of rows removed, to go once no manifest tells of them

    @property
    def pending_rows(self) -> int:
        return sum(len(part[0]) for part in self.pending)

    def add(self, rows: Sequence[dict[str, Any]], images: np.ndarray, regions: np.ndarray) -> None:
        """Takes n images: facts without `id`, `[n, D]` and `[n, T, D]` float32 unit vectors."""
        first = self.header["next_id"]
        self.header["next_id"] += len(rows)
        table = pa.Table.from_pylist([{**row, "id": first + n} for n, row in enumerate(rows)], schema=SCHEMA)
        self.pending.append((table, as_stored(images, self.header["precision"]), *quantize_regions(regions)))

    def remove(self, ids: Iterable[int]) -> None:
        """Takes rows out with the next commit."""
        self.removed.update(int(number) for number in ids)

    def commit(self, **fields: Any) -> None:
        """Writes what was added, without what was removed, and the manifest with `fields` changed in it."""
        shards = list(self.header["shards"])
        if self.removed:
            shards = [kept for shard in shards if (kept := self._without_removed(shard)) is not None]
        if self.pending:
            shards.append(self._write(iter(self.pending)))
        done = fields.get("complete", False)
        if done:
            shards = self._melted(shards, MAX_SHARD, 2)
        else:
            for size in (SMALL_SHARD, MAX_SHARD):
                shards = self._melted(shards, size, FAN_IN)
        self.header |= {**fields, "shards": shards, "images": sum(shard["rows"] for shard in shards)}
        write_manifest(self.path, self.header, self.name)
        remove_unreferenced(self.path)
        for image in self.orphans:
            (self.path / COPIES_FOLDER / image).unlink(missing_ok=True)
        self.pending, self.removed, self.orphans = [], set(), []

    def _open(self, shard: dict[str, Any]) -> Shard:
        header = self.header
        regions = len(header["template_boxes"])
        return Shard(self.path / shard["name"], shard["rows"], header["dimension"], regions, header["precision"])

    def _without_removed(self, shard: dict[str, Any]) -> dict[str, Any] | None:
        opened = self._open(shard)
        gone = np.isin(opened.table.column("id").to_numpy(), list(self.removed))
        if not gone.any():
            return shard
        self.orphans += opened.table.column(COPY_COLUMN).filter(pa.array(gone)).drop_null().to_pylist()
        return None if gone.all() else self._write(opened.parts(np.flatnonzero(~gone)))

    def _melted(self, shards: list[dict[str, Any]], below: int, count: int) -> list[dict[str, Any]]:
        """Joins the last shards under `below` rows, if there are `count` of them, into ones of at most MAX_SHARD."""
        small = len(shards)
        while small and shards[small - 1]["rows"] < below:
            small -= 1
        if len(shards) - small < count:
            return shards
        joined, group = shards[:small], []
        for shard in [*shards[small:], None]:
            if shard is None or sum(part["rows"] for part in group) + shard["rows"] > MAX_SHARD:
                rows = (part for member in group for part in self._open(member).parts())
                joined.append(group[0] if len(group) == 1 else self._write(rows))
                group = []
            group.append(shard)
        return joined

    def _write(self, parts: Iterable[tuple[pa.Table, np.ndarray, np.ndarray, np.ndarray]]) -> dict[str, Any]:
        header, name = self.header, new_name("shard")
        data, regions = self.path / name, len(header["template_boxes"])
        data.mkdir()
        kind = np.float32 if header["precision"] == "float32" else np.uint16
        files = (
            _RowFile(data / "global.npy", kind, (header["dimension"],)),
            _RowFile(data / "regions.npy", np.int8, (regions, header["dimension"])),
            _RowFile(data / "region_scales.npy", np.float32, (regions,)),
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
        write_table(table, data / "images.parquet")
        return {"name": name, "rows": len(table)}


def write_table(table: pa.Table, file: Path) -> None:
    """Parquet, on the disk when this returns."""
    with open(file, "wb") as sink:
        pq.write_table(table, sink)
        sink.flush()
        os.fsync(sink.fileno())


__all__ = [
    "MAX_REGIONS",
    "SCHEMA",
    "Index",
    "IndexWriter",
    "Shard",
    "as_float",
    "as_stored",
    "read_parquet",
    "write_table",
]
