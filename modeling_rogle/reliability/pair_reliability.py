"""How far a region-sentence or an image-caption pair may be trusted, as a number in [0, 1].

[`margin_reliability`] is for mined pairs, before training; [`PairReliability`] learns from the course of training which
pairs look mismatched, from numbers that each step has at hand ([`pair_views`]), without an extra pass over the data.
"""

import math
from collections.abc import Sequence

import torch

from modeling_rogle.configuration_rogle import RELIABILITIES
from modeling_rogle.losses import cosines, same_by_any

# Kinds that know all they will ever know before the first step.
UNWATCHED = ("none", "places")
# DURA's (arXiv 2505.06566); fixed, since with a scale of 100 any evidence would exceed any doubt.
EVIDENCE_TEMPERATURE = 0.05
# A mixture of five parameters is fitted to so many pairs at most; the others are only read.
MIXTURE_PAIRS = 20_000
# Mean standardised score of all pairs from which on the mixture is asked.
LEARNT = 0.25
# Log odds that the mixture may add to what is known of a pair without a model: one that still learns is wrong often.
MOST_ODDS = 5.0


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


@torch.no_grad()
def pair_views(
    kind: str,
    embeds_a: torch.Tensor,
    embeds_b: torch.Tensor,
    logit_scale: torch.Tensor | float = 1.0,
    ids: Sequence[torch.Tensor | None] = (),
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a batch says for each of its pairs, seen from either side; the higher, the more trustworthy.

    Row n of both is one pair; its rivals are the other side's rows that share none of its ids.

    - `gmm_consensus`, `identity`: the pair's cosine minus the mean of its rivals', in standard deviations of its
      rivals', within +-10. It stands for RDE's per-pair loss (ours): it orders pairs as the loss does, but has the same
      meaning in every step, whatever model, batch and temperature, and a mismatched pair, being one more rival, has
      mean 0 and deviation 1. One look-alike in the batch, which makes the loss of a hard true pair large, moves it
      little.
    - `margin`: logit of the pair minus that of its best rival (ours).
    - `evidential`: with evidence `e = exp(cosine / 0.05)` for each of K candidates (DECL, DURA), the share of the
      Dirichlet that is no ignorance, `1 - K / sum(e + 1)`, times the pair's part in its own and its best rival's
      evidence (ours).

    Args:
        kind: one of `configuration_rogle.RELIABILITIES`.
        embeds_a, embeds_b: `[n, d]` unit vectors of any float type.
        logit_scale: scalar, already exponentiated; read by `margin` only.
        ids: `[n]` int64 each, or None; for captions `(person_ids,)`, for sentences `(sentence_ids, part_ids)`.

    Returns:
        Two `[n]` fp32 tensors, without gradient: a among the b, and b among the a. inf where the batch cannot tell:
        without rivals (`gmm_consensus`, `identity`: without two), and throughout for `none` and `places`.

    Raises:
        ValueError: another kind.
    """
    if kind not in RELIABILITIES:
        raise ValueError(f"kind must be one of {RELIABILITIES}, not {kind!r}")
    cosine = cosines(embeds_a, embeds_b).float()
    own = torch.eye(len(cosine), dtype=torch.bool, device=cosine.device)
    rival = ~(same_by_any(tuple(ids), len(cosine), cosine.device) | own)
    return _view(kind, cosine, rival, logit_scale), _view(kind, cosine.T, rival, logit_scale)


def _view(kind: str, cosine: torch.Tensor, rival: torch.Tensor, scale: torch.Tensor | float) -> torch.Tensor:
    own, count = cosine.diagonal(), rival.sum(1)
    if kind in UNWATCHED or len(cosine) == 0:
        return torch.full_like(own, math.inf)
    if kind in ("gmm_consensus", "identity"):
        mean = (cosine * rival).sum(1) / count.clamp(min=1)
        variance = ((cosine - mean[:, None]).square() * rival).sum(1) / (count - 1).clamp(min=1)
        view = ((own - mean) / variance.sqrt().clamp(min=1e-4)).clamp(-10, 10)
        return view.masked_fill(count < 2, math.inf)
    best = cosine.masked_fill(~rival, -math.inf).amax(1)
    if kind == "margin":
        return (own - best) * scale
    evidence = (cosine / EVIDENCE_TEMPERATURE).masked_fill(~rival, -math.inf)
    evidence = torch.logaddexp(evidence.logsumexp(1), own / EVIDENCE_TEMPERATURE)
    known = torch.sigmoid(evidence - (count + 1).log())  # 1 - K / (E + K)
    view = known * torch.sigmoid((own - best) / EVIDENCE_TEMPERATURE)
    return view.masked_fill(count < 1, math.inf)


class PairReliability:
    """Trust in each training pair, learnt from what the steps observe of it; one tracker each for captions and regions.

    Every epoch a pair's two views are averaged into what earlier epochs saw of it (`momentum`), and `finish_epoch`
    makes weights of them, which hold for the next epoch:

    - `none`: 1.
    - `gmm_consensus` (after RDE's consensus division, arXiv 2308.09911, CONQUER, arXiv 2601.18625): the probability of
      being a true pair in a mixture of true and mismatched ones over both views, see [`mismatch_mixture`]. RDE divides
      each view by its own mixture, and draws 0 or 1 for a pair on which they disagree; here both views speak at once,
      and the answer stays a probability (ours): while a model still learns, the two kinds overlap.
    - `margin`: `sigmoid(margin)`, the probability of the pair against its best rival, mean of both views (ours).
    - `evidential`: mean of both views.
    - `places`: `agreement` alone, from the start; nothing is observed (ours).
    - `identity`: `agreement` from the start, and from the first epoch on the chance of `gmm_consensus` with `agreement`
      in place of the mixture's share: where a person's captions leave open which is right, the model says. What is
      more likely wrong than right weighs nothing; a caption that another of the person stands in for is not observed,
      and keeps what it had (ours).

    Whatever the kind but `none` and `identity`, a weight is multiplied by the pair's `agreement`.

    A pair never seen gets the mean weight of those seen (`identity`: its agreement). A pair of weight 0 must go on
    being drawn and observed: so it can come back. The state is plain tensors, on the CPU, and depends on the
    observations alone.

    Args:
        kind: one of `configuration_rogle.RELIABILITIES`.
        n_pairs: pairs are named by 0 to n_pairs - 1.
        warmup_epochs: epochs, at least 1, of weights 1, whose observations count.
        momentum: of a pair's own past, in [0, 1); 0 keeps the latest value. A single value is noisy, since it hangs on
            which rivals the batch held.
        agreement: `[n_pairs]` in [0, 1], what is known of the pairs without any model, as by
            `word_places.place_agreement` or `caption_agreement.caption_agreement`; None: nothing.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        kind: str,
        n_pairs: int,
        warmup_epochs: int = 1,
        momentum: float = 0.5,
        agreement: torch.Tensor | None = None,
    ):
        if kind not in RELIABILITIES:
            raise ValueError(f"kind must be one of {RELIABILITIES}, not {kind!r}")
        if n_pairs < 0 or warmup_epochs < 1 or not 0 <= momentum < 1:
            raise ValueError(
                "n_pairs must be >= 0, warmup_epochs >= 1, momentum in [0, 1), "
                f"not {n_pairs}, {warmup_epochs}, {momentum}"
            )
        self.kind, self.n_pairs, self.warmup_epochs, self.momentum = kind, n_pairs, warmup_epochs, momentum
        self.epochs = 0
        self.views = torch.full((2, n_pairs), math.nan)  # NaN: never seen
        self.agreement = torch.ones(n_pairs) if agreement is None or kind == "none" else agreement.float()
        if self.agreement.shape != (n_pairs,):
            raise ValueError(f"agreement must be [{n_pairs}], not {[*self.agreement.shape]}")
        self.trust = self.agreement.clone() if kind == "identity" else torch.ones(n_pairs)

    @property
    def watches(self) -> bool:
        """Whether steps are to be observed."""
        return self.kind not in UNWATCHED

    def observe(self, pair_index: torch.Tensor, view_a: torch.Tensor, view_b: torch.Tensor) -> None:
        """Takes note of a step.

        Args:
            pair_index: `[n]` int64, each pair at most once.
            view_a, view_b: `[n]`, from [`pair_views`]; pairs with an infinite value are passed over.

        Raises:
            ValueError: a NaN, or an index out of range.
        """
        if not self.watches:
            return
        new = torch.stack([view_a, view_b]).detach().float().cpu()
        index = self._check(pair_index)
        if bool(new.isnan().any()):
            raise ValueError(f"pair {int(index[new.isnan().any(0)][0])}: NaN observed; the embeddings are broken")
        kept = new.isfinite().all(0)
        new, index = new[:, kept], index[kept]
        old = self.views[:, index]
        self.views[:, index] = torch.where(old.isnan(), new, self.momentum * old + (1 - self.momentum) * new)

    def finish_epoch(self) -> dict[str, float]:
        """Makes the next epoch's weights.

        Returns:
            For the log: `observed` (pairs seen so far), `mean_weight`, and for `gmm_consensus` and `identity` the
            mixture's `noisy_share` and `separation`, how far true pairs lie above mismatched ones, mean of both views.
        """
        self.epochs += 1
        seen = ~self.views[0].isnan()
        report = {"observed": float(seen.sum())}
        views = self.views[:, seen]
        share = separation = 0.0
        by_agreement = self.kind == "identity"
        trust = self.agreement[seen] if by_agreement else torch.ones(views.shape[1])
        if self.epochs >= self.warmup_epochs and len(trust):
            if self.kind == "margin":
                trust = views.sigmoid().mean(0)
            elif self.kind == "evidential":
                trust = views.clamp(0, 1).mean(0)
            else:
                trust, share, separation = mismatch_mixture(views, self.agreement[seen] if by_agreement else None)
        unseen = float(trust.mean()) if len(trust) else 1.0
        self.trust = self.agreement.clone() if by_agreement else torch.full((self.n_pairs,), unseen)
        self.trust[seen] = trust
        report["mean_weight"] = float(self.weights().mean()) if self.n_pairs else 1.0
        if self.kind in ("gmm_consensus", "identity"):
            report |= {"noisy_share": share, "separation": separation}
        return report

    def weights(self, pair_index: torch.Tensor | None = None) -> torch.Tensor:
        """`[n]` fp32 in [0, 1], on the CPU, of the pairs asked for, or of all."""
        by_agreement = self.kind == "identity"
        weights = torch.where(self.trust > 0.5, self.trust, 0.0) if by_agreement else self.trust * self.agreement
        return weights if pair_index is None else weights[self._check(pair_index)]

    def clean(self, pair_index: torch.Tensor | None = None) -> torch.Tensor:
        """`[n]` bool: trusted more than not."""
        return self.weights(pair_index) > 0.5

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Tensors only, so that safetensors as well as Accelerate can save it."""
        return {
            "kind": torch.tensor(RELIABILITIES.index(self.kind)),
            "epochs": torch.tensor(self.epochs),
            "views": self.views.clone(),
            "trust": self.trust.clone(),
        }

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Puts back what [`PairReliability.state_dict`] gave.

        Raises:
            ValueError: the state of another kind, of another number of pairs, or incomplete.
        """
        absent = [name for name in self.state_dict() if name not in state]
        if absent:
            raise ValueError(f"reliability state without {absent[0]!r}")
        kind = RELIABILITIES[int(state["kind"])]
        if kind != self.kind or tuple(state["views"].shape) != (2, self.n_pairs):
            raise ValueError(
                f"reliability state of {kind!r} with {state['views'].shape[-1]} pairs, "
                f"expected {self.kind!r} with {self.n_pairs}"
            )
        self.epochs = int(state["epochs"])
        self.views = state["views"].detach().cpu().float().clone()
        self.trust = state["trust"].detach().cpu().float().clone()

    def _check(self, pair_index: torch.Tensor) -> torch.Tensor:
        index = pair_index.detach().cpu().long()
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < self.n_pairs:
            raise ValueError(
                f"pair_index must lie in [0, {self.n_pairs}), found {int(index.min())} to {int(index.max())}"
            )
        return index


def mismatch_mixture(views: torch.Tensor, prior: torch.Tensor | None = None) -> tuple[torch.Tensor, float, float]:
    """Which standardised scores belong to true pairs (ours).

    A mismatched pair is one more rival of itself, so what it scores is known beforehand: mean 0, deviation at most 1
    ([`pair_views`], `gmm_consensus`). True pairs are one Gaussian more, of free mean above 0, deviation and share, the
    two views being independent given the kind. Expectation maximisation, at most 200 rounds. A model that cannot tell
    pairs yet, the mean score of all being under 0.25, is not asked: the fit would follow chance.

    Args:
        views: `[2, n]`, finite.
        prior: `[n]` in [0, 1], each pair's own chance of being true before it is seen, whose odds the scores change by
            a factor of 150 at most; None: the same for all, fitted.

    Returns:
        The probability of being a true pair `[n]` fp32 (the prior, or 1 throughout, for fewer than 50 pairs or if the
        model cannot tell), the share of mismatched pairs, and the true pairs' mean score.
    """
    n = views.shape[1]
    x = views.double()
    if n < 50 or float(x.mean()) < LEARNT:
        return torch.ones(n) if prior is None else prior.float(), 0.0, 0.0
    chosen = slice(None) if n <= MIXTURE_PAIRS else torch.linspace(0, n - 1, MIXTURE_PAIRS).round().long()
    few = x[:, chosen]
    known = None if prior is None else torch.logit(prior.double(), eps=1e-3)
    mean = torch.quantile(few, 0.75, dim=1).clamp(min=0.5)
    null, variance = torch.ones_like(mean), torch.ones_like(mean)
    share = 0.5

    def log_odds(x: torch.Tensor) -> torch.Tensor:
        true = (x - mean[:, None]).square() / variance[:, None] + variance.log()[:, None]
        mismatched = x.square() / null[:, None] + null.log()[:, None]
        return 0.5 * (mismatched - true).sum(0)

    def given(known: torch.Tensor | None) -> torch.Tensor | float:
        return math.log((1 - share) / share) if known is None else known

    for _ in range(200):
        p, before = (log_odds(few) + given(None if known is None else known[chosen])).sigmoid(), share
        mass, rest = p.sum().clamp(min=1e-9), (1 - p).sum().clamp(min=1e-9)
        share = float((1 - p).mean().clamp(1e-4, 1 - 1e-4))
        mean = ((few * p).sum(1) / mass).clamp(min=0.05)
        variance = ((few - mean[:, None]).square() * p).sum(1).div(mass).clamp(min=0.05)
        null = (few.square() * (1 - p)).sum(1).div(rest).clamp(0.25, 1.0)
        if abs(share - before) < 1e-5:
            break
    # Beyond the true mean, and far below 0, the wider Gaussian would win again; the probability must not turn back.
    inside = torch.minimum(x, mean[:, None]).clamp(min=-3.0)
    found = log_odds(inside) if known is None else log_odds(inside).clamp(-MOST_ODDS, MOST_ODDS)
    return (found + given(known)).sigmoid().float(), share, float(mean.mean())


__all__ = ["PairReliability", "margin_reliability", "mismatch_mixture", "pair_views"]
