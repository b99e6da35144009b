"""Region-to-Sentence Matching by cosine in one image: which candidate region each sentence takes.

Each sentence takes its best-scoring candidate, and the whole image is a candidate too, as in GOAL (arXiv 2503.17782).
Unlike GOAL, all regions of an image come from one dense forward pass. ROGLE's own matching is not public; only its
abstract is. Dense region features encode the whole person, so pairs that an untrained model mines are weak. The
reliability of each pair is therefore stored with it.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Matches:
    """The matches of S sentences of one image."""

    region: torch.Tensor  # [S] int64, row of the region; -1: the whole image, or no score above the threshold
    score: torch.Tensor  # [S] fp32, cosine with the best candidate, the whole image included
    margin: torch.Tensor  # [S] fp32 >= 0, score of the best candidate minus score of the second best


@torch.no_grad()
def match_sentences(region_embeds: torch.Tensor, sentence_embeds: torch.Tensor, threshold: float = 0.0) -> Matches:
    """Assigns each sentence of one image to its best region, or to none.

    Sentences may share a region. On equal scores the whole image wins, then the earlier region.

    Args:
        region_embeds: `[T, D]` unit vectors; the last row is the whole image.
        sentence_embeds: `[S, D]` unit vectors.
        threshold: lowest cosine that gives a region, 0 by default.

    Returns:
        [`Matches`] with S entries.

    Raises:
        ValueError: fewer than two candidates, different dimensions, or an embedding that is not finite.
    """
    if region_embeds.ndim != 2 or sentence_embeds.ndim != 2 or region_embeds.shape[1] != sentence_embeds.shape[1]:
        raise ValueError(
            f"regions must be [T, D] and sentences [S, D], not {[*region_embeds.shape]} and {[*sentence_embeds.shape]}"
        )
    if len(region_embeds) < 2:
        raise ValueError("matching needs at least one region besides the whole image")
    # The whole image comes first, because argmax returns the first of equal scores.
    order = torch.arange(len(region_embeds), device=region_embeds.device).roll(1)
    scores = sentence_embeds.float() @ region_embeds.float()[order].T
    if not bool(scores.isfinite().all()):
        raise ValueError("an embedding is not finite")
    if len(scores) == 0:
        empty = scores.new_zeros(0)
        return Matches(order[:0], empty, empty.clone())
    best = scores.argmax(1)
    top = scores.topk(2, dim=1).values
    region = order[best]
    region[(best == 0) | (top[:, 0] < threshold)] = -1
    return Matches(region, top[:, 0], top[:, 0] - top[:, 1])


def margin_reliability(margin: torch.Tensor, temperature: float = 0.01) -> torch.Tensor:
    """Reliability of mined pairs, from the score margin of the chosen region over the second best (ours).

    With two candidates, a softmax at `temperature` gives the chosen one the probability `sigmoid(margin /
    temperature)`. That probability is rescaled from [0.5, 1] to [0, 1]: `tanh(margin / (2 * temperature))`.

    Args:
        margin: cosine differences of any shape; negative ones count as 0.
        temperature: in units of cosine; the default 0.01 is the inverse of CLIP's logit scale of 100.

    Returns:
        fp32 in [0, 1], in the shape of `margin`.

    Raises:
        ValueError: the temperature is not positive, or a margin is NaN.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    margin = margin.detach().float()
    if bool(margin.isnan().any()):
        raise ValueError("margin: NaN; the embeddings that were matched are broken")
    return torch.tanh(margin.clamp(min=0) / (2 * temperature))


__all__ = ["Matches", "margin_reliability", "match_sentences"]
