"""Cells of a benchmark that trains: one run of train/train.py each, kept when finished, resumed when killed.

A table may be filled by any number of runs, after each other or at the same time: a cell that another process is
training is left to it.
"""

import fcntl
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from datasets import Dataset

from dataset_pvlg.generation.generate import Options, generate
from dataset_pvlg.loading import load_rows

ROOT = Path(__file__).resolve().parents[2]
START_EPOCHS = 12


@contextmanager
def claimed(path: Path) -> Iterator[int | None]:
    """Holds `path`.lock while the block runs, and gives its descriptor; None where another process holds it.

    Who inherits the descriptor holds it too, so that the training of a killed benchmark keeps its cell.
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


def with_copies(out: Path, dataset: str, epochs: int, make: bool = True) -> list[str]:
    """Common flags of a cell that trains on `dataset` with generated near copies, for as many steps as without them.

    So many images get a copy that half of the epochs, rounded up, are as many steps. The copies' captions are exact,
    for approximate text is train.py's `--approximate`. The data are generated once, and only where `make` is set: a
    report needs none.
    """
    fewer = -(-epochs // 2)
    share = epochs / fewer - 1
    folder = out / "data" / f"{dataset}-copies-{share:.3f}"
    if make:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{folder}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # who comes second waits, and finds it done
            if not folder.exists():
                generate(dataset, folder, Options(share=share, approximate=0.0))
    return ["--dataset", "pvlg", "--data-root", str(folder), "--epochs", str(fewer), "--threads", "1"]


def write_splits(folder: Path, splits: Mapping[str, Dataset]) -> None:
    """P-VLG's rows as the Parquet that `--dataset pvlg --data-root` reads; the folder appears whole."""
    part = folder.with_name(f"{folder.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        rows.to_parquet(part / f"{split}-00000-of-00001.parquet")
    part.rename(folder)


def with_start(out: Path, dataset: str, epochs: int, make: bool = True) -> list[str]:
    """Common flags of a cell that goes on, for `epochs` more, from a model that has learnt from other people.

    As the field does, whose models start from CLIP: the training people are halved, the first half teaches the start
    (`START_EPOCHS`, once), the second is the cell's. Validation and test are whole. `make` as in [`with_copies`].
    """
    halves, start = [out / "data" / f"{dataset}-{name}-half" for name in ("first", "second")], out / "start"
    if make:
        start.parent.mkdir(parents=True, exist_ok=True)
        with open(out / "start.made", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # who comes second waits, and finds it done
            if not halves[1].exists():
                data = load_rows(dataset)[0]
                who = data["train"]["person_id"][:]
                people = list(dict.fromkeys(who))
                first = set(people[: len(people) // 2])
                for folder, mine in zip(halves, (True, False), strict=True):
                    kept = [n for n, person in enumerate(who) if (person in first) == mine]
                    write_splits(folder, {**data, "train": data["train"].select(kept)})
            common = ["--dataset", "pvlg", "--data-root", str(halves[0]), "--epochs", str(START_EPOCHS)]
            run_cell(start, ["--seed", "0"], [*common, "--threads", "1"])
    given = ["--dataset", "pvlg", "--data-root", str(halves[1]), "--model", str(start / "best")]
    return [*given, "--epochs", str(epochs), "--learning-rate", "0.0003", "--threads", "1"]


def run_cell(folder: Path, flags: Sequence[str], common: Sequence[str]) -> bool:
    """Trains one cell unless it is finished; a cell that was killed goes on.

    Returns:
        Whether it is finished; false where another process is at it.

    Raises:
        SystemExit: the cell is there, but of another recipe; or its training failed.
    """
    check_cell(folder, common)
    if (folder / "results.json").exists():
        return True
    with claimed(folder) as lock:
        if lock is None:
            return False
        if (folder / "results.json").exists():
            return True
        log_file = folder.with_name(f"{folder.name}.log")
        command = [sys.executable, str(ROOT / "train" / "train.py"), *common, *flags, "--out", str(folder)]
        if folder.exists() and any(folder.iterdir()):
            command.append("--resume")
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with open(log_file, "a", encoding="utf-8") as log:
            code = subprocess.run(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONPATH": paths},
                pass_fds=[lock],
            ).returncode
    if code:
        raise SystemExit(f"{' '.join(command)}\nended with {code}; its messages: {log_file}")
    return True


def check_cell(folder: Path, common: Sequence[str]) -> None:
    """Raises SystemExit where a cell was trained with other epochs, on other data, or with other threads."""
    saved = folder / "recipe.yaml"
    recipe = yaml.safe_load(saved.read_text(encoding="utf-8")) if saved.exists() else {}
    for flag, value in zip(common[::2], common[1::2], strict=True):
        name = flag.removeprefix("--").replace("-", "_")
        if name in recipe and str(recipe[name]) != value:
            raise SystemExit(f"{saved}: {name} is {recipe[name]!r}, this command {value}; name another --out")


def read_cell(folder: Path) -> dict | None:
    """Results and validation curve of a finished cell."""
    if not (folder / "results.json").exists():
        return None
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    found["curve"] = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    return found


def at_budget(curve: Sequence[Mapping[str, float]], cpu_seconds: float, name: str) -> float:
    """A validation score after that much CPU time of training, interpolated between epochs; 0 before the first."""
    seconds, score = 0.0, 0.0
    for entry in curve:
        if entry["cpu_seconds"] >= cpu_seconds:
            share = (cpu_seconds - seconds) / max(entry["cpu_seconds"] - seconds, 1e-9)
            return score + share * (entry[name] - score)
        seconds, score = entry["cpu_seconds"], entry[name]
    return score


def spread(values: Sequence[float]) -> str:
    """Mean and, of more than one value, standard deviation."""
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table whose columns after the first are numbers."""
    lines = ["| " + " | ".join(titles) + " |", "|---|" + "---:|" * (len(titles) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def write_whole(path: Path, text: str) -> None:
    """Writes a file that appears whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, path)


__all__ = [
    "ROOT", "at_budget", "check_cell", "claimed", "read_cell", "run_cell", "spread", "table", "with_copies",
    "with_start", "write_splits", "write_whole",
]  # fmt: skip
