"""python -m benchmarks.speed.mining [--size vitb16] [--model DIR] --out FILE.md

What Region-to-Sentence Matching saves by one dense forward an image, where crop-per-region encoding takes one forward a
candidate; one thread, the same images, candidates and scorer in one process.

- Speed, at `--size` with random weights: CPU seconds of mining, proposals and sentences included, and where they go.
  The two ways take turns, dense first: the process's peak memory until then is its own. At least 40x is wanted.
- Quality, of the trained `--model` on synthetic validation rows: a matcher fitted on each way's own embeddings of the
  same training rows. Dense may lose 2 points of precision and of recall at most.
"""

import argparse
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import CLIPImageProcessorPil

from benchmarks.quality.matching import compare
from benchmarks.speed.step import SIZES, configurations, machine, peak_bytes
from dataset_pvlg.features import FEATURES
from dataset_pvlg.proposals.proposers import PROPOSER_NAMES, load_proposer
from dataset_pvlg.synthetic.dataset import SyntheticConfig
from dataset_pvlg.synthetic.dataset import rows as synthetic_rows
from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.box_ops import crop_boxes
from modeling_rogle.matching.mining import Proposer, fit_matcher, match_rows, propose_anchors

BAR_SPEED, BAR_POINTS = 40.0, 2.0
_CROPS = 32  # of a forward, as many as mining takes images


class AsCrops:
    """A model whose regions are images of their own: the published relatives' way, for the fit as for mining."""

    def __init__(self, model: RogleModel):
        self.model = model

    def parameters(self):
        return self.model.parameters()

    def encode_images(
        self, pixel_values: torch.Tensor, boxes: torch.Tensor, box_image: torch.Tensor
    ) -> tuple[None, torch.Tensor]:
        crops = crop_boxes(pixel_values, boxes, box_image).split(_CROPS)
        return None, torch.cat([self.model.encode_images(part)[0] for part in crops])

    def encode_texts(self, *arguments: torch.Tensor) -> torch.Tensor:
        return self.model.encode_texts(*arguments)


class Timed:
    """A model or a proposer, and the CPU seconds spent in each of its methods."""

    def __init__(self, model: RogleModel | AsCrops, propose: Proposer):
        self.model, self._propose = model, propose
        self.seconds = {"proposals": 0.0, "images": 0.0, "sentences": 0.0}
        self.boxes = 0

    def parameters(self):
        return self.model.parameters()

    def _time(self, name: str, call: Callable, *arguments: Any) -> Any:
        began = time.process_time()
        found = call(*arguments)
        self.seconds[name] += time.process_time() - began
        return found

    def propose(self, *arguments: Any) -> Any:
        found = self._time("proposals", self._propose, *arguments)
        self.boxes += len(found.boxes)
        return found

    def encode_images(self, *arguments: torch.Tensor) -> Any:
        return self._time("images", self.model.encode_images, *arguments)

    def encode_texts(self, *arguments: torch.Tensor) -> torch.Tensor:
        return self._time("sentences", self.model.encode_texts, *arguments)


def take(split: str, count: int, images: int = 4) -> Dataset:
    """The first rows of a split of synthetic P-VLG, drawn here, with so many images of each person."""
    config = SyntheticConfig(images_per_identity=images)
    people = -(-count // config.images_per_identity)
    return Dataset.from_list(list(synthetic_rows(split, 0, people, config))[:count], features=FEATURES)


def proposer(name: str) -> Proposer:
    return propose_anchors if name == "places" else load_proposer(name)


def random_model(size: str, processor: RogleProcessor) -> tuple[RogleModel, RogleProcessor]:
    """Random weights of a size, with the words of a trained processor and images of the size's rectangle."""
    torch.manual_seed(0)
    config = configurations(size)[0]
    config.text_config.vocab_size = max(config.text_config.vocab_size, len(processor.tokenizer))
    config.text_config.eos_token_id = processor.tokenizer.eos_token_id
    model = RogleModel(config).eval()
    height, width = SIZES[size][0]
    images = CLIPImageProcessorPil(size={"height": height, "width": width}, do_center_crop=False)
    return model, RogleProcessor(images, processor.tokenizer)


def time_mining(
    model: RogleModel | AsCrops, processor: RogleProcessor, rows: Dataset, propose: Proposer
) -> dict[str, float]:
    """CPU seconds an image of mining (`total`) and of its parts, and candidates an image (`boxes`)."""
    timed = Timed(model, propose)
    began = time.process_time()
    match_rows(timed, processor, rows, propose=timed.propose, batch_size=min(8, len(rows)), progress=False)
    total = time.process_time() - began
    parts = {name: seconds / len(rows) for name, seconds in timed.seconds.items()}
    rest = total / len(rows) - sum(parts.values())
    return {"total": total / len(rows), **parts, "rest": rest, "boxes": timed.boxes / len(rows)}


def speed(
    size: str, words: RogleProcessor, propose: Proposer, images: int, crop_images: int, rounds: int
) -> tuple[dict[str, list[dict[str, float]]], dict[str, int]]:
    """Either way's rounds of [`time_mining`] and peak bytes, at a size with random weights; see [`random_model`]."""
    model, processor = random_model(size, words)
    rows = take("validation", max(images, crop_images), images=1)  # nobody shares sentences
    ways = {"dense": (model, rows.select(range(images))), "crops": (AsCrops(model), rows.select(range(crop_images)))}
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    memory: dict[str, int] = {}
    time_mining(model, processor, rows.select(range(1)), propose)  # the first call of everything is slower
    for _ in range(rounds):
        for way, (each, some) in ways.items():  # dense, which needs less, comes first: the peak until then is its own
            found[way].append(time_mining(each, processor, some, propose))
            memory.setdefault(way, peak_bytes())
            print(way, {name: round(value, 3) for name, value in found[way][-1].items()}, file=sys.stderr, flush=True)
    return found, memory


def middle(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """Medians."""
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


def speed_markdown(found: dict[str, dict[str, float]], memory: dict[str, int]) -> str:
    """One row for each way; the ratio last."""
    lines = [
        "| regions by | CPU s an image | proposals | images | sentences | rest | boxes an image | boxes a CPU s | peak "
        "memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for way, f in found.items():
        parts = " | ".join(f"{f[name]:.3f}" for name in ("total", "proposals", "images", "sentences", "rest"))
        peak = f"{memory[way] / 2**20:.0f} MiB" if way in memory else "-"
        lines.append(f"| {way} | {parts} | {f['boxes']:.0f} | {f['boxes'] / f['total']:.0f} | {peak} |")
    ratio = found["crops"]["total"] / found["dense"]["total"]
    towers = found["crops"]["images"] / found["dense"]["images"]
    word = "holds" if ratio >= BAR_SPEED else "missed"
    lines.append(
        f"\nDense mining is {ratio:.1f} times as fast, proposals and sentences included (at least {BAR_SPEED:.0f} is "
        f"wanted: {word}); of the image tower alone {towers:.1f} times."
    )
    return "\n".join(lines)


def quality(
    model: RogleModel, processor: RogleProcessor, train: Dataset, rows: Dataset, propose: Proposer
) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 of "no region" of either way, a matcher fitted on the way's own embeddings."""
    found = {}
    for way, each in (("dense", model), ("crops", AsCrops(model))):
        matcher = fit_matcher(each, processor, train, progress=False)
        mined, _ = match_rows(each, processor, rows, matcher, propose, progress=False)
        found[way] = compare(rows, mined)
    return found


def quality_markdown(found: dict[str, dict[str, float]]) -> str:
    lines = ["| regions by | precision | recall | no region, F1 |", "|---|---|---|---|"]
    for way, f in found.items():
        lines.append(f"| {way} | {f['precision']:.1f} | {f['recall']:.1f} | {f['none_f1']:.1f} |")
    behind = {name: found["crops"][name] - found["dense"][name] for name in ("precision", "recall")}
    word = "holds" if max(behind.values()) <= BAR_POINTS else "missed"
    lines.append(
        f"\nDense is {behind['precision']:+.1f} points of precision and {behind['recall']:+.1f} of recall behind crops "
        f"(at most {BAR_POINTS:.0f} are allowed: {word})."
    )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.mining", description=__doc__.split("\n\n")[1])
    parser.add_argument("--size", choices=SIZES, default="vitb16", help="of the random model that is timed")
    parser.add_argument("--model", required=True, metavar="DIR", help="trained; its words serve the random one too")
    parser.add_argument("--proposer", choices=("places", *PROPOSER_NAMES[:3]), default="templates+felzenszwalb")
    parser.add_argument("--images", type=int, default=8, help="mined densely a round (default 8)")
    parser.add_argument("--crop-images", type=int, default=1, help="mined by crops a round (default 1)")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds (default 3; 0: quality alone)")
    parser.add_argument("--train-rows", type=int, default=400, help="that the matchers are fitted on (default 400)")
    parser.add_argument("--rows", type=int, default=60, help="validation rows of the quality (default 60; 0: none)")
    parser.add_argument("--out", metavar="FILE.md", help="write the tables there")
    words = list(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    own = RogleProcessor.from_pretrained(args.model)
    propose = proposer(args.proposer)
    command = f"python -m benchmarks.speed.mining {shlex.join(words)}"
    text = [f"`{command}`, {machine()}; proposer {args.proposer}."]
    if args.rounds:
        rounds, memory = speed(args.size, own, propose, args.images, args.crop_images, args.rounds)
        text.append(
            f"\nRandom weights of size {args.size}; {args.rounds} rounds of {args.images} images densely and of "
            f"{args.crop_images} by crops in turn, medians:\n"
        )
        text.append(speed_markdown({way: middle(each) for way, each in rounds.items()}, memory))
    print("\n".join(text), flush=True)
    if args.rows:
        trained = RogleModel.from_pretrained(args.model).eval()
        found = quality(trained, own, take("train", args.train_rows), take("validation", args.rows), propose)
        text.append(
            f"\n{Path(args.model).parent.name or args.model}/{Path(args.model).name}, {args.rows} synthetic validation "
            f"rows, a matcher of true pairs of {args.train_rows} training rows on each way's embeddings:\n"
        )
        text.append(quality_markdown(found))
        print("\n".join(text[-2:]))
    if args.out:
        Path(args.out).write_text("\n".join(text) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
