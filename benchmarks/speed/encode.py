"""python -m benchmarks.speed.encode [--size small|vitb16|tiny] [--rounds N] [--packing] [--out FILE.json]

Encoding alone, without training: images and texts a CPU second of RogleModel beside plain CLIPModel, random weights,
the ways taking turns in one process so that whatever else the machine does meets all of them; peak memory of each in a
process of its own. Ratios are what to read.

    images         at the model's rectangle; CLIPModel with interpolate_pos_encoding. bf16: weights cast once, ours and
                   plain CLIP's (the bar asks for 2.2 x CLIP's fp32, where bf16 is fast: `fast_bfloat16`)
    texts, short   lengths drawn from those of 12,314 CUHK-PEDES captions (validation and test: 5 / 50 / 95 % at 20 / 26
                   / 47 tokens, mean 29, longest 115), in batches of 32: `padded` to the model's limit and `longest`, to
                   the longest of each batch, are plain CLIP with its attention mask, as a tokenizer gives it
    texts, long    the same for captions of 85-155 tokens

`--packing` adds the ways to leave padding out, in inference and in training (captions of 85-155 tokens and their 6-9
sentences, forward and backward): runs of equal length packed end to end (what the model does on a CPU), buckets of like
length, packed under one dense block-diagonal mask.
"""

import argparse
import shlex
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from transformers import CLIPModel

from benchmarks.speed.step import (
    SIZES,
    configurations,
    machine,
    measure_memory,
    pad_to,
    peak_bytes,
    random_batch,
    time_steps,
    token_table,
    write_json,
)
from modeling_rogle import RogleModel
from modeling_rogle.inference.image_encoder import fast_bfloat16
from modeling_rogle.text_packing import encode_buckets, encode_packed, text_lengths

# (share of captions, tokens with start and end of text): straight lines between, a thin tail after 95 %.
SHORT = ((0.0, 12), (0.05, 20), (0.25, 23), (0.5, 26), (0.75, 32), (0.95, 47), (1.0, 115))
LONG = ((0.0, 85), (1.0, 155))
BATCH = 32
# what, way, against, at least
BARS = (
    ("images", "rogle", "clip", 0.97),
    ("images", "rogle, bf16", "clip", 2.2),
    ("texts, short", "rogle", "clip, padded", 6.0),
    ("texts, short", "rogle", "clip, longest", 1.2),
    ("texts, long", "rogle", "clip, padded", 1.3),
)
CALL_TOKENS_CPU = 40  # what one more call costs a CPU (inference, ViT-B/16's text tower), for the buckets' sake
Work = dict[str, dict[str, Callable[[], object]]]


def draw_lengths(quantiles: Sequence[tuple[float, int]], count: int, limit: int, seed: int = 0) -> list[int]:
    """Caption lengths in tokens, start and end of text included, at most `limit`."""
    draw = torch.Generator().manual_seed(seed)
    lengths = []
    for u in torch.rand(count, generator=draw).tolist():
        (low, short), (high, long) = next(
            pair for pair in zip(quantiles, quantiles[1:], strict=False) if u <= pair[1][0]
        )
        share = (u - low) / (high - low)
        if low == 0.95:
            share **= 3
        lengths.append(min(limit, round(short + share * (long - short))))
    return lengths


def random_texts(lengths: Sequence[int], words: int, limit: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Ids padded to `limit`, and their attention mask."""
    draw = torch.Generator().manual_seed(seed)
    return pad_to(token_table([torch.randint(2, words, (n - 2,), generator=draw) for n in lengths]), limit)


def plain_texts(model: CLIPModel, batches: Sequence[dict[str, torch.Tensor]], longest: bool) -> torch.Tensor:
    """Embeddings by CLIPModel, each batch cut to its longest text or not at all."""
    found = []
    for batch in batches:
        if longest:
            stop = int(batch["attention_mask"].sum(1).max())
            batch = {name: values[:, :stop] for name, values in batch.items()}
        found.append(model.get_text_features(**batch).pooler_output)
    return torch.nn.functional.normalize(torch.cat(found), dim=-1)


def prepare(size: str, images: int, batches: int, only: tuple[str, str] | None = None) -> tuple[Work, dict[str, int]]:
    """What is timed: for images, short and long texts the ways to encode them; and how many each call encodes.

    Args:
        images: of a forward; batches: of 32 texts a call.
        only: one of these, nothing else being built.
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

    def plain_images(model: CLIPModel) -> torch.Tensor:
        pooled = model.get_image_features(pixels.to(model.dtype), interpolate_pos_encoding=True).pooler_output
        return torch.nn.functional.normalize(pooled.float(), dim=-1)

    def our_images(model: RogleModel) -> torch.Tensor:
        return model.encode_images(pixels.to(model.dtype))[0]

    work: Work = {
        "images": {
            "clip": partial(plain_images, clip),
            "rogle": partial(our_images, rogle),
            "clip, bf16": partial(plain_images, bf16["clip, bf16"]),
            "rogle, bf16": partial(our_images, bf16["rogle, bf16"]),
        }
    }
    for number, (what, quantiles) in enumerate((("texts, short", SHORT), ("texts, long", LONG))):
        lengths = draw_lengths(quantiles, batches * BATCH, limit, seed=number)
        table = random_texts(lengths, words, limit)
        parts = [{name: values[i : i + BATCH] for name, values in table.items()} for i in range(0, len(lengths), BATCH)]
        work[what] = {
            "clip, padded": partial(plain_texts, clip, parts, False),
            "clip, longest": partial(plain_texts, clip, parts, True),
            "rogle": partial(our_texts, rogle, parts),
        }
    return work, {"images": images, "texts, short": batches * BATCH, "texts, long": batches * BATCH}


def our_texts(model: RogleModel, batches: Sequence[dict[str, torch.Tensor]]) -> torch.Tensor:
    return torch.cat([model.encode_texts(**batch) for batch in batches])


def dense_mask(text_model: torch.nn.Module, input_ids: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """Pooled states of texts packed under one block-diagonal causal mask: the plain way to pack."""
    sizes = torch.tensor(lengths)
    ends = sizes.cumsum(0)
    text = torch.arange(len(lengths)).repeat_interleave(sizes)
    place = torch.arange(len(text))
    position = place - (ends - sizes).repeat_interleave(sizes)
    mask = (text[:, None] == text) & (place[:, None] >= place)
    ids = input_ids[text, position]
    states = text_model.embeddings(input_ids=ids[:, None], position_ids=position[:, None]).transpose(0, 1)
    states = text_model.encoder(inputs_embeds=states, attention_mask=mask[None, None]).last_hidden_state
    return text_model.final_layer_norm(states[0, ends - 1])


def packing_ways(size: str, images: int) -> Work:
    """Ways to leave the padding out: texts as above without a gradient, and a training step's texts with one."""
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
        "packed, dense mask": lambda *texts: dense_mask(tower, *texts),
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
    seconds: dict[str, dict[str, list[float]]], counts: dict[str, int], memory: dict[str, int], head: str = "a CPU s"
) -> str:
    """Markdown: for each kind of input the ways, items a CPU second, and the ratio to the first with its range."""
    lines = [f"| input | way | {head} (median) | x first (rounds) | memory |", "|---|---|---|---|---|"]
    for what, ways in seconds.items():
        base = next(iter(ways.values()))
        for way, values in ways.items():
            ratios = [other / value for value, other in zip(values, base, strict=True)]
            ratio = statistics.median(base) / statistics.median(values)
            rate = counts.get(what, 1) / statistics.median(values)
            added = f"{memory[f'{what}: {way}'] / 2**20:.0f} MiB" if f"{what}: {way}" in memory else "-"
            spread = f"{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            lines.append(f"| {what} | {way} | {rate:.2f} | {spread} | {added} |")
    return "\n".join(lines)


def against_bars(seconds: dict[str, dict[str, list[float]]], bf16_is_fast: bool) -> list[dict]:
    """Each of `BARS` with the ratio of rates (of median seconds) and whether it holds; None: bf16 is not fast here."""
    rows = []
    for what, way, other, bar in BARS:
        ratio = statistics.median(seconds[what][other]) / statistics.median(seconds[what][way])
        holds = None if "bf16" in way and not bf16_is_fast else ratio >= bar
        rows.append({"what": what, "way": way, "against": other, "ratio": ratio, "bar": bar, "holds": holds})
    return rows


def bars_markdown(rows: Sequence[dict]) -> str:
    lines = ["| ratio | measured | at least | |", "|---|---|---|---|"]
    words = {True: "holds", False: "missed", None: "not fast on this processor"}
    for row in rows:
        pair = f"{row['what']}: {row['way']} / {row['against']}"
        lines.append(f"| {pair} | {row['ratio']:.2f} | {row['bar']:.2f} | {words[row['holds']]} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, list[float]]]:
    """Measures, prints the tables, and returns CPU seconds of every kind of input, way and round."""
    parser = argparse.ArgumentParser(description="Images and texts encoded a CPU second, as ratios to plain CLIP.")
    parser.add_argument("--size", choices=SIZES, default="small", help="towers and image size (default small)")
    parser.add_argument("--images", type=int, default=8, help="images a forward (default 8)")
    parser.add_argument("--batches", type=int, default=2, help=f"batches of {BATCH} texts a round (default 2)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default 5)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    parser.add_argument("--packing", action="store_true", help="compare the ways to leave padding out, too")
    parser.add_argument("--no-memory", action="store_true", help="leave the memory out: no further processes")
    parser.add_argument("--out", type=Path, help="write seconds, memory and ratios there as JSON")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    for name in ("images", "batches", "rounds", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, not {getattr(args, name)}")
    torch.set_num_threads(args.threads)
    if args.memory_of:
        what, way = args.memory_of.split(": ")
        before = peak_bytes()
        work, _ = prepare(args.size, args.images, 1, only=(what, way))
        with torch.no_grad():
            work[what][way]()
        print(peak_bytes() - before)
        return {}
    work, counts = prepare(args.size, args.images, args.batches)
    with torch.no_grad():
        seconds = {what: time_steps(ways, args.rounds) for what, ways in work.items()}
    work.clear()
    packing = {}
    if args.packing:
        packing = {what: time_steps(ways, args.rounds) for what, ways in packing_ways(args.size, args.images).items()}
    memory = {}
    if not args.no_memory:
        options = ["--size", args.size, "--images", str(args.images), "--threads", str(args.threads)]
        names = [f"{what}: {way}" for what, ways in seconds.items() for way in ways]
        memory = {name: measure_memory(name, options, __file__) for name in names}
    words = shlex.join(sys.argv[1:] if argv is None else argv)
    command = f"python -m benchmarks.speed.encode {words}".strip()
    bars = against_bars(seconds, fast_bfloat16())
    print(f"`{command}`\n\n{table(seconds, counts, memory)}\n\n{bars_markdown(bars)}")
    if packing:
        print(f"\n{table(packing, {}, {}, head='calls a CPU s')}")
    print(f"\n{machine()}, {args.images} images a forward, {BATCH} texts a batch")
    if args.out:
        content = {"command": command, "machine": machine(), "seconds": seconds, "packing_seconds": packing}
        write_json(args.out, content | {"memory_bytes": memory, "bars": bars})
    return seconds


if __name__ == "__main__":
    main()
