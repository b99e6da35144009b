"""Images and texts encoded a CPU second by RogleModel, against plain `transformers` CLIP.

    python -m benchmarks.speed.encode [--size small|vitb16|tiny] [--rounds N] [--packing] [--out FILE.json]

The weights are random, and there is no training. The variants take turns in one process. The peak memory of each is
measured in a process of its own. Read the ratios: seconds depend on the machine.

    images         at the model's rectangle; CLIPModel with interpolate_pos_encoding. bf16: the weights are cast once,
                   for Rogle and for CLIP. The target is 2.2 x CLIP in fp32, on a processor that is fast in bf16
                   (`fast_bfloat16`)
    texts, short   lengths drawn from those of 12,314 CUHK-PEDES captions (validation and test: 5 / 50 / 95 % at 20 / 26
                   / 47 tokens, mean 29, longest 115), in batches of 32. CLIP with the attention mask of its tokenizer:
                   `padded` to the model's limit, or to the `longest` text of the batch
    texts, long    the same for captions of 85-155 tokens

`--packing` compares ways to leave the padding out, in inference and in training (captions of 85-155 tokens and their
6-9 sentences, forward and backward). The ways are runs of equal length packed end to end (what the model does on a
CPU), buckets of similar length, and packing under one dense block-diagonal mask.
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
from benchmarks.common.random_models import SIZES, configurations, pad_to, random_batch, token_table
from benchmarks.common.tables import write_json
from benchmarks.common.timing import describe_machine, format_ratio, time_in_rounds
from modeling_rogle import RogleModel
from modeling_rogle.inference.image_encoder import fast_bfloat16
from modeling_rogle.text_packing import encode_buckets, encode_packed, text_lengths

# (share of captions, tokens with start and end of text): linear in between, with a thin tail after 95 %.
SHORT = ((0.0, 12), (0.05, 20), (0.25, 23), (0.5, 26), (0.75, 32), (0.95, 47), (1.0, 115))
LONG = ((0.0, 85), (1.0, 155))
BATCH = 32
# (input, variant, compared with, smallest ratio of rates allowed)
TARGETS = (
    ("images", "rogle", "clip", 0.97),
    ("images", "rogle, bf16", "clip", 2.2),
    ("texts, short", "rogle", "clip, padded", 6.0),
    ("texts, short", "rogle", "clip, longest", 1.2),
    ("texts, long", "rogle", "clip, padded", 1.3),
)
CALL_TOKENS_CPU = 40  # the cost of a further call of ViT-B/16's text tower on a CPU, in tokens; used by the buckets
Work = dict[str, dict[str, Callable[[], object]]]


def draw_lengths(quantiles: Sequence[tuple[float, int]], count: int, limit: int, seed: int = 0) -> list[int]:
    """Caption lengths in tokens, start and end of text included.

    Args:
        quantiles: `SHORT` or `LONG`.
        count: number of lengths.
        limit: largest length.
        seed: of the random numbers. Default: 0.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = []
    for u in torch.rand(count, generator=generator).tolist():
        (low, short), (high, long) = next(
            pair for pair in zip(quantiles, quantiles[1:], strict=False) if u <= pair[1][0]
        )
        share = (u - low) / (high - low)
        if low == 0.95:
            share **= 3
        lengths.append(min(limit, round(short + share * (long - short))))
    return lengths


def random_texts(lengths: Sequence[int], words: int, limit: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random token ids below `words`, padded to `limit`, and their attention mask."""
    generator = torch.Generator().manual_seed(seed)
    return pad_to(token_table([torch.randint(2, words, (n - 2,), generator=generator) for n in lengths]), limit)


def clip_texts(model: CLIPModel, batches: Sequence[dict[str, torch.Tensor]], longest: bool) -> torch.Tensor:
    """Embeddings by CLIPModel; `longest` cuts each batch to its longest text."""
    embeds = []
    for batch in batches:
        if longest:
            stop = int(batch["attention_mask"].sum(1).max())
            batch = {name: values[:, :stop] for name, values in batch.items()}
        embeds.append(model.get_text_features(**batch).pooler_output)
    return torch.nn.functional.normalize(torch.cat(embeds), dim=-1)


def clip_images(model: CLIPModel, pixels: torch.Tensor) -> torch.Tensor:
    pooled = model.get_image_features(pixels.to(model.dtype), interpolate_pos_encoding=True).pooler_output
    return torch.nn.functional.normalize(pooled.float(), dim=-1)


def rogle_texts(model: RogleModel, batches: Sequence[dict[str, torch.Tensor]]) -> torch.Tensor:
    return torch.cat([model.encode_texts(**batch) for batch in batches])


def rogle_images(model: RogleModel, pixels: torch.Tensor) -> torch.Tensor:
    return model.encode_images(pixels.to(model.dtype))[0]


def prepare(size: str, images: int, batches: int, only: tuple[str, str] | None = None) -> tuple[Work, dict[str, int]]:
    """Builds the models and the calls to time.

    Args:
        size: a size of `SIZES`.
        images: images a call.
        batches: batches of 32 texts a call.
        only: input and variant; the models of other variants are not built. Default: all are built.

    Returns:
        Input -> variant -> call, and input -> number of items that a call encodes.
    """
    rogle_config, clip_config = configurations(size)
    limit, words = clip_config.text_config.max_position_embeddings, clip_config.text_config.vocab_size
    torch.manual_seed(0)
    way = "" if only is None else only[1]
    clip = CLIPModel(clip_config).eval() if only is None or way in ("clip", "clip, padded", "clip, longest") else None
    rogle = RogleModel(rogle_config).eval() if only is None or way == "rogle" else None
    bf16 = {}
    for name, kind, config in (("clip, bf16", CLIPModel, clip_config), ("rogle, bf16", RogleModel, rogle_config)):
        bf16[name] = kind(config).eval().to(torch.bfloat16) if only is None or way == name else None
    pixels = torch.randn(images, 3, *rogle_config.image_size)
    work: Work = {
        "images": {
            "clip": partial(clip_images, clip, pixels),
            "rogle": partial(rogle_images, rogle, pixels),
            "clip, bf16": partial(clip_images, bf16["clip, bf16"], pixels),
            "rogle, bf16": partial(rogle_images, bf16["rogle, bf16"], pixels),
        }
    }
    for number, (what, quantiles) in enumerate((("texts, short", SHORT), ("texts, long", LONG))):
        lengths = draw_lengths(quantiles, batches * BATCH, limit, seed=number)
        texts = random_texts(lengths, words, limit)
        parts = [{name: values[i : i + BATCH] for name, values in texts.items()} for i in range(0, len(lengths), BATCH)]
        work[what] = {
            "clip, padded": partial(clip_texts, clip, parts, False),
            "clip, longest": partial(clip_texts, clip, parts, True),
            "rogle": partial(rogle_texts, rogle, parts),
        }
    return work, {"images": images, "texts, short": batches * BATCH, "texts, long": batches * BATCH}


def encode_dense_mask(text_model: torch.nn.Module, input_ids: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """Pooled states of texts that are packed under one block-diagonal causal mask."""
    sizes = torch.tensor(lengths)
    ends = sizes.cumsum(0)
    text = torch.arange(len(lengths)).repeat_interleave(sizes)
    index = torch.arange(len(text))
    position = index - (ends - sizes).repeat_interleave(sizes)
    mask = (text[:, None] == text) & (index[:, None] >= index)
    ids = input_ids[text, position]
    states = text_model.embeddings(input_ids=ids[:, None], position_ids=position[:, None]).transpose(0, 1)
    states = text_model.encoder(inputs_embeds=states, attention_mask=mask[None, None]).last_hidden_state
    return text_model.final_layer_norm(states[0, ends - 1])


def packing_work(size: str, images: int) -> Work:
    """Ways to leave the padding out: short and long captions without gradients, and the texts of a training step."""
    config, _ = configurations(size)
    torch.manual_seed(0)
    tower = RogleModel(config).text_model
    limit, words = config.text_config.max_position_embeddings, config.text_config.vocab_size
    step = random_batch(config, images)
    captions, sentences = (pad_to(step[name], limit)["input_ids"] for name in ("input_ids", "sentence_input_ids"))
    tables = {
        f"{BATCH} short captions": random_texts(draw_lengths(SHORT, BATCH, limit), words, limit)["input_ids"],
        f"{BATCH} long captions": random_texts(draw_lengths(LONG, BATCH, limit), words, limit)["input_ids"],
        f"{images} long captions with sentences, training": torch.cat([captions, sentences]),
    }
    ways = {
        "packed by runs": lambda *texts: encode_packed(tower, *texts)[0],
        "buckets": lambda *texts: encode_buckets(tower, *texts, call_tokens=CALL_TOKENS_CPU)[0],
        "packed, dense mask": lambda *texts: encode_dense_mask(tower, *texts),
    }

    def run(way: str, ids: torch.Tensor, training: bool) -> torch.Tensor:
        with torch.set_grad_enabled(training):
            pooled = ways[way](ids, text_lengths(ids, tower.eos_token_id))
        if training:
            pooled.sum().backward()
            tower.zero_grad()
        return pooled.detach()

    return {
        what: {way: partial(run, way, ids, what.endswith("training")) for way in ways} for what, ids in tables.items()
    }


def table(
    seconds: Mapping[str, Mapping[str, Sequence[float]]],
    counts: Mapping[str, int],
    memory: Mapping[str, int],
    head: str = "a CPU s",
) -> str:
    """A Markdown table of items a CPU second, and of their ratios to the first variant of the same input.

    Args:
        seconds: input -> variant -> CPU seconds of each round.
        counts: input -> items a call; 1 where it is missing.
        memory: `input: variant` -> bytes; may be empty.
        head: title of the column of rates. Default: `a CPU s`.
    """
    lines = [f"| input | way | {head} (median) | x first (rounds) | memory |", "|---|---|---|---|---|"]
    for what, ways in seconds.items():
        base = next(iter(ways.values()))
        for way, values in ways.items():
            rate = counts.get(what, 1) / statistics.median(values)
            added = f"{memory[f'{what}: {way}'] / 2**20:.0f} MiB" if f"{what}: {way}" in memory else "-"
            lines.append(f"| {what} | {way} | {rate:.2f} | {format_ratio(base, values)} | {added} |")
    return "\n".join(lines)


def check_targets(seconds: Mapping[str, Mapping[str, Sequence[float]]], bf16_is_fast: bool) -> list[dict]:
    """Each target with the ratio of rates (of median seconds) and whether it holds; None if bf16 is not fast here."""
    rows = []
    for what, way, other, target in TARGETS:
        ratio = statistics.median(seconds[what][other]) / statistics.median(seconds[what][way])
        holds = None if "bf16" in way and not bf16_is_fast else ratio >= target
        rows.append({"what": what, "way": way, "against": other, "ratio": ratio, "bar": target, "holds": holds})
    return rows


def targets_markdown(rows: Sequence[dict]) -> str:
    lines = ["| ratio | measured | at least | |", "|---|---|---|---|"]
    words = {True: "holds", False: "missed", None: "not fast on this processor"}
    for row in rows:
        pair = f"{row['what']}: {row['way']} / {row['against']}"
        lines.append(f"| {pair} | {row['ratio']:.2f} | {row['bar']:.2f} | {words[row['holds']]} |")
    return "\n".join(lines)


def print_memory(name: str, size: str, images: int) -> None:
    """Prints the bytes that one variant (`input: variant`) adds to this process."""
    what, way = name.split(": ")
    before = peak_bytes()
    work, _ = prepare(size, images, 1, only=(what, way))
    with torch.no_grad():
        work[what][way]()
    print(peak_bytes() - before)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.encode",
        description="Images and texts encoded a CPU second, as ratios to plain CLIP.",
    )
    parser.add_argument("--size", choices=SIZES, default="small", help="towers and image size (default: small)")
    parser.add_argument("--images", type=int, default=8, help="images a forward pass (default: 8)")
    parser.add_argument("--batches", type=int, default=2, help=f"batches of {BATCH} texts a round (default: 2)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    parser.add_argument(
        "--packing", action="store_true", help="also compare ways to leave the padding out (default: off)"
    )
    parser.add_argument("--no-memory", action="store_true", help="skip the measurement of memory (default: off)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all figures to a JSON file (default: none)")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    for name in ("images", "batches", "rounds", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, not {getattr(args, name)}")
    return args


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, list[float]]]:
    """Measures, prints the tables, and returns the CPU seconds of every input, variant and round."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    if args.memory_of:
        print_memory(args.memory_of, args.size, args.images)
        return {}
    work, counts = prepare(args.size, args.images, args.batches)
    with torch.no_grad():
        seconds = {what: time_in_rounds(ways, args.rounds) for what, ways in work.items()}
    work.clear()
    packing = {}
    if args.packing:
        ways = packing_work(args.size, args.images)
        packing = {what: time_in_rounds(calls, args.rounds) for what, calls in ways.items()}
    memory = {}
    if not args.no_memory:
        options = ["--size", args.size, "--images", str(args.images), "--threads", str(args.threads)]
        names = [f"{what}: {way}" for what, ways in seconds.items() for way in ways]
        memory = {name: measure_memory("benchmarks.speed.encode", name, options) for name in names}
    words = shlex.join(sys.argv[1:] if argv is None else argv)
    command = f"python -m benchmarks.speed.encode {words}".strip()
    targets, machine = check_targets(seconds, fast_bfloat16()), describe_machine()
    print(f"`{command}`\n\n{table(seconds, counts, memory)}\n\n{targets_markdown(targets)}")
    if packing:
        print(f"\n{table(packing, {}, {}, head='calls a CPU s')}")
    print(f"\n{machine}, {args.images} images a forward pass, {BATCH} texts a batch")
    if args.out:
        content = {"command": command, "machine": machine, "seconds": seconds, "packing_seconds": packing}
        write_json(args.out, content | {"memory_bytes": memory, "bars": targets})
    return seconds


if __name__ == "__main__":
    main()
