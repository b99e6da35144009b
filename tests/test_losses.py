"""Every loss against plain loops in float64, its gradient, and half precision."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from modeling_rogle.losses import multi_positive_itc, region_sentence_contrastive, token_similarity

torch.manual_seed(1)
A = normalize(torch.randn(5, 4, dtype=torch.float64), dim=-1)
B = normalize(torch.randn(5, 4, dtype=torch.float64), dim=-1)
SCALE = torch.tensor(7.0, dtype=torch.float64)
PEOPLE = torch.tensor([0, 1, 0, 2, 3])
SENTENCES = torch.tensor([0, 1, 2, 1, 3])
PARTS = torch.tensor([0, 1, 2, 3, 2])
WEIGHT = torch.tensor([1.0, 0.5, 0.0, 1.0, 0.25], dtype=torch.float64)


def log_softmax_at(row: list[float], k: int) -> float:
    return row[k] - math.log(sum(math.exp(x) for x in row))


def brute_force_itc(a: torch.Tensor, b: torch.Tensor, people: list[int]) -> float:
    total = 0.0
    for left, right in ((a, b), (b, a)):
        for i in range(len(a)):
            row = [7.0 * float(left[i] @ right[j]) for j in range(len(a))]
            positives = [j for j in range(len(a)) if people[j] == people[i]]
            total -= sum(log_softmax_at(row, j) for j in positives) / len(positives)
    return total / len(a) / 2


def brute_force_regions(weight: list[float]) -> float:
    total = 0.0
    for left, right in ((A, B), (B, A)):
        for i in range(5):
            kept = [j for j in range(5) if j == i or (SENTENCES[j] != SENTENCES[i] and PARTS[j] != PARTS[i])]
            row = [7.0 * float(left[i] @ right[j]) for j in kept]
            total -= weight[i] * log_softmax_at(row, kept.index(i))
    return total / 2 / sum(weight)


def test_itc_equals_loops() -> None:
    assert multi_positive_itc(A, B, SCALE, PEOPLE).item() == pytest.approx(brute_force_itc(A, B, PEOPLE.tolist()))


def test_itc_without_identities_is_clips() -> None:
    expected = brute_force_itc(A, B, list(range(5)))
    assert multi_positive_itc(A, B, SCALE).item() == pytest.approx(expected)


def test_itc_is_the_same_from_both_sides() -> None:
    assert multi_positive_itc(A, B, SCALE, PEOPLE).item() == pytest.approx(
        multi_positive_itc(B, A, SCALE, PEOPLE).item()
    )


def test_region_loss_equals_loops() -> None:
    found = region_sentence_contrastive(A, B, SCALE, SENTENCES, PARTS)
    assert found.item() == pytest.approx(brute_force_regions([1.0] * 5))
    found = region_sentence_contrastive(A, B, SCALE, SENTENCES, PARTS, WEIGHT)
    assert found.item() == pytest.approx(brute_force_regions(WEIGHT.tolist()))


def test_equal_sentences_are_no_negatives() -> None:
    same = torch.zeros(5, dtype=torch.long)
    assert region_sentence_contrastive(A, B, SCALE, sentence_ids=same).item() == pytest.approx(0.0)


def test_tsl_equals_loops_and_detaches() -> None:
    a, b = (3 * A).requires_grad_(), (0.5 * B).requires_grad_()
    expected = sum((float(A[i] @ B[i]) - 1) ** 2 for i in range(5)) / 5
    loss = token_similarity(a, b)
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert a.grad.abs().sum() > 0
    assert b.grad is None
    token_similarity(a, b, detach_target=False).backward()
    assert b.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "loss",
    [
        lambda a, b: multi_positive_itc(a, b, SCALE, PEOPLE),
        lambda a, b: region_sentence_contrastive(a, b, SCALE, SENTENCES, PARTS, WEIGHT),
        lambda a, b: token_similarity(a, b, WEIGHT, detach_target=False),
    ],
)
def test_gradients(loss) -> None:
    assert torch.autograd.gradcheck(loss, (A.clone().requires_grad_(), B.clone().requires_grad_()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite_at_the_highest_scale(dtype: torch.dtype) -> None:
    a, b, scale = A.to(dtype), B.to(dtype), torch.tensor(100.0)
    for loss in (
        multi_positive_itc(a, b, scale, PEOPLE),
        region_sentence_contrastive(a, b, scale, SENTENCES, PARTS, WEIGHT),
        token_similarity(a, b, WEIGHT),
    ):
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss)


def test_no_pairs_cost_nothing_and_still_have_a_gradient() -> None:
    none = torch.zeros(0, 4, requires_grad=True)
    loss = region_sentence_contrastive(none, none, SCALE) + token_similarity(none, none)
    assert loss.item() == 0
    loss.backward()


def test_pairs_without_weight_cost_nothing() -> None:
    zero = torch.zeros(5, dtype=torch.float64)
    assert region_sentence_contrastive(A, B, SCALE, weight=zero).item() == 0
    assert token_similarity(A, B, zero).item() == 0
