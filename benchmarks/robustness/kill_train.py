"""python -m benchmarks.robustness.kill_train [--kills 20] [--steps 200] [--processes 1 2] [--tiny] [--forked] [--out runs/kill]

Does a run that is killed end where it would have ended? Trains once without a break, and once killed with SIGKILL, all
its processes at a time, at random moments (in start-up, in a step, in a checkpoint), each time going on with --resume
auto. Compares weights, moments of the optimizer and test scores bit by bit, and prints a line for each kill. The long
form of tests/train/test_checkpoints.py; synthetic-tiny and a batch of 16 by default, more by the flags of train.py after --.
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

from benchmarks.common import forks  # noqa: F401  its children are killed

ROOT = Path(__file__).resolve().parents[2]
IMAGES = 48  # of the training split of synthetic-tiny


def flags(processes: int, out: Path, epochs: int, batch: int, more: Sequence[str]) -> list[str]:
    """Of train.py."""
    recipe = ["--dataset", "synthetic-tiny", "--epochs", str(epochs), "--batch-size", str(batch // processes)]
    recipe += ["--threads", "1", "--save-steps", "1", "--keep-checkpoints", "3", "--resume", "auto", "--out", str(out)]
    return [*recipe, *more]


def write_tiny_model(folder: Path) -> Path:
    """A random model of 32 hidden units, 2 layers a tower, for images of 32 x 16 pixels."""
    from transformers import CLIPImageProcessorPil

    from dataset_pvlg.loading import load_rows
    from modeling_rogle import RogleConfig, RogleModel, RogleProcessor
    from train.small_model import train_tokenizer

    words = train_tokenizer(load_rows("synthetic-tiny")[0]["train"]["caption"][:], vocab_size=600)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {name: getattr(words, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = RogleConfig(
        image_size=[32, 16],
        projection_dim=32,
        vision_config={**tower, "image_size": 32, "patch_size": 8, "projection_dim": 32},
        text_config={**tower, **ids, "vocab_size": len(words), "max_position_embeddings": 248, "projection_dim": 32},
    )
    torch.manual_seed(0)
    RogleModel(config).save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"height": 32, "width": 16}, do_center_crop=False)
    RogleProcessor(images, words).save_pretrained(folder)
    return folder


class Forked:
    """A run in a fork of this process, which has loaded the libraries already; looks like a `Popen`."""

    def __init__(self, processes: int, given: Sequence[str], log: Path):
        def run() -> None:
            os.setpgid(0, 0)
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            sys.argv = ["train.py", *given]
            from train import train

            if processes == 1:
                train.main(given)
            else:
                from accelerate import debug_launcher

                debug_launcher(train.main, (given,), num_processes=processes)

        self.process = multiprocessing.get_context("fork").Process(target=run)
        self.process.start()
        self.pid = self.process.pid
        os.setpgid(self.pid, self.pid)  # here too: whichever comes first, a kill finds the group

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int:
        self.process.join()
        return self.process.exitcode


def start(processes: int, given: Sequence[str], log: Path, forked: bool) -> subprocess.Popen | Forked:
    """`--multi_gpu` is what makes accelerate start more than one process, on a CPU as well."""
    if forked:
        return Forked(processes, given, log)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes)]
    if processes > 1:
        launch += ["--multi_gpu", "--main_process_port", str(29500 + os.getpid() % 1000)]
    given = [*launch, str(ROOT / "train" / "train.py"), *given]
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


def finish(processes: int, given: Sequence[str], log: Path, forked: bool) -> None:
    if start(processes, given, log, forked).wait():
        raise SystemExit(f"{processes} processes: train.py {' '.join(given)}\nfailed; its messages: {log}")


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
    parser.add_argument("--steps", type=int, default=200, help="rounded up to whole epochs of 48 images")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--out", type=Path, default=Path("runs/kill"))
    parser.add_argument("--tiny", action="store_true", help="a tiny model, batches of 4")
    parser.add_argument("--forked", action="store_true", help="without accelerate launch, on the CPU")
    parser.add_argument("more", nargs="*", help="flags of train.py, after --")
    args = parser.parse_args(argv)
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    batch = 4 if args.tiny else 16
    epochs = -(-args.steps // (IMAGES // batch))
    draw, failed = random.Random(args.seed), False
    if args.forked:
        os.environ |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        torch.set_num_threads(1)
    if args.tiny or args.forked:
        from train import train  # noqa: F401  once, for all forks
    if args.tiny:
        args.more += ["--model", str(write_tiny_model(out / "tiny"))]
    for processes in args.processes:
        whole, killed = (out / f"{name}-{processes}" for name in ("whole", "killed"))
        for folder in (whole, killed):
            shutil.rmtree(folder, ignore_errors=True)
        log = out / f"log-{processes}.txt"
        finish(processes, flags(processes, whole, epochs, batch, args.more), log, args.forked)
        given, kill = flags(processes, killed, epochs, batch, args.more), 0
        steps = newest_step(whole)
        print(f"{processes} processes: {steps} steps without a break; now with {args.kills} kills", flush=True)
        while kill < args.kills:
            # Spread over the run: each kill comes once a drawn step is reached, or somewhere in start-up.
            last = newest_step(killed)
            room = max(1, (steps - last) // (args.kills - kill))
            target, child = last + draw.randrange(0, room), start(processes, given, log, args.forked)
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
        finish(processes, given, log, args.forked)
        wrong = differences(whole, killed)
        failed |= bool(wrong)
        verdict = f"NOT equal in {len(wrong)}: {', '.join(wrong[:5])}" if wrong else "bit-equal"
        print(f"{processes} processes, {kill} kills: weights, moments and scores {verdict}", flush=True)
    raise SystemExit(int(failed))


if __name__ == "__main__":
    main()
