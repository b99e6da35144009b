"""A build of P-VLG that is killed with SIGKILL and started again, against an uninterrupted build.

    python -m benchmarks.robustness.kill_build [--moments N] [--workers N] [--source NAME=PATH ...]
        [--image-root NAME=PATH ...]

The N moments are spread evenly over the units of work of an uninterrupted build, each a little after a unit is
finished. After each kill the same build runs again. It must end in the same bytes, and finished units must not be
computed again. A table is printed. The exit status is 1 if a byte differs or finished work was lost.
"""

import argparse
import contextlib
import hashlib
import io
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.common import forks  # noqa: F401 (children are killed)
from dataset_pvlg.build.build import Options, Source, build, parse_sources
from dataset_pvlg.jobs.stages import RESULT

Units = dict[str, int]  # stage -> number of units


@dataclass(frozen=True)
class Kill:
    """Result of one kill.

    Attributes:
        moment: of the kill, in words.
        finished: units of each stage that were finished at the kill.
        reused: units of each stage that the second run found finished.
        same: whether the second run ended in the bytes of an uninterrupted build.
    """

    moment: str
    finished: Units
    reused: Units
    same: bool

    @property
    def lost(self) -> bool:
        """Whether a byte differs, or a stage of the second run found fewer units than were finished."""
        return not self.same or any(self.reused[stage] < self.finished.get(stage, 0) for stage in self.reused)


def checksums(folder: Path) -> dict[str, str]:
    """Path in the folder -> SHA-256 of each file."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def work_folder(out: Path) -> Path:
    return out.parent / f".{out.name}.build"


def finished_units(out: Path) -> Units:
    """Finished units of each stage in the work folder of a build."""
    counts: Units = {}
    for path in work_folder(out).glob(f"*/*/{RESULT}"):
        if path.parent.suffix != ".part":
            stage = path.parent.parent.name.split("-")[1]
            counts[stage] = counts.get(stage, 0) + 1
    return counts


def kill_when(out: Path, is_due: Callable[[], bool], run: Callable[[], object]) -> Units:
    """Builds in a child process, kills it as soon as `is_due()`, and returns the units that were finished then."""
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            run()
        finally:
            os._exit(0)
    while not is_due() and os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.0005)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return finished_units(out)


def resume(out: Path, moment: str, finished: Units, run: Callable[[], object], expected: Mapping[str, str]) -> Kill:
    """Runs a killed build again and compares its result.

    Args:
        out: folder of the build.
        moment: of the kill, in words.
        finished: units that were finished at the kill.
        run: the build.
        expected: checksums of an uninterrupted build.
    """
    messages = io.StringIO()
    if not (out.exists() and not work_folder(out).exists()):  # otherwise the build was complete before the kill
        with contextlib.redirect_stderr(messages):
            run()
    counts = re.findall(r"^(\w+): \d+ made, (\d+) found", messages.getvalue(), re.MULTILINE)
    same = checksums(out) == expected and not work_folder(out).exists()
    return Kill(moment, finished, {stage: int(count) for stage, count in counts}, same)


def run_kills(moments: int, run: Callable[[Path], object], folder: Path) -> list[Kill]:
    """Kills a build at `moments` moments.

    Args:
        moments: number of kills.
        run: builds into a folder.
        folder: for the builds.
    """
    messages = io.StringIO()
    with contextlib.redirect_stderr(messages):
        run(folder / "uninterrupted")
    expected = checksums(folder / "uninterrupted")
    units = sum(map(int, re.findall(r"^\w+: (\d+) made", messages.getvalue(), re.MULTILINE)))
    out, kills, generator = folder / "out", [], np.random.default_rng(0)
    for moment in range(moments):
        shutil.rmtree(out, ignore_errors=True)
        wanted, delay = round(units * moment / max(1, moments - 1)), float(generator.uniform(0, 0.3))

        def is_due(wanted: int = wanted, delay: float = delay) -> bool:
            if sum(finished_units(out).values()) < wanted:
                return False
            time.sleep(delay)
            return True

        finished = kill_when(out, is_due, lambda: run(out))
        kills.append(resume(out, f"{wanted} of {units} units + {delay:.2f} s", finished, lambda: run(out), expected))
    return kills


def markdown(kills: Sequence[Kill]) -> str:
    lines = ["| killed after | finished then | found finished | bytes |\n|---|---|---|---|"]
    for kill in kills:
        shown = [", ".join(f"{name} {n}" for name, n in counts.items() if n) for counts in (kill.finished, kill.reused)]
        same = "the same" if kill.same else "DIFFERENT"
        lines.append(f"| {kill.moment} | {shown[0] or '-'} | {shown[1] or '-'} | {same} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.robustness.kill_build", description="Kill a build at many moments and resume it."
    )
    parser.add_argument("--moments", type=int, default=20, help="number of kills (default: 20)")
    parser.add_argument("--workers", type=int, default=1, help="processes of the build (default: 1)")
    parser.add_argument(
        "--source", action="append", default=[], metavar="NAME=PATH", help="source to build (default: synthetic=60)"
    )
    parser.add_argument(
        "--image-root", action="append", default=[], metavar="NAME=PATH", help="folder of a source's images"
    )
    parser.add_argument("--matcher", metavar="MODEL", help="model that mines regions (default: none)")
    parser.add_argument("--shard-rows", type=int, default=20, help="rows of a unit of work (default: 20)")
    args = parser.parse_args(argv)
    sources: list[Source] = parse_sources(args.source or ["synthetic=60"], args.image_root)
    options = Options(matcher=args.matcher, shard_rows=args.shard_rows, file_shards=2)
    with tempfile.TemporaryDirectory() as folder:
        kills = run_kills(args.moments, lambda out: build(sources, out, options, args.workers), Path(folder))
    print(markdown(kills))
    lost = sum(kill.lost for kill in kills)
    print(f"\n{len(kills)} kills, {lost} with a loss")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
