"""Which box of an image holds what a sentence names, learnt from pairs: true ones, or those of an earlier round.

Cosine alone does not tell a coat's whole extent from its upper half: region embeddings are trained against other
people's regions, never against other boxes of the same person. This learns that on top of a frozen model, from where
the box lies, what the words are, and what the model sees there. (Ours: ROGLE's matching is not public.)
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
from modeling_rogle.matching.anchors import place_boxes, place_shares
from modeling_rogle.matching.bag_of_words import WordBags

_KIND = "rogle region matcher 2"
BATCH = 16  # images a step
LEAST_STEPS = 300  # of a small sample
RANK = 16  # of the agreement between words and what is seen at a place
_AT_ONCE = 1024  # sentences whose cosines are taken together
_EXTENTS = 14  # numbers that say where a box lies and how large it is
_WORD_GAIN = 5.0  # bags are of unit length: their weights would else be slow to grow


@dataclass(frozen=True)
class SeenBoxes:
    """A sample of images to fit on: what the model made of boxes in them, and where their sentences' regions are."""

    candidates: np.ndarray  # [B, M, 4] x0, y0, x1, y1 in [0, 1]; the first K are the places of places.py
    region_embeds: torch.Tensor  # [B, M, D] unit length
    sentence_embeds: torch.Tensor  # [S, D] unit length
    texts: Sequence[str]  # S
    image: torch.Tensor  # [S] int64, the image of each sentence
    boxes: np.ndarray  # [S, 4] x0, y0, x1, y1 in [0, 1] of its region; NaN: it has none
    weight: torch.Tensor  # [S] fp32, how much the pair counts


class RegionMatcher(nn.Module):
    """How right a box is (1 from IoU 0.65 with the sentence's region, half at 0.5, 0 to 0.35), a logistic model.

    logit(place k) = words' own preference for k + agreement of words and what is seen at k (a bilinear form of rank
    16) + c_k x cosine + words' preference for its extent (a quadratic form of centre and log size). A box that is no
    place takes the weighted mean of its nearest three, but its own extent: boxes lie closer than places do.

    Args:
        bags: the words it knows.
        width: D, the length of an embedding.
    """

    threshold = 0.5  # a best box less probable than this is no region; chosen on synthetic validation

    def __init__(self, bags: WordBags, width: int, rank: int = RANK):
        super().__init__()
        self.bags = bags
        places, words = len(place_boxes()), len(bags.words) + 1
        self.prefer = nn.Parameter(torch.zeros(words, places))
        self.bias = nn.Parameter(torch.full((places,), -3.0))  # most boxes are wrong
        self.ask = nn.Parameter(torch.randn(words, rank) * words**-0.5)
        self.see = nn.Parameter(torch.randn(places, width, rank) * 0.02)
        self.cosine = nn.Parameter(torch.full((places,), 0.5))
        self.extent = nn.Parameter(torch.zeros(words, _EXTENTS))
        self.register_buffer("embed_mean", torch.zeros(places, width))
        self.register_buffer("embed_std", torch.ones(places, width))
        self.register_buffer("cosine_mean", torch.zeros(places))
        self.register_buffer("cosine_std", torch.ones(places))

    @classmethod
    def fit(
        cls, tokenizer: Any, seen: SeenBoxes, epochs: int = 12, seed: int = 0, progress: bool = False
    ) -> "RegionMatcher":
        """Fits on pairs; deterministic on one device and thread count.

        Args:
            seen: see [`SeenBoxes`]; sentences without a box teach that there are such.

        Raises:
            ValueError: no sentence has a box, or an embedding is not finite.
        """
        if not np.isfinite(seen.boxes).all(1).any():
            raise ValueError("no sentence of the sample has a region to learn from")
        if not bool(seen.region_embeds.isfinite().all() and seen.sentence_embeds.isfinite().all()):
            raise ValueError("an embedding is not finite")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            matcher = cls(WordBags.of_texts(tokenizer, seen.texts), seen.region_embeds.shape[-1])
            matcher._fit(matcher.bags(tokenizer, seen.texts), seen, epochs, progress)
        return matcher.eval().requires_grad_(False)

    def _fit(self, bags: torch.Tensor, seen: SeenBoxes, epochs: int, progress: bool) -> None:
        regions, (images, count) = seen.region_embeds, seen.candidates.shape[:2]
        cosines = torch.cat(
            [
                torch.einsum("sd,snd->sn", sentences.float(), regions[image].float())
                for sentences, image in zip(
                    seen.sentence_embeds.split(_AT_ONCE), seen.image.split(_AT_ONCE), strict=True
                )
            ]
        )
        places = len(place_boxes())
        self.embed_mean.copy_(regions[:, :places].float().mean(0))
        self.embed_std.copy_(regions[:, :places].float().std(0, correction=0).clamp(min=1e-3))
        self.cosine_mean.copy_(cosines[:, :places].mean(0))
        self.cosine_std.copy_(cosines[:, :places].std(0, correction=0).clamp(min=1e-3))
        near, share = (each.view(images, count, -1) for each in place_shares(seen.candidates.reshape(-1, 4)))
        extents = _extents(seen.candidates)
        right = torch.zeros(len(bags), count)
        of_image = seen.image.argsort(stable=True).split(torch.bincount(seen.image, minlength=images).tolist())
        for sentences, boxes in zip(of_image, seen.candidates, strict=True):
            true = seen.boxes[sentences.numpy()]
            iou = box_iou(np.nan_to_num(true), boxes).numpy() * np.isfinite(true).all(1, keepdims=True)
            right[sentences] = torch.from_numpy(_rightness(iou)).float()
        epochs = max(epochs, math.ceil(LEAST_STEPS / math.ceil(images / BATCH)))
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        for _ in tqdm(range(epochs), desc="fitting the matcher", unit="epoch", disable=not progress):
            for batch in torch.randperm(images).split(BATCH):
                batch = batch.sort().values
                sentences = torch.cat([of_image[n] for n in batch.tolist()])
                if not len(sentences):
                    continue
                row, like = torch.searchsorted(batch, seen.image[sentences]), (near[batch], share[batch])
                embeds = F.dropout(self._standard(regions[batch], *like), 0.3)
                logits = self._logits(bags[sentences], cosines[sentences], embeds, row, *like, extents[batch])
                loss = F.binary_cross_entropy_with_logits(logits, right[sentences], reduction="none").mean(1)
                optimizer.zero_grad()
                (10 * (loss * seen.weight[sentences]).mean()).backward()
                optimizer.step()
            schedule.step()

    def _standard(self, embeds: torch.Tensor, near: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        """`[B, N, D]` by the mean and spread of the places that each box is like."""
        mean = torch.einsum("bnk,bnkd->bnd", share, self.embed_mean[near])
        return (embeds.float() - mean) / torch.einsum("bnk,bnkd->bnd", share, self.embed_std[near])

    def _logits(
        self,
        bags: torch.Tensor,
        cosines: torch.Tensor,
        embeds: torch.Tensor,
        row: torch.Tensor,
        near: torch.Tensor,
        share: torch.Tensor,
        extents: torch.Tensor,
    ) -> torch.Tensor:
        """`[S, N]`: bags `[S, V + 1]`, cosines `[S, N]`, standardised embeds `[B, N, D]`, row `[S]` the image of each
        sentence, near and share `[B, N, 3]` the places that each box is like, extents `[B, N, E]`."""
        asked = bags @ self.ask  # [S, R]
        agree = torch.einsum("bnd,kdr->bnkr", embeds, self.see)  # at all places: to gather `see` costs more
        like = near[..., None].expand(*near.shape, agree.shape[-1])
        agree = torch.einsum("bnk,bnkr->bnr", share, agree.gather(2, like))
        prefer = _WORD_GAIN * (bags @ self.prefer) + self.bias  # [S, K]
        logits = _WORD_GAIN * torch.einsum("se,sne->sn", bags @ self.extent, extents[row])
        for n in range(near.shape[2]):
            at, part = near[row, :, n], share[row, :, n]
            standard = (cosines - self.cosine_mean[at]) / self.cosine_std[at]
            logits = logits + part * (prefer.gather(1, at) + self.cosine[at] * standard)
        return logits + torch.einsum("sr,snr->sn", asked, agree[row])

    @torch.no_grad()
    def probabilities(
        self,
        tokenizer: Any,
        texts: Sequence[str],
        boxes: np.ndarray,
        sentence_embeds: torch.Tensor,
        region_embeds: torch.Tensor,
    ) -> torch.Tensor:
        """How likely each box of one image is to be right.

        Args:
            texts: S sentences.
            boxes: `[N, 4]` x0, y0, x1, y1 in [0, 1].
            sentence_embeds, region_embeds: `[S, D]` and `[N, D]` unit length.

        Returns:
            `[S, N]` fp32 in [0, 1].
        """
        like = tuple(each[None] for each in place_shares(boxes))
        cosines = sentence_embeds.float() @ region_embeds.float().T
        embeds, row = self._standard(region_embeds[None], *like), torch.zeros(len(texts), dtype=torch.long)
        bags = self.bags(tokenizer, texts)
        return torch.sigmoid(self._logits(bags, cosines, embeds, row, *like, _extents(boxes[None])))

    def save(self, path: str | Path) -> None:
        """Writes one safetensors file, the words in its metadata; whole or not at all."""
        part = Path(f"{path}.part")
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        # One entry: several come in another order each time, and equal matchers must be equal files.
        save_file(tensors, part, {_KIND: json.dumps(self.bags.words)})
        os.replace(part, path)

    @classmethod
    def load(cls, path: str | Path) -> "RegionMatcher":
        """What [`save`] wrote.

        Raises:
            ValueError: another file.
        """
        try:
            with safe_open(path, framework="pt") as file:
                words = (file.metadata() or {}).get(_KIND)
                if words is None:
                    raise ValueError(f"{path}: has no field {_KIND!r} in its metadata")
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            matcher = cls(WordBags(json.loads(words)), *tensors["see"].shape[1:])
            matcher.load_state_dict(tensors)
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise ValueError(f"{path}: no region matcher can be read from it: {str(error).splitlines()[0]}") from error
        return matcher.eval().requires_grad_(False)


def _extents(boxes: np.ndarray) -> torch.Tensor:
    """`[..., 4]` boxes -> `[..., 14]`: centre and log size, relative to those of the places, and their products."""

    def measures(each: np.ndarray) -> np.ndarray:
        size = np.maximum(each[..., 2:] - each[..., :2], 0.01)
        return np.concatenate([(each[..., 2:] + each[..., :2]) / 2, np.log(size)], axis=-1)

    places = measures(place_boxes())
    one = torch.from_numpy((measures(boxes) - places.mean(0)) / places.std(0)).float()
    first, second = torch.triu_indices(4, 4)
    return torch.cat([one, one[..., first] * one[..., second]], dim=-1)


def _rightness(iou: np.ndarray) -> np.ndarray:
    """Half right at IoU 0.5, and wholly from 0.65: with a step alone, pairs that an earlier round has set on one place
    for all images would leave every box around that place equally good."""
    return np.clip((iou - 0.35) / 0.3, 0, 1)


__all__ = ["RegionMatcher", "SeenBoxes"]
