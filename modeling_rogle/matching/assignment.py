"""Region-to-Sentence Matching in one image: template regions, and which candidate a sentence takes.

Independent of ROGLE's own matching, of which only the abstract is public. As in GOAL (arXiv 2503.17782) each sentence
takes its best-scoring candidate and the whole image stays a candidate; unlike GOAL all regions of an image come from
one dense forward. Dense region features leak the rest of the person into every box, so pairs mined by an untrained
model say little; the reliability goes with every pair for that reason.
"""

from dataclasses import dataclass

import torch

_TRANSPORT = 0.07


@dataclass(frozen=True)
class Matches:
    """One entry per sentence."""

    region: torch.Tensor  # [S] int64, the row of the region, -1 = the whole image or nothing good enough
    score: torch.Tensor  # [S] fp32, cosine with the best candidate, the whole image among them
    margin: torch.Tensor  # [S] fp32 >= 0, the best candidate's score minus the runner-up's


@torch.no_grad()
def match_sentences(region_embeds: torch.Tensor, sentence_embeds: torch.Tensor, threshold: float = 0.0) -> Matches:
    """Gives each sentence of one image its best region, or none.

    Args:
        region_embeds: `[T, D]` unit length; the last row is the whole image.
        sentence_embeds: `[S, D]` unit length.
        threshold: a best score under this cosine gives no region.

    Returns:
        [`Matches`] with S entries. On equal scores the whole image wins, then the earlier region. Sentences may share
        a region.

    Raises:
        ValueError: fewer than two candidates, widths that differ, or an embedding that is not finite.
    """
    if region_embeds.ndim != 2 or sentence_embeds.ndim != 2 or region_embeds.shape[1] != sentence_embeds.shape[1]:
        raise ValueError(
            f"regions must be [T, D] and sentences [S, D], not {[*region_embeds.shape]} and {[*sentence_embeds.shape]}"
        )
    if len(region_embeds) < 2:
        raise ValueError("matching needs at least one region beside the whole image")
    # The whole image first: argmax takes the first of equals.
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


def assign(scores: torch.Tensor, rule: str = "best") -> torch.Tensor:
    """Which candidate each sentence of one image takes.

    Args:
        scores: `[S, N]`, higher is better.
        rule: `best`: each sentence its highest (GOAL); `one_to_one`: no candidate twice, the highest sum (Hungarian
            algorithm); `transport`: the highest entry of each row of an entropic optimal-transport plan with equal
            masses on either side (Sinkhorn, regularisation 0.07 as in CONQUER, arXiv 2601.18625).

    Returns:
        `[S]` int64; -1 where `one_to_one` has no candidate left.

    Raises:
        ValueError: another rule, or a score that is not finite.
        ImportError: `one_to_one` without scipy.
    """
    if not bool(scores.isfinite().all()):
        raise ValueError("a score is not finite")
    if rule == "best":
        return scores.argmax(1) if len(scores) else scores.new_zeros(0, dtype=torch.long)
    if rule == "one_to_one":
        try:
            from scipy.optimize import linear_sum_assignment
        except ImportError as error:
            raise ImportError("one_to_one needs scipy: pip install 'rogle[pvlg]'") from error
        rows, columns = linear_sum_assignment(scores.double().numpy(), maximize=True)
        chosen = torch.full((len(scores),), -1, dtype=torch.long)
        chosen[torch.from_numpy(rows)] = torch.from_numpy(columns)
        return chosen
    if rule == "transport":
        plan = scores.double() / _TRANSPORT
        for _ in range(50):  # in logarithms: at 0.07 the exponentials span many orders
            plan = plan - plan.logsumexp(1, keepdim=True)
            plan = plan - plan.logsumexp(0, keepdim=True)
        return plan.argmax(1) if len(scores) else scores.new_zeros(0, dtype=torch.long)
    raise ValueError(f"rule must be best, one_to_one or transport, not {rule!r}")


__all__ = [
    "Matches",
    "assign",
    "match_sentences",
]
