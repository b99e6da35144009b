"""Probability that a sentence and its region belong together, from the words of the sentence and the box alone (ours).

Words name body parts, and body parts have typical boxes. In a mismatched pair the box does not depend on the words. So
for all pairs with words w, p(box | w) = r p(box | w, correct) + (1 - r) p(box). In positions where the body part of w
never occurs, only the second term remains. Randomly combined words and boxes mostly lie there, which gives r. Bayes'
rule then gives the probability of each pair. No image is read. A mismatched pair of the same body part ("black shoes"
with brown ones) is left to pair_reliability.py.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from modeling_rogle.matching.anchors import anchor_boxes, anchor_weights
from modeling_rogle.matching.bag_of_words import WordBags

RIDGE = 1e-5  # L2 penalty on the weights of words
QUANTILE = 0.3  # of random combinations: about a fifth of them combine a part with its own box and must not count
SAMPLE = 20_000  # pairs that the model is fitted on, and pairs that are scored at once
MIN_PAIRS = 50  # with fewer pairs nothing is fitted


def region_agreement(tokenizer: Any, texts: Sequence[str], boxes: np.ndarray) -> tuple[torch.Tensor, float]:
    """Probability that each region-sentence pair is true, as far as words and boxes show.

    Args:
        tokenizer: a Hugging Face tokenizer.
        texts: N sentences.
        boxes: `[N, 4]` x0, y0, x1, y1 in [0, 1], the region of each sentence.

    Returns:
        agreement: fp32 `[N]` in [0, 1]; 1 for fewer than 50 pairs.
        share: estimated share of true pairs.

    Raises:
        ValueError: different numbers of texts and boxes, or a box that is not finite.
    """
    if boxes.shape != (len(texts), 4) or not np.isfinite(boxes).all():
        raise ValueError(f"boxes must be [{len(texts)}, 4] and finite, not {[*boxes.shape]}")
    if len(texts) < MIN_PAIRS:
        return torch.ones(len(texts)), 1.0
    chosen = np.unique(np.linspace(0, len(texts) - 1, min(SAMPLE, len(texts))).round().astype(int))
    sample, anchors = [texts[n] for n in chosen], _anchor_shares(boxes[chosen])
    base_rate = anchors.mean(0)
    bags = WordBags.of_texts(tokenizer, sample)
    unique, text_index = _unique(sample)
    # Each distinct text once, with the sum of the anchor boxes of its pairs.
    counts = torch.zeros(len(unique), anchors.shape[1]).index_add_(0, text_index, anchors)
    weights = _fit_logistic(bags(tokenizer, unique), counts)
    fitted = torch.softmax(bags(tokenizer, unique) @ weights, dim=1)
    shuffled = anchors[torch.randperm(len(sample), generator=torch.Generator().manual_seed(0))]
    at_random = (shuffled * fitted[text_index]).sum(1) / (shuffled @ base_rate)
    wrong = float(at_random.quantile(QUANTILE).clamp(0, 1))
    agreement = []
    for start in range(0, len(texts), SAMPLE):
        part, anchors = texts[start : start + SAMPLE], _anchor_shares(boxes[start : start + SAMPLE])
        unique, text_index = _unique(part)
        fitted = torch.softmax(bags(tokenizer, unique) @ weights, dim=1)
        given_words = (anchors * fitted[text_index]).sum(1)
        agreement.append(1 - wrong * (anchors @ base_rate) / given_words.clamp(min=1e-12))
    return torch.cat(agreement).clamp(0, 1), 1 - wrong


def _anchor_shares(boxes: np.ndarray) -> torch.Tensor:
    """fp32 `[N, K]`: each box as a distribution over the anchor boxes."""
    index, weights = anchor_weights(boxes)
    return torch.zeros(len(boxes), len(anchor_boxes())).scatter_add_(1, index, weights)


def _unique(texts: Sequence[str]) -> tuple[list[str], torch.Tensor]:
    """The distinct texts, and for each text its index among them, `[N]`."""
    unique = sorted(set(texts))
    number = {text: n for n, text in enumerate(unique)}
    return unique, torch.tensor([number[text] for text in texts])


def _fit_logistic(inputs: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """fp32 `[V, K]`: multinomial logistic regression of `counts` `[T, K]` on `inputs` `[T, V]`."""
    weights = torch.zeros(inputs.shape[1], counts.shape[1], requires_grad=True)
    total = counts.sum()
    optimizer = torch.optim.LBFGS([weights], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = -(counts * torch.log_softmax(inputs @ weights, dim=1)).sum() / total + RIDGE * weights.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weights.detach()


__all__ = ["region_agreement"]
