"""Images resized once and kept on disk as the model reads them, small and uint8, for all later epochs and runs."""

import errno
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
import numpy as np
from datasets import Dataset as Rows

from modeling_rogle import RogleProcessor

_MARK = b"pic1"
_HEAD = len(_MARK) + 4  # and a checksum, CRC-32


class ImageCache:
    """Small images of a split, `[3, h, w]` uint8 each, in one file that all processes read and fill.

    Each image has a place of its own, written at once with its checksum: what a killed run, or a crash of the
    machine, has left half written is not there. The file is named for all that its images depend on, so that other
    data or another size have another file. It may be deleted at any time between runs.

    Args:
        file: made when the first image is written; the folder too.
        shape: 3, height and width.
        say: told, once in each process, that nothing can be written.
    """

    def __init__(self, file: Path, shape: tuple[int, int, int], say: Callable[[str], None] = print):
        self.file, self.shape, self.say = file, shape, say
        self.place = _HEAD + int(np.prod(shape))
        self.writable = True
        self._handle: int | None = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_handle": None}  # a spawned worker opens the file itself

    def __del__(self):
        if self._handle is not None:
            os.close(self._handle)

    def read(self, index: int) -> np.ndarray | None:
        """The image of a row, not to be written to; None where there is none yet."""
        if self._handle is None and not self._open(os.O_RDWR):
            return None
        found = os.pread(self._handle, self.place, index * self.place)
        if len(found) < self.place or found[: len(_MARK)] != _MARK:
            return None
        if int.from_bytes(found[len(_MARK) : _HEAD], "little") != zlib.crc32(memoryview(found)[_HEAD:]):
            return None
        return np.frombuffer(found, np.uint8, offset=_HEAD).reshape(self.shape)

    def write(self, index: int, image: np.ndarray) -> None:
        """Keeps the image of a row; where the disk is full the run goes on without."""
        if not self.writable:
            return
        pixels = np.ascontiguousarray(image).tobytes()
        try:
            if self._handle is None:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                self._handle = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o644)
            whole = _MARK + zlib.crc32(pixels).to_bytes(4, "little") + pixels
            if os.pwrite(self._handle, whole, index * self.place) < len(whole):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self.writable = False
            self.say(f"{self.file}: {error.strerror or error}; the images are not kept, and read anew in each epoch")

    def _open(self, mode: int) -> bool:
        try:
            self._handle = os.open(self.file, mode)
        except OSError:
            return False
        return True


def image_cache(rows: Rows, processor: RogleProcessor, where: str | Path = "auto") -> ImageCache | None:
    """The cache of these rows, in their order, for this processor.

    Args:
        rows: P-VLG rows; an image is known by its row's sha256, image_id and size, or, where a row has no sha256, by
            its file's name, size and time of change (with neither, nothing is kept).
        where: folder of all such files; `"auto"` is beside what `datasets` keeps, `"none"` keeps nothing.

    Raises:
        OSError: a row without sha256 whose file is gone.
    """
    hashes = rows["sha256"][:]
    if where == "none" or not (all(hashes) or "image" in rows.column_names):
        return None
    folder = Path(datasets.config.HF_DATASETS_CACHE, "rogle_images") if where == "auto" else Path(where)
    settings = processor.image_processor
    shape = (3, settings.size["height"], settings.size["width"])
    digest = hashlib.sha256(json.dumps(["draft", *shape, int(settings.resample)]).encode())
    for key in zip(hashes, rows["image_id"][:], rows["width"][:], rows["height"][:], strict=True):
        digest.update(json.dumps(key).encode())
    if not all(hashes):
        for index, stored in _stored(rows, [n for n, each in enumerate(hashes) if not each]):
            digest.update(f"{index} {_fingerprint(stored)}".encode())
    return ImageCache(folder / f"{digest.hexdigest()[:32]}.pictures", shape)


def _stored(rows: Rows, indices: Sequence[int]):
    files = rows.select_columns("image").cast_column("image", datasets.Image(decode=False))
    for index in indices:
        yield index, files[index]["image"]


def _fingerprint(stored: dict | None) -> str:
    if stored is None:
        return "none"
    if stored["bytes"] is not None:
        return hashlib.sha256(stored["bytes"]).hexdigest()
    found = os.stat(stored["path"])
    return f"{stored['path']} {found.st_size} {found.st_mtime_ns}"


__all__ = ["ImageCache", "image_cache"]
