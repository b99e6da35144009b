"""Region-to-Sentence Matching over rows: propose -> score -> assign -> trust, with no label or with some.

ROGLE's own matching is not public; this is ours. Three judges decide between the candidate boxes of an image:

- none: the cosine of sentence and region, the published relatives' rule (GOAL, arXiv 2503.17782);
- [`PositionPrior`]: learnt from a model that has never seen a pair, by its scores of crops ([`fit_prior`]);
- [`RegionMatcher`]: learnt from the pairs that rows have, true ones or those of the prior ([`fit_matcher`]).

Regions come from one dense forward an image; crops are encoded for the prior's sample alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from modeling_rogle.box_ops import crop_boxes
from modeling_rogle.inference.loading import device_of
from modeling_rogle.matching.anchors import boxes_around, place_boxes, place_labels
from modeling_rogle.matching.assignment import assign, match_sentences
from modeling_rogle.matching.position_prior import PositionPrior
from modeling_rogle.matching.region_matcher import RegionMatcher, SeenBoxes
from modeling_rogle.reliability.pair_reliability import margin_reliability
from modeling_rogle.templates import TEMPLATE_LABELS

SAMPLE = {"prior": 800, "matcher": 4000}  # images fitted on
_BETWEEN = 40  # boxes an image, beside the places, that the matcher is fitted on
_MAX_REMEMBERED = 50_000  # sentence embeddings kept at once: 100 MB at width 512


class Candidates(Protocol):
    """What a proposer gives: see `dataset_pvlg.proposals.proposers.Proposals`."""

    boxes: np.ndarray  # [N, 4] fp32 x0, y0, x1, y1 in [0, 1], the whole image last
    labels: Sequence[str]  # N


Proposer = Callable[[Image.Image, Sequence[str]], Candidates]
Judge = PositionPrior | RegionMatcher


@dataclass(frozen=True)
class _Places:
    boxes: np.ndarray
    labels: Sequence[str]


def propose_places(image: Image.Image, sentences: Sequence[str]) -> Candidates:
    """The places of places.py and the whole image, whatever the image."""
    boxes = np.concatenate([place_boxes(), np.array([[0, 0, 1, 1]], dtype=np.float32)])
    return _Places(boxes, (*place_labels(place_boxes()), "whole person"))


@dataclass(frozen=True)
class Seen:
    """One row, as the model sees it."""

    row: Mapping[str, Any]
    candidates: Candidates
    region_embeds: torch.Tensor  # [N, D] unit length
    sentence_embeds: torch.Tensor  # [S, D] unit length

    @property
    def readable(self) -> bool:
        """False where the image could not be decoded; a grey one stands in its place."""
        return self.row.get("readable", True)

    @property
    def texts(self) -> list[str]:
        return [sentence["text"] for sentence in self.row["sentences"]]


@torch.no_grad()
def see_rows(
    model: Any,
    processor: Any,
    rows: Sequence[Mapping[str, Any]],
    propose: Proposer = propose_places,
    batch_size: int = 32,
    crops: bool = False,
    progress: str | None = None,
) -> Iterator[Seen]:
    """Embeds candidate regions and sentences: one forward an image, each different sentence once.

    Args:
        model: has `encode_images(pixel_values, boxes, box_image)` and `encode_texts(input_ids, attention_mask)` as
            [`RogleModel`] has them.
        processor: the model's [`RogleProcessor`].
        rows: P-VLG rows or a `datasets.Dataset` of them; `image` (decoded), `sentences` are read.
        batch_size: images a forward.
        crops: encode every candidate as an image of its own instead; as many forwards as candidates.
        progress: name of a progress bar; none by default.

    Raises:
        ValueError: a row has no image; the message names its `image_id`.
    """
    device = device_of(model)
    remembered: dict[str, torch.Tensor] = {}  # many images of an identity share their sentences
    starts = range(0, len(rows), batch_size)
    for start in tqdm(starts, desc=progress, unit="batch", disable=progress is None or not len(rows)):
        batch = [_row(rows, i) for i in range(start, min(start + batch_size, len(rows)))]
        for row in batch:
            if row["image"] is None:
                raise ValueError(f"{row.get('image_id')}: field 'image' is null; matching needs the image")
        images = [row["image"].convert("RGB") for row in batch]
        found = [
            propose(image, [sentence["text"] for sentence in row["sentences"]])
            for image, row in zip(images, batch, strict=True)
        ]
        counts = torch.tensor([len(each.boxes) for each in found])
        boxes = torch.from_numpy(np.concatenate([each.boxes for each in found])).to(device)
        owner = torch.arange(len(batch)).repeat_interleave(counts).to(device)
        pixels = processor(images=images, return_tensors="pt")["pixel_values"].to(device)
        if crops:
            parts = zip(boxes.split(8 * batch_size), owner.split(8 * batch_size), strict=True)
            embeds = torch.cat([model.encode_images(crop_boxes(pixels, *part))[0] for part in parts])
        else:
            embeds = model.encode_images(pixels, boxes, owner)[1]
        if len(remembered) > _MAX_REMEMBERED:
            remembered.clear()
        new = sorted({sentence["text"] for row in batch for sentence in row["sentences"]} - remembered.keys())
        if new:
            tokens = processor(text=new, return_tensors="pt")
            encoded = model.encode_texts(tokens["input_ids"].to(device), tokens["attention_mask"].to(device)).cpu()
            remembered.update(zip(new, encoded, strict=True))
        width = embeds.shape[1]
        for row, each, regions in zip(batch, found, embeds.float().cpu().split(counts.tolist()), strict=True):
            said = [remembered[sentence["text"]] for sentence in row["sentences"]]
            yield Seen(row, each, regions, torch.stack(said) if said else torch.zeros(0, width))


def _row(rows: Sequence[Mapping[str, Any]], index: int) -> Mapping[str, Any]:
    try:
        return rows[index]
    except (OSError, SyntaxError):  # PIL's, of an image that a data set decodes when it is asked for
        rest = rows.remove_columns("image")[index]
        return rest | {"image": Image.new("RGB", (64, 128), "grey"), "readable": False}


def fit_prior(
    model: Any,
    processor: Any,
    rows: Sequence[Mapping[str, Any]],
    keep: float = 0.62,
    images: int = SAMPLE["prior"],
    batch_size: int = 32,
    progress: bool = True,
) -> PositionPrior:
    """A judge that needs no pair at all: see [`PositionPrior`].

    Args:
        model, processor, rows, batch_size: see [`see_rows`]; regions that the rows have are not read.
        keep: share of sentences that are to get a region; its threshold is set on the sample.
        images: the sample, spread evenly over the rows.

    Raises:
        ValueError: the rows hold fewer than two sentences.
    """
    sample = spread(rows, images)
    scores, texts = [], []
    name = "scoring crops" if progress else None
    for seen in see_rows(model, processor, sample, propose_places, batch_size, crops=True, progress=name):
        if not seen.readable:
            continue
        scores.append(seen.sentence_embeds @ seen.region_embeds.T)
        texts += seen.texts
    if len(texts) < 2:
        raise ValueError("matching needs rows with sentences; these have fewer than two")
    prior = PositionPrior.fit(processor.tokenizer, texts, torch.cat(scores))
    best = prior.probabilities(processor.tokenizer, texts, place_boxes()).amax(1)
    prior.threshold = float(best.quantile(1 - keep)) * (1 - 1e-5)  # sentences in the same words tie, but for rounding
    return prior


def fit_matcher(
    model: Any,
    processor: Any,
    rows: Sequence[Mapping[str, Any]],
    images: int = SAMPLE["matcher"],
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = True,
) -> RegionMatcher:
    """A judge learnt from the rows' own paired regions, whatever their origin: see [`RegionMatcher`].

    Args:
        model, processor, rows, batch_size: see [`see_rows`]. Pairs count by their `reliability`; of several regions
            of a sentence the most reliable one is read.
        images: the sample, spread evenly over the rows.

    Raises:
        ValueError: no sentence of the sample is paired.
    """
    sample, rng = spread(rows, images), np.random.default_rng(seed)

    def propose(image: Image.Image, sentences: Sequence[str]) -> Candidates:
        between = np.concatenate([place_boxes(), boxes_around(_BETWEEN, rng), [[0, 0, 1, 1]]])
        return _Places(between.astype(np.float32), ("",) * len(between))

    candidates, regions, sentences, texts, image, boxes, weight = [], [], [], [], [], [], []
    name = "seeing pairs" if progress else None
    for seen in see_rows(model, processor, sample, propose, batch_size, progress=name):
        if not seen.readable:
            continue
        row, paired = seen.row, {}
        for region in sorted(seen.row["regions"], key=lambda region: region["reliability"]):
            paired[region["sentence"]] = region
        candidates.append(seen.candidates.boxes[:-1])  # of the whole image nothing is asked
        regions.append(seen.region_embeds[:-1].half())
        sentences.append(seen.sentence_embeds)
        texts += seen.texts
        for sentence in range(len(seen.texts)):
            image.append(len(regions) - 1)
            region = paired.get(sentence)
            x, y, w, h = (float("nan"),) * 4 if region is None else region["bbox"]
            boxes.append([x / row["width"], y / row["height"], (x + w) / row["width"], (y + h) / row["height"]])
            weight.append(1.0 if region is None else region["reliability"])
    if not texts:
        raise ValueError("matching needs rows with sentences; these have none")
    found = SeenBoxes(
        np.stack(candidates),
        torch.stack(regions),
        torch.cat(sentences),
        texts,
        torch.tensor(image),
        np.array(boxes, dtype=np.float32),
        torch.tensor(weight),
    )
    return RegionMatcher.fit(processor.tokenizer, found, seed=seed, progress=progress)


def match_rows(
    model: Any,
    processor: Any,
    rows: Sequence[Mapping[str, Any]],
    judge: Judge | None = None,
    propose: Proposer = propose_places,
    rule: str = "best",
    threshold: float | None = None,
    batch_size: int = 32,
    crops: bool = False,
    progress: bool = True,
) -> tuple[list[list[dict[str, Any]]], dict[str, int]]:
    """Finds regions for the sentences of P-VLG rows.

    Args:
        model, processor, rows, propose, batch_size, crops: see [`see_rows`]; also `width` and `height` are read.
        judge: decides; None takes the cosine of sentence and region, the whole image a candidate like others.
        rule: see [`assign`]; without a judge, `best` prefers the whole image of equals.
        threshold: a best score under it gives no region; None is the judge's own, or a cosine of 0.

    Returns:
        For each row a list of regions (bbox x, y, w, h in pixels of the stored image, label, sentence, score,
        reliability, origin `"rsm"`), at most one per sentence; and the counts `images`, `unreadable` (no region for
        them), `sentences`, `assigned`, `unassigned`, where `assigned + unassigned == sentences`. The score is the
        judge's probability, which is the reliability too; without a judge the cosine, and the reliability that of its
        margin over the runner-up.

    Raises:
        ValueError: a row has no image; the message names its `image_id`.
    """
    if threshold is None:
        threshold = 0.0 if judge is None else judge.threshold
    regions: list[list[dict[str, Any]]] = []
    counts = {"images": 0, "unreadable": 0, "sentences": 0, "assigned": 0, "unassigned": 0}
    name = "matching sentences" if progress else None
    for seen in see_rows(model, processor, rows, propose, batch_size, crops, name):
        found = _match(seen, judge, processor.tokenizer, rule, threshold) if seen.texts and seen.readable else []
        regions.append(found)
        counts["images"] += 1
        counts["unreadable"] += not seen.readable
        counts["sentences"] += len(seen.texts)
        counts["assigned"] += len(found)
    counts["unassigned"] = counts["sentences"] - counts["assigned"]
    return regions, counts


def _match(seen: Seen, judge: Judge | None, tokenizer: Any, rule: str, threshold: float) -> list[dict[str, Any]]:
    boxes, whole = seen.candidates.boxes, len(seen.candidates.boxes) - 1
    if judge is None:
        scores = seen.sentence_embeds @ seen.region_embeds.T
        if rule == "best":
            matches = match_sentences(seen.region_embeds, seen.sentence_embeds, threshold)
            chosen, score, trust = matches.region, matches.score, margin_reliability(matches.margin)
        else:
            chosen = assign(scores, rule)
            score = scores.gather(1, chosen.clamp(min=0)[:, None])[:, 0]
            others = scores.scatter(1, chosen.clamp(min=0)[:, None], -2.0).amax(1)
            trust = margin_reliability(score - others)
    else:  # a judge knows sentences without a region by their words, not by the whole image
        scores = judge.probabilities(tokenizer, seen.texts, boxes[:-1], seen.sentence_embeds, seen.region_embeds[:-1])
        chosen = assign(scores, rule)
        score = trust = scores.gather(1, chosen.clamp(min=0)[:, None])[:, 0].clamp(0, 1)
    width, height = seen.row["width"], seen.row["height"]
    found = []
    for sentence, region in enumerate(chosen.tolist()):
        if region < 0 or region == whole or score[sentence] < threshold:
            continue
        label = seen.candidates.labels[region]
        if label not in TEMPLATE_LABELS:  # a segment is nobody's part; where it lies says whose
            label = place_labels(boxes[[region]])[0]
        x0, y0, x1, y1 = (boxes[region] * np.array([width, height, width, height], dtype=np.float32)).tolist()
        found.append(
            {
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "label": label,
                "sentence": sentence,
                "score": float(score[sentence]),
                "reliability": float(trust[sentence]),
                "origin": "rsm",
            }
        )
    return found


def spread(rows: Sequence[Mapping[str, Any]], images: int) -> Sequence[Mapping[str, Any]]:
    """At most `images` of the rows, evenly from the first to the last."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(images, len(rows))).round().astype(int)).tolist()
    return rows.select(chosen) if hasattr(rows, "select") else [rows[i] for i in chosen]


__all__ = [
    "SAMPLE",
    "Candidates",
    "Judge",
    "Proposer",
    "Seen",
    "fit_matcher",
    "fit_prior",
    "match_rows",
    "propose_places",
    "see_rows",
    "spread",
]
