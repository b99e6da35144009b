"""Decodes the items of a source in batches, in threads or worker processes, and names those that cannot be read."""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import torch
from PIL import Image

from modeling_rogle.image_io import ImageError
from modeling_rogle.indexing.image_folder import Skipped
from modeling_rogle.indexing.image_sources import Item, Source
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.processing_rogle import RogleProcessor

COPY_QUALITY = 90  # of the JPEG copies that an index stores
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class DecodedItem:
    """A decoded item.

    Attributes:
        item: the item.
        row: the columns of the item's row in the index.
        pixels: `[3, height, width]`, normalised by the processor; None where a detector comes first.
        image: the image at full resolution where a detector comes first, otherwise None.
        copy: JPEG that the index stores; None where the image is a file.
        metadata_fault: why metadata of the image cannot be read; None if nothing is wrong.
    """

    item: Item
    row: dict[str, Any]
    pixels: torch.Tensor | None = None
    image: Image.Image | None = None
    copy: bytes | None = None
    metadata_fault: str | None = None


@dataclass
class ItemDecoder:
    """Decodes items by number, as a data set of torch; an item that cannot be read becomes [`Skipped`].

    Attributes:
        source: the source of the items.
        processor: the processor of the model.
        min_size: height and width in pixels of the model's input.
        detecting: keep images at full resolution for a detector and compute no pixels.
        items: the items to decode.
    """

    source: Source
    processor: RogleProcessor
    min_size: tuple[int, int]
    detecting: bool
    items: Sequence[Item] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> DecodedItem | Skipped:
        item = self.items[number]
        try:
            image = self.source.read(item, None if self.detecting else self.min_size, self.processor.fit)
        except ImageError as error:
            return Skipped(item.path, " ".join(str(error).split()))
        row = {
            "path": item.path,
            "sha256": self.source.rows is not None and item.sha256 or image.sha256,
            "width": image.width,
            "height": image.height,
            "bytes": image.bytes,
            "mtime": None if item.mtime is None else EPOCH + timedelta(microseconds=item.mtime),
        }
        if self.detecting:
            return DecodedItem(item, row, image=image.image, metadata_fault=image.metadata_fault)
        copy = None
        if self.source.rows is not None:
            copy = as_jpeg(image.image, (image.width, image.height), self.min_size)
        return DecodedItem(item, row, self.pixels([image.image])[0], copy=copy, metadata_fault=image.metadata_fault)

    def pixels(self, images: list[Image.Image]) -> torch.Tensor:
        """Returns `[n, 3, height, width]`, the model's input for n images."""
        return self.processor(images=images, return_tensors="pt")["pixel_values"]


def as_jpeg(image: Image.Image, size: tuple[int, int], min_size: tuple[int, int]) -> bytes:
    """Encodes the copy of an image that an index stores: twice the model's input size, without distortion.

    Args:
        image: the decoded RGB image, which may be reduced.
        size: width and height in pixels of the image before it was reduced.
        min_size: height and width in pixels of the model's input.
    """
    factor = max(1.0, min(size[0] / (2 * min_size[1]), size[1] / (2 * min_size[0])))
    copy_size = (max(1, round(size[0] / factor)), max(1, round(size[1] / factor)))
    buffer = io.BytesIO()
    (image if image.size == copy_size else image.resize(copy_size)).save(buffer, "JPEG", quality=COPY_QUALITY)
    return buffer.getvalue()


def decoded_batches(
    decoder: ItemDecoder, batch_size: int, workers: int
) -> Iterator[tuple[list[DecodedItem], list[Skipped], int]]:
    """Decodes a decoder's items in order; the next batches are decoded while the caller works on the current one.

    Args:
        decoder: the decoder.
        batch_size: number of items in a batch.
        workers: number of processes that decode; 0 decodes in threads, which is as fast where the model runs on the
            CPU.

    Yields:
        decoded items, skipped items, and the number of both.

    Raises:
        GalleryError: a worker process died.
    """
    batches: Iterable[list[DecodedItem | Skipped]]
    if workers:
        batches = torch.utils.data.DataLoader(decoder, batch_size, num_workers=workers, collate_fn=list)
    else:
        batches = _threaded(decoder, batch_size)
    try:
        for batch in batches:
            decoded = [item for item in batch if isinstance(item, DecodedItem)]
            yield decoded, [item for item in batch if isinstance(item, Skipped)], len(batch)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise GalleryError(
            "a process that decodes images died; indexed images are kept; run again, if necessary with --workers 0"
        ) from error


def _threaded(decoder: ItemDecoder, batch_size: int) -> Iterator[list[DecodedItem | Skipped]]:
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # Pillow releases the interpreter lock
        next_batch: list[Future] = []
        for start in range(0, len(decoder) + batch_size, batch_size):
            numbers = range(start, min(start + batch_size, len(decoder)))
            batch, next_batch = next_batch, [pool.submit(decoder.__getitem__, number) for number in numbers]
            if batch:
                yield [future.result() for future in batch]


def default_workers(device: torch.device) -> int:
    """Returns the default number of decoding processes: 0 for a model on the CPU, otherwise one per core, at most 8.

    Args:
        device: device of the model. On a CPU, worker processes would compete with the model for the cores.
    """
    return 0 if device.type == "cpu" else min(8, max(1, (os.cpu_count() or 1) - 1))


__all__ = ["DecodedItem", "ItemDecoder", "as_jpeg", "decoded_batches", "default_workers"]
