"""Weights in shards (FSDP2): what it asks of the model beyond what Accelerate does.

The model is one unit: its weights are gathered once a step, and gradients and moments, three quarters of what training
holds, stay divided. Units inside it would be gathered at each of their calls, and how often a layer is called hangs on
the lengths of a process's captions (packing.py): processes would wait for each other for ever.
"""

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from modeling_rogle import RogleModel

# Validation encodes by these; FSDP gathers the weights for `forward` alone unless it is told.
CALLED = ("encode_images", "encode_texts", "encode_image_parts", "encode_text_parts")
SCALAR = "logit_scale"  # CLIP's temperature


def in_shards(accelerator: Accelerator) -> bool:
    return accelerator.distributed_type == DistributedType.FSDP


def before_sharding(accelerator: Accelerator, model: RogleModel) -> None:
    """Readies Accelerate and the model, before the optimizer is made. CLIP's temperature becomes a vector of one
    number: FSDP2 shards no scalar.

    Raises:
        ValueError: FSDP of another version.
    """
    if not accelerator.is_fsdp2:
        raise ValueError("FSDP of version 2 alone is known here: accelerate launch --use_fsdp --fsdp_version 2")
    accelerator.state.fsdp_plugin.auto_wrap_policy = None
    model.get_input_embeddings = lambda: None  # Accelerate would make a unit of them
    without_scalars(model)


def without_scalars(model: RogleModel) -> None:
    model.logit_scale = nn.Parameter(model.logit_scale.detach().reshape(1))


def after_sharding(model: RogleModel) -> None:
    """What is called beside `forward` finds the weights whole, too. After `Accelerator.prepare`."""
    if isinstance(model, FSDPModule):
        del model.get_input_embeddings
        for name in CALLED:
            register_fsdp_forward_method(model, name)


def as_published(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights with the temperature a scalar again, as every CLIP checkpoint has it."""
    return {name: value.reshape(()) if name == SCALAR else value for name, value in weights.items()}


def as_in_run(weights: Mapping[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """The other way round: saved weights, or moments, with the temperature in the shape that it has in this run."""
    shape = next((p.shape for name, p in model.named_parameters() if name.removeprefix("module.") == SCALAR), None)
    found = dict(weights)
    if shape is not None and SCALAR in found:
        found[SCALAR] = found[SCALAR].reshape(shape)
    return found


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
        return weight.reshape(like.shape)
    return distribute_tensor(weight.reshape(like.shape).to(like.device), like.device_mesh, like.placements)


__all__ = [
    "after_sharding", "as_in_run", "as_published", "before_sharding", "gathered", "in_shards", "let_go", "scattered",
]  # fmt: skip
