"""Small images and rows of a data set to index, and a query for them."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

QUERY = "A man wears a red jacket. His shoes are white."
_COLOURS = ("red", "green", "blue", "white", "black", "orange", "purple", "brown", "pink", "grey")


def make_images(folder: Path, count: int = 10, first: int = 0) -> Path:
    """Writes different images, each of three colours, as `00.png`, `01.png`, ...; the first number is `first`."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        image = Image.new("RGB", (20 + i, 50 + i), _COLOURS[i % 10])
        image.paste(_COLOURS[(i + 3) % 10], (5, 15, 15, 30))
        image.paste(_COLOURS[(i + 7) % 10], (5, 30, 15, 48))
        image.save(folder / f"{i:02d}.png")
    return folder


def write_bomb(path: Path, width: int, height: int) -> None:
    """Writes a PNG file whose header claims width x height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b""))


def write_noise(path: Path, size: tuple[int, int] = (12, 30), **options: Any) -> Path:
    """Writes an image of random pixels, `size` wide and high, and makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def write_colour(path: Path, colour: str = "red") -> Path:
    """Writes an image of one colour, 6 x 12 pixels, and makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 12), colour).save(path)
    return path


def data_rows(count: int = 3) -> list[dict[str, Any]]:
    """Rows of a data set with images `p/0`, `p/1`, ..., 6, 7, ... pixels wide."""
    return [
        {
            "image": Image.new("RGB", (6 + n, 12), "red"),
            "image_id": f"p/{n}",
            "sha256": f"{n:064d}",
            "person_id": n,
            "camera": "c1" if n else None,
            "captions": ["a man"],
        }
        for n in range(count)
    ]
