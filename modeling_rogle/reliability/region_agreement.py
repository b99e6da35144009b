"""Whether a sentence's words and the place of its region belong together, judged by all the other pairs.

Words name parts, and parts have places. Where a pair is wrong its words say nothing of the place. So of the pairs
with words w, p(place | w) = r p(place | w, right) + (1 - r) p(place), and at places where w's part never is, the left
side is what is wrong: (1 - r) p(place). Words and places put together at random mostly meet there, which gives r;
Bayes' rule gives each pair's chance of being right. No image is looked at: a wrong pair of the same part ("black
shoes" with brown ones) is for other kinds of trust (reliability.py). Ours.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from modeling_rogle.matching.anchors import place_boxes, place_shares
from modeling_rogle.matching.bag_of_words import WordBags

RIDGE = 1e-5  # on the weights of words
QUANTILE = 0.3  # of random meetings: a fifth of them are of a part and its own place, and must not count
SAMPLE = 20_000  # pairs that are learnt from, and that are judged together
_LEAST = 50  # pairs; of fewer nothing is learnt


def place_agreement(tokenizer: Any, texts: Sequence[str], boxes: np.ndarray) -> tuple[torch.Tensor, float]:
    """The probability that each region-sentence pair is right, as far as words and places tell.

    Args:
        texts: N sentences; boxes: `[N, 4]` x0, y0, x1, y1 in [0, 1], their regions.

    Returns:
        `[N]` fp32 in [0, 1], and the estimated share of right pairs. With fewer than 50 pairs all count 1.

    Raises:
        ValueError: lengths that differ, or a box that is not finite.
    """
    if boxes.shape != (len(texts), 4) or not np.isfinite(boxes).all():
        raise ValueError(f"boxes must be [{len(texts)}, 4] and finite, not {[*boxes.shape]}")
    if len(texts) < _LEAST:
        return torch.ones(len(texts)), 1.0
    chosen = np.unique(np.linspace(0, len(texts) - 1, min(SAMPLE, len(texts))).round().astype(int))
    some, there = [texts[n] for n in chosen], _places(boxes[chosen])  # [n, K]
    chance = there.mean(0)
    bags = WordBags.of_texts(tokenizer, some)
    different, of_text = _different(some)
    # Each text once, with the sum of the places that are said of it.
    said = torch.zeros(len(different), there.shape[1]).index_add_(0, of_text, there)
    weights = _regress(bags(tokenizer, different), said)
    fitted = torch.softmax(bags(tokenizer, different) @ weights, dim=1)
    apart = there[torch.randperm(len(some), generator=torch.Generator().manual_seed(0))]
    at_random = (apart * fitted[of_text]).sum(1) / (apart @ chance)
    wrong = float(at_random.quantile(QUANTILE).clamp(0, 1))
    found = []
    for start in range(0, len(texts), SAMPLE):
        part, there = texts[start : start + SAMPLE], _places(boxes[start : start + SAMPLE])
        different, of_text = _different(part)
        fitted = torch.softmax(bags(tokenizer, different) @ weights, dim=1)
        by_words = (there * fitted[of_text]).sum(1)
        found.append(1 - wrong * (there @ chance) / by_words.clamp(min=1e-12))
    return torch.cat(found).clamp(0, 1), 1 - wrong


def _places(boxes: np.ndarray) -> torch.Tensor:
    """`[N, K]` fp32, how much each box is each place."""
    near, share = place_shares(boxes)
    return torch.zeros(len(boxes), len(place_boxes())).scatter_add_(1, near, share)


def _different(texts: Sequence[str]) -> tuple[list[str], torch.Tensor]:
    """The different texts, and `[N]` which of them each is."""
    different = sorted(set(texts))
    number = {text: n for n, text in enumerate(different)}
    return different, torch.tensor([number[text] for text in texts])


def _regress(read: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
    """`[V, K]` fp32, multinomial logistic regression of counts `said [T, K]` on `read [T, V]`."""
    weights = torch.zeros(read.shape[1], said.shape[1], requires_grad=True)
    total = said.sum()
    optimizer = torch.optim.LBFGS([weights], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = -(said * torch.log_softmax(read @ weights, dim=1)).sum() / total + RIDGE * weights.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weights.detach()


__all__ = ["place_agreement"]
