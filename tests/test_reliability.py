import math

import pytest
import torch

from modeling_rogle.reliability import margin_reliability


def test_is_the_rescaled_probability_of_the_better_of_two():
    margin, temperature = 0.013, 0.01
    probability = 1 / (1 + math.exp(-margin / temperature))
    assert margin_reliability(torch.tensor([margin])).item() == pytest.approx(2 * probability - 1, abs=1e-6)


def test_grows_from_nought_to_one_and_stays_there():
    trust = margin_reliability(torch.tensor([-0.1, 0.0, 0.001, 0.01, 0.1, 5.0]))
    assert trust[0] == trust[1] == 0
    assert bool((trust[1:].diff() >= 0).all())
    assert trust[-1] == 1
    assert margin_reliability(torch.tensor(0.02), 0.1) < margin_reliability(torch.tensor(0.02), 0.01)


def test_takes_half_precision_and_no_gradient():
    trust = margin_reliability(torch.tensor([0.5], dtype=torch.float16, requires_grad=True))
    assert trust.dtype == torch.float32
    assert not trust.requires_grad


@pytest.mark.parametrize(("margin", "temperature"), [(0.1, 0.0), (0.1, -1.0), (float("nan"), 0.01)])
def test_bad_values_are_refused(margin, temperature):
    with pytest.raises(ValueError, match=r"temperature|margin"):
        margin_reliability(torch.tensor([margin]), temperature)
