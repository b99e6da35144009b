"""CPU time of several variants of one task, measured in rounds, and the machine that it was measured on."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def time_in_rounds(calls: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """CPU seconds of each variant in each round.

    The variants take turns, so that other load on the machine affects all of them. Each round starts with the next
    variant.

    Args:
        calls: variant -> the work to time.
        rounds: timed rounds.
        warm_up: rounds before them that are not timed. Default: 1.

    Returns:
        Variant -> CPU seconds of all threads, one value a round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for number in range(warm_up + rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            started = time.process_time()
            calls[name]()
            if number >= warm_up:
                seconds[name].append(time.process_time() - started)
    return seconds


def format_ratio(values: Sequence[float], base: Sequence[float]) -> str:
    """Ratio of the medians, with the lowest and highest ratio of a round: `0.88 (0.85 to 0.92)`."""
    ratios = [value / other for value, other in zip(values, base, strict=True)]
    ratio = statistics.median(values) / statistics.median(base)
    return f"{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def describe_machine() -> str:
    """Processor, threads and version of torch."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    name = lines[0].split(":")[1].strip() if lines else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"


__all__ = ["describe_machine", "format_ratio", "time_in_rounds"]
