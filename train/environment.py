"""Software and hardware of a run, for its reproduction, and the experiment trackers of Accelerate."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType, is_tensorboard_available

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "numpy", "peft")


def describe_environment(accelerator: Accelerator) -> dict:
    """Versions, device, processes, threads and commit, as JSON. Nothing in it names the user or the machine."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    device = accelerator.device
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": versions,
        "commit": commit,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": accelerator.num_processes,
        "distributed": str(accelerator.distributed_type).rpartition(".")[2],
        "mixed_precision": accelerator.mixed_precision,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }


def tracker_names(option: str) -> list[str] | None:
    """Names of the trackers, for Accelerate.

    Args:
        option: value of `--trackers`: names separated by commas, `"auto"` (TensorBoard if it is installed) or
            `"none"`.

    Raises:
        ImportError: a tracker that is not installed; Accelerate would skip it silently.
        ValueError: a tracker that Accelerate does not know.
    """
    if option == "auto":
        return ["tensorboard"] if is_tensorboard_available() else None
    if option == "none":
        return None
    names, installed = (
        [name.strip() for name in option.split(",")],
        [str(tracker) for tracker in get_available_trackers()],
    )
    for name in names:
        if name not in LoggerType.list():
            raise ValueError(f"--trackers {name}: known trackers are {', '.join(LoggerType.list())}")
        if name != "all" and name not in installed:
            raise ImportError(f"--trackers {name}: it is not installed")
    return names


__all__ = ["describe_environment", "tracker_names"]
