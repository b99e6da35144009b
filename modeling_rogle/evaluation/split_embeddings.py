"""One split, encoded once: images, regions, captions and sentences as embeddings and integer ids.

`encode_split` does it in one process. Its three steps can be had apart, so that processes can share the work:
`plan_split` (every process), `encode_part` (each its share) and `assemble` (one of them). Work is shared in whole
batches, cut at the same places whatever the number of processes: the last bit of an embedding depends on the shape of
the batch that it was computed in, and so figures from two processes equal those from one exactly.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from modeling_rogle.inference.image_encoder import encode_with_templates
from modeling_rogle.modeling_rogle import RogleModel
from modeling_rogle.processing_rogle import RogleProcessor
from modeling_rogle.sentences import split_sentences
from modeling_rogle.templates import TEMPLATE_LABELS, template_boxes

FIELDS = ("image_id", "person_id", "width", "height", "caption", "captions", "sentences", "regions")  # beside `image`


def _no_parts() -> torch.Tensor:
    return torch.zeros(0, 0, 0)


@dataclass(frozen=True)
class CaptionSet:
    """C captions of one kind and their K sentences. Embeddings are unit fp32, indices int64, all on the CPU."""

    embeds: torch.Tensor  # [C, D]
    image: torch.Tensor  # [C] the image that each describes
    sentence_embeds: torch.Tensor  # [K, D]
    sentence_caption: torch.Tensor  # [K] ascending
    parts: torch.Tensor = field(default_factory=_no_parts)  # [C, slots, D] of the model's head; none without one


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
    image_parts: torch.Tensor = field(default_factory=_no_parts)  # [I, slots, D], see `reranking.py`


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
        batch_size: images a forward, a quarter where boxes are encoded as crops; texts go in fours of it.
        regions: `"true"` also encodes the rows' own regions, `"templates"` only the template boxes (no local
            protocol then).
        split: its name, which guards against choosing on test; read from a `datasets.Dataset` if None.

    Raises:
        ValueError: no rows, a row without one of its fields or with an image that cannot be read, a region without
            area in its image or of a sentence that is not there; the message names image_id and field.
    """
    plan = plan_split(processor, rows, regions, split)
    return assemble(plan, [encode_part(model, processor, rows, plan, batch_size, progress=progress, device=device)])


@dataclass
class _CaptionIndex:
    """Captions and sentences as rows of the table of different texts, until that is encoded."""

    texts: dict[str, int]
    captions: list[int] = field(default_factory=list)
    image: list[int] = field(default_factory=list)
    sentences: list[int] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)

    def add(self, caption: str, image: int, sentences: Sequence[str]) -> None:
        self.owner += [len(self.captions)] * len(sentences)
        self.captions.append(self.texts.setdefault(caption, len(self.texts)))
        self.sentences += [self.texts.setdefault(text, len(self.texts)) for text in sentences]
        self.image.append(image)

    def embedded(self, table: torch.Tensor, parts: torch.Tensor) -> CaptionSet:
        captions, image, sentences, owner = (
            torch.tensor(values).long() for values in (self.captions, self.image, self.sentences, self.owner)
        )
        return CaptionSet(table[captions], image, table[sentences], owner, parts[captions])


@dataclass(frozen=True)
class SplitPlan:
    """All of a split that is known without a model: everything but the embeddings. The same in every process."""

    split: str | None
    image_ids: list[str]  # [I]
    person_ids: torch.Tensor  # [I]
    sizes: torch.Tensor  # [I, 2]
    texts: dict[str, int]  # every different text -> its row in the table of embeddings
    long: _CaptionIndex
    short: _CaptionIndex
    sentence_region: torch.Tensor  # [K]
    region_image: torch.Tensor  # [R] ascending
    region_boxes: torch.Tensor  # [R, 4] pixels
    region_corners: torch.Tensor  # [R, 4] x0, y0, x1, y1 in [0, 1]
    region_texts: torch.Tensor  # [P, 2]


def plan_split(
    processor: RogleProcessor, rows: Sequence[Mapping[str, Any]], regions: str = "true", split: str | None = None
) -> SplitPlan:
    """Reads everything but the images. Arguments and errors: see [`encode_split`]."""
    if regions not in ("true", "templates"):
        raise ValueError(f"regions must be 'true' or 'templates', not {regions!r}")
    if len(rows) == 0:
        raise ValueError("there are no rows to encode")
    if split is None and getattr(rows, "split", None) is not None:
        split = str(rows.split)
    texts: dict[str, int] = {}
    long_set, short_set = _CaptionIndex(texts), _CaptionIndex(texts)
    image_ids, people, sizes, corners = [], [], [], []
    sentence_region: list[int] = []
    region_image: list[int] = []
    region_boxes: list[list[float]] = []
    region_texts: list[tuple[int, int]] = []
    for n, row in enumerate(without_images(rows)):
        missing = [name for name in FIELDS if name not in row]
        if missing:
            raise ValueError(f"{row.get('image_id', f'row {n}')}: field '{missing[0]}' is missing")
        image_ids.append(row["image_id"])
        people.append(row["person_id"])
        sizes.append((row["width"], row["height"]))
        sentences = [sentence["text"] for sentence in row["sentences"]] if row["caption"] else []
        if row["caption"]:
            long_set.add(row["caption"], n, sentences)
        for caption in row["captions"]:
            short_set.add(caption, n, [text for text, _, _ in split_sentences(caption, clauses=True)])
        if regions == "templates":
            sentence_region += [-1] * len(sentences)
            continue
        found, paired, said = _own_regions(row, len(sentences))
        region_texts += [(len(region_boxes) + slot, texts[sentences[sentence]]) for slot, sentence in said]
        sentence_region += [len(region_boxes) + slot if slot >= 0 else -1 for slot in paired]
        region_boxes += found
        region_image += [n] * len(found)
        corners.append(_corners(processor, row, found))
    return SplitPlan(
        split=split,
        image_ids=image_ids,
        person_ids=torch.tensor(people).long(),
        sizes=torch.tensor(sizes).long(),
        texts=texts,
        long=long_set,
        short=short_set,
        sentence_region=torch.tensor(sentence_region).long(),
        region_image=torch.tensor(region_image).long(),
        region_boxes=torch.tensor(region_boxes).float().reshape(-1, 4),
        region_corners=torch.cat(corners) if corners else torch.zeros(0, 4),
        region_texts=torch.tensor(region_texts).long().reshape(-1, 2),
    )


def without_images(rows: Sequence[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    """The rows, of a `datasets.Dataset` without the column that would be decoded."""
    return rows.remove_columns("image") if "image" in getattr(rows, "column_names", ()) else rows


@torch.no_grad()
def encode_part(
    model: RogleModel,
    processor: RogleProcessor,
    rows: Sequence[Mapping[str, Any]],
    plan: SplitPlan,
    batch_size: int = 64,
    process: int = 0,
    processes: int = 1,
    progress: bool = True,
    device: torch.device | str | None = None,
) -> dict[str, torch.Tensor]:
    """The share of one process: every `processes`-th batch of images and of texts, from the `process`-th on.

    Other arguments and errors: see [`encode_split`].

    Returns:
        Unit fp32 on the CPU with, for each, the row of the split that it belongs to (int64): `images` `[i, D]`,
        `templates` `[i, T, D]`, `image_at` `[i]`; `regions` `[r, D]`, `region_at` `[r]`; `texts` `[u, D]`, `text_at`
        `[u]`, rows of the table of different texts. What a head compares: `image_parts` `[i, slots, D]`, `text_parts`
        `[u, slots, D]`.
    """
    if device is not None:
        model = model.to(device)
    pictures = rows.select_columns(["image"]) if hasattr(rows, "select_columns") else rows
    # Of like length together: a batch costs what its longest text costs.
    texts = sorted(plan.texts, key=len)
    # Of each image a dozen crops or more are cut out at once, each as large as the image itself.
    step = max(1, batch_size // 4) if model.config.region_feature == "crop" else batch_size
    image_batches = _batches(len(rows), step)[process::processes]
    text_batches = _batches(len(texts), 4 * batch_size)[process::processes]
    image_at = torch.cat([torch.arange(b.start, b.stop) for b in image_batches] or [torch.arange(0)])
    first = torch.searchsorted(plan.region_image, torch.arange(len(rows) + 1))
    own = [torch.arange(int(first[b.start]), int(first[b.stop])) for b in image_batches]
    text_at = torch.tensor([plan.texts[text] for b in text_batches for text in texts[b]]).long()
    width = model.config.projection_dim
    part = {
        "images": torch.empty(len(image_at), width),
        "templates": torch.empty(len(image_at), len(TEMPLATE_LABELS), width),
        "image_at": image_at,
        "regions": torch.empty(sum(len(rows) for rows in own), width),
        "region_at": torch.cat(own or [torch.arange(0)]),
        "texts": torch.empty(len(text_at), width),
        "text_at": text_at,
        "image_parts": torch.empty(len(image_at), model.part_counts[0], width),
        "text_parts": torch.empty(len(text_at), model.part_counts[1], width),
    }
    was_training = model.training
    model.eval()
    try:
        images, regions = 0, 0
        for batch in tqdm(image_batches, desc="encode images", unit="batch", disable=not progress):
            span = slice(int(first[batch.start]), int(first[batch.stop]))
            decoded = [_image(pictures, n, plan.image_ids[n]) for n in range(batch.start, batch.stop)]
            box_image = plan.region_image[span] - batch.start
            found = encode_with_templates(model, processor, decoded, plan.region_corners[span], box_image)
            part["images"][images : images + len(decoded)] = found[0]
            part["templates"][images : images + len(decoded)] = found[1]
            part["regions"][regions : regions + len(box_image)] = found[2]
            if model.part_counts[0]:
                pixels = processor(images=decoded, return_tensors="pt")["pixel_values"].to(model.device)
                part["image_parts"][images : images + len(decoded)] = model.encode_image_parts(pixels).cpu()
            images, regions = images + len(decoded), regions + len(box_image)
        done = 0
        for batch in tqdm(text_batches, desc="encode texts", unit="batch", disable=not progress):
            tokens = processor(text=texts[batch], return_tensors="pt")
            found = model.encode_texts(tokens["input_ids"].to(model.device), tokens["attention_mask"].to(model.device))
            part["texts"][done : done + len(found)] = found.cpu()
            if model.part_counts[1]:
                slots = model.encode_text_parts(tokens["input_ids"].to(model.device))
                part["text_parts"][done : done + len(found)] = slots.cpu()
            done += len(found)
    finally:
        model.train(was_training)
    return part


def assemble(plan: SplitPlan, parts: Iterable[Mapping[str, torch.Tensor]]) -> SplitEmbeddings:
    """The parts of all processes -> the split. Parts are read one after another, so that they may come from disk.

    Raises:
        ValueError: the parts together are not the split, each row once.
    """
    parts = iter(parts)
    one = next(parts)
    width = one["images"].shape[1]
    sizes = {"image": len(plan.image_ids), "region": len(plan.region_image), "text": len(plan.texts)}
    whole = {
        "images": torch.empty(sizes["image"], width),
        "templates": torch.empty(sizes["image"], *one["templates"].shape[1:]),
        "regions": torch.empty(sizes["region"], width),
        "texts": torch.empty(sizes["text"], width),
        "image_parts": torch.empty(sizes["image"], *one["image_parts"].shape[1:]),
        "text_parts": torch.empty(sizes["text"], *one["text_parts"].shape[1:]),
    }
    rows = {"images": "image", "templates": "image", "image_parts": "image", "regions": "region", "texts": "text"}
    rows["text_parts"] = "text"
    times = {name: torch.zeros(size, dtype=torch.int64) for name, size in sizes.items()}
    while one is not None:
        for name, at in rows.items():
            whole[name][one[f"{at}_at"]] = one[name]
        for name, seen in times.items():
            seen.index_add_(0, one[f"{name}_at"], torch.ones(len(one[f"{name}_at"]), dtype=torch.int64))
        one = next(parts, None)
    for name, seen in times.items():
        if not bool((seen == 1).all()):
            raise ValueError(f"{name} {int((seen != 1).nonzero()[0])} was encoded {int(seen[seen != 1][0])} times")
    return SplitEmbeddings(
        split=plan.split,
        image_embeds=whole["images"],
        image_person_ids=plan.person_ids,
        image_sizes=plan.sizes,
        long=plan.long.embedded(whole["texts"], whole["text_parts"]),
        short=plan.short.embedded(whole["texts"], whole["text_parts"]),
        sentence_text_ids=torch.tensor(plan.long.sentences).long(),
        sentence_region=plan.sentence_region,
        region_embeds=whole["regions"],
        region_image=plan.region_image,
        region_boxes=plan.region_boxes,
        region_texts=plan.region_texts,
        template_embeds=whole["templates"],
        template_boxes=torch.from_numpy(template_boxes()),
        image_parts=whole["image_parts"],
    )


def _batches(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _image(rows: Sequence[Mapping[str, Any]], number: int, image_id: str) -> Any:
    try:
        image = rows[number]["image"]
        if image is not None:
            return image.convert("RGB")
    except KeyError as error:
        raise ValueError(f"{image_id}: field {error} is missing") from error
    except OSError as error:  # Pillow's, on a file that is gone or damaged
        raise ValueError(f"{image_id}: field 'image' cannot be read: {str(error).splitlines()[0]}") from error
    raise ValueError(f"{image_id}: field 'image' is null; the protocols need the image")


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
        if region["score"] is None or not np.isfinite(region["score"]):
            raise ValueError(f"{row['image_id']}: regions[{number}].score is {region['score']}, not a number")
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


__all__ = [
    "CaptionSet", "SplitEmbeddings", "SplitPlan", "assemble", "encode_part", "encode_split", "plan_split",
    "without_images",
]  # fmt: skip
