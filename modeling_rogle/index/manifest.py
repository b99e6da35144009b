"""The manifest of an index, index.json: what belongs to it, read with every field checked and replaced in one step."""

import contextlib
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modeling_rogle.inference.errors import GalleryError

try:
    import fcntl
except ImportError:  # no such locks on Windows: one writer at a time is then the caller's care
    fcntl = None

FORMAT = "rogle-gallery"
VERSION = 2
MANIFEST = "index.json"
STAGED_MANIFEST = "index.json.building"  # a replacement in the making; the old index answers until it is whole
COPIES_FOLDER, COPY_COLUMN = "pictures", "picture"
_NAMES = r"shard-[0-9a-f]{8}|metadata-[0-9a-f]{8}\.parquet|faiss-[0-9a-f]{8}\.index"
_PART = re.compile(_NAMES)
# generation-*: of format 1, removed once a newer index stands.
_OURS = re.compile(
    _NAMES
    + r"|generation-[0-9a-f]{8}|pictures|milvus\.db|calibration\.json"
    + r"|index\.json(\.building)?(\.new)?|\.faiss-[0-9a-f]{8}\.new"
)
_FIELDS = {
    "folder": str,
    "images": int,
    "dimension": int,
    "precision": str,
    "model": dict,
    "template_boxes": list,
    "template_labels": list,
    "skipped": list,
    "shards": list,
    "next_id": int,
    "complete": bool,
}
_COLLECTION = re.compile(r"\w{1,64}", re.ASCII)  # a name at a store, and of a folder in a local one
PRECISIONS = ("float32", "bfloat16")


def new_name(kind: str, suffix: str = "") -> str:
    """A name for a part of an index that no earlier part had."""
    return f"{kind}-{secrets.token_hex(4)}{suffix}"


def read_manifest(path: Path, name: str = MANIFEST) -> dict[str, Any]:
    """The manifest of the index at `path`.

    Raises:
        FileNotFoundError: no such folder.
        GalleryError: not an index, of another version, or a field that cannot be right; file and field are named.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such index")
    file = path / name
    if not file.is_file():
        if (path / STAGED_MANIFEST).is_file():
            raise GalleryError(f"{path}: an index that was never finished; run `rogle index` again to finish it")
        raise GalleryError(f"{path}: not an index (no {MANIFEST}); `rogle index` makes one")
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
    _check_values(file, header)
    return header


def _check_values(file: Path, header: dict[str, Any]) -> None:
    if header["precision"] not in PRECISIONS:
        raise GalleryError(f"{file}: field 'precision' is {header['precision']!r}, not one of {', '.join(PRECISIONS)}")
    boxes, labels = header["template_boxes"], header["template_labels"]
    for box in boxes:
        if not (isinstance(box, list) and len(box) == 4 and all(map(_is_finite_number, box))):
            raise GalleryError(f"{file}: field 'template_boxes' holds {box!r}, not four numbers; build the index again")
    if len(labels) != len(boxes) or not all(isinstance(label, str) for label in labels):
        raise GalleryError(f"{file}: field 'template_labels' is not {len(boxes)} names; build the index again")
    if not all(isinstance(item, dict) and isinstance(item.get("path"), str) for item in header["skipped"]):
        raise GalleryError(f"{file}: field 'skipped' holds an entry without a path; build the index again")
    for shard in header["shards"]:
        named = isinstance(shard, dict) and isinstance(shard.get("name"), str) and isinstance(shard.get("rows"), int)
        if not named or not _PART.fullmatch(shard["name"]) or shard["rows"] < 0:
            raise GalleryError(f"{file}: field 'shards' holds {shard!r}, not a shard; build the index again")
    if sum(shard["rows"] for shard in header["shards"]) != header["images"]:
        raise GalleryError(f"{file}: fields 'shards' and 'images' disagree; build the index again")
    metadata = header.get("metadata")
    if metadata is not None and not (isinstance(metadata, str) and _PART.fullmatch(metadata)):
        raise GalleryError(f"{file}: field 'metadata' names {metadata!r}, not a part of an index")
    store = header.get("store")
    if store is not None and not (
        isinstance(store, dict)
        and isinstance(store.get("uri"), str)
        and isinstance(store.get("upto"), int)
        and (store.get("file") is None or isinstance(store["file"], str) and _PART.fullmatch(store["file"]))
        and isinstance(store.get("effort", 1), int)
        and all(_is_finite_number(store.get(name, 1.0)) for name in ("recall", "filtered", "gain"))
    ):
        raise GalleryError(f"{file}: field 'store' is no store; build the index again")
    collection = header.get("collection")
    if store is not None and not (isinstance(collection, str) and _COLLECTION.fullmatch(collection)):
        raise GalleryError(f"{file}: field 'collection' is {collection!r}, no name of a collection at its store")


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def write_manifest(path: Path, header: dict[str, Any], name: str = MANIFEST) -> None:
    """Replaces the manifest in one step, and on the disk before anything that it no longer names goes."""
    new = path / f"{name}.new"
    with open(new, "w", encoding="utf-8") as file:
        file.write(json.dumps(header, indent=1, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path / name)


def remove_unreferenced(path: Path) -> None:
    """Removes every part that neither manifest names: what a killed writer left, and what was replaced."""
    kept = {MANIFEST, STAGED_MANIFEST, COPIES_FOLDER, "milvus.db", "calibration.json"}
    for name in (MANIFEST, STAGED_MANIFEST):
        with contextlib.suppress(OSError, GalleryError):
            header = read_manifest(path, name)
            kept.update(shard["name"] for shard in header["shards"])
            kept.update({header.get("metadata"), (header.get("store") or {}).get("file")})
    for name in os.listdir(path):
        if _OURS.fullmatch(name) and name not in kept:
            target = path / name
            shutil.rmtree(target, ignore_errors=True) if target.is_dir() else target.unlink(missing_ok=True)


def check_index_folder(path: Path) -> None:
    """Raises GalleryError where something other than an index stands: what is replaced is removed."""
    if not path.exists():
        return
    if not path.is_dir():
        raise GalleryError(f"{path}: a file stands there, an index is a folder")
    foreign = [name for name in sorted(os.listdir(path)) if not _OURS.fullmatch(name)]
    if foreign:
        raise GalleryError(f"{path}: holds {foreign[0]!r}, which is no part of an index; choose another folder for it")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps every other writer out of the folder; a lock of the kernel's, gone with the process however it ends.

    Raises:
        GalleryError: another process is writing.
    """
    if fcntl is None:
        yield
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise GalleryError(f"{path}: another process is writing this index; wait for it") from error
        yield
    finally:
        os.close(folder)


__all__ = [
    "FORMAT",
    "MANIFEST",
    "COPIES_FOLDER",
    "COPY_COLUMN",
    "PRECISIONS",
    "STAGED_MANIFEST",
    "VERSION",
    "check_index_folder",
    "locked",
    "new_name",
    "read_manifest",
    "remove_unreferenced",
    "write_manifest",
]
