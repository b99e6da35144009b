"""Weights of training pairs, from the scores that the steps observe."""

import math
import time

import pytest
import torch
from safetensors.torch import load, save
from torch.nn.functional import normalize

from modeling_rogle.configuration_rogle import RELIABILITIES_GLOBAL, RELIABILITIES_LOCAL
from modeling_rogle.losses import multi_positive_itc
from modeling_rogle.reliability.pair_reliability import (
    PairReliability,
    mismatch_mixture,
    pair_scores,
)

OBSERVED_KINDS = ("gmm_consensus", "identity")


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(n: int = 32, d: int = 16, noise: float = 0.5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Matching unit vectors of a half-trained model."""
    shared = torch.randn(n, d, generator=draw(seed))
    sides = (shared + noise * torch.randn(n, d, generator=draw(seed + k)) for k in (1, 2))
    a, b = (normalize(side, dim=-1) for side in sides)
    return a, b


def draw_scores(
    shares: list[tuple[float, float, float]], n: int = 4000, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of n pairs in both directions, from Gaussians (share, mean, deviation); half of the variance is shared.

    Returns them with the Gaussian of each pair.
    """
    counts = [round(share * n) for share, _, _ in shares]
    mean = torch.cat([torch.full((k,), m) for k, (_, m, _) in zip(counts, shares, strict=True)])
    deviation = torch.cat([torch.full((k,), s) for k, (_, _, s) in zip(counts, shares, strict=True)])
    common, *own = torch.randn(3, sum(counts), generator=draw(seed))
    scores = torch.stack([mean + deviation * (common + each) / math.sqrt(2) for each in own])
    part = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return scores, part


def learn(scores: torch.Tensor, kind: str = "gmm_consensus") -> PairReliability:
    tracker = PairReliability(kind, scores.shape[1])
    tracker.observe(torch.arange(scores.shape[1]), *scores)
    tracker.finish_epoch()
    return tracker


def test_every_kind_of_the_configuration_is_known():
    for kind in {*RELIABILITIES_LOCAL, *RELIABILITIES_GLOBAL}:
        assert bool((PairReliability(kind, 2).weights() == 1).all())


@pytest.mark.parametrize("kind", OBSERVED_KINDS)
def test_scores_equal_loops(kind):
    a, b = batch(6)
    people, texts = torch.tensor([0, 1, 0, 2, 3, 4]), torch.tensor([0, 1, 2, 3, 4, 4])
    found = pair_scores(kind, a, b, (people, None, texts))
    for view, left, right in ((found[0], a, b), (found[1], b, a)):
        for i in range(6):
            negatives = [float(left[i] @ right[j]) for j in range(6) if people[j] != people[i] and texts[j] != texts[i]]
            own = float(left[i] @ right[i])
            mean = sum(negatives) / len(negatives)
            expected = (own - mean) / math.sqrt(sum((r - mean) ** 2 for r in negatives) / (len(negatives) - 1))
            assert view[i].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", OBSERVED_KINDS)
def test_shuffled_pairs_score_lower_than_true_ones(kind):
    a, b = batch(64)
    b = torch.cat([b[:48], b[48:].roll(1, 0)])
    for view in pair_scores(kind, a, b):
        assert view[:48].quantile(0.1) > view[48:].quantile(0.9)


def test_mismatched_pairs_have_mean_0_and_deviation_1_at_any_scale():
    a, b = batch(256)
    for temper in (1.0, 0.1):  # a model whose cosines differ little
        cone = torch.ones(16) / 4
        left, right = (normalize(cone + temper * side, dim=-1) for side in (a, b.roll(1, 0)))
        view = pair_scores("gmm_consensus", left, right)[0]
        assert view.mean().item() == pytest.approx(0, abs=0.2)
        assert view.std().item() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("kind", OBSERVED_KINDS)
def test_scores_of_half_precision_are_close_and_have_no_gradient(kind):
    a, b = batch()
    exact = pair_scores(kind, a, b)
    for half, whole in zip(pair_scores(kind, a.bfloat16().requires_grad_(), b.bfloat16()), exact, strict=True):
        assert half.dtype == torch.float32
        assert not half.requires_grad
        torch.testing.assert_close(half, whole, rtol=0.05, atol=0.1)


@pytest.mark.parametrize("kind", OBSERVED_KINDS)
def test_without_negatives_nothing_is_observed(kind):
    a, b = batch(3)
    tracker = PairReliability(kind, 3)
    for ids in ((torch.zeros(3, dtype=torch.long),), (None, torch.zeros(3, dtype=torch.long))):
        tracker.observe(torch.arange(3), *pair_scores(kind, a, b, ids))
    tracker.observe(torch.arange(1), *pair_scores(kind, a[:1], b[:1]))
    tracker.observe(torch.arange(0), *pair_scores(kind, a[:0], b[:0]))
    assert tracker.finish_epoch()["observed"] == 0
    assert bool((tracker.weights() == 1).all())


def test_none_gives_weight_1_to_every_pair():
    a, b = batch()
    tracker = PairReliability("none", 32)
    tracker.observe(torch.arange(32), *pair_scores("none", a, b.roll(1, 0)))
    tracker.finish_epoch()
    assert bool((tracker.weights() == 1).all() and tracker.clean().all())


@pytest.mark.parametrize("noisy", [0.05, 0.2, 0.5])
def test_consensus_finds_mismatched_pairs(noisy):
    scores, part = draw_scores([(noisy, 0.0, 1.0), (1 - noisy, 3.2, 1.0)])
    tracker = learn(scores)
    clean, true = tracker.clean(), part == 1
    assert (clean & true).sum() / clean.sum() > 0.93
    assert (clean & true).sum() / true.sum() > 0.93
    assert tracker.finish_epoch()["noisy_share"] == pytest.approx(noisy, abs=0.04)


@pytest.mark.parametrize("mean", [1.0, 2.0, 4.0, 6.0])
@pytest.mark.parametrize("shape", ["gauss", "gamma", "heavy"])
def test_consensus_keeps_clean_data(mean, shape):
    torch.manual_seed(0)
    tail = {
        "gauss": torch.randn(2, 4000),
        "gamma": 2 - torch.distributions.Gamma(2.0, 1.0).sample((2, 4000)),
        "heavy": torch.distributions.StudentT(4.0).sample((2, 4000)),
    }[shape]
    assert learn((mean + tail).clamp(-10, 10)).weights().mean() > 0.99


def test_consensus_gives_weight_1_while_the_model_cannot_separate_pairs():
    scores, _ = draw_scores([(0.5, 0.0, 1.0), (0.5, 0.1, 1.0)])
    assert bool((learn(scores).weights() == 1).all())


def test_consensus_grades_pairs_while_the_two_kinds_overlap():
    scores, part = draw_scores([(0.5, 0.0, 0.9), (0.5, 1.0, 0.8)], n=20_000)
    tracker = learn(scores)
    weights = tracker.weights()
    assert weights[part == 1].mean() > 1.5 * weights[part == 0].mean()
    assert tracker.finish_epoch()["noisy_share"] == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize(("hard", "kept"), [(0.05, 0.1), (0.15, 0.2), (0.4, 0.9)])
def test_consensus_lowers_hard_true_pairs_but_does_not_remove_them(hard, kept):
    """Two kinds of true pairs, clearly apart, the lower of which score little more than mismatched ones."""
    scores, part = draw_scores([(hard, 2.0, 0.7), (1 - hard, 5.0, 0.8)])
    weights = learn(scores).weights()
    assert weights[part == 1].mean() > 0.98
    assert weights[part == 0].mean() > kept


def test_consensus_keeps_hard_true_pairs_beside_mismatched_ones():
    scores, part = draw_scores([(0.2, 0.0, 1.0), (0.1, 2.4, 0.8), (0.7, 4.5, 0.9)])
    weights = learn(scores).weights()
    assert weights[part == 2].mean() > 0.99
    assert weights[part == 1].mean() > 0.5
    assert weights[part == 0].mean() < 0.1


def test_consensus_uses_both_directions():
    scores, part = draw_scores([(0.3, 0.0, 0.6), (0.7, 4.0, 0.6)])
    conflicting = part.eq(1).nonzero()[:5, 0]
    agreed = learn(scores).weights()
    scores[1, conflicting] = -1.0
    scores[0, conflicting] = 2.0
    weights = learn(scores).weights()
    assert bool((agreed[conflicting] > 0.9).all() and (weights[conflicting] < 0.5).all())
    rest = torch.ones(len(part), dtype=torch.bool)
    rest[conflicting] = False
    assert weights[rest & (part == 1)].mean() > 0.99


@pytest.mark.parametrize("values", [torch.zeros(0), torch.zeros(10), torch.tensor([0.0, 9.0] * 20)])
def test_too_few_scores_keep_weight_1(values):
    assert bool((learn(values.expand(2, -1)).weights() == 1).all())


@pytest.mark.parametrize("value", [0.0, 3.0, -10.0, 10.0])
def test_equal_scores_get_equal_weights(value):
    weights = learn(torch.full((2, 500), value)).weights()
    assert bool(weights.isfinite().all()) and weights.max() - weights.min() < 1e-6


def test_the_probability_rises_with_the_score():
    values = torch.cat([torch.randn(500, generator=draw()) * 1.5, 5 + torch.randn(1500, generator=draw(1)) * 0.5])
    probability, share, distance = mismatch_mixture(values.expand(2, -1))
    assert bool((probability[values.argsort()].diff() >= -1e-6).all())
    assert share == pytest.approx(0.25, abs=0.03) and distance == pytest.approx(5, abs=0.1)


def test_a_hundred_thousand_pairs_take_under_a_second():
    scores, part = draw_scores([(0.2, 0.0, 1.0), (0.8, 4.0, 1.0)], n=100_000)
    started = time.process_time()
    tracker = learn(scores)
    assert time.process_time() - started < 1
    assert (tracker.clean() == (part == 1)).float().mean() > 0.97


def test_weights_are_one_until_the_warm_up_is_over():
    scores, _ = draw_scores([(0.5, 0.0, 1.0), (0.5, 5.0, 1.0)])
    tracker = PairReliability("gmm_consensus", 4000, warmup_epochs=2)
    for epoch in range(2):
        tracker.observe(torch.arange(4000), *scores)
        assert bool((tracker.weights() == 1).all())
        tracker.finish_epoch()
        assert bool((tracker.weights() == 1).all()) == (epoch == 0)


def test_a_pair_keeps_its_score_and_its_weight_can_rise_again():
    scores, part = draw_scores([(0.3, 0.0, 0.8), (0.7, 5.0, 0.8)])
    tracker = learn(scores)
    first = int((~tracker.clean()).nonzero()[0, 0])
    tracker.finish_epoch()  # not observed in this epoch: its past score counts
    assert not tracker.clean()[first]
    for _ in range(3):
        tracker.observe(torch.tensor([first]), torch.tensor([6.0]), torch.tensor([6.0]))
    tracker.finish_epoch()
    assert tracker.clean()[first]


def test_a_pair_that_was_never_observed_has_the_mean_weight():
    scores, _ = draw_scores([(0.5, 0.0, 0.8), (0.5, 5.0, 0.8)])
    tracker = PairReliability("gmm_consensus", 5000)
    tracker.observe(torch.arange(4000), *scores)
    report = tracker.finish_epoch()
    assert report["observed"] == 4000
    assert tracker.weights()[4000:].tolist() == pytest.approx([tracker.weights()[:4000].mean().item()] * 1000)
    assert report["mean_weight"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("kind", OBSERVED_KINDS)
def test_a_restored_tracker_continues_bit_for_bit(kind):
    scores, _ = draw_scores([(0.4, 0.0, 1.0), (0.6, 4.0, 1.0)], n=500)
    later, _ = draw_scores([(0.4, 0.0, 1.0), (0.6, 5.0, 1.0)], n=500, seed=1)
    through = learn(scores, kind)
    resumed = PairReliability(kind, 500)
    resumed.load_state_dict(load(save(through.state_dict())))
    assert torch.equal(resumed.weights(), through.weights())
    for tracker in (through, resumed):
        tracker.observe(torch.arange(0, 500, 2), *later[:, ::2])
        tracker.finish_epoch()
    assert torch.equal(resumed.weights(), through.weights())
    assert resumed.epochs == 2


def test_a_state_of_something_else_is_refused():
    tracker = PairReliability("identity", 4)
    for other in (PairReliability("gmm_consensus", 4), PairReliability("identity", 5)):
        with pytest.raises(ValueError, match=r"reliability state of .* expected 'identity' with 4"):
            tracker.load_state_dict(other.state_dict())
    deleted = tracker.state_dict() | {"kind": torch.tensor(1)}  # the number of a kind that no longer exists
    with pytest.raises(ValueError, match="reliability state of"):
        tracker.load_state_dict(deleted)
    with pytest.raises(ValueError, match="without 'views'"):
        tracker.load_state_dict({"kind": torch.tensor(0), "epochs": torch.tensor(0)})


def test_bad_observations_and_arguments_are_refused():
    tracker = PairReliability("gmm_consensus", 4)
    with pytest.raises(ValueError, match="pair 2: NaN"):
        tracker.observe(torch.tensor([0, 2]), torch.tensor([1.0, math.nan]), torch.ones(2))
    for index in (4, -1):
        with pytest.raises(ValueError, match=r"pair_index must lie in \[0, 4\)"):
            tracker.observe(torch.tensor([index]), torch.ones(1), torch.ones(1))
        with pytest.raises(ValueError, match="pair_index"):
            tracker.weights(torch.tensor([index]))
    for arguments in (("margin", 4), ("identity", -1), ("identity", 4, 0), ("identity", 4, 1, 1.0)):
        with pytest.raises(ValueError, match=r"kind|n_pairs"):
            PairReliability(*arguments)
    with pytest.raises(ValueError, match="kind"):
        pair_scores("evidential", *batch(4))


def train_on_noise(kind: str, noisy: float) -> tuple[float, PairReliability, torch.Tensor]:
    """Trains two linear encoders on pairs of which a share is shuffled.

    Returns R@1 of 300 new pairs, the tracker, and which training pairs were true.
    """
    n, b, seen = 1200, 32, draw()
    shared = torch.randn(n + 300, 12, generator=seen)
    mix = torch.randn(2, 12, 32, generator=seen) / 4
    x, y = (shared @ m + 0.5 * torch.randn(n + 300, 32, generator=seen) for m in mix)
    moved = torch.randperm(n, generator=seen)[: int(noisy * n)]
    source = torch.arange(n + 300)
    source[moved] = moved.roll(1)
    y = y[source]
    weights = [torch.randn(32, 64, generator=seen) / 6 for _ in range(2)]
    encoders = [torch.nn.Parameter(w) for w in weights]
    scale = torch.nn.Parameter(torch.tensor(2.66))
    optimizer = torch.optim.AdamW([*encoders, scale], lr=3e-3)
    tracker = PairReliability(kind, n)
    for _ in range(5):
        for rows in torch.randperm(n, generator=seen)[: n // b * b].view(-1, b):
            a, t = (normalize(side[rows] @ encoder, dim=-1) for side, encoder in zip((x, y), encoders, strict=True))
            tracker.observe(rows, *pair_scores(kind, a, t))
            loss = multi_positive_itc(a, t, scale.clamp(max=4.6).exp(), weight=tracker.weights(rows))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        tracker.finish_epoch()
    with torch.no_grad():
        a, t = (normalize(side[n:] @ encoder, dim=-1) for side, encoder in zip((x, y), encoders, strict=True))
    hits = (t @ a.T).argmax(1) == torch.arange(300)
    return 100 * hits.float().mean().item(), tracker, source[:n] == torch.arange(n)


def test_consensus_helps_noisy_training_and_does_not_harm_clean_training():
    clean, _, _ = train_on_noise("none", 0.0)
    trusted, tracker, _ = train_on_noise("gmm_consensus", 0.0)
    assert trusted >= clean - 0.5
    assert tracker.weights().mean() > 0.9
    hurt, _, _ = train_on_noise("none", 0.5)
    saved, tracker, true = train_on_noise("gmm_consensus", 0.5)
    assert clean - saved <= (clean - hurt) / 3
    clean = tracker.clean()
    assert (clean & true).sum() / clean.sum() > 0.9
    assert (clean & true).sum() / true.sum() > 0.9


def test_agreement_is_a_factor_of_every_weight_and_the_whole_weight_of_places():
    agreement = torch.tensor([1.0, 0.25, 0.0])
    places = PairReliability("places", 3, agreement=agreement)
    assert not places.needs_observations and torch.equal(places.weights(), agreement)
    places.observe(torch.tensor([0]), torch.tensor([9.0]), torch.tensor([9.0]))
    assert places.finish_epoch() == {"observed": 0.0, "mean_weight": pytest.approx(1.25 / 3)}
    assert torch.equal(places.weights(torch.tensor([1])), agreement[1:2]) and places.clean().tolist() == [
        True,
        False,
        False,
    ]
    observed = PairReliability("gmm_consensus", 3, agreement=agreement)
    observed.observe(torch.arange(3), torch.zeros(3), torch.zeros(3))
    observed.finish_epoch()
    assert observed.needs_observations and torch.equal(observed.weights(), agreement)
    observed.probability[:] = 0.5
    assert torch.equal(observed.weights(), 0.5 * agreement)
    assert torch.equal(PairReliability("none", 3, agreement=agreement).weights(), torch.ones(3))
    with pytest.raises(ValueError, match="agreement"):
        PairReliability("places", 2, agreement=agreement)


def test_identity_uses_agreement_until_the_model_separates_pairs():
    agreement = torch.tensor([0.99, 0.4, 0.6, 0.01] * 30)
    tracker = PairReliability("identity", 120, agreement=agreement)
    assert tracker.needs_observations
    expected = torch.where(agreement > 0.5, agreement, 0.0)
    assert torch.equal(tracker.weights(), expected) and torch.equal(tracker.clean(), agreement > 0.5)
    tracker.observe(torch.arange(120), torch.zeros(120), torch.zeros(120))  # a model that cannot separate pairs yet
    report = tracker.finish_epoch()
    assert torch.equal(tracker.weights(), expected)
    assert report["separation"] == 0 and report["mean_weight"] == pytest.approx(float(expected.mean()))


def test_the_model_decides_where_agreement_is_open():
    scores, part = draw_scores([(0.5, 0.0, 1.0), (0.5, 4.0, 1.0)], n=2000)
    is_open = torch.arange(2000) % 2 == 0
    sure = torch.where(part == 1, 0.99, 0.01)
    agreement = torch.where(is_open, 0.4, sure)
    agreement[-1] = 0.01  # agreement is certain, the model disagrees
    scores[:, -1] = 3.0
    tracker = PairReliability("identity", 2001, agreement=torch.cat([agreement, torch.tensor([0.7])]))
    tracker.observe(torch.arange(2000), *scores)
    report = tracker.finish_epoch()
    found = tracker.clean()[:2000]
    assert (found == (part == 1))[:-1].float().mean() > 0.97
    assert (found == (part == 1))[:-1][is_open[:-1]].float().mean() > 0.95
    assert report["noisy_share"] == pytest.approx(0.5, abs=0.05) and report["separation"] == pytest.approx(4, abs=0.2)
    assert float(tracker.weights()[2000]) == pytest.approx(0.7)  # never observed: its agreement
    alone = PairReliability("gmm_consensus", 2000)
    alone.observe(torch.arange(2000), *scores)
    alone.finish_epoch()
    assert (alone.clean() == (part == 1)).float().mean() < (found == (part == 1)).float().mean()


def test_hard_pairs_with_high_agreement_stay_clean():
    scores, _ = draw_scores([(0.9, 4.0, 1.0), (0.1, 0.5, 1.0)], n=2000)
    tracker = PairReliability("identity", 2000, agreement=torch.full((2000,), 0.999))
    tracker.observe(torch.arange(2000), *scores)
    tracker.finish_epoch()
    assert tracker.clean().float().mean() > 0.97


def test_a_restored_identity_tracker_continues_bit_for_bit():
    scores, _ = draw_scores([(0.5, 0.0, 1.0), (0.5, 4.0, 1.0)], n=200)
    agreement = torch.rand(200, generator=draw())
    first, second = (PairReliability("identity", 200, agreement=agreement) for _ in range(2))
    first.observe(torch.arange(200), *scores)
    first.finish_epoch()
    second.load_state_dict(load(save(first.state_dict())))
    assert torch.equal(first.weights(), second.weights())
    for tracker in (first, second):
        tracker.observe(torch.arange(100), *scores.flip(1)[:, :100])
        tracker.finish_epoch()
    assert torch.equal(first.weights(), second.weights())
