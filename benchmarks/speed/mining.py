"""Time of mining regions with one dense forward pass an image, against one forward pass a candidate region (crops).

    python -m benchmarks.speed.mining --model DIR [--size vitb16] [--out FILE.md]

Both use the same images, candidates and scorer in one process, on one thread.

- Speed, at `--size` with random weights: the CPU seconds of mining an image, with proposals and sentences, by part. The
  two variants take turns. Dense mining comes first, so that the peak memory up to then is its own. Target: 40 times as
  fast as crops.
- Quality, with the trained `--model` on synthetic validation rows: for each variant, a matcher is fitted on its own
  embeddings of the same training rows. Target: at most 2 points of precision and of recall below crops.
"""

import argparse
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import CLIPImageProcessorPil

from benchmarks.common.memory import peak_bytes
from benchmarks.common.mined_pairs import score_mined_pairs
from benchmarks.common.random_models import SIZES, configurations
from benchmarks.common.timing import describe_machine
from dataset_pvlg.features import FEATURES
from dataset_pvlg.mining.mine_rows import parse_proposer
from dataset_pvlg.synthetic.dataset import SyntheticConfig
from dataset_pvlg.synthetic.dataset import rows as synthetic_rows
from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.box_ops import crop_boxes
from modeling_rogle.matching.mining import Proposer, fit_matcher, match_rows

SPEED_TARGET, QUALITY_TARGET = 40.0, 2.0
PARTS = ("proposals", "images", "sentences", "rest")
_CROPS_PER_FORWARD = 32  # the number of images that mining encodes at once


class CropEncoder:
    """A model that encodes each region as an image of its own, as GOAL does."""

    def __init__(self, model: RogleModel):
        self.model = model

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        return self.model.parameters()

    def encode_images(
        self, pixel_values: torch.Tensor, boxes: torch.Tensor, box_image: torch.Tensor
    ) -> tuple[None, torch.Tensor]:
        crops = crop_boxes(pixel_values, boxes, box_image).split(_CROPS_PER_FORWARD)
        return None, torch.cat([self.model.encode_images(part)[0] for part in crops])

    def encode_texts(self, *arguments: torch.Tensor) -> torch.Tensor:
        return self.model.encode_texts(*arguments)


class TimedEncoder:
    """A model and a proposer that measure the CPU seconds of each of their methods.

    Attributes:
        seconds: CPU seconds of `proposals`, `images` and `sentences`.
        boxes: number of proposed boxes.
    """

    def __init__(self, model: RogleModel | CropEncoder, propose: Proposer):
        self.model, self._propose = model, propose
        self.seconds = {"proposals": 0.0, "images": 0.0, "sentences": 0.0}
        self.boxes = 0

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        return self.model.parameters()

    def _time(self, name: str, call: Callable, *arguments: Any) -> Any:
        started = time.process_time()
        result = call(*arguments)
        self.seconds[name] += time.process_time() - started
        return result

    def propose(self, *arguments: Any) -> Any:
        candidates = self._time("proposals", self._propose, *arguments)
        self.boxes += len(candidates.boxes)
        return candidates

    def encode_images(self, *arguments: torch.Tensor) -> Any:
        return self._time("images", self.model.encode_images, *arguments)

    def encode_texts(self, *arguments: torch.Tensor) -> torch.Tensor:
        return self._time("sentences", self.model.encode_texts, *arguments)


def first_rows(split: str, count: int, images_per_identity: int = 4) -> Dataset:
    """The first `count` rows of a split of synthetic P-VLG, rendered here."""
    config = SyntheticConfig(images_per_identity=images_per_identity)
    people = -(-count // config.images_per_identity)
    return Dataset.from_list(list(synthetic_rows(split, 0, people, config))[:count], features=FEATURES)


def random_model(size: str, processor: RogleProcessor) -> tuple[RogleModel, RogleProcessor]:
    """A model of a size with random weights, and its processor with the tokenizer of a trained one."""
    torch.manual_seed(0)
    config = configurations(size)[0]
    config.text_config.vocab_size = max(config.text_config.vocab_size, len(processor.tokenizer))
    config.text_config.eos_token_id = processor.tokenizer.eos_token_id
    model = RogleModel(config).eval()
    height, width = SIZES[size][0]
    images = CLIPImageProcessorPil(size={"height": height, "width": width}, do_center_crop=False)
    return model, RogleProcessor(images, processor.tokenizer)


def time_mining(
    model: RogleModel | CropEncoder, processor: RogleProcessor, rows: Dataset, propose: Proposer
) -> dict[str, float]:
    """CPU seconds an image of mining (`total`) and of its `PARTS`, and candidates an image (`boxes`)."""
    timed = TimedEncoder(model, propose)
    started = time.process_time()
    match_rows(timed, processor, rows, propose=timed.propose, batch_size=min(8, len(rows)), progress=False)
    total = time.process_time() - started
    parts = {name: seconds / len(rows) for name, seconds in timed.seconds.items()}
    rest = total / len(rows) - sum(parts.values())
    return {"total": total / len(rows), **parts, "rest": rest, "boxes": timed.boxes / len(rows)}


def measure_speed(
    size: str, trained_processor: RogleProcessor, propose: Proposer, images: int, crop_images: int, rounds: int
) -> tuple[dict[str, list[dict[str, float]]], dict[str, int]]:
    """Times both variants in turn.

    Args:
        size: a size of `SIZES`.
        trained_processor: its tokenizer is used.
        propose: proposer of candidate regions.
        images: images of a round of dense mining.
        crop_images: images of a round of mining by crops.
        rounds: timed rounds.

    Returns:
        Variant (`dense`, `crops`) -> a result of [`time_mining`] a round, and variant -> peak bytes.
    """
    model, processor = random_model(size, trained_processor)
    rows = first_rows("validation", max(images, crop_images), images_per_identity=1)  # no two share a sentence
    variants = {
        "dense": (model, rows.select(range(images))),
        "crops": (CropEncoder(model), rows.select(range(crop_images))),
    }
    results: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    memory: dict[str, int] = {}
    time_mining(model, processor, rows.select(range(1)), propose)  # warms up
    for _ in range(rounds):
        for name, (encoder, some_rows) in variants.items():
            results[name].append(time_mining(encoder, processor, some_rows, propose))
            memory.setdefault(name, peak_bytes())
            shown = {part: round(value, 3) for part, value in results[name][-1].items()}
            print(name, shown, file=sys.stderr, flush=True)
    return results, memory


def median_round(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each figure over the rounds."""
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


def speed_markdown(medians: Mapping[str, Mapping[str, float]], memory: Mapping[str, int]) -> str:
    """A table with a row for each variant, and the ratio of both."""
    lines = [
        "| regions by | CPU s an image | proposals | images | sentences | rest | boxes an image | boxes a CPU s | peak "
        "memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in medians.items():
        parts = " | ".join(f"{row[part]:.3f}" for part in ("total", *PARTS))
        peak = f"{memory[name] / 2**20:.0f} MiB" if name in memory else "-"
        lines.append(f"| {name} | {parts} | {row['boxes']:.0f} | {row['boxes'] / row['total']:.0f} | {peak} |")
    ratio = medians["crops"]["total"] / medians["dense"]["total"]
    tower_ratio = medians["crops"]["images"] / medians["dense"]["images"]
    verdict = "holds" if ratio >= SPEED_TARGET else "missed"
    lines.append(
        f"\nDense mining is {ratio:.1f} times as fast as crops, with proposals and sentences (target: at least "
        f"{SPEED_TARGET:.0f}, {verdict}). The image tower alone is {tower_ratio:.1f} times as fast."
    )
    return "\n".join(lines)


def measure_quality(
    model: RogleModel, processor: RogleProcessor, train: Dataset, rows: Dataset, propose: Proposer
) -> dict[str, dict[str, float]]:
    """Scores of mined pairs for each variant, with a matcher that is fitted on the variant's own embeddings."""
    scores = {}
    for name, encoder in (("dense", model), ("crops", CropEncoder(model))):
        matcher = fit_matcher(encoder, processor, train, progress=False)
        mined, _ = match_rows(encoder, processor, rows, matcher, propose, progress=False)
        scores[name] = score_mined_pairs(rows, mined)
    return scores


def quality_markdown(scores: Mapping[str, Mapping[str, float]]) -> str:
    """A table with a row for each variant, and the difference of both."""
    lines = ["| regions by | precision | recall | no region, F1 |", "|---|---|---|---|"]
    for name, row in scores.items():
        lines.append(f"| {name} | {row['precision']:.1f} | {row['recall']:.1f} | {row['none_f1']:.1f} |")
    loss = {name: scores["crops"][name] - scores["dense"][name] for name in ("precision", "recall")}
    verdict = "holds" if max(loss.values()) <= QUALITY_TARGET else "missed"
    lines.append(
        f"\nDense mining loses {loss['precision']:+.1f} points of precision and {loss['recall']:+.1f} of recall "
        f"against crops (target: at most {QUALITY_TARGET:.0f}, {verdict})."
    )
    return "\n".join(lines)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.mining",
        description="Time and quality of dense mining, against one crop a candidate region.",
    )
    parser.add_argument(
        "--size", choices=SIZES, default="vitb16", help="towers of the random model that is timed (default: vitb16)"
    )
    parser.add_argument(
        "--model", required=True, metavar="DIR", help="trained model; the random model uses its tokenizer (required)"
    )
    parser.add_argument(
        "--proposer",
        default="templates+felzenszwalb",
        metavar="NAME",
        help="source of candidate regions, as for rogle mine (default: templates+felzenszwalb)",
    )
    parser.add_argument("--images", type=int, default=8, help="images a round, dense (default: 8)")
    parser.add_argument("--crop-images", type=int, default=1, help="images a round, by crops (default: 1)")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds; 0 measures quality only (default: 3)")
    parser.add_argument("--train-rows", type=int, default=400, help="rows that matchers are fitted on (default: 400)")
    parser.add_argument("--rows", type=int, default=60, help="validation rows; 0 measures speed only (default: 60)")
    parser.add_argument("--out", metavar="FILE.md", help="also write the tables to a file (default: none)")
    args = parser.parse_args(argv)
    try:
        args.propose = parse_proposer(args.proposer)
    except ValueError as error:
        parser.error(str(error))
    return args


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    args = parse(words)
    torch.set_num_threads(1)
    processor = RogleProcessor.from_pretrained(args.model)
    text = [f"`python -m benchmarks.speed.mining {shlex.join(words)}`, {describe_machine()}; proposer {args.proposer}."]
    if args.rounds:
        rounds, memory = measure_speed(args.size, processor, args.propose, args.images, args.crop_images, args.rounds)
        text.append(
            f"\nRandom weights of size {args.size}; medians of {args.rounds} rounds of {args.images} images dense and "
            f"{args.crop_images} by crops, in turn:\n"
        )
        text.append(speed_markdown({name: median_round(each) for name, each in rounds.items()}, memory))
    print("\n".join(text), flush=True)
    if args.rows:
        model = RogleModel.from_pretrained(args.model).eval()
        train, rows = first_rows("train", args.train_rows), first_rows("validation", args.rows)
        scores = measure_quality(model, processor, train, rows, args.propose)
        text.append(
            f"\n{Path(args.model).parent.name or args.model}/{Path(args.model).name}, {args.rows} synthetic validation "
            f"rows; for each variant a matcher of {args.train_rows} training rows with ground-truth pairs:\n"
        )
        text.append(quality_markdown(scores))
        print("\n".join(text[-2:]))
    if args.out:
        Path(args.out).write_text("\n".join(text) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
