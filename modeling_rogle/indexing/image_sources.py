"""What can be indexed: a folder, a glob, or a data set of P-VLG rows; and what is known of each image.

A folder may hold `metadata.jsonl` or `metadata.csv` beside the images, as `datasets` reads an imagefolder: a column
`file_name`, relative to that file, and any others (camera, time, ...), typed as pyarrow reads them. Of a data set's
rows every column that is one number, text or time is kept, `image_id` names the image, and since its images are no
files the index keeps small copies of them.
"""

import glob
import hashlib
import io
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
from PIL import Image

from modeling_rogle.index.manifest import COPY_COLUMN
from modeling_rogle.index.shards import SCHEMA
from modeling_rogle.indexing.image_folder import METADATA, Skipped, image_files
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.inference.image_io import DecodedImage, ImageError, decode_image, printable_path, read_image

_RESERVED = {"id", "path", "bytes", "mtime", "scene", "box", COPY_COLUMN}


@dataclass(frozen=True)
class Item:
    """Something to index: its key in the index, and where its source finds it. bytes and mtime (microseconds) as the
    file system says, sha256 as a data set says; None if it does not."""

    path: str
    place: str | int
    bytes: int | None = None
    mtime: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Source:
    """What is to be indexed. root: the folder of its paths, absolute, or the data set's name; rows: the data set, None
    for files; metadata: one row an image, with `path`."""

    root: str
    items: list[Item]
    skipped: list[Skipped]
    ignored: int
    metadata: pa.Table | None
    rows: "Rows | None" = None

    def read(self, item: Item, least: tuple[int, int] | None = None) -> DecodedImage:
        """Decodes an item, see [`read_image`]. Raises ImageError."""
        if self.rows is None:
            return read_image(Path(self.root, item.place), item.path, least)
        return decode_image(self.rows.image(item.place), item.path, least)

    def digest(self, item: Item) -> str | None:
        """sha256 of an item's bytes, None if they cannot be read."""
        if self.rows is not None:
            return item.sha256 or hashlib.sha256(self.rows.image(item.place)).hexdigest()
        try:
            with open(Path(self.root, item.place), "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return None


def find_source(source: Any, within: Path | None = None) -> Source:
    """What `source` names.

    Args:
        source: a folder; a glob (`photos/2026-*/**/*.jpg`); a folder of a data set (`save_to_disk`, or Parquet files);
            or rows themselves, a `datasets.Dataset` or a list.
        within: the folder that paths are told from, which must hold the source; by default the source's own.

    Raises:
        FileNotFoundError: it does not exist.
        GalleryError: nothing in it to index, or metadata that cannot be right; the file is named.
    """
    if not isinstance(source, str | Path):
        return _of_rows("data set", Rows(source))
    path = Path(source)
    pattern = None
    if not path.exists() and glob.has_magic(str(source)):
        pattern = str(source)
        path = Path(*path.parts[: next(n for n, part in enumerate(path.parts) if glob.has_magic(part))])
    if not path.exists():
        raise FileNotFoundError(f"{source}: no such folder")
    if not path.is_dir():
        raise GalleryError(f"{source}: not a folder")
    if pattern is None and (rows := _stored_rows(path)) is not None:
        return _of_rows(str(path.resolve()), rows)
    return _of_files(str(source), path, pattern, within)


def _of_files(name: str, named: Path, pattern: str | None, within: Path | None) -> Source:
    folder = named.resolve()
    root = within or folder
    if not folder.is_relative_to(root):
        raise GalleryError(f"{name}: not inside {root}, whose images this index holds; choose another --out")
    files, skipped, ignored = image_files(folder)
    if pattern is not None:
        wanted = {os.path.relpath(found, named) for found in glob.iglob(pattern, recursive=True)}
        files = [file for file in files if file in wanted]
        skipped, ignored = [item for item in skipped if item.path in wanted], 0
    if not files and not skipped:
        others = f", only {ignored} other files" if ignored else ""
        what = "no images match" if pattern is not None else "no images in this folder"
        raise GalleryError(f"{name}: {what}{others}")
    inside = folder.relative_to(root)
    items = []
    for file in files:
        found = os.stat(folder / file)
        key = (inside / file).as_posix()
        items.append(Item(key, key, found.st_size, found.st_mtime_ns // 1000))
    skipped = [Skipped((inside / item.path).as_posix(), item.reason) for item in skipped]
    return Source(str(root), items, skipped, ignored, _metadata(folder, inside, {item.path for item in items}))


def _metadata(folder: Path, inside: Path, known: set[str]) -> pa.Table | None:
    tables: list[pa.Table] = []
    seen: dict[str, Path] = {}
    # Deeper folders first: what lies nearer to an image wins.
    files = sorted((Path(parent, name) for parent, _, names in os.walk(folder) for name in names if name in METADATA))
    for file in sorted(files, key=lambda file: -len(file.parts)):
        if not file.resolve().is_relative_to(folder):  # what lies outside is no business of this index
            warnings.warn(f"{printable_path(file)}: symbolic link out of the folder; not read", stacklevel=4)
            continue
        table = _read_metadata(file)
        here = inside / file.parent.relative_to(folder)
        names = table.column("file_name").to_pylist()
        paths = [Path(os.path.normpath(here / str(name))).as_posix() for name in names]
        kept = []
        for row, path in enumerate(paths):
            if seen.get(path) == file:
                raise GalleryError(f"{file}: field 'file_name': {printable_path(path)} stands there twice")
            if path in known and path not in seen:
                seen[path] = file
                kept.append(row)
        table = table.drop_columns(["file_name"]).append_column("path", pa.array(paths, pa.string()))
        tables.append(table.take(pa.array(kept, pa.int64())))
    try:
        return pa.concat_tables(tables, promote_options="permissive") if tables else None
    except pa.ArrowException as error:
        raise GalleryError(f"{folder}: metadata files disagree on a column's type ({_first_line(error)})") from error


def _read_metadata(file: Path) -> pa.Table:
    try:
        read = pyarrow.csv.read_csv if file.suffix == ".csv" else pyarrow.json.read_json
        table = read(file)
    except (pa.ArrowException, OSError) as error:
        raise GalleryError(f"{file}: cannot be read ({_first_line(error)})") from error
    if "file_name" not in table.column_names:
        raise GalleryError(f"{file}: no column 'file_name'; it holds {', '.join(table.column_names) or 'nothing'}")
    twice = next((name for name in table.column_names if table.column_names.count(name) > 1), None)
    if twice is not None:
        raise GalleryError(f"{file}: column {twice!r} stands there twice")
    taken = sorted(set(table.column_names) & set(SCHEMA.names))
    if taken:
        raise GalleryError(f"{file}: column {taken[0]!r} is the index's own; name it otherwise")
    return table


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split("\n")[0].split())


class Rows:
    """Rows of a data set, by number: their images as bytes, and their plain columns as a table."""

    def __init__(self, rows: Any):
        self.rows = rows
        if hasattr(rows, "cast_column") and "image" in rows.column_names:
            from datasets import Image as ImageFeature

            self.rows = rows.cast_column("image", ImageFeature(decode=False))

    def __len__(self) -> int:
        return len(self.rows)

    def columns(self) -> pa.Table:
        if hasattr(self.rows, "column_names"):
            names = [name for name in self.rows.column_names if name != "image"]
            return self.rows.select_columns(names).with_format("arrow")[:]
        return pa.Table.from_pylist([{k: v for k, v in row.items() if k != "image"} for row in self.rows])

    def image(self, number: int) -> bytes:
        """The bytes of a row's image. Raises ImageError."""
        image = self.rows[number]["image"]
        if image is None:
            raise ImageError("field 'image' is null")
        if isinstance(image, Image.Image):
            held = io.BytesIO()
            image.convert("RGB").save(held, "PNG", compress_level=1)
            return held.getvalue()
        if image.get("bytes") is not None:
            return image["bytes"]
        try:
            return Path(image["path"]).read_bytes()
        except (OSError, TypeError) as error:
            raise ImageError("the image's file cannot be read") from error


class ParquetRows(Rows):
    """Rows of Parquet files, read a row group at a time: no copy of anybody's image goes into a cache."""

    def __init__(self, files: Sequence[Path]):
        self.files = list(files)
        self.groups: list[tuple[int, int, int]] = []  # first row, file, row group
        count = 0
        for number, file in enumerate(self.files):
            try:
                footer = pq.read_metadata(file)
            except (OSError, pa.ArrowException) as error:
                raise GalleryError(f"{file}: not a Parquet file, or damaged") from error
            for group in range(footer.num_row_groups):
                self.groups.append((count, number, group))
                count += footer.row_group(group).num_rows
        self.count = count
        self.held: tuple[int, pa.ChunkedArray] | None = None

    def __len__(self) -> int:
        return self.count

    def columns(self) -> pa.Table:
        tables = []
        for file in self.files:
            schema = pq.read_schema(file)
            if "image" not in schema.names or "image_id" not in schema.names:
                raise GalleryError(f"{file}: no column 'image' and 'image_id'; it holds {', '.join(schema.names)}")
            tables.append(pq.read_table(file, columns=[name for name in schema.names if name != "image"]))
        return pa.concat_tables(tables, promote_options="permissive").replace_schema_metadata(None)

    def image(self, number: int) -> bytes:
        group = max(n for n, (first, _, _) in enumerate(self.groups) if first <= number)
        first, file, row_group = self.groups[group]
        held = self.held  # a name of this thread's own: another may turn the page
        if held is None or held[0] != group:
            table = pq.ParquetFile(self.files[file]).read_row_group(row_group, columns=["image"])
            held = self.held = (group, table.column("image"))
        image = held[1][number - first].as_py()
        if image is None or image.get("bytes") is None:
            raise ImageError("field 'image' is null")
        return image["bytes"]


def _stored_rows(folder: Path) -> Rows | None:
    if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        from datasets import DatasetDict, concatenate_datasets, load_from_disk

        try:
            found = load_from_disk(str(folder))
        except Exception as error:  # whatever a damaged folder makes of it
            raise GalleryError(f"{folder}: a data set that cannot be read ({_first_line(error)})") from error
        return Rows(concatenate_datasets(list(found.values())) if isinstance(found, DatasetDict) else found)
    files = sorted(folder.rglob("*.parquet"))
    if files and not any(image_files(folder)[0]):
        return ParquetRows(files)
    return None


def _of_rows(name: str, rows: Rows) -> Source:
    if not len(rows):
        raise GalleryError(f"{name}: no rows in this data set")
    table = rows.columns()
    if "image_id" not in table.column_names:
        raise GalleryError(f"{name}: no column 'image_id'; it holds {', '.join(table.column_names)}")
    ids = [str(value) for value in table.column("image_id").to_pylist()]
    if len(set(ids)) != len(ids):
        twice = next(value for value in ids if ids.count(value) > 1)
        raise GalleryError(f"{name}: field 'image_id': {printable_path(twice)} stands there twice")
    digests = table.column("sha256").to_pylist() if "sha256" in table.column_names else [None] * len(ids)
    items = [Item(path, number, sha256=digest) for number, (path, digest) in enumerate(zip(ids, digests, strict=True))]
    plain = [
        field.name
        for field in table.schema
        if not pa.types.is_nested(field.type)
        and not pa.types.is_binary(field.type)
        and field.name not in _RESERVED | {"sha256", "width", "height", "image_id", "caption"}
    ]
    metadata = table.select(plain).append_column("path", pa.array(ids, pa.string()))
    return Source(name, items, [], 0, metadata, rows)


__all__ = ["Item", "Rows", "Source", "find_source"]
