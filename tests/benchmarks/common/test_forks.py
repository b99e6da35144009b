"""benchmarks/common/forks.py: what a killed child held of the progress bars."""

import os
import signal

from tqdm import tqdm


def test_a_child_killed_while_it_draws_does_not_stop_the_parents_bars():
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        with tqdm.get_lock():
            os.write(tell, b"x")
            signal.pause()
    os.read(ready, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert tqdm.get_lock().acquire(timeout=10), "the killed child's for ever"
    tqdm.get_lock().release()
