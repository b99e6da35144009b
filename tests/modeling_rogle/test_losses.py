"""Every loss compared with plain loops in float64: gradients, half precision, weights and masks."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from modeling_rogle.losses import (
    identity_loss,
    label_divergence,
    multi_positive_itc,
    primary_components,
    projection_classification,
    projection_matching,
    region_sentence_contrastive,
    similarity_distribution_matching,
    token_similarity,
    triplet_alignment,
)

torch.manual_seed(1)
A = normalize(torch.randn(5, 4, dtype=torch.float64), dim=-1)
B = normalize(torch.randn(5, 4, dtype=torch.float64), dim=-1)
SCALE = torch.tensor(7.0, dtype=torch.float64)
PEOPLE = torch.tensor([0, 1, 0, 2, 3])
SENTENCES = torch.tensor([0, 1, 2, 1, 3])
PARTS = torch.tensor([0, 1, 2, 3, 2])
WEIGHT = torch.tensor([1.0, 0.5, 0.0, 1.0, 0.25], dtype=torch.float64)
SIDES = torch.eye(4, dtype=torch.float64)
ONES = [1.0] * 5
# Row 0 has two positives of unequal weight, row 1 the same two in the other direction, row 3 only ones of weight 0.
RELIABILITY = torch.tensor([1.0, 0.4, 0.0, 0.0, 0.7], dtype=torch.float64)
FAMILIES = torch.tensor([0, 0, 0, 2, 3])
GLOBAL_LOSSES = {
    "itc": lambda a, b, people=None, weight=None: multi_positive_itc(a, b, SCALE, people, weight),
    "sdm": lambda a, b, people=None, weight=None: similarity_distribution_matching(a, b, people, weight, 0.1),
    "tal": lambda a, b, people=None, weight=None: triplet_alignment(a, b, people, weight, 0.1, 0.2),
}


def log_sum_exp(row: list[float]) -> float:
    return math.log(sum(math.exp(x) for x in row))


def log_softmax_at(row: list[float], k: int) -> float:
    return row[k] - log_sum_exp(row)


def rows_of(a: torch.Tensor, b: torch.Tensor, people: list[int], trust: list[float], scale: float):
    """For both directions and every row: scaled cosines, count of each column, positives, weight."""
    for texts_are_columns, left, right in ((True, a, b), (False, b, a)):
        for i in range(len(a)):
            row = [scale * float(left[i] @ right[j]) for j in range(len(a))]
            same = [j for j in range(len(a)) if people[j] == people[i]]
            count = [1.0] * len(a)
            weight = trust[i]
            if texts_are_columns:
                weight = max(trust[j] for j in same)
                for j in same:
                    count[j] = trust[j] / weight if weight else 1.0
            yield row, count, same, weight


def average(terms: list[tuple[float, float]]) -> float:
    """Weighted mean of each direction's rows, and of the two directions."""
    half = len(terms) // 2
    sides = (terms[:half], terms[half:])
    return sum(sum(loss * weight for loss, weight in side) / sum(weight for _, weight in side) for side in sides) / 2


def brute_force_itc(a, b, people, trust, scale: float = 7.0) -> float:
    terms = []
    for row, count, same, weight in rows_of(a, b, people, trust, scale):
        total = math.log(sum(c * math.exp(x) for c, x in zip(count, row, strict=True)))
        loss = -sum(count[j] * (row[j] + math.log(count[j]) - total) for j in same if count[j])
        terms.append((loss / sum(count[j] for j in same), weight))
    return average(terms)


def brute_force_sdm(a, b, people, trust) -> float:
    terms = []
    for row, count, same, weight in rows_of(a, b, people, trust, 1 / 0.1):
        total = sum(c * math.exp(x) for c, x in zip(count, row, strict=True))
        target = [count[j] / sum(count[k] for k in same) if j in same else 0.0 for j in range(len(row))]
        p = [c * math.exp(x) / total for c, x in zip(count, row, strict=True)]
        terms.append((sum(x * (math.log(x) - math.log(q + 1e-8)) for x, q in zip(p, target, strict=True) if x), weight))
    return average(terms)


def brute_force_cmpm(a, b, people, trust) -> float:
    """For features of any length: row i is the softmax of its products with the other side's directions."""
    terms = []
    unit = [[x / float(x.norm()) for x in side] for side in (a, b)]
    rows = list(rows_of(a, b, people, trust, 1.0))
    for k, (_, count, same, weight) in enumerate(rows):
        side, i = divmod(k, len(a))
        row = [float((a, b)[side][i] @ other) for other in unit[1 - side]]
        total = sum(c * math.exp(x) for c, x in zip(count, row, strict=True))
        target = [count[j] / sum(count[n] for n in same) if j in same else 0.0 for j in range(len(row))]
        p = [c * math.exp(x) / total for c, x in zip(count, row, strict=True)]
        terms.append((sum(x * (math.log(x) - math.log(q + 1e-8)) for x, q in zip(p, target, strict=True) if x), weight))
    return average(terms)


def brute_force_excluding(a, b, people, scale: float = 7.0) -> float:
    total = 0.0
    for left, right in ((a, b), (b, a)):
        for i in range(len(a)):
            row = [scale * float(left[i] @ right[j]) for j in range(len(a)) if j == i or people[j] != people[i]]
            total += log_sum_exp(row) - scale * float(left[i] @ right[i])
    return total / 2 / len(a)


def brute_force_tal(a, b, people, trust, shares_from=None) -> float:
    """`shares_from`: embeddings of the detached shares of the positives, a and b by default."""
    frozen = list(rows_of(*(shares_from or (a, b)), people, trust, 1 / 0.1))
    terms = []
    for k, (row, count, same, weight) in enumerate(rows_of(a, b, people, trust, 1 / 0.1)):
        share = [count[j] * math.exp(frozen[k][0][j]) for j in same]
        positive = sum(s * 0.1 * row[j] for s, j in zip(share, same, strict=True)) / sum(share)
        negatives = [row[j] for j in range(len(row)) if j not in same]
        hinge = max(0.0, 0.2 - positive + 0.1 * log_sum_exp(negatives)) if negatives else 0.0
        terms.append((hinge / 0.1, weight))
    return average(terms)


BRUTE_FORCE = {"itc": brute_force_itc, "sdm": brute_force_sdm, "tal": brute_force_tal}


def brute_force_regions(weight: list[float], soft: float = 0.0) -> float:
    def negatives(i: int) -> list[int]:
        return [j for j in range(5) if j != i and SENTENCES[j] != SENTENCES[i] and PARTS[j] != PARTS[i]]

    similar = [float(B[i] @ B[j]) for i in range(5) for j in negatives(i)]
    mean = sum(similar) / len(similar)
    total = 0.0
    for left, right in ((A, B), (B, A)):
        for i in range(5):
            row = [7.0 * float(left[i] @ right[i])]
            for j in negatives(i):
                common = min(max((float(B[i] @ B[j]) - mean) / (1 - mean), 0.0), 1.0)
                row.append(7.0 * float(left[i] @ right[j]) + math.log(1 - soft * common))
            total -= weight[i] * log_softmax_at(row, 0)
    return total / 2 / sum(weight)


@pytest.mark.parametrize("name", GLOBAL_LOSSES)
def test_global_losses_equal_loops(name: str) -> None:
    loss, expected = GLOBAL_LOSSES[name], BRUTE_FORCE[name]
    assert loss(A, B).item() == pytest.approx(expected(A, B, list(range(5)), ONES))
    assert loss(A, B, PEOPLE).item() == pytest.approx(expected(A, B, PEOPLE.tolist(), ONES))
    for people, trust in ((PEOPLE, WEIGHT), (FAMILIES, RELIABILITY)):
        assert loss(A, B, people, trust).item() == pytest.approx(expected(A, B, people.tolist(), trust.tolist()))


def test_itc_without_identities_is_the_loss_of_clip() -> None:
    logits = SCALE * A @ B.T
    own = torch.arange(5)
    expected = (torch.nn.functional.cross_entropy(logits, own) + torch.nn.functional.cross_entropy(logits.T, own)) / 2
    assert multi_positive_itc(A, B, SCALE).item() == pytest.approx(expected.item())


def test_pairs_of_the_same_identity_can_be_left_out() -> None:
    found = multi_positive_itc(A, B, SCALE, PEOPLE, None, exclude_same=True)
    assert found.item() == pytest.approx(brute_force_excluding(A, B, PEOPLE.tolist()))
    assert found.item() != pytest.approx(multi_positive_itc(A, B, SCALE, PEOPLE).item())
    texts = B.clone().requires_grad_()
    multi_positive_itc(A[:2], texts[:2], SCALE, torch.tensor([3, 3]), None, exclude_same=True).backward()
    assert bool((texts.grad == 0).all())  # the only other image shows the same person


def test_a_small_temperature_gives_the_hardest_negative_nearly_all_of_the_gradient() -> None:
    shares = []
    for temperature in (1.0, 0.02):
        # The image's own caption, a similar one and a different one.
        texts = normalize(torch.tensor([[1.0, 0.0], [0.9, 0.5], [0.0, 1.0]], dtype=torch.float64), dim=-1)
        texts.requires_grad_()
        images = normalize(torch.tensor([[1.0, 0.1]] * 3, dtype=torch.float64), dim=-1)
        first = torch.tensor([1.0, 0.0, 0.0])  # the only row with weight
        multi_positive_itc(images, texts, torch.tensor(1 / temperature), None, first).backward()
        pushed = texts.grad.norm(dim=-1)
        shares.append(float(pushed[1] / (pushed[1] + pushed[2])))
    assert shares[1] > 0.99 > 0.8 > shares[0]


def test_projection_matching_equals_loops() -> None:
    a, b = 3 * A, A.flip(0) + 2 * B  # of different lengths
    assert projection_matching(a, b).item() == pytest.approx(brute_force_cmpm(a, b, list(range(5)), ONES))
    for people, trust in ((PEOPLE, WEIGHT), (FAMILIES, RELIABILITY)):
        found = projection_matching(a, b, people, trust)
        assert found.item() == pytest.approx(brute_force_cmpm(a, b, people.tolist(), trust.tolist()))
    assert projection_matching(9 * a, b).item() != pytest.approx(projection_matching(a, b).item())


def test_projection_classification_equals_loops() -> None:
    classes = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    total = 0.0
    for one, other in ((3 * A, B), (B, 3 * A)):
        for i in range(5):
            unit = other[i] / other[i].norm()
            projected = float(one[i] @ unit) * unit
            logits = [float(projected @ (row / row.norm())) for row in classes]
            total -= float(WEIGHT[i]) * log_softmax_at(logits, int(PEOPLE[i]))
    found = projection_classification(3 * A, B, classes, PEOPLE, WEIGHT)
    assert found.item() == pytest.approx(total / 2 / float(WEIGHT.sum()))
    assert found.item() == pytest.approx(projection_classification(3 * A, B, 7 * classes, PEOPLE, WEIGHT).item())


def test_divergence_of_cosines_is_sdm() -> None:
    found = label_divergence(A @ B.T, PEOPLE, WEIGHT, 0.1)
    assert found.item() == pytest.approx(similarity_distribution_matching(A, B, PEOPLE, WEIGHT, 0.1).item())


def test_primary_components_keep_the_largest_variance() -> None:
    found = primary_components(A, 2)
    mean = A.mean(0)
    values, vectors = torch.linalg.eigh((A - mean).T @ (A - mean))
    best = vectors[:, values.argsort(descending=True)[:2]]
    for i in range(5):
        expected = mean + sum(float((A[i] - mean) @ axis) * axis for axis in best.T)
        torch.testing.assert_close(found[i], expected)
    assert torch.equal(primary_components(A, 4), A)
    assert int(torch.linalg.matrix_rank(found - found.mean(0))) == 2


@pytest.mark.parametrize("name", GLOBAL_LOSSES)
def test_global_losses_are_symmetric(name: str) -> None:
    loss = GLOBAL_LOSSES[name]
    assert loss(A, B, PEOPLE).item() == pytest.approx(loss(B, A, PEOPLE).item())


@pytest.mark.parametrize("name", GLOBAL_LOSSES)
def test_equal_weights_change_nothing(name: str) -> None:
    loss = GLOBAL_LOSSES[name]
    expected = loss(A, B, PEOPLE).item()
    assert loss(A, B, PEOPLE, torch.full((5,), 0.3)).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", GLOBAL_LOSSES)
def test_a_caption_of_weight_0_has_no_effect_on_its_own_person(name: str) -> None:
    text = B[:3].clone().requires_grad_()
    GLOBAL_LOSSES[name](A[:3], text, torch.tensor([0, 0, 0]), torch.tensor([1.0, 1.0, 0.0])).backward()
    assert bool((text.grad[2] == 0).all())


@pytest.mark.parametrize("name", GLOBAL_LOSSES)
def test_a_caption_of_weight_0_stays_a_negative_of_others(name: str) -> None:
    text = A[:2].flip(0).clone().requires_grad_()  # each caption is the other's: the worst case
    GLOBAL_LOSSES[name](A[:2], text, torch.tensor([0, 1]), torch.tensor([0.0, 1.0])).backward()
    assert float(text.grad[0] @ A[1]) > 0


@pytest.mark.parametrize("name", GLOBAL_LOSSES)
def test_an_image_learns_from_the_weighted_caption_of_its_person(name: str) -> None:
    image = A[:3].clone().requires_grad_()
    weight = torch.tensor([0.0, 1.0, 1.0])
    GLOBAL_LOSSES[name](image, B[:3], torch.tensor([0, 0, 1]), weight).backward()
    assert image.grad[0].abs().sum() > 0


def test_region_loss_equals_loops() -> None:
    found = region_sentence_contrastive(A, B, SCALE, SENTENCES, PARTS)
    assert found.item() == pytest.approx(brute_force_regions(ONES))
    found = region_sentence_contrastive(A, B, SCALE, SENTENCES, PARTS, WEIGHT)
    assert found.item() == pytest.approx(brute_force_regions(WEIGHT.tolist()))


def test_equal_sentences_are_no_negatives() -> None:
    same = torch.zeros(5, dtype=torch.long)
    assert region_sentence_contrastive(A, B, SCALE, sentence_ids=same).item() == pytest.approx(0.0)


# Pairs 0 and 2 are two regions of one sentence, and so are 1 and 3. Pair 4 has a sentence of its own.
NUMBERS = torch.tensor([8, 3, 8, 3, 9])


def brute_force_several_regions(weight: list[float]) -> float:
    """The region loss if the sentences are `NUMBERS` and differ in text; `PARTS` are left out of the negatives."""
    total = 0.0
    for i in range(5):
        same = [j for j in range(5) if NUMBERS[j] == NUMBERS[i]]
        others = [j for j in range(5) if j not in same and PARTS[j] != PARTS[i]]
        by_region = log_softmax_at([7.0 * float(A[i] @ B[j]) for j in [i, *others]], 0)
        kept = [j for j in same if weight[j]] or [i]  # a region of weight 0 is neither positive nor negative
        row = [7.0 * float(B[i] @ A[j]) for j in [*kept, *others]]
        shares = [weight[j] / sum(weight[k] for k in kept) if sum(weight) and weight[j] else 1.0 for j in kept]
        by_sentence = sum(t * (log_softmax_at(row, k) - math.log(t)) for k, t in enumerate(shares))
        total -= weight[i] * (by_region + by_sentence) / 2
    return total / sum(weight)


@pytest.mark.parametrize("weight", [ONES, WEIGHT.tolist(), [0.0, 0.5, 0.0, 0.25, 1.0]])
def test_all_regions_of_a_sentence_are_its_positives(weight: list[float]) -> None:
    found = region_sentence_contrastive(A, B, SCALE, None, PARTS, torch.tensor(weight), NUMBERS)
    assert found.item() == pytest.approx(brute_force_several_regions(weight))


def test_a_sentence_that_is_equally_similar_to_its_regions_only_has_no_loss() -> None:
    regions = torch.eye(3, dtype=torch.float64)
    both = normalize(regions[0] + regions[1], dim=-1)
    sentences, numbers = torch.stack([both, both, regions[2]]), torch.tensor([0, 0, 1])
    loss = region_sentence_contrastive(regions, sentences, torch.tensor(400.0), sentence_numbers=numbers)
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    regions.requires_grad_()
    sentences = torch.stack([regions[0], regions[0], regions[2]]).detach()
    region_sentence_contrastive(regions, sentences, SCALE, sentence_numbers=numbers).backward()
    assert float(regions.grad[1] @ sentences[0]) < 0  # the neglected region is pulled towards its sentence


@pytest.mark.parametrize("weight", [None, WEIGHT.float()])
def test_with_one_region_a_sentence_the_loss_is_the_cross_entropy_bit_for_bit(weight: torch.Tensor | None) -> None:
    found = []
    for several in (False, True):
        a, b, scale = A.float().requires_grad_(), B.float().requires_grad_(), torch.tensor(7.0).requires_grad_()
        if several:
            loss = region_sentence_contrastive(a, b, scale, SENTENCES, PARTS, weight, torch.arange(5) + 10)
        else:
            ignored = (SENTENCES[:, None] == SENTENCES) | (PARTS[:, None] == PARTS)
            logits = (scale * (a @ b.T)).masked_fill(ignored & ~torch.eye(5, dtype=torch.bool), float("-inf"))
            pair = torch.arange(5)
            losses = (
                cross_entropy(logits, pair, reduction="none") + cross_entropy(logits.T, pair, reduction="none")
            ) / 2
            loss = losses.mean() if weight is None else (losses * weight).sum() / weight.sum()
        found.append((loss.detach(), *torch.autograd.grad(loss, (a, b, scale))))
    assert all(torch.equal(ours, plain) for ours, plain in zip(*found, strict=True))


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


def test_identity_loss_equals_loops_and_weighs_captions_only() -> None:
    image, text = (5 * A).requires_grad_(), (5 * B).requires_grad_()
    by_image = -sum(log_softmax_at(image[i].tolist(), int(PEOPLE[i])) for i in range(5)) / 5
    by_text = -sum(float(WEIGHT[i]) * log_softmax_at(text[i].tolist(), int(PEOPLE[i])) for i in range(5))
    loss = identity_loss(image, text, PEOPLE, WEIGHT)
    assert loss.item() == pytest.approx((by_image + by_text / float(WEIGHT.sum())) / 2)
    loss.backward()
    assert bool((text.grad[2] == 0).all())
    assert image.grad[2].abs().sum() > 0


@pytest.mark.parametrize(
    "loss",
    [
        lambda a, b: multi_positive_itc(a, b, SCALE, PEOPLE),
        lambda a, b: multi_positive_itc(a, b, SCALE, FAMILIES, RELIABILITY),
        lambda a, b: similarity_distribution_matching(a, b, PEOPLE, None, 0.1),
        lambda a, b: similarity_distribution_matching(a, b, FAMILIES, RELIABILITY, 0.1),
        lambda a, b: triplet_alignment(a, b, None, WEIGHT, 0.1, 0.2),
        lambda a, b: region_sentence_contrastive(a, b, SCALE, SENTENCES, PARTS, WEIGHT),
        lambda a, b: region_sentence_contrastive(a, b, SCALE, None, PARTS, WEIGHT, NUMBERS),
        lambda a, b: token_similarity(a, b, WEIGHT, detach_target=False),
        lambda a, b: identity_loss(a, b, PEOPLE % 4, WEIGHT),
        lambda a, b: multi_positive_itc(a, b, SCALE, FAMILIES, RELIABILITY, exclude_same=True),
        lambda a, b: projection_matching(3 * a, b, FAMILIES, RELIABILITY),
        lambda a, b: projection_classification(3 * a, b, SIDES + 0.3, PEOPLE, WEIGHT),
        lambda a, b: label_divergence(a @ b.T, PEOPLE, WEIGHT, 0.1),
    ],
)
def test_gradients(loss) -> None:
    assert torch.autograd.gradcheck(loss, (A.clone().requires_grad_(), B.clone().requires_grad_()))


def test_tal_shares_of_the_positives_have_no_gradient() -> None:
    a, b = A.clone().requires_grad_(), B.clone().requires_grad_()
    triplet_alignment(a, b, FAMILIES, RELIABILITY, 0.1, 0.2).backward()
    step = 1e-6
    for embeds, grad, side in ((A, a.grad, 0), (B, b.grad, 1)):
        for i, k in ((0, 0), (1, 2), (4, 3)):
            moved = [embeds.clone(), embeds.clone()]
            moved[0][i, k] += step
            moved[1][i, k] -= step
            up, down = (
                brute_force_tal(*((m, B) if side == 0 else (A, m)), FAMILIES.tolist(), RELIABILITY.tolist(), (A, B))
                for m in moved
            )
            assert float(grad[i, k]) == pytest.approx((up - down) / (2 * step), abs=1e-6)


def all_losses(a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
    weight = WEIGHT.float()
    return {
        "itc": multi_positive_itc(a, b, scale, FAMILIES, RELIABILITY.float()),
        "sdm": similarity_distribution_matching(a, b, FAMILIES, RELIABILITY.float()),
        "tal": triplet_alignment(a, b, FAMILIES, RELIABILITY.float()),
        "region": region_sentence_contrastive(a, b, scale, SENTENCES, PARTS, weight),
        "regions": region_sentence_contrastive(a, b, scale, None, PARTS, weight, NUMBERS),
        "tsl": token_similarity(a, b, weight),
        "id": identity_loss(a * 100, b * 100, FAMILIES, weight),
        "excluding": multi_positive_itc(a, b, scale, FAMILIES, weight, exclude_same=True),
        "cmpm": projection_matching(a, b, FAMILIES, RELIABILITY.float()),
        "cmpc": projection_classification(a, b, SIDES.to(a.dtype), FAMILIES, weight),
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_fp32_at_the_highest_scale(dtype: torch.dtype) -> None:
    scale = torch.tensor(100.0)
    a, b = A.to(dtype).requires_grad_(), B.to(dtype).requires_grad_()
    exact = all_losses(a.detach().double(), b.detach().double(), scale.double())
    for name, loss in all_losses(a, b, scale).items():
        assert loss.dtype == torch.float32
        # The logits of the identity loss are inputs in half precision; all others are computed in float32.
        tolerance = 0.02 if name == "id" else 1e-4
        assert loss.item() == pytest.approx(exact[name].item(), rel=tolerance), name
    sum(all_losses(a, b, scale).values()).backward()
    assert bool(a.grad.isfinite().all() and b.grad.isfinite().all())


def test_autocast_does_not_round_the_logits() -> None:
    a, b, scale = A.float(), B.float(), torch.tensor(100.0)
    expected = all_losses(a, b, scale)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = all_losses(a, b, scale)
    for name, loss in found.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected[name].item(), rel=1e-6), name


def test_no_pairs_cost_nothing_and_still_have_a_gradient() -> None:
    none = torch.zeros(0, 4, requires_grad=True)
    ids = torch.zeros(0, dtype=torch.long)
    losses = [
        *(loss(none, none, ids, torch.zeros(0)) for loss in GLOBAL_LOSSES.values()),
        region_sentence_contrastive(none, none, SCALE),
        token_similarity(none, none),
        identity_loss(none, none, ids),
        projection_matching(none, none, ids),
        projection_classification(none, none, torch.ones(3, 4), ids),
        primary_components(none, 2).sum(),
    ]
    assert [loss.item() for loss in losses] == [0] * 9
    sum(losses).backward()


def test_pairs_without_weight_cost_nothing() -> None:
    zero = torch.zeros(5, dtype=torch.float64)
    a, b = A.clone().requires_grad_(), B.clone().requires_grad_()
    losses = [
        *(loss(a, b, FAMILIES, zero) for loss in GLOBAL_LOSSES.values()),
        region_sentence_contrastive(a, b, SCALE, weight=zero),
        token_similarity(a, b, zero),
        multi_positive_itc(a, b, SCALE, FAMILIES, zero, exclude_same=True),
        projection_matching(a, b, FAMILIES, zero),
        projection_classification(a, b, SIDES, FAMILIES, zero),
    ]
    assert [loss.item() for loss in losses] == [0] * 8
    sum(losses).backward()
    assert bool((a.grad == 0).all() and (b.grad == 0).all())


def test_one_person_alone_has_no_negatives() -> None:
    a, b = A.clone().requires_grad_(), B.clone().requires_grad_()
    loss = triplet_alignment(a, b, torch.zeros(5, dtype=torch.long))
    assert loss.item() == 0
    loss.backward()
    assert bool(a.grad.isfinite().all())
