"""One look at every image of a set: whether it decodes, how large it is, how it is stored, its signature."""

import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from datasets import Dataset
from tqdm import tqdm

from dataset_pvlg.boxes import clip_regions
from dataset_pvlg.curation.near_duplicates import THUMB, signature
from dataset_pvlg.jobs.stages import map_in_workers
from modeling_rogle.inference.image_io import EXIF_ORIENTATION, FORMATS, ImageError, decode_image

_AT_ONCE = 256  # images a process is given together
MODE, ORIENTATION = "mode", "EXIF orientation"


@dataclass
class Looks:
    """What is kept of N images: 17 bytes each and the thumb of 288, which may lie in a mapped file."""

    hashes: np.ndarray  # uint64 [N]
    thumbs: np.ndarray  # uint8 [N, 288]; zeros where there is no image
    sizes: np.ndarray  # int32 [N, 2], width and height
    ways: list[str]  # how images are stored that are not upright RGB ones; the first is "": as they should be
    stored: np.ndarray  # uint8 [N], which of `ways`
    problems: dict[int, str]  # row -> why it does not decode


def look(
    parts: Sequence[Dataset], num_proc: int = 1, progress: bool = True, work_dir: str | Path | None = None
) -> Looks:
    """Decodes the images of some data sets, one after the other, whole.

    Args:
        parts: data sets whose `image` is not decoded (a path, bytes, or null).
        num_proc: processes; the answer does not depend on it.
        progress: show a bar.
        work_dir: a folder on whose disk the thumbs lie, in a file without a name that goes with them. By default they
            stay in memory.

    Raises:
        OSError: a process died, or the disk is full.
    """
    total = sum(map(len, parts))
    looks = Looks(
        np.zeros(total, np.uint64), _room(total, work_dir), np.zeros((total, 2), np.int32), [""],
        np.zeros(total, np.uint8), {},
    )  # fmt: skip
    images = (image for part in parts for image in _images(part))
    bar = tqdm(total=total, desc="looking at images", unit="image", disable=None if progress else True)
    with bar:
        for number, seen in enumerate(map_in_workers(_see, images, num_proc, [__name__])):
            bar.update()
            if seen is None:
                continue
            if isinstance(seen, str):
                looks.problems[number] = seen
                continue
            looks.sizes[number], stored, looks.hashes[number], looks.thumbs[number] = seen
            if stored not in looks.ways:
                looks.ways.append(stored)
            looks.stored[number] = looks.ways.index(stored)
    return looks


def _room(count: int, work_dir: str | Path | None) -> np.ndarray:
    """Thumbs of zeros."""
    shape = (count, THUMB[0] * THUMB[1])
    if work_dir is None or not count:
        return np.zeros(shape, np.uint8)
    Path(work_dir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=work_dir) as file:
        for _ in range(0, shape[0] * shape[1], 2**20):  # in a file with holes a full disk would end the process
            file.write(bytes(2**20))
        file.flush()
        return np.asarray(np.memmap(file, np.uint8, "r+", shape=shape))


def _images(part: Dataset) -> Iterator[dict[str, Any] | None]:
    column = part.select_columns(["image"]).with_format("arrow")
    for start in range(0, len(part), _AT_ONCE):
        yield from column[start : start + _AT_ONCE]["image"].to_pylist()


def _see(image: dict[str, Any] | None) -> Any:
    """None without an image, the reason if it does not decode, else (size, how it is stored, hash, thumb)."""
    if image is None:
        return None
    try:
        data = _content(image)
        picture = decode_image(data, image["path"] or "")
    except (ImageError, OSError) as error:
        return str(getattr(error, "strerror", None) or error).splitlines()[0]
    return picture.image.size, stored_as(data), *signature(picture.image)


def _content(image: dict[str, Any]) -> bytes:
    return image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()


def stored_as(data: bytes) -> str:
    """What keeps an image from being an upright RGB one, by its header; empty if nothing does."""
    with PIL.Image.open(io.BytesIO(data), formats=FORMATS) as header:
        turned = header.getexif().get(EXIF_ORIENTATION, 1) not in (0, 1)
        mode = "" if header.mode == "RGB" else f"{MODE} {header.mode}"
    return " and ".join(part for part in (mode, ORIENTATION if turned else "") if part)


def store_anew(row: dict[str, Any]) -> None:
    """Replaces a row's image by the upright RGB one that `decode_image` makes of it (grey in three channels, 16
    bits as 8, alpha left out), as PNG: nothing else is lost. `sha256` stays that of the source's file."""
    image = decode_image(_content(row["image"]), row["image"]["path"] or "").image
    out = io.BytesIO()
    image.save(out, "PNG")
    row["image"] = {"bytes": out.getvalue(), "path": Path(row["path"] or "image").with_suffix(".png").name}
    if (row["width"], row["height"]) != image.size:
        row["width"], row["height"] = image.size
        row["regions"] = clip_regions(row["regions"], *image.size)[0]
