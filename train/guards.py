"""Faults that a long run survives: NaN and infinite values, unreadable images, killed data workers, SIGTERM."""

import math
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from torch.utils.data import DataLoader

from train.checkpoints import Progress, write_json
from train.data.batch import Batch

WORKER_RESTARTS = 3


class BadSteps:
    """Counts steps whose loss or gradient is NaN or infinite. Such steps are skipped; too many end the run.

    Args:
        path: JSON file of the image ids and the last value, written at each of these steps.
        progress: counts them, so that they are part of the checkpoints.
        limit: number of such steps that ends the run.
        write (`bool`, defaults to `True`): write the file in this process.
    """

    def __init__(self, path: Path, progress: Progress, limit: int, write: bool = True):
        self.path, self.progress, self.limit, self.write = path, progress, limit, write

    def check(self, what: str, value: float, image_ids: Callable[[], list[str]]) -> bool:
        """Whether a value is finite.

        Args:
            what: `"loss"` or `"gradient"`.
            value: the loss, or the norm of the gradient.
            image_ids: returns the image ids of the global batch; called only if the value is not finite.

        Raises:
            SystemExit: the limit is reached.
        """
        if math.isfinite(value):
            return True
        ids = image_ids()
        self.progress.bad_steps += 1
        self.progress.bad_images += ids
        if self.write:
            last = {"step": self.progress.step + 1, what: str(value)}
            write_json(self.path, {"image_ids": self.progress.bad_images, "last": last})
        if self.progress.bad_steps >= self.limit:
            raise SystemExit(f"{what} is {value} in {self.progress.bad_steps} steps: {self.path}")
        return False


class BadImages:
    """Counts unreadable images, which other rows have replaced. Too many end the run.

    Args:
        path: JSON file of the error message of each image.
        limit: number of images that ends the run.
        log: reports each image.
    """

    def __init__(self, path: Path, limit: int, log: Callable[[str], None]):
        self.path, self.limit, self.log = path, limit, log
        self.faults: dict[str, str] = {}
        self.metadata: set[str] = set()

    def report_metadata(self, names: list[str]) -> None:
        """Logs the images of a batch whose metadata cannot be read. Their pixels are used, so they do not count."""
        for name in dict.fromkeys(names):
            if name not in self.metadata:
                self.metadata.add(name)
                self.log(
                    f"{name}: metadata that cannot be read were ignored, the pixels are used; "
                    f"image {len(self.metadata)} of this kind"
                )

    def report(self, faults: dict[str, str]) -> None:
        """Adds the unreadable images of a batch.

        Args:
            faults: error message by image id.

        Raises:
            SystemExit: the limit is reached.
        """
        new = {name: fault for name, fault in faults.items() if name not in self.faults}
        if not new:
            return
        self.faults |= new
        write_json(self.path, self.faults)
        for name, fault in new.items():
            self.log(f"{name} cannot be read and is replaced by the next image: {fault}")
        if len(self.faults) >= self.limit:
            raise SystemExit(f"{len(self.faults)} images cannot be read: {self.path}")


class StopSignal:
    """Context in which SIGTERM (sent by a cluster before it takes the machine) calls a function and does not end the
    process.

    Args:
        on_signal: called when the signal arrives.
    """

    def __init__(self, on_signal: Callable[[], None]):
        self.on_signal = on_signal

    def __enter__(self) -> "StopSignal":
        def handle(number: int, frame: FrameType | None) -> None:
            self.on_signal()

        self.previous = signal.signal(signal.SIGTERM, handle)
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGTERM, self.previous)


def batches(
    loader: DataLoader, enter: Callable[[int], None], start: int, log: Callable[[str], None]
) -> Iterator[Batch]:
    """The batches of an epoch. If a data worker is killed, the loader is restarted and no batch is lost.

    Args:
        loader: its sampler can be entered at any step.
        enter: sets sampler and data to this epoch, from a given step on.
        start: number of steps already done.
        log: reports each restart.

    Raises:
        RuntimeError: workers were killed more than three times.
    """
    step, restarts = start, 0
    while True:
        enter(step)
        try:
            iterator = iter(loader)
            # torch's handler would raise anywhere in the main process, even within a step. Without it, a dead worker
            # is noticed while the next batch is awaited.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for batch in iterator:
                yield batch
                step += 1
            return
        except (RuntimeError, ConnectionError, EOFError) as error:
            # If a worker dies while its batch is fetched, the connection breaks.
            connection_lost = not isinstance(error, RuntimeError)
            if not connection_lost and "DataLoader worker" not in str(error):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__  # an EOFError has no message
            if restarts == WORKER_RESTARTS:
                raise RuntimeError(f"a DataLoader worker was killed {restarts + 1} times: {reason}") from error
            restarts += 1
            log(f"the data workers are started again ({restarts} of {WORKER_RESTARTS}): {reason}")


__all__ = ["BadImages", "BadSteps", "StopSignal", "batches"]
