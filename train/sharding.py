"""Weights in shards (FSDP2): what it asks of the model beyond what Accelerate does."""

import os
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from modeling_rogle import RogleModel

# Parts that are gathered and let go as one. By default Accelerate would take every part that must stay on one device,
# embeddings among them, and these a second time as a model's input.
os.environ.setdefault("FSDP_TRANSFORMER_CLS_TO_WRAP", "CLIPEncoderLayer")
# Validation encodes by these; FSDP gathers the weights for `forward` alone unless it is told.
CALLED = ("encode_images", "encode_texts", "encode_image_parts", "encode_text_parts")


def in_shards(accelerator: Accelerator) -> bool:
    return accelerator.distributed_type == DistributedType.FSDP


def without_scalars(model: RogleModel) -> None:
    """CLIP's temperature becomes a vector of one number: FSDP2 shards no scalar. Before the optimizer is made."""
    model.logit_scale = nn.Parameter(model.logit_scale.detach().reshape(1))


def as_published(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights with the temperature a scalar again, as every CLIP checkpoint has it."""
    return {name: value.reshape(()) if name == "logit_scale" else value for name, value in weights.items()}


def whole_in_every_call(model: RogleModel) -> None:
    """Also what is called beside `forward` finds the weights whole. After `Accelerator.prepare`."""
    if isinstance(model, FSDPModule):
        for name in CALLED:
            register_fsdp_forward_method(model, name)


def let_go(model: RogleModel) -> None:
    """Drops the whole weights that a forward without a backward has left: they would hide what is changed in shards."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def gathered(weight: torch.Tensor) -> torch.Tensor:
    """A weight outside of a forward, its shards put together. Every process must ask."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def scattered(weight: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The other way round: this process's share of a whole weight, where `like` is in shards."""
    if not isinstance(like, DTensor):
        return weight
    return distribute_tensor(weight.to(like.device), like.device_mesh, like.placements)


__all__ = [
    "as_published",
    "gathered",
    "in_shards",
    "let_go",
    "scattered",
    "whole_in_every_call",
    "without_scalars",
]
