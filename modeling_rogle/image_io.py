"""Reads image files from an untrusted source: size limits, EXIF orientation, conversion to RGB. Pillow and NumPy only.

An entry point that takes a path or the bytes of an image should read it through `read_image` or `decode_image`.
"""

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# A subset of Pillow's formats, without those that start another program (EPS) or use a rarely tested decoder.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 80_000_000  # 240 MB of RGB; the header alone is enough to refuse a decompression bomb
EXIF_ORIENTATION = 0x0112


class ImageError(ValueError):
    """An image that cannot be used. The message is a short reason, without the path."""


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image.

    Attributes:
        path: name of the image in messages and in an index.
        sha256: SHA-256 of the encoded bytes.
        width: width in pixels of the upright image before it was reduced.
        height: height in pixels of the upright image before it was reduced.
        bytes: number of encoded bytes.
        image: the image, RGB and upright. Its width and height may each be reduced by an integer factor.
    """

    path: str
    sha256: str
    width: int
    height: int
    bytes: int
    image: Image.Image


def printable_path(path: str | Path) -> str:
    """Returns a path on one line: control characters and bytes that are not UTF-8 are escaped."""
    text = os.fsencode(path).decode("utf-8", errors="backslashreplace")
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def read_image(file: Path, path: str, min_size: tuple[int, int] | None = None) -> DecodedImage:
    """Reads and decodes an image file.

    Args:
        file: the file to open.
        path: name of the image in the result.
        min_size: height and width in pixels that the caller resizes to. A side that is at least four times as long is
            reduced by an integer factor, to at least twice this size. None keeps the full resolution.

    Raises:
        ImageError: the file cannot be read, is not an image, is damaged or exceeds `MAX_PIXELS`.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from error
    return decode_image(data, path, min_size)


def decode_image(data: bytes, path: str, min_size: tuple[int, int] | None = None) -> DecodedImage:
    """Decodes the bytes of an image file; arguments and errors are those of [`read_image`]."""
    try:
        opened = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(f"over the limit of {MAX_PIXELS // 1_000_000} million pixels") from error
    except UnidentifiedImageError as error:
        raise ImageError("not an image that Pillow can read") from error
    except Exception as error:  # decoders raise almost any exception on hostile bytes
        raise ImageError(f"truncated or damaged: {error}") from error
    width, height = opened.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width} x {height} is over the limit of {MAX_PIXELS // 1_000_000} million pixels")
    try:
        swapped = opened.getexif().get(EXIF_ORIENTATION, 1) >= 5  # rotated by 90 degrees: width and height swap
        if min_size is not None:
            min_height, min_width = 2 * min_size[0], 2 * min_size[1]
            opened.draft("RGB", (min_height, min_width) if swapped else (min_width, min_height))
        image = _as_8_bit(ImageOps.exif_transpose(opened), opened.format).convert("RGB")
        if min_size is not None:
            # Reduced here because a batch of images at full resolution would exhaust the memory.
            image = reduce_image(image, min_size)
    except Exception as error:
        raise ImageError(f"truncated or damaged: {error}") from error
    if swapped:
        width, height = height, width
    return DecodedImage(path, hashlib.sha256(data).hexdigest(), width, height, len(data), image)


def reduce_image(image: Image.Image, min_size: tuple[int, int]) -> Image.Image:
    """Reduces each side that is at least four times as long as the target, by an integer factor.

    Args:
        image: an RGB image.
        min_size: height and width in pixels that the caller resizes to. The result keeps at least twice this size, so
            that the last reduction is the processor's own resampling.
    """
    factors = (max(1, image.width // (2 * min_size[1])), max(1, image.height // (2 * min_size[0])))
    return image if factors == (1, 1) else image.reduce(factors)


def _as_8_bit(image: Image.Image, file_format: str | None) -> Image.Image:
    """Converts 16-bit greyscale to 8 bits; Pillow's own conversion clips the higher values to white."""
    if not (image.mode.startswith("I;16") or image.mode == "I" and file_format == "PPM"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))


__all__ = ["DecodedImage", "ImageError", "decode_image", "printable_path", "read_image", "reduce_image"]
