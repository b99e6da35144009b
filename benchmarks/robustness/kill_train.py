"""Training that is killed with SIGKILL and resumed, against an uninterrupted run: do both end in the same bits?

    python -m benchmarks.robustness.kill_train [--kills 20] [--steps 200] [--processes 1 2] [--tiny] [--forked]
        [--out runs/kill]

Trains once without a break, and once with kills of all processes at random moments (in start-up, in a step, in a
checkpoint), each followed by --resume auto. Weights, moments of the optimizer and test scores are compared bit by bit.
A line is printed for each kill. The data set is synthetic-tiny and the batch has 16 images; words after -- are flags of
train.py. This is the long form of tests/train/test_checkpoints.py.
"""

import argparse
import json
import multiprocessing
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
from transformers import CLIPImageProcessorPil

from benchmarks.common import forks  # noqa: F401 (children are killed)
from benchmarks.common.processes import child_environment
from benchmarks.common.training_runs import TRAIN
from dataset_pvlg.loading import load_rows
from modeling_rogle import RogleConfig, RogleModel, RogleProcessor
from train import train
from train.small_model import train_tokenizer

IMAGES = 48  # of the training split of synthetic-tiny


def train_flags(processes: int, out: Path, epochs: int, batch: int, more: Sequence[str]) -> list[str]:
    """Flags of train.py for a run."""
    recipe = ["--dataset", "synthetic-tiny", "--epochs", str(epochs), "--batch-size", str(batch // processes)]
    recipe += ["--threads", "1", "--save-steps", "1", "--keep-checkpoints", "3", "--resume", "auto", "--out", str(out)]
    return [*recipe, *more]


def write_tiny_model(folder: Path) -> Path:
    """Writes a random model with 32 hidden units and 2 layers a tower, for images of 32 x 16 pixels."""
    tokenizer = train_tokenizer(load_rows("synthetic-tiny")[0]["train"]["caption"][:], vocab_size=600)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text_config = {**tower, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": 248, "projection_dim": 32}
    config = RogleConfig(
        image_size=[32, 16],
        projection_dim=32,
        vision_config={**tower, "image_size": 32, "patch_size": 8, "projection_dim": 32},
        text_config=text_config,
    )
    torch.manual_seed(0)
    RogleModel(config).save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"height": 32, "width": 16}, do_center_crop=False)
    RogleProcessor(images, tokenizer).save_pretrained(folder)
    return folder


class ForkedRun:
    """A run in a fork of this process, which has imported the libraries. It has the methods of `Popen` used here.

    Args:
        processes: of the run.
        flags: of train.py.
        log: file for its messages.
    """

    def __init__(self, processes: int, flags: Sequence[str], log: Path):
        def run() -> None:
            os.setpgid(0, 0)
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            sys.argv = ["train.py", *flags]
            if processes == 1:
                train.main(flags)
            else:
                from accelerate import debug_launcher

                debug_launcher(train.main, (flags,), num_processes=processes)

        self.process = multiprocessing.get_context("fork").Process(target=run)
        self.process.start()
        self.pid = self.process.pid
        os.setpgid(self.pid, self.pid)  # also here, so that a kill finds the group in any case

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int:
        self.process.join()
        return self.process.exitcode


def start(processes: int, flags: Sequence[str], log: Path, forked: bool) -> subprocess.Popen | ForkedRun:
    """Starts a run, by `accelerate launch` unless `forked`."""
    if forked:
        return ForkedRun(processes, flags, log)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes)]
    if processes > 1:  # --multi_gpu makes accelerate start more than one process, on a CPU too
        launch += ["--multi_gpu", "--main_process_port", str(29500 + os.getpid() % 1000)]
    variables = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if not torch.cuda.is_available():
        variables["ACCELERATE_USE_CPU"] = "true"
    command, environment = [*launch, *TRAIN[1:], *flags], child_environment(**variables)
    with open(log, "a", encoding="utf-8") as output:
        return subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )


def newest_step(out: Path) -> int:
    return max((int(path.name[5:]) for path in (out / "checkpoints").glob("step-*")), default=0)


def finish(processes: int, flags: Sequence[str], log: Path, forked: bool) -> None:
    """Runs to the end."""
    if start(processes, flags, log, forked).wait():
        raise SystemExit(f"{processes} processes: train.py {' '.join(flags)}\nfailed; log: {log}")


def train_with_kills(
    processes: int, flags: Sequence[str], out: Path, steps: int, args: argparse.Namespace, log: Path
) -> int:
    """Trains a run to the end, kills it on the way, and returns the number of kills.

    Each kill comes when a random step is reached, or at a random moment of the start-up.

    Args:
        processes: of the run.
        flags: of train.py.
        out: folder of the run.
        steps: of an uninterrupted run.
        args: arguments of this program.
        log: file for the messages.
    """
    kills = 0
    while kills < args.kills:
        last = newest_step(out)
        interval = max(1, (steps - last) // (args.kills - kills))
        target, child = last + args.generator.randrange(0, interval), start(processes, flags, log, args.forked)
        until = time.monotonic() + (args.generator.uniform(0, 30) if target == last else 3600)
        while child.poll() is None and newest_step(out) <= target and time.monotonic() < until:
            time.sleep(0.002)
        time.sleep(args.generator.uniform(0, 0.5))
        if child.poll() is not None:
            break
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        kills += 1
        print(f"  kill {kills}: newest checkpoint {newest_step(out)} (was {last})", flush=True)
    finish(processes, flags, log, args.forked)
    return kills


def differences(run: Path, other: Path) -> list[str]:
    """Names of the tensors and scores that differ in any bit."""
    step = newest_step(run)
    if newest_step(other) != step:
        return [f"last step {step} and {newest_step(other)}"]
    names = []
    for file in ("model", "optimizer"):
        tensors = [load_file(out / "checkpoints" / f"step-{step:08d}" / f"{file}.safetensors") for out in (run, other)]
        names += [key for key, value in tensors[0].items() if not torch.equal(value, tensors[1][key])]
    results = [json.loads((out / "results.json").read_text())["results"] for out in (run, other)]
    return names + [name for name in results[0] if results[0][name] != results[1][name]]


def compare(processes: int, out: Path, epochs: int, batch: int, args: argparse.Namespace) -> bool:
    """Trains with and without kills, prints the comparison, and returns whether both runs are equal."""
    runs = {name: out / f"{name}-{processes}" for name in ("uninterrupted", "killed")}
    for folder in runs.values():
        shutil.rmtree(folder, ignore_errors=True)
    log = out / f"log-{processes}.txt"
    finish(processes, train_flags(processes, runs["uninterrupted"], epochs, batch, args.more), log, args.forked)
    steps = newest_step(runs["uninterrupted"])
    print(f"{processes} processes: {steps} steps without a break; now with {args.kills} kills", flush=True)
    flags = train_flags(processes, runs["killed"], epochs, batch, args.more)
    kills = train_with_kills(processes, flags, runs["killed"], steps, args, log)
    unequal = differences(*runs.values())
    verdict = f"NOT equal in {len(unequal)}: {', '.join(unequal[:5])}" if unequal else "bit-equal"
    print(f"{processes} processes, {kills} kills: weights, moments and scores {verdict}", flush=True)
    return not unequal


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.robustness.kill_train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=20, help="number of kills (default: 20)")
    parser.add_argument(
        "--steps", type=int, default=200, help="steps of a run, rounded up to epochs of 48 images (default: 200)"
    )
    parser.add_argument(
        "--processes", type=int, nargs="+", default=[1, 2], help="processes; one comparison for each (default: 1 2)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments of the kills (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("runs/kill"), help="folder (default: runs/kill)")
    parser.add_argument("--tiny", action="store_true", help="use a tiny model and batches of 4 images (default: off)")
    parser.add_argument(
        "--forked", action="store_true", help="fork instead of accelerate launch, on the CPU (default: off)"
    )
    parser.add_argument("more", nargs="*", help="flags of train.py, after --")
    args = parser.parse_args(argv)
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    batch = 4 if args.tiny else 16
    epochs = -(-args.steps // (IMAGES // batch))
    args.generator = random.Random(args.seed)
    if args.forked:
        os.environ |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        torch.set_num_threads(1)
    if args.tiny:
        args.more += ["--model", str(write_tiny_model(out / "tiny"))]
    equal = [compare(processes, out, epochs, batch, args) for processes in args.processes]
    raise SystemExit(int(not all(equal)))


if __name__ == "__main__":
    main()
