"""benchmarks/common/forks.py: a killed child does not block the progress bars of its parent."""

import os
import signal

from tqdm import tqdm


def test_a_child_killed_while_it_draws_does_not_block_the_parents_bars():
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with tqdm.get_lock():
            os.write(writer, b"x")
            signal.pause()
    os.read(reader, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert tqdm.get_lock().acquire(timeout=10), "the killed child still holds the lock"
    tqdm.get_lock().release()
