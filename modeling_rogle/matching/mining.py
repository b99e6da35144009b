"""Region-to-Sentence Matching over rows: propose boxes, score them, assign them to sentences.

ROGLE's own matching is not public; this is ours. One of three scores decides between the candidate boxes of an image:

- no scorer: the cosine of sentence and region, as in GOAL (arXiv 2503.17782);
- [`PositionPrior`]: learnt from a model's scores of crops, without any pair ([`fit_prior`]);
- [`RegionMatcher`]: learnt from the pairs of the rows, which are ground truth or mined by the prior ([`fit_matcher`]).

Each sentence takes its best-scoring candidate. Regions come from one dense forward pass per image; crops are encoded
only for the sample that the prior is fitted on.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from modeling_rogle.box_ops import TEMPLATE_LABELS, crop_boxes
from modeling_rogle.image_io import ImageError, decode_stored
from modeling_rogle.inference.loading import device_of
from modeling_rogle.inference.row_images import undecoded
from modeling_rogle.matching.anchors import anchor_boxes, nearest_template_labels, random_boxes
from modeling_rogle.matching.assignment import margin_reliability, match_sentences
from modeling_rogle.matching.position_prior import PositionPrior
from modeling_rogle.matching.region_matcher import MatcherSample, RegionMatcher

SAMPLE = {"prior": 800, "matcher": 4000}  # images that a scorer is fitted on
_RANDOM_BOXES = 40  # per image, besides the anchor boxes, for fitting the matcher
_MAX_CACHED_SENTENCES = 50_000  # 100 MB of embeddings at dimension 512
_WHOLE_IMAGE = np.array([[0, 0, 1, 1]], dtype=np.float32)


class Candidates(Protocol):
    """What a proposer returns, see `dataset_pvlg.proposals`."""

    @property
    def boxes(self) -> np.ndarray:
        """fp32 `[N, 4]` x0, y0, x1, y1 in [0, 1]; the last one is the whole image."""

    @property
    def labels(self) -> Sequence[str]:
        """N labels."""


Proposer = Callable[[Image.Image, Sequence[str]], Candidates]
Scorer = PositionPrior | RegionMatcher


@dataclass(frozen=True)
class _FixedCandidates:
    boxes: np.ndarray
    labels: Sequence[str]


def propose_anchors(image: Image.Image, sentences: Sequence[str]) -> Candidates:
    """Proposes the anchor boxes (anchors.py) and the whole image, for any image."""
    boxes = np.concatenate([anchor_boxes(), _WHOLE_IMAGE])
    return _FixedCandidates(boxes, (*nearest_template_labels(anchor_boxes()), "whole person"))


@dataclass(frozen=True)
class EncodedRow:
    """One row with the embeddings of its candidate regions and of its sentences."""

    row: Mapping[str, Any]
    candidates: Candidates
    region_embeds: torch.Tensor  # [N, D] unit vectors
    sentence_embeds: torch.Tensor  # [S, D] unit vectors

    @property
    def readable(self) -> bool:
        """False if the image could not be decoded and a grey one was encoded instead."""
        return self.row.get("readable", True)

    @property
    def texts(self) -> list[str]:
        """The row's sentences."""
        return [sentence["text"] for sentence in self.row["sentences"]]


@torch.no_grad()
def encode_rows(
    model: Any,
    processor: Any,
    rows: Sequence[Mapping[str, Any]],
    propose: Proposer = propose_anchors,
    batch_size: int = 32,
    crops: bool = False,
    progress: str | None = None,
) -> Iterator[EncodedRow]:
    """Encodes candidate regions and sentences: one forward pass per image, and each distinct sentence once.

    Args:
        model: has `encode_images(pixel_values, boxes, box_image)` and `encode_texts(input_ids, attention_mask)` like
            [`RogleModel`].
        processor: the model's [`RogleProcessor`].
        rows: P-VLG rows or a `datasets.Dataset` of them; `image` (decoded) and `sentences` are read.
        propose: gives the candidate boxes of an image; the anchor boxes by default.
        batch_size: images per forward pass, 32 by default.
        crops: encode each candidate as an image of its own, which takes one forward pass per candidate; off by default.
        progress: name of a progress bar; no bar by default.

    Yields:
        One [`EncodedRow`] per row, in order.

    Raises:
        ValueError: a row has no image; the message names its `image_id`.
    """
    cache: dict[str, torch.Tensor] = {}  # images of one identity often share sentences
    rows, starts = undecoded(rows), range(0, len(rows), batch_size)
    for start in tqdm(starts, desc=progress, unit="batch", disable=progress is None or not len(rows)):
        batch = [_read_row(rows[i]) for i in range(start, min(start + batch_size, len(rows)))]
        images = [row["image"] for row in batch]
        candidates = [
            propose(image, [sentence["text"] for sentence in row["sentences"]])
            for image, row in zip(images, batch, strict=True)
        ]
        embeds = _encode_candidates(model, processor, images, candidates, 8 * batch_size if crops else None)
        _encode_sentences(model, processor, batch, cache)
        for row, each, regions in zip(batch, candidates, embeds, strict=True):
            sentences = [cache[sentence["text"]] for sentence in row["sentences"]]
            yield EncodedRow(
                row, each, regions, torch.stack(sentences) if sentences else torch.zeros(0, embeds[0].shape[1])
            )


def _encode_candidates(
    model: Any, processor: Any, images: list[Image.Image], candidates: Sequence[Candidates], crops_at_once: int | None
) -> tuple[torch.Tensor, ...]:
    """`[N, D]` fp32 on the CPU for each image; as crops if a number of crops per forward pass is given."""
    device = device_of(model)
    counts = torch.tensor([len(item.boxes) for item in candidates])
    boxes = torch.from_numpy(np.concatenate([item.boxes for item in candidates])).to(device)
    box_image = torch.arange(len(images)).repeat_interleave(counts).to(device)
    pixels = processor(images=images, return_tensors="pt")["pixel_values"].to(device)
    if crops_at_once is None:
        embeds = model.encode_images(pixels, boxes, box_image)[1]
    else:
        parts = zip(boxes.split(crops_at_once), box_image.split(crops_at_once), strict=True)
        embeds = torch.cat([model.encode_images(crop_boxes(pixels, *part))[0] for part in parts])
    return embeds.float().cpu().split(counts.tolist())


def _encode_sentences(
    model: Any, processor: Any, rows: Sequence[Mapping[str, Any]], cache: dict[str, torch.Tensor]
) -> None:
    """Adds the embeddings of the rows' sentences to the cache."""
    if len(cache) > _MAX_CACHED_SENTENCES:
        cache.clear()
    new = sorted({sentence["text"] for row in rows for sentence in row["sentences"]} - cache.keys())
    if new:
        device = device_of(model)
        tokens = processor(text=new, return_tensors="pt")
        embeds = model.encode_texts(tokens["input_ids"].to(device), tokens["attention_mask"].to(device)).cpu()
        cache.update(zip(new, embeds, strict=True))


def _read_row(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row with its RGB image and `metadata_fault`; with a grey image if its own cannot be decoded."""
    if row["image"] is None:
        raise ValueError(f"{row.get('image_id')}: field 'image' is null; matching needs the image")
    try:
        decoded = decode_stored(row["image"], str(row.get("image_id")))
    except ImageError:
        return {**row, "image": Image.new("RGB", (64, 128), "grey"), "readable": False}
    return {**row, "image": decoded.image, "metadata_fault": decoded.metadata_fault}


def fit_prior(
    model: Any,
    processor: Any,
    rows: Sequence[Mapping[str, Any]],
    keep: float = 0.62,
    images: int = SAMPLE["prior"],
    batch_size: int = 32,
    progress: bool = True,
) -> PositionPrior:
    """Fits a [`PositionPrior`], which needs no pairs; regions of the rows are ignored.

    Args:
        model: see [`encode_rows`].
        processor: see [`encode_rows`].
        rows: see [`encode_rows`].
        keep: share of the sentences that get a region, 0.62 by default. The threshold is set on the sample.
        images: size of the sample, which is spread evenly over the rows; 800 by default.
        batch_size: images per forward pass, 32 by default.
        progress: show a progress bar, on by default.

    Returns:
        The fitted prior.

    Raises:
        ValueError: the rows have fewer than two sentences.
    """
    sample = spread(rows, images)
    scores, texts = [], []
    name = "scoring crops" if progress else None
    for encoded in encode_rows(model, processor, sample, propose_anchors, batch_size, crops=True, progress=name):
        if not encoded.readable:
            continue
        scores.append(encoded.sentence_embeds @ encoded.region_embeds.T)
        texts += encoded.texts
    if len(texts) < 2:
        raise ValueError("matching needs rows with sentences; these have fewer than two")
    prior = PositionPrior.fit(processor.tokenizer, texts, torch.cat(scores))
    best = prior.probabilities(processor.tokenizer, texts, anchor_boxes()).amax(1)
    prior.threshold = float(best.quantile(1 - keep)) * (1 - 1e-5)  # sentences of equal words tie up to rounding
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
    """Fits a [`RegionMatcher`] on the paired regions of the rows, whatever their origin.

    A sentence is weighted by the highest `reliability` of its regions. All its regions of this reliability are correct.

    Args:
        model: see [`encode_rows`].
        processor: see [`encode_rows`].
        rows: see [`encode_rows`].
        images: size of the sample, which is spread evenly over the rows; 4000 by default.
        batch_size: images per forward pass, 32 by default.
        seed: seed of the random boxes and of the fit, 0 by default.
        progress: show a progress bar, on by default.

    Returns:
        The fitted matcher.

    Raises:
        ValueError: no sentence of the sample is paired.
    """
    sample, rng = spread(rows, images), np.random.default_rng(seed)

    def propose(image: Image.Image, sentences: Sequence[str]) -> Candidates:
        boxes = np.concatenate([anchor_boxes(), random_boxes(_RANDOM_BOXES, rng), _WHOLE_IMAGE])
        return _FixedCandidates(boxes, ("",) * len(boxes))

    candidates, regions, sentences, texts, image, targets, weight = [], [], [], [], [], [], []
    name = "encoding pairs" if progress else None
    for encoded in encode_rows(model, processor, sample, propose, batch_size, progress=name):
        if not encoded.readable:
            continue
        row = encoded.row
        candidates.append(encoded.candidates.boxes[:-1])  # the whole image is no candidate of the matcher
        regions.append(encoded.region_embeds[:-1].half())
        sentences.append(encoded.sentence_embeds)
        texts += encoded.texts
        for sentence in range(len(encoded.texts)):
            image.append(len(regions) - 1)
            paired = [region for region in row["regions"] if region["sentence"] == sentence]
            weight.append(max((region["reliability"] for region in paired), default=1.0))
            best = [region["bbox"] for region in paired if region["reliability"] == weight[-1]]
            targets.append([_corners(bbox, row["width"], row["height"]) for bbox in best])
    if not texts:
        raise ValueError("matching needs rows with sentences; these have none")
    training = MatcherSample(
        candidates=np.stack(candidates),
        region_embeds=torch.stack(regions),
        sentence_embeds=torch.cat(sentences),
        texts=texts,
        sentence_image=torch.tensor(image),
        target_boxes=_padded(targets),
        pair_weight=torch.tensor(weight),
    )
    return RegionMatcher.fit(processor.tokenizer, training, seed=seed, progress=progress)


def _corners(bbox: Sequence[float], width: int, height: int) -> list[float]:
    x, y, w, h = bbox
    return [x / width, y / height, (x + w) / width, (y + h) / height]


def _padded(boxes: Sequence[Sequence[Sequence[float]]]) -> np.ndarray:
    """float32 `[S, R, 4]` of S lists of boxes, with NaN after the boxes of a shorter list; R is at least 1."""
    padded = np.full((len(boxes), max(1, *map(len, boxes)), 4), np.nan, dtype=np.float32)
    for row, listed in zip(padded, boxes, strict=True):
        row[: len(listed)] = np.reshape(listed, (-1, 4))
    return padded


def match_rows(
    model: Any,
    processor: Any,
    rows: Sequence[Mapping[str, Any]],
    scorer: Scorer | None = None,
    propose: Proposer = propose_anchors,
    threshold: float | None = None,
    batch_size: int = 32,
    crops: bool = False,
    progress: bool = True,
) -> tuple[list[list[dict[str, Any]]], dict[str, int]]:
    """Finds regions for the sentences of P-VLG rows.

    Args:
        model: see [`encode_rows`].
        processor: see [`encode_rows`].
        rows: see [`encode_rows`]; `width` and `height` are read too.
        scorer: scores the candidates. The default, None, uses the cosine of sentence and region, with the whole image
            as one more candidate that wins on equal scores.
        propose: gives the candidate boxes of an image; the anchor boxes by default.
        threshold: lowest score that gives a region. The default, None, is the scorer's own threshold, or a cosine of 0.
        batch_size: images per forward pass, 32 by default.
        crops: encode each candidate as an image of its own, off by default.
        progress: show a progress bar, on by default.

    Returns:
        regions: for each row a list of regions (bbox x, y, w, h in pixels of the stored image, label, sentence, score,
            reliability, origin `"rsm"`), at most one per sentence. With a scorer, score and reliability are its
            probability. Without one, the score is the cosine, see [`margin_reliability`] for the reliability.
        counts: `images`, `unreadable` (images without regions, because they cannot be decoded), `sentences`,
            `assigned`, `unassigned`, with `assigned + unassigned == sentences`; and `unreadable_metadata` (images
            whose pixels were used and whose metadata cannot be read).

    Raises:
        ValueError: a row has no image; the message names its `image_id`.
    """
    if threshold is None:
        threshold = 0.0 if scorer is None else scorer.threshold
    regions: list[list[dict[str, Any]]] = []
    names = ("images", "unreadable", "unreadable_metadata", "sentences", "assigned", "unassigned")
    counts = dict.fromkeys(names, 0)
    name = "matching sentences" if progress else None
    for encoded in encode_rows(model, processor, rows, propose, batch_size, crops, name):
        matched: list[dict[str, Any]] = []
        if encoded.texts and encoded.readable:
            matched = _match_row(encoded, scorer, processor.tokenizer, threshold)
        regions.append(matched)
        counts["images"] += 1
        counts["unreadable"] += not encoded.readable
        counts["unreadable_metadata"] += encoded.row.get("metadata_fault") is not None
        counts["sentences"] += len(encoded.texts)
        counts["assigned"] += len(matched)
    counts["unassigned"] = counts["sentences"] - counts["assigned"]
    return regions, counts


def _match_row(encoded: EncodedRow, scorer: Scorer | None, tokenizer: Any, threshold: float) -> list[dict[str, Any]]:
    boxes = encoded.candidates.boxes
    if scorer is None:
        matches = match_sentences(encoded.region_embeds, encoded.sentence_embeds, threshold)
        chosen, score, reliability = matches.region, matches.score, margin_reliability(matches.margin)
    else:  # a scorer finds sentences without a region by its threshold, so it needs no whole image
        scores = scorer.probabilities(
            tokenizer, encoded.texts, boxes[:-1], encoded.sentence_embeds, encoded.region_embeds[:-1]
        )
        if not bool(scores.isfinite().all()):
            raise ValueError("a score is not finite")
        chosen = scores.argmax(1)
        score = reliability = scores.gather(1, chosen[:, None])[:, 0].clamp(0, 1)
    width, height = encoded.row["width"], encoded.row["height"]
    regions = []
    for sentence, region in enumerate(chosen.tolist()):
        if region < 0 or score[sentence] < threshold:
            continue
        label = encoded.candidates.labels[region]
        if label not in TEMPLATE_LABELS:  # a segment has no body part of its own; its position gives one
            label = nearest_template_labels(boxes[[region]])[0]
        x0, y0, x1, y1 = (boxes[region] * np.array([width, height, width, height], dtype=np.float32)).tolist()
        regions.append(
            {
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "label": label,
                "sentence": sentence,
                "score": float(score[sentence]),
                "reliability": float(reliability[sentence]),
                "origin": "rsm",
            }
        )
    return regions


def spread(rows: Sequence[Any], count: int) -> Sequence[Any]:
    """At most `count` of the rows, evenly spaced from the first to the last."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)).tolist()
    return rows.select(chosen) if hasattr(rows, "select") else [rows[i] for i in chosen]


__all__ = [
    "SAMPLE",
    "Candidates",
    "EncodedRow",
    "Proposer",
    "Scorer",
    "encode_rows",
    "fit_matcher",
    "fit_prior",
    "match_rows",
    "propose_anchors",
    "spread",
]
