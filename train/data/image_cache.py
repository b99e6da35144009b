"""A file of resized images, filled in the first epoch and read in all later epochs and runs."""

import errno
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import datasets
import numpy as np
from datasets import Dataset as Rows

from modeling_rogle import RogleProcessor

_MARK = b"pic1"
_HEADER = len(_MARK) + 4  # the mark and a CRC-32 checksum


class ImageCache:
    """Resized images of a split, `[3, height, width]` uint8 each, in one file that all processes read and fill.

    Each image has a fixed position in the file and is written in one call with its checksum. So an image that a killed
    run or a machine crash has left incomplete counts as missing. The file may be deleted at any time between runs.

    Args:
        file: created with its folder when the first image is written.
        shape: 3, height and width.
        log (defaults to `print`): prints the message, once per process, that nothing can be written.
    """

    def __init__(self, file: Path, shape: tuple[int, int, int], log: Callable[[str], None] = print):
        self.file, self.shape, self.log = file, shape, log
        self.record_bytes = _HEADER + int(np.prod(shape))
        self.writable = True
        self._handle: int | None = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_handle": None}  # a spawned worker opens the file itself

    def __del__(self):
        if self._handle is not None:
            os.close(self._handle)

    def read(self, row: int) -> np.ndarray | None:
        """The image of a row, read-only; None if it is missing."""
        if self._handle is None and not self._open(os.O_RDWR):
            return None
        record = os.pread(self._handle, self.record_bytes, row * self.record_bytes)
        if len(record) < self.record_bytes or record[: len(_MARK)] != _MARK:
            return None
        if int.from_bytes(record[len(_MARK) : _HEADER], "little") != zlib.crc32(memoryview(record)[_HEADER:]):
            return None
        return np.frombuffer(record, np.uint8, offset=_HEADER).reshape(self.shape)

    def write(self, row: int, image: np.ndarray) -> None:
        """Stores the image of a row. If the disk is full, the run continues without the cache."""
        if not self.writable:
            return
        pixels = np.ascontiguousarray(image).tobytes()
        try:
            if self._handle is None:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                self._handle = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o644)
            record = _MARK + zlib.crc32(pixels).to_bytes(4, "little") + pixels
            if os.pwrite(self._handle, record, row * self.record_bytes) < len(record):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self.writable = False
            self.log(
                f"{self.file}: {error.strerror or error}; resized images are not cached, each epoch reads the files"
            )

    def _open(self, mode: int) -> bool:
        try:
            self._handle = os.open(self.file, mode)
        except OSError:
            return False
        return True


def image_cache(rows: Rows, processor: RogleProcessor, folder: str | Path = "auto") -> ImageCache | None:
    """The cache of a split for a processor.

    The file's name depends on the image size, the resampling filter and, for each row, `sha256`, `image_id`, `width`
    and `height`. For a row without `sha256` it depends on the image file's path, size and modification time.

    Args:
        rows: P-VLG rows.
        processor: its size and its resampling filter are used.
        folder (defaults to `"auto"`): folder of the cache files; `"auto"` is a folder in the cache of `datasets`.

    Returns:
        The cache; None for `"none"`, and for rows that have neither `sha256` nor images.

    Raises:
        OSError: a row without `sha256` whose file does not exist.
    """
    hashes = rows["sha256"][:]
    if folder == "none" or not (all(hashes) or "image" in rows.column_names):
        return None
    parent = Path(datasets.config.HF_DATASETS_CACHE, "rogle_images") if folder == "auto" else Path(folder)
    settings = processor.image_processor
    shape = (3, settings.size["height"], settings.size["width"])
    digest = hashlib.sha256(json.dumps(["draft", "alpha over white", *shape, int(settings.resample)]).encode())
    for key in zip(hashes, rows["image_id"][:], rows["width"][:], rows["height"][:], strict=True):
        digest.update(json.dumps(key).encode())
    if not all(hashes):
        for row, stored in _stored_images(rows, [n for n, file_hash in enumerate(hashes) if not file_hash]):
            digest.update(f"{row} {_fingerprint(stored)}".encode())
    return ImageCache(parent / f"{digest.hexdigest()[:32]}.pictures", shape)


def _stored_images(rows: Rows, indices: Sequence[int]) -> Iterator[tuple[int, dict | None]]:
    files = rows.select_columns("image").cast_column("image", datasets.Image(decode=False))
    for row in indices:
        yield row, files[row]["image"]


def _fingerprint(stored: dict | None) -> str:
    if stored is None:
        return "none"
    if stored["bytes"] is not None:
        return hashlib.sha256(stored["bytes"]).hexdigest()
    status = os.stat(stored["path"])
    return f"{stored['path']} {status.st_size} {status.st_mtime_ns}"


__all__ = ["ImageCache", "image_cache"]
