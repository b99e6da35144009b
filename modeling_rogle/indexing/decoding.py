"""Items of a source -> decoded images in batches, by threads or worker processes; what cannot be read is named."""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import torch
from PIL import Image

from modeling_rogle.indexing.image_folder import Skipped
from modeling_rogle.indexing.image_sources import Item, Source
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.inference.image_io import ImageError
from modeling_rogle.processing_rogle import RogleProcessor

COPY_QUALITY = 90  # of the JPEG copies of what is no file
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Ready:
    """An item decoded: the facts of its row, and its pixels `[3, height, width]`, or the image where a detector comes
    first, and the JPEG that the index keeps."""

    item: Item
    facts: dict[str, Any]
    pixels: torch.Tensor | None = None
    image: Image.Image | None = None
    copy: bytes | None = None


@dataclass
class Preparer:
    """Decodes an item as far as a worker can; images that cannot be read become [`Skipped`]."""

    source: Source
    processor: RogleProcessor
    least: tuple[int, int]
    detecting: bool
    items: Sequence[Item] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> Ready | Skipped:
        item = self.items[number]
        try:
            image = self.source.read(item, None if self.detecting else self.least)
        except ImageError as error:
            return Skipped(item.path, " ".join(str(error).split()))
        facts = {
            "path": item.path,
            "sha256": self.source.rows is not None and item.sha256 or image.sha256,
            "width": image.width,
            "height": image.height,
            "bytes": image.bytes,
            "mtime": None if item.mtime is None else EPOCH + timedelta(microseconds=item.mtime),
        }
        if self.detecting:
            return Ready(item, facts, image=image.image)
        copy = None
        if self.source.rows is not None:
            copy = as_jpeg(image.image, (image.width, image.height), self.least)
        return Ready(item, facts, pixels=self.pixels([image.image])[0], copy=copy)

    def pixels(self, images: list[Image.Image]) -> torch.Tensor:
        return self.processor(images=images, return_tensors="pt")["pixel_values"]


def as_jpeg(image: Image.Image, size: tuple[int, int], least: tuple[int, int]) -> bytes:
    """An RGB image as the index keeps it: twice as high or as wide as the model sees it, not distorted.

    Args:
        size: width and height of the image before it was decoded smaller.
        least: height and width that the model reads.
    """
    shrink = max(1.0, min(size[0] / (2 * least[1]), size[1] / (2 * least[0])))
    kept = tuple(max(1, round(side / shrink)) for side in size)
    held = io.BytesIO()
    (image if image.size == kept else image.resize(kept)).save(held, "JPEG", quality=COPY_QUALITY)
    return held.getvalue()


def prepared_batches(
    preparer: Preparer, batch_size: int, workers: int
) -> Iterator[tuple[list[Ready], list[Skipped], int]]:
    """Decodes a preparer's items in batches, in order, the next ones while the caller works on this one.

    Args:
        workers: processes that decode; 0 for threads of this one, which is as good where the model runs on the CPU.

    Yields:
        what was decoded, what could not be, and how many items that were.

    Raises:
        GalleryError: a worker process died.
    """
    batches: Iterable[list[Ready | Skipped]]
    if workers:
        batches = torch.utils.data.DataLoader(preparer, batch_size, num_workers=workers, collate_fn=list)
    else:
        batches = _threaded(preparer, batch_size)
    try:
        for done in batches:
            good = [item for item in done if isinstance(item, Ready)]
            yield good, [item for item in done if isinstance(item, Skipped)], len(done)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise GalleryError(
            "a process that decodes images died; what was indexed is kept; run again, perhaps with --workers 0"
        ) from error


def _threaded(preparer: Preparer, batch_size: int) -> Iterator[list[Ready | Skipped]]:
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # Pillow decodes without the interpreter's lock
        ahead: list[Future] = []
        for start in range(0, len(preparer) + batch_size, batch_size):
            numbers = range(start, min(start + batch_size, len(preparer)))
            current, ahead = ahead, [pool.submit(preparer.__getitem__, number) for number in numbers]
            if current:
                yield [future.result() for future in current]


def default_workers(device: torch.device) -> int:
    """Decoding processes: none beside a model on the CPU, whose cores they would take; else one a core, 8 at most."""
    return 0 if device.type == "cpu" else min(8, max(1, (os.cpu_count() or 1) - 1))


__all__ = ["EPOCH", "Preparer", "Ready", "as_jpeg", "default_workers", "prepared_batches"]
