"""The embeddings of one split: images, regions, captions and sentences, with integer ids.

`encode_split` computes them in one process. Its three steps are separate functions, so that processes can share the
work: `plan_split` (in every process), `encode_part` (its share in each) and `assemble` (in one). Work is shared in
whole batches, which are the same for any number of processes. The last bit of an embedding depends on the shape of its
batch, so the figures of two processes equal those of one exactly.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from tqdm.auto import tqdm

from modeling_rogle.box_ops import TEMPLATE_LABELS, template_boxes
from modeling_rogle.evaluation.split_regions import RegionReader, RegionTables
from modeling_rogle.image_io import DecodedImage, ImageError, decode_stored
from modeling_rogle.inference.image_encoder import encode_with_templates
from modeling_rogle.inference.row_images import undecoded, warn_of_metadata
from modeling_rogle.modeling_rogle import RogleModel
from modeling_rogle.processing_rogle import RogleProcessor
from modeling_rogle.sentences import query_sentences, split_clauses

# Fields that a row must have, besides `image`.
FIELDS = ("image_id", "person_id", "width", "height", "caption", "captions", "sentences", "regions")


# The tables of `RegionTables` that a split keeps.
REGION_TABLES = (
    "sentence_region", "own_regions", "region_image", "region_boxes", "region_texts", "region_labels", "claims",
    "region_facts", "facts_known",
)  # fmt: skip


def _no_parts() -> torch.Tensor:
    return torch.zeros(0, 0, 0)


@dataclass(frozen=True)
class CaptionSet:
    """C captions of one kind and their K sentences. Embeddings are fp32 unit vectors, indices int64, all on the CPU."""

    embeds: torch.Tensor  # [C, D]
    image: torch.Tensor  # [C] the image that each caption describes
    sentence_embeds: torch.Tensor  # [K, D]
    sentence_caption: torch.Tensor  # [K] ascending, the caption of each sentence
    parts: torch.Tensor = field(default_factory=_no_parts)  # [C, slots, D] of the model's head, if it has slots
    clause_embeds: torch.Tensor | None = None  # [U, D] clauses of the sentences; None: each sentence is one clause
    clause_caption: torch.Tensor | None = None  # [U] ascending, the caption of each clause

    @property
    def clauses(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What late interaction scores, as in a search: `[U, D]` clauses, and `[U]` int64, the caption of each."""
        if self.clause_embeds is None or self.clause_caption is None:
            return self.sentence_embeds, self.sentence_caption
        return self.clause_embeds, self.clause_caption


@dataclass(frozen=True)
class SplitEmbeddings:
    """I images, R distinct regions and T template boxes of one split. fp32 unit vectors and int64, all on the CPU."""

    split: str | None
    image_embeds: torch.Tensor  # [I, D]
    image_person_ids: torch.Tensor  # [I]
    image_sizes: torch.Tensor  # [I, 2] width, height in pixels of the stored image
    long: CaptionSet  # `caption`, with the sentences of the row
    short: CaptionSet  # each of `captions`, split into sentences here
    sentence_text_ids: torch.Tensor  # [K] of the long captions' sentences; equal texts have equal ids
    sentence_region: torch.Tensor  # [K] the region paired with each sentence; of several the best scored; -1: none
    region_embeds: torch.Tensor  # [R, D]
    region_image: torch.Tensor  # [R]
    region_boxes: torch.Tensor  # [R, 4] x, y, w, h in pixels of the stored image
    region_texts: torch.Tensor  # [P, 2] region and text id of every sentence that describes a region
    template_embeds: torch.Tensor  # [I, T, D]
    template_boxes: torch.Tensor  # [T, 4] x0, y0, x1, y1 in [0, 1]
    own_regions: torch.Tensor  # [P, 2] sentence and region of every pair
    region_labels: torch.Tensor  # [R] equal ids mean equal part labels; -1: none
    claims: torch.Tensor  # [N, 3] sentence, group and fact, see metrics/relevance.py
    region_facts: torch.Tensor  # [M, 2] region and fact
    facts_known: torch.Tensor  # bool []: facts are those of the rows; else words of the sentences replace them
    image_parts: torch.Tensor = field(default_factory=_no_parts)  # [I, slots, D], see head_similarity.py

    def captions(self, kind: str) -> CaptionSet:
        """The captions of one kind, `"long"` or `"short"`.

        Raises:
            ValueError: another kind.
        """
        if kind not in ("long", "short"):
            raise ValueError(f"captions must be 'long' or 'short', not {kind!r}")
        return self.long if kind == "long" else self.short


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
    """Encodes the images, regions, captions and sentences of a split; every distinct text once.

    Args:
        model: a model; its training mode is restored afterwards.
        processor: the model's processor.
        rows: P-VLG rows with decoded images, a `datasets.Dataset` or any sequence. A row without `caption` adds no long
            query, a row without `captions` adds no short one.
        batch_size: images per forward pass, 64 by default. It is divided by 4 if regions are encoded as crops, and
            multiplied by 4 for texts.
        progress: show progress bars, on by default.
        regions: `"true"`, the default, encodes the regions of the rows and the template boxes; `"templates"` encodes
            the template boxes only, so that the local protocol cannot be scored.
        device: device that the model is moved to; by default the model stays where it is.
        split: name of the split, which prevents a choice on the test split; by default that of a `datasets.Dataset`.

    Returns:
        The embeddings.

    Raises:
        ValueError: no rows; a row without one of its fields, or with an image that cannot be read; a region without
            area in its image, or with a sentence that does not exist. The message names image_id and field.
    """
    plan = plan_split(processor, rows, regions, split)
    return assemble(plan, [encode_part(model, processor, rows, plan, batch_size, progress=progress, device=device)])


@dataclass
class _CaptionIndex:
    """Captions and sentences as rows of the table of distinct texts, before the table is encoded."""

    texts: dict[str, int]
    captions: list[int] = field(default_factory=list)
    image: list[int] = field(default_factory=list)
    sentences: list[int] = field(default_factory=list)
    sentence_caption: list[int] = field(default_factory=list)
    clauses: list[int] = field(default_factory=list)
    clause_caption: list[int] = field(default_factory=list)

    def add(self, caption: str, image: int, sentences: Sequence[str]) -> None:
        number = len(self.captions)
        clauses = [clause for sentence in sentences for clause, _, _ in split_clauses(sentence)]
        self.captions.append(self._text(caption))
        self.image.append(image)
        self.sentences += map(self._text, sentences)
        self.sentence_caption += [number] * len(sentences)
        self.clauses += map(self._text, clauses)
        self.clause_caption += [number] * len(clauses)

    def _text(self, text: str) -> int:
        return self.texts.setdefault(text, len(self.texts))

    def caption_set(self, text_embeds: torch.Tensor, text_parts: torch.Tensor) -> CaptionSet:
        def ids(values: list[int]) -> torch.Tensor:
            return torch.tensor(values).long()

        return CaptionSet(
            embeds=text_embeds[ids(self.captions)],
            image=ids(self.image),
            sentence_embeds=text_embeds[ids(self.sentences)],
            sentence_caption=ids(self.sentence_caption),
            parts=text_parts[ids(self.captions)],
            clause_embeds=text_embeds[ids(self.clauses)],
            clause_caption=ids(self.clause_caption),
        )


@dataclass(frozen=True)
class SplitPlan:
    """Everything about a split except the embeddings; the same in every process. No model is needed for it."""

    split: str | None
    image_ids: list[str]  # [I]
    person_ids: torch.Tensor  # [I]
    sizes: torch.Tensor  # [I, 2]
    texts: dict[str, int]  # each distinct text -> its row in the table of text embeddings
    long: _CaptionIndex
    short: _CaptionIndex
    regions: RegionTables


def plan_split(
    processor: RogleProcessor, rows: Sequence[Mapping[str, Any]], regions: str = "true", split: str | None = None
) -> SplitPlan:
    """Reads everything except the images. Arguments and errors: see [`encode_split`]."""
    if regions not in ("true", "templates"):
        raise ValueError(f"regions must be 'true' or 'templates', not {regions!r}")
    if len(rows) == 0:
        raise ValueError("there are no rows to encode")
    rows_split = getattr(rows, "split", None)
    if split is None and rows_split is not None:
        split = str(rows_split)
    texts: dict[str, int] = {}
    long_index, short_index = _CaptionIndex(texts), _CaptionIndex(texts)
    image_ids, people, sizes = [], [], []
    reader = RegionReader(processor)
    for n, row in enumerate(without_images(rows)):
        missing = [name for name in FIELDS if name not in row]
        if missing:
            raise ValueError(f"{row.get('image_id', f'row {n}')}: field '{missing[0]}' is missing")
        image_ids.append(row["image_id"])
        people.append(row["person_id"])
        sizes.append((row["width"], row["height"]))
        sentences = [sentence["text"] for sentence in row["sentences"]] if row["caption"] else []
        if row["caption"]:
            long_index.add(row["caption"], n, sentences)
        for caption in row["captions"]:
            short_index.add(caption, n, [text for text, _, _ in query_sentences(caption)[0]])
        reader.add(row, n, [texts[sentence] for sentence in sentences], regions == "true")
    return SplitPlan(
        split=split,
        image_ids=image_ids,
        person_ids=torch.tensor(people).long(),
        sizes=torch.tensor(sizes).long(),
        texts=texts,
        long=long_index,
        short=short_index,
        regions=reader.tables(texts, long_index.sentences),
    )


def without_images(rows: Any) -> Iterable[Mapping[str, Any]]:
    """The rows; of a `datasets.Dataset` without the image column, which reading would decode."""
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
    """Encodes the share of one process.

    Args:
        model: see [`encode_split`].
        processor: see [`encode_split`].
        rows: see [`encode_split`].
        plan: the result of [`plan_split`] for these rows.
        batch_size: see [`encode_split`].
        process: number of this process, 0 by default. It encodes every `processes`-th batch of images and of texts,
            starting with this one.
        processes: number of processes, 1 by default.
        progress: see [`encode_split`].
        device: see [`encode_split`].

    Returns:
        fp32 unit vectors on the CPU, each with the int64 rows of the split that it fills: `images` `[i, D]`,
        `templates` `[i, T, D]` and `image_parts` `[i, slots, D]` with `image_at` `[i]`; `regions` `[r, D]` with
        `region_at` `[r]`; `texts` `[u, D]` and `text_parts` `[u, slots, D]` with `text_at` `[u]`, rows of the table of
        distinct texts.

    Raises:
        ValueError: see [`encode_split`].
    """
    if device is not None:
        model = model.to(device)
    # Crops: a dozen or more are cut from each image, each as large as the image itself.
    step = max(1, batch_size // 4) if model.config.region_feature == "crop" else batch_size
    was_training = model.training
    model.eval()
    try:
        image_batches = _batches(len(rows), step)[process::processes]
        part = _encode_images(model, processor, rows, plan, image_batches, progress)
        text_batches = _batches(len(plan.texts), 4 * batch_size)[process::processes]
        return part | _encode_texts(model, processor, plan, text_batches, progress)
    finally:
        model.train(was_training)


def _encode_images(
    model: RogleModel,
    processor: RogleProcessor,
    rows: Sequence[Mapping[str, Any]],
    plan: SplitPlan,
    batches: Sequence[slice],
    progress: bool,
) -> dict[str, torch.Tensor]:
    """The image part of [`encode_part`]'s result."""
    images_only = undecoded(rows.select_columns(["image"]) if hasattr(rows, "select_columns") else rows)
    metadata_faults: list[str] = []
    image_at = torch.cat([torch.arange(b.start, b.stop) for b in batches] or [torch.arange(0)])
    first = torch.searchsorted(plan.regions.region_image, torch.arange(len(rows) + 1))
    spans = [slice(int(first[b.start]), int(first[b.stop])) for b in batches]
    region_at = torch.cat([torch.arange(s.start, s.stop) for s in spans] or [torch.arange(0)])
    width, slots = model.config.projection_dim, model.part_counts[0]
    part = {
        "images": torch.empty(len(image_at), width),
        "templates": torch.empty(len(image_at), len(TEMPLATE_LABELS), width),
        "image_at": image_at,
        "regions": torch.empty(len(region_at), width),
        "region_at": region_at,
        "image_parts": torch.empty(len(image_at), slots, width),
    }
    images, regions = 0, 0
    for batch, span in zip(tqdm(batches, desc="encode images", unit="batch", disable=not progress), spans, strict=True):
        decoded = []
        for n in range(batch.start, batch.stop):
            read = _image(images_only, n, plan.image_ids[n])
            decoded.append(read.image)
            metadata_faults += [read.path] if read.metadata_fault else []
        box_image = plan.regions.region_image[span] - batch.start
        to_images, to_regions = slice(images, images + len(decoded)), slice(regions, regions + len(box_image))
        part["images"][to_images], part["templates"][to_images], part["regions"][to_regions] = encode_with_templates(
            model, processor, decoded, plan.regions.region_corners[span], box_image
        )
        if slots:
            pixels = processor(images=decoded, return_tensors="pt")["pixel_values"].to(model.device)
            part["image_parts"][to_images] = model.encode_image_parts(pixels).cpu()
        images, regions = to_images.stop, to_regions.stop
    warn_of_metadata(metadata_faults, 4)
    return part


def _encode_texts(
    model: RogleModel, processor: RogleProcessor, plan: SplitPlan, batches: Sequence[slice], progress: bool
) -> dict[str, torch.Tensor]:
    """The text part of [`encode_part`]'s result."""
    texts = sorted(plan.texts, key=len)  # texts of similar length together: the longest one sets the cost of a batch
    text_at = torch.tensor([plan.texts[text] for b in batches for text in texts[b]]).long()
    width, slots = model.config.projection_dim, model.part_counts[1]
    part = {
        "texts": torch.empty(len(text_at), width),
        "text_at": text_at,
        "text_parts": torch.empty(len(text_at), slots, width),
    }
    done = 0
    for batch in tqdm(batches, desc="encode texts", unit="batch", disable=not progress):
        tokens = processor(text=texts[batch], return_tensors="pt")
        ids, mask = tokens["input_ids"].to(model.device), tokens["attention_mask"].to(model.device)
        to_rows = slice(done, done + len(ids))
        part["texts"][to_rows] = model.encode_texts(ids, mask).cpu()
        if slots:
            part["text_parts"][to_rows] = model.encode_text_parts(ids).cpu()
        done = to_rows.stop
    return part


def assemble(plan: SplitPlan, parts: Iterable[Mapping[str, torch.Tensor]]) -> SplitEmbeddings:
    """Joins the parts of all processes. They are read one after another, so they may come from disk.

    Args:
        plan: the result of [`plan_split`].
        parts: at least one result of [`encode_part`].

    Returns:
        The embeddings of the split.

    Raises:
        ValueError: a row of the split is not in exactly one part.
    """
    iterator = iter(parts)
    first = next(iterator)
    width = first["images"].shape[1]
    sizes = {"image": len(plan.image_ids), "region": len(plan.regions.region_image), "text": len(plan.texts)}
    joined = {
        "images": torch.empty(sizes["image"], width),
        "templates": torch.empty(sizes["image"], *first["templates"].shape[1:]),
        "image_parts": torch.empty(sizes["image"], *first["image_parts"].shape[1:]),
        "regions": torch.empty(sizes["region"], width),
        "texts": torch.empty(sizes["text"], width),
        "text_parts": torch.empty(sizes["text"], *first["text_parts"].shape[1:]),
    }
    item_of = {"images": "image", "templates": "image", "image_parts": "image", "regions": "region"}
    item_of |= {"texts": "text", "text_parts": "text"}
    times = {item: torch.zeros(size, dtype=torch.int64) for item, size in sizes.items()}
    for part in chain([first], iterator):
        for name, item in item_of.items():
            joined[name][part[f"{item}_at"]] = part[name]
        for item, count in times.items():
            count.index_add_(0, part[f"{item}_at"], torch.ones(len(part[f"{item}_at"]), dtype=torch.int64))
    for item, count in times.items():
        if not bool((count == 1).all()):
            raise ValueError(f"{item} {int((count != 1).nonzero()[0])} was encoded {int(count[count != 1][0])} times")
    return SplitEmbeddings(
        split=plan.split,
        image_embeds=joined["images"],
        image_person_ids=plan.person_ids,
        image_sizes=plan.sizes,
        long=plan.long.caption_set(joined["texts"], joined["text_parts"]),
        short=plan.short.caption_set(joined["texts"], joined["text_parts"]),
        sentence_text_ids=torch.tensor(plan.long.sentences).long(),
        region_embeds=joined["regions"],
        **{name: getattr(plan.regions, name) for name in REGION_TABLES},
        template_embeds=joined["templates"],
        template_boxes=torch.from_numpy(template_boxes()),
        image_parts=joined["image_parts"],
    )


def _batches(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _image(rows: Sequence[Mapping[str, Any]], number: int, image_id: str) -> DecodedImage:
    try:
        image = rows[number]["image"]
        if image is None:
            raise ValueError(f"{image_id}: field 'image' is null; the protocols need the image")
        return decode_stored(image, image_id)
    except KeyError as error:
        raise ValueError(f"{image_id}: field {error} is missing") from error
    except ImageError as error:
        raise ValueError(f"{image_id}: field 'image' cannot be read: {' '.join(str(error).split())}") from error


__all__ = [
    "CaptionSet",
    "SplitEmbeddings",
    "SplitPlan",
    "assemble",
    "encode_part",
    "encode_split",
    "plan_split",
    "without_images",
]
