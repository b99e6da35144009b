"""Time and memory of a training step of Rogle, against plain `transformers` CLIP.

    python -m benchmarks.speed.step [--size small|vitb16|tiny] [--rounds N] [--out FILE.json]

Measured are the CPU seconds of forward, losses, backward and AdamW on the same random rows. The variants take turns in
one process. The peak memory of each is measured in a process of its own. Read the ratios: seconds depend on the
machine.

    clip, padded           CLIPModel with its contrastive loss and the default AdamW of torch; interpolate_pos_encoding
                           for the rectangle; captions padded to the model's limit, as published training code does
    clip, padded, fused    the same with torch's fused AdamW
    clip, longest, fused   the same, padded to the longest caption of the batch
    rogle, global only     RogleModel with captions only; fused AdamW, as in the next row
    rogle, full            the same with all regions and sentences; contrastive and token-similarity losses
    crops, towers twice    regions as in GOAL (arXiv 2503.17782), our implementation: one crop and one sentence an
                           image; images, crops, captions and sentences each pass their tower twice, all padded;
                           default AdamW

Captions have 85-155 tokens in 6-9 sentences, and each sentence has a region (`--pairs N` uses the first N only).
"""

import argparse
import shlex
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from transformers import CLIPModel

from benchmarks.common.memory import measure_memory, peak_bytes
from benchmarks.common.random_models import SIZES, configurations, pad_to, random_batch
from benchmarks.common.tables import write_json
from benchmarks.common.timing import describe_machine, format_ratio, time_in_rounds
from modeling_rogle import RogleModel
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
# (variant, compared with, quantity, largest ratio allowed)
TARGETS = (
    ("rogle, full", BASE, "seconds", 1.10),
    ("rogle, full", "clip, padded, fused", "seconds", 1.25),
    ("rogle, full", "rogle, global only", "seconds", 1.55),
    ("rogle, global only", BASE, "seconds", 0.80),
    ("rogle, full", BASE, "memory", 1.35),
)


def make_steps(variants: Sequence[str], size: str, images: int, pairs: int | None) -> dict[str, Callable[[], float]]:
    """For each variant, a function that trains one step and returns its loss.

    Variants of one architecture share the weights, and those of one optimizer its state. Only the work of a step
    differs, and four copies of a ViT-B/16 do not fit into the memory of a small machine.

    Args:
        variants: names of `VARIANTS`.
        size: a size of `SIZES`.
        images: images a step.
        pairs: region-sentence pairs an image; None for all.
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
            loss = partial(model_loss, model, inputs)
        steps[variant] = partial(train_step, loss, optimizers[kind, fused])
    return steps


def model_loss(model: torch.nn.Module, inputs: dict) -> torch.Tensor:
    return model(**inputs, return_loss=True).loss


def train_step(compute_loss: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer) -> float:
    """Forward, backward and update; returns the loss."""
    loss = compute_loss()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def crops_towers_twice(
    model: CLIPModel, batch: dict[str, torch.Tensor], grid: tuple[int, int], limit: int
) -> torch.Tensor:
    """The loss of GOAL: contrast of images and captions, contrast of crops and sentences, token similarity of both.

    Args:
        model: a CLIP model.
        batch: as [`random_batch`] makes it; the first region and sentence of each image are used.
        grid: rows and columns of the patches.
        limit: tokens that texts are padded to.
    """
    first = torch.ones_like(batch["box_image"], dtype=torch.bool)
    first[1:] = batch["box_image"][1:] != batch["box_image"][:-1]
    pixels, boxes, box_image = batch["pixel_values"], batch["boxes"][first], batch["box_image"][first]
    crops = crop_boxes(pixels, boxes, box_image)
    caption, sentence = pad_to(batch["input_ids"], limit), pad_to(batch["sentence_input_ids"][first], limit)
    flexible = {"interpolate_pos_encoding": True}
    loss = model(pixel_values=pixels, **caption, **flexible, return_loss=True).loss
    loss = loss + 0.5 * model(pixel_values=crops, **sentence, **flexible, return_loss=True).loss
    # The second pass computes states that the first one had.
    patches = model.vision_model(pixel_values=pixels, **flexible).last_hidden_state[:, 1:]
    tokens = model.text_model(**caption).last_hidden_state
    crop_embeds = model.visual_projection(model.vision_model(pixel_values=crops, **flexible).pooler_output)
    sentence_embeds = model.text_projection(model.text_model(**sentence).pooler_output)
    region = model.vision_model.post_layernorm(mean_patch_tokens(patches, boxes, box_image, grid))
    spans = batch["sentence_spans"][first]
    words = torch.stack([tokens[i, a:b].mean(0) for i, (a, b) in enumerate(spans.tolist())])
    loss = loss + token_similarity(model.visual_projection(region), crop_embeds, detach_target=False)
    return loss + token_similarity(model.text_projection(words), sentence_embeds, detach_target=False)


def markdown(seconds: Mapping[str, Sequence[float]], memory: Mapping[str, int], command: str) -> str:
    """A table of medians and of their ratios to the first variant, with the lowest and highest ratio of a round."""
    base = next(iter(seconds))
    lines = [f"`{command}`", "", f"| variant | CPU s a step (median) | x {base} (rounds) | memory | x {base} |"]
    lines.append("|---|---|---|---|---|")
    for name, values in seconds.items():
        added = f"{memory[name] / 2**20:.0f} MiB | {memory[name] / memory[base]:.2f}" if name in memory else "- | -"
        ratio = format_ratio(values, seconds[base])
        lines.append(f"| {name} | {statistics.median(values):.3f} | {ratio} | {added} |")
    return "\n".join(lines)


def check_targets(seconds: Mapping[str, Sequence[float]], memory: Mapping[str, int]) -> list[dict]:
    """Each target with the measured ratio (of medians) and whether it holds. Memory may be left out (empty)."""
    rows = []
    for variant, other, quantity, target in TARGETS:
        if quantity == "memory" and not memory:
            continue
        measured = (
            memory if quantity == "memory" else {name: statistics.median(values) for name, values in seconds.items()}
        )
        ratio = measured[variant] / measured[other]
        rows.append({"variant": variant, "against": other, "what": quantity, "ratio": ratio, "bar": target})
        rows[-1]["holds"] = ratio <= target
    return rows


def targets_markdown(rows: Sequence[dict]) -> str:
    lines = ["| ratio | of | measured | at most | |", "|---|---|---|---|---|"]
    for row in rows:
        pair, verdict = f"{row['variant']} / {row['against']}", "holds" if row["holds"] else "missed"
        lines.append(f"| {pair} | {row['what']} | {row['ratio']:.3f} | {row['bar']:.2f} | {verdict} |")
    return "\n".join(lines)


def print_memory(variant: str, size: str, images: int, pairs: int | None) -> None:
    """Prints the bytes that the model, the optimizer and two steps of a variant add to this process."""
    before = peak_bytes()
    step = make_steps([variant], size, images, pairs)[variant]
    step(), step()
    print(peak_bytes() - before)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.step", description="CPU time and memory of a training step, as ratios."
    )
    parser.add_argument(
        "--size",
        choices=SIZES,
        default="small",
        help="towers and image size; vitb16 holds two models and three optimizers, 9 GB at batch 8 (default: small)",
    )
    parser.add_argument("--batch", type=int, default=8, help="images a step (default: 8)")
    parser.add_argument("--pairs", type=int, help="region-sentence pairs an image (default: all 6 to 9)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    parser.add_argument("--no-memory", action="store_true", help="skip the measurement of memory (default: off)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all figures to a JSON file (default: none)")
    parser.add_argument("--memory-of", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    for name in ("batch", "pairs", "rounds", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1, not {value}")
    return args


def main(argv: Sequence[str] | None = None) -> dict[str, list[float]]:
    """Measures, prints the tables, and returns the CPU seconds of every variant and round."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    if args.memory_of:
        print_memory(args.memory_of, args.size, args.batch, args.pairs)
        return {}
    steps = make_steps(VARIANTS, args.size, args.batch, args.pairs)
    seconds = time_in_rounds(steps, args.rounds)
    steps.clear()
    options = ["--size", args.size, "--batch", str(args.batch), "--threads", str(args.threads)]
    options += ["--pairs", str(args.pairs)] if args.pairs else []
    memory = {}
    if not args.no_memory:
        memory = {name: measure_memory("benchmarks.speed.step", name, options) for name in VARIANTS}
    words = shlex.join(sys.argv[1:] if argv is None else argv)
    command = f"python -m benchmarks.speed.step {words}".strip()
    targets, machine = check_targets(seconds, memory), describe_machine()
    print(markdown(seconds, memory, command))
    print(f"\n{targets_markdown(targets)}\n\n{machine}, batch {args.batch}")
    if args.out:
        content = {"command": command, "machine": machine, "seconds": seconds, "memory_bytes": memory, "bars": targets}
        write_json(args.out, content)
    return seconds


if __name__ == "__main__":
    main()
