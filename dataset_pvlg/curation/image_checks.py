"""One pass over every image of a set: whether it decodes, its size, how it is stored, and its signature."""

import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from tqdm import tqdm

from dataset_pvlg.boxes import clip_regions
from dataset_pvlg.curation.near_duplicates import THUMBNAIL_SIZE, signature
from dataset_pvlg.jobs.workers import map_in_workers
from modeling_rogle.image_io import DecodedImage, ImageError, decode_image

_READ_AT_ONCE = 256  # rows that are read together
MODE, ORIENTATION = "mode", "EXIF orientation"


@dataclass
class ImageChecks:
    """Results for N images: 17 bytes each, and a thumbnail of 288 bytes that may be in a memory-mapped file.

    Args:
        hashes (`np.ndarray`): difference hashes, uint64 [N].
        thumbnails (`np.ndarray`): small grey images, uint8 [N, 288]; zeros where there is no image.
        sizes (`np.ndarray`): width and height in pixels, int32 [N, 2]; zeros where there is no image.
        fault_names (`list[str]`): values of [`storage_faults`] that occur; the first is "", for upright RGB images.
        faults (`np.ndarray`): index into `fault_names`, uint8 [N].
        errors (`dict[int, str]`): index of an image that does not decode -> reason.
    """

    hashes: np.ndarray
    thumbnails: np.ndarray
    sizes: np.ndarray
    fault_names: list[str]
    faults: np.ndarray
    errors: dict[int, str]


def check_images(
    parts: Sequence[Dataset], num_proc: int = 1, progress: bool = True, work_dir: str | Path | None = None
) -> ImageChecks:
    """Decode all images of some data sets completely, one data set after the other.

    Args:
        parts (`Sequence[Dataset]`): data sets whose `image` is not decoded (a path, bytes, or null).
        num_proc (`int`): number of processes; the result does not depend on it.
        progress (`bool`): whether to show a progress bar.
        work_dir (`str` or `Path`, *optional*): folder for the thumbnails, in an unnamed temporary file. By default
            they stay in memory.

    Raises:
        OSError: a worker process died, or the disk is full.
    """
    total = sum(map(len, parts))
    checks = ImageChecks(
        hashes=np.zeros(total, np.uint64),
        thumbnails=_empty_thumbnails(total, work_dir),
        sizes=np.zeros((total, 2), np.int32),
        fault_names=[""],
        faults=np.zeros(total, np.uint8),
        errors={},
    )
    images = (image for part in parts for image in _images(part))
    bar = tqdm(total=total, desc="checking images", unit="image", disable=None if progress else True)
    with bar:
        for number, result in enumerate(map_in_workers(_check_image, images, num_proc, [__name__])):
            bar.update()
            if result is None:
                continue
            if isinstance(result, str):
                checks.errors[number] = result
                continue
            checks.sizes[number], fault, checks.hashes[number], checks.thumbnails[number] = result
            if fault not in checks.fault_names:
                checks.fault_names.append(fault)
            checks.faults[number] = checks.fault_names.index(fault)
    return checks


def _empty_thumbnails(count: int, work_dir: str | Path | None) -> np.ndarray:
    shape = (count, THUMBNAIL_SIZE[0] * THUMBNAIL_SIZE[1])
    if work_dir is None or not count:
        return np.zeros(shape, np.uint8)
    Path(work_dir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=work_dir) as file:
        for _ in range(0, shape[0] * shape[1], 2**20):  # in a sparse file, a full disk would kill the process later
            file.write(bytes(2**20))
        file.flush()
        return np.asarray(np.memmap(file, np.uint8, "r+", shape=shape))


def _images(part: Dataset) -> Iterator[dict[str, Any] | None]:
    column = part.select_columns(["image"]).with_format("arrow")
    for start in range(0, len(part), _READ_AT_ONCE):
        yield from column[start : start + _READ_AT_ONCE]["image"].to_pylist()


def _check_image(image: dict[str, Any] | None) -> Any:
    """None without an image, the reason if it does not decode, else size, storage faults, hash and thumbnail."""
    if image is None:
        return None
    try:
        data = _content(image)
        decoded = decode_image(data, image["path"] or "")
    except (ImageError, OSError) as error:
        return str(getattr(error, "strerror", None) or error).splitlines()[0]
    return decoded.image.size, storage_faults(decoded), *signature(decoded.image)


def _content(image: dict[str, Any]) -> bytes:
    return image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()


def storage_faults(image: DecodedImage) -> str:
    """What keeps an image file from being an upright RGB image that any program reads. Empty if nothing does.

    Unreadable metadata are a fault of the orientation, because other programs then fail to rotate the image.
    """
    mode = "" if image.mode == "RGB" else f"{MODE} {image.mode}"
    unreadable = f"{ORIENTATION}, unreadable metadata" if image.metadata_fault else ""
    rotated = ORIENTATION if image.orientation != 1 else ""
    return " and ".join(part for part in (mode, unreadable or rotated) if part)


def reencode(row: dict[str, Any]) -> None:
    """Replace the image of a row by the upright RGB image that `decode_image` gives, as PNG.

    A grey image becomes three equal channels, 16 bits become 8, alpha is blended with white, and metadata are lost.
    `sha256` stays that of the source's file. If the size changes, regions are clipped to the new size.
    """
    image = decode_image(_content(row["image"]), row["image"]["path"] or "").image
    out = io.BytesIO()
    image.save(out, "PNG")
    row["image"] = {"bytes": out.getvalue(), "path": Path(row["path"] or "image").with_suffix(".png").name}
    if (row["width"], row["height"]) != image.size:
        row["width"], row["height"] = image.size
        row["regions"] = clip_regions(row["regions"], *image.size)[0]
