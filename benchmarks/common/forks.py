"""Importing this module makes progress bars safe in a process that forks children and kills them.

The lock of tqdm is a semaphore that parent and child share. A child that is killed while it draws a bar never releases
it, and the next bar of the parent waits for ever. This module replaces it by a thread lock, and each child gets a new
one.
"""

import os
import threading

from tqdm import tqdm


def _set_own_lock() -> None:
    tqdm.set_lock(threading.RLock())


_set_own_lock()
os.register_at_fork(after_in_child=_set_own_lock)
