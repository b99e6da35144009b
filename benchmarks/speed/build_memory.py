"""python -m benchmarks.speed.build_memory [--sizes 12000 25000 50000 100000] [--workers 1] [--image 64 128] [--options ...]

Memory and time of `rogle data build` over the number of rows, every process of it counted. The rows are a
set in the layout of CUHK-PEDES that is drawn here: images of 64 x 128 pixels, every one different (coloured blocks,
about 2 kB; real ones are larger, and so is the share of the work that processes can take over), four an identity, two
captions each. Nothing is captioned or matched unless --options say so (`--options --matcher MODEL`). Printed: for each
stage its seconds and the peak of the processes' memory in MB, shared pages counted once (PSS), and how much of it is
not pages of mapped files, which the system takes back when it wants to.
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

IMAGES = 4  # of an identity
STAGES = ("read", "curate", "caption", "learn", "match", "write")
WORDS = ("red", "green", "blue", "white", "black", "grey", "yellow", "brown")
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Cost:
    """Of one build: seconds, and of each stage its seconds and peak megabytes, all and not of mapped files."""

    rows: int
    seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=dict)
    peak: dict[str, float] = field(default_factory=dict)
    own: dict[str, float] = field(default_factory=dict)


def draw_set(folder: Path, rows: int, size: tuple[int, int] = (64, 128)) -> Path:
    """A set of `rows` images of that width and height in CUHK-PEDES's layout; an eighth of the people each in
    validation and test."""
    random, records = np.random.default_rng(0), []
    for number in tqdm(range(rows), desc="drawing", unit="image", disable=None):
        person = number // IMAGES + 1
        name = f"Market/{person // 100:04d}/{person:06d}_c1s1_{number:06d}_00.jpg"
        (folder / "imgs" / name).parent.mkdir(parents=True, exist_ok=True)
        blocks = Image.fromarray(random.integers(0, 256, (8, 4, 3), dtype=np.uint8))
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


def memory_of(session: int) -> tuple[float, float]:
    """(PSS, PSS of anonymous pages) of all processes of a session together, megabytes."""
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
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) if found else 0


def measure(source: Path, rows: int, out: Path, workers: int, options: Sequence[str]) -> Cost:
    """Builds once in processes of their own and looks on."""
    command = [sys.executable, "-m", "modeling_rogle.cli.main", "data", "build"]
    command += ["--source", f"cuhk_pedes={source}", "--out", str(out), "--num-proc", str(workers), *options]
    cost, stage, since = Cost(rows), "", 0.0
    started = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        while child.poll() is None:
            work = out.parent / f".{out.name}.build"
            now = max((path.name for path in work.glob("[0-9]-*")), default="")
            name = now.split("-")[1] if now and not out.exists() else stage or "start"
            if name != stage:
                if stage:
                    cost.stage_seconds[stage] = cost.stage_seconds.get(stage, 0.0) + time.perf_counter() - since
                stage, since = name, time.perf_counter()
            total, own = memory_of(child.pid)
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
    parser = argparse.ArgumentParser(description="Memory and time of a build of data over its rows.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[12_000, 25_000, 50_000, 100_000], metavar="ROWS")
    parser.add_argument("--workers", type=int, nargs="+", default=[1], metavar="N", help="processes, one run for each")
    parser.add_argument("--image", type=int, nargs=2, default=(64, 128), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="the rest goes to the build")
    args = parser.parse_args(argv)
    done = {"caption": "--captioner", "learn": "--matcher", "match": "--matcher"}
    stages = [
        name for name in STAGES if name not in done or any(flag.split("=")[0] == done[name] for flag in args.options)
    ]
    columns = [f"{name}: s, MB (own)" for name in stages]
    print(f"| rows | processes | s | {' | '.join(columns)} |\n|---|---|---|{'---|' * len(stages)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            source = draw_set(Path(folder, str(size)), size, tuple(args.image))
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
