"""Sources of images to index: a folder, a glob, or a data set of P-VLG rows; with the metadata of each image.

A folder may hold `metadata.jsonl`, `metadata.csv` or `metadata.tsv` next to the images, in the format of `datasets`'
imagefolder. The column `file_name` is relative to that file. There may be any other columns (camera, time, ...); see
`metadata_tables.py` for their types. Without such columns, `time`, `camera` and `frame` come from file names and EXIF.
Of the rows of a data set, every scalar column is kept, and `image_id` names the image. Their images are not files, so
the index stores small copies of them.

A new kind of source returns its images as a `Source` and is added to `find_source`.
"""

import glob
import hashlib
import io
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from modeling_rogle.image_io import DecodedImage, ImageError, decode_image, printable_path, read_image, to_rgb
from modeling_rogle.index.manifest import COPY_COLUMN
from modeling_rogle.index.path_spellings import PathSpellings
from modeling_rogle.index.shards import SCHEMA
from modeling_rogle.indexing.file_columns import add_file_columns
from modeling_rogle.indexing.image_folder import LINK_OUT, Skipped, image_files, is_inside
from modeling_rogle.indexing.metadata_tables import is_metadata, read_table
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.inference.untrusted import check_parquet, read_group

# Columns of a data set that are not metadata: those of the index, and the caption.
_NOT_METADATA = {
    *("id", "path", "bytes", "mtime", "scene", "box", COPY_COLUMN),
    *("sha256", "width", "height", "image_id", "caption"),
}


@dataclass(frozen=True)
class Item:
    """An image, or a scene of several persons, to index.

    Attributes:
        path: path in the index.
        location: file path relative to the source's root, or row number in the data set.
        bytes: size of the file; None for a row.
        mtime: modification time of the file in microseconds; None for a row.
        sha256: SHA-256 of the image in the data set; None if the data set has none, and for a file.
    """

    path: str
    location: str | int
    bytes: int | None = None
    mtime: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Source:
    """The images to index.

    Attributes:
        root: absolute folder of the paths, or the name of the data set.
        items: the images.
        skipped: images that cannot be indexed.
        ignored: number of files that are not images.
        metadata: table with one row per image and a column `path`; None without metadata.
        rows: the data set; None for files.
        added_columns: columns of `metadata` that come from names and EXIF of the files, not from the user.
    """

    root: str
    items: list[Item]
    skipped: list[Skipped]
    ignored: int
    metadata: pa.Table | None
    rows: "Rows | None" = None
    added_columns: tuple[str, ...] = ()

    def read(self, item: Item, min_size: tuple[int, int] | None = None, fit: str = "squeeze") -> DecodedImage:
        """Decodes an image.

        Args:
            item: an item of this source.
            min_size: height and width in pixels that the caller fits the image to, see [`read_image`].
            fit: how the caller fits it. Default: `squeeze`.

        Raises:
            ImageError: the image cannot be read.
        """
        if self.rows is None:
            return read_image(Path(self.root, str(item.location)), item.path, min_size, fit)
        return decode_image(self.rows.image(int(item.location)), item.path, min_size, fit=fit)

    def digest(self, item: Item) -> str | None:
        """Returns the SHA-256 of an image's bytes, None if its file cannot be read."""
        if self.rows is not None:
            return item.sha256 or hashlib.sha256(self.rows.image(int(item.location))).hexdigest()
        try:
            with open(Path(self.root, str(item.location)), "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return None


def find_source(source: Any, root: Path | None = None) -> Source:
    """Finds the images that the user named.

    Args:
        source: a folder; a glob (`photos/2026-*/**/*.jpg`); the folder of a data set (`save_to_disk` or Parquet
            files); or rows, as a `datasets.Dataset` or a list of dictionaries.
        root: folder that paths are relative to and that must contain the source. Default: the source's own folder.

    Raises:
        FileNotFoundError: the source does not exist.
        GalleryError: the source has no images, or its metadata are invalid. The message names the file.
    """
    if not isinstance(source, str | Path):
        return _source_of_rows("data set", Rows(source))
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
        return _source_of_rows(str(path.resolve()), rows)
    return _source_of_files(str(source), path, pattern, root)


def _source_of_files(name: str, path: Path, pattern: str | None, root: Path | None) -> Source:
    """Lists the images of a folder.

    Args:
        name: the source as the user wrote it.
        path: the folder, or the part of a glob before its first wildcard.
        pattern: the glob, None for a folder.
        root: see [`find_source`].
    """
    folder = path.resolve()
    root = root or folder
    if not folder.is_relative_to(root):
        raise GalleryError(f"{name}: not inside {root}, the folder of this index; choose another --out")
    files, skipped, ignored = image_files(folder)
    all_images = {*files, *(item.path for item in skipped)}
    if pattern is not None:
        matches = {os.path.relpath(file, path) for file in glob.iglob(pattern, recursive=True)}
        files = [file for file in files if file in matches]
        skipped, ignored = [item for item in skipped if item.path in matches], 0
    if not files and skipped and all(item.reason == LINK_OUT for item in skipped):
        raise GalleryError(
            f"{name}: all {len(skipped)} images are symbolic links out of this folder, which are not followed; a "
            "snapshot in the Hub's cache is such a folder: `hf download NAME --local-dir DIR` writes files"
        )
    if not files and not skipped:
        others = f", only {ignored} other files" if ignored else ""
        what = "no images match" if pattern is not None else "no images in this folder"
        raise GalleryError(f"{name}: {what}{others}")
    prefix = folder.relative_to(root)
    items = []
    for file in files:
        status = os.stat(folder / file)
        key = (prefix / file).as_posix()
        items.append(Item(key, key, status.st_size, status.st_mtime_ns // 1000))
    skipped = [Skipped((prefix / item.path).as_posix(), item.reason) for item in skipped]
    own = _metadata(folder, prefix, set(files), all_images)
    metadata, added = add_file_columns(own, {item.path: root / item.path for item in items})
    return Source(str(root), items, skipped, ignored, metadata, added_columns=added)


def _metadata(folder: Path, prefix: Path, indexed: set[str], all_images: set[str]) -> pa.Table | None:
    """Reads all metadata files under a folder; for an image in several files the nearest file is used.

    Args:
        folder: the folder.
        prefix: the folder relative to the root of the source.
        indexed: paths of the images to index, relative to the folder; rows of other images are dropped.
        all_images: paths of all images under the folder, also of those that are not indexed.

    Warns:
        UserWarning: rows match no image, or match one by another spelling of its path.
    """
    tables: list[pa.Table] = []
    file_of: dict[str, Path] = {}
    # Deeper folders first, because the nearest file is used.
    files = sorted(Path(parent, name) for parent, _, names in os.walk(folder) for name in names if is_metadata(name))
    for file in sorted(files, key=lambda file: -len(file.parts)):
        if not is_inside(file, folder):
            reason = LINK_OUT if os.path.exists(file) else "broken symbolic link"
            warnings.warn(f"{printable_path(file)}: {reason}; not read", stacklevel=4)
            continue
        table = _read_metadata(file)
        names = ["" if name is None else str(name) for name in table.column("file_name").to_pylist()]
        paths = _match_images(file, file.parent.relative_to(folder), names, all_images)
        kept = []
        for row, path in enumerate(paths):
            if path in indexed and path not in file_of:
                file_of[path] = file
                kept.append(row)
        keys = [None if path is None else (prefix / path).as_posix() for path in paths]
        table = table.drop_columns(["file_name"]).append_column("path", pa.array(keys, pa.string()))
        tables.append(table.take(pa.array(kept, pa.int64())))
    try:
        return pa.concat_tables(tables, promote_options="permissive") if tables else None
    except pa.ArrowException as error:
        raise GalleryError(f"{folder}: metadata files disagree on a column's type ({_first_line(error)})") from error


def _match_images(file: Path, file_folder: Path, names: Sequence[str], all_images: set[str]) -> list[str | None]:
    """The image of each row of a metadata file, None where there is none; see [`_metadata`] for the warnings.

    Args:
        file: the metadata file.
        file_folder: its folder, relative to the folder of the images.
        names: the column `file_name`.
        all_images: paths of the images.

    Raises:
        GalleryError: two rows name the same image.
    """
    paths: list[str | None] = [Path(os.path.normpath(file_folder / name)).as_posix() for name in names]
    if repeated := next((path for path, count in Counter(paths).items() if count > 1), None):
        raise GalleryError(f"{file}: field 'file_name': {printable_path(repeated)} occurs twice")
    unmatched = [row for row, path in enumerate(paths) if path not in all_images]
    if not unmatched:
        return paths
    prefix = "" if file_folder == Path() else f"{file_folder.as_posix()}/"
    used = set(paths) & all_images
    spellings = PathSpellings(path.removeprefix(prefix) for path in all_images - used if path.startswith(prefix))
    respelled: list[int] = []
    missing: list[int] = []
    for row in unmatched:
        found = spellings.find(names[row])
        paths[row] = None if found is None or prefix + found in used else prefix + found
        used |= {prefix + found} if found is not None else set()
        (missing if paths[row] is None else respelled).append(row)
    for rows, what in ((respelled, "match their image by another spelling of its path"), (missing, "match no image")):
        if rows:
            first = printable_path(names[rows[0]]) or "an empty cell"
            message = f"field 'file_name': {len(rows)} of {len(names)} rows {what}, the first is {first}"
            warnings.warn(f"{printable_path(file)}: {message}", stacklevel=5)
    return paths


def _read_metadata(file: Path) -> pa.Table:
    table = read_table(file)
    reserved = sorted(set(table.column_names) & set(SCHEMA.names))
    if reserved:
        raise GalleryError(f"{file}: column {reserved[0]!r} is reserved by the index; rename it")
    return table


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split("\n")[0].split())


class Rows:
    """The rows of a data set: images as bytes by row number, other columns as a table.

    Args:
        rows: a `datasets.Dataset` or a list of dictionaries.
    """

    def __init__(self, rows: Any):
        self.rows = rows
        if hasattr(rows, "cast_column") and "image" in rows.column_names:
            from datasets import Image as ImageFeature

            self.rows = rows.cast_column("image", ImageFeature(decode=False))

    def __len__(self) -> int:
        return len(self.rows)

    def columns(self) -> pa.Table:
        """Returns all columns except `image`."""
        if hasattr(self.rows, "column_names"):
            names = [name for name in self.rows.column_names if name != "image"]
            return self.rows.select_columns(names).with_format("arrow")[:]
        return pa.Table.from_pylist([{k: v for k, v in row.items() if k != "image"} for row in self.rows])

    def image(self, number: int) -> bytes:
        """Returns the encoded image of a row.

        Raises:
            ImageError: the row has no image, or its file cannot be read.
        """
        image = self.rows[number]["image"]
        if image is None:
            raise ImageError("field 'image' is null")
        if isinstance(image, Image.Image):
            buffer = io.BytesIO()
            to_rgb(image).save(buffer, "PNG", compress_level=1)
            return buffer.getvalue()
        if image.get("bytes") is not None:
            return image["bytes"]
        try:
            return Path(image["path"]).read_bytes()
        except (OSError, TypeError) as error:
            raise ImageError("the image's file cannot be read") from error


class ParquetRows(Rows):
    """Rows of Parquet files, read one row group at a time, so that no image is copied into a cache.

    Args:
        files: the files, in order.

    Raises:
        GalleryError: a file is not a Parquet file or is damaged.
    """

    def __init__(self, files: Sequence[Path]):
        self.files = list(files)
        self.groups: list[tuple[int, int, int]] = []  # first row, number of the file, row group in it
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
        self._loaded: tuple[int, pa.ChunkedArray] | None = None  # number of a group, and its images

    def __len__(self) -> int:
        return self.count

    def columns(self) -> pa.Table:
        """See [`Rows`]. Raises GalleryError if a file has no column `image` or `image_id`."""
        tables = []
        for file in self.files:
            try:
                check_parquet(file, without="image")
            except (ValueError, OSError, pa.ArrowException) as error:
                raise GalleryError(f"{file}: cannot be read ({_first_line(error)})") from error
            schema = pq.read_schema(file)
            if "image" not in schema.names or "image_id" not in schema.names:
                raise GalleryError(f"{file}: no column 'image' and 'image_id'; it has {', '.join(schema.names)}")
            tables.append(pq.read_table(file, columns=[name for name in schema.names if name != "image"]))
        return pa.concat_tables(tables, promote_options="permissive").replace_schema_metadata(None)

    def image(self, number: int) -> bytes:
        """See [`Rows`]."""
        group = max(n for n, (first, _, _) in enumerate(self.groups) if first <= number)
        first, file, row_group = self.groups[group]
        loaded = self._loaded  # a local name, because another thread may load another group meanwhile
        if loaded is None or loaded[0] != group:
            try:
                column = read_group(self.files[file], row_group, "image")
            except (ValueError, OSError, pa.ArrowException) as error:
                raise ImageError(f"its row group cannot be read ({_first_line(error)})") from error
            loaded = self._loaded = (group, column)
        image = loaded[1][number - first].as_py()
        if image is None or image.get("bytes") is None:
            raise ImageError("field 'image' is null")
        return image["bytes"]


def _stored_rows(folder: Path) -> Rows | None:
    """Opens the data set in a folder; None if the folder holds none."""
    if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        from datasets import DatasetDict, concatenate_datasets, load_from_disk

        try:
            stored = load_from_disk(str(folder))
        except Exception as error:  # a damaged folder raises almost any exception
            raise GalleryError(f"{folder}: a data set that cannot be read ({_first_line(error)})") from error
        return Rows(concatenate_datasets(list(stored.values())) if isinstance(stored, DatasetDict) else stored)
    files = sorted(folder.rglob("*.parquet"))
    if files and not any(image_files(folder)[0]):
        return ParquetRows(files)
    return None


def _source_of_rows(name: str, rows: Rows) -> Source:
    if not len(rows):
        raise GalleryError(f"{name}: no rows in this data set")
    table = rows.columns()
    if "image_id" not in table.column_names:
        raise GalleryError(f"{name}: no column 'image_id'; it has {', '.join(table.column_names)}")
    ids = [str(value) for value in table.column("image_id").to_pylist()]
    if len(set(ids)) != len(ids):
        repeated = next(value for value in ids if ids.count(value) > 1)
        raise GalleryError(f"{name}: field 'image_id': {printable_path(repeated)} occurs twice")
    digests = table.column("sha256").to_pylist() if "sha256" in table.column_names else [None] * len(ids)
    items = [Item(path, number, sha256=digest) for number, (path, digest) in enumerate(zip(ids, digests, strict=True))]
    scalars = [
        field.name
        for field in table.schema
        if not pa.types.is_nested(field.type) and not pa.types.is_binary(field.type) and field.name not in _NOT_METADATA
    ]
    metadata = table.select(scalars).append_column("path", pa.array(ids, pa.string()))
    return Source(name, items, [], 0, metadata, rows)


__all__ = ["Item", "Rows", "Source", "find_source"]
