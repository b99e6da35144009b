"""Image files with a fault, each with the pixels that every entry point must use."""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, PngImagePlugin

ORIENTATION, XMP_ORIENTATION = 0x0112, '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{}"/>'
WIDTH, HEIGHT = 20, 50  # smaller than twice the input of the tiny model, so that no entry point reduces the image


@dataclass(frozen=True)
class FaultyImage:
    """An image file whose pixels are sound.

    Attributes:
        suffix: suffix of the file.
        make: returns the bytes of the file.
        expected: returns the RGB image, uint8 `[HEIGHT, WIDTH, 3]`, that the file shows.
        counted: whether its unreadable metadata are counted.
    """

    suffix: str
    make: Callable[[], bytes]
    expected: Callable[[], np.ndarray]
    counted: bool = True


def person() -> Image.Image:
    """An upright RGB image whose four corners differ, so that a rotation shows."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels[:20, :, 0], pixels[20:35, :, 1], pixels[35:, 10:, 2], pixels[:8, :6] = 200, 150, 220, 255
    return Image.fromarray(pixels)


def thermal(seed: int = 0) -> np.ndarray:
    """16-bit grey values of a thermal camera, in the upper half of the range."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = np.sin(x / (2 + seed)) + np.cos(y / (5 + seed))
    return (40_000 + 12_000 * waves / 2).astype(np.uint16)


def grey_rgb(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)


def over_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Alpha blending in integers, rounded: the definition that the reader's compositing must equal to one level."""
    a = alpha[..., None].astype(np.int64)
    return ((rgb * a + 255 * (255 - a) + 127) // 255).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif_block(tag: int, kind: int, count: int, value: bytes, orientation: int | None = 1) -> bytes:
    """EXIF with the orientation and one more entry, whose value may contradict its type."""
    entries = [] if orientation is None else [struct.pack("<HHII", ORIENTATION, 3, 1, orientation)]
    offset = 8 + 2 + 12 * (len(entries) + 1) + 4
    inline = len(value) <= 4
    field = value.ljust(4, b"\0") if inline else struct.pack("<I", offset)
    entries.append(struct.pack("<HHI", tag, kind, count) + field)
    header = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries))
    return b"Exif\0\0" + header + b"".join(sorted(entries)) + b"\0" * 4 + (b"" if inline else value)


def negative_rational(orientation: int) -> bytes:
    return exif_block(0x011A, 10, 1, struct.pack("<ii", -1, 0), orientation)


def ascii_width(orientation: int) -> bytes:
    return exif_block(0x0100, 2, 6, b"wide!\0", orientation)


def png_with_chunk(kind: bytes, data: bytes, crc_error: int = 0) -> bytes:
    content = saved(person(), "PNG")
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ crc_error)
    return content[:33] + chunk + content[33:]  # after IHDR


def png_with_raw_profile() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", "\nexif\n  12\nthis is not hexadecimal", zip=True)
    return saved(person(), "PNG", pnginfo=info)


def png_text_bomb() -> bytes:
    return png_with_chunk(b"zTXt", b"comment\0\0" + zlib.compress(b"a" * (8 << 20)))


def with_orientation(value: int, kind: str = "PNG") -> bytes:
    block = exif_block(0x0131, 2, 4, b"abc\0", value)
    return saved(person(), kind, exif=block, **({"lossless": True} if kind == "WEBP" else {}))


def with_xmp(value: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP_ORIENTATION.format(value))
    return saved(person(), "PNG", pnginfo=info)


def transparent(hidden: int) -> Image.Image:
    """A person on a transparent background; `hidden` selects the colour behind the transparent pixels."""
    pixels = np.asarray(person()).copy()
    alpha = np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)
    alpha[:, :5], alpha[25:30, 5:] = 0, 128
    pixels[:, :5] = (hidden, 255 - hidden, hidden)
    return Image.fromarray(np.dstack([pixels, alpha]), "RGBA")


def expected_transparent() -> np.ndarray:
    pixels = np.asarray(transparent(0))
    return over_white(pixels[..., :3], pixels[..., 3])


def palette_with_transparency() -> bytes:
    image = Image.new("P", (WIDTH, HEIGHT), 0)
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.paste(1, (0, 0, 10, HEIGHT))
    return saved(image, "PNG", transparency=1)


def expected_palette() -> np.ndarray:
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels[:, :, 0], pixels[:, :10] = 255, 255
    return pixels


def grey_alpha() -> bytes:
    grey, alpha = np.full((HEIGHT, WIDTH), 90, np.uint8), np.full((HEIGHT, WIDTH), 255, np.uint8)
    grey[:, :10], alpha[:, :10] = 7, 0
    return saved(Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]), "PNG")


def expected_grey_alpha() -> np.ndarray:
    pixels = np.full((HEIGHT, WIDTH), 90)
    pixels[:, :10] = 255
    return grey_rgb(pixels)


def _upright() -> np.ndarray:
    return np.asarray(person())


def _turned(block: Callable[[int], bytes], kind: str) -> bytes:
    """A person stored on its side, with orientation 6 and a further entry that cannot be read."""
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    return saved(person().rotate(90, expand=True), kind, exif=block(6), **options)


def _ppm() -> bytes:
    return b"P5 %d %d 65535\n" % (WIDTH, HEIGHT) + thermal().astype(">u2").tobytes()


def _thermal_rgb() -> np.ndarray:
    return grey_rgb(thermal() >> 8)


IMAGES = {
    "negative rational": FaultyImage(".png", lambda: _turned(negative_rational, "PNG"), _upright),
    "ASCII width": FaultyImage(".png", lambda: _turned(ascii_width, "PNG"), _upright),
    "raw profile of PNG": FaultyImage(".png", png_with_raw_profile, _upright),
    "compressed text of 8 MB": FaultyImage(".png", png_text_bomb, _upright),
    "garbage EXIF in PNG": FaultyImage(".png", lambda: png_with_chunk(b"eXIf", b"garbage" * 9), _upright),
    "EXIF with a wrong checksum": FaultyImage(".png", lambda: png_with_chunk(b"eXIf", b"MM\0*" * 5, 1), _upright),
    "garbage EXIF in WebP": FaultyImage(
        ".webp", lambda: saved(person(), "WEBP", lossless=True, exif=b"Exif\0\0garbage" * 4), _upright
    ),
    "orientation 0": FaultyImage(".png", lambda: with_orientation(0), _upright),
    "orientation 9": FaultyImage(".png", lambda: with_orientation(9), _upright),
    "orientation 65535": FaultyImage(".webp", lambda: with_orientation(65535, "WEBP"), _upright),
    "orientation as text": FaultyImage(
        ".png", lambda: saved(person(), "PNG", exif=exif_block(ORIENTATION, 2, 2, b"6\0", None)), _upright
    ),
    "orientation as bytes": FaultyImage(
        ".png", lambda: saved(person(), "PNG", exif=exif_block(ORIENTATION, 7, 4, b"\6\0\0\0", None)), _upright
    ),
    "orientation 9 in XMP": FaultyImage(".png", lambda: with_xmp("9"), _upright),
    "16-bit PNG": FaultyImage(".png", lambda: saved(Image.fromarray(thermal()), "PNG"), _thermal_rgb, False),
    "16-bit TIFF": FaultyImage(".tif", lambda: saved(Image.fromarray(thermal()), "TIFF"), _thermal_rgb, False),
    "16-bit PGM": FaultyImage(".ppm", _ppm, _thermal_rgb, False),
    "32-bit TIFF": FaultyImage(
        ".tif", lambda: saved(Image.fromarray(thermal().astype(np.int32)), "TIFF"), _thermal_rgb, False
    ),
    "float TIFF": FaultyImage(
        ".tif",
        lambda: saved(Image.fromarray((thermal() / 65535).astype(np.float32)), "TIFF"),
        lambda: grey_rgb(np.rint((thermal() / 65535).astype(np.float32) * 255)),
        False,
    ),
    "RGBA": FaultyImage(".png", lambda: saved(transparent(0), "PNG"), expected_transparent, False),
    "RGBA, other hidden colour": FaultyImage(
        ".png", lambda: saved(transparent(255), "PNG"), expected_transparent, False
    ),
    "palette with transparency": FaultyImage(".png", palette_with_transparency, expected_palette, False),
    "grey with alpha": FaultyImage(".png", grey_alpha, expected_grey_alpha, False),
}  # fmt: skip
