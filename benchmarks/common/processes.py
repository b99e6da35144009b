"""Child processes of the benchmarks: they import this repository, from any working directory. Figures of a process."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def child_environment(**variables: str) -> dict[str, str]:
    """Environment of a child process: that of this process with the repository's root first in PYTHONPATH.

    Args:
        **variables: further variables to set.
    """
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": paths} | variables


def process_cpu_seconds(pid: int) -> float:
    """CPU seconds of a running process so far (Linux); 0 if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def process_resident_bytes(pid: int) -> int:
    """Resident memory of a running process (Linux); 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


__all__ = ["ROOT", "child_environment", "process_cpu_seconds", "process_resident_bytes"]
