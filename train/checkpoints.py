"""What a killed run goes on from: files written beside and put in place, each checkpoint with its own checksums."""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
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


def write_text(path: Path, text: str) -> None:
    """Atomically: a killed run leaves the old file or the new one."""
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def write_json(path: Path, content: object) -> None:
    write_text(path, json.dumps(content, indent=1) + "\n")


def save_folder(target: Path, write: Callable[[Path], Any]) -> None:
    """Writes a folder beside `target`, then puts it in its place; a run killed in between finds the old one."""
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
    """The last few checkpoints of a run, `step-00000200` and so on, each whole or not there.

    Args:
        folder: holds nothing else.
        keep: how many; older ones go when a new one is in place.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self.keep = folder, keep

    def all(self) -> list[Path]:
        """Newest first."""
        return sorted(self.folder.glob("step-" + "[0-9]" * 8), reverse=True)

    def save(self, step: int, tensors: dict[str, dict[str, torch.Tensor]], state: dict) -> None:
        """Writes one checkpoint.

        Args:
            step: names it.
            tensors: for each file name, without suffix, its tensors.
            state: all else, JSON.

        Raises:
            OSError: it could not be written; those before are untouched, and nothing of it is left.
        """
        part, target = self.folder / "new.part", self.folder / f"step-{step:08d}"
        shutil.rmtree(part, ignore_errors=True)
        try:
            part.mkdir(parents=True)
            for name, values in tensors.items():
                save_file({key: value.contiguous() for key, value in values.items()}, part / f"{name}.safetensors")
            (part / "state.json").write_text(json.dumps(state) + "\n", encoding="utf-8")
            files = {path.name: [path.stat().st_size, checksum(path)] for path in sorted(part.iterdir())}
            (part / MANIFEST).write_text(json.dumps(files, indent=1) + "\n", encoding="utf-8")
            for path in [*part.iterdir(), part]:
                _to_disk(path)
            shutil.rmtree(target, ignore_errors=True)  # there only if it was found broken, see `newest`
            os.replace(part, target)
            _to_disk(self.folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(part, ignore_errors=True)
            whole = self.all()
            raise OSError(
                f"checkpoint {target} cannot be written: {error}; "
                f"{f'the newest whole one is {whole[0]}' if whole else 'there is none before it'}"
            ) from error
        for old in self.all()[self.keep :]:
            # First out of the way: half deleted it would look like a broken checkpoint.
            gone = old.with_name("old.part")
            shutil.rmtree(gone, ignore_errors=True)
            os.replace(old, gone)
            shutil.rmtree(gone)

    def newest(self, say: Callable[[str], None] = print) -> Path | None:
        """The newest checkpoint whose files are what was written; says which ones are not. None if there is none."""
        for path in self.all():
            fault = broken(path)
            if fault is None:
                return path
            say(f"{path} is broken, the checkpoint before it is used: {fault}")
        return None

    @staticmethod
    def load(path: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict]:
        """`tensors` and `state` as given to [`Checkpoints.save`], on the CPU."""
        tensors = {file.stem: load_file(file) for file in path.glob("*.safetensors")}
        return tensors, json.loads((path / "state.json").read_text(encoding="utf-8"))


def broken(path: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None if it is whole."""
    try:
        files = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        for name, (size, digest) in files.items():
            found = (path / name).stat().st_size
            if found != size:
                return f"{name} has {found} bytes of {size}"
            if checksum(path / name) != digest:
                return f"{name} has another checksum than when it was written"
    except (OSError, ValueError, AttributeError, TypeError) as error:
        return " ".join(str(error).split())
    return None


def checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class TrainingState:
    """All that a run goes on from, of all its processes.

    Args:
        accelerator, model, optimizer: the model and the optimizer as prepared; every process takes part.
        schedule: a torch scheduler, not prepared.
        extra: for each name, an object with `state_dict` and `load_state_dict` of plain tensors, the same in every
            process.
        global_batch: images a step of all processes, which decides what a step is.
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

    def save(self, checkpoints: Checkpoints, progress: dict) -> None:
        """In all processes; the main one writes.

        Raises:
            OSError: see [`Checkpoints.save`].
        """
        model = self.accelerator.get_state_dict(self.model)
        moments = get_optimizer_state_dict(self.model, self.optimizer, options=WHOLE)
        others = {name: each.state_dict() for name, each in self.extra.items()}
        random_states = gather_object([_random_state(self.accelerator.device)])
        if self.accelerator.is_main_process:
            tensors = {
                "model": {name: value.detach().cpu() for name, value in model.items()},
                "optimizer": {
                    f"{name}/{key}": value for name, each in moments["state"].items() for key, value in each.items()
                },
                **others,
            }
            state = {
                "progress": progress,
                "groups": moments["param_groups"],
                "schedule": self.schedule.state_dict(),
                "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
                "random": random_states,
                "global_batch": self.global_batch,
            }
            checkpoints.save(progress["step"], tensors, state)
        self.accelerator.wait_for_everyone()

    def load(self, path: Path) -> dict:
        """Puts everything back, in all processes, and returns the progress.

        Raises:
            ValueError: a checkpoint of another global batch, or of another model.
        """
        tensors, state = Checkpoints.load(path)
        if state["global_batch"] != self.global_batch:
            raise ValueError(
                f"{path}: {state['global_batch']} images a step, this run {self.global_batch} (--batch-size times "
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
        for name, each in self.extra.items():
            each.load_state_dict(tensors[name])
        if len(state["random"]) == self.accelerator.num_processes:
            _set_random_state(state["random"][self.accelerator.process_index], self.accelerator.device)
        return state["progress"]


def _random_state(device: torch.device) -> dict:
    """Of python, numpy and torch, on the CPU and the accelerator, as JSON."""
    version, words, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()
    found = {
        "python": [version, list(words), gauss],
        "numpy": [name, keys.tolist(), *rest],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }
    if device.type != "cpu":
        found["device"] = getattr(torch, device.type).get_rng_state().numpy().tobytes().hex()
    return found


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


__all__ = ["Checkpoints", "TrainingState", "broken", "save_folder", "write_json", "write_text"]
