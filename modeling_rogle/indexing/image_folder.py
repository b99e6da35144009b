"""Pictures of a folder: which ones may be read, and how to read one that nobody has checked before."""

import hashlib
import io
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from modeling_rogle.index.manifest import FORMAT, HEADER, STAGED

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm")
# Of all that Pillow reads, these: no format that starts another program (EPS), and no rare decoder for hostile bytes.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
METADATA = ("metadata.jsonl", "metadata.csv")  # what is known of the pictures beside them, see sources.py
MAX_PIXELS = 80_000_000  # a decompression bomb is refused by its header; 80 million are 240 MB of RGB
MAX_BYTES = 256 * 2**20
EXIF_ORIENTATION = 0x0112


class PictureError(ValueError):
    """A picture that cannot be used; the message is the reason in a few words, without the path."""


@dataclass(frozen=True)
class Skipped:
    """A picture left out: its path relative to the folder, and the reason in a few words."""

    path: str
    reason: str


@dataclass(frozen=True)
class Picture:
    """A decoded picture, RGB and upright. width, height: pixels of the upright file, which the decoded image may fall
    short of, in width and height each by its own whole factor; bytes: size of the file."""

    path: str
    sha256: str
    width: int
    height: int
    bytes: int
    image: Image.Image


def shown(path: str | Path) -> str:
    """A path that fits on one line of a terminal or a JSON file: control characters and stray bytes escaped."""
    text = os.fsencode(path).decode("utf-8", errors="backslashreplace")
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def picture_files(root: Path) -> tuple[list[str], list[Skipped], int]:
    """Pictures under `root` by name, in sorted order.

    Symbolic links are followed to files inside `root` only; those to folders never, since what lies inside `root` is
    found on its own path. Folders that are an index, with its copies of pictures, are left out.

    Args:
        root: a folder, resolved.

    Returns:
        paths relative to `root`; pictures and links refused, with reasons; how many other files there were.
    """
    files: list[str] = []
    skipped: list[Skipped] = []
    ignored = 0

    def unreadable(error: OSError) -> None:
        skipped.append(Skipped(os.path.relpath(error.filename, root), f"folder: {error.strerror}"))

    for parent, folders, names in os.walk(root, onerror=unreadable):
        if _is_index(Path(parent)):
            folders.clear()
            continue
        folders.sort()
        for name in sorted(folders):
            path = Path(parent, name)
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                skipped.append(Skipped(path.relative_to(root).as_posix(), "symbolic link out of the folder"))
        for name in sorted(names):
            path = Path(parent, name)
            relative = path.relative_to(root).as_posix()
            if path.suffix.lower() not in SUFFIXES:
                ignored += name not in METADATA
            elif reason := _refusal(path, root):
                skipped.append(Skipped(relative, reason))
            else:
                files.append(relative)
    return files, skipped, ignored


def _is_index(folder: Path) -> bool:
    for name in (HEADER, STAGED):
        try:
            header = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(header, dict) and header.get("format") == FORMAT:
            return True
    return False


def _refusal(path: Path, root: Path) -> str | None:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return "file name is not UTF-8"
    if path.is_symlink() and not path.resolve().is_relative_to(root):
        return "symbolic link out of the folder"
    try:
        found = path.stat()
    except OSError as error:
        return "broken symbolic link" if path.is_symlink() else f"cannot be read: {error.strerror}"
    if not stat.S_ISREG(found.st_mode):
        return "not a regular file"
    if found.st_size == 0:
        return "empty file"
    if found.st_size > MAX_BYTES:
        return f"{found.st_size} bytes, over the limit of {MAX_BYTES}"
    return None


def read_picture(file: Path, path: str, least: tuple[int, int] | None = None) -> Picture:
    """Reads and decodes one file, whole.

    Args:
        file: where it lies; path: what to call it.
        least: height and width in pixels that the caller will resize to; a picture at least four times as high or as
            wide is shrunk to twice that or more, each side by itself.

    Raises:
        PictureError: unreadable, truncated, not a picture, or too large.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise PictureError(f"cannot be read: {error.strerror}") from error
    return decode_picture(data, path, least)


def decode_picture(data: bytes, path: str, least: tuple[int, int] | None = None) -> Picture:
    """Decodes the bytes of one file as [`read_picture`] does."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise PictureError(f"over the limit of {MAX_PIXELS // 1_000_000} million pixels") from error
    except UnidentifiedImageError as error:
        raise PictureError("not a picture that Pillow can read") from error
    except Exception as error:  # decoders meet hostile bytes here and raise almost anything
        raise PictureError(f"truncated or damaged: {error}") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise PictureError(f"{width} x {height} is over the limit of {MAX_PIXELS // 1_000_000} million pixels")
    try:
        turned = image.getexif().get(EXIF_ORIENTATION, 1) >= 5  # lies on its side
        if least is not None:
            # Twice the size, so that the last step down is the processor's own resampling.
            size = (2 * least[1], 2 * least[0])
            image.draft("RGB", size[::-1] if turned else size)
        image = _eight_bit(ImageOps.exif_transpose(image), image.format).convert("RGB")
        if least is not None:
            # At once: a batch of pictures as large as they may be would fill the memory.
            shrink = tuple(max(1, side // wanted) for side, wanted in zip(image.size, size, strict=True))
            image = image if shrink == (1, 1) else image.reduce(shrink)
    except Exception as error:
        raise PictureError(f"truncated or damaged: {error}") from error
    if turned:
        width, height = height, width
    return Picture(path, hashlib.sha256(data).hexdigest(), width, height, len(data), image)


def _eight_bit(image: Image.Image, kind: str | None) -> Image.Image:
    """Grey of 16 bits, whose higher values Pillow's own conversion makes white, as 8 bits."""
    if not (image.mode.startswith("I;16") or image.mode == "I" and kind == "PPM"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))


__all__ = ["Picture", "PictureError", "Skipped", "decode_picture", "picture_files", "read_picture", "shown"]
