"""Which weights learn how fast: decay, rates by depth, and the moving average of the weights."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from train.sharding import gathered, scattered

LAYER = re.compile(r"(vision|text)_model\.encoder\.layers\.(\d+)\.")


def parameter_groups(
    model: torch.nn.Module, weight_decay: float, learning_rate: float = 1.0, layer_decay: float = 1.0
) -> list[dict]:
    """Groups for AdamW: matrices decay; vectors, scales and position tables do not. Frozen ones are left out.

    Args:
        layer_decay: with less than 1 a block learns at this factor of the rate of the block above it, a tower's
            embeddings below its first block (BEiT, arXiv 2106.08254); what is above the towers at the full rate.
        learning_rate: the full rate, read where there is more than one.
    """
    blocks = {"vision": 0, "text": 0}
    for name, _ in model.named_parameters():
        if found := LAYER.search(name):
            blocks[found[1]] = max(blocks[found[1]], int(found[2]) + 1)
    groups: dict[tuple[float, int], dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = 0.0 if parameter.ndim < 2 or "position_embedding" in name else weight_decay
        below = 0 if layer_decay == 1 else _blocks_above(name, blocks)
        group = groups.setdefault((below, decay == 0.0), {"params": [], "weight_decay": decay})
        if layer_decay != 1:
            group["lr"] = learning_rate * layer_decay**below
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def _blocks_above(name: str, blocks: dict[str, int]) -> int:
    if found := LAYER.search(name):
        return blocks[found[1]] - int(found[2])
    for tower in blocks:
        if f"{tower}_model." in name and ("embeddings." in name or "pre_layrnorm" in name):
            return blocks[tower] + 1
    return 0


class MovingAverage:
    """Exponential moving average of the weights, in their own type and on their own device.

    Args:
        model: its trained parameters are followed; the average starts where they are.
        decay: of the old average in each step.
    """

    def __init__(self, model: torch.nn.Module, decay: float):
        self.decay = decay
        self.live = {name: each for name, each in model.named_parameters() if each.requires_grad}
        self.average = {name: each.detach().clone() for name, each in self.live.items()}

    @torch.no_grad()
    def update(self) -> None:
        for name, each in self.live.items():
            self.average[name].lerp_(each, 1 - self.decay)

    @contextmanager
    @torch.no_grad()
    def in_place(self) -> Iterator[None]:
        """While it is entered the model holds the average."""
        held = {name: each.detach().clone() for name, each in self.live.items()}
        for name, each in self.live.items():
            each.copy_(self.average[name])
        try:
            yield
        finally:
            for name, each in self.live.items():
                each.copy_(held[name])

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {name: gathered(each).cpu() for name, each in self.average.items()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        for name, each in self.average.items():
            each.copy_(scattered(state[name], each))


__all__ = ["MovingAverage", "parameter_groups"]
