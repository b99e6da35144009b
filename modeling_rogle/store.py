"""The index on disk: embeddings in memory-mapped files, metadata in Parquet, replaced as a whole.

    index.json                   format, model, indexed folder, counts, and the name of the one valid generation
    generation-<hex>/
        images.parquet           path (relative to the indexed folder), sha256, width, height, bytes
        global.npy               [N, D] float32 unit vectors
        regions.npy              [N, T, D] int8, T template regions an image
        region_scales.npy        [N, T] float32: an int8 row times its scale has unit length

Every write makes a new generation, then replaces index.json in one step: killed half-way it leaves the old index,
or none. What earlier generations left behind is removed by the next write.
"""

import contextlib
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Set
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FORMAT = "rogle-gallery"
VERSION = 1
MAX_REGIONS = 16
HEADER = "index.json"
SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("bytes", pa.int64()),
    ]
)
_OURS = re.compile(r"generation-[0-9a-f]{8}|index\.json(\.new)?")
_ROWS_AT_ONCE = 65536


class GalleryError(ValueError):
    """Something that the caller can mend: a folder, an index, a query or a path, named in one line."""


def quantise(embeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows `[..., D]` float -> int8 of the same shape, and scales `[...]` that give unit length back."""
    largest = np.abs(embeds).max(axis=-1, keepdims=True)
    rounded = np.rint(embeds * (127.0 / np.maximum(largest, 1e-12))).astype(np.int8)
    lengths = np.linalg.norm(rounded.astype(np.float32), axis=-1)
    return rounded, (1.0 / np.maximum(lengths, 1.0)).astype(np.float32)


def dequantise(rows: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The inverse of [`quantise`]: float32 `[..., D]` unit vectors."""
    return rows.astype(np.float32) * scales[..., None]


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
        self.file.close()


class StoreWriter:
    """Writes one generation: `append` rows, then `publish`. A block left without publishing leaves nothing behind."""

    def __init__(self, path: Path, dimension: int, regions: int):
        if regions > MAX_REGIONS:
            raise GalleryError(f"{regions} regions an image, an index holds at most {MAX_REGIONS}")
        self.path = path
        _check_is_ours(path)
        self.created = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
        self.data = path / f"generation-{secrets.token_hex(4)}"
        self.data.mkdir()
        self.files = {
            "global": _RowFile(self.data / "global.npy", np.float32, (dimension,)),
            "regions": _RowFile(self.data / "regions.npy", np.int8, (regions, dimension)),
            "region_scales": _RowFile(self.data / "region_scales.npy", np.float32, (regions,)),
        }
        self.tables: list[pa.Table] = []
        self.published = False

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self.files.values():
            file.file.close()
        if not self.published:
            shutil.rmtree(self.data, ignore_errors=True)
            if self.created:
                with contextlib.suppress(OSError):
                    self.path.rmdir()

    def append(self, table: pa.Table, images: np.ndarray, regions: np.ndarray, scales: np.ndarray) -> None:
        """Adds n images: metadata, `[n, D]` float32, `[n, T, D]` int8, `[n, T]` float32."""
        self.tables.append(table)
        for name, rows in (("global", images), ("regions", regions), ("region_scales", scales)):
            self.files[name].append(rows)

    @property
    def rows(self) -> int:
        return self.files["global"].rows

    def publish(self, header: dict[str, Any]) -> None:
        """Makes this generation the valid one and removes every other from the disk."""
        for file in self.files.values():
            file.close()
        pq.write_table(pa.concat_tables([SCHEMA.empty_table(), *self.tables]), self.data / "images.parquet")
        header = {
            "format": FORMAT,
            "version": VERSION,
            **header,
            "generation": self.data.name,
            "images": self.rows,
            "dimension": self.files["global"].row_shape[0],
        }
        new = self.path / f"{HEADER}.new"
        new.write_text(json.dumps(header, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(new, self.path / HEADER)
        self.published = True
        for name in os.listdir(self.path):
            if name.startswith("generation-") and _OURS.fullmatch(name) and name != self.data.name:
                shutil.rmtree(self.path / name)


def _check_is_ours(path: Path) -> None:
    # Whatever is replaced is removed: never anything but an index.
    if not path.exists():
        return
    if not path.is_dir():
        raise GalleryError(f"{path}: a file stands there, an index is a folder")
    foreign = [name for name in sorted(os.listdir(path)) if not _OURS.fullmatch(name)]
    if foreign:
        raise GalleryError(f"{path}: holds {foreign[0]!r}, which is no part of an index; choose another folder for it")


class Store:
    """A valid generation, opened for reading.

    global_embeds `[N, D]`, regions `[N, T, D]` int8, scales `[N, T]`: memory-mapped; boxes `[T, 4]` in [0, 1];
    paths: N strings; sizes `[N, 2]` width and height in pixels.

    Raises:
        FileNotFoundError: no such folder.
        GalleryError: not an index, of another version, or incomplete; the file is named.
    """

    def __init__(self, path: Path):
        self.path = path
        self.header = _read_header(path)
        data = path / self.header["generation"]
        self.boxes = np.array(self.header["template_boxes"], dtype=np.float32).reshape(-1, 4)
        count, dimension, regions = self.header["images"], self.header["dimension"], len(self.boxes)
        self.global_embeds = _mapped(data / "global.npy", np.float32, (count, dimension))
        self.regions = _mapped(data / "regions.npy", np.int8, (count, regions, dimension))
        self.scales = _mapped(data / "region_scales.npy", np.float32, (count, regions))
        metadata = data / "images.parquet"
        try:
            self.table = pq.read_table(metadata, schema=SCHEMA)
        except (OSError, pa.ArrowException) as error:
            raise GalleryError(f"{metadata}: missing or damaged; build the index again") from error
        if len(self.table) != count:
            raise GalleryError(f"{metadata}: {len(self.table)} rows, index.json says {count}; build the index again")
        self.paths: list[str] = self.table.column("path").to_pylist()
        self.sizes = np.stack([self.table.column(name).to_numpy() for name in ("width", "height")], axis=1)

    def without(self, rows: set[int], skipped: Set[str] = frozenset()) -> "Store":
        """Rewrites the index without some rows and some names of skipped pictures, and opens what was written."""
        kept = np.array([row for row in range(len(self.paths)) if row not in rows], dtype=np.int64)
        with StoreWriter(self.path, self.header["dimension"], len(self.boxes)) as writer:
            for start in range(0, len(kept), _ROWS_AT_ONCE):
                part = kept[start : start + _ROWS_AT_ONCE]
                table = self.table.take(pa.array(part))
                writer.append(table, self.global_embeds[part], self.regions[part], self.scales[part])
            still = [item for item in self.header["skipped"] if item["path"] not in skipped]
            writer.publish({**self.header, "skipped": still})
        return Store(self.path)


def _read_header(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such index")
    file = path / HEADER
    if not file.is_file():
        raise GalleryError(f"{path}: not an index (no {HEADER}); `rogle index` makes one")
    try:
        header = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise GalleryError(f"{file}: damaged ({error}); build the index again") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise GalleryError(f"{file}: not the header of a Rogle index")
    if header.get("version") != VERSION:
        raise GalleryError(f"{file}: format {header.get('version')}, this program reads {VERSION}; build it again")
    for field, kind in _FIELDS.items():
        if not isinstance(header.get(field), kind):
            raise GalleryError(f"{file}: field {field!r} is missing or not a {kind.__name__}; build the index again")
    if not _OURS.fullmatch(header["generation"]):
        raise GalleryError(f"{file}: field 'generation' names {header['generation']!r}, not a generation")
    boxes, labels = header["template_boxes"], header["template_labels"]
    for box in boxes:
        if not (isinstance(box, list) and len(box) == 4 and all(map(_is_finite_number, box))):
            raise GalleryError(f"{file}: field 'template_boxes' holds {box!r}, not four numbers; build the index again")
    if len(labels) != len(boxes) or not all(isinstance(label, str) for label in labels):
        raise GalleryError(f"{file}: field 'template_labels' is not {len(boxes)} names; build the index again")
    if not all(isinstance(item, dict) and isinstance(item.get("path"), str) for item in header["skipped"]):
        raise GalleryError(f"{file}: field 'skipped' holds an entry without a path; build the index again")
    return header


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


_FIELDS = {
    "generation": str,
    "folder": str,
    "images": int,
    "dimension": int,
    "model": dict,
    "template_boxes": list,
    "template_labels": list,
    "skipped": list,
}


def _mapped(file: Path, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise GalleryError(f"{file}: missing or damaged; build the index again") from error
    if array.dtype != dtype or array.shape != shape:
        raise GalleryError(f"{file}: {array.dtype}{list(array.shape)}, index.json says {np.dtype(dtype)}{list(shape)}")
    return array


__all__ = ["GalleryError", "Store", "StoreWriter", "dequantise", "quantise"]
