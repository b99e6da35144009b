"""Work in stages and units that survives SIGKILL: a finished unit is complete on disk and is not computed again.

A unit of a stage (a source, a shard of rows, a Parquet file) is a folder. It is written under the name `UNIT.part` and
renamed when it is complete. The name of a stage's folder contains a hash of everything that its content depends on.
After a change of an option, the stages from there on are computed again.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from dataset_pvlg.jobs.workers import WORKER_DIED, begin_worker, worker_context

try:
    import fcntl
except ImportError:  # Windows has no such locks: users must not run two builds of one folder at the same time
    fcntl = None  # type: ignore[assignment]

RESULT = "result.json"


def resolved_out(out: str | Path) -> Path:
    """The output folder without symbolic links, because the finished result is moved there in one step.

    Args:
        out (`str` or `Path`): the folder as the user named it.

    Raises:
        ValueError: it is a mount point (as `/` is), which cannot be replaced, or its links form a cycle.
    """
    try:
        path = Path(out).resolve()
    except RuntimeError as error:  # Python 3.11 raises it for links that form a cycle
        raise ValueError(f"{out}: {error}") from error
    if not path.name or os.path.ismount(path):
        raise ValueError(f"{out}: is a mount point and cannot be replaced; choose a folder inside it as --out")
    return path


class Unit(NamedTuple):
    """A finished unit: its folder, and what its task returned."""

    folder: Path
    result: dict[str, Any]


class Stages:
    """Runs stages one after the other in a work folder. As a context manager, it holds the folder's lock.

    If the block ends with an error, finished units stay in the folder, and the same stages resume from them.
    [`finish`] removes the folder.

    Args:
        folder (`Path`): the work folder; it is created if it does not exist.
        workers (`int`): number of processes; with 1, everything runs in this process. The content of the units does
            not depend on it.
        facts: JSON-able; everything that the first stage depends on.
        preload (`Sequence[str]`): modules that are imported once for all workers.
    """

    def __init__(self, folder: Path, workers: int = 1, facts: Any = None, preload: Sequence[str] = ()):
        self.folder = folder
        self.workers = workers
        self._context = worker_context(preload)  # before a task opens a pool of its own
        self._key = _hash("", facts)
        self._stage_count = 0
        self._pool: ProcessPoolExecutor | None = None
        self._lock: int | None = None

    def __enter__(self) -> "Stages":
        self._lock = lock_folder(self.folder)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        if self.folder.exists() and not any(self.folder.glob(f"*/*/{RESULT}")):
            self.finish()  # no unit is finished
        if self._lock is not None:
            os.close(self._lock)

    def finish(self) -> None:
        """Remove the work folder. Its sub-folders go first, and the file that marks a complete build goes last."""
        for folder in self.folder.glob("*/"):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(
        self,
        name: str,
        task: Callable[..., dict],
        units: Mapping[str, tuple],
        options: Any = None,
        in_this_process: bool = False,
    ) -> dict[str, Unit]:
        """Compute the units of a stage that do not exist yet.

        Args:
            name (`str`): name of the stage.
            task (`Callable`): `task(folder, *arguments)`, importable by name. It fills `folder` (the unit's folder with
                the suffix `.part`) and returns something JSON-able. Equal inputs must give equal bytes.
            units (`Mapping[str, tuple]`): name of a unit (without a dot) -> arguments of its task.
            options: JSON-able; what this stage depends on besides the earlier stages.
            in_this_process (`bool`): compute one unit after the other in this process, for tasks with own workers.

        Returns:
            `dict[str, Unit]`: the units in the given order.

        Raises:
            OSError: a worker process died. An error of a task is passed on; finished units stay.
        """
        self._key = _hash(self._key, [name, options])
        stage = self.folder / f"{self._stage_count}-{name}-{self._key[:16]}"
        for outdated in self.folder.glob(f"{self._stage_count}-*"):
            if outdated != stage:
                shutil.rmtree(outdated)
        self._stage_count += 1
        stage.mkdir(exist_ok=True)
        for incomplete in stage.glob("*.part"):
            shutil.rmtree(incomplete)
        missing = {unit: arguments for unit, arguments in units.items() if not (stage / unit).exists()}
        finished = len(units) - len(missing)
        with tqdm(total=len(units), initial=finished, desc=name, unit="shard", disable=None) as bar:
            if in_this_process or self.workers == 1 or len(missing) < 2:
                for unit, arguments in missing.items():
                    _compute_unit(task, stage / unit, arguments)
                    bar.update()
            else:
                self._compute_in_workers(task, {stage / unit: arguments for unit, arguments in missing.items()}, bar)
        print(f"{name}: {len(missing)} made, {finished} found finished", file=sys.stderr, flush=True)
        return {unit: Unit(stage / unit, _read_result(stage / unit)) for unit in units}

    def _compute_in_workers(self, task: Callable[..., dict], units: Mapping[Path, tuple], bar: tqdm) -> None:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self.workers, self._context, initializer=begin_worker)
        futures: list[Future] = [self._pool.submit(_compute_unit, task, *unit) for unit in units.items()]
        try:
            for future in as_completed(futures):
                future.result()
                bar.update()
        except BrokenProcessPool as error:
            raise OSError(WORKER_DIED) from error
        finally:
            for future in futures:
                future.cancel()


def _compute_unit(task: Callable[..., dict], folder: Path, arguments: tuple) -> None:
    part = folder.with_name(folder.name + ".part")
    part.mkdir()
    result = task(part, *arguments)
    (part / RESULT).write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")
    for path in part.iterdir():  # after a power cut, a finished unit must not hold empty files
        if path.is_file():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
    os.rename(part, folder)


def _read_result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / RESULT).read_text(encoding="utf-8"))


def _hash(previous: str, facts: Any) -> str:
    return hashlib.sha256((previous + json.dumps(facts, sort_keys=True)).encode()).hexdigest()


def lock_folder(folder: Path) -> int | None:
    """Create a folder and take its lock.

    Args:
        folder (`Path`): the folder to lock; parents are created too.

    Returns:
        `int`, *optional*: the lock, which `os.close` releases; None on systems without such locks.

    Raises:
        ValueError: another process holds the lock.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        if fcntl is None:
            return None
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_ino == os.stat(folder / "lock").st_ino:
                return lock
        except FileNotFoundError:
            pass  # the previous owner removed the folder between the two calls
        except OSError as error:
            os.close(lock)
            raise ValueError(f"{folder}: another process is using it") from error
        os.close(lock)


__all__ = ["RESULT", "Stages", "Unit", "lock_folder", "resolved_out"]
