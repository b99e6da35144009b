"""CLIP's quick GELU, `x * sigmoid(1.702 x)`, in three fused kernels instead of eight; less memory too."""

import torch
from torch import nn

SLOPE = 1.702


class _QuickGELU(torch.autograd.Function):
    # With t = 1.702 x the function is silu(t) / 1.702, and its derivative is silu'(t): one kernel each way.
    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        scaled = x * SLOPE
        ctx.save_for_backward(scaled)
        return nn.functional.silu(scaled).mul_(1 / SLOPE)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        (scaled,) = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad, scaled)


class QuickGELU(nn.Module):
    """`x * sigmoid(1.702 x)` of any shape and floating dtype; no parameters.

    transformers' own writes it out, and in training on a CPU the eight elementwise passes cost as much as a matrix
    product. A compiler fuses the plain expression by itself, so it gets that.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling() or not (torch.is_grad_enabled() and x.requires_grad):
            return nn.functional.silu(x * SLOPE) * (1 / SLOPE)
        return _QuickGELU.apply(x)


__all__ = ["QuickGELU"]
