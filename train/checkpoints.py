"""Checkpoints of a run: written under a temporary name and then renamed, each with checksums of its files."""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from train.sharding import as_in_run

MANIFEST = "manifest.json"
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


@dataclass
class Progress:
    """The progress of a run, stored in every checkpoint.

    Args:
        step (`int`): steps done.
        epoch (`int`): epochs done.
        position (`int`): steps done in the current epoch.
        best (`float`): best validation R@1 of long captions, in percent; -1 before the first validation.
        best_epoch (`int`): its epoch, counted from 1.
        bad_steps (`int`): steps skipped because of a NaN or infinite value.
        bad_images (`list[str]`): image ids of these steps.
        seconds (`float`): time of training and validation, waiting included.
        cpu_seconds (`float`): CPU time of the training steps only.
        waited (`float`): seconds of this epoch spent waiting for data.
        steps_seconds (`float`): seconds of this epoch's steps, waiting included.
        sums (`dict[str, float]`): sum of each loss over this epoch's finite steps.
        finite (`int`): number of these steps.
        history (`list[dict]`): log entry of each epoch done.
    """

    step: int = 0
    epoch: int = 0
    position: int = 0
    best: float = -1.0
    best_epoch: int = 0
    bad_steps: int = 0
    bad_images: list[str] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    waited: float = 0.0
    steps_seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    finite: int = 0
    history: list[dict] = field(default_factory=list)


def write_text(path: Path, text: str) -> None:
    """Writes a file atomically: a killed run leaves the old file or the new one."""
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def write_json(path: Path, content: object) -> None:
    """Writes a JSON file atomically."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def save_folder(target: Path, write: Callable[[Path], Any]) -> None:
    """Replaces a folder. A run killed between the two renames leaves the old one as `<target>.old`.

    Args:
        target: folder to create or replace.
        write: called with an empty folder to fill.
    """
    part, old = target.with_name(target.name + ".part"), target.with_name(target.name + ".old")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write(part)
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(part, target)
    shutil.rmtree(old, ignore_errors=True)


class Checkpoints:
    """The newest checkpoints of a run, folders `step-00000200` and so on. Each is complete or does not exist.

    Args:
        folder: contains nothing else.
        keep (`int`, defaults to 2): number of checkpoints to keep; older ones are deleted after a new one is written.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self.keep = folder, keep

    def all(self) -> list[Path]:
        """All checkpoints, newest first."""
        return sorted(self.folder.glob("step-" + "[0-9]" * 8), reverse=True)

    def save(self, step: int, tensors: dict[str, dict[str, torch.Tensor]], state: dict) -> None:
        """Writes a checkpoint.

        Args:
            step: its number.
            tensors: tensors by name, for each file name without suffix.
            state: everything else, JSON.

        Raises:
            OSError: it could not be written. Older checkpoints are unchanged, and no part of the new one is left.
        """
        part, target = self.folder / "new.part", self.folder / f"step-{step:08d}"
        shutil.rmtree(part, ignore_errors=True)
        try:
            part.mkdir(parents=True)
            for name, values in tensors.items():
                save_file({key: value.contiguous() for key, value in values.items()}, part / f"{name}.safetensors")
            (part / "state.json").write_text(json.dumps(state) + "\n", encoding="utf-8")
            files = {path.name: [path.stat().st_size, _checksum(path)] for path in sorted(part.iterdir())}
            (part / MANIFEST).write_text(json.dumps(files, indent=1) + "\n", encoding="utf-8")
            for path in [*part.iterdir(), part]:
                _sync_to_disk(path)
            shutil.rmtree(target, ignore_errors=True)  # exists only if it is broken, see `newest`
            os.replace(part, target)
            _sync_to_disk(self.folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(part, ignore_errors=True)
            existing = self.all()
            raise OSError(
                f"checkpoint {target} cannot be written: {error}; "
                f"{f'the newest complete one is {existing[0]}' if existing else 'there is no earlier one'}"
            ) from error
        for old in self.all()[self.keep :]:
            # Renamed first: a partly deleted folder would look like a broken checkpoint.
            deleted = old.with_name("old.part")
            shutil.rmtree(deleted, ignore_errors=True)
            os.replace(old, deleted)
            shutil.rmtree(deleted)

    def newest(self, log: Callable[[str], None] = print) -> Path | None:
        """The newest checkpoint whose files match their checksums; None if there is none.

        Args:
            log (defaults to `print`): reports each broken checkpoint.
        """
        for path in self.all():
            fault = find_fault(path)
            if fault is None:
                return path
            log(f"{path} is broken, the checkpoint before it is used: {fault}")
        return None

    @staticmethod
    def load(path: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict]:
        """The `tensors` and the `state` of [`Checkpoints.save`], on the CPU."""
        tensors = {file.stem: load_file(file) for file in path.glob("*.safetensors")}
        return tensors, json.loads((path / "state.json").read_text(encoding="utf-8"))


def find_fault(path: Path) -> str | None:
    """A message about the first fault of a checkpoint; None if it is complete."""
    try:
        files = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        for name, (size, digest) in files.items():
            actual = (path / name).stat().st_size
            if actual != size:
                return f"{name} has {actual} bytes of {size}"
            if _checksum(path / name) != digest:
                return f"{name} does not match its checksum"
    except (OSError, ValueError, AttributeError, TypeError) as error:
        return " ".join(str(error).split())
    return None


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class TrainingState:
    """Everything that a run needs to be resumed, of all its processes.

    Args:
        accelerator: the accelerator of the run; every process takes part.
        model: the model as prepared.
        optimizer: the optimizer as prepared.
        schedule: a torch scheduler, not prepared.
        extra: objects with `state_dict` and `load_state_dict` of plain tensors, by file name. Their state is the same
            in every process.
        global_batch: images per step of all processes, which defines a step.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: torch.nn.Module,
        optimizer: Any,
        schedule: Any,
        extra: dict[str, Any],
        global_batch: int,
    ):
        self.accelerator, self.model, self.schedule, self.extra = accelerator, model, schedule, extra
        self.optimizer = getattr(optimizer, "optimizer", optimizer)
        self.global_batch = global_batch

    def save(self, checkpoints: Checkpoints, progress: Progress) -> None:
        """Writes a checkpoint in the main process; every process must call it.

        Raises:
            OSError: see [`Checkpoints.save`].
        """
        model = self.accelerator.get_state_dict(self.model)
        moments = get_optimizer_state_dict(self.model, self.optimizer, options=WHOLE)
        extra = {name: item.state_dict() for name, item in self.extra.items()}
        random_states = gather_object([_random_state(self.accelerator.device)])
        if self.accelerator.is_main_process:
            tensors = {
                "model": {name: value.detach().cpu() for name, value in model.items()},
                "optimizer": {
                    f"{name}/{key}": value for name, values in moments["state"].items() for key, value in values.items()
                },
                **extra,
            }
            state = {
                "progress": asdict(progress),
                "groups": moments["param_groups"],
                "schedule": self.schedule.state_dict(),
                "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
                "random": random_states,
                "global_batch": self.global_batch,
            }
            checkpoints.save(progress.step, tensors, state)
        self.accelerator.wait_for_everyone()

    def load(self, path: Path) -> Progress:
        """Restores everything; every process must call it. The random states are restored if their number is equal.

        Raises:
            ValueError: a checkpoint of another global batch or another model.
        """
        tensors, state = Checkpoints.load(path)
        if state["global_batch"] != self.global_batch:
            raise ValueError(
                f"{path}: {state['global_batch']} images per step, this run {self.global_batch} (--batch-size times "
                f"{self.accelerator.num_processes} processes)"
            )
        try:
            weights = as_in_run(tensors["model"], self.model)
            set_model_state_dict(self.model, weights, options=StateDictOptions(full_state_dict=True))
        except (RuntimeError, KeyError) as error:
            raise ValueError(f"{path}: another model: {' '.join(str(error).split())[:300]}") from error
        moments: dict[str, dict[str, torch.Tensor]] = {}
        for name, value in tensors["optimizer"].items():
            parameter, _, key = name.rpartition("/")
            if key != "step":
                value = as_in_run({parameter: value}, self.model)[parameter]
            moments.setdefault(parameter, {})[key] = value
        set_optimizer_state_dict(
            self.model,
            self.optimizer,
            {"state": moments, "param_groups": state["groups"]},
            options=StateDictOptions(full_state_dict=True),
        )
        self.schedule.load_state_dict(state["schedule"])
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        for name, item in self.extra.items():
            item.load_state_dict(tensors[name])
        if len(state["random"]) == self.accelerator.num_processes:
            _set_random_state(state["random"][self.accelerator.process_index], self.accelerator.device)
        return Progress(**state["progress"])


def _random_state(device: torch.device) -> dict:
    """Random states of Python, NumPy and torch, on the CPU and the accelerator, as JSON."""
    version, words, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()
    state = {
        "python": [version, list(words), gauss],
        "numpy": [name, keys.tolist(), *rest],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }
    if device.type != "cpu":
        state["device"] = getattr(torch, device.type).get_rng_state().numpy().tobytes().hex()
    return state


def _set_random_state(state: dict, device: torch.device) -> None:
    def as_bytes(text: str) -> torch.Tensor:
        return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)

    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(as_bytes(state["torch"]))
    if device.type != "cpu" and "device" in state:
        getattr(torch, device.type).set_rng_state(as_bytes(state["device"]))


__all__ = ["Checkpoints", "Progress", "TrainingState", "find_fault", "save_folder", "write_json", "write_text"]
