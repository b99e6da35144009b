"""python -m benchmarks.robustness.kill_build [--moments N] [--workers N] [--source NAME=PATH ...] [--image-root NAME=PATH ...]

kill -9 at N moments of a build of data, spread evenly over the units of work that it finishes undisturbed, each time a
little after the unit before. After each the same build runs again: it must end in the same bytes, and what was finished
must not be made again. Sources by default: 60 synthetic identities. A table is printed; the exit status is 1 if a byte
differs or finished work was lost.
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.common import forks  # noqa: F401  its children are killed
from dataset_pvlg.build.build import Options, Source, build, parse_sources
from dataset_pvlg.jobs.stages import RESULT


@dataclass(frozen=True)
class Kill:
    """One kill: where it struck; units of every stage that were finished then, and that going on found finished;
    whether all bytes are those of an undisturbed build."""

    where: str
    finished: dict[str, int]
    found: dict[str, int]
    same: bool


def checksums(folder: Path) -> dict[str, str]:
    """Path in the folder -> sha256 of each file."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def work_folder(out: Path) -> Path:
    return out.parent / f".{out.name}.build"


def finished_units(out: Path) -> dict[str, int]:
    """Stage -> finished units in the work folder of a build."""
    counts: dict[str, int] = {}
    for path in work_folder(out).glob(f"*/*/{RESULT}"):
        if path.parent.suffix != ".part":
            stage = path.parent.parent.name.split("-")[1]
            counts[stage] = counts.get(stage, 0) + 1
    return counts


def kill_when(out: Path, now: Callable[[], bool], run: Callable[[], object]) -> dict[str, int]:
    """Builds in a child process, kills that when it is time, and gives what was finished then."""
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            run()
        finally:
            os._exit(0)
    while not now() and os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.0005)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return finished_units(out)


def go_on(out: Path, where: str, finished: dict[str, int], run: Callable[[], object], whole: dict[str, str]) -> Kill:
    """Runs the build again and compares. whole: checksums of an undisturbed one."""
    told = io.StringIO()
    if not (out.exists() and not work_folder(out).exists()):  # else it was over when the kill came
        with contextlib.redirect_stderr(told):
            run()
    found = {
        name: int(kept) for name, kept in re.findall(r"^(\w+): \d+ made, (\d+) found", told.getvalue(), re.MULTILINE)
    }
    same = checksums(out) == whole and not work_folder(out).exists()
    return Kill(where, finished, found, same)


def lost(kill: Kill) -> bool:
    """Whether a stage that going on came to found less than was finished."""
    return not kill.same or any(kill.found[name] < kill.finished.get(name, 0) for name in kill.found)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="kill -9 at many moments of a build of data, and what is left.")
    parser.add_argument("--moments", type=int, default=20, help="kills (default 20)")
    parser.add_argument("--workers", type=int, default=1, help="processes of the build (default 1)")
    parser.add_argument("--source", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--image-root", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--matcher", metavar="MODEL")
    parser.add_argument("--shard-rows", type=int, default=20)
    args = parser.parse_args(argv)
    sources: list[Source] = parse_sources(args.source or ["synthetic=60"], args.image_root)
    with tempfile.TemporaryDirectory() as folder:

        def run(name: str = "out") -> Path:
            options = Options(matcher=args.matcher, shard_rows=args.shard_rows, file_shards=2)
            build(sources, Path(folder, name), options, args.workers)
            return Path(folder, name)

        told = io.StringIO()
        with contextlib.redirect_stderr(told):
            whole = checksums(run("whole"))
        units = sum(map(int, re.findall(r"^\w+: (\d+) made", told.getvalue(), re.MULTILINE)))
        out, kills, random = Path(folder, "out"), [], np.random.default_rng(0)
        for moment in range(args.moments):
            shutil.rmtree(out, ignore_errors=True)
            wanted, later = round(units * moment / max(1, args.moments - 1)), float(random.uniform(0, 0.3))

            def now(wanted: int = wanted, later: float = later) -> bool:
                if sum(finished_units(out).values()) < wanted:
                    return False
                time.sleep(later)
                return True

            finished = kill_when(out, now, run)
            kills.append(go_on(out, f"{wanted} of {units} units + {later:.2f} s", finished, run, whole))
    print("| killed after | finished then | found finished | bytes |\n|---|---|---|---|")
    for kill in kills:
        shown = [", ".join(f"{name} {n}" for name, n in counts.items() if n) for counts in (kill.finished, kill.found)]
        print(f"| {kill.where} | {shown[0] or '-'} | {shown[1] or '-'} | {'the same' if kill.same else 'OTHERS'} |")
    bad = sum(map(lost, kills))
    print(f"\n{len(kills)} kills, {bad} with a loss")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
