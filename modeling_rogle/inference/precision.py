"""Whether inference in bfloat16 pays on this machine."""

import time
from functools import cache

import torch


@cache
def fast_bfloat16(device: str = "cpu") -> bool:
    """True where a matrix product in bfloat16 takes at most two thirds of the time of one in fp32.

    Measured, once a process, in some 50 ms: the instruction alone says little. AVX512-BF16 without AMX halves the
    speed of such a product on one processor and doubles it on another.

    For inference: `if fast_bfloat16(model.device.type): model = model.to(torch.bfloat16)`. `encode_images` and
    `encode_texts` still return fp32; on a CPU that is faster than autocast, which casts the weights in every call.

    Args:
        device: `"cpu"` is timed; of CUDA torch is asked; False for others.
    """
    if device == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu":
        return False
    operands = {}
    for dtype in (torch.float32, torch.bfloat16):
        operands[dtype] = torch.ones(256, 768, dtype=dtype), torch.ones(768, 768, dtype=dtype)
    seconds: dict[torch.dtype, list[float]] = {dtype: [] for dtype in operands}
    for _ in range(6):  # taking turns, the best of five: another program's burst meets both or neither
        for dtype, (rows, weight) in operands.items():
            started = time.perf_counter()
            torch.nn.functional.linear(rows, weight)
            seconds[dtype].append(time.perf_counter() - started)
    return min(seconds[torch.bfloat16][1:]) <= min(seconds[torch.float32][1:]) * 2 / 3


__all__ = ["fast_bfloat16"]
