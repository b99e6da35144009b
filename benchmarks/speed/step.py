"""python -m benchmarks.speed.step [--size small|vitb16|tiny] [--rounds N] [--out FILE.json]

What a training step of ours costs beside plain transformers: CPU seconds of forward, losses, backward and AdamW on the
same random rows, the variants taking turns in one process so that whatever else the machine does meets all of them;
peak memory of each in a process of its own. Ratios are what to read: seconds are this machine's.

    clip, padded           CLIPModel with its contrastive loss and AdamW as torch gives it, interpolate_pos_encoding for
                           the rectangle, every caption padded to the model's limit, as published training code does
    clip, padded, fused    the same with torch's fused AdamW
    clip, longest, fused   the same, padded to the batch's longest caption
    rogle, global only     RogleModel, captions only; fused AdamW, as in the next row
    rogle, full            the same with every region and sentence of the rows, contrastive and token-similarity losses
    crops, towers twice    the published relative's way (GOAL, arXiv 2503.17782, written anew): one crop and one
                           sentence an image, images, crops, captions and sentences each walked through their tower
                           twice, all padded, AdamW as torch gives it

Captions have 85-155 tokens in 6-9 sentences, each sentence with a region (`--pairs N` reads the first N alone).
"""

import argparse
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel

from modeling_rogle import RogleConfig, RogleModel
from modeling_rogle.box_ops import crop_boxes, mean_patch_tokens
from modeling_rogle.losses import token_similarity

BASE = "clip, padded"
VARIANTS = (
    BASE,
    "clip, padded, fused",
    "clip, longest, fused",
    "rogle, global only",
    "rogle, full",
    "crops, towers twice",
)
# variant, against, what, at most
BARS = (
    ("rogle, full", BASE, "seconds", 1.10),
    ("rogle, full", "clip, padded, fused", "seconds", 1.25),
    ("rogle, full", "rogle, global only", "seconds", 1.55),
    ("rogle, global only", BASE, "seconds", 0.80),
    ("rogle, full", BASE, "memory", 1.35),
)
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


def random_batch(config: RogleConfig, images: int, pairs: int | None = None, seed: int = 0) -> dict[str, torch.Tensor]:
    """Arguments of `RogleModel.forward` with the local branch on: random pixels, words and boxes.

    Args:
        pairs: regions an image, each with one of the first sentences of its caption; None for all sentences.
    """
    draw = torch.Generator().manual_seed(seed)

    def between(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=draw))

    words = torch.randint(2, config.text_config.vocab_size, (images, 155), generator=draw)
    captions, sentences, spans, owner = [], [], [], []
    for image in range(images):
        length, count = between(85, 155), between(6, 9)
        caption = words[image, : length - 2]
        captions.append(caption)
        # Sentences of nearly equal length: their ends move by at most two words.
        ends = [round(length * (i + 1) / count) - 2 + between(-2, 2) for i in range(count - 1)] + [length - 2]
        for start, end in list(zip([0, *ends], ends, strict=False))[:pairs]:
            sentences.append(caption[start:end])
            spans.append((1 + start, 1 + end))
            owner.append(image)
    n = len(sentences)
    corners = torch.rand(n, 4, generator=draw)
    return {
        "pixel_values": torch.randn(images, 3, *config.image_size, generator=draw),
        "input_ids": token_table(captions),
        "person_ids": torch.arange(images),
        "boxes": torch.cat([corners[:, :2] * 0.5, 0.5 + corners[:, 2:] * 0.4 + 0.1], dim=1),
        "box_image": torch.tensor(owner),
        "sentence_input_ids": token_table(sentences),
        "sentence_spans": torch.tensor(spans),
        "sentence_ids": torch.arange(n),
        "part_ids": torch.arange(n),
        "pair_weight": torch.ones(n),
    }


def token_table(texts: Sequence[torch.Tensor]) -> torch.Tensor:
    """`[n, longest]` ids with start and end of text, padded as CLIP's tokenizer does, with the end."""
    rows = torch.full((len(texts), max(map(len, texts)) + 2), END)
    for row, text in zip(rows, texts, strict=True):
        row[0] = START
        row[1 : len(text) + 1] = text
    return rows


def pad_to(ids: torch.Tensor, length: int) -> dict[str, torch.Tensor]:
    """Ids `[n, length]` and their attention mask, as a tokenizer gives them with `padding="max_length"`."""
    ids = torch.nn.functional.pad(ids, (0, length - ids.shape[1]), value=END)
    return {"input_ids": ids, "attention_mask": ((ids == END).cumsum(1) - (ids == END).long() == 0).long()}


def make_steps(variants: Sequence[str], size: str, images: int, pairs: int | None) -> dict[str, Callable[[], float]]:
    """For each variant a function that trains one step and returns its loss.

    Variants of one architecture share its weights, and those of one optimizer its state: what differs between them is
    the work of a step, and four copies of a ViT-B/16 would not fit beside each other on a small machine.
    """
    rogle, clip = configurations(size)
    batch = random_batch(rogle, images, pairs)
    limit = clip.text_config.max_position_embeddings
    models: dict[str, torch.nn.Module] = {}
    optimizers: dict[tuple[str, bool], torch.optim.Optimizer] = {}
    steps = {}
    for variant in variants:
        kind, fused = ("rogle", True) if variant.startswith("rogle") else ("clip", variant.endswith("fused"))
        if kind not in models:
            torch.manual_seed(0)
            models[kind] = RogleModel(rogle).train() if kind == "rogle" else CLIPModel(clip).train()
        model = models[kind]
        if (kind, fused) not in optimizers:
            options = {"fused": True} if fused else {}
            optimizers[kind, fused] = torch.optim.AdamW(model.parameters(), lr=1e-5, **options)
        if variant == "crops, towers twice":
            loss = partial(crops_towers_twice, model, batch, rogle.patch_grid, limit)
        else:
            inputs = batch
            if variant == "rogle, global only":
                inputs = {name: batch[name] for name in ("pixel_values", "input_ids", "person_ids")}
            elif kind == "clip":
                length = batch["input_ids"].shape[1] if "longest" in variant else limit
                inputs = pad_to(batch["input_ids"], length) | {"pixel_values": batch["pixel_values"]}
                inputs["interpolate_pos_encoding"] = True
            loss = partial(own_loss, model, inputs)
        steps[variant] = partial(train_step, loss, optimizers[kind, fused])
    return steps


def own_loss(model: torch.nn.Module, inputs: dict) -> torch.Tensor:
    return model(**inputs, return_loss=True).loss


def train_step(compute_loss: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer) -> float:
    """Forward, backward, update; returns the loss."""
    loss = compute_loss()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def crops_towers_twice(
    model: CLIPModel, batch: dict[str, torch.Tensor], grid: tuple[int, int], limit: int
) -> torch.Tensor:
    """Loss of the published relative's way: contrastive for wholes and parts, token similarity for both modalities."""
    first = torch.ones_like(batch["box_image"], dtype=torch.bool)
    first[1:] = batch["box_image"][1:] != batch["box_image"][:-1]
    pixels, boxes, owner = batch["pixel_values"], batch["boxes"][first], batch["box_image"][first]
    crops = crop_boxes(pixels, boxes, owner)
    whole, part = pad_to(batch["input_ids"], limit), pad_to(batch["sentence_input_ids"][first], limit)
    flexible = {"interpolate_pos_encoding": True}
    loss = model(pixel_values=pixels, **whole, **flexible, return_loss=True).loss
    loss = loss + 0.5 * model(pixel_values=crops, **part, **flexible, return_loss=True).loss
    # The second walk, for states that the first one had.
    patches = model.vision_model(pixel_values=pixels, **flexible).last_hidden_state[:, 1:]
    tokens = model.text_model(**whole).last_hidden_state
    crop = model.visual_projection(model.vision_model(pixel_values=crops, **flexible).pooler_output)
    sentence = model.text_projection(model.text_model(**part).pooler_output)
    region = model.vision_model.post_layernorm(mean_patch_tokens(patches, boxes, owner, grid))
    spans = batch["sentence_spans"][first]
    words = torch.stack([tokens[i, a:b].mean(0) for i, (a, b) in enumerate(spans.tolist())])
    loss = loss + token_similarity(model.visual_projection(region), crop, detach_target=False)
    return loss + token_similarity(model.text_projection(words), sentence, detach_target=False)


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


def measure_memory(variant: str, options: Sequence[str], script: str = __file__) -> int:
    """Bytes that model, optimizer and two steps of a variant add to a process that has imported everything."""
    command = [sys.executable, script, *options, "--memory-of", variant]
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


def against_bars(seconds: dict[str, list[float]], memory: dict[str, int]) -> list[dict]:
    """Each of `BARS` with the ratio measured (of medians) and whether it holds; memory only where it was measured."""
    rows = []
    for variant, other, what, bar in BARS:
        if what == "memory" and not memory:
            continue
        measured = memory if what == "memory" else {name: statistics.median(values) for name, values in seconds.items()}
        ratio = measured[variant] / measured[other]
        rows.append({"variant": variant, "against": other, "what": what, "ratio": ratio, "bar": bar})
        rows[-1]["holds"] = ratio <= bar
    return rows


def bars_markdown(rows: Sequence[dict]) -> str:
    lines = ["| ratio | of | measured | at most | |", "|---|---|---|---|---|"]
    for row in rows:
        pair, verdict = f"{row['variant']} / {row['against']}", "holds" if row["holds"] else "missed"
        lines.append(f"| {pair} | {row['what']} | {row['ratio']:.3f} | {row['bar']:.2f} | {verdict} |")
    return "\n".join(lines)


def machine() -> str:
    """Processor and torch, in words."""
    info = Path("/proc/cpuinfo")
    found = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    name = found[0].split(":")[1].strip() if found else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"


def write_json(path: Path, content: dict) -> None:
    """Writes beside `path` first: a run that is cut short leaves the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(beside, path)


def main(argv: Sequence[str] | None = None) -> dict[str, list[float]]:
    """Measures, prints the tables, and returns CPU seconds of every variant and round."""
    parser = argparse.ArgumentParser(description="CPU time and memory of a training step, as ratios.")
    parser.add_argument(
        "--size",
        choices=SIZES,
        default="small",
        help="towers and image size (default small); vitb16 holds two models and three optimizers, 9 GB with batch 8",
    )
    parser.add_argument("--batch", type=int, default=8, help="images a step (default 8)")
    parser.add_argument("--pairs", type=int, help="region-sentence pairs an image (default: all of its 6 to 9)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default 5)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    parser.add_argument("--no-memory", action="store_true", help="leave the memory out: no further processes")
    parser.add_argument("--out", type=Path, help="write seconds, memory and ratios there as JSON")
    parser.add_argument("--memory-of", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    for name in ("batch", "pairs", "rounds", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1, not {value}")
    torch.set_num_threads(args.threads)
    if args.memory_of:
        before = peak_bytes()
        step = make_steps([args.memory_of], args.size, args.batch, args.pairs)[args.memory_of]
        step(), step()
        print(peak_bytes() - before)
        return {}
    steps = make_steps(VARIANTS, args.size, args.batch, args.pairs)
    seconds = time_steps(steps, args.rounds)
    steps.clear()
    options = ["--size", args.size, "--batch", str(args.batch), "--threads", str(args.threads)]
    options += ["--pairs", str(args.pairs)] if args.pairs else []
    memory = {} if args.no_memory else {name: measure_memory(name, options) for name in VARIANTS}
    words = shlex.join(sys.argv[1:] if argv is None else argv)
    command = f"python -m benchmarks.speed.step {words}".strip()
    bars = against_bars(seconds, memory)
    print(markdown(seconds, memory, command))
    print(f"\n{bars_markdown(bars)}\n\n{machine()}, batch {args.batch}")
    if args.out:
        content = {"command": command, "machine": machine(), "seconds": seconds, "memory_bytes": memory, "bars": bars}
        write_json(args.out, content)
    return seconds


if __name__ == "__main__":
    main()
