"""python benchmarks/kill_train.py [--kills 20] [--steps 200] [--processes 1 2] [--out runs/kill]

Does a run that is killed end where it would have ended? Trains once without a break, and once killed with SIGKILL, all
its processes at a time, at random moments (in start-up, in a step, in a checkpoint), each time going on with --resume
auto. Compares weights, moments of the optimizer and test scores bit by bit, and prints a line for each kill. The long
form of tests/test_checkpoints.py; synthetic-tiny and a batch of 16 by default, more by the flags of train.py after --.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]
IMAGES = 48  # of the training split of synthetic-tiny
BATCH = 16


def command(processes: int, out: Path, epochs: int, more: Sequence[str]) -> list[str]:
    """The launch; `--multi_gpu` is what makes accelerate start more than one process, on a CPU as well."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes)]
    if processes > 1:
        launch += ["--multi_gpu", "--main_process_port", str(29500 + os.getpid() % 1000)]
    recipe = ["--dataset", "synthetic-tiny", "--epochs", str(epochs), "--batch-size", str(BATCH // processes)]
    recipe += ["--threads", "1", "--save-steps", "1", "--keep-checkpoints", "3", "--resume", "auto", "--out", str(out)]
    return [*launch, str(ROOT / "train" / "train.py"), *recipe, *more]


def start(given: Sequence[str], log: Path) -> subprocess.Popen:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    more = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if not torch.cuda.is_available():
        more["ACCELERATE_USE_CPU"] = "true"
    with open(log, "a", encoding="utf-8") as output:
        return subprocess.Popen(
            given, stdout=output, stderr=subprocess.STDOUT, env=os.environ | more, start_new_session=True
        )


def newest_step(out: Path) -> int:
    return max((int(path.name[5:]) for path in (out / "checkpoints").glob("step-*")), default=0)


def finish(given: Sequence[str], out: Path, log: Path) -> None:
    if start(given, log).wait():
        raise SystemExit(f"{' '.join(given)}\nfailed; its messages: {log}")


def differences(one: Path, two: Path) -> list[str]:
    """Names of the tensors and scores that are not the same to the last bit."""
    found = []
    step = newest_step(one)
    if newest_step(two) != step:
        return [f"last step {step} and {newest_step(two)}"]
    for name in ("model", "optimizer"):
        files = [load_file(run / "checkpoints" / f"step-{step:08d}" / f"{name}.safetensors") for run in (one, two)]
        found += [key for key, value in files[0].items() if not torch.equal(value, files[1][key])]
    results = [json.loads((run / "results.json").read_text())["results"] for run in (one, two)]
    return found + [name for name in results[0] if results[0][name] != results[1][name]]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200, help="rounded up to whole epochs of 3 steps")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--out", type=Path, default=Path("runs/kill"))
    parser.add_argument("more", nargs="*", help="flags of train.py, after --")
    args = parser.parse_args(argv)
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    epochs = -(-args.steps // (IMAGES // BATCH))
    draw, failed = random.Random(args.seed), False
    for processes in args.processes:
        whole, killed = (out / f"{name}-{processes}" for name in ("whole", "killed"))
        for folder in (whole, killed):
            shutil.rmtree(folder, ignore_errors=True)
        log = out / f"log-{processes}.txt"
        finish(command(processes, whole, epochs, args.more), whole, log)
        given, kill = command(processes, killed, epochs, args.more), 0
        print(f"{processes} processes: {newest_step(whole)} steps without a break; now with {args.kills} kills")
        while kill < args.kills:
            # Spread over the run: each kill comes once a drawn step is reached, or somewhere in start-up.
            last = newest_step(killed)
            room = max(1, (newest_step(whole) - last) // (args.kills - kill))
            target, child = last + draw.randrange(0, room), start(given, log)
            until = time.monotonic() + (draw.uniform(0, 30) if target == last else 3600)
            while child.poll() is None and newest_step(killed) <= target and time.monotonic() < until:
                time.sleep(0.002)
            time.sleep(draw.uniform(0, 0.5))
            if child.poll() is not None:
                break
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            kill += 1
            print(f"  kill {kill}: newest checkpoint {newest_step(killed)} (was {last})", flush=True)
        finish(given, killed, log)
        wrong = differences(whole, killed)
        failed |= bool(wrong)
        verdict = f"NOT equal in {len(wrong)}: {', '.join(wrong[:5])}" if wrong else "bit-equal"
        print(f"{processes} processes, {kill} kills: weights, moments and scores {verdict}", flush=True)
    raise SystemExit(int(failed))


if __name__ == "__main__":
    main()
