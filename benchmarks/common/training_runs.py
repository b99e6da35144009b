"""Cells of a benchmark that trains. A cell is one run of train/train.py.

A finished cell is kept and an interrupted one is resumed. Several processes may fill the same table: a cell that one
of them trains is skipped by the others.
"""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from datasets import Dataset

from benchmarks.common.processes import ROOT, child_environment
from dataset_pvlg.generation.generate import Options, generate
from dataset_pvlg.loading import load_rows

TRAIN = [sys.executable, str(ROOT / "train" / "train.py")]
PRETRAINING_EPOCHS = 12


@contextmanager
def claimed(path: Path) -> Iterator[int | None]:
    """Holds the lock `path`.lock while the block runs.

    A process that inherits the descriptor holds the lock too, so that the training of a killed benchmark keeps its
    cell.

    Yields:
        The descriptor of the lock, or None if another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path.with_name(f"{path.name}.lock"), os.O_CREAT | os.O_RDWR, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield lock
    finally:
        os.close(lock)


def with_edited_images(out: Path, dataset: str, epochs: int, make: bool = True) -> list[str]:
    """Shared flags of a cell that trains on `dataset` and edited copies of its images, with no more steps than without.

    The epochs are halved (rounded up), and so many images get an edited copy that the number of steps stays the same.
    The captions of the copies are exact; train.py's `--approximate` makes them approximate.

    Args:
        out: folder of the benchmark.
        dataset: name of a P-VLG data set.
        epochs: epochs of a cell without edited images.
        make: generate the data if they are missing. A report needs none. Default: True.
    """
    fewer_epochs = -(-epochs // 2)
    share = epochs / fewer_epochs - 1
    folder = out / "data" / f"{dataset}-copies-{share:.3f}"
    if make:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{folder}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits until the data are complete
            if not folder.exists():
                generate(dataset, folder, Options(share=share, approximate=0.0))
    return ["--dataset", "pvlg", "--data-root", str(folder), "--epochs", str(fewer_epochs), "--threads", "1"]


def write_splits(folder: Path, splits: Mapping[str, Dataset]) -> None:
    """Writes P-VLG rows as the Parquet files that `--dataset pvlg --data-root` reads. The folder appears complete."""
    part = folder.with_name(f"{folder.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        rows.to_parquet(part / f"{split}-00000-of-00001.parquet")
    part.rename(folder)


def with_pretraining(out: Path, dataset: str, epochs: int, make: bool = True) -> list[str]:
    """Shared flags of a cell that fine-tunes a model which was trained on other identities.

    This replaces the pre-trained CLIP that the field starts from. The training identities are halved: a model is
    trained on the first half once, for `PRETRAINING_EPOCHS`; the cell uses the second half. Validation and test are
    complete in both.

    Args:
        out: folder of the benchmark.
        dataset: name of a P-VLG data set.
        epochs: epochs of the cell.
        make: make the data and the model if they are missing. Default: True.
    """
    halves, start = [out / "data" / f"{dataset}-{name}-half" for name in ("first", "second")], out / "start"
    if make:
        start.parent.mkdir(parents=True, exist_ok=True)
        with open(out / "start.made", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits until the model is trained
            if not halves[1].exists():
                _write_halves(dataset, halves)
            shared = ["--dataset", "pvlg", "--data-root", str(halves[0]), "--epochs", str(PRETRAINING_EPOCHS)]
            run_cell(start, ["--seed", "0"], [*shared, "--threads", "1"])
    flags = ["--dataset", "pvlg", "--data-root", str(halves[1]), "--model", str(start / "best")]
    return [*flags, "--epochs", str(epochs), "--learning-rate", "0.0003", "--threads", "1"]


def _write_halves(dataset: str, folders: Sequence[Path]) -> None:
    data = load_rows(dataset)[0]
    person_ids = data["train"]["person_id"][:]
    people = list(dict.fromkeys(person_ids))
    first = set(people[: len(people) // 2])
    for folder, in_first in zip(folders, (True, False), strict=True):
        rows = [n for n, person in enumerate(person_ids) if (person in first) == in_first]
        write_splits(folder, {**data, "train": data["train"].select(rows)})


def run_cell(folder: Path, flags: Sequence[str], shared: Sequence[str]) -> bool:
    """Trains one cell unless it is finished. An interrupted one is resumed.

    Args:
        folder: of the cell.
        flags: the cell's own flags of train.py.
        shared: flags that a finished cell is compared with, see [`check_cell`].

    Returns:
        Whether the cell is finished; False if another process trains it.

    Raises:
        SystemExit: the folder holds a run with another recipe, or the training failed.
    """
    check_cell(folder, shared)
    if (folder / "results.json").exists():
        return True
    with claimed(folder) as lock:
        if lock is None:
            return False
        if (folder / "results.json").exists():
            return True
        log_file = folder.with_name(f"{folder.name}.log")
        command = [*TRAIN, *shared, *flags, "--out", str(folder)]
        if folder.exists() and any(folder.iterdir()):
            command.append("--resume")
        with open(log_file, "a", encoding="utf-8") as log:
            code = subprocess.run(
                command, stdout=log, stderr=subprocess.STDOUT, env=child_environment(), pass_fds=[lock]
            ).returncode
    if code:
        raise SystemExit(f"{' '.join(command)}\nfailed with status {code}; log: {log_file}")
    return True


def check_cell(folder: Path, shared: Sequence[str]) -> None:
    """Raises SystemExit if a cell was trained with other values of the shared flags (epochs, data, threads, ...)."""
    saved = folder / "recipe.yaml"
    recipe = yaml.safe_load(saved.read_text(encoding="utf-8")) if saved.exists() else {}
    for flag, value in zip(shared[::2], shared[1::2], strict=True):
        name = flag.removeprefix("--").replace("-", "_")
        if name in recipe and str(recipe[name]) != value:
            raise SystemExit(f"{saved}: {name} is {recipe[name]!r}, expected {value}; use another --out")


def read_cell(folder: Path) -> dict | None:
    """Content of results.json with the validation curve as `curve`; None for an unfinished cell."""
    if not (folder / "results.json").exists():
        return None
    cell = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    cell["curve"] = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    return cell


def score_at_budget(curve: Sequence[Mapping[str, float]], cpu_seconds: float, name: str) -> float:
    """A validation score after an amount of CPU time.

    Args:
        curve: one entry an epoch, with `cpu_seconds` and the score.
        cpu_seconds: CPU time of training.
        name: of the score.

    Returns:
        The score, interpolated linearly between epochs from 0 at the start; the last one for a larger budget.
    """
    seconds, score = 0.0, 0.0
    for entry in curve:
        if entry["cpu_seconds"] >= cpu_seconds:
            share = (cpu_seconds - seconds) / max(entry["cpu_seconds"] - seconds, 1e-9)
            return score + share * (entry[name] - score)
        seconds, score = entry["cpu_seconds"], entry[name]
    return score


__all__ = [
    "TRAIN", "check_cell", "claimed", "read_cell", "run_cell", "score_at_budget", "with_edited_images",
    "with_pretraining", "write_splits",
]  # fmt: skip
