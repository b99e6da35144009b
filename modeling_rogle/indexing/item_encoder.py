"""Decodes and encodes items and adds them to an index, which is committed every few seconds."""

import secrets
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from modeling_rogle.image_io import printable_path
from modeling_rogle.index.index_writer import SMALL_SHARD, IndexWriter
from modeling_rogle.index.manifest import COPIES_FOLDER, COPY_COLUMN
from modeling_rogle.indexing.decoding import DecodedItem, ItemDecoder, as_jpeg, decoded_batches
from modeling_rogle.indexing.image_folder import Skipped
from modeling_rogle.indexing.image_sources import Item, Source
from modeling_rogle.indexing.person_detector import Detection, Detector
from modeling_rogle.inference.image_encoder import encode_pixels, with_fast_dtype
from modeling_rogle.modeling_rogle import RogleModel
from modeling_rogle.processing_rogle import RogleProcessor

COMMIT_SECONDS = 5.0  # between two commits; a killed run loses at most this much work
SCENE_BATCH = 4  # scenes in a batch: they are decoded at full resolution, up to 240 MB each


class ItemEncoder:
    """Encodes items of a source and adds them to an index.

    Args:
        source: the source of the items.
        model: the model.
        processor: the processor of that model.
        detector: detects persons in full scenes; None where an item is an image of one person.
        writer: writer of the index. If it has one template, the whole image, no regions are encoded.

    Attributes:
        added: number of images that were added.
        copied: number of these images that are exact copies of another one, whose embeddings they share.
        skipped: items that cannot be read or show no person.
        metadata_faults: paths of images whose metadata cannot be read; their pixels are used.
    """

    def __init__(
        self,
        source: Source,
        model: RogleModel,
        processor: RogleProcessor,
        detector: Detector | None,
        writer: IndexWriter,
    ):
        self.source, self.detector, self.writer = source, detector, writer
        self.model, self.processor = with_fast_dtype(model), processor
        self.added = self.copied = 0
        self.ids: dict[tuple, int] = {}  # SHA-256 of a file, and in a scene the box -> id of its row
        header = writer.header
        width, count = header["dimension"], len(header["template_boxes"])
        self._nothing = np.zeros((0, width), np.float32), np.zeros((0, count, width), np.float32)
        self.skipped: list[Skipped] = []
        self.metadata_faults: list[str] = []

    def run(
        self, items: Sequence[Item], batch_size: int, workers: int, progress: bool, commit: Callable[[], None]
    ) -> None:
        """Encodes items.

        Args:
            items: the items to encode.
            batch_size: images in a forward pass.
            workers: number of processes that decode; 0 decodes in threads.
            progress: show a progress bar. It counts committed items only.
            commit: commits what the writer has; called every COMMIT_SECONDS and at the end.

        Raises:
            GalleryError: a worker process died, or the embeddings are not finite.
        """
        if items and self.source.rows is None:
            self.ids = self.writer.ids_by_file()
        height, width = self.model.config.image_size
        decoder = ItemDecoder(self.source, self.processor, (height, width), self.detector is not None, items)
        decoded_size = min(batch_size, SCENE_BATCH) if self.detector is not None else batch_size
        last_commit = time.monotonic()
        with tqdm(total=len(items), unit=" images", desc="indexing", disable=not progress) as bar:
            uncommitted = 0
            for decoded, skipped, count in decoded_batches(decoder, decoded_size, workers):
                self.skipped += skipped
                self.metadata_faults += [printable_path(item.item.path) for item in decoded if item.metadata_fault]
                uncommitted += count
                if self.detector is not None and decoded:
                    decoded = self._persons(self.detector, decoded, decoder)
                self._add(decoded, batch_size)
                is_due = time.monotonic() - last_commit >= COMMIT_SECONDS
                if self.writer.pending_rows and (is_due or self.writer.pending_rows >= SMALL_SHARD):
                    commit()
                    bar.update(uncommitted)
                    uncommitted, last_commit = 0, time.monotonic()
            if self.writer.pending_rows:
                commit()
            bar.update(uncommitted)

    def _add(self, decoded: Sequence[DecodedItem], batch_size: int) -> None:
        copies = self.writer.path / COPIES_FOLDER
        for start in range(0, len(decoded), batch_size):
            batch = decoded[start : start + batch_size]
            copy_of = self._copies(batch)
            new = [item.pixels for n, item in enumerate(batch) if n not in copy_of]
            has_regions = len(self.writer.header["template_boxes"]) > 1
            images, regions = encode_pixels(self.model, torch.stack(new), has_regions) if new else self._nothing
            for item in batch:
                if item.copy is not None:
                    # A random name, which no copy of another index in this folder has while that index is in use.
                    name = secrets.token_hex(16) + ".jpg"
                    copies.mkdir(exist_ok=True)
                    (copies / name).write_bytes(item.copy)
                    item.row[COPY_COLUMN] = name
            self.writer.add([item.row for item in batch], images, regions, copy_of)
            self.added += len(batch)
            self.copied += len(copy_of)

    def _copies(self, batch: Sequence[DecodedItem]) -> dict[int, int]:
        """Position in the batch -> id of an earlier row with the same file, and in a scene the same box."""
        if self.source.rows is not None:  # the SHA-256 of a data set's row is not that of the bytes that were decoded
            return {}
        copy_of = {}
        for n, item in enumerate(batch):
            key = (item.row["sha256"], *item.row.get("box", ()))
            number = self.ids.setdefault(key, self.writer.header["next_id"] + n)
            if number != self.writer.header["next_id"] + n:
                copy_of[n] = number
        return copy_of

    def _persons(self, detector: Detector, scenes: Sequence[DecodedItem], decoder: ItemDecoder) -> list[DecodedItem]:
        """Detects the persons in decoded scenes and returns an item for each."""
        persons = []
        images = [scene.image for scene in scenes if scene.image is not None]  # decoded for a detector, all have one
        for scene, image, detections in zip(scenes, images, detector(images), strict=True):
            if not detections:
                self.skipped.append(Skipped(scene.item.path, "no person found"))
            persons += [_person(scene, image, n, detection, decoder) for n, detection in enumerate(detections)]
        return persons


def _person(
    scene: DecodedItem, image: Image.Image, number: int, detection: Detection, decoder: ItemDecoder
) -> DecodedItem:
    """Crops the person of one detection from the image of a scene."""
    x, y, width, height = detection.box
    crop = image.crop((x, y, x + width, y + height))
    row = {
        **scene.row,
        "path": f"{scene.item.path}#{number}",
        "width": width,
        "height": height,
        "scene": scene.item.path,
        "box": [float(value) for value in detection.box],
    }
    copy = as_jpeg(crop, crop.size, decoder.min_size)
    return DecodedItem(scene.item, row, pixels=decoder.pixels([crop])[0], copy=copy)


__all__ = ["ItemEncoder"]
