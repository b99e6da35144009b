"""Child processes of the benchmarks: they import this repository, from any working directory."""

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


__all__ = ["ROOT", "child_environment"]
