"""Forked children that may be killed at any moment: importing this keeps their progress bars apart from the parent's.

tqdm's own lock is a semaphore that a fork shares. A child that is killed while it draws its bar keeps it for ever, and
the parent's next bar waits for ever. Here it is a lock of threads, and a child gets a new one.
"""

import os
import threading

from tqdm import tqdm


def _own_lock() -> None:
    tqdm.set_lock(threading.RLock())


_own_lock()
os.register_at_fork(after_in_child=_own_lock)
