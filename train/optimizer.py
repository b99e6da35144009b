"""Parameter groups of the optimizer."""

import torch


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict]:
    """Groups for AdamW: matrices decay; vectors, scales and position tables do not. Frozen parameters are left out.

    Args:
        model: its trained parameters are grouped.
        weight_decay: weight decay of the matrices.
    """
    decayed: list[torch.nn.Parameter] = []
    free: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (free if parameter.ndim < 2 or "position_embedding" in name else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


__all__ = ["parameter_groups"]
