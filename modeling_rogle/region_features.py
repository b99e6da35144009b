"""Region features that walk CLIP's last vision blocks anew: each patch by itself, or the class token within a box."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.clip.modeling_clip import CLIPEncoder, CLIPEncoderLayer


@dataclass
class BlockInputs:
    """What enters the last `keep` blocks in one dense forward, first block first, `[b, 1 + patches, hidden]` each.

    Handed to the tower and filled by it. No list: what moves inputs between devices copies lists. With `class_only` the
    last block computes the class token alone, and the tower's last states are `[b, 1, hidden]`: the same embedding
    without the queries and the MLP of patches that nobody reads, 5/6 of a block.
    """

    keep: int = 0
    class_only: bool = False
    states: list[torch.Tensor] = field(default_factory=list)


class RogleVisionEncoder(CLIPEncoder):
    """CLIP's vision blocks (the same modules, the same names), which can hand over what enters the last of them."""

    def __init__(self, encoder: CLIPEncoder):
        nn.Module.__init__(self)
        self.config, self.layers, self.gradient_checkpointing = encoder.config, encoder.layers, False

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        block_inputs: BlockInputs | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        states = inputs_embeds
        for i, layer in enumerate(self.layers):
            if block_inputs is not None and i >= len(self.layers) - block_inputs.keep:
                block_inputs.states.append(states)
            if block_inputs is not None and block_inputs.class_only and i == len(self.layers) - 1:
                states = _maybe_checkpointed(layer, _class_block(layer, 1), states, None)
            else:
                states = layer(states, attention_mask, **kwargs)
        return BaseModelOutput(last_hidden_state=states)


def value_only_block(layer: CLIPEncoderLayer, states: torch.Tensor) -> torch.Tensor:
    """A block in which each token attends to itself alone (MaskCLIP, arXiv 2112.01071).

    Queries and keys are left out; values, output projection, both residuals and the MLP stay: it is the block with the
    identity for its attention matrix, so what follows it reads the kind of sum that it was trained on.

    Args:
        layer: one vision block.
        states: `[b, l, hidden]` that enter it.

    Returns:
        `[b, l, hidden]`.
    """

    def block(states: torch.Tensor) -> torch.Tensor:
        attention = layer.self_attn
        states = states + attention.out_proj(attention.v_proj(layer.layer_norm1(states)))
        return states + layer.mlp(layer.layer_norm2(states))

    return _maybe_checkpointed(layer, block, states)


def _class_block(layer: CLIPEncoderLayer, m: int) -> Callable[..., torch.Tensor]:
    """The block for the first m of `[b, m + p, hidden]` states alone, with a bias `[b, 1, m, m + p]` or None.

    Its own SDPA call, whatever the tower's attention is: flash attention takes no mask, eager is not asked for maps.
    """

    def block(states: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        attention, tokens = layer.self_attn, states[:, :m]
        states = layer.layer_norm1(states)
        q, k, v = (
            linear(x).unflatten(2, (-1, attention.head_dim)).transpose(1, 2)
            for linear, x in (
                (attention.q_proj, states[:, :m]),
                (attention.k_proj, states),
                (attention.v_proj, states),
            )
        )
        read = nn.functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if bias is None else bias.to(q.dtype),
            dropout_p=attention.dropout if layer.training else 0.0,
            scale=attention.scale,
        )
        tokens = tokens + attention.out_proj(read.transpose(1, 2).flatten(2))
        return tokens + layer.mlp(layer.layer_norm2(tokens))

    return block


def _maybe_checkpointed(
    layer: CLIPEncoderLayer, function: Callable[..., torch.Tensor], *args: torch.Tensor | None
) -> torch.Tensor:
    """What goes through a block's weights is recomputed on the way back whenever the block itself is."""
    if layer.gradient_checkpointing and layer.training:
        return layer._gradient_checkpointing_func(function, *args)
    return function(*args)
