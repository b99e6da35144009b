"""Worker processes: started from a server, ordered results, and one clear error if a worker dies."""

import os
import signal
from pathlib import Path

import pytest

from dataset_pvlg.jobs.workers import map_in_workers, worker_pool


def die(folder: Path) -> dict:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def test_a_dead_worker_is_an_error_and_workers_are_not_forked_from_this_process(tmp_path):
    with worker_pool(2) as pool:
        assert pool.submit(os.getppid).result() != os.getpid()  # forked from a server without threads
    with pytest.raises(OSError, match="a worker process died"), worker_pool(2) as pool:
        list(pool.map(die, [tmp_path]))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_map_by_workers_keeps_the_order_and_does_not_run_far_ahead(workers: int):
    taken = []

    def items():
        for n in range(2000):
            taken.append(n)
            yield n

    results = map_in_workers(abs, items(), workers)
    assert next(results) == 0 and len(taken) <= 2 * workers * 256
    assert list(results) == list(range(1, 2000))
