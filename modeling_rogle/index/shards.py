"""The index on disk: immutable shards of rows, and a manifest that names the shards in use.

    index.json                   manifest: format, model, indexed folder, shards in order (see manifest.py)
    shard-<hex>/
        images.parquet           one row per image, with the columns of SCHEMA
        global.npy               [n, D] unit vectors, float32, or bfloat16 as uint16
        regions.npy              [n, T, D] int8, T <= 16 template regions per image
        region_scales.npy        [n, T] float32; an int8 row times its scale has unit length
    metadata-<hex>.parquet       the user's columns (camera, time, ...) by `path`
    pictures/                    copies of images that are not files: crops of scenes, rows of a data set

Files that a manifest names never change. A writer adds new shards, replaces the manifest atomically, and then removes
what the manifest no longer names. A reader therefore always sees one consistent state, and a killed writer loses only
what it had not committed. Small shards are merged as their number grows.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from modeling_rogle.index.manifest import COPY_COLUMN, MANIFEST, read_manifest
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.inference.untrusted import check_parquet
from modeling_rogle.late_interaction import dequantize_regions, region_cosines

MAX_REGIONS = 16
SCHEMA = pa.schema(
    [
        ("id", pa.int64()),  # unique in the index, never reused
        ("path", pa.string()),  # relative to the indexed folder; `scene#n` for the nth person of a scene; or image_id
        ("sha256", pa.string()),  # of the file
        ("width", pa.int32()),  # pixels of the upright image, or of the crop
        ("height", pa.int32()),
        ("bytes", pa.int64()),
        ("mtime", pa.timestamp("us", tz="UTC")),
        ("scene", pa.string()),  # the full image in which a detector found this person
        ("box", pa.list_(pa.float32(), 4)),  # x, y, w, h in pixels of the scene
        (COPY_COLUMN, pa.string()),  # <32 hex>.jpg in COPIES_FOLDER, null where the image is a file of the folder
    ]
)
# Names of copies are joined to COPIES_FOLDER and their files are removed, so a path must never pass as a name.
_COPY_NAME = r"\A[0-9a-f]{32}\.jpg\z"
_BLOCK_ROWS = 4096
# Some rows of a shard: images.parquet, global.npy, regions.npy, region_scales.npy.
Rows = tuple[pa.Table, np.ndarray, np.ndarray, np.ndarray]


def as_stored(embeds: np.ndarray, precision: str) -> np.ndarray:
    """Converts float32 `[n, D]` to the contents of global.npy: unchanged, or the bits of bfloat16 as uint16."""
    embeds = np.ascontiguousarray(embeds, dtype=np.float32)
    if precision == "float32":
        return embeds
    bits = embeds.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)  # rounded to nearest, ties to even


def as_float(stored: np.ndarray) -> np.ndarray:
    """Converts the contents of global.npy to float32; the inverse of [`as_stored`]."""
    if stored.dtype == np.float32:
        return stored
    return (stored.astype(np.uint32) << 16).view(np.float32)  # a bfloat16 is the upper half of a float32


def global_dtype(precision: str) -> type:
    """Returns the NumPy type of global.npy."""
    return np.float32 if precision == "float32" else np.uint16


class Shard:
    """One shard, opened for reading.

    Args:
        path: the folder of the shard.
        rows: number of rows n, as the manifest states it.
        dimension: length D of an embedding.
        regions: number of regions T of an image.
        precision: `float32` or `bfloat16`, of the global embeddings.

    Attributes:
        table: the n rows of images.parquet.
        global_embeds: `[n, D]`, memory-mapped, as stored; see [`as_float`].
        regions: `[n, T, D]` int8, memory-mapped.
        scales: `[n, T]` float32, memory-mapped.

    Raises:
        GalleryError: a file is missing, damaged or does not match the manifest, or holds an invalid name of a copy.
    """

    def __init__(self, path: Path, rows: int, dimension: int, regions: int, precision: str):
        self.path, self.rows = path, rows
        self.global_embeds = _mapped(path / "global.npy", global_dtype(precision), (rows, dimension))
        self.regions = _mapped(path / "regions.npy", np.int8, (rows, regions, dimension))
        self.scales = _mapped(path / "region_scales.npy", np.float32, (rows, regions))
        file = path / "images.parquet"
        self.table = read_parquet(file, SCHEMA)
        if len(self.table) != rows:
            raise GalleryError(f"{file}: {len(self.table)} rows, {MANIFEST} expects {rows}; build the index again")
        copies = self.table.column(COPY_COLUMN).drop_null()
        invalid = copies.filter(pc.invert(pc.match_substring_regex(copies, _COPY_NAME)))
        if len(invalid):
            name = invalid[0].as_py()[:80]
            raise GalleryError(f"{file}: field {COPY_COLUMN!r} holds {name!r}, which is not the name of a copy")

    @classmethod
    def open(cls, path: Path, header: dict[str, Any], entry: dict[str, Any]) -> "Shard":
        """Opens the shard of an entry of the manifest's `shards`.

        Args:
            path: the index folder.
            header: the manifest.
            entry: the entry, with `name` and `rows`.
        """
        regions = len(header["template_boxes"])
        return cls(path / entry["name"], entry["rows"], header["dimension"], regions, header["precision"])

    def parts(self, rows: np.ndarray | None = None) -> Iterator[Rows]:
        """Yields the rows in blocks of `_BLOCK_ROWS`: table, global embeddings as stored, regions, scales.

        Args:
            rows: row numbers `[n]`; all rows by default.
        """
        for start in range(0, self.rows if rows is None else len(rows), _BLOCK_ROWS):
            part: Any = slice(start, start + _BLOCK_ROWS)
            if rows is None:
                table = self.table.slice(start, _BLOCK_ROWS)
            else:
                part = rows[part]
                table = self.table.take(pa.array(part))
            yield table, self.global_embeds[part], self.regions[part], self.scales[part]


def _mapped(file: Path, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    try:
        # Mapped, so that the shape in the file costs no memory. An empty array cannot be mapped, so it is not read.
        array = np.load(file, mmap_mode="r", allow_pickle=False) if shape[0] else np.zeros(shape, dtype)
    except (OSError, ValueError, EOFError, OverflowError, TypeError) as error:
        raise GalleryError(f"{file}: missing or damaged; build the index again") from error
    if array.dtype != dtype or array.shape != shape:
        expected = f"{np.dtype(dtype)}{list(shape)}"
        raise GalleryError(f"{file}: {array.dtype}{list(array.shape)}, {MANIFEST} expects {expected}")
    return array


def read_parquet(file: Path, schema: pa.Schema | None = None) -> pa.Table:
    """Reads a Parquet file of an index.

    Raises:
        GalleryError: the file is missing, damaged or has another schema.
    """
    try:
        check_parquet(file)
        return pq.read_table(file, schema=schema)
    except ValueError as error:
        if not isinstance(error, pa.ArrowException):
            raise GalleryError(f"{file}: {error}") from error
        raise GalleryError(f"{file}: missing or damaged; build the index again") from error
    except (OSError, pa.ArrowException) as error:
        raise GalleryError(f"{file}: missing or damaged; build the index again") from error


class Index:
    """One state of an index, opened for reading; it has N rows in the order of its shards.

    Args:
        path: the index folder.
        name: file name of the manifest.

    Attributes:
        header: the manifest.
        shards: the opened shards.
        starts: `[S + 1]` int64, the first row of each shard, then N.
        table: the columns of SCHEMA, then the user's columns.
        paths: N strings.
        ids: `[N]` int64, ascending.
        boxes: `[T, 4]` float32 x0, y0, x1, y1 in [0, 1], the template regions.

    Raises:
        FileNotFoundError: the folder does not exist.
        GalleryError: the folder is not an index, has another format version, or a file of it is missing or damaged.
    """

    def __init__(self, path: Path, name: str = MANIFEST):
        self.path = path
        for attempt in range(20):
            self.header = read_manifest(path, name)
            try:
                self._open()
                break
            except GalleryError:
                # A writer may have replaced the manifest meanwhile and removed what the old one named.
                if attempt == 19 or read_manifest(path, name) == self.header:
                    raise

    def _open(self) -> None:
        self.boxes = np.array(self.header["template_boxes"], dtype=np.float32).reshape(-1, 4)
        self.shards = [Shard.open(self.path, self.header, entry) for entry in self.header["shards"]]
        self.starts = np.cumsum([0, *(shard.rows for shard in self.shards)])
        table = pa.concat_tables([SCHEMA.empty_table(), *(shard.table for shard in self.shards)])
        self.paths: list[str] = table.column("path").to_pylist()
        self.ids = table.column("id").to_numpy()
        self.table = self._with_metadata(table)

    def _with_metadata(self, table: pa.Table) -> pa.Table:
        if self.header.get("metadata") is None:
            return table
        metadata = read_parquet(self.path / self.header["metadata"])
        # All persons of a scene have the scene's metadata.
        keys = pc.coalesce(table.column("scene"), table.column("path"))
        rows = pc.index_in(keys, value_set=metadata.column("path"))
        for name in metadata.column_names:
            if name not in SCHEMA.names:
                table = table.append_column(name, metadata.column(name).take(rows))
        return table

    def __len__(self) -> int:
        return len(self.paths)

    def _by_shard(self, rows: np.ndarray) -> Iterator[tuple[Shard, np.ndarray, np.ndarray]]:
        """Yields for each shard that holds some of the rows: the shard, their positions in `rows`, its row numbers."""
        owner = np.searchsorted(self.starts, rows, side="right") - 1
        for number in np.unique(owner):
            positions = np.flatnonzero(owner == number)
            yield self.shards[number], positions, rows[positions] - self.starts[number]

    def global_rows(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Reads global embeddings into memory.

        Args:
            rows: row numbers `[n]`; all rows by default.

        Returns:
            float32 `[n, D]` unit vectors.
        """
        rows = np.arange(len(self)) if rows is None else np.asarray(rows, dtype=np.int64)
        embeds = np.empty((len(rows), self.header["dimension"]), dtype=np.float32)
        for shard, positions, local_rows in self._by_shard(rows):
            embeds[positions] = as_float(shard.global_embeds[local_rows])
        return embeds

    def region_rows(self, rows: np.ndarray) -> np.ndarray:
        """Reads region embeddings into memory.

        Args:
            rows: row numbers `[n]`.

        Returns:
            float32 `[n, T, D]` unit vectors.
        """
        rows = np.asarray(rows, dtype=np.int64)
        embeds = np.empty((len(rows), len(self.boxes), self.header["dimension"]), dtype=np.float32)
        for shard, positions, local_rows in self._by_shard(rows):
            embeds[positions] = dequantize_regions(shard.regions[local_rows], shard.scales[local_rows])
        return embeds

    def region_cosines(self, rows: np.ndarray, sentence_embeds: np.ndarray) -> np.ndarray:
        """Computes the cosines of sentences with the regions of images.

        Args:
            rows: row numbers `[n]`.
            sentence_embeds: `[S, D]` unit vectors.

        Returns:
            float32 `[n, S, T]`.
        """
        rows = np.asarray(rows, dtype=np.int64)
        cosines = np.empty((len(rows), len(sentence_embeds), len(self.boxes)), dtype=np.float32)
        for shard, positions, local_rows in self._by_shard(rows):
            cosines[positions] = region_cosines(shard.regions[local_rows], shard.scales[local_rows], sentence_embeds)
        return cosines


__all__ = ["MAX_REGIONS", "SCHEMA", "Index", "Rows", "Shard", "as_float", "as_stored", "global_dtype", "read_parquet"]
