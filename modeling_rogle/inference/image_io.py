"""Reading one image file that has not been checked before: size limits, orientation, conversion to RGB."""

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Of all that Pillow reads, these: no format that starts another program (EPS), and no rare decoder for hostile bytes.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 80_000_000  # a decompression bomb is refused by its header; 80 million are 240 MB of RGB
EXIF_ORIENTATION = 0x0112


class ImageError(ValueError):
    """An image that cannot be used; the message is the reason in a few words, without the path."""


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image, RGB and upright. width, height: pixels of the upright file, which the decoded image may fall
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


def read_image(file: Path, path: str, least: tuple[int, int] | None = None) -> DecodedImage:
    """Reads and decodes one file, whole.

    Args:
        file: where it lies; path: what to call it.
        least: height and width in pixels that the caller will resize to; an image at least four times as high or as
            wide is shrunk to twice that or more, each side by itself.

    Raises:
        ImageError: unreadable, truncated, not an image, or too large.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from error
    return decode_image(data, path, least)


def decode_image(data: bytes, path: str, least: tuple[int, int] | None = None) -> DecodedImage:
    """Decodes the bytes of one file as [`read_image`] does."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(f"over the limit of {MAX_PIXELS // 1_000_000} million pixels") from error
    except UnidentifiedImageError as error:
        raise ImageError("not an image that Pillow can read") from error
    except Exception as error:  # decoders meet hostile bytes here and raise almost anything
        raise ImageError(f"truncated or damaged: {error}") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width} x {height} is over the limit of {MAX_PIXELS // 1_000_000} million pixels")
    try:
        turned = image.getexif().get(EXIF_ORIENTATION, 1) >= 5  # lies on its side
        if least is not None:
            # Twice the size, so that the last step down is the processor's own resampling.
            size = (2 * least[1], 2 * least[0])
            image.draft("RGB", size[::-1] if turned else size)
        image = _eight_bit(ImageOps.exif_transpose(image), image.format).convert("RGB")
        if least is not None:
            # At once: a batch of images as large as they may be would fill the memory.
            shrink = tuple(max(1, side // wanted) for side, wanted in zip(image.size, size, strict=True))
            image = image if shrink == (1, 1) else image.reduce(shrink)
    except Exception as error:
        raise ImageError(f"truncated or damaged: {error}") from error
    if turned:
        width, height = height, width
    return DecodedImage(path, hashlib.sha256(data).hexdigest(), width, height, len(data), image)


def _eight_bit(image: Image.Image, kind: str | None) -> Image.Image:
    """Grey of 16 bits, whose higher values Pillow's own conversion makes white, as 8 bits."""
    if not (image.mode.startswith("I;16") or image.mode == "I" and kind == "PPM"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))


__all__ = ["DecodedImage", "ImageError", "decode_image", "read_image", "shown"]
