"""Region matcher: which box of an image shows what a sentence names, learnt from region-sentence pairs.

The pairs are ground truth or mined in an earlier round. Cosine alone does not separate the whole extent of a coat from
its upper half: region embeddings are trained against regions of other people, never against other boxes of the same
person. The matcher learns this on top of a frozen model, from the position of the box, the words, and the embedding of
the region. (Ours: ROGLE's matching is not public.)
"""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from modeling_rogle.box_ops import box_iou
from modeling_rogle.inference.untrusted import parse_json
from modeling_rogle.matching.anchors import anchor_boxes, anchor_weights
from modeling_rogle.matching.bag_of_words import WordBags

_METADATA_KEY = "rogle region matcher 2"
BATCH = 16  # images per step
MIN_STEPS = 300  # small samples are repeated until then
RANK = 16  # of the bilinear form of words and region embeddings
_SENTENCES_AT_ONCE = 1024  # sentences whose cosines are computed together
_EXTENT_FEATURES = 14  # features of the position and size of a box
_WORD_GAIN = 5.0  # bags have unit length, so without a gain their weights would grow slowly


@dataclass(frozen=True)
class MatcherSample:
    """Training data of a matcher: the encoded boxes of B images and the regions of their S sentences."""

    candidates: np.ndarray  # [B, M, 4] x0, y0, x1, y1 in [0, 1]; the first K are the anchor boxes
    region_embeds: torch.Tensor  # [B, M, D] unit vectors
    sentence_embeds: torch.Tensor  # [S, D] unit vectors
    texts: Sequence[str]  # S
    sentence_image: torch.Tensor  # [S] int64, the image of each sentence
    target_boxes: np.ndarray  # [S, R, 4] x0, y0, x1, y1 in [0, 1] of the sentence's regions; NaN: no further region
    pair_weight: torch.Tensor  # [S] fp32, weight in the loss


class RegionMatcher(nn.Module):
    """Logistic model of whether a box is correct for a sentence.

    A box is correct (1) from IoU 0.65 with a region of the sentence, 0.5 at IoU 0.5 and wrong (0) below 0.35. The logit
    of anchor box k is the sum of

    - the words' preference for k,
    - the agreement of the words and the region embedding at k (a bilinear form of rank 16),
    - c_k x cosine of sentence and region,
    - the words' preference for the extent of the box (a quadratic form of its centre and log size).

    Any other box uses the weighted mean of its three nearest anchor boxes, but its own extent.

    Args:
        bags: the known words.
        width: D, the dimension of the embeddings.
        rank: rank of the bilinear form, 16 by default.
    """

    threshold = 0.5  # lowest probability of a region; chosen on the synthetic validation split

    def __init__(self, bags: WordBags, width: int, rank: int = RANK):
        super().__init__()
        self.bags = bags
        anchors, words = len(anchor_boxes()), len(bags.words) + 1
        # The names of parameters and buffers are those of the stored files.
        self.prefer = nn.Parameter(torch.zeros(words, anchors))
        self.bias = nn.Parameter(torch.full((anchors,), -3.0))  # most boxes are wrong
        self.ask = nn.Parameter(torch.randn(words, rank) * words**-0.5)  # word side of the bilinear form
        self.see = nn.Parameter(torch.randn(anchors, width, rank) * 0.02)  # image side of the bilinear form
        self.cosine = nn.Parameter(torch.full((anchors,), 0.5))
        self.extent = nn.Parameter(torch.zeros(words, _EXTENT_FEATURES))
        self.register_buffer("embed_mean", torch.zeros(anchors, width))
        self.register_buffer("embed_std", torch.ones(anchors, width))
        self.register_buffer("cosine_mean", torch.zeros(anchors))
        self.register_buffer("cosine_std", torch.ones(anchors))

    @classmethod
    def fit(
        cls, tokenizer: Any, sample: MatcherSample, epochs: int = 12, seed: int = 0, progress: bool = False
    ) -> "RegionMatcher":
        """Fits a matcher; deterministic for a given device and number of threads.

        Args:
            tokenizer: a Hugging Face tokenizer.
            sample: the training data; sentences without a region are negatives for all boxes.
            epochs: passes over the images, 12 by default; more if these are fewer than 300 steps.
            seed: seed of initialisation, order and dropout, 0 by default. The global random state is not changed.
            progress: show a progress bar, off by default.

        Returns:
            The matcher in evaluation mode.

        Raises:
            ValueError: no sentence has a region, or an embedding is not finite.
        """
        if not np.isfinite(sample.target_boxes).all(-1).any():
            raise ValueError("no sentence of the sample has a region to learn from")
        if not bool(sample.region_embeds.isfinite().all() and sample.sentence_embeds.isfinite().all()):
            raise ValueError("an embedding is not finite")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            matcher = cls(WordBags.of_texts(tokenizer, sample.texts), sample.region_embeds.shape[-1])
            matcher._fit(matcher.bags(tokenizer, sample.texts), sample, epochs, progress)
        return matcher.eval().requires_grad_(False)

    def _fit(self, bags: torch.Tensor, sample: MatcherSample, epochs: int, progress: bool) -> None:
        regions, (images, count) = sample.region_embeds, sample.candidates.shape[:2]
        cosines = _candidate_cosines(sample)
        self._fit_statistics(regions, cosines)
        nearest, share = (values.view(images, count, -1) for values in anchor_weights(sample.candidates.reshape(-1, 4)))
        extents = _extent_features(sample.candidates)
        by_image = sample.sentence_image.argsort(stable=True)
        sentences_of = by_image.split(torch.bincount(sample.sentence_image, minlength=images).tolist())
        target = torch.zeros(len(bags), count)
        for sentences, boxes in zip(sentences_of, sample.candidates, strict=True):
            target[sentences] = _targets(sample.target_boxes[sentences.numpy()], boxes)
        epochs = max(epochs, math.ceil(MIN_STEPS / math.ceil(images / BATCH)))
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        for _ in tqdm(range(epochs), desc="fitting the matcher", unit="epoch", disable=not progress):
            for batch in torch.randperm(images).split(BATCH):
                batch = batch.sort().values
                sentences = torch.cat([sentences_of[n] for n in batch.tolist()])
                if not len(sentences):
                    continue
                image = torch.searchsorted(batch, sample.sentence_image[sentences])
                anchors = nearest[batch], share[batch]
                embeds = F.dropout(self._standardize(regions[batch], *anchors), 0.3)
                logits = self._logits(bags[sentences], cosines[sentences], embeds, image, *anchors, extents[batch])
                loss = F.binary_cross_entropy_with_logits(logits, target[sentences], reduction="none").mean(1)
                optimizer.zero_grad()
                (10 * (loss * sample.pair_weight[sentences]).mean()).backward()
                optimizer.step()
            schedule.step()

    def _fit_statistics(self, regions: torch.Tensor, cosines: torch.Tensor) -> None:
        """Mean and deviation at each anchor box, of embeddings and cosines."""
        anchors = len(anchor_boxes())
        self.embed_mean.copy_(regions[:, :anchors].float().mean(0))
        self.embed_std.copy_(regions[:, :anchors].float().std(0, correction=0).clamp(min=1e-3))
        self.cosine_mean.copy_(cosines[:, :anchors].mean(0))
        self.cosine_std.copy_(cosines[:, :anchors].std(0, correction=0).clamp(min=1e-3))

    def _standardize(self, embeds: torch.Tensor, nearest: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        """Region embeddings `[B, N, D]`, standardised by the statistics of their nearest anchor boxes."""
        mean = torch.einsum("bnk,bnkd->bnd", share, self.embed_mean[nearest])
        return (embeds.float() - mean) / torch.einsum("bnk,bnkd->bnd", share, self.embed_std[nearest])

    def _logits(
        self,
        bags: torch.Tensor,
        cosines: torch.Tensor,
        embeds: torch.Tensor,
        image: torch.Tensor,
        nearest: torch.Tensor,
        share: torch.Tensor,
        extents: torch.Tensor,
    ) -> torch.Tensor:
        """Logits of all boxes for S sentences of B images.

        Args:
            bags: `[S, V + 1]`.
            cosines: `[S, N]`.
            embeds: `[B, N, D]`, standardised.
            image: `[S]` int64, the image of each sentence.
            nearest: `[B, N, 3]` int64, see [`anchor_weights`].
            share: `[B, N, 3]`, see [`anchor_weights`].
            extents: `[B, N, E]`.

        Returns:
            `[S, N]`.
        """
        word_side = bags @ self.ask  # [S, R]
        image_side = torch.einsum("bnd,kdr->bnkr", embeds, self.see)  # at all anchor boxes: gathering `see` costs more
        index = nearest[..., None].expand(*nearest.shape, image_side.shape[-1])
        image_side = torch.einsum("bnk,bnkr->bnr", share, image_side.gather(2, index))
        prefer = _WORD_GAIN * (bags @ self.prefer) + self.bias  # [S, K]
        logits = _WORD_GAIN * torch.einsum("se,sne->sn", bags @ self.extent, extents[image])
        for n in range(nearest.shape[2]):
            anchor, weight = nearest[image, :, n], share[image, :, n]
            standard = (cosines - self.cosine_mean[anchor]) / self.cosine_std[anchor]
            logits = logits + weight * (prefer.gather(1, anchor) + self.cosine[anchor] * standard)
        return logits + torch.einsum("sr,snr->sn", word_side, image_side[image])

    @torch.no_grad()
    def probabilities(
        self,
        tokenizer: Any,
        texts: Sequence[str],
        boxes: np.ndarray,
        sentence_embeds: torch.Tensor,
        region_embeds: torch.Tensor,
    ) -> torch.Tensor:
        """Probability that each box of one image is correct for each sentence.

        Args:
            tokenizer: the tokenizer that the matcher was fitted with.
            texts: S sentences.
            boxes: `[N, 4]` x0, y0, x1, y1 in [0, 1].
            sentence_embeds: `[S, D]` unit vectors.
            region_embeds: `[N, D]` unit vectors.

        Returns:
            `[S, N]` fp32 in [0, 1].
        """
        nearest, share = (values[None] for values in anchor_weights(boxes))
        cosines = sentence_embeds.float() @ region_embeds.float().T
        embeds = self._standardize(region_embeds[None], nearest, share)
        image = torch.zeros(len(texts), dtype=torch.long)
        bags = self.bags(tokenizer, texts)
        return torch.sigmoid(self._logits(bags, cosines, embeds, image, nearest, share, _extent_features(boxes[None])))

    def save(self, path: str | Path) -> None:
        """Writes one safetensors file with the words in its metadata; the file is replaced atomically."""
        part = Path(f"{path}.part")
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        # One metadata entry only: safetensors does not fix the order of several, and equal matchers must give equal
        # files.
        save_file(tensors, part, {_METADATA_KEY: json.dumps(self.bags.words)})
        os.replace(part, path)

    @classmethod
    def load(cls, path: str | Path) -> "RegionMatcher":
        """Reads a file that [`save`] wrote.

        Raises:
            ValueError: the file is missing, damaged or of another kind; the message names it.
        """
        try:
            with safe_open(path, framework="pt") as file:
                words = (file.metadata() or {}).get(_METADATA_KEY)
                if words is None:
                    raise ValueError(f"{path}: has no field {_METADATA_KEY!r} in its metadata")
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            matcher = cls(WordBags(parse_json(words)), *tensors["see"].shape[1:])
            matcher.load_state_dict(tensors)
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{path}: no region matcher can be read from it: {reason}") from error
        return matcher.eval().requires_grad_(False)


def _candidate_cosines(sample: MatcherSample) -> torch.Tensor:
    """`[S, M]` cosine of each sentence with each candidate of its image."""
    parts = zip(
        sample.sentence_embeds.split(_SENTENCES_AT_ONCE), sample.sentence_image.split(_SENTENCES_AT_ONCE), strict=True
    )
    regions = sample.region_embeds
    return torch.cat([torch.einsum("sd,snd->sn", part.float(), regions[image].float()) for part, image in parts])


def _extent_features(boxes: np.ndarray) -> torch.Tensor:
    """Boxes `[..., 4]` -> `[..., 14]`: standardised centre and log size, and their products."""

    def measures(corners: np.ndarray) -> np.ndarray:
        size = np.maximum(corners[..., 2:] - corners[..., :2], 0.01)
        return np.concatenate([(corners[..., 2:] + corners[..., :2]) / 2, np.log(size)], axis=-1)

    anchors = measures(anchor_boxes())
    linear = torch.from_numpy((measures(boxes) - anchors.mean(0)) / anchors.std(0)).float()
    first, second = torch.triu_indices(4, 4)
    return torch.cat([linear, linear[..., first] * linear[..., second]], dim=-1)


def _targets(true_boxes: np.ndarray, boxes: np.ndarray) -> torch.Tensor:
    """`[S, N]` fp32 in [0, 1]: how well each box fits a region of each sentence; `true_boxes` `[S, R, 4]` (NaN: none).

    The target rises from IoU 0.35 to 0.65. With a step, mined pairs that use one anchor box for all images would make
    every box around that anchor box equally good.
    """
    paired = np.isfinite(true_boxes).all(-1, keepdims=True)
    iou = box_iou(np.nan_to_num(true_boxes).reshape(-1, 4), boxes).numpy().reshape(*paired.shape[:2], -1) * paired
    return torch.from_numpy(np.clip((iou.max(1) - 0.35) / 0.3, 0, 1)).float()


__all__ = ["MatcherSample", "RegionMatcher"]
