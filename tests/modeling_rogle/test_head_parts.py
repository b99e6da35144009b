"""Part slots: the ranking loss compared with plain loops, the effect of commonality, and shared slots."""

import pytest
import torch
from torch.nn.functional import normalize

from modeling_rogle import RogleConfig, RogleModel
from modeling_rogle.head_parts import commonality_margin_ranking, part_commonality
from modeling_rogle.layers import CrossBlock

torch.manual_seed(6)
IMAGES = normalize(torch.randn(5, 3, 4, dtype=torch.float64), dim=-1)
TEXTS = normalize(IMAGES + 0.7 * torch.randn(5, 3, 4, dtype=torch.float64), dim=-1)
PEOPLE = torch.tensor([0, 1, 0, 2, 3])
WEIGHT = torch.tensor([1.0, 0.5, 0.0, 1.0, 0.25], dtype=torch.float64)


def by_loops(commonality: float, weight: list[float], margin: float = 0.2) -> float:
    others = [(i, j) for i in range(5) for j in range(5) if PEOPLE[i] != PEOPLE[j]]
    total = count = 0.0
    for k in range(3):
        alike = {(i, j): (float(IMAGES[i, k] @ IMAGES[j, k]) + float(TEXTS[i, k] @ TEXTS[j, k])) / 2 for i, j in others}
        mean = sum(alike.values()) / len(others)
        for i, j in others:
            common = min(max((alike[i, j] - mean) / (1 - mean), 0.0), 1.0)
            smaller = margin * (1 - commonality * common)
            own = float(IMAGES[i, k] @ TEXTS[i, k])
            for negative in (float(IMAGES[i, k] @ TEXTS[j, k]), float(IMAGES[j, k] @ TEXTS[i, k])):
                term = max(0.0, smaller - own + negative)
                total += weight[i] * term
                count += weight[i] * (term > 0)
    return total / count


@pytest.mark.parametrize("commonality", [0.0, 0.6, 1.0])
def test_the_loss_equals_loops(commonality: float) -> None:
    found = commonality_margin_ranking(IMAGES, TEXTS, PEOPLE, None, 0.2, commonality)
    assert found.item() == pytest.approx(by_loops(commonality, [1.0] * 5))
    found = commonality_margin_ranking(IMAGES, TEXTS, PEOPLE, WEIGHT, 0.2, commonality)
    assert found.item() == pytest.approx(by_loops(commonality, WEIGHT.tolist()))


def test_a_shared_part_has_a_smaller_margin() -> None:
    # Two people with the same shoes (part 1) and different jackets (part 0); a third differs from both in both parts.
    axes = torch.eye(6, dtype=torch.float64)
    images = torch.stack([axes[[0, 1]], axes[[2, 1]], axes[[3, 4]]])
    texts = images.clone()
    common = part_commonality(images, texts, torch.arange(3))
    assert common[1, 0, 1] == pytest.approx(1.0) and common[0, 0, 1] == common[1, 0, 2] == 0
    soft = commonality_margin_ranking(images, texts, margin=0.3)
    hard = commonality_margin_ranking(images, texts, margin=0.3, commonality=0.0)
    assert soft.item() == 0 and hard.item() == pytest.approx(0.3)  # only the shared shoes still have a loss


def test_the_margin_has_no_gradient() -> None:
    a, b = IMAGES.clone().requires_grad_(), TEXTS.clone().requires_grad_()
    fixed = part_commonality(IMAGES, TEXTS, PEOPLE)
    with pytest.MonkeyPatch.context() as patch:  # finite differences must not see the detached part
        patch.setattr("modeling_rogle.head_parts.part_commonality", lambda *_: fixed)
        assert torch.autograd.gradcheck(lambda v, t: commonality_margin_ranking(v, t, PEOPLE, WEIGHT), (a, b))
        commonality_margin_ranking(a, b, PEOPLE, WEIGHT).backward()
    held = a.grad.clone()
    a.grad = None
    commonality_margin_ranking(a, b, PEOPLE, WEIGHT).backward()
    torch.testing.assert_close(a.grad, held)


def test_one_person_alone_costs_nothing_and_half_precision_is_finite() -> None:
    a = IMAGES.clone().requires_grad_()
    loss = commonality_margin_ranking(a, TEXTS, torch.zeros(5, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0 and bool((a.grad == 0).all())
    half = commonality_margin_ranking(IMAGES.bfloat16(), TEXTS.bfloat16(), PEOPLE)
    assert half.dtype == torch.float32 and half.item() == pytest.approx(by_loops(1.0, [1.0] * 5), abs=0.02)


def test_padding_is_not_read() -> None:
    block = CrossBlock(8, 2).eval()
    states, tokens = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    kept = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    changed = tokens.clone()
    changed[0, 3:] = 9.0
    torch.testing.assert_close(block(states, tokens, kept), block(states, changed, kept))
    assert not torch.allclose(block(states, tokens, None), block(states, changed, None))


@pytest.fixture
def model(tiny_config: RogleConfig) -> RogleModel:
    torch.manual_seed(0)
    fields = {"head": "parts", "part_slots": 3, "head_layers": 2, "local_loss_weight": 0.0}
    return RogleModel(RogleConfig.from_dict(tiny_config.to_dict() | fields)).eval()


def test_slots_are_shared_by_both_encoders(model: RogleModel) -> None:
    pixels, ids = torch.randn(2, 3, 32, 16), torch.tensor([[0, 5, 7, 1], [0, 6, 1, 1]])
    before = model.encode_image_parts(pixels), model.encode_text_parts(ids)
    assert before[0].shape == before[1].shape == (2, 3, 32) and model.part_counts == (3, 3)
    torch.testing.assert_close(before[0].norm(dim=-1), torch.ones(2, 3))
    with torch.no_grad():
        model.head.slots[1] = torch.randn(32)
    after = model.encode_image_parts(pixels), model.encode_text_parts(ids)
    for old, new in zip(before, after, strict=True):
        assert not torch.allclose(old[:, 1], new[:, 1], atol=1e-3)


def test_the_head_is_a_term_of_the_step(model: RogleModel) -> None:
    ids, pixels = torch.tensor([[0, 5, 7, 1], [0, 6, 1, 1]]), torch.randn(2, 3, 32, 16)
    out = model(input_ids=ids, pixel_values=pixels, return_loss=True)
    parts = model.encode_image_parts(pixels), model.encode_text_parts(ids)
    torch.testing.assert_close(out.loss_head, commonality_margin_ranking(*parts))
    torch.testing.assert_close(out.loss, out.loss_global + out.loss_head)
    out.loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.head.slots.grad.abs().sum() > 0
