"""Probability that an image's captions describe its person, from the captions of the same person's other images (ours).

Captions of one person are written for different images but mention the same clothes. So two correct captions agree in
the words that distinguish people. A caption of another person agrees with them no more than texts of two different
people do, which can be measured. The probability of each caption sums over all subsets of a person's captions that may
be the correct ones. Neither images nor a model are used, only the identity labels of the training data.
"""

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch

from modeling_rogle.matching.bag_of_words import WordBags

SAMPLE = 20_000  # texts that the model is fitted on, and texts that are scored at once
MAX_WORDS = 1_000  # size of the vocabulary, the most frequent words
GROUP_SIZE = 10  # texts of one person that are compared with each other: 2^10 subsets
MIN_PAIRS = 50  # pairs of texts of one person, and of two people; with fewer nothing is fitted
MIN_SHARE = 1e-3  # the shares of correct and wrong texts stay at least this far from 0


def caption_agreement(
    tokenizer: Any, texts: Sequence[str], person_ids: Sequence[Hashable]
) -> tuple[torch.Tensor, float]:
    """Probability that each text describes its person, as far as the person's other texts show.

    Args:
        tokenizer: a Hugging Face tokenizer.
        texts: N texts; all captions of an image joined.
        person_ids: N identities. If a person has more than 10 texts, they are compared in interleaved groups.

    Returns:
        agreement: fp32 `[N]` in [0, 1]. A person's only text gets the share of correct texts. All are 1 if there are
            fewer than 50 pairs of texts of one person, or of two people, or if the words do not distinguish people.
        share: estimated share of correct texts.

    Raises:
        ValueError: different numbers of texts and identities.
    """
    if len(texts) != len(person_ids):
        raise ValueError(f"{len(texts)} texts, and {len(person_ids)} person_ids")
    groups, group_person = _groups(person_ids)
    step = max(1, -(-len(texts) // SAMPLE))
    sample = groups[::step]
    sizes = [len(rows) for rows in sample]
    if sum(math.comb(size, 2) for size in sizes) < MIN_PAIRS:
        return torch.ones(len(texts)), 1.0

    def texts_of(groups: list[list[int]]) -> list[str]:
        return [texts[n] for rows in groups for n in rows]

    bags = WordBags(WordBags.of_texts(tokenizer, texts_of(sample)).words[:MAX_WORDS])
    encoder = _WordWeights(bags(tokenizer, texts_of(sample)), sizes)
    units = encoder(bags(tokenizer, texts_of(sample)))
    cosines = _pair_cosines(units, sizes)
    shuffled = torch.randperm(len(units), generator=torch.Generator().manual_seed(0))
    person = torch.tensor(group_person[::step])[encoder.group]
    unrelated = (units * units[shuffled]).sum(1)[person != person[shuffled]].double().numpy()
    fit = _AgreementModel(cosines, unrelated) if len(unrelated) >= MIN_PAIRS else None
    if fit is None or not fit.is_informative:
        return torch.ones(len(texts)), 1.0
    share = fit.share_of_correct(cosines, sizes)

    agreement = torch.ones(len(texts))

    def score(groups: list[list[int]], cosines: np.ndarray) -> None:
        probability = _subset_probabilities(fit.log_odds(cosines), [len(rows) for rows in groups], share)
        agreement[[n for rows in groups for n in rows]] = torch.from_numpy(probability).float()

    score(sample, cosines)
    others = [rows for n, rows in enumerate(groups) if n % step]
    for start in range(0, len(others), SAMPLE // GROUP_SIZE):
        part = others[start : start + SAMPLE // GROUP_SIZE]
        units = encoder(bags(tokenizer, texts_of(part)))
        score(part, _pair_cosines(units, [len(rows) for rows in part]))
    return agreement, share


def _groups(person_ids: Sequence[Hashable]) -> tuple[list[list[int]], list[int]]:
    """Rows of each group of at most 10 texts of one person, and the number of its person."""
    people: dict[Hashable, list[int]] = {}
    for n, person in enumerate(person_ids):
        people.setdefault(person, []).append(n)
    groups, group_person = [], []
    for number, rows in enumerate(people.values()):
        parts = -(-len(rows) // GROUP_SIZE)
        groups += [rows[part::parts] for part in range(parts)]
        group_person += [number] * parts
    return groups, group_person


class _WordWeights:
    """Turns bags of words into unit vectors, in which words that distinguish people have a high weight.

    Args:
        bags: `[n, V]`, the texts of all groups, group after group.
        sizes: number of texts of each group.
    """

    def __init__(self, bags: torch.Tensor, sizes: Sequence[int]):
        self.group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))  # [n]
        mean, variance = bags.mean(0), bags.var(0).clamp(min=1e-9)
        # The part of a word's variance that lies between people: its covariance in two texts of one person, which is
        # the mean over all such pairs.
        sums = torch.zeros(len(sizes), len(mean)).index_add_(0, self.group, bags - mean)
        pairs = sum(math.comb(size, 2) for size in sizes)
        covariance = (sums.square().sum(0) - (bags - mean).square().sum(0)) / (2 * pairs)
        self.mean, self.scale = mean, covariance.clamp(min=0).sqrt() / variance

    def __call__(self, bags: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize((bags - self.mean) * self.scale, dim=1)


class _AgreementModel:
    """Mixture of two Gaussians over the cosine of two texts of one person: both correct, or as of two people.

    The Gaussian of texts of two people is known; the other one and its share are fitted.

    Args:
        cosines: `[P]` cosines, pairs of texts of one person.
        unrelated: `[Q]` cosines, pairs of texts of two people.
    """

    def __init__(self, cosines: np.ndarray, unrelated: np.ndarray):
        self.of_unrelated = float(unrelated.mean()), max(float(unrelated.var()), 1e-6)
        self.of_correct = float(np.quantile(cosines, 0.75)), self.of_unrelated[1]
        self.share = 0.5
        for _ in range(200):
            odds = self._log_odds(cosines) + math.log(self.share / (1 - self.share))
            probability, before = 1 / (1 + np.exp(-odds.clip(-500, 500))), self.share
            self.share = float(probability.mean().clip(MIN_SHARE, 1 - MIN_SHARE))
            mass = max(float(probability.sum()), 1e-9)
            mean = float((probability * cosines).sum() / mass)
            self.of_correct = mean, max(float((probability * (cosines - mean) ** 2).sum() / mass), 1e-6)
            if abs(self.share - before) < 1e-5:
                break
        # Texts of one person that agree hardly more than texts of two people carry no information.
        gain = float(cosines.mean()) - self.of_unrelated[0]
        error = math.sqrt(float(cosines.var()) / len(cosines) + self.of_unrelated[1] / len(unrelated))
        self.is_informative = gain > 3 * error and self.of_correct[0] - self.of_unrelated[0] > math.sqrt(
            self.of_unrelated[1]
        )

    def _log_odds(self, x: np.ndarray) -> np.ndarray:
        (m0, v0), (m1, v1) = self.of_unrelated, self.of_correct
        return 0.5 * ((x - m0) ** 2 / v0 - (x - m1) ** 2 / v1 + math.log(v0 / v1))

    def log_odds(self, cosines: np.ndarray) -> np.ndarray:
        """Log odds of two correct texts against texts of two people, made monotonic where the wider Gaussian wins."""
        (m0, v0), (m1, v1) = self.of_unrelated, self.of_correct
        curve = 1 / v0 - 1 / v1
        if abs(curve) > 1e-9:
            turn = (m0 / v0 - m1 / v1) / curve
            cosines = np.maximum(cosines, turn) if curve > 0 else np.minimum(cosines, turn)
        return self._log_odds(cosines)

    def share_of_correct(self, cosines: np.ndarray, sizes: Sequence[int]) -> float:
        """The share of correct texts at which it equals the mean probability of all texts."""
        odds, share = self.log_odds(cosines), math.sqrt(self.share)
        for _ in range(20):
            before = share
            share = float(np.clip(_subset_probabilities(odds, sizes, share).mean(), MIN_SHARE, 1 - MIN_SHARE))
            if abs(share - before) < 1e-4:
                break
        return share


def _pair_cosines(units: torch.Tensor, sizes: Sequence[int]) -> np.ndarray:
    """`[P]`: cosine of every pair of rows within a group, group after group."""
    cosines = []
    for rows in units.split(list(sizes)):
        first, second = np.triu_indices(len(rows), 1)
        cosines.append((rows @ rows.T)[first, second])
    return torch.cat(cosines).double().numpy()


def _subset_probabilities(odds: np.ndarray, sizes: Sequence[int], share: float) -> np.ndarray:
    """Probability that each text is correct, summed over all subsets of its group that may be the correct texts.

    A subset's weight is the probability of its numbers of correct and wrong texts times the odds of all pairs in it.

    Args:
        odds: `[P]` log odds of the pairs, in the order of [`_pair_cosines`].
        sizes: number of texts of each group.
        share: share of correct texts, in (0, 1).

    Returns:
        `[N]` in [0, 1].
    """
    group_sizes = np.array(sizes)
    texts = np.concatenate([[0], np.cumsum(group_sizes)])
    pairs = np.concatenate([[0], np.cumsum(group_sizes * (group_sizes - 1) // 2)])
    probability = np.zeros(texts[-1])
    for size in np.unique(group_sizes):
        groups = np.flatnonzero(group_sizes == size)
        subsets = ((np.arange(2**size)[:, None] >> np.arange(size)) & 1).astype(float)  # [2^n, n]
        first, second = np.triu_indices(size, 1)
        index = pairs[groups][:, None] + np.arange(len(first))
        weight = odds[index] @ (subsets[:, first] * subsets[:, second]).T
        weight = weight + subsets.sum(1) * math.log(share / (1 - share))
        weight = np.exp(weight - weight.max(1, keepdims=True))
        probability[texts[groups][:, None] + np.arange(size)] = weight @ subsets / weight.sum(1, keepdims=True)
    return probability


__all__ = ["caption_agreement"]
