"""P-VLG rows -> training batches: one image, one of its captions, and some of its region-sentence pairs."""

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from datasets import Dataset as Rows
from datasets import Image as ImageFile
from PIL import Image, ImageOps
from torch.utils.data import Dataset

from dataset_pvlg.generation.text_edits import approximate
from modeling_rogle import RogleProcessor
from train.data.augment import Augmentation, join_captions, mix_images, rebuild_caption
from train.data.image_cache import ImageCache

if TYPE_CHECKING:
    from train.data.streaming import ShardImages

MOST_FAULTS = 100  # of broken images in a row
SIDES = re.compile(r"\b(left(?! open)|right)\b", re.IGNORECASE)  # a jacket "left open" has no side

LEAST_TRUST = 0.05  # pairs that nobody draws could never win trust back
# What a batch holds beside what `RogleModel.forward` reads, the images once they are normalised.
UNREAD = ("image_ids", "faults", "row_numbers", "caption_rows", "pair_numbers")


class PairDataset(Dataset):
    """Rows of a training split, tokenised once, with draws keyed by seed, epoch and row.

    Args:
        rows: P-VLG rows (see `dataset_pvlg.features`).
        processor: resizes images and tokenises.
        long_share: probability of the long caption; else one of the source's own short ones.
        max_pairs: region-sentence pairs drawn from an image in a step; 0 leaves the local branch out.
        flip: probability of a mirror image, skipped where the caption or a drawn sentence says left or right.
        seed: of all draws.
        cache_bytes: keep resized images in memory when the whole split fits; 0 never does.
        augmentation: more changes of image and caption; none by default.
        cache: keeps resized images on disk, where they are not kept in memory.
        images: of rows that have none themselves: `images[row]["image"]`, see `streaming.py`.

    An image that cannot be decoded gives its place to the next row, and is named in the item's `faults`.

    Raises:
        ValueError: a region whose sentence does not exist or whose box lies outside its image; names image_id and
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
    ):
        self.augmentation = augmentation or Augmentation()
        self.rows, self.processor = rows, processor
        self.long_share, self.max_pairs, self.flip, self.seed = long_share, max_pairs, flip, seed
        self.epoch = 0
        text = rows if images else rows.remove_columns("image")
        self.files = images or rows.select_columns("image").cast_column("image", ImageFile(decode=False))
        self.person_ids, self.image_ids = text["person_id"][:], text["image_id"][:]
        people = {person: n for n, person in enumerate(sorted(set(self.person_ids)))}
        self.identities = [people[person] for person in self.person_ids]  # classes of the identity loss
        # Generated near copies and those whom they copy are one family, so that a batch can hold both.
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
        # Row i is trained with the captions of row `caption_row[i]`, its own unless noise was asked for (noise.py).
        self.caption_row = np.arange(len(rows))
        # Rows with doubted captions -> rows of the same person to draw a caption from instead (trust.py).
        self.stand_ins: dict[int, np.ndarray] = {}
        self.doubted: set[int] = set()  # with and without
        self.trust: np.ndarray | None = None  # [n_pairs] in [0, 1]: what is trusted is drawn more often
        self.set_regions(text["regions"][:])
        numbers: dict[str, int] = {}
        self.text_number = [[numbers.setdefault(t, len(numbers)) for t in texts] for texts in self.sentence_texts]
        size = processor.image_processor.size
        self.pixels: dict[int, np.ndarray] | None = None
        if len(rows) * size["height"] * size["width"] * 3 <= cache_bytes:
            self.pixels = {}
        self.cache = cache if self.pixels is None else None

    def set_regions(self, regions: Sequence[Sequence[dict]], one_a_sentence: bool = False) -> None:
        """Puts these regions, a list for each row, in place of the rows' own.

        Args:
            one_a_sentence: number the pairs as the sentences, paired or not, so that a pair that is mined anew keeps
                its number; without it they are counted.

        Raises:
            ValueError: see the class.
        """
        self.regions = regions
        self._check_regions()
        # For each row its trusted pairs: (number of the pair, region, row and index of the sentence).
        self.pairs: list[list[tuple[int, dict, int, int]]] = []
        self.n_pairs = 0
        for row, mine in enumerate(regions):
            usable = [region for region in mine if region["sentence"] >= 0 and region["reliability"] > 0]
            places = [r["sentence"] if one_a_sentence else k for k, r in enumerate(usable)]
            self.pairs.append([(self.n_pairs + k, r, row, r["sentence"]) for k, r in zip(places, usable, strict=True)])
            self.n_pairs += len(self.sentences[row]) if one_a_sentence else len(usable)
        labels = sorted({r["label"] for mine in regions for r in mine})
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
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.rows)

    def _image(self, index: int) -> np.ndarray:
        if self.pixels is not None and index in self.pixels:
            return self.pixels[index]
        image = self.cache.read(index) if self.cache else None
        if image is None:
            image = read_image(self.files[index]["image"], self.processor, self.image_ids[index])
            if self.cache:
                self.cache.write(index, image)
        if self.pixels is not None:
            self.pixels[index] = image
        return image

    def __getitem__(self, index: int) -> dict:
        faults: dict[str, str] = {}
        for _ in range(min(len(self), MOST_FAULTS)):
            try:
                return self._item(index) | {"faults": faults}
            except (OSError, SyntaxError) as error:  # PIL's for broken files; SyntaxError is that of a broken PNG
                faults[self.image_ids[index]] = " ".join(f"{type(error).__name__}: {error}".split())
                index = (index + 1) % len(self)
        raise ValueError(f"{len(faults)} images in a row cannot be read, the first is {next(iter(faults))}")

    def _caption_of(self, index: int) -> int:
        """The row whose captions a row is trained with in this epoch, but for noise its own."""
        others = self.stand_ins.get(index)
        if others is None:
            return index
        return int(np.random.default_rng((self.seed, self.epoch, index, 3)).choice(others))

    def _item(self, index: int) -> dict:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        source = self._caption_of(index)
        told = int(self.caption_row[source])
        short = self.short_ids[told]
        is_long = not short or rng.random() < self.long_share
        choice = 0 if is_long else int(rng.integers(len(short)))
        words = [self.captions[told] if is_long else self.short[told][choice]]

        usable = self.pairs[index]
        order = rng.permutation(len(usable))
        if self.trust is not None:
            # Exponential races: drawn without replacement in proportion to trust, the untrusted now and then.
            trust = self.trust[[number for number, _, _, _ in usable]]
            order = np.argsort(rng.exponential(size=len(usable)) / np.maximum(trust, LEAST_TRUST))
        drawn = [usable[i] for i in sorted(order[: self.max_pairs])]
        width, height = self.sizes[index]
        boxes = self.processor.normalize_boxes([region["bbox"] for _, region, _, _ in drawn], width, height)
        words += [self.sentence_texts[row][sentence] for _, _, row, sentence in drawn]
        image = self._image(index)
        if rng.random() < self.flip and not any(SIDES.search(w) for w in words):
            image = image[:, :, ::-1]
            boxes = np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], axis=1)
        caption, person = self.long_ids[told] if is_long else short[choice], self.person_ids[index]
        # The tokens of a sentence in the caption, where it is this caption that holds it.
        spans = [self.spans[row][k] if is_long and row == told else (-1, -1) for _, _, row, k in drawn]
        if self.augmentation:
            # Draws of their own: without augmentation all others are what they were.
            rng = np.random.default_rng((self.seed, self.epoch, index, 1))
            image, boxes, seen = self.augmentation.change_image(image, boxes, rng)
            drawn, boxes = [pair for pair, kept in zip(drawn, seen, strict=True) if kept], boxes[seen]
            spans = [span for span, kept in zip(spans, seen, strict=True) if kept]
            order = self.augmentation.order_of_sentences(len(self.sentence_ids[told]), rng) if is_long else None
            if order is not None:
                limit = self.processor.tokenizer.model_max_length
                caption, places = rebuild_caption(self.sentence_ids[told], order, limit)
                spans = [places.get(k, (-1, -1)) if row == told else (-1, -1) for _, _, row, k in drawn]
            elif rng.random() < self.augmentation.approximate:
                said, parts, kept = approximate(words[0], self.sentences[told] if is_long else [], rng)
                (caption,), (found,) = self.processor.caption_spans([said], [parts])
                places = dict(zip(kept, found, strict=True))
                spans = [places.get(k, (-1, -1)) if row == told else (-1, -1) for _, _, row, k in drawn]
            if rng.random() < self.augmentation.mix:
                mixed = self._mixed(index, image, caption, is_long, rng)
                if mixed is not None:
                    (image, caption), person = mixed, -1 - index
                    drawn, boxes, spans = [], boxes[:0], []
        return {
            "image": image,
            "person_id": person,
            "image_id": self.image_ids[index],
            "row_number": index,
            "caption_row": source,
            "caption": caption,
            "boxes": boxes,
            "pair_numbers": [number for number, _, _, _ in drawn],
            "sentences": [self.sentence_ids[row][sentence] for _, _, row, sentence in drawn],
            "spans": spans,
            "text_numbers": [self.text_number[row][sentence] for _, _, row, sentence in drawn],
            "labels": [self.label_number[region["label"]] for _, region, _, _ in drawn],
            # What a doubted caption says of regions weighs nothing either.
            "reliability": [
                0.0 if index in self.doubted and row == self.caption_row[index] else region["reliability"]
                for _, region, row, _ in drawn
            ],
        }

    def _mixed(
        self, index: int, image: np.ndarray, caption: Sequence[int], is_long: bool, rng: np.random.Generator
    ) -> tuple[np.ndarray, list[int]] | None:
        """The image and caption mixed with those of a row drawn; None if that shows the same person or is broken."""
        other = int(rng.integers(len(self)))
        if self.person_ids[other] == self.person_ids[index] or (other in self.doubted and other not in self.stand_ins):
            return None
        try:
            image = mix_images(image, self._image(other))
        except (OSError, SyntaxError):
            return None
        told = int(self.caption_row[self._caption_of(other)])
        short = [] if is_long else self.short_ids[told]
        theirs = short[int(rng.integers(len(short)))] if short else self.long_ids[told]
        return image, join_captions(caption, theirs, self.processor.tokenizer.model_max_length)

    def collate(self, items: Sequence[dict]) -> dict:
        """Items -> `RogleModel.forward` arguments, plus what it does not read: `images` `[b, 3, h, w]` uint8,
        `image_ids`, `faults` (message of each image that could not be read), `row_numbers`, `caption_rows` `[b]`
        and `pair_numbers` `[n]`: the rows of the split, those whose captions they are trained with, and its pairs."""
        pad = self.processor.tokenizer.pad_token_id
        batch = {
            "images": torch.from_numpy(np.stack([item["image"] for item in items])),
            "image_ids": [item["image_id"] for item in items],
            "faults": {name: fault for item in items for name, fault in item["faults"].items()},
            "row_numbers": torch.tensor([item["row_number"] for item in items]),
            "caption_rows": torch.tensor([item["caption_row"] for item in items]),
            "pair_numbers": torch.tensor([n for item in items for n in item["pair_numbers"]], dtype=torch.long),
            "person_ids": torch.tensor([item["person_id"] for item in items]),
            "identities": torch.tensor([self.identities[item["row_number"]] for item in items]),
            "input_ids": pad_rows([item["caption"] for item in items], pad),
        }
        counts = [len(item["sentences"]) for item in items]
        if self.max_pairs and self.n_pairs:  # a batch without any has them too, none: processes gather the same names
            owner = torch.repeat_interleave(torch.arange(len(items)), torch.tensor(counts))
            labels = torch.tensor([label for item in items for label in item["labels"]], dtype=torch.long)
            batch |= {
                "boxes": torch.from_numpy(np.concatenate([item["boxes"] for item in items])),
                "box_image": owner,
                "sentence_input_ids": pad_rows([s for item in items for s in item["sentences"]], pad),
                "sentence_spans": torch.from_numpy(
                    np.array([s for item in items for s in item["spans"]], dtype=np.int64).reshape(-1, 2)
                ),
                "sentence_ids": torch.tensor([n for item in items for n in item["text_numbers"]], dtype=torch.long),
                "part_ids": batch["person_ids"][owner] * len(self.label_number) + labels,
                "pair_weight": torch.tensor([r for item in items for r in item["reliability"]], dtype=torch.float32),
            }
        return batch


def read_image(stored: dict | None, processor: RogleProcessor, image_id: str) -> np.ndarray:
    """A stored image as the processor resizes it, before it is made fp32: `[3, h, w]` uint8.

    A JPEG is decoded at the smallest of its draft sizes that is at least twice what is wanted.

    Args:
        stored: `path` and `bytes`, as `datasets` keeps images.
        image_id: for the message.

    Raises:
        ValueError: there is no image.
        OSError, SyntaxError: it cannot be decoded.
    """
    if stored is None:
        raise ValueError(f"{image_id}: image is null; join the annotations with the images first")
    settings = processor.image_processor
    height, width = settings.size["height"], settings.size["width"]
    with Image.open(stored["path"] if stored["bytes"] is None else io.BytesIO(stored["bytes"])) as image:
        image.draft(None, (2 * width, 2 * height))
        image = ImageOps.exif_transpose(image).convert("RGB")
        return np.asarray(image.resize((width, height), Image.Resampling(settings.resample))).transpose(2, 0, 1)


def pad_rows(rows: Sequence[Sequence[int]], pad: int) -> torch.Tensor:
    """`[n, l]` int64, padded on the right; l is the longest row's length."""
    out = torch.full((len(rows), max(map(len, rows), default=1)), pad, dtype=torch.long)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor(row)
    return out


def normalize_images(images: torch.Tensor, processor: RogleProcessor) -> torch.Tensor:
    """uint8 `[b, 3, h, w]` -> what the processor gives: fp32, mean and standard deviation removed, on its device."""
    settings = processor.image_processor
    mean = torch.tensor(settings.image_mean, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(settings.image_std, device=images.device).view(1, 3, 1, 1)
    return (images.float() * settings.rescale_factor - mean) / std
