"""Worker processes that do not outlive their parent: how they are started, a pool of them, and an ordered map."""

import gc
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import Any

WORKER_DIED = "a worker process died, possibly out of memory; run the command again to resume"
_BATCH_SIZE = 256  # items for each worker in one batch of `map_in_workers`
_preloaded_modules: list[str] = []  # imported by the one fork server of this process


def worker_context(preload: Sequence[str] = ()) -> multiprocessing.context.BaseContext:
    """The multiprocessing context of all workers of this process.

    Args:
        preload (`Sequence[str]`): modules that are imported once for all workers. Modules that are added after the
            first worker has started have no effect.
    """
    # A worker that is forked from this process would inherit locks held by the threads of torch and Arrow.
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    _preloaded_modules.extend(name for name in preload if name not in _preloaded_modules)
    context.set_forkserver_preload(list(_preloaded_modules))
    return context


@contextmanager
def worker_pool(workers: int, preload: Sequence[str] = ()) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes that end together with this one.

    Args:
        workers (`int`): number of processes.
        preload (`Sequence[str]`): modules that the workers import when they start.

    Raises:
        OSError: a worker process died.
    """
    try:
        with ProcessPoolExecutor(workers, worker_context(preload), initializer=begin_worker) as pool:
            yield pool
    except BrokenProcessPool as error:
        raise OSError(WORKER_DIED) from error


def begin_worker() -> None:
    """Initializer of a process pool. Without it, the workers of a killed process would wait for work forever."""

    def exit_with_parent() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()
    gc.freeze()  # memory imported by the fork server stays shared until the collector writes to it: 75 MB a worker


def map_in_workers(
    task: Callable[[Any], Any], items: Iterable[Any], workers: int, preload: Sequence[str] = ()
) -> Iterator[Any]:
    """`map` in worker processes, in order. The workers compute ahead while the caller uses the results.

    Args:
        task (`Callable`): a function that is importable by name.
        items (`Iterable`): its arguments; at most two batches are read ahead.
        workers (`int`): number of processes; with 1 or fewer, the calling process does the work.
        preload (`Sequence[str]`): modules that the workers import when they start.

    Raises:
        OSError: a worker process died.
    """
    remaining = iter(items)
    if workers <= 1:
        yield from map(task, remaining)
        return
    with worker_pool(workers, preload) as pool:
        batches: deque[Iterator[Any]] = deque()
        while True:
            while len(batches) < 2 and (batch := list(islice(remaining, workers * _BATCH_SIZE))):
                batches.append(pool.map(task, batch, chunksize=_BATCH_SIZE // 8))
            if not batches:
                return
            yield from batches.popleft()


__all__ = ["WORKER_DIED", "begin_worker", "map_in_workers", "worker_context", "worker_pool"]
