"""Reads image files from an untrusted source: size limits, EXIF orientation, conversion to RGB. Pillow and NumPy only.

Every entry point that takes a path or the bytes of an image reads it with `read_image`, `decode_image` or
`decode_stored`, and converts an image that is open already with `to_rgb`.
"""

import hashlib
import io
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

# A subset of Pillow's formats, without those that start another program (EPS) or use a rarely tested decoder.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 80_000_000  # 240 MB of RGB; the header alone is enough to refuse a decompression bomb
EXIF_ORIENTATION = 0x0112
FITS = ("squeeze", "pad", "crop")  # ways to fit an image to the model's image size, see `fit_image`
BACKGROUND = (255, 255, 255)  # shown through transparent pixels: white, as in a browser
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTED = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")  # where Pillow finds an orientation
_PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf")  # what the pixels and the orientation need
_JPEG_METADATA = (*range(0xE2, 0xEE), 0xEF, 0xFE)  # all but JFIF, EXIF and Adobe's colour transform
_WEBP_CHUNKS = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF", b"EXIF")


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
        mode: Pillow's mode of the file, for example `RGB`.
        orientation: EXIF orientation of the file, from 1 (upright) to 8.
        metadata_fault: why metadata of the file were ignored, None if all were read. The pixels are sound.
    """

    path: str
    sha256: str
    width: int
    height: int
    bytes: int
    image: Image.Image
    mode: str = "RGB"
    orientation: int = 1
    metadata_fault: str | None = None


def printable_path(path: str | Path) -> str:
    """Returns a path on one line: control characters and bytes that are not UTF-8 are escaped."""
    text = os.fsencode(path).decode("utf-8", errors="backslashreplace")
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def read_image(file: Path, path: str, min_size: tuple[int, int] | None = None, fit: str = "squeeze") -> DecodedImage:
    """Reads and decodes an image file.

    Args:
        file: the file to open.
        path: name of the image in the result.
        min_size: height and width in pixels that the caller fits the image to. A side that is at least four times as
            long as it will be is reduced by an integer factor, to at least twice that length. None keeps the full
            resolution.
        fit: how the caller fits it, one of `FITS`. `pad` and `crop` keep the aspect ratio. Default: `squeeze`.

    Raises:
        ImageError: the file cannot be read, is not an image, is damaged or exceeds `MAX_PIXELS`.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from error
    return decode_image(data, path, min_size, fit=fit)


def decode_image(
    data: bytes, path: str, min_size: tuple[int, int] | None = None, reduce: bool = True, fit: str = "squeeze"
) -> DecodedImage:
    """Decodes the bytes of an image file.

    Metadata that cannot be read do not cost the image: without a valid orientation it is taken as upright, and
    `metadata_fault` of the result says so.

    Args:
        data: the content of the file.
        path: name of the image in the result.
        min_size: as in [`read_image`].
        reduce: False leaves the reduction to the decoder, so that only JPEGs become smaller. Default: True.
        fit: as in [`read_image`].

    Raises:
        ImageError: the bytes are not an image, are damaged or exceed `MAX_PIXELS`.
    """
    try:
        decoded = _decode(data, min_size, reduce, fit)
    except ImageError as error:
        pixels_only = _without_metadata(data)
        if pixels_only is None:
            raise
        try:
            decoded = _decode(pixels_only, min_size, reduce, fit)
        except ImageError:
            raise error from None
        fault = f"metadata cannot be read: {str(error).removeprefix('truncated or damaged: ')}"
        decoded = replace(decoded, metadata_fault=decoded.metadata_fault or fault)
    return replace(decoded, path=path, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


def decode_stored(stored: Any, path: str, min_size: tuple[int, int] | None = None, reduce: bool = True) -> DecodedImage:
    """Decodes an image as a data set stores it.

    Args:
        stored: a mapping with `bytes` and `path`, as `datasets.Image(decode=False)` gives it; or a PIL image.
        path: name of the image in the result.
        min_size: as in [`read_image`].
        reduce: as in [`decode_image`].

    Raises:
        ImageError: there is no image, or it cannot be read or decoded. An image that is open already has no hash.
    """
    if isinstance(stored, Image.Image):
        image = to_rgb(stored)
        small = reduce_image(image, min_size) if min_size is not None and reduce else image
        return DecodedImage(path, "", *image.size, 0, small, stored.mode)
    if not isinstance(stored, Mapping) or stored.get("bytes") is None and stored.get("path") is None:
        raise ImageError("field 'image' is null")
    if stored.get("bytes") is not None:
        return decode_image(stored["bytes"], path, min_size, reduce)
    try:
        data = Path(stored["path"]).read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from error
    return decode_image(data, path, min_size, reduce)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Converts an image that is open already: upright by its EXIF orientation, and RGB by [`to_rgb`]."""
    return _turned(to_rgb(image), _orientation(image)[0])


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts an image of any mode to RGB; the only definition, for files and for images that are open already.

    - Transparent pixels are blended with white, so that colours hidden behind alpha do not count.
    - 16-bit grey is divided by 256.
    - 32-bit grey holds 8-bit values if none is above 255, otherwise 16-bit values.
    - Float grey is multiplied by 255 if no value is above 1; else it is read like 32-bit grey. NaN is black.
    - All other modes are converted by Pillow. An RGB image is returned as it is.

    Args:
        image: an image of any mode and size.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith(("I", "F")):
        return _grey_as_8_bit(image).convert("RGB")
    if image.has_transparency_data:
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        opaque = Image.new("RGB", image.size, BACKGROUND)
        opaque.paste(image, mask=image.getchannel("A"))
        return opaque
    return image.convert("RGB")


def reduce_image(image: Image.Image, min_size: tuple[int, int], keep_aspect: bool = False) -> Image.Image:
    """Reduces each side that is at least four times as long as the target, by an integer factor.

    Args:
        image: an RGB image.
        min_size: height and width in pixels that the caller resizes to. The result keeps at least twice this size, so
            that the last reduction is the processor's own resampling.
        keep_aspect: reduce both sides by the smaller of the two factors. Default: False.
    """
    factors = (max(1, image.width // (2 * min_size[1])), max(1, image.height // (2 * min_size[0])))
    if keep_aspect:
        factors = (min(factors), min(factors))
    return image if factors == (1, 1) else image.reduce(factors)


def fitted_size(size: tuple[int, int], target: tuple[int, int], fit: str) -> tuple[int, int]:
    """Computes the size to which an image is resized before it is padded or cropped.

    Args:
        size: width and height of the image in pixels.
        target: height and width in pixels that the model reads.
        fit: one of `FITS`.

    Returns:
        width and height in pixels. The rounding is that of `PIL.ImageOps.pad` for `pad`, and that of
        `CLIPImageProcessor` for `crop`.
    """
    (width, height), (rows, columns) = size, target
    is_wider = width * rows > height * columns
    if fit == "squeeze" or width * rows == height * columns:
        return columns, rows
    if fit == "pad":
        if is_wider:
            return columns, max(1, round(height / width * columns))
        return max(1, round(width / height * rows)), rows
    if is_wider:
        return max(columns, int(rows * width / height)), rows
    return columns, max(rows, int(columns * height / width))


def fit_image(
    image: Image.Image, target: tuple[int, int], fit: str, resample: int, colour: tuple[int, ...]
) -> Image.Image:
    """Resizes an RGB image to the size that the model reads.

    Args:
        image: the image.
        target: height and width in pixels.
        fit: `squeeze` changes the aspect ratio; `pad` keeps it and fills the borders; `crop` keeps it and cuts the
            borders off.
        resample: filter of Pillow.
        colour: RGB of the borders that `pad` fills.
    """
    rows, columns = target
    resized = image.resize(fitted_size(image.size, target, fit), resample)
    if resized.size == (columns, rows):
        return resized
    left, top = columns - resized.width, rows - resized.height
    if fit == "pad":
        canvas = Image.new("RGB", (columns, rows), colour)
        canvas.paste(resized, (round(left / 2), round(top / 2)))
        return canvas
    left, top = -left // 2, -top // 2
    return resized.crop((left, top, left + columns, top + rows))


def _decode(data: bytes, min_size: tuple[int, int] | None, reduce: bool, fit: str) -> DecodedImage:
    """The decoded image, without the fields that depend on all bytes of its file."""
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
        mode = opened.mode  # of the file; a draft of a JPEG may change it
        orientation, fault = _orientation(opened)
        swapped = orientation >= 5  # rotated by 90 degrees: width and height swap
        if swapped:
            width, height = height, width
        if min_size is not None:
            min_size = fitted_size((width, height), min_size, fit)[::-1]
            draft = 2 * min_size[1], 2 * min_size[0]
            opened.draft("RGB", draft[::-1] if swapped else draft)
        opened.load()
        image = _turned(to_rgb(opened), orientation)
        if min_size is not None and reduce:
            # Reduced here because a batch of images at full resolution would exhaust the memory.
            image = reduce_image(image, min_size, keep_aspect=fit != "squeeze")
    except Exception as error:
        raise ImageError(f"truncated or damaged: {error}") from error
    return DecodedImage("", "", width, height, 0, image, mode, orientation, fault)


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    """An upright image, without the metadata by which another reader would turn it once more."""
    if orientation not in _TRANSPOSE:
        return image
    image = image.transpose(_TRANSPOSE[orientation])
    for name in _ORIENTED:
        image.info.pop(name, None)
    return image


def _orientation(opened: Image.Image) -> tuple[int, str | None]:
    """The orientation of an image file, from 1 to 8, and what is wrong with the metadata that hold it."""
    try:
        exif = opened.getexif()
        value = exif.get(EXIF_ORIENTATION, 1)
    except Exception as error:  # as above
        return 1, f"metadata cannot be read: {error}"
    if type(value) is not int or not 1 <= value <= 8:
        return 1, f"EXIF orientation {value!r:.20} is not one of 1 to 8; the image is taken as upright"
    try:
        exif.tobytes()  # reads all entries
    except Exception as error:
        return value, f"metadata cannot be read: {error}"
    return value, None


def _without_metadata(data: bytes) -> bytes | None:
    """An image file without the parts that hold neither pixels nor EXIF; None if nothing can be left out."""
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            kept = _png_pixels(data)
        elif data.startswith(b"\xff\xd8"):
            kept = _jpeg_pixels(data)
        elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            kept = _webp_pixels(data)
        else:
            return None
    except (struct.error, IndexError):  # the file ends inside a chunk
        return None
    return None if len(kept) == len(data) else kept


def _png_pixels(data: bytes) -> bytes:
    kept, position = [data[:8]], 8
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind, end = data[position + 4 : position + 8], position + 12 + length
        checksum = data[end - 4 : end] == struct.pack(">I", zlib.crc32(data[position + 4 : end - 4]))
        if kind in _PNG_CHUNKS and (checksum or kind != b"eXIf"):
            kept.append(data[position:end])
        position = end
    return b"".join(kept)


def _jpeg_pixels(data: bytes) -> bytes:
    kept, position = [data[:2]], 2
    while data[position] == 0xFF and data[position + 1] != 0xDA:  # the pixels follow the start of scan
        (length,) = struct.unpack_from(">H", data, position + 2)
        if data[position + 1] not in _JPEG_METADATA:
            kept.append(data[position : position + 2 + length])
        position += 2 + length
    return b"".join([*kept, data[position:]])


def _webp_pixels(data: bytes) -> bytes:
    kept, position = [], 12
    while position < len(data):
        kind = data[position : position + 4]
        (length,) = struct.unpack_from("<I", data, position + 4)
        end = position + 8 + length + length % 2
        if kind in _WEBP_CHUNKS:
            kept.append(data[position:end])
        position = end
    content = b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(content) + 4) + b"WEBP" + content


def _grey_as_8_bit(image: Image.Image) -> Image.Image:
    """Converts deep grey to 8 bits, as [`to_rgb`] says; Pillow's own conversion clips the higher values to white."""
    values = np.asarray(image)
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0.0)
        if values.size and values.max() <= 1:
            values = np.rint(values * 255)
    if image.mode.startswith("I;16"):
        values = values >> 8
    elif values.size and values.max() > 255:
        values = np.floor(values / 256)
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


__all__ = [
    "FITS",
    "DecodedImage",
    "ImageError",
    "decode_image",
    "decode_stored",
    "fit_image",
    "fitted_size",
    "printable_path",
    "read_image",
    "reduce_image",
    "to_rgb",
    "upright_rgb",
]
