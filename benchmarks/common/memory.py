"""Memory of a process, and the memory that one variant of a benchmark adds to a process of its own."""

import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common.processes import child_environment


def memory_bytes(field: str) -> int | None:
    """Reads a memory figure of Linux.

    Args:
        field: `VmRSS` (now) or `VmHWM` (peak so far) of this process, or `MemAvailable` of the machine.

    Returns:
        Bytes; None on another system.
    """
    path = Path("/proc/meminfo" if field.startswith("Mem") else "/proc/self/status")
    if not path.exists():
        return None
    line = next((line for line in path.read_text().splitlines() if line.startswith(field + ":")), None)
    return int(line.split()[1]) * 1024 if line else None


def peak_bytes() -> int:
    """Peak resident memory of this process so far."""
    # On Linux getrusage may still hold the parent's peak.
    return memory_bytes("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT


def resident_bytes() -> int:
    """Resident memory of this process now, with the mapped files that it has read; 0 if unknown."""
    return memory_bytes("VmRSS") or 0


_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


def measure_memory(module: str, variant: str, options: Sequence[str]) -> int:
    """Runs `python -m MODULE OPTIONS --memory-of VARIANT`, which prints the bytes that the variant adds.

    Args:
        module: a benchmark that has the option `--memory-of`.
        variant: its argument.
        options: other options of the benchmark.

    Raises:
        RuntimeError: the process failed.
    """
    command = [sys.executable, "-m", module, *options, "--memory-of", variant]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=child_environment())
    if done.returncode:
        raise RuntimeError(f"{variant}: {done.stderr.strip().splitlines()[-1]}")
    return int(done.stdout.splitlines()[-1])


__all__ = ["measure_memory", "memory_bytes", "peak_bytes", "resident_bytes"]
