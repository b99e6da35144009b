"""Weights of training pairs, learnt during training: pairs that look mismatched get a low weight.

[`pair_scores`] scores the pairs of one batch from embeddings that the step has anyway, so no extra pass over the data
is needed. [`PairReliability`] collects these scores and turns them into weights after each epoch.
"""

import math
from collections.abc import Sequence

import torch

from modeling_rogle.losses import cosines, same_by_any

# Number of each kind in stored training states; 1 and 3 were kinds that no longer exist.
_KIND_NUMBERS = {"none": 0, "gmm_consensus": 2, "places": 4, "identity": 5}
# Kinds whose weights are known before the first step.
UNOBSERVED_KINDS = ("none", "places")
MIXTURE_PAIRS = 20_000  # the mixture is fitted to at most so many pairs; the others are only scored
MIN_MEAN_SCORE = 0.25  # mean score of all pairs below which the model cannot separate pairs yet
MAX_LOG_ODDS = 5.0  # that the scores may add to the prior log odds of a pair: a model in training is often wrong


@torch.no_grad()
def pair_scores(
    kind: str, embeds_a: torch.Tensor, embeds_b: torch.Tensor, ids: Sequence[torch.Tensor | None] = ()
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores each pair of a batch against its in-batch negatives, in both directions (ours).

    Row n of both sides is one pair. Its negatives are the rows of the other side that share none of its ids. The score
    is the pair's cosine minus the mean of its negatives' cosines, in standard deviations of these, clamped to
    [-10, 10]. It replaces RDE's loss per pair (arXiv 2308.09911): it orders pairs as the loss does, but means the same
    in every step, for any model, batch and temperature. A mismatched pair is one more negative, so its scores have mean
    0 and deviation 1. A single similar negative, which makes the loss of a hard true pair large, moves it little.

    Args:
        kind: one of `RELIABILITIES_LOCAL` and `RELIABILITIES_GLOBAL` of `configuration_rogle.py`.
        embeds_a: `[n, d]` unit vectors of any float type.
        embeds_b: `[n, d]` unit vectors of any float type.
        ids: int64 `[n]` each, or None; for captions `(person_ids,)`, for sentences `(sentence_ids, part_ids)`.

    Returns:
        Two fp32 `[n]` without gradient: a against the rows of b, and b against the rows of a. Infinite where the batch
        gives no score: with fewer than two negatives, and everywhere for the kinds `none` and `places`.

    Raises:
        ValueError: another kind.
    """
    _check_kind(kind)
    cosine = cosines(embeds_a, embeds_b).float()
    own = torch.eye(len(cosine), dtype=torch.bool, device=cosine.device)
    is_negative = ~(same_by_any(tuple(ids), len(cosine), cosine.device) | own)
    return _scores(kind, cosine, is_negative), _scores(kind, cosine.T, is_negative)


def _scores(kind: str, cosine: torch.Tensor, is_negative: torch.Tensor) -> torch.Tensor:
    own, count = cosine.diagonal(), is_negative.sum(1)
    if kind in UNOBSERVED_KINDS or len(cosine) == 0:
        return torch.full_like(own, math.inf)
    mean = (cosine * is_negative).sum(1) / count.clamp(min=1)
    variance = ((cosine - mean[:, None]).square() * is_negative).sum(1) / (count - 1).clamp(min=1)
    scores = ((own - mean) / variance.sqrt().clamp(min=1e-4)).clamp(-10, 10)
    return scores.masked_fill(count < 2, math.inf)


def _check_kind(kind: str) -> None:
    if kind not in _KIND_NUMBERS:
        raise ValueError(f"kind must be one of {tuple(_KIND_NUMBERS)}, not {kind!r}")


class PairReliability:
    """Weights of all training pairs; one tracker for image-caption pairs and one for region-sentence pairs.

    `observe` averages the scores of a pair over epochs (`momentum`). `finish_epoch` turns them into the probability
    that the pair is true, which gives the weights of the next epoch. What the weight is depends on the kind:

    - `none`: 1.
    - `gmm_consensus`: probability times `agreement`. The probability comes from a mixture of true and mismatched pairs
      over the scores of both directions, see [`mismatch_mixture`]. This follows the consensus division of RDE (arXiv
      2308.09911) and CONQUER (arXiv 2601.18625). RDE fits one mixture per direction and draws 0 or 1 for a pair on
      which they disagree. Here one mixture uses both directions, and the result stays a probability (ours): the two
      kinds of pairs overlap while a model still learns.
    - `places`: `agreement`; no step is observed (ours).
    - `identity`: `agreement` until the first epoch is finished, then the probability of the mixture with `agreement` as
      its prior: the model decides between captions that `agreement` leaves open. Probabilities of at most 0.5 give
      weight 0. A pair that is not observed, because another caption replaces its own, keeps its score (ours).

    A pair that was never observed gets the mean probability of the observed ones (for `identity` its agreement). Pairs
    of weight 0 must still be drawn and observed; only then can their weight rise again. The state is a few tensors on
    the CPU and depends on the observations only.

    Args:
        kind: one of `RELIABILITIES_LOCAL` and `RELIABILITIES_GLOBAL` of `configuration_rogle.py`.
        n_pairs: number of pairs; they are numbered from 0.
        warmup_epochs: epochs of weight 1 at the start, at least and by default 1. Their observations count.
        momentum: weight of a pair's past score in [0, 1), 0.5 by default; 0 keeps the latest score. A single score is
            noisy, because it depends on the negatives in the batch.
        agreement: `[n_pairs]` in [0, 1], probability that a pair is true before training, from
            [`region_agreement`] or [`caption_agreement`]; None, the default: 1 for all pairs. Ignored for `none`.

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
        _check_kind(kind)
        if n_pairs < 0 or warmup_epochs < 1 or not 0 <= momentum < 1:
            raise ValueError(
                "n_pairs must be >= 0, warmup_epochs >= 1, momentum in [0, 1), "
                f"not {n_pairs}, {warmup_epochs}, {momentum}"
            )
        self.kind, self.n_pairs, self.warmup_epochs, self.momentum = kind, n_pairs, warmup_epochs, momentum
        self.epochs = 0
        self.scores = torch.full((2, n_pairs), math.nan)  # one row per direction; NaN: never observed
        self.agreement = torch.ones(n_pairs) if agreement is None or kind == "none" else agreement.float()
        if self.agreement.shape != (n_pairs,):
            raise ValueError(f"agreement must be [{n_pairs}], not {[*self.agreement.shape]}")
        self.probability = self.agreement.clone() if kind == "identity" else torch.ones(n_pairs)

    @property
    def needs_observations(self) -> bool:
        """Whether the training steps must call `observe`."""
        return self.kind not in UNOBSERVED_KINDS

    def observe(self, pair_index: torch.Tensor, scores_a: torch.Tensor, scores_b: torch.Tensor) -> None:
        """Adds the scores of one step; ignored for kinds that need no observations.

        Args:
            pair_index: int64 `[n]`, each pair at most once.
            scores_a: `[n]` from [`pair_scores`]; pairs with an infinite score are skipped.
            scores_b: `[n]`, likewise.

        Raises:
            ValueError: a NaN, or an index out of range.
        """
        if not self.needs_observations:
            return
        new = torch.stack([scores_a, scores_b]).detach().float().cpu()
        index = self._check_index(pair_index)
        if bool(new.isnan().any()):
            raise ValueError(f"pair {int(index[new.isnan().any(0)][0])}: NaN observed; the embeddings are broken")
        finite = new.isfinite().all(0)
        new, index = new[:, finite], index[finite]
        old = self.scores[:, index]
        self.scores[:, index] = torch.where(old.isnan(), new, self.momentum * old + (1 - self.momentum) * new)

    def finish_epoch(self) -> dict[str, float]:
        """Computes the weights of the next epoch.

        Returns:
            Values for the log: `observed` (pairs observed so far), `mean_weight`, and for `gmm_consensus` and
            `identity` also `noisy_share` (share of mismatched pairs) and `separation` (mean score of the true pairs).
        """
        self.epochs += 1
        observed = ~self.scores[0].isnan()
        report = {"observed": float(observed.sum())}
        scores = self.scores[:, observed]
        share = separation = 0.0
        use_prior = self.kind == "identity"
        probability = self.agreement[observed] if use_prior else torch.ones(scores.shape[1])
        if self.epochs >= self.warmup_epochs and len(probability):
            prior = self.agreement[observed] if use_prior else None
            probability, share, separation = mismatch_mixture(scores, prior)
        unobserved = float(probability.mean()) if len(probability) else 1.0
        self.probability = self.agreement.clone() if use_prior else torch.full((self.n_pairs,), unobserved)
        self.probability[observed] = probability
        report["mean_weight"] = float(self.weights().mean()) if self.n_pairs else 1.0
        if self.needs_observations:
            report |= {"noisy_share": share, "separation": separation}
        return report

    def weights(self, pair_index: torch.Tensor | None = None) -> torch.Tensor:
        """Weights of pairs in the loss.

        Args:
            pair_index: int64 `[n]`, the pairs; all by default.

        Returns:
            fp32 `[n]` in [0, 1], on the CPU.
        """
        if self.kind == "identity":
            weights = torch.where(self.probability > 0.5, self.probability, 0.0)
        else:
            weights = self.probability * self.agreement
        return weights if pair_index is None else weights[self._check_index(pair_index)]

    def clean(self, pair_index: torch.Tensor | None = None) -> torch.Tensor:
        """Pairs that are probably true: bool `[n]`, weight above 0.5."""
        return self.weights(pair_index) > 0.5

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The state as tensors, so that both safetensors and Accelerate can save it."""
        return {
            "kind": torch.tensor(_KIND_NUMBERS[self.kind]),
            "epochs": torch.tensor(self.epochs),
            "views": self.scores.clone(),
            "trust": self.probability.clone(),
        }

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restores what [`PairReliability.state_dict`] returned.

        Raises:
            ValueError: a state of another kind, of another number of pairs, or without one of its fields.
        """
        missing = [name for name in self.state_dict() if name not in state]
        if missing:
            raise ValueError(f"reliability state without {missing[0]!r}")
        number = int(state["kind"])
        if number != _KIND_NUMBERS[self.kind] or tuple(state["views"].shape) != (2, self.n_pairs):
            kind = next((name for name, known in _KIND_NUMBERS.items() if known == number), f"deleted kind {number}")
            raise ValueError(
                f"reliability state of {kind!r} with {state['views'].shape[-1]} pairs, "
                f"expected {self.kind!r} with {self.n_pairs}"
            )
        self.epochs = int(state["epochs"])
        self.scores = state["views"].detach().cpu().float().clone()
        self.probability = state["trust"].detach().cpu().float().clone()

    def _check_index(self, pair_index: torch.Tensor) -> torch.Tensor:
        index = pair_index.detach().cpu().long()
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < self.n_pairs:
            raise ValueError(
                f"pair_index must lie in [0, {self.n_pairs}), found {int(index.min())} to {int(index.max())}"
            )
        return index


def mismatch_mixture(scores: torch.Tensor, prior: torch.Tensor | None = None) -> tuple[torch.Tensor, float, float]:
    """Probability that each pair is true, from a mixture of true and mismatched pairs (ours).

    A mismatched pair is like one of its own negatives, so its scores are known in advance: mean 0 and deviation at most
        1
    ([`pair_scores`]). True pairs are a second Gaussian with free mean above 0, deviation and share. Given the kind of
    pair, the two directions are independent. The fit is expectation maximisation of at most 200 iterations. If the mean
    score of all pairs is below 0.25, the model cannot separate pairs yet and nothing is fitted.

    Args:
        scores: `[2, n]`, finite.
        prior: `[n]` in [0, 1], probability of each pair before its scores. The scores change its odds by a factor of
            at most 150. None, the default: one share for all pairs, which is fitted.

    Returns:
        probability: fp32 `[n]`; the prior, or 1, for fewer than 50 pairs or if the model cannot separate pairs.
        share: share of mismatched pairs.
        separation: mean score of the true pairs.
    """
    n = scores.shape[1]
    x = scores.double()
    if n < 50 or float(x.mean()) < MIN_MEAN_SCORE:
        return torch.ones(n) if prior is None else prior.float(), 0.0, 0.0
    chosen = slice(None) if n <= MIXTURE_PAIRS else torch.linspace(0, n - 1, MIXTURE_PAIRS).round().long()
    sample = x[:, chosen]
    prior_odds = None if prior is None else torch.logit(prior.double(), eps=1e-3)
    mean = torch.quantile(sample, 0.75, dim=1).clamp(min=0.5)
    null, variance = torch.ones_like(mean), torch.ones_like(mean)
    share = 0.5

    def log_odds(x: torch.Tensor) -> torch.Tensor:
        true = (x - mean[:, None]).square() / variance[:, None] + variance.log()[:, None]
        mismatched = x.square() / null[:, None] + null.log()[:, None]
        return 0.5 * (mismatched - true).sum(0)

    for _ in range(200):
        before = share
        offset = math.log((1 - share) / share) if prior_odds is None else prior_odds[chosen]
        p = (log_odds(sample) + offset).sigmoid()
        mass, rest = p.sum().clamp(min=1e-9), (1 - p).sum().clamp(min=1e-9)
        share = float((1 - p).mean().clamp(1e-4, 1 - 1e-4))
        mean = ((sample * p).sum(1) / mass).clamp(min=0.05)
        variance = ((sample - mean[:, None]).square() * p).sum(1).div(mass).clamp(min=0.05)
        null = (sample.square() * (1 - p)).sum(1).div(rest).clamp(0.25, 1.0)
        if abs(share - before) < 1e-5:
            break
    # Above the mean of the true pairs, and far below 0, the wider Gaussian would win again. Clamping keeps the
    # probability monotonic.
    evidence = log_odds(torch.minimum(x, mean[:, None]).clamp(min=-3.0))
    if prior_odds is None:
        evidence = evidence + math.log((1 - share) / share)
    else:
        evidence = evidence.clamp(-MAX_LOG_ODDS, MAX_LOG_ODDS) + prior_odds
    return evidence.sigmoid().float(), share, float(mean.mean())


__all__ = ["PairReliability", "mismatch_mixture", "pair_scores"]
