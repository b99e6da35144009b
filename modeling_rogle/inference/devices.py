"""Where a model runs when nobody says."""

import torch


def best_device() -> torch.device:
    """The accelerator that torch finds (CUDA, MPS, XPU, ...), else the CPU."""
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator()
    return torch.device("cpu")


__all__ = ["best_device"]
