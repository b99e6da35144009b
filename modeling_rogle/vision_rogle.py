"""CLIP's vision model for rectangular images, with access to the input and the class token of its last block."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.clip.modeling_clip import CLIPEncoder, CLIPEncoderLayer, CLIPVisionEmbeddings

from .clip_weights import resize_image_positions
from .configuration_rogle import RogleConfig


class RogleVisionEmbeddings(CLIPVisionEmbeddings):
    """CLIP's patch embedding with a position table of any height and width (same parameter names)."""

    def __init__(self, config: RogleConfig):
        super().__init__(config.vision_config)
        self.image_size = tuple(config.image_size)
        self.grid = config.patch_grid
        self.num_patches = self.grid[0] * self.grid[1]
        self.num_positions = self.num_patches + 1
        self.position_embedding = nn.Embedding(self.num_positions, self.embed_dim)
        self.position_ids = nn.Buffer(torch.arange(self.num_positions).expand((1, -1)), persistent=False)

    def forward(self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool = False) -> torch.Tensor:
        """`[b, 3, height, width]` -> `[b, 1 + patches, hidden]`, the class token first.

        Raises:
            ValueError: an image of a different size without `interpolate_pos_encoding`.
        """
        height, width = pixel_values.shape[-2:]
        positions = self.position_embedding(self.position_ids)
        if (height, width) != self.image_size:
            if not interpolate_pos_encoding:
                raise ValueError(
                    f"pixel_values are {height} x {width}, the model reads {self.image_size[0]} x {self.image_size[1]} "
                    "(height x width); pass interpolate_pos_encoding=True, or resize them"
                )
            grid = (height // self.patch_size, width // self.patch_size)
            positions = resize_image_positions(positions[0], grid, self.grid)[None]
        patches = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype)).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_embedding.expand(len(patches), 1, -1), patches], dim=1)
        return tokens + positions


@dataclass
class LastBlock:
    """What a forward pass of [`RogleVisionEncoder`] computes and keeps of the last block.

    Attributes:
        keep_input: keep the states that enter the last block.
        class_token_only: compute the class token of the last block only. The final states are then `[b, 1, hidden]`.
            The embedding is the same, and the queries and the MLP of the patches, 5/6 of a block, are saved.
        input: `[b, 1 + patches, hidden]`, set by the encoder with `keep_input`.
    """

    keep_input: bool = False
    class_token_only: bool = False
    input: torch.Tensor | None = None


class RogleVisionEncoder(CLIPEncoder):
    """CLIP's vision blocks (same modules and names), which follow a [`LastBlock`]."""

    def __init__(self, encoder: CLIPEncoder):
        nn.Module.__init__(self)
        self.config, self.layers, self.gradient_checkpointing = encoder.config, encoder.layers, False

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        last_block: LastBlock | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """As CLIP's.

        Args:
            inputs_embeds: `[b, 1 + patches, hidden]`.
            attention_mask: as in CLIP's encoder.
            last_block: what to compute and keep of the last block; everything and nothing by default.
        """
        states = inputs_embeds
        for layer in self.layers[:-1]:
            states = layer(states, attention_mask, **kwargs)
        layer = self.layers[-1]
        if last_block is not None and last_block.keep_input:
            last_block.input = states
        if last_block is not None and last_block.class_token_only:
            states = maybe_checkpointed(layer, _class_token_block(layer), states)
        else:
            states = layer(states, attention_mask, **kwargs)
        return BaseModelOutput(last_hidden_state=states)


def maybe_checkpointed(
    layer: CLIPEncoderLayer, function: Callable[[torch.Tensor], torch.Tensor], states: torch.Tensor
) -> torch.Tensor:
    """`function(states)`, recomputed in the backward pass if gradient checkpointing recomputes `layer`.

    Args:
        layer: the block whose weights the function uses.
        function: computes `[b, l, hidden]` from `states`.
        states: `[b, l, hidden]`.
    """
    if layer.gradient_checkpointing and layer.training:
        return layer._gradient_checkpointing_func(function, states)
    return function(states)


def _class_token_block(layer: CLIPEncoderLayer) -> Callable[[torch.Tensor], torch.Tensor]:
    """The block for the class token only: `[b, 1 + patches, hidden]` -> `[b, 1, hidden]`.

    It calls SDPA itself whatever attention the model is set to, because no attention maps are requested here.
    """

    def block(states: torch.Tensor) -> torch.Tensor:
        attention, token = layer.self_attn, states[:, :1]
        states = layer.layer_norm1(states)
        q, k, v = (
            linear(x).unflatten(2, (-1, attention.head_dim)).transpose(1, 2)
            for linear, x in (
                (attention.q_proj, states[:, :1]),
                (attention.k_proj, states),
                (attention.v_proj, states),
            )
        )
        dropout = attention.dropout if layer.training else 0.0
        read = nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=attention.scale)
        token = token + attention.out_proj(read.transpose(1, 2).flatten(2))
        return token + layer.mlp(layer.layer_norm2(token))

    return block


__all__ = ["LastBlock", "RogleVisionEmbeddings", "RogleVisionEncoder", "maybe_checkpointed"]
