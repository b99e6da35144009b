"""Runs of train.py in forked processes, so that nothing is imported twice."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from accelerate import debug_launcher
from accelerate.state import AcceleratorState, GradientState, PartialState


def fresh(function: Callable, *args: object) -> None:
    """Calls a function as if Accelerate had not been used in this process."""
    AcceleratorState._reset_state()
    PartialState._reset_state()
    GradientState._reset_state()
    function(*args)


def in_processes(count: int, function: Callable, *args: object) -> None:
    """Calls a function in `count` processes connected by gloo; an error in one ends all and is raised here."""
    debug_launcher(fresh, (function, *args), num_processes=count)


class Run:
    """`function(*args)` in the background.

    Args:
        output: file of the printed output.
        function: called with `args` in each process.
        processes (`int`, defaults to 1): number of processes.
    """

    def __init__(self, output: Path, function: Callable, *args: object, processes: int = 1):
        self.output = output

        def call() -> None:
            os.setsid()
            handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)  # instead of pytest's
            if processes == 1:
                fresh(function, *args)
            else:
                in_processes(processes, function, *args)

        self.process = multiprocessing.get_context("fork").Process(target=call)
        self.process.start()

    def wait_for(self, condition: Callable[[], object], seconds: float = 300) -> None:
        """Waits until a condition holds or the run has ended."""
        until = time.monotonic() + seconds
        while not condition() and self.process.is_alive():
            assert time.monotonic() < until, self.output.read_text()[-2000:]
            time.sleep(0.005)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Kills all of its processes at once."""
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass
        self.process.join()

    def join(self) -> int:
        """Waits for its end and returns the exit code."""
        self.process.join()
        return self.process.exitcode


def newest_step(run: Path) -> int:
    """The newest step of its checkpoints; 0 without any."""
    return max((int(path.name[5:]) for path in (run / "checkpoints").glob("step-*")), default=0)
