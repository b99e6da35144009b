"""Positive control of synthetic P-VLG: a small model that is trained on given regions.

The benchmark is meant to require looking at the image, so look-ups without an image must fail. This study shows that
the failure is not one of noise or rare words: a convolutional network with a bounded receptive field and a small text
encoder learns the *true* regions of the training split, and finds those of test.

    python -m benchmarks.studies.positive_control --out runs/control

Resumable: the same command continues after the last finished epoch. `control.json` in --out goes to the data card.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from dataset_pvlg.loading import load_rows
from dataset_pvlg.synthetic.baselines import LookUp, iou, pairs_of, regions_of
from dataset_pvlg.synthetic.facts import FactTable, is_true

SIZE = (160, 80)  # height and width of an image
WORD = re.compile(r"[a-z'-]+")
WORDS = 28  # longest sentence
CELL = 4  # pixels of a cell of the feature map
CONTRASTED = 200  # cells of each other image in the contrast
CANDIDATES = 60  # best cells of a sentence whose boxes are compared
WIDTH = 48


@dataclass
class Split:
    """Images and sentences of a split.

    Args:
        images: uint8 `[N, 3, H, W]`.
        rows: the rows without images.
        sentences: (row, text, groups, boxes `[K, 4]`) of each sentence with a region; boxes x0 y0 x1 y1 as fractions.
        of_row: indices of the sentences of each row.
        facts: for each row the attributes of its regions.
    """

    images: Tensor
    rows: list[dict]
    sentences: list[tuple[int, str, list[frozenset[str]], np.ndarray]]
    of_row: list[list[int]]
    facts: list[list[frozenset[str]]]


def read_split(rows, file: Path) -> Split:
    """A split in memory; its small images are kept in `file`."""
    texts = rows.remove_columns("image").to_list()
    if file.exists():
        images = np.load(file)
    else:
        small = [np.asarray(row["image"].convert("RGB").resize(SIZE[::-1], Image.Resampling.BILINEAR)) for row in rows]
        images = np.stack(small).transpose(0, 3, 1, 2)
        np.save(file, images)
    sentences, of_row, facts = [], [], []
    for n, row in enumerate(texts):
        boxes, attributes, owned = regions_of(row)
        facts.append([frozenset(a) for a in attributes])
        of_row.append([])
        for s, groups in enumerate(row["claims"]):
            chosen = [r for r, numbers in enumerate(owned) if s in numbers]
            if groups and chosen:
                of_row[-1].append(len(sentences))
                sentences.append((n, row["sentences"][s]["text"], [frozenset(g) for g in groups], boxes[chosen]))
    return Split(torch.from_numpy(np.ascontiguousarray(images)), texts, sentences, of_row, facts)


def _block(a: int, b: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True))


class Control(nn.Module):
    """Cells of an image and a sentence in one space, and a box for a sentence at a cell.

    Args:
        vocabulary: number of words, with padding and unknown.
    """

    def __init__(self, vocabulary: int):
        super().__init__()
        self.fine = nn.Sequential(_block(3, 16, 2), _block(16, 32, 2), _block(32, WIDTH))
        self.coarse = nn.Sequential(_block(WIDTH, 96, 2), _block(96, 96), _block(96, 96))
        self.deep = nn.Sequential(_block(96, 96, 2), _block(96, 96), nn.Conv2d(96, 96, 1))
        self.down = nn.Conv2d(96, WIDTH, 1)
        self.merge = nn.Sequential(_block(WIDTH, WIDTH), nn.Conv2d(WIDTH, WIDTH, 1))
        self.words = nn.Embedding(vocabulary, 96, padding_idx=0)
        self.order = nn.Parameter(torch.randn(WORDS, 96) * 0.02)
        layer = nn.TransformerEncoderLayer(96, 4, 192, 0.0, batch_first=True, norm_first=True)
        self.text = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.to_query = nn.Linear(96, WIDTH)
        self.to_box = nn.Linear(96, WIDTH)
        self.box = nn.Sequential(nn.Linear(3 * WIDTH, 128), nn.ReLU(), nn.Linear(128, 4))
        self.scale = nn.Parameter(torch.tensor(2.0))

    def encode_images(self, pixels: Tensor) -> Tensor:
        """uint8 `[B, 3, H, W]` -> cells `[B, cells, WIDTH]`."""
        fine = self.fine((pixels.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last))
        coarse = self.coarse(fine)
        coarse = coarse + functional.interpolate(self.deep(coarse), size=coarse.shape[-2:], mode="nearest")
        merged = fine + functional.interpolate(
            self.down(coarse), size=fine.shape[-2:], mode="bilinear", align_corners=False
        )
        return self.merge(merged).flatten(2).transpose(1, 2)

    def encode_texts(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """int `[N, WORDS]` -> a unit query `[N, WIDTH]` and the features of its box `[N, WIDTH]`."""
        empty = ids == 0
        hidden = self.text(self.words(ids) + self.order, src_key_padding_mask=empty)
        mean = (hidden * ~empty[..., None]).sum(1) / (~empty).sum(1, keepdim=True).clamp(min=1)
        return functional.normalize(self.to_query(mean), dim=-1), self.to_box(mean)

    def boxes(self, cells: Tensor, texts: Tensor, centres: Tensor) -> Tensor:
        """Boxes `[N, 4]`, x0 y0 x1 y1 as fractions, for N cells at `centres` `[N, 2]`."""
        reach = functional.softplus(self.box(torch.cat([cells, texts, cells * texts], -1)) - 2.0)
        return torch.cat([centres - reach[:, :2], centres + reach[:, 2:]], -1)


def cell_centres() -> Tensor:
    """`[cells, 2]`: x and y of the cells as fractions."""
    high, wide = SIZE[0] // CELL, SIZE[1] // CELL
    y, x = torch.meshgrid((torch.arange(high) + 0.5) / high, (torch.arange(wide) + 0.5) / wide, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], -1)


def cells_inside(boxes: Tensor, centres: Tensor) -> Tensor:
    """bool `[K, cells]`: the cells in the middle half of a box, at least the nearest one."""
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 4
    away = (centres[None] - middle[:, None]).abs()
    inside = (away <= half[:, None]).all(-1)
    nearest = (away * torch.tensor([SIZE[1], SIZE[0]])).square().sum(-1).argmin(-1)
    inside[torch.arange(len(boxes)), nearest] = True
    return inside


class Vocabulary:
    """Word numbers: 0 padding, 1 unknown."""

    def __init__(self, texts: Sequence[str]):
        names = sorted({word for text in texts for word in WORD.findall(text.lower())})
        self.index = {word: n for n, word in enumerate(names, 2)}

    def __len__(self) -> int:
        return len(self.index) + 2

    def encode(self, texts: Sequence[str]) -> Tensor:
        """int64 `[N, WORDS]`."""
        ids = torch.zeros(len(texts), WORDS, dtype=torch.int64)
        for n, text in enumerate(texts):
            numbers = [self.index.get(word, 1) for word in WORD.findall(text.lower())][:WORDS]
            ids[n, : len(numbers)] = torch.tensor(numbers)
        return ids


def step_loss(model: Control, split: Split, numbers: Sequence[int], words: Vocabulary, centres: Tensor) -> Tensor:
    """The loss of a batch of images: cells of a sentence, boxes, and sentences against the batch's images."""
    images = split.images[list(numbers)]
    cells = model.encode_images(images)
    chosen = [(b, s) for b, n in enumerate(numbers) for s in split.of_row[n]]
    ids = words.encode([split.sentences[s][1] for _, s in chosen])
    ids[(torch.rand(ids.shape) < 0.08) & (ids > 0)] = 1  # test has words that training never shows
    query, box_text = model.encode_texts(ids)
    owner = torch.tensor([b for b, _ in chosen])
    unit = functional.normalize(cells, dim=-1)
    own_scores = torch.bmm(unit[owner], query[..., None])[..., 0] * model.scale.exp()
    own = own_scores.log_softmax(-1)
    sentence_of, boxes = [], []
    for k, (_, s) in enumerate(chosen):
        sentence_of += [k] * len(split.sentences[s][3])
        boxes.append(split.sentences[s][3])
    target = torch.from_numpy(np.concatenate(boxes)).float()
    which = torch.tensor(sentence_of)
    inside = cells_inside(target, centres)
    found = own[which].masked_fill(~inside, -1e4).logsumexp(-1)
    pointing = -found.mean()

    at = torch.multinomial(inside.float(), 1)[:, 0]
    predicted = model.boxes(cells[owner[which], at], box_text[which], centres[at])
    boxing = giou_loss(predicted, target).mean() + (predicted - target).abs().sum(-1).mean()

    some = torch.randperm(unit.shape[1])[:CONTRASTED]  # a part of the cells of other images is enough
    level = (torch.einsum("nd,bcd->nbc", query, unit[:, some]) * model.scale.exp()).logsumexp(-1)
    level = level - math.log(len(some))
    wrong = torch.ones(len(chosen), len(numbers), dtype=torch.bool)
    for k, (b, s) in enumerate(chosen):
        groups = split.sentences[s][2]
        for other, n in enumerate(numbers):
            wrong[k, other] = other != b and not _fits(groups, split.facts[n])
    mine = own_scores.logsumexp(-1) - math.log(own_scores.shape[-1])
    others = level.masked_fill(~wrong, -1e4)
    contrast = functional.softplus(others.logsumexp(-1) - mine).mean()
    return pointing + 2 * boxing + 0.5 * contrast


def _fits(groups: Sequence[frozenset[str]], facts: Sequence[frozenset[str]]) -> bool:
    return any(groups[0] <= has for has in facts) if len(groups) == 1 else is_true(groups, facts)


def giou_loss(a: Tensor, b: Tensor) -> Tensor:
    """1 - generalised IoU of N box pairs."""
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    inside = (high - low).clamp(min=0).prod(-1)
    union = (a[:, 2:] - a[:, :2]).prod(-1) + (b[:, 2:] - b[:, :2]).prod(-1) - inside
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(-1)
    return 1 - inside / union.clamp(min=1e-6) + (hull - union) / hull.clamp(min=1e-6)


@torch.inference_mode()
def measure(model: Control, split: Split, words: Vocabulary, look_up: LookUp, queries: int = 2000) -> dict[str, float]:
    """Recall at IoU 0.5 of the predicted boxes, and R@1 from sentences to regions, both also of the look-up.

    A sentence that describes K regions has K predicted boxes, whose overlap is at most 0.5. R@1 counts a region as
    right if the sentence is true of it; the model's score of a region is the highest one of the cells inside it.

    Args:
        model: the model, in evaluation mode.
        split: what to measure.
        words: the vocabulary of training.
        look_up: the image-free look-up, fitted on the training split.
        queries: sentences of the R@1, evenly spread.
    """
    centres, cells = cell_centres(), []
    for start in range(0, len(split.images), 64):
        cells.append(model.encode_images(split.images[start : start + 64]))
    cells = torch.cat(cells)
    unit = functional.normalize(cells, dim=-1)
    query, box_text = model.encode_texts(words.encode([s[1] for s in split.sentences]))
    hits, points, kinds = [], [], []
    for k, (n, _, groups, true) in enumerate(split.sentences):
        scores = unit[n] @ query[k]
        order = scores.argsort(descending=True)[:CANDIDATES]
        boxes = model.boxes(cells[n, order], box_text[k].expand(len(order), -1), centres[order]).numpy()
        kept = _separate_boxes(boxes, (scores[order] * model.scale.exp()).softmax(0).numpy(), len(true))
        hits += (iou(kept, true).max(0) >= 0.5).tolist()
        first = centres[order[0]].numpy()
        points.append(bool(((true[:, :2] <= first) & (first <= true[:, 2:])).all(-1).any()))
        kinds += [len(groups)] * len(true)
    hits_array, kinds_array = np.array(hits), np.array(kinds)
    found = {
        "recall": 100 * hits_array.mean(),
        "pointing": 100 * float(np.mean(points)),
        "recall, one region": 100 * hits_array[kinds_array == 1].mean(),
        "recall, several regions": 100 * hits_array[kinds_array > 1].mean(),
    }
    return {name: float(value) for name, value in found.items()} | region_recall(split, unit, query, look_up, queries)


def _separate_boxes(boxes: np.ndarray, weights: np.ndarray, count: int) -> np.ndarray:
    """The best `count` boxes that overlap by less than 0.5, each averaged with the boxes that agree with it.

    Args:
        boxes: float `[N, 4]`, best first.
        weights: float `[N]`.
        count: number of boxes.
    """
    kept: list[int] = []
    for n in range(len(boxes)):
        if not kept or iou(boxes[n : n + 1], boxes[kept]).max() < 0.5:
            kept.append(n)
            if len(kept) == count:
                break
    agree = (iou(boxes[kept], boxes) >= 0.6) * weights
    return agree @ boxes / agree.sum(1, keepdims=True)


def within_image(
    split: Split, gallery: Tensor, query: Tensor, boxes: np.ndarray, owner: np.ndarray, look_up: LookUp
) -> dict[str, float]:
    """Recall at IoU 0.5 if the candidates are the true regions of the image, for the model and the look-up.

    Args:
        split: what to measure.
        gallery: `[regions, WIDTH]`, features of all regions.
        query: `[sentences, WIDTH]`.
        boxes: float `[regions, 4]`.
        owner: int `[regions]`, row of each region.
        look_up: the image-free look-up, which takes the candidates that overlap most with its boxes.
    """
    first = np.searchsorted(owner, np.arange(len(split.rows) + 1))
    hits: dict[str, list[bool]] = {"recall, given regions": [], "look-up recall, given regions": []}
    for k, (n, text, _, true) in enumerate(split.sentences):
        own = boxes[first[n] : first[n + 1]]
        scores = (gallery[first[n] : first[n + 1]] @ query[k]).numpy()
        for name, each in zip(hits, (scores, iou(look_up.predict(text), own).max(0)), strict=True):
            chosen = own[np.argsort(-each, kind="stable")[: len(true)]]
            hits[name] += (iou(chosen, true).max(0) >= 0.5).tolist()
    return {name: 100 * float(np.mean(values)) for name, values in hits.items()}


def region_recall(split: Split, unit: Tensor, query: Tensor, look_up: LookUp, queries: int) -> dict[str, float]:
    """R@1 from sentences to all regions of the split, for the model and the look-up."""
    centres = cell_centres()
    boxes, attributes, owner, features = [], [], [], []
    for n, row in enumerate(split.rows):
        own, facts, _ = regions_of(row)
        inside = cells_inside(torch.from_numpy(own).float(), centres).float()
        features.append(functional.normalize(inside @ unit[n], dim=-1))
        boxes.append(own)
        attributes.append(facts)
        owner += [n] * len(own)
    table, gallery, all_boxes = FactTable(attributes), torch.cat(features), np.concatenate(boxes)
    right, floor, chance = [], [], []
    images = np.array(owner)
    found = within_image(split, gallery, query, all_boxes, images, look_up)
    for k in np.unique(np.linspace(0, len(split.sentences) - 1, queries).astype(int)):
        _, text, groups, _ = split.sentences[k]
        true = (
            np.logical_or.reduce([table.regions_with(group) for group in groups]) & table.images_where(groups)[images]
        )
        right.append(true[int((gallery @ query[k]).argmax())])
        best = iou(look_up.predict(text), all_boxes).max(0)
        floor.append(true[best >= best.max() - 1e-12].mean())
        chance.append(true.mean())
    return found | {
        "R@1": 100 * float(np.mean(right)),
        "look-up R@1": 100 * float(np.mean(floor)),
        "chance R@1": 100 * float(np.mean(chance)),
    }


def train(out: Path, data, epochs: int, batch: int, rate: float, seed: int) -> dict[str, float]:
    """Trains, or continues, and measures test. Writes `control.pt` after each epoch and `control.json` at the end."""
    out.mkdir(parents=True, exist_ok=True)
    split = read_split(data["train"], out / "train.npy")
    words = Vocabulary([sentence[1] for sentence in split.sentences])
    torch.manual_seed(seed)
    model, centres = Control(len(words)).to(memory_format=torch.channels_last), cell_centres()
    steps = len(split.rows) // batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=max(steps * epochs, 1), pct_start=0.15)
    state, first = out / "control.pt", 0
    settings = {"epochs": epochs, "batch": batch, "rate": rate, "seed": seed, "rows": len(split.rows)}
    if state.exists():
        saved = torch.load(state, weights_only=True)
        if saved["settings"] != settings:
            raise ValueError(f"{state}: was begun with other settings; choose another --out")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        first = saved["epoch"]
    for epoch in range(first, epochs):
        model.train()
        torch.manual_seed(seed * 1000 + epoch)
        order = torch.randperm(len(split.rows)).tolist()
        total, start = 0.0, time.monotonic()
        for step in range(steps):
            loss = step_loss(model, split, order[step * batch : (step + 1) * batch], words, centres)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
            if (step + 1) % 50 == 0:
                print(f"epoch {epoch + 1}, step {step + 1} of {steps}: loss {total / (step + 1):.3f}", flush=True)
        print(f"epoch {epoch + 1}: loss {total / steps:.3f}, {time.monotonic() - start:.0f} s", flush=True)
        content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
        torch.save(content | {"epoch": epoch + 1, "settings": settings}, state.with_suffix(".part"))
        os.replace(state.with_suffix(".part"), state)
    model.eval()
    texts, boxes, _ = pairs_of(split.rows)
    look_up = LookUp(texts, boxes, 2)
    figures = measure(model, read_split(data["test"], out / "test.npy"), words, look_up) | {"epochs": epochs}
    part = out / "control.part"
    part.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    os.replace(part, out / "control.json")
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train a small model on the true regions of synthetic P-VLG.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the checkpoint and figures")
    parser.add_argument("--dataset", default="synthetic", metavar="NAME", help="data set (default: synthetic)")
    parser.add_argument("--epochs", type=int, default=6, help="passes over the training split (default: 6)")
    parser.add_argument("--batch-size", type=int, default=24, help="images in a batch (default: 24)")
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate (default: 0.002)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and order (default: 0)")
    given = parser.parse_args(arguments)
    data, _ = load_rows(given.dataset)
    figures = train(given.out, data, given.epochs, given.batch_size, given.rate, given.seed)
    for name, value in figures.items():
        print(f"{name}: {value:.1f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
