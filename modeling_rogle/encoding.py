"""One split, encoded once: images, regions, captions and sentences as embeddings and integer ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from .matching import encode_with_templates, template_boxes
from .modeling_rogle import RogleModel
from .processing_rogle import RogleProcessor
from .sentences import split_sentences


@dataclass(frozen=True)
class CaptionSet:
    """C captions of one kind and their K sentences. Embeddings are unit fp32, indices int64, all on the CPU."""

    embeds: torch.Tensor  # [C, D]
    image: torch.Tensor  # [C] the image that each describes
    sentence_embeds: torch.Tensor  # [K, D]
    sentence_caption: torch.Tensor  # [K] ascending


@dataclass(frozen=True)
class SplitEmbeddings:
    """I images, R different regions and T template boxes of one split. Unit fp32 and int64, all on the CPU."""

    split: str | None
    image_embeds: torch.Tensor  # [I, D]
    image_person_ids: torch.Tensor  # [I]
    image_sizes: torch.Tensor  # [I, 2] width, height in pixels of the stored image
    long: CaptionSet  # `caption` with the row's own sentences
    short: CaptionSet  # every one of `captions`, split into sentences here
    sentence_text_ids: torch.Tensor  # [K] of the long captions' sentences; equal texts have equal ids
    sentence_region: torch.Tensor  # [K] the region paired with each, -1 = none
    region_embeds: torch.Tensor  # [R, D]
    region_image: torch.Tensor  # [R]
    region_boxes: torch.Tensor  # [R, 4] x, y, w, h in pixels of the stored image
    region_texts: torch.Tensor  # [P, 2] region and text id of every sentence that speaks of a region
    template_embeds: torch.Tensor  # [I, T, D]
    template_boxes: torch.Tensor  # [T, 4] x0, y0, x1, y1 in [0, 1]


@torch.no_grad()
def encode_split(
    model: RogleModel,
    processor: RogleProcessor,
    rows: Sequence[Mapping[str, Any]],
    batch_size: int = 64,
    progress: bool = True,
    regions: str = "true",
    device: torch.device | str | None = None,
    split: str | None = None,
) -> SplitEmbeddings:
    """Encodes images, regions, captions and sentences; every different text once.

    Args:
        model: moved to `device` if one is given; its training mode is put back afterwards.
        rows: P-VLG rows with decoded images, a `datasets.Dataset` or any sequence. A row without a caption is no
            long query, one without `captions` no short one.
        batch_size: images a forward; texts go in fours of it.
        regions: `"true"` also encodes the rows' own regions, `"templates"` only the template boxes (no local
            protocol then).
        split: its name, which guards against choosing on test; read from a `datasets.Dataset` if None.

    Raises:
        ValueError: no rows, a row without image, a region without area in its image or of a sentence that is not
            there; the message names image_id and field.
    """
    if regions not in ("true", "templates"):
        raise ValueError(f"regions must be 'true' or 'templates', not {regions!r}")
    if len(rows) == 0:
        raise ValueError("there are no rows to encode")
    if device is not None:
        model = model.to(device)
    if split is None and getattr(rows, "split", None) is not None:
        split = str(rows.split)
    was_training = model.training
    model.eval()
    try:
        return _encode(model, processor, rows, batch_size, progress, regions == "true", split)
    finally:
        model.train(was_training)


def _encode(
    model: RogleModel,
    processor: RogleProcessor,
    rows: Sequence[Mapping[str, Any]],
    batch_size: int,
    progress: bool,
    own_regions: bool,
    split: str | None,
) -> SplitEmbeddings:
    texts: dict[str, int] = {}  # every different text -> its row in the table of embeddings
    long_set, short_set = _CaptionIndex(texts), _CaptionIndex(texts)
    people, sizes, image_parts, template_parts, region_parts = [], [], [], [], []
    sentence_region: list[int] = []
    region_image: list[int] = []
    region_boxes: list[list[float]] = []
    region_texts: list[tuple[int, int]] = []
    for start in tqdm(range(0, len(rows), batch_size), desc="encode images", unit="batch", disable=not progress):
        batch = [rows[i] for i in range(start, min(start + batch_size, len(rows)))]
        boxes, box_image = [], []
        for offset, row in enumerate(batch):
            if row["image"] is None:
                raise ValueError(f"{row['image_id']}: field 'image' is null; the protocols need the picture")
            people.append(row["person_id"])
            sizes.append((row["width"], row["height"]))
            sentences = [sentence["text"] for sentence in row["sentences"]] if row["caption"] else []
            if row["caption"]:
                long_set.add(row["caption"], start + offset, sentences)
            for caption in row["captions"]:
                short_set.add(caption, start + offset, [text for text, _, _ in split_sentences(caption)])
            found, paired, said = _own_regions(row, len(sentences)) if own_regions else ([], [-1] * len(sentences), [])
            region_texts += [(len(region_boxes) + slot, texts[sentences[sentence]]) for slot, sentence in said]
            sentence_region += [len(region_boxes) + n if n >= 0 else -1 for n in paired]
            region_boxes += found
            region_image += [start + offset] * len(found)
            boxes.append(_corners(processor, row, found))
            box_image += [offset] * len(found)
        pictures = [row["image"].convert("RGB") for row in batch]
        embeds = encode_with_templates(model, processor, pictures, torch.cat(boxes), torch.tensor(box_image).long())
        for parts, part in zip((image_parts, template_parts, region_parts), embeds, strict=True):
            parts.append(part)
    table = _encode_texts(model, processor, list(texts), 4 * batch_size, progress)
    return SplitEmbeddings(
        split=split,
        image_embeds=torch.cat(image_parts),
        image_person_ids=torch.tensor(people).long(),
        image_sizes=torch.tensor(sizes).long(),
        long=long_set.embedded(table),
        short=short_set.embedded(table),
        sentence_text_ids=torch.tensor(long_set.sentences).long(),
        sentence_region=torch.tensor(sentence_region).long(),
        region_embeds=torch.cat(region_parts),
        region_image=torch.tensor(region_image).long(),
        region_boxes=torch.tensor(region_boxes).float().reshape(-1, 4),
        region_texts=torch.tensor(region_texts).long().reshape(-1, 2),
        template_embeds=torch.cat(template_parts),
        template_boxes=torch.from_numpy(template_boxes()),
    )


class _CaptionIndex:
    """Captions and sentences as rows of the table of different texts, until that is encoded."""

    def __init__(self, texts: dict[str, int]):
        self.texts = texts
        self.captions: list[int] = []
        self.image: list[int] = []
        self.sentences: list[int] = []
        self.owner: list[int] = []

    def add(self, caption: str, image: int, sentences: Sequence[str]) -> None:
        self.owner += [len(self.captions)] * len(sentences)
        self.captions.append(self.texts.setdefault(caption, len(self.texts)))
        self.sentences += [self.texts.setdefault(text, len(self.texts)) for text in sentences]
        self.image.append(image)

    def embedded(self, table: torch.Tensor) -> CaptionSet:
        captions, image, sentences, owner = (
            torch.tensor(values).long() for values in (self.captions, self.image, self.sentences, self.owner)
        )
        return CaptionSet(table[captions], image, table[sentences], owner)


def _own_regions(
    row: Mapping[str, Any], n_sentences: int
) -> tuple[list[list[float]], list[int], list[tuple[int, int]]]:
    """The row's different boxes; for each sentence the one paired with it (the best scored of several) or -1; and every
    pair of a box and a sentence that speaks of it.

    One box spoken of by two sentences stands in the row twice. In a gallery it is one region: twice, it would tie with
    itself and lose.
    """
    boxes: dict[tuple[float, ...], int] = {}
    said: dict[tuple[int, int], None] = {}  # an ordered set
    paired, score = [-1] * n_sentences, [-np.inf] * n_sentences
    for number, region in enumerate(row["regions"]):
        slot = boxes.setdefault(tuple(region["bbox"]), len(boxes))
        sentence = region["sentence"]
        if sentence >= n_sentences:
            raise ValueError(f"{row['image_id']}: regions[{number}].sentence is {sentence} of {n_sentences} sentences")
        if sentence < 0:
            continue
        said[slot, sentence] = None
        if region["score"] > score[sentence]:
            paired[sentence], score[sentence] = slot, region["score"]
    return [list(box) for box in boxes], paired, list(said)


def _corners(processor: RogleProcessor, row: Mapping[str, Any], boxes: list[list[float]]) -> torch.Tensor:
    corners = torch.from_numpy(processor.normalize_boxes(boxes, row["width"], row["height"]))
    empty = (corners[:, 2:] <= corners[:, :2]).any(dim=1)
    if empty.any():
        box = boxes[int(empty.nonzero()[0])]
        raise ValueError(f"{row['image_id']}: regions.bbox {box} has no area in {row['width']} x {row['height']} px")
    return corners


def _encode_texts(
    model: RogleModel, processor: RogleProcessor, texts: list[str], batch_size: int, progress: bool
) -> torch.Tensor:
    # Of like length together: a batch costs what its longest text costs.
    order = sorted(range(len(texts)), key=lambda n: len(texts[n]))
    table = torch.zeros(len(texts), model.config.projection_dim)
    for start in tqdm(range(0, len(texts), batch_size), desc="encode texts", unit="batch", disable=not progress):
        part = order[start : start + batch_size]
        tokens = processor(text=[texts[n] for n in part], return_tensors="pt")
        found = model.encode_texts(tokens["input_ids"].to(model.device), tokens["attention_mask"].to(model.device))
        table[part] = found.cpu()
    return table


__all__ = ["CaptionSet", "SplitEmbeddings", "encode_split"]
