"""The contract of training data: what one image contributes to a step, and what a step passes to the model.

`PairDataset` makes a [`Sample`] for each image, `PairDataset.collate` makes a [`Batch`] of several samples, and
[`Batch.model_inputs`] gives the arguments of `RogleModel.forward`. Names in these classes are those of training;
only `model_inputs` maps them to the names of `forward`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import torch

# Arguments of `RogleModel.forward` that have one row for each region-sentence pair; all others have one for each image.
PAIR_INPUTS = (
    "boxes", "box_image", "sentence_input_ids", "sentence_spans", "sentence_ids", "sentence_numbers", "part_ids",
    "pair_weight",
)  # fmt: skip


@dataclass
class Sample:
    """One image of a step, its caption and its `n` drawn region-sentence pairs.

    Args:
        row (`int`): row of the training split.
        image_id (`str`): the row's `image_id`.
        image: `[3, height, width]` uint8, resized.
        person_id (`int`): identity of the pair; negative and unique if the image was mixed with another one.
        source_row (`int`): the row itself, or the replacement row whose caption is used instead.
        caption (`list[int]`): token ids of the caption, with start and end of text.
        boxes: `[n, 4]` float32 x0, y0, x1, y1 in [0, 1].
        pair_numbers (`list[int]`): number of each pair in the split.
        sentences (`list[list[int]]`): token ids of each pair's sentence.
        spans (`list[tuple[int, int]]`): first and past-last token of each sentence in the caption; (-1, -1) if the
            caption does not contain it.
        sentence_groups (`list[int]`): equal for sentences with equal text.
        sentence_numbers (`list[int]`): equal for the pairs of one sentence of this image, and for no other image.
        labels (`list[int]`): number of each region's label (body part).
        pair_weights (`list[float]`): weight of each pair in [0, 1].
        short_caption (`list[int]`, defaults to `None`): token ids of a short caption beside the long one (Long-CLIP).
        faults (`dict[str, str]`): error message by `image_id` of each unreadable image that this sample replaces.
        metadata_faults (`list[str]`): the `image_id`, when its image is first read, if its metadata cannot be read.
    """

    row: int
    image_id: str
    image: np.ndarray
    person_id: int
    source_row: int
    caption: list[int]
    boxes: np.ndarray
    pair_numbers: list[int]
    sentences: list[list[int]]
    spans: list[tuple[int, int]]
    sentence_groups: list[int]
    sentence_numbers: list[int]
    labels: list[int]
    pair_weights: list[float]
    short_caption: list[int] | None = None
    faults: dict[str, str] = field(default_factory=dict)
    metadata_faults: list[str] = field(default_factory=list)

    def keep_pairs(self, keep: Sequence[bool]) -> None:
        """Removes the region-sentence pairs that are not in the mask `keep` (`n` values)."""
        self.boxes = self.boxes[np.asarray(keep, dtype=bool)]
        names = ("pair_numbers", "sentences", "spans", "sentence_groups", "sentence_numbers", "labels", "pair_weights")
        for name in names:
            setattr(self, name, [each for each, kept in zip(getattr(self, name), keep, strict=True) if kept])


@dataclass
class Batch:
    """`b` images with their captions, and `n` region-sentence pairs of these images (each image has any number).

    The pair fields below `pair_numbers` are all None if the local branch is off (`max_pairs=0`, or a split without
    pairs). In one run they are either always there or never, because processes gather equal names.

    Args:
        images: `[b, 3, height, width]` uint8, resized; normalised on the device by `normalize_images`.
        image_ids: `b` strings.
        faults: error message by `image_id` of each image that could not be read and was replaced.
        metadata_faults: `image_id` of each image that was first read for this batch and has unreadable metadata.
        rows: `[b]` int64, row of the training split of each image.
        source_rows: `[b]` int64, row whose caption each image is trained with: its own row, or a replacement row.
        person_ids: `[b]` int64 identity of each image; negative and unique for mixed images.
        identity_classes: `[b]` int64 in [0, identities of the split), target of the identity loss.
        caption_input_ids: `[b, l]` int64 token ids, padded on the right.
        pair_numbers: `[n]` int64, number of each pair in the split; its reliability is tracked under this number.
        boxes: `[n, 4]` float32 x0, y0, x1, y1 in [0, 1].
        box_image: `[n]` int64, position in this batch of each box's image.
        sentence_input_ids: `[n, s]` int64 token ids of each pair's sentence, padded on the right.
        sentence_spans: `[n, 2]` int64 first and past-last token of the sentence in the caption; -1 if it is not in it.
        sentence_groups: `[n]` int64, equal for sentences with equal text.
        sentence_numbers: `[n]` int64, equal for the pairs of one sentence of one image, whose regions are all its
            positives.
        part_groups: `[n]` int64, equal for the same body part of the same person.
        pair_weight: `[n]` float32 in [0, 1], weight of each pair in the local loss.
        caption_weight: `[b]` float32 in [0, 1], weight of each image-caption pair in the global loss; None weighs all
            equally.
        short_input_ids: `[b, s]` int64 token ids of short captions, None without Long-CLIP's second contrast.
    """

    images: torch.Tensor
    image_ids: list[str]
    faults: dict[str, str]
    metadata_faults: list[str]
    rows: torch.Tensor
    source_rows: torch.Tensor
    person_ids: torch.Tensor
    identity_classes: torch.Tensor
    caption_input_ids: torch.Tensor
    pair_numbers: torch.Tensor
    boxes: torch.Tensor | None = None
    box_image: torch.Tensor | None = None
    sentence_input_ids: torch.Tensor | None = None
    sentence_spans: torch.Tensor | None = None
    sentence_groups: torch.Tensor | None = None
    sentence_numbers: torch.Tensor | None = None
    part_groups: torch.Tensor | None = None
    pair_weight: torch.Tensor | None = None
    caption_weight: torch.Tensor | None = None
    short_input_ids: torch.Tensor | None = None

    def model_inputs(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """Arguments of `RogleModel.forward`; those that are None are left out.

        Args:
            pixel_values: `[b, 3, height, width]` float32, the normalised images.
        """
        inputs = {
            "input_ids": self.caption_input_ids,
            "pixel_values": pixel_values,
            "person_ids": self.person_ids,
            "identities": self.identity_classes,
            "caption_weight": self.caption_weight,
            "short_input_ids": self.short_input_ids,
            "boxes": self.boxes,
            "box_image": self.box_image,
            "sentence_input_ids": self.sentence_input_ids,
            "sentence_spans": self.sentence_spans,
            "sentence_ids": self.sentence_groups,
            "sentence_numbers": self.sentence_numbers,
            "part_ids": self.part_groups,
            "pair_weight": self.pair_weight,
        }
        return {name: value for name, value in inputs.items() if value is not None}

    def to(self, device: torch.device) -> "Batch":
        """Moves all tensors but the row and pair numbers, asynchronously if their memory is pinned. In place."""
        for name, value in self._tensors():
            if name not in ("rows", "source_rows", "pair_numbers"):  # they index tables on the CPU
                setattr(self, name, value.to(device, non_blocking=True))
        return self

    def pin_memory(self) -> "Batch":
        """Pins all tensors; called by a `DataLoader` with `pin_memory=True`. In place."""
        for name, value in self._tensors():
            setattr(self, name, value.pin_memory())
        return self

    def _tensors(self) -> list[tuple[str, torch.Tensor]]:
        values = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return [(name, value) for name, value in values if isinstance(value, torch.Tensor)]


def split_inputs(inputs: dict[str, torch.Tensor], parts: int) -> list[dict[str, torch.Tensor]]:
    """Splits arguments of `RogleModel.forward` into parts of consecutive images with their pairs.

    Args:
        inputs: as [`Batch.model_inputs`] gives them.
        parts: number of parts, of equal size but for the last.
    """
    pieces = []
    for rows in torch.arange(len(inputs["input_ids"])).chunk(parts):
        start, stop = int(rows[0]), int(rows[-1]) + 1
        piece = {name: value[start:stop] for name, value in inputs.items() if name not in PAIR_INPUTS}
        if "box_image" in inputs:
            inside = (inputs["box_image"] >= start) & (inputs["box_image"] < stop)
            piece |= {name: inputs[name][inside] for name in PAIR_INPUTS if name in inputs}
            piece["box_image"] = piece["box_image"] - start
        pieces.append(piece)
    return pieces


def pad_rows(rows: Sequence[Sequence[int]], pad: int) -> torch.Tensor:
    """Pads lists of token ids on the right: `[rows, longest]` int64."""
    out = torch.full((len(rows), max(map(len, rows), default=1)), pad, dtype=torch.long)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor(row)
    return out


__all__ = ["Batch", "PAIR_INPUTS", "Sample", "pad_rows", "split_inputs"]
