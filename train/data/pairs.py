"""Training samples from P-VLG rows: one image, one of its captions and some of its region-sentence pairs."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from datasets import Dataset as Rows
from datasets import Image as ImageFile
from PIL import Image
from torch.utils.data import Dataset

from dataset_pvlg.generation.text_edits import approximate
from modeling_rogle import RogleProcessor
from modeling_rogle.image_io import ImageError, decode_stored
from train.data.augment import Augmentation, join_captions, mix_images
from train.data.batch import Batch, Sample, pad_rows
from train.data.image_cache import ImageCache

if TYPE_CHECKING:
    from train.data.streaming import ShardImages

MAX_UNREADABLE = 100  # unreadable images in a row that one sample may skip
SIDES = re.compile(r"\b(left(?! open)|right)\b", re.IGNORECASE)  # a jacket "left open" names no side
# Lower bound of a pair's weight in the draw: a pair that is never drawn could never become reliable again.
MIN_DRAW_WEIGHT = 0.05
NO_SPAN = (-1, -1)


class Pair(NamedTuple):
    """A region-sentence pair: its number in the split, its region, and the row and index of its sentence.

    A sentence about several regions has a pair with each of them, and a region with two sentences has two pairs.
    """

    number: int
    region: dict
    text_row: int
    sentence: int


class PairDataset(Dataset):
    """Rows of a training split, tokenised once. All draws depend only on seed, epoch and row.

    An image that cannot be decoded is replaced by the next row and reported in the sample's `faults`.

    Args:
        rows: P-VLG rows (see `dataset_pvlg.features`).
        processor: resizes images and tokenises.
        long_share (`float`, defaults to 0.6): probability of the long caption; otherwise a short one is drawn.
        max_pairs (`int`, defaults to 4): most region-sentence pairs drawn from an image per step; 0 turns the local
            branch off. Sentences are drawn, with all of their regions as far as these fit.
        flip (`float`, defaults to 0.5): probability of a mirrored image; never applied if the caption or a drawn
            sentence names left or right.
        seed (`int`, defaults to 0): seed of all draws.
        cache_bytes (`int`, defaults to 2 GiB): resized images are kept in memory if the whole split fits into this
            size; 0 keeps none.
        augmentation: further changes of image and caption, none by default.
        cache: file of resized images, used if they are not kept in memory.
        images: source of the images if `rows` has none: `images[row]["image"]`, see `streaming.py`.
        short_captions (`bool`, defaults to `False`): add a short caption to each sample, beside the drawn one
            (Long-CLIP, arXiv 2403.15378). It is drawn from the row's short captions; without any it is the first
            sentence of the long caption, and without sentences the long caption.

    Raises:
        ValueError: a region whose sentence does not exist or whose box lies outside its image; names `image_id` and
            field.
    """

    def __init__(
        self,
        rows: Rows,
        processor: RogleProcessor,
        long_share: float = 0.6,
        max_pairs: int = 4,
        flip: float = 0.5,
        seed: int = 0,
        cache_bytes: int = 2 << 30,
        augmentation: Augmentation | None = None,
        cache: ImageCache | None = None,
        images: "ShardImages | None" = None,
        short_captions: bool = False,
    ):
        self.augmentation = augmentation or Augmentation()
        self.rows, self.processor, self.short_captions = rows, processor, short_captions
        self.long_share, self.max_pairs, self.flip, self.seed = long_share, max_pairs, flip, seed
        self.epoch = 0
        text = rows if images else rows.remove_columns("image")
        self.files = images or rows.select_columns("image").cast_column("image", ImageFile(decode=False))
        self.person_ids, self.image_ids = text["person_id"][:], text["image_id"][:]
        class_of = {person: n for n, person in enumerate(sorted(set(self.person_ids)))}
        self.identity_classes = [class_of[person] for person in self.person_ids]
        # A generated image has its own identity but the family of its source image, so that a batch can hold both.
        families = dict(zip(self.image_ids, self.person_ids, strict=True))
        self.families = [
            families.get(parent, person) for parent, person in zip(text["parent"][:], self.person_ids, strict=True)
        ]
        self.sizes = list(zip(text["width"][:], text["height"][:], strict=True))
        self.captions, self.sentences = text["caption"][:], text["sentences"][:]
        self.long_ids, self.spans = processor.caption_spans(self.captions, self.sentences)
        self.short = text["captions"][:]
        self.short_ids = self._tokenize_nested(self.short)
        self.sentence_texts = [[s["text"] for s in parts] for parts in self.sentences]
        self.sentence_ids = self._tokenize_nested(self.sentence_texts)
        # Row i is trained with the captions of row `caption_rows[i]`: its own, unless noise was added (noise.py).
        self.caption_rows = np.arange(len(rows))
        # Rows with unreliable captions -> rows of the same person whose captions replace them (reliability.py).
        self.replacement_rows: dict[int, np.ndarray] = {}
        self.unreliable_rows: set[int] = set()  # with or without replacement
        self.pair_reliability: np.ndarray | None = None  # [n_pairs] in [0, 1]; reliable pairs are drawn more often
        self.set_regions(text["regions"][:])
        # A sentence's number in the split is the sum of its row's entry and its index.
        self.first_sentence = np.cumsum([0, *map(len, self.sentences)])
        numbers: dict[str, int] = {}
        self.sentence_group = [[numbers.setdefault(t, len(numbers)) for t in texts] for texts in self.sentence_texts]
        size = processor.image_processor.size
        self.metadata_faults: dict[int, bool] = {}  # rows that were read and are not yet in the report of a batch
        self.pixels: dict[int, np.ndarray] | None = None
        if len(rows) * size["height"] * size["width"] * 3 <= cache_bytes:
            self.pixels = {}
        self.cache = cache if self.pixels is None else None

    def set_regions(self, regions: Sequence[Sequence[dict]], number_by_sentence: bool = False) -> None:
        """Replaces the rows' regions.

        Args:
            regions: a list of regions for each row.
            number_by_sentence (`bool`, defaults to `False`): number the pairs like the sentences of the split, paired
                or not, so that a sentence's pair keeps its number when pairs are mined again. Otherwise the pairs are
                counted.

        Raises:
            ValueError: see the class; or a sentence has two regions although the pairs are numbered by sentence.
        """
        self.regions = regions
        self._check_regions()
        self.pairs: list[list[Pair]] = []  # for each row its pairs of non-zero reliability
        self.n_pairs = 0
        for row, row_regions in enumerate(regions):
            usable = [region for region in row_regions if region["sentence"] >= 0 and region["reliability"] > 0]
            slots = [r["sentence"] if number_by_sentence else k for k, r in enumerate(usable)]
            if len(set(slots)) < len(slots):
                raise ValueError(f"{self.image_ids[row]}: regions: mining gives a sentence one region, not several")
            self.pairs.append(
                [Pair(self.n_pairs + slot, r, row, r["sentence"]) for slot, r in zip(slots, usable, strict=True)]
            )
            self.n_pairs += len(self.sentences[row]) if number_by_sentence else len(usable)
        labels = sorted({region["label"] for row_regions in regions for region in row_regions})
        self.label_number = {label: i for i, label in enumerate(labels)}

    def _check_regions(self) -> None:
        for image_id, size, sentences, regions in zip(
            self.image_ids, self.sizes, self.sentences, self.regions, strict=True
        ):
            boxes = self.processor.normalize_boxes([region["bbox"] for region in regions], *size)
            for n, (region, box) in enumerate(zip(regions, boxes, strict=True)):
                if region["sentence"] >= len(sentences):
                    raise ValueError(f"{image_id}: regions[{n}].sentence is {region['sentence']} of {len(sentences)}")
                if not (box[2:] > box[:2]).all():
                    raise ValueError(f"{image_id}: regions[{n}].bbox {region['bbox']} lies outside its image {size}")

    def _tokenize_nested(self, texts: Sequence[Sequence[str]]) -> list[list[list[int]]]:
        flat = [t for group in texts for t in group]
        ids = iter(self.processor(text=flat, padding=False)["input_ids"] if flat else [])
        return [[next(ids) for _ in group] for group in texts]

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, which all draws depend on."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Sample:
        faults: dict[str, str] = {}
        for _ in range(min(len(self), MAX_UNREADABLE)):
            try:
                sample = self._sample(row)
            except (OSError, ImageError) as error:  # OSError: of a Parquet file whose images are streamed
                faults[self.image_ids[row]] = " ".join(str(error).split())
                row = (row + 1) % len(self)
            else:
                sample.faults = faults
                if self.metadata_faults.pop(row, False):
                    sample.metadata_faults.append(self.image_ids[row])
                return sample
        raise ValueError(f"{len(faults)} images in a row cannot be read, the first is {next(iter(faults))}")

    def _image(self, row: int) -> np.ndarray:
        if self.pixels is not None and row in self.pixels:
            return self.pixels[row]
        image = self.cache.read(row) if self.cache else None
        if image is None:
            image, metadata_fault = read_image(self.files[row]["image"], self.processor, self.image_ids[row])
            if metadata_fault:
                self.metadata_faults[row] = True
            if self.cache:
                self.cache.write(row, image)
        if self.pixels is not None:
            self.pixels[row] = image
        return image

    def _source_row(self, row: int) -> int:
        """The row whose caption a row is trained with in this epoch: itself, or one of its replacement rows."""
        replacements = self.replacement_rows.get(row)
        if replacements is None:
            return row
        return int(np.random.default_rng((self.seed, self.epoch, row, 3)).choice(replacements))

    def _sample(self, row: int) -> Sample:
        rng = np.random.default_rng((self.seed, self.epoch, row))
        source_row = self._source_row(row)
        caption_row = int(self.caption_rows[source_row])
        short = self.short_ids[caption_row]
        is_long = not short or rng.random() < self.long_share
        choice = 0 if is_long else int(rng.integers(len(short)))
        caption_text = self.captions[caption_row] if is_long else self.short[caption_row][choice]
        pairs = self._draw_pairs(row, rng)
        boxes = self.processor.normalize_boxes([pair.region["bbox"] for pair in pairs], *self.sizes[row])
        image = self._image(row)
        texts = [caption_text, *(self.sentence_texts[pair.text_row][pair.sentence] for pair in pairs)]
        if rng.random() < self.flip and not any(SIDES.search(text) for text in texts):
            image = image[:, :, ::-1]
            boxes = np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], axis=1)
        sample = Sample(
            row=row,
            image_id=self.image_ids[row],
            image=image,
            person_id=self.person_ids[row],
            source_row=source_row,
            caption=self.long_ids[caption_row] if is_long else short[choice],
            boxes=boxes,
            pair_numbers=[pair.number for pair in pairs],
            sentences=[self.sentence_ids[pair.text_row][pair.sentence] for pair in pairs],
            spans=[
                self.spans[pair.text_row][pair.sentence] if is_long and pair.text_row == caption_row else NO_SPAN
                for pair in pairs
            ],
            sentence_groups=[self.sentence_group[pair.text_row][pair.sentence] for pair in pairs],
            sentence_numbers=[self._sentence_number(row, pair) for pair in pairs],
            labels=[self.label_number[pair.region["label"]] for pair in pairs],
            pair_weights=[self._pair_weight(row, pair) for pair in pairs],
            short_caption=self._short_caption(row, caption_row) if self.short_captions else None,
        )
        if self.augmentation:
            self._augment(sample, pairs, caption_row, caption_text, is_long)
        return sample

    def _draw_pairs(self, row: int, rng: np.random.Generator) -> list[Pair]:
        """At most `max_pairs` pairs of a row, in their order.

        Sentences are drawn, not pairs: otherwise one about three regions would be drawn three times as often. All of
        its pairs come with it. Of the last sentence as many are drawn as fit.
        """
        pairs = self.pairs[row]
        pairs_of: dict[tuple[int, int], list[int]] = {}
        for i, pair in enumerate(pairs):
            pairs_of.setdefault((pair.text_row, pair.sentence), []).append(i)
        sentences = list(pairs_of.values())
        order = rng.permutation(len(sentences))
        if self.pair_reliability is not None:
            # Exponential races: drawn without replacement, in proportion to the reliability of the best pair.
            reliability = self.pair_reliability[[pair.number for pair in pairs]]
            best = np.array([reliability[own].max() for own in sentences], dtype=reliability.dtype)
            order = np.argsort(rng.exponential(size=len(sentences)) / np.maximum(best, MIN_DRAW_WEIGHT))
        drawn: list[int] = []
        for own in (sentences[k] for k in order):
            room = self.max_pairs - len(drawn)
            if not room:
                break
            drawn += own if len(own) <= room else rng.permutation(own)[:room].tolist()
        return [pairs[i] for i in sorted(drawn)]

    def _sentence_number(self, row: int, pair: Pair) -> int:
        """Equal for the pairs of one sentence in one row: noise can give one sentence to regions of two rows."""
        return row * int(self.first_sentence[-1]) + int(self.first_sentence[pair.text_row]) + pair.sentence

    def _pair_weight(self, row: int, pair: Pair) -> float:
        """The region's reliability; 0 if its sentence belongs to an unreliable caption of its row."""
        if row in self.unreliable_rows and pair.text_row == self.caption_rows[row]:
            return 0.0
        return pair.region["reliability"]

    def _short_caption(self, row: int, caption_row: int) -> list[int]:
        short = self.short_ids[caption_row] or self.sentence_ids[caption_row][:1] or [self.long_ids[caption_row]]
        # A generator of its own, so that all other draws are the same with and without short captions.
        choice = np.random.default_rng((self.seed, self.epoch, row, 2)).integers(len(short))
        return short[int(choice)]

    def _augment(
        self, sample: Sample, pairs: Sequence[Pair], caption_row: int, caption_text: str, is_long: bool
    ) -> None:
        """Changes image and caption of a sample in place, and its boxes and spans with them."""
        # A generator of its own, so that all other draws are the same with and without augmentation.
        rng = np.random.default_rng((self.seed, self.epoch, sample.row, 1))
        sample.image, sample.boxes, visible = self.augmentation.change_image(sample.image, sample.boxes, rng)
        sample.keep_pairs(visible)
        if is_long:
            # Unused draws of an earlier version: without them the same seed would give other captions below.
            rng.random(len(self.sentence_ids[caption_row]) + 1)
        if rng.random() < self.augmentation.approximate:
            text, parts, numbers = approximate(caption_text, self.sentences[caption_row] if is_long else [], rng)
            (sample.caption,), (spans,) = self.processor.caption_spans([text], [parts])
            span_of = dict(zip(numbers, spans, strict=True))
            visible_pairs = [pair for pair, kept in zip(pairs, visible, strict=True) if kept]
            sample.spans = [
                span_of.get(pair.sentence, NO_SPAN) if pair.text_row == caption_row else NO_SPAN
                for pair in visible_pairs
            ]
        if rng.random() < self.augmentation.mix:
            self._mix(sample, is_long, rng)

    def _mix(self, sample: Sample, is_long: bool, rng: np.random.Generator) -> None:
        """Mixes image and caption in place with those of a drawn row, and removes all pairs.

        Nothing is changed if the drawn row shows the same person, has only unreliable captions, or cannot be read.
        """
        other = int(rng.integers(len(self)))
        unreliable = other in self.unreliable_rows and other not in self.replacement_rows
        if self.person_ids[other] == self.person_ids[sample.row] or unreliable:
            return
        try:
            sample.image = mix_images(sample.image, self._image(other))
        except (OSError, ImageError):
            return
        caption_row = int(self.caption_rows[self._source_row(other)])
        short = [] if is_long else self.short_ids[caption_row]
        other_caption = short[int(rng.integers(len(short)))] if short else self.long_ids[caption_row]
        sample.caption = join_captions(sample.caption, other_caption, self.processor.tokenizer.model_max_length)
        sample.person_id = -1 - sample.row
        sample.keep_pairs([False] * len(sample.spans))

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Puts samples together into a batch."""
        pad = self.processor.tokenizer.pad_token_id
        batch = Batch(
            images=torch.from_numpy(np.stack([sample.image for sample in samples])),
            image_ids=[sample.image_id for sample in samples],
            faults={name: fault for sample in samples for name, fault in sample.faults.items()},
            metadata_faults=[name for sample in samples for name in sample.metadata_faults],
            rows=torch.tensor([sample.row for sample in samples]),
            source_rows=torch.tensor([sample.source_row for sample in samples]),
            person_ids=torch.tensor([sample.person_id for sample in samples]),
            identity_classes=torch.tensor([self.identity_classes[sample.row] for sample in samples]),
            caption_input_ids=pad_rows([sample.caption for sample in samples], pad),
            pair_numbers=torch.tensor([n for sample in samples for n in sample.pair_numbers], dtype=torch.long),
        )
        if self.short_captions:
            batch.short_input_ids = pad_rows([sample.short_caption for sample in samples], pad)
        if self.max_pairs and self.n_pairs:  # even if this batch has no pair: processes gather equal names
            counts = torch.tensor([len(sample.sentences) for sample in samples])
            spans = np.array([span for sample in samples for span in sample.spans], dtype=np.int64)
            groups = [group for sample in samples for group in sample.sentence_groups]
            labels = torch.tensor([label for sample in samples for label in sample.labels], dtype=torch.long)
            weights = [weight for sample in samples for weight in sample.pair_weights]
            batch.boxes = torch.from_numpy(np.concatenate([sample.boxes for sample in samples]))
            batch.box_image = torch.repeat_interleave(torch.arange(len(samples)), counts)
            batch.sentence_input_ids = pad_rows([ids for sample in samples for ids in sample.sentences], pad)
            batch.sentence_spans = torch.from_numpy(spans.reshape(-1, 2))
            batch.sentence_groups = torch.tensor(groups, dtype=torch.long)
            numbers = [number for sample in samples for number in sample.sentence_numbers]
            batch.sentence_numbers = torch.tensor(numbers, dtype=torch.long)
            batch.part_groups = batch.person_ids[batch.box_image] * len(self.label_number) + labels
            batch.pair_weight = torch.tensor(weights, dtype=torch.float32)
        return batch


def read_image(stored: dict | None, processor: RogleProcessor, image_id: str) -> tuple[np.ndarray, str | None]:
    """Reads a stored image and resizes it like the processor, without normalising it.

    A JPEG is decoded at the smallest of its draft sizes that is at least twice the target size.

    Args:
        stored: `path` and `bytes`, as `datasets` stores images.
        processor: its size and its resampling filter are used.
        image_id: named in the error message.

    Returns:
        `[3, height, width]` uint8, and what is wrong with the metadata of the image, None if nothing is.

    Raises:
        ValueError: there is no image.
        ImageError: (a ValueError) the image cannot be decoded.
    """
    if stored is None:
        raise ValueError(f"{image_id}: image is null; join the annotations with the images first")
    settings = processor.image_processor
    height, width = settings.size["height"], settings.size["width"]
    decoded = decode_stored(stored, image_id, (height, width), reduce=False)
    image = decoded.image.resize((width, height), Image.Resampling(settings.resample))
    return np.asarray(image).transpose(2, 0, 1), decoded.metadata_fault


def normalize_images(images: torch.Tensor, processor: RogleProcessor) -> torch.Tensor:
    """Normalises `[b, 3, height, width]` uint8 images like the processor, on their device; returns float32."""
    settings = processor.image_processor
    mean = torch.tensor(settings.image_mean, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(settings.image_std, device=images.device).view(1, 3, 1, 1)
    return (images.float() * settings.rescale_factor - mean) / std


__all__ = ["Pair", "PairDataset", "normalize_images", "read_image"]
