"""What may go wrong in a long run: steps without a number, images that cannot be read, workers and runs killed."""

import math
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import torch
from torch.utils.data import DataLoader

from train.checkpoints import write_json

WORKER_RESTARTS = 3


class BadSteps:
    """Counts steps whose loss or gradient is NaN or infinite; they are left out, and too many end the run.

    Args:
        path: JSON file with the image ids and what was found, written at every one of them.
        progress: holds `bad_steps`, `bad_images` and `step`, and is kept with the checkpoints.
        limit: so many end the run.
    """

    def __init__(self, path: Path, progress: dict, limit: int, write: bool = True):
        self.path, self.progress, self.limit, self.write = path, progress, limit, write

    def check(self, what: str, value: float, image_ids: Callable[[], list[str]]) -> bool:
        """Whether the step may go on.

        Args:
            what: `"loss"` or `"gradient"`.
            value: the loss, or the norm of the gradient.
            image_ids: gives those of the global batch; asked only if they are wanted.

        Raises:
            SystemExit: that was the last one allowed.
        """
        if math.isfinite(value):
            return True
        ids = image_ids()
        self.progress["bad_steps"] += 1
        self.progress["bad_images"] += ids
        if self.write:
            last = {"step": self.progress["step"] + 1, what: str(value)}
            write_json(self.path, {"image_ids": self.progress["bad_images"], "last": last})
        if self.progress["bad_steps"] >= self.limit:
            raise SystemExit(f"{what} is {value} in {self.progress['bad_steps']} steps: {self.path}")
        return False


class BadImages:
    """Counts images that could not be read, whose places other rows have taken; too many end the run."""

    def __init__(self, path: Path, limit: int, say: Callable[[str], None]):
        self.path, self.limit, self.say = path, limit, say
        self.faults: dict[str, str] = {}

    def note(self, faults: dict[str, str]) -> None:
        """`faults`: message of each image id, of one batch.

        Raises:
            SystemExit: more different images than allowed.
        """
        new = {name: fault for name, fault in faults.items() if name not in self.faults}
        if not new:
            return
        self.faults |= new
        write_json(self.path, self.faults)
        for name, fault in new.items():
            self.say(f"{name} cannot be read, the next image takes its place: {fault}")
        if len(self.faults) >= self.limit:
            raise SystemExit(f"{len(self.faults)} images cannot be read: {self.path}")


class AskedToStop:
    """While it is entered, SIGTERM (a cluster that wants its machine back) sets a flag instead of ending the process.

    Args:
        tell: called when the signal comes.
    """

    def __init__(self, tell: Callable[[], None]):
        self.tell = tell

    def __enter__(self) -> "AskedToStop":
        def handle(number: int, frame: FrameType | None) -> None:
            self.tell()

        self.before = signal.signal(signal.SIGTERM, handle)
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGTERM, self.before)


def batches(loader: DataLoader, enter: Callable[[int], None], start: int, say: Callable[[str], None]) -> Iterator[dict]:
    """The batches of an epoch; a killed data worker costs a restart of the loader, no batch.

    Args:
        loader: its sampler can be entered at any step.
        enter: sets sampler and data to this epoch, from the step given.
        start: steps already done.

    Raises:
        RuntimeError: workers died more than three times.
    """
    step, restarts = start, 0
    while True:
        enter(step)
        try:
            found = iter(loader)
            # torch's handler raises wherever the main process is, in the middle of a step too; without it a death is
            # found while waiting for the next batch.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for batch in found:
                yield batch
                step += 1
            return
        except (RuntimeError, ConnectionError, EOFError) as error:
            # A worker may also die while its batch is fetched from it, and what breaks then is the connection.
            lost = not isinstance(error, RuntimeError)
            if not lost and "DataLoader worker" not in str(error):
                raise
            why = " ".join(str(error).split()) or type(error).__name__  # an EOFError has no words
            if restarts == WORKER_RESTARTS:
                raise RuntimeError(f"a DataLoader worker was killed {restarts + 1} times: {why}") from error
            restarts += 1
            say(f"the data workers are started again ({restarts} of {WORKER_RESTARTS}): {why}")


def to_device(batch: dict, device: torch.device) -> dict:
    """Tensors of a batch on the device, without waiting where their memory is pinned."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }


__all__ = ["AskedToStop", "BadImages", "BadSteps", "batches", "to_device"]
