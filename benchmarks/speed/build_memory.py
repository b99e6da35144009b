"""Memory and time of `rogle data build` as the number of rows grows.

    python -m benchmarks.speed.build_memory [--sizes 12000 25000 50000 100000] [--workers 1] [--image 64 128]
        [--options ...]

The source has the layout of CUHK-PEDES and is generated here, with four images an identity and two captions an image.
The images are all different and have 64 x 128 pixels with coloured blocks (about 2 kB). Real images are larger, so that
more of the work can be shared by processes. By default no captions are generated and nothing is matched (`--options
--matcher MODEL`).

Printed are the seconds of each stage and the peak memory of all processes in MB, with shared pages counted once (PSS).
The figure in brackets excludes pages of mapped files, which the system can reclaim.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from benchmarks.common.processes import child_environment

IMAGES_PER_IDENTITY = 4
STAGES = ("read", "curate", "caption", "learn", "match", "write")
# Stages that run only with an option of the build.
OPTIONAL_STAGES = {"caption": "--captioner", "learn": "--matcher", "match": "--matcher"}
WORDS = ("red", "green", "blue", "white", "black", "grey", "yellow", "brown")


@dataclass
class Cost:
    """Cost of one build.

    Attributes:
        rows: number of rows.
        seconds: duration of the build.
        stage_seconds: stage -> its duration.
        peak: stage -> peak memory in MB.
        own: stage -> peak memory in MB without the pages of mapped files.
    """

    rows: int
    seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=dict)
    peak: dict[str, float] = field(default_factory=dict)
    own: dict[str, float] = field(default_factory=dict)


def write_source(folder: Path, rows: int, size: tuple[int, int] = (64, 128)) -> Path:
    """Writes a data set in the layout of CUHK-PEDES; an eighth of the identities is in validation, another in test.

    Args:
        folder: to write to; it is returned.
        rows: number of images.
        size: width and height of the images in pixels. Default: 64 x 128.
    """
    generator, records = np.random.default_rng(0), []
    for number in tqdm(range(rows), desc="drawing", unit="image", disable=None):
        person = number // IMAGES_PER_IDENTITY + 1
        name = f"Market/{person // 100:04d}/{person:06d}_c1s1_{number:06d}_00.jpg"
        (folder / "imgs" / name).parent.mkdir(parents=True, exist_ok=True)
        blocks = Image.fromarray(generator.integers(0, 256, (8, 4, 3), dtype=np.uint8))
        blocks.resize(size, Image.Resampling.BICUBIC).save(folder / "imgs" / name)
        first, second, third = (WORDS[(number // 8**power) % 8] for power in range(3))
        captions = [
            f"A person wears a {first} jacket over a {second} shirt. The trousers are {third}, number {number}.",
            f"Somebody in {second} walks by with a {third} bag, and the shoes are {first}.",
        ]
        split = {0: "val", 1: "test"}.get(person % 8, "train")
        records.append({"split": split, "id": person, "file_path": name, "captions": captions})
    (folder / "reid_raw.json").write_text(json.dumps(records), encoding="utf-8")
    return folder


def session_memory(session: int) -> tuple[float, float]:
    """PSS, and PSS of anonymous pages, of all processes of a session, in MB."""
    total = own = 0.0
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            if os.getsid(int(process.name)) != session:
                continue
            text = (process / "smaps_rollup").read_text()
        except (OSError, ProcessLookupError):
            continue
        total += _kilobytes(text, "Pss") / 1024
        own += _kilobytes(text, "Pss_Anon") / 1024
    return total, own


def _kilobytes(text: str, name: str) -> int:
    match = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) if match else 0


def measure(source: Path, rows: int, out: Path, workers: int, options: Sequence[str]) -> Cost:
    """Builds in processes of its own and samples their memory.

    Args:
        source: folder of [`write_source`].
        rows: of the source.
        out: folder of the built data set.
        workers: processes of the build.
        options: further options of `rogle data build`.
    """
    command = [sys.executable, "-m", "modeling_rogle.cli.main", "data", "build"]
    command += ["--source", f"cuhk_pedes={source}", "--out", str(out), "--num-proc", str(workers), *options]
    cost, stage, since = Cost(rows), "", 0.0
    started = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(command, env=child_environment(), stdout=log, stderr=log, start_new_session=True)
        while child.poll() is None:
            work = out.parent / f".{out.name}.build"
            newest = max((path.name for path in work.glob("[0-9]-*")), default="")
            name = newest.split("-")[1] if newest and not out.exists() else stage or "start"
            if name != stage:
                if stage:
                    cost.stage_seconds[stage] = cost.stage_seconds.get(stage, 0.0) + time.perf_counter() - since
                stage, since = name, time.perf_counter()
            total, own = session_memory(child.pid)
            cost.peak[stage] = max(cost.peak.get(stage, 0.0), total)
            cost.own[stage] = max(cost.own.get(stage, 0.0), own)
            time.sleep(0.3)
        cost.stage_seconds[stage] = cost.stage_seconds.get(stage, 0.0) + time.perf_counter() - since
        cost.seconds = time.perf_counter() - started
        if child.returncode:
            log.seek(0)
            raise SystemExit(f"the build failed:\n{log.read().decode()[-2000:]}")
    return cost


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.build_memory", description="Memory and time of rogle data build by rows."
    )
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[12_000, 25_000, 50_000, 100_000],
        metavar="ROWS",
        help="numbers of rows (default: 12000 25000 50000 100000)",
    )
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[1], metavar="N", help="processes; one build for each (default: 1)"
    )
    parser.add_argument(
        "--image",
        type=int,
        nargs=2,
        default=(64, 128),
        metavar=("WIDTH", "HEIGHT"),
        help="size of the images in pixels (default: 64 128)",
    )
    parser.add_argument(
        "--options",
        nargs=argparse.REMAINDER,
        default=[],
        help="all further words are options of rogle data build (default: none)",
    )
    args = parser.parse_args(argv)
    given = {flag.split("=")[0] for flag in args.options}
    stages = [name for name in STAGES if name not in OPTIONAL_STAGES or OPTIONAL_STAGES[name] in given]
    columns = [f"{name}: s, MB (own)" for name in stages]
    print(f"| rows | processes | s | {' | '.join(columns)} |\n|---|---|---|{'---|' * len(stages)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            source = write_source(Path(folder, str(size)), size, tuple(args.image))
            for workers in args.workers:
                cost = measure(source, size, Path(folder, "out"), workers, args.options)
                cells = [
                    f"{cost.stage_seconds.get(name, 0):.0f}, {cost.peak.get(name, 0):.0f} ({cost.own.get(name, 0):.0f})"
                    for name in stages
                ]
                print(f"| {size:,} | {workers} | {cost.seconds:.0f} | {' | '.join(cells)} |", flush=True)
                shutil.rmtree(Path(folder, "out"))
            shutil.rmtree(source)
    return 0


if __name__ == "__main__":
    sys.exit(main())
