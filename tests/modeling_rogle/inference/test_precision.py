"""fast_bfloat16: the answer follows the clock."""

import time

import pytest
import torch

from modeling_rogle.inference.image_encoder import fast_bfloat16


@pytest.fixture(autouse=True)
def _fresh():
    fast_bfloat16.cache_clear()
    yield
    fast_bfloat16.cache_clear()


@pytest.mark.parametrize("slow", [torch.float32, torch.bfloat16])
def test_the_answer_follows_the_clock(slow: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    linear = torch.nn.functional.linear

    def hindered(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if rows.dtype == slow:
            time.sleep(0.1)
        return linear(rows, weight)

    monkeypatch.setattr(torch.nn.functional, "linear", hindered)
    assert fast_bfloat16("cpu") == (slow == torch.float32)


def test_it_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = fast_bfloat16("cpu")
    monkeypatch.delattr(torch.nn.functional, "linear")
    assert fast_bfloat16("cpu") is first


def test_other_devices() -> None:
    assert fast_bfloat16("meta") is False
    assert fast_bfloat16("cuda") == (torch.cuda.is_available() and torch.cuda.is_bf16_supported(False))
