"""Work in stages and shards that survives SIGKILL: what is finished lies on disk as a whole and is not made again.

Every unit of a stage (a source that is read, a shard of rows, a Parquet file) is a folder. It is filled under the name
`UNIT.part` and renamed when it is whole, so a folder without the suffix is finished. The name of a stage's folder holds
a hash of all that its content follows from; after a change of an option the stages from there on are made anew.
"""

import gc
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

try:
    import fcntl
except ImportError:  # Windows: two builds of one folder at once are the user's own care there
    fcntl = None

RESULT = "result.json"
_AT_ONCE = 256  # items a worker is given of each batch
_DIED = "a worker process died, perhaps for want of memory; run again to go on from here"
_preload: list[str] = []  # of the one server that all pools of this process fork from


def resolved_out(out: str | Path) -> Path:
    """The folder that a finished result is moved to in one step: without links, for a link cannot be moved onto.

    Raises:
        ValueError: a mount point, the root of all folders among them: nothing can be moved onto it.
    """
    try:
        path = Path(out).resolve()
    except RuntimeError as error:  # what Python 3.11 says of links that lead in a circle
        raise ValueError(f"{out}: {error}") from error
    if not path.name or os.path.ismount(path):
        raise ValueError(f"{out}: is a mount point, onto which no folder can be moved; name one inside it as --out")
    return path


class Unit(NamedTuple):
    """A finished unit: its folder, and what its task returned."""

    folder: Path
    result: dict[str, Any]


class Stages:
    """Runs stages one after the other in a work folder; a context manager that holds the folder's lock.

    Args:
        folder: the work folder, made when absent. It stays when the block ends by an error and holds finished units,
            so that the same stages run again go on; [`finish`] removes it.
        workers: processes; with 1 everything runs in this one. What the units hold does not depend on it.
        facts: JSON-able, whatever the first stage follows from.
        preload: modules that are imported once for all workers.
    """

    def __init__(self, folder: Path, workers: int = 1, facts: Any = None, preload: Sequence[str] = ()):
        self.folder = folder
        self.workers = workers
        self._context = worker_context(preload)  # before the first pool that a task opens for itself
        self._key = _hash("", facts)
        self._count = 0
        self._pool: ProcessPoolExecutor | None = None
        self._lock: int | None = None

    def __enter__(self) -> "Stages":
        self._lock = lock_folder(self.folder)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        if self.folder.exists() and not any(self.folder.glob(f"*/*/{RESULT}")):
            self.finish()  # nothing that is worth keeping
        if self._lock is not None:
            os.close(self._lock)

    def finish(self) -> None:
        """Removes the work folder, its sub-folders first: what says that the build is complete goes last."""
        for folder in self.folder.glob("*/"):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(
        self,
        name: str,
        task: Callable[..., dict],
        units: Mapping[str, tuple],
        options: Any = None,
        here: bool = False,
    ) -> dict[str, Unit]:
        """Makes the units that are not there yet.

        Args:
            name: of the stage.
            task: `task(folder, *arguments)`, importable by name; fills `folder` (the unit's folder with `.part` behind
                its name) and returns something JSON-able. Given equal inputs it must write equal bytes.
            units: name of a unit (no dot) -> the arguments of its task.
            options: JSON-able, what this stage follows from beside the stages before it.
            here: one unit after the other in this process, as the task has workers of its own.

        Returns:
            The units in the order given.

        Raises:
            OSError: a worker process died. What a task raises is passed on; finished units stay.
        """
        self._key = _hash(self._key, [name, options])
        stage = self.folder / f"{self._count}-{name}-{self._key[:16]}"
        for other in self.folder.glob(f"{self._count}-*"):
            if other != stage:
                shutil.rmtree(other)
        self._count += 1
        stage.mkdir(exist_ok=True)
        for torn in stage.glob("*.part"):
            shutil.rmtree(torn)
        missing = {unit: arguments for unit, arguments in units.items() if not (stage / unit).exists()}
        kept = len(units) - len(missing)
        with tqdm(total=len(units), initial=kept, desc=name, unit="shard", disable=None) as bar:
            if here or self.workers == 1 or len(missing) < 2:
                for unit, arguments in missing.items():
                    _make(task, stage / unit, arguments)
                    bar.update()
            else:
                self._make_in_workers(task, {stage / unit: arguments for unit, arguments in missing.items()}, bar)
        print(f"{name}: {len(missing)} made, {kept} found finished", file=sys.stderr, flush=True)
        return {unit: Unit(stage / unit, _read(stage / unit)) for unit in units}

    def _make_in_workers(self, task: Callable[..., dict], units: Mapping[Path, tuple], bar: tqdm) -> None:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self.workers, self._context, initializer=begin_worker)
        futures: list[Future] = [self._pool.submit(_make, task, *unit) for unit in units.items()]
        try:
            for future in as_completed(futures):
                future.result()
                bar.update()
        except BrokenProcessPool as error:
            raise OSError(_DIED) from error
        finally:
            for future in futures:
                future.cancel()


def _make(task: Callable[..., dict], folder: Path, arguments: tuple) -> None:
    part = folder.with_name(folder.name + ".part")
    part.mkdir()
    result = task(part, *arguments)
    (part / RESULT).write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")
    for path in part.iterdir():  # after a power cut a finished unit must not hold empty files
        if path.is_file():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
    os.rename(part, folder)


def _read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / RESULT).read_text(encoding="utf-8"))


def _hash(before: str, facts: Any) -> str:
    return hashlib.sha256((before + json.dumps(facts, sort_keys=True)).encode()).hexdigest()


def worker_context(preload: Sequence[str] = ()) -> multiprocessing.context.BaseContext:
    """How workers are started; `preload` adds to the modules that are imported once for all of them, as long as none
    has been started."""
    # Forked straight from here a worker would inherit torch's and Arrow's threads as locks that nobody opens.
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    _preload.extend(name for name in preload if name not in _preload)
    context.set_forkserver_preload(list(_preload))
    return context


@contextmanager
def worker_pool(workers: int, preload: Sequence[str] = ()) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes that end with this one. Raises OSError where one of them dies."""
    try:
        with ProcessPoolExecutor(workers, worker_context(preload), initializer=begin_worker) as pool:
            yield pool
    except BrokenProcessPool as error:
        raise OSError(_DIED) from error


def begin_worker() -> None:
    """Initializer of a process pool: without it the workers of a killed process wait for work for ever."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    gc.freeze()  # what the server has imported is shared until the collector writes to it: 75 MB a worker


def map_in_workers(
    task: Callable[[Any], Any], items: Iterable[Any], workers: int, preload: Sequence[str] = ()
) -> Iterator[Any]:
    """`map` by worker processes, in order: the next are made while the caller works on what came.

    Args:
        workers: 1 or fewer: this process does it.
        preload: modules that the workers begin with.

    Raises:
        OSError: a worker died.
    """
    left = iter(items)
    if workers <= 1:
        yield from map(task, left)
        return
    with worker_pool(workers, preload) as pool:
        ahead: deque[Iterator[Any]] = deque()
        while True:
            while len(ahead) < 2 and (batch := list(islice(left, workers * _AT_ONCE))):
                ahead.append(pool.map(task, batch, chunksize=_AT_ONCE // 8))
            if not ahead:
                return
            yield from ahead.popleft()


def lock_folder(folder: Path) -> int | None:
    """Makes the folder and takes its lock, which `os.close` gives back; None where the system has no such locks.

    Raises:
        ValueError: another process holds it.
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
            pass  # removed by the one who had it, between our two calls
        except OSError as error:
            os.close(lock)
            raise ValueError(f"{folder}: another process is at work in it") from error
        os.close(lock)


__all__ = [
    "Stages",
    "Unit",
    "begin_worker",
    "lock_folder",
    "map_in_workers",
    "resolved_out",
    "worker_context",
    "worker_pool",
]
