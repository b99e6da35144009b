"""The manifest of an index, index.json: every field is checked when it is read, and a write replaces the whole file.

Format 3 adds optional fields to format 2. An index without one of them behaves as an index of format 2:

    id              identifier of the index, 32 hex digits
    preprocessing   {"image_size": [height, width], "max_tokens": n, "fit": one of image_io.FITS}
    encoder         {"engine": one of ENGINES, "precision": ...}, which encoded the images
    text_encoder    a text encoder that is stored in the index
    local_tokens    local tokens of the images

Unknown fields are ignored when an index is read and kept when it is written.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modeling_rogle.image_io import FITS
from modeling_rogle.index.store_address import public_address
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.inference.untrusted import parse_json

try:
    import fcntl
except ImportError:  # Windows has no such locks; there the user must avoid two writers at once
    fcntl = None  # type: ignore[assignment]

FORMAT = "rogle-gallery"
VERSION = 3
READABLE_VERSIONS = (2, 3)
MANIFEST = "index.json"
STAGED_MANIFEST = "index.json.building"  # of an unfinished replacement; the old index stays in use until it is complete
COPIES_FOLDER, COPY_COLUMN = "pictures", "picture"  # names on the disk since format 2
PRECISIONS = ("float32", "bfloat16")
ENGINES = ("torch", "onnx")
_PART_NAMES = r"shard-[0-9a-f]{8}|metadata-[0-9a-f]{8}\.parquet|faiss-[0-9a-f]{8}\.index"
_PART = re.compile(_PART_NAMES)
_INDEX_FILE = re.compile(
    _PART_NAMES
    # Of format 1, and of milvus-lite, which earlier versions used. Both are removed.
    + r"|generation-[0-9a-f]{8}|milvus\.db"
    + r"|pictures|calibration\.json"
    + r"|index\.json(\.building)?(\.new)?|\.faiss-[0-9a-f]{8}\.new"
)
_COLLECTION = re.compile(r"\w{1,64}", re.ASCII)  # the name of a collection on a server
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
_ID = re.compile(r"[0-9a-f]{32}")
MAX_BOXES, MAX_EFFORT = 64, 1 << 20
_LARGEST = {"images": 1 << 40, "dimension": 1 << 16, "next_id": 1 << 62}


def new_name(kind: str, suffix: str = "") -> str:
    """Returns a random name for a new part of an index, so that no name is used twice."""
    return f"{kind}-{secrets.token_hex(4)}{suffix}"


def read_manifest(path: Path, name: str = MANIFEST) -> dict[str, Any]:
    """Reads and checks a manifest.

    Args:
        path: the index folder.
        name: file name of the manifest.

    Raises:
        FileNotFoundError: the folder does not exist.
        GalleryError: the folder is not an index, has another format version, or has an invalid field. The message
            names file and field.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such index")
    file = path / name
    if not file.is_file():
        if (path / STAGED_MANIFEST).is_file():
            raise GalleryError(f"{path}: an unfinished index; run `rogle index` again to finish it")
        raise GalleryError(f"{path}: not an index (no {MANIFEST}); create one with `rogle index`")
    try:
        header = parse_json(file.read_bytes())
    except ValueError as error:
        raise GalleryError(f"{file}: damaged ({error}); build the index again") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise GalleryError(f"{file}: not the manifest of a Rogle index")
    version = header.get("version")
    if version not in READABLE_VERSIONS:
        readable = " and ".join(map(str, READABLE_VERSIONS))
        remedy = "update Rogle" if isinstance(version, int) and version > VERSION else "build the index again"
        raise GalleryError(f"{file}: format {version}, this program reads formats {readable}; {remedy}")
    for field, kind in _FIELDS.items():
        value = header.get(field)
        if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
            raise GalleryError(f"{file}: field {field!r} is missing or not a {kind.__name__}; build the index again")
    _check_values(file, header)
    _check_store(file, header)
    _check_optional(file, header)
    return header


def _check_values(file: Path, header: dict[str, Any]) -> None:
    for field, largest in _LARGEST.items():
        if not 0 <= header[field] <= largest:
            raise GalleryError(f"{file}: field {field!r} is {header[field]}, not from 0 to {largest}")
    if header["precision"] not in PRECISIONS:
        raise GalleryError(f"{file}: field 'precision' is {header['precision']!r}, not one of {', '.join(PRECISIONS)}")
    boxes, labels = header["template_boxes"], header["template_labels"]
    for box in boxes:
        if not (isinstance(box, list) and len(box) == 4 and all(map(_is_finite_number, box))):
            raise GalleryError(f"{file}: field 'template_boxes' holds {box!r}, not four numbers; build the index again")
    if len(boxes) > MAX_BOXES:
        raise GalleryError(f"{file}: field 'template_boxes' holds {len(boxes)} boxes, at most {MAX_BOXES}")
    if len(labels) != len(boxes) or not all(isinstance(label, str) and label.isprintable() for label in labels):
        raise GalleryError(f"{file}: field 'template_labels' is not {len(boxes)} names; build the index again")
    if not all(isinstance(entry, dict) and isinstance(entry.get("path"), str) for entry in header["skipped"]):
        raise GalleryError(f"{file}: field 'skipped' holds an entry without a path; build the index again")
    for shard in header["shards"]:
        valid = isinstance(shard, dict) and isinstance(shard.get("name"), str) and isinstance(shard.get("rows"), int)
        if not valid or not _PART.fullmatch(shard["name"]) or shard["rows"] < 0:
            raise GalleryError(f"{file}: field 'shards' holds {shard!r}, not a shard; build the index again")
    if sum(shard["rows"] for shard in header["shards"]) != header["images"]:
        raise GalleryError(f"{file}: fields 'shards' and 'images' disagree; build the index again")
    if not isinstance(header.get("files", True), bool):
        raise GalleryError(f"{file}: field 'files' is {header['files']!r}, not true or false")
    metadata = header.get("metadata")
    if metadata is not None and not (isinstance(metadata, str) and _PART.fullmatch(metadata)):
        raise GalleryError(f"{file}: field 'metadata' is {metadata!r}, not the name of a part of an index")


def _check_store(file: Path, header: dict[str, Any]) -> None:
    store, collection = header.get("store"), header.get("collection")
    if store is None:
        return
    if not (
        isinstance(store, dict)
        and isinstance(store.get("uri"), str)
        and store["uri"].isprintable()
        and isinstance(store.get("upto"), int)
        and 0 <= store["upto"] <= _LARGEST["next_id"]
        and (store.get("file") is None or isinstance(store["file"], str) and _PART.fullmatch(store["file"]))
        and isinstance(store.get("effort", 1), int)
        and all(_is_finite_number(store.get(name, 1.0)) for name in ("recall", "filtered", "gain", "scale"))
        and all(isinstance(store.get(name, ""), str) for name in ("revision", "built"))
        and 0 < store.get("effort", 1) <= MAX_EFFORT
    ):
        raise GalleryError(f"{file}: field 'store' is not a valid store; build the index again")
    store["uri"] = public_address(store["uri"])  # an earlier version wrote credentials too
    collection = store.get("collection", collection)
    if not (isinstance(collection, str) and _COLLECTION.fullmatch(collection)):
        raise GalleryError(f"{file}: field 'collection' is {collection!r}, not the name of a collection")


def _check_optional(file: Path, header: dict[str, Any]) -> None:
    """Checks the fields that format 3 added."""
    if (index_id := header.get("id")) is not None and not (isinstance(index_id, str) and _ID.fullmatch(index_id)):
        raise GalleryError(f"{file}: field 'id' is {index_id!r}, not 32 hex digits")
    for name in ("preprocessing", "encoder", "text_encoder", "local_tokens"):
        if not isinstance(header.get(name), dict | None):
            raise GalleryError(f"{file}: field {name!r} is not an object; build the index again")
    if (preprocessing := header.get("preprocessing")) is not None:
        size = preprocessing.get("image_size")
        if not (isinstance(size, list) and len(size) == 2 and all(map(_is_positive, size))):
            raise GalleryError(f"{file}: field 'preprocessing.image_size' is {size!r}, not [height, width] in pixels")
        if not _is_positive(preprocessing.get("max_tokens")):
            tokens = preprocessing.get("max_tokens")
            raise GalleryError(f"{file}: field 'preprocessing.max_tokens' is {tokens!r}, not a positive number")
        _check_choice(file, "preprocessing.fit", preprocessing.get("fit"), FITS)
    if (encoder := header.get("encoder")) is not None:
        _check_choice(file, "encoder.engine", encoder.get("engine"), ENGINES)
        if not isinstance(encoder.get("precision"), str):
            raise GalleryError(f"{file}: field 'encoder.precision' is {encoder.get('precision')!r}, not a name")


def _check_choice(file: Path, field: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise GalleryError(f"{file}: field {field!r} is {value!r}, not one of {', '.join(choices)}")


def _is_positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= 1e9  # False for NaN too


def new_id() -> str:
    """Returns a random identifier for an index."""
    return uuid.uuid4().hex


def upgraded(header: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy of a manifest in the current format. An index of format 2 gets an identifier."""
    return {**header, "version": VERSION, "id": header.get("id") or new_id()}


def write_manifest(path: Path, header: dict[str, Any], name: str = MANIFEST) -> None:
    """Replaces a manifest atomically.

    The new manifest is on the disk when this returns, so that the parts that it no longer names can be removed.
    """
    new = path / f"{name}.new"
    with open(new, "w", encoding="utf-8") as file:
        file.write(json.dumps(header, indent=1, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path / name)


def remove_unreferenced(path: Path) -> None:
    """Removes every part of an index that neither manifest names: replaced parts and those of a killed writer."""
    kept: set[str | None] = {MANIFEST, STAGED_MANIFEST, COPIES_FOLDER, "calibration.json"}
    for name in (MANIFEST, STAGED_MANIFEST):
        with contextlib.suppress(OSError, GalleryError):
            header = read_manifest(path, name)
            kept.update(shard["name"] for shard in header["shards"])
            kept.update({header.get("metadata"), (header.get("store") or {}).get("file")})
    for name in os.listdir(path):
        if _INDEX_FILE.fullmatch(name) and name not in kept:
            target = path / name
            shutil.rmtree(target, ignore_errors=True) if target.is_dir() else target.unlink(missing_ok=True)


def check_index_folder(path: Path) -> None:
    """Checks that an index may be written to a folder: it must hold nothing but an index, or not exist.

    Raises:
        GalleryError: the path is a file, or the folder holds another file.
    """
    if not path.exists():
        return
    if not path.is_dir():
        raise GalleryError(f"{path}: is a file, but an index is a folder")
    foreign = [name for name in sorted(os.listdir(path)) if not _INDEX_FILE.fullmatch(name)]
    if foreign:
        raise GalleryError(f"{path}: holds {foreign[0]!r}, which is not part of an index; choose another folder")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the write lock of an index folder. The kernel releases it when the process ends for any reason.

    Raises:
        GalleryError: another process holds the lock.
    """
    if fcntl is None:
        yield
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise GalleryError(f"{path}: another process is writing this index; wait until it has finished") from error
        yield
    finally:
        os.close(folder)


__all__ = [
    "COPIES_FOLDER",
    "COPY_COLUMN",
    "ENGINES",
    "FORMAT",
    "MANIFEST",
    "PRECISIONS",
    "READABLE_VERSIONS",
    "STAGED_MANIFEST",
    "VERSION",
    "check_index_folder",
    "locked",
    "new_id",
    "new_name",
    "read_manifest",
    "remove_unreferenced",
    "upgraded",
    "write_manifest",
]
