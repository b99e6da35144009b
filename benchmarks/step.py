"""python benchmarks/step.py [--size small|vitb16|tiny] [--rounds N]

What the local branch adds to a training step, and how both compare with plain transformers: CPU seconds of forward,
losses, backward and AdamW on the same random batch, the variants taking turns in one process so that whatever else
the machine does meets all of them; peak memory of each in a process of its own. Ratios are what to read: seconds are
this machine's.

    rogle, local off   RogleModel, captions only
    rogle, local on    the same with --pairs regions and sentences an image, contrastive and token-similarity losses
    clip, padded       CLIPModel with its own contrastive loss, interpolate_pos_encoding for the rectangle, every
                       caption padded to the model's limit, as published training code does
    clip, longest      the same, padded to the batch's longest caption

Caption lengths: 60 % long, uniform in 85-155 tokens, the others in 20-40; sentences 8-25.
"""

import argparse
import json
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel

from modeling_rogle import RogleConfig, RogleModel

VARIANTS = ("rogle, local off", "rogle, local on", "clip, padded", "clip, longest")
# height and width in px; patch; vision and text (width, layers, heads); projection; words; text positions.
SIZES = {
    "tiny": ((32, 16), 8, (32, 2, 2), (32, 2, 2), 32, 600, 160),
    "small": ((192, 64), 16, (128, 4, 4), (128, 2, 4), 128, 2048, 248),  # train/small_model.py
    "vitb16": ((384, 128), 16, (768, 12, 12), (512, 12, 8), 512, 49408, 248),
}
START, END = 0, 1


def configurations(size: str) -> tuple[RogleConfig, CLIPConfig]:
    """The same two towers as a Rogle and as a CLIP configuration; the CLIP's position table is the square one."""
    image_size, patch, vision, text, dimension, words, positions = SIZES[size]

    def tower(width: int, layers: int, heads: int) -> dict:
        return {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "projection_dim": dimension,
        }

    towers = {
        "projection_dim": dimension,
        "vision_config": {**tower(*vision), "image_size": 14 * patch, "patch_size": patch},
        "text_config": {
            **tower(*text),
            "vocab_size": words,
            "max_position_embeddings": positions,
            "bos_token_id": START,
            "eos_token_id": END,
            "pad_token_id": END,
        },
    }
    return RogleConfig(image_size=list(image_size), **towers), CLIPConfig(**towers)


def random_batch(config: RogleConfig, images: int, pairs: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Arguments of `RogleModel.forward` with the local branch on: random pixels, words, boxes and spans."""
    draw = torch.Generator().manual_seed(seed)

    def between(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=draw))

    def texts(lengths: Sequence[int]) -> torch.Tensor:
        rows = torch.full((len(lengths), max(lengths)), END)
        for row, length in zip(rows, lengths, strict=True):
            row[0] = START
            row[1 : length - 1] = torch.randint(2, config.text_config.vocab_size, (length - 2,), generator=draw)
        return rows

    limit = config.text_config.max_position_embeddings
    captions = [between(85, min(155, limit)) if i % 5 < 3 else between(20, 40) for i in range(images)]
    sentences = [between(8, 25) for _ in range(images * pairs)]
    corners = torch.rand(images * pairs, 4, generator=draw)
    owner = torch.arange(images).repeat_interleave(pairs)
    starts = [between(1, max(1, captions[i] - length)) for i, length in zip(owner.tolist(), sentences, strict=True)]
    spans = [
        (start, min(start + length, captions[i]))
        for i, start, length in zip(owner.tolist(), starts, sentences, strict=True)
    ]
    return {
        "pixel_values": torch.randn(images, 3, *config.image_size, generator=draw),
        "input_ids": texts(captions),
        "person_ids": torch.arange(images),
        "boxes": torch.cat([corners[:, :2] * 0.5, 0.5 + corners[:, 2:] * 0.4 + 0.1], dim=1),
        "box_image": owner,
        "sentence_input_ids": texts(sentences),
        "sentence_spans": torch.tensor(spans),
        "sentence_ids": torch.arange(images * pairs),
        "part_ids": torch.arange(images * pairs),
        "pair_weight": torch.ones(images * pairs),
    }


def make_step(variant: str, size: str, images: int, pairs: int) -> Callable[[], float]:
    """A function that trains one step of a variant and returns its loss."""
    rogle, clip = configurations(size)
    torch.manual_seed(0)
    batch = random_batch(rogle, images, pairs)
    if variant.startswith("rogle"):
        model = RogleModel(rogle)
        if variant.endswith("off"):
            batch = {name: batch[name] for name in ("pixel_values", "input_ids", "person_ids")}
    else:
        model = CLIPModel(clip)
        ids = batch["input_ids"]
        if variant.endswith("padded"):
            missing = clip.text_config.max_position_embeddings - ids.shape[1]
            ids = torch.nn.functional.pad(ids, (0, missing), value=END)
        # Up to the first end of text, as a tokenizer gives it.
        mask = ((ids == END).cumsum(1) - (ids == END).long() == 0).long()
        batch = {"pixel_values": batch["pixel_values"], "input_ids": ids, "attention_mask": mask}
        batch["interpolate_pos_encoding"] = True
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step() -> float:
        loss = model(**batch, return_loss=True).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def time_steps(steps: dict[str, Callable[[], float]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """CPU seconds (all threads) of each step, the variants alternating; the order turns by one each round."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for number in range(warm_up + rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            started = time.process_time()
            steps[name]()
            if number >= warm_up:
                seconds[name].append(time.process_time() - started)
    return seconds


def peak_bytes() -> int:
    """Highest resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux getrusage may still hold the parent's peak
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure_memory(variant: str, args: argparse.Namespace) -> int:
    """Bytes that model, optimizer and two steps of a variant add to a process that has imported everything."""
    options = ["--size", args.size, "--batch", str(args.batch), "--pairs", str(args.pairs)]
    command = [sys.executable, __file__, *options, "--threads", str(args.threads), "--memory-of", variant]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{variant}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def markdown(seconds: dict[str, list[float]], memory: dict[str, int], command: str) -> str:
    """A table of medians, and of ratios to the first variant with the lowest and highest of any round."""
    base = next(iter(seconds))
    lines = [f"`{command}`", "", f"| variant | CPU s a step (median) | x {base} (rounds) | memory | x {base} |"]
    lines.append("|---|---|---|---|---|")
    for name, values in seconds.items():
        ratios = [value / other for value, other in zip(values, seconds[base], strict=True)]
        ratio = statistics.median(values) / statistics.median(seconds[base])
        spread = f"{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        added = f"{memory[name] / 2**20:.0f} MiB | {memory[name] / memory[base]:.2f}" if name in memory else "- | -"
        lines.append(f"| {name} | {statistics.median(values):.3f} | {spread} | {added} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> dict[str, list[float]]:
    """Measures, prints the table, and returns CPU seconds of every variant and round."""
    parser = argparse.ArgumentParser(description="CPU time and memory of a training step, as ratios.")
    parser.add_argument(
        "--size",
        choices=SIZES,
        default="small",
        help="towers and image size (default small); four models are held at once, 10 GB for vitb16",
    )
    parser.add_argument("--batch", type=int, default=32, help="images a step (default 32)")
    parser.add_argument("--pairs", type=int, default=4, help="region-sentence pairs an image (default 4)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default 5)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    parser.add_argument("--no-memory", action="store_true", help="leave the memory out: no further processes")
    parser.add_argument("--memory-of", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    for name in ("batch", "pairs", "rounds", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, not {getattr(args, name)}")
    torch.set_num_threads(args.threads)
    if args.memory_of:
        before = peak_bytes()
        step = make_step(args.memory_of, args.size, args.batch, args.pairs)
        step(), step()
        print(peak_bytes() - before)
        return {}
    steps = {name: make_step(name, args.size, args.batch, args.pairs) for name in VARIANTS}
    seconds = time_steps(steps, args.rounds)
    steps.clear()
    memory = {} if args.no_memory else {name: measure_memory(name, args) for name in VARIANTS}
    words = shlex.join(sys.argv[1:] if argv is None else argv)
    print(markdown(seconds, memory, f"python benchmarks/step.py {words}".strip()))
    return seconds


if __name__ == "__main__":
    main()
