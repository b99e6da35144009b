"""Sharded weights (FSDP2): what the model needs beyond what Accelerate does.

The whole model is one FSDP unit. Its weights are gathered once per step. Gradients and optimizer moments, three
quarters of the memory of training, stay sharded. Inner units would be gathered at each of their calls. How often a
layer is called depends on the caption lengths of a process (`text_packing.py`), so processes would wait for each other
forever.
"""

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method

from modeling_rogle import RogleModel

# Methods that validation calls; by default FSDP gathers the weights for `forward` only.
GATHERING_METHODS = ("encode_images", "encode_texts", "encode_image_parts", "encode_text_parts")
SCALAR = "logit_scale"  # CLIP's temperature


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether this run trains with FSDP."""
    return accelerator.distributed_type == DistributedType.FSDP


def before_sharding(accelerator: Accelerator, model: RogleModel) -> None:
    """Prepares Accelerate and the model for FSDP2; call it before the optimizer is created.

    CLIP's temperature becomes a vector of one number, because FSDP2 cannot shard a scalar.

    Raises:
        ValueError: FSDP of another version.
    """
    if not accelerator.is_fsdp2:
        raise ValueError("only FSDP version 2 is supported: accelerate launch --use_fsdp --fsdp_version 2")
    accelerator.state.fsdp_plugin.auto_wrap_policy = None
    model.get_input_embeddings = lambda: None  # otherwise Accelerate makes the embeddings a unit
    without_scalars(model)


def without_scalars(model: RogleModel) -> None:
    """Makes CLIP's temperature a vector of one number, in place."""
    model.logit_scale = nn.Parameter(model.logit_scale.detach().reshape(1))


def after_sharding(model: RogleModel) -> None:
    """Makes `encode_*` gather the weights as `forward` does; call it after `Accelerator.prepare`."""
    if isinstance(model, FSDPModule):
        del model.get_input_embeddings
        for name in GATHERING_METHODS:
            register_fsdp_forward_method(model, name)


def as_published(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights with a scalar temperature, as in every CLIP checkpoint."""
    return {name: value.reshape(()) if name == SCALAR else value for name, value in weights.items()}


def as_in_run(weights: Mapping[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Saved weights, or optimizer moments, with the temperature in the shape that it has in this run."""
    shape = next((p.shape for name, p in model.named_parameters() if name.removeprefix("module.") == SCALAR), None)
    reshaped = dict(weights)
    if shape is not None and SCALAR in reshaped:
        reshaped[SCALAR] = reshaped[SCALAR].reshape(shape)
    return reshaped


def reshard(model: RogleModel) -> None:
    """Drops the gathered weights that a forward without a backward leaves; they would hide changes of the shards."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


__all__ = [
    "after_sharding", "as_in_run", "as_published", "before_sharding", "is_sharded", "reshard",
]  # fmt: skip
