"""P-VLG rows -> training batches: one picture, one of its captions, and some of its region-sentence pairs."""

import re
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from datasets import Dataset as Rows
from torch.utils.data import Dataset, Sampler

from modeling_rogle import RogleProcessor

SIDES = re.compile(r"\b(left(?! open)|right)\b", re.IGNORECASE)  # a jacket "left open" has no side

LEAST_TRUST = 0.05  # pairs that nobody draws could never win trust back


class EpochSampler(Sampler[int]):
    """A permutation of the rows that depends on seed and epoch alone, so that a resumed run sees the same batches."""

    def __init__(self, count: int, seed: int):
        self.count, self.seed, self.epoch = count, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng((self.seed, self.epoch)).permutation(self.count).tolist())

    def __len__(self) -> int:
        return self.count


class PairDataset(Dataset):
    """Rows of a training split, tokenised once, with draws keyed by seed, epoch and row.

    Args:
        rows: P-VLG rows (see `dataset_pvlg.features`).
        processor: resizes pictures and tokenises.
        long_share: probability of the long caption; else one of the source's own short ones.
        max_pairs: region-sentence pairs drawn from an image in a step; 0 leaves the local branch out.
        flip: probability of a mirror image, skipped where the caption or a drawn sentence says left or right.
        seed: of all draws.
        cache_bytes: keep resized pictures in memory when the whole split fits; 0 never does.

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
    ):
        self.rows, self.processor = rows, processor
        self.long_share, self.max_pairs, self.flip, self.seed = long_share, max_pairs, flip, seed
        self.epoch = 0
        text = rows.remove_columns("image")
        self.person_ids, self.image_ids = text["person_id"][:], text["image_id"][:]
        people = {person: n for n, person in enumerate(sorted(set(self.person_ids)))}
        self.identities = [people[person] for person in self.person_ids]  # classes of the identity loss
        self.sizes = list(zip(text["width"][:], text["height"][:], strict=True))
        self.captions, self.sentences, self.regions = text["caption"][:], text["sentences"][:], text["regions"][:]
        self._check_regions()
        self.long_ids, self.spans = processor.caption_spans(self.captions, self.sentences)
        self.short = text["captions"][:]
        self.short_ids = self._tokenize_nested(self.short)
        self.sentence_texts = [[s["text"] for s in parts] for parts in self.sentences]
        self.sentence_ids = self._tokenize_nested(self.sentence_texts)
        # Row i is trained with the captions of row `caption_row[i]`, its own unless noise was asked for (noise.py).
        self.caption_row = np.arange(len(rows))
        # For each row its trusted pairs: (number of the pair, region, row and index of the sentence).
        self.pairs: list[list[tuple[int, dict, int, int]]] = []
        self.n_pairs = 0
        self.trust: np.ndarray | None = None  # [n_pairs] in [0, 1]: what is trusted is drawn more often
        for row, regions in enumerate(self.regions):
            usable = [region for region in regions if region["sentence"] >= 0 and region["reliability"] > 0]
            self.pairs.append([(self.n_pairs + k, r, row, r["sentence"]) for k, r in enumerate(usable)])
            self.n_pairs += len(usable)
        labels = sorted({r["label"] for regions in self.regions for r in regions})
        self.label_number = {label: i for i, label in enumerate(labels)}
        numbers: dict[str, int] = {}
        self.text_number = [[numbers.setdefault(t, len(numbers)) for t in texts] for texts in self.sentence_texts]
        size = processor.image_processor.size
        self.pixels: dict[int, np.ndarray] | None = None
        if len(rows) * size["height"] * size["width"] * 3 <= cache_bytes:
            self.pixels = {}

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

    def _picture(self, index: int) -> np.ndarray:
        if self.pixels is not None and index in self.pixels:
            return self.pixels[index]
        image = self.rows[index]["image"]
        if image is None:
            raise ValueError(f"{self.image_ids[index]}: image is null; join the annotations with the pictures first")
        out = self.processor.image_processor(images=[image], do_rescale=False, do_normalize=False, return_tensors="np")
        picture = np.asarray(out["pixel_values"][0], dtype=np.uint8)
        if self.pixels is not None:
            self.pixels[index] = picture
        return picture

    def __getitem__(self, index: int) -> dict:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        told = int(self.caption_row[index])
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
        picture = self._picture(index)
        if rng.random() < self.flip and not any(SIDES.search(w) for w in words):
            picture = picture[:, :, ::-1]
            boxes = np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], axis=1)
        return {
            "picture": picture,
            "person_id": self.person_ids[index],
            "image_id": self.image_ids[index],
            "row_number": index,
            "caption": self.long_ids[told] if is_long else short[choice],
            "boxes": boxes,
            "pair_numbers": [number for number, _, _, _ in drawn],
            "sentences": [self.sentence_ids[row][sentence] for _, _, row, sentence in drawn],
            # The tokens of a sentence in the caption, where it is this caption that holds it.
            "spans": [
                self.spans[row][sentence] if is_long and row == told else (-1, -1) for _, _, row, sentence in drawn
            ],
            "text_numbers": [self.text_number[row][sentence] for _, _, row, sentence in drawn],
            "labels": [self.label_number[region["label"]] for _, region, _, _ in drawn],
            "reliability": [region["reliability"] for _, region, _, _ in drawn],
        }

    def collate(self, items: Sequence[dict]) -> dict:
        """Items -> `RogleModel.forward` arguments, plus what it does not read: `pictures` `[b, 3, h, w]` uint8,
        `image_ids`, `row_numbers` `[b]` and `pair_numbers` `[n]`, the rows and pairs of the split."""
        pad = self.processor.tokenizer.pad_token_id
        batch = {
            "pictures": torch.from_numpy(np.stack([item["picture"] for item in items])),
            "image_ids": [item["image_id"] for item in items],
            "row_numbers": torch.tensor([item["row_number"] for item in items]),
            "pair_numbers": torch.tensor([n for item in items for n in item["pair_numbers"]], dtype=torch.long),
            "person_ids": torch.tensor([item["person_id"] for item in items]),
            "identities": torch.tensor([self.identities[item["row_number"]] for item in items]),
            "input_ids": pad_rows([item["caption"] for item in items], pad),
        }
        counts = [len(item["sentences"]) for item in items]
        if sum(counts):
            owner = torch.repeat_interleave(torch.arange(len(items)), torch.tensor(counts))
            labels = torch.tensor([label for item in items for label in item["labels"]])
            batch |= {
                "boxes": torch.from_numpy(np.concatenate([item["boxes"] for item in items])),
                "box_image": owner,
                "sentence_input_ids": pad_rows([s for item in items for s in item["sentences"]], pad),
                "sentence_spans": torch.from_numpy(
                    np.array([s for item in items for s in item["spans"]], dtype=np.int64)
                ),
                "sentence_ids": torch.tensor([n for item in items for n in item["text_numbers"]]),
                "part_ids": batch["person_ids"][owner] * len(self.label_number) + labels,
                "pair_weight": torch.tensor([r for item in items for r in item["reliability"]], dtype=torch.float32),
            }
        return batch


def pad_rows(rows: Sequence[Sequence[int]], pad: int) -> torch.Tensor:
    """`[n, l]` int64, padded on the right; l is the longest row's length."""
    out = torch.full((len(rows), max(map(len, rows))), pad, dtype=torch.long)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor(row)
    return out


def normalize_pictures(pictures: torch.Tensor, processor: RogleProcessor) -> torch.Tensor:
    """uint8 `[b, 3, h, w]` -> what the processor gives: fp32, mean and standard deviation removed, on its device."""
    settings = processor.image_processor
    mean = torch.tensor(settings.image_mean, device=pictures.device).view(1, 3, 1, 1)
    std = torch.tensor(settings.image_std, device=pictures.device).view(1, 3, 1, 1)
    return (pictures.float() * settings.rescale_factor - mean) / std
