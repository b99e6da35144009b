"""Whether an image's captions say what those of the same person's other images say.

Captions of one person are written of different images, and tell of the same clothes. So two right ones agree in the
words that tell people apart, and one that came to the wrong person agrees with its new neighbours no better than texts
of different people do, which can be counted. Which of a person's captions are right is then summed over all
possibilities. No image is looked at, and no model: only the labels of people, which training data have anyway. Ours.
"""

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch

from modeling_rogle.matching.bag_of_words import WordBags

SAMPLE = 20_000  # texts that are learnt from, and that are judged at a time
WORDS = 1_000  # the commonest
TOGETHER = 10  # texts of a person that are weighed against each other: 2^10 possibilities
_LEAST = 50  # pairs of texts of one person, and of two; from fewer nothing is learnt
_DOUBT = 1e-3  # that there is at least, before a text is read


def caption_agreement(
    tokenizer: Any, texts: Sequence[str], person_ids: Sequence[Hashable]
) -> tuple[torch.Tensor, float]:
    """The probability that each text is of its person, as far as the person's other texts tell.

    Args:
        texts: N, all captions of an image in one.
        person_ids: N. Of a person with more than 10 texts every second, third, ... are weighed against each other.

    Returns:
        `[N]` fp32 in [0, 1], and the estimated share of right texts, which is also what a person's only text gets.
        Where fewer than 50 pairs of texts are of one person, or of two, or words do not tell people apart, all are 1.

    Raises:
        ValueError: numbers of texts and people that differ.
    """
    if len(texts) != len(person_ids):
        raise ValueError(f"{len(texts)} texts, and {len(person_ids)} person_ids")
    people: dict[Hashable, list[int]] = {}
    for n, person in enumerate(person_ids):
        people.setdefault(person, []).append(n)
    groups, owner = [], []
    for number, rows in enumerate(people.values()):
        parts = -(-len(rows) // TOGETHER)
        groups += [rows[part::parts] for part in range(parts)]
        owner += [number] * parts
    every = max(1, -(-len(texts) // SAMPLE))
    learnt = groups[::every]
    if sum(math.comb(len(rows), 2) for rows in learnt) < _LEAST:
        return torch.ones(len(texts)), 1.0

    bags = WordBags.of_texts(tokenizer, [texts[n] for rows in learnt for n in rows])
    bags = WordBags(bags.words[:WORDS])
    read = bags(tokenizer, [texts[n] for rows in learnt for n in rows])
    sizes = [len(rows) for rows in learnt]
    whose = torch.repeat_interleave(torch.arange(len(learnt)), torch.tensor(sizes))
    mean, variance = read.mean(0), read.var(0).clamp(min=1e-9)
    # How much of a word's variance is between people: its covariance in two texts of one, the mean of all such pairs.
    sums = torch.zeros(len(learnt), len(mean)).index_add_(0, whose, read - mean)
    pairs = sum(math.comb(size, 2) for size in sizes)
    covariance = (sums.square().sum(0) - (read - mean).square().sum(0)) / (2 * pairs)
    scale = covariance.clamp(min=0).sqrt() / variance

    def units(read: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize((read - mean) * scale, dim=1)

    known = units(read)
    cosines = _cosines(known, sizes)
    moved = torch.randperm(len(known), generator=torch.Generator().manual_seed(0))
    who = torch.tensor(owner[::every])[whose]
    strangers = (known * known[moved]).sum(1)[who != who[moved]].double().numpy()
    fit = _Agreement(cosines, strangers) if len(strangers) >= _LEAST else None
    if fit is None or not fit.tells:
        return torch.ones(len(texts)), 1.0
    right = fit.share_of_right(cosines, sizes)

    chances = torch.ones(len(texts))

    def judge(some: list[list[int]], cosines: np.ndarray) -> None:
        found = _right_together(fit.log_odds(cosines), [len(rows) for rows in some], right)
        chances[[n for rows in some for n in rows]] = torch.from_numpy(found).float()

    judge(learnt, cosines)
    others = [rows for n, rows in enumerate(groups) if n % every]
    for start in range(0, len(others), SAMPLE // TOGETHER):
        some = others[start : start + SAMPLE // TOGETHER]
        known = units(bags(tokenizer, [texts[n] for rows in some for n in rows]))
        judge(some, _cosines(known, [len(rows) for rows in some]))
    return chances, right


class _Agreement:
    """How two texts of one person agree where both are right: one Gaussian, beside that of strangers, which is known.

    Args:
        cosines: `[P]` of two texts of one person, right or wrong; strangers: `[Q]` of two people's.
    """

    def __init__(self, cosines: np.ndarray, strangers: np.ndarray):
        self.other = float(strangers.mean()), max(float(strangers.var()), 1e-6)
        self.same = float(np.quantile(cosines, 0.75)), self.other[1]
        self.share = 0.5
        for _ in range(200):
            odds = self._log_odds(cosines) + math.log(self.share / (1 - self.share))
            both, before = 1 / (1 + np.exp(-odds.clip(-500, 500))), self.share
            self.share = float(both.mean().clip(_DOUBT, 1 - _DOUBT))
            mass = max(float(both.sum()), 1e-9)
            mean = float((both * cosines).sum() / mass)
            self.same = mean, max(float((both * (cosines - mean) ** 2).sum() / mass), 1e-6)
            if abs(self.share - before) < 1e-5:
                break
        # Whose texts agree hardly better than strangers' do cannot be told from them.
        better = float(cosines.mean()) - self.other[0]
        error = math.sqrt(float(cosines.var()) / len(cosines) + self.other[1] / len(strangers))
        self.tells = better > 3 * error and self.same[0] - self.other[0] > math.sqrt(self.other[1])

    def _log_odds(self, x: np.ndarray) -> np.ndarray:
        (m0, v0), (m1, v1) = self.other, self.same
        return 0.5 * ((x - m0) ** 2 / v0 - (x - m1) ** 2 / v1 + math.log(v0 / v1))

    def log_odds(self, cosines: np.ndarray) -> np.ndarray:
        """Of both being right against strangers; past the wider Gaussian's turn it must not turn back."""
        (m0, v0), (m1, v1) = self.other, self.same
        curve = 1 / v0 - 1 / v1
        if abs(curve) > 1e-9:
            turn = (m0 / v0 - m1 / v1) / curve
            cosines = np.maximum(cosines, turn) if curve > 0 else np.minimum(cosines, turn)
        return self._log_odds(cosines)

    def share_of_right(self, cosines: np.ndarray, sizes: Sequence[int]) -> float:
        """The share of right texts that the chances of all texts amount to."""
        odds, right = self.log_odds(cosines), math.sqrt(self.share)
        for _ in range(20):
            before = right
            right = float(np.clip(_right_together(odds, sizes, right).mean(), _DOUBT, 1 - _DOUBT))
            if abs(right - before) < 1e-4:
                break
        return right


def _cosines(units: torch.Tensor, sizes: Sequence[int]) -> np.ndarray:
    """`[P]` of every two rows of a group, group after group, which lie end to end in these sizes."""
    found = []
    for rows in units.split(list(sizes)):
        one, other = np.triu_indices(len(rows), 1)
        found.append((rows @ rows.T)[one, other])
    return torch.cat(found).double().numpy()


def _right_together(odds: np.ndarray, sizes: Sequence[int], right: float) -> np.ndarray:
    """The chance of each text to be right: over all sets of a person's texts that could be the right ones, each as
    likely as so many right and wrong texts times the odds of every two in it.

    Args:
        odds: log odds of the pairs, as [`_cosines`] orders them; right: share of right texts in (0, 1).
    """
    sizes = np.array(sizes)
    texts = np.concatenate([[0], np.cumsum(sizes)])
    pairs = np.concatenate([[0], np.cumsum(sizes * (sizes - 1) // 2)])
    chances = np.zeros(texts[-1])
    for size in np.unique(sizes):
        groups = np.flatnonzero(sizes == size)
        sets = ((np.arange(2**size)[:, None] >> np.arange(size)) & 1).astype(float)  # [2^n, n]
        one, other = np.triu_indices(size, 1)
        there = pairs[groups][:, None] + np.arange(len(one))
        weight = odds[there] @ (sets[:, one] * sets[:, other]).T + sets.sum(1) * math.log(right / (1 - right))
        weight = np.exp(weight - weight.max(1, keepdims=True))
        chances[texts[groups][:, None] + np.arange(size)] = weight @ sets / weight.sum(1, keepdims=True)
    return chances


__all__ = ["caption_agreement"]
