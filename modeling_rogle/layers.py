"""CLIP's activation with fused kernels, the region temperature, and the attention blocks of the heads."""

import math

import torch
from torch import nn

from .configuration_rogle import RogleConfig

SLOPE = 1.702


class _QuickGELU(torch.autograd.Function):
    # With t = 1.702 x the function is silu(t) / 1.702, and its derivative is silu'(t): one kernel in each direction.
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
    """CLIP's `x * sigmoid(1.702 x)` for any shape and floating dtype, in three fused kernels instead of eight.

    In training on a CPU the eight elementwise passes of transformers' version cost as much as a matrix product, and
    they keep more activations. A compiler fuses the plain expression itself and therefore gets that.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling() or not (torch.is_grad_enabled() and x.requires_grad):
            return nn.functional.silu(x * SLOPE) * (1 / SLOPE)
        return _QuickGELU.apply(x)


class RegionHead(nn.Module):
    """The only weight that the local branch adds to CLIP, its temperature. A module, so that adapters can save it.

    Args:
        config: `region_logit_scale_init_value` is the initial value.
    """

    def __init__(self, config: RogleConfig):
        super().__init__()
        self.initial = config.region_logit_scale_init_value
        # One-dimensional: FSDP2 does not shard scalars.
        self.logit_scale = nn.Parameter(torch.tensor([self.initial]))

    def forward(self) -> torch.Tensor:
        """Scalar factor of region-sentence cosines, at most 100 as in CLIP."""
        return self.logit_scale[0].clamp(max=math.log(100)).exp()


class Attention(nn.Module):
    """Multi-head attention of queries to tokens.

    Args:
        width: size of queries and tokens.
        heads: number of attention heads, a divisor of `width`.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.exit = (nn.Linear(width, width) for _ in range(4))

    def forward(self, queries: torch.Tensor, tokens: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
        """`[b, q, width]` queries and `[b, l, width]` tokens -> `[b, q, width]`.

        Args:
            queries: `[b, q, width]`.
            tokens: `[b, l, width]`.
            kept: `[b, l]` bool, False for tokens that are padding; None if there are none.
        """
        q, k, v = (
            linear(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for linear, x in ((self.query, queries), (self.key, tokens), (self.value, tokens))
        )
        mask = None if kept is None else kept[:, None, None]
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.exit(mixed.transpose(1, 2).flatten(2))


class CrossBlock(nn.Module):
    """A pre-norm decoder block: self-attention of the queries, cross-attention to the tokens, MLP.

    Args:
        width: size of queries and tokens.
        heads: number of attention heads.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.own_norm, self.own = nn.LayerNorm(width), Attention(width, heads)
        self.cross_norm, self.token_norm, self.cross = nn.LayerNorm(width), nn.LayerNorm(width), Attention(width, heads)
        self.mlp = _mlp(width)

    def forward(self, states: torch.Tensor, tokens: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
        """`[b, q, width]` states of the queries -> the same shape; tokens and kept as in [`Attention`]."""
        normed = self.own_norm(states)
        states = states + self.own(normed, normed)
        states = states + self.cross(self.cross_norm(states), self.token_norm(tokens), kept)
        return states + self.mlp(states)


class SelfBlock(nn.Module):
    """A pre-norm encoder block with bidirectional self-attention: attention and MLP.

    Args:
        width: size of the tokens.
        heads: number of attention heads.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm, self.own = nn.LayerNorm(width), Attention(width, heads)
        self.mlp = _mlp(width)

    def forward(self, states: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """`[b, l, width]` -> the same shape; kept as in [`Attention`]."""
        normed = self.norm(states)
        states = states + self.own(normed, normed, kept)
        return states + self.mlp(states)


def _mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


__all__ = ["Attention", "CrossBlock", "QuickGELU", "RegionHead", "SelfBlock"]
