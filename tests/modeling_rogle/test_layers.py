import pytest
import torch
from transformers.activations import ACT2FN

from modeling_rogle.layers import QuickGELU

POINTS = torch.linspace(-30, 30, 2001)


def test_equals_transformers_quick_gelu_with_and_without_gradient():
    theirs = ACT2FN["quick_gelu"](POINTS)
    torch.testing.assert_close(QuickGELU()(POINTS), theirs, rtol=1e-6, atol=1e-6)
    x = POINTS.clone().requires_grad_()
    ours = QuickGELU()(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    ours.sum().backward()
    y = POINTS.clone().requires_grad_()
    ACT2FN["quick_gelu"](y).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-5, atol=1e-6)


def test_gradient_is_the_finite_difference():
    x = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(QuickGELU(), (x,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_its_dtype_and_is_finite(dtype):
    x = POINTS.to(dtype).requires_grad_()
    out = QuickGELU()(x)
    out.sum().backward()
    assert out.dtype == dtype and bool(out.isfinite().all()) and bool(x.grad.isfinite().all())


def test_compiles_without_a_graph_break():
    x = POINTS.clone().requires_grad_()
    compiled = torch.compile(QuickGELU(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), QuickGELU()(x), rtol=1e-6, atol=1e-6)
