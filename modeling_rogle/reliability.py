"""How far a mined region-sentence pair may be trusted, as a number in [0, 1]."""

import torch


def margin_reliability(margin: torch.Tensor, temperature: float = 0.01) -> torch.Tensor:
    """Reliability of pairs from the score margin of the chosen region over the runner-up.

    With two candidates, softmax at `temperature` gives the chosen one the probability `sigmoid(margin / temperature)`;
    rescaled so that a coin toss counts 0 and certainty 1, that is `tanh(margin / (2 * temperature))` (ours).

    Args:
        margin: cosine differences, any shape; negative ones count as 0.
        temperature: in cosine units; 0.01 is the inverse of CLIP's logit scale of 100.

    Returns:
        fp32 in [0, 1], the shape of `margin`.

    Raises:
        ValueError: the temperature is not positive, or a margin is NaN.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    margin = margin.detach().float()
    if bool(margin.isnan().any()):
        raise ValueError("margin: NaN; the embeddings that were matched are broken")
    return torch.tanh(margin.clamp(min=0) / (2 * temperature))


__all__ = ["margin_reliability"]
