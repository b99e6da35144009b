"""Precision and recall of Region-to-Sentence Matching, against the ground-truth regions of synthetic P-VLG.

    python -m benchmarks.quality.matching --global-model DIR [--mined-model DIR [--mined-rows DIR]]
        [--ground-truth-model DIR] --out FILE.md

The table has one row for each model and scorer, with precision, recall, the F1 score of "this sentence has no region",
and CPU time. It also prints the share of regions that the proposals contain. The models come from train/train.py:

- `--global-model`: trained with `--regions none`. It scores with the plain cosine, with the position prior, and with a
  matcher of the prior's pairs.
- `--mined-model`: trained on pairs that the global model mined. With `--mined-rows`, the rows that it was trained on,
  it also scores with a matcher of those pairs.
- `--ground-truth-model`: trained with the ground-truth pairs of the training identities, which validation and test do
  not share.

The anchor boxes and thresholds of the matcher were chosen on ground-truth boxes (docs/measurements.md), so no row is
free of ground truth.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from benchmarks.common.mined_pairs import box_corners, score_mined_pairs
from dataset_pvlg.loading import load_rows
from dataset_pvlg.mining.mine_rows import parse_proposer, with_regions
from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.box_ops import box_iou
from modeling_rogle.matching.mining import SAMPLE, Proposer, fit_matcher, fit_prior, match_rows, spread

HEADER = "| model | scorer | precision | recall | no region, F1 | CPU ms an image |\n|---|---|---|---|---|---|"
Scores = dict[str, float]
Measure = Callable[..., Scores]


def proposal_recall(rows: Dataset, propose: Proposer) -> tuple[float, float]:
    """How many regions the proposals contain.

    Returns:
        Percent of sentences with a region whose best candidate has IoU >= 0.5, and mean candidates an image.
    """
    covered, boxes = [], 0
    for row in rows:
        candidates = propose(row["image"].convert("RGB"), [s["text"] for s in row["sentences"]]).boxes
        size, boxes = np.array([row["width"], row["height"]] * 2), boxes + len(candidates)
        true_boxes = [box_corners(region["bbox"])[0] for region in row["regions"] if region["sentence"] >= 0]
        if true_boxes:
            covered += (box_iou(np.array(true_boxes) / size, candidates[:-1]).numpy().max(1) >= 0.5).tolist()
    return 100 * float(np.mean(covered)), boxes / max(len(rows), 1)


def cached(propose: Proposer) -> Proposer:
    """The same proposer, called once an image, so that its time is counted once."""
    results: dict[bytes, Any] = {}

    def propose_once(image: Any, sentences: Sequence[str]) -> Any:
        key = image.tobytes()
        if key not in results:
            results[key] = propose(image, sentences)
        return results[key]

    return propose_once


def measure(model: RogleModel, processor: RogleProcessor, rows: Dataset, **options: Any) -> Scores:
    """Scores of the pairs that `match_rows` mines with these options, and CPU milliseconds an image (`ms`)."""
    started = time.process_time()
    mined, _ = match_rows(model, processor, rows, progress=False, **options)
    return score_mined_pairs(rows, mined) | {"ms": 1000 * (time.process_time() - started) / max(len(rows), 1)}


def without_ground_truth(
    model: RogleModel, processor: RogleProcessor, unpaired: Dataset, scores_of: Measure
) -> Iterator[tuple[str, Scores]]:
    """Scorers that need no pair: plain cosine, position prior, and a matcher of the prior's pairs.

    They are fitted as `dataset_pvlg.mining.mine_rows.fit_matching` does on rows without pairs.

    Args:
        model: the model.
        processor: its processor.
        unpaired: training rows without regions.
        scores_of: measures a model with a scorer.

    Yields:
        Name of the scorer, and its scores.
    """
    yield "cosine", scores_of(model, processor)
    sample = spread(unpaired, SAMPLE["matcher"])
    prior = fit_prior(model, processor, sample, progress=False)
    yield "position prior", scores_of(model, processor, scorer=prior)
    sample = with_regions(sample, match_rows(model, processor, sample, prior, progress=False)[0])
    matcher = fit_matcher(model, processor, sample, progress=False)
    yield "matcher of the prior's pairs", scores_of(model, processor, scorer=matcher)


def measure_all(args: argparse.Namespace, train: Dataset, scores_of: Measure) -> Iterator[tuple[str, str, Scores]]:
    """Names of model and scorer, and scores, for each row of the table."""
    unpaired = with_regions(train, [[]] * len(train))
    model, processor = _load(args.global_model)
    for scorer, scores in without_ground_truth(model, processor, unpaired, scores_of):
        yield "global", scorer, scores
    if args.mined_model:
        model, processor = _load(args.mined_model)
        for scorer, scores in without_ground_truth(model, processor, unpaired, scores_of):
            yield "mined pairs", scorer, scores
        if args.mined_rows:
            mined = load_rows("pvlg", args.mined_rows)[0]["train"]
            matcher = fit_matcher(model, processor, mined, progress=False)
            yield "mined pairs", "matcher of the first round's pairs", scores_of(model, processor, scorer=matcher)
    if args.ground_truth_model:
        model, processor = _load(args.ground_truth_model)
        yield "ground-truth pairs", "cosine", scores_of(model, processor)
        matcher = fit_matcher(model, processor, train, progress=False)
        yield "ground-truth pairs", "matcher of ground-truth pairs", scores_of(model, processor, scorer=matcher)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.matching",
        description="Precision and recall of mined region-sentence pairs on synthetic P-VLG.",
    )
    parser.add_argument("--global-model", required=True, metavar="DIR", help="model trained without regions (required)")
    parser.add_argument("--mined-model", metavar="DIR", help="model trained on mined pairs (default: none)")
    parser.add_argument(
        "--mined-rows", metavar="DIR", help="rows that rogle mine wrote with the global model (default: none)"
    )
    parser.add_argument(
        "--ground-truth-model", metavar="DIR", help="model trained on ground-truth pairs (default: none)"
    )
    parser.add_argument(
        "--proposer",
        default="templates+felzenszwalb",
        metavar="NAME",
        help="source of candidate regions, as for rogle mine (default: templates+felzenszwalb)",
    )
    parser.add_argument("--dataset", default="synthetic", metavar="NAME", help="P-VLG data set (default: synthetic)")
    parser.add_argument("--split", default="test", help="split to measure on (default: test)")
    parser.add_argument("--rows", type=int, default=0, help="first rows of the split; 0 for all (default: 0)")
    parser.add_argument("--out", required=True, metavar="FILE.md", help="file for the table (required)")
    args = parser.parse_args(argv)
    if args.mined_rows and not args.mined_model:
        parser.error("--mined-rows needs --mined-model")
    try:
        args.propose = parse_proposer(args.proposer)
    except ValueError as error:
        parser.error(str(error))
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    torch.set_num_threads(1)
    data, _ = load_rows(args.dataset)
    rows = data[args.split]
    rows = rows.select(range(min(args.rows or len(rows), len(rows))))
    propose = cached(args.propose)
    recall, boxes = proposal_recall(rows, propose)
    lines = [
        f"{len(rows)} images of {args.dataset}'s {args.split} split; proposer {args.proposer}: {boxes:.0f} candidates "
        f"an image, which contain {recall:.1f} % of the sentences' regions at IoU 0.5. One thread.\n",
        HEADER,
    ]

    def scores_of(model: RogleModel, processor: RogleProcessor, **options: Any) -> Scores:
        return measure(model, processor, rows, propose=propose, **options)

    for model, scorer, scores in measure_all(args, data["train"], scores_of):
        figures = " | ".join(f"{scores[name]:.1f}" for name in ("precision", "recall", "none_f1", "ms"))
        lines.append(f"| {model} | {scorer} | {figures} |")
        print(lines[-1], flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    command = f"python -m benchmarks.quality.matching {' '.join(argv or sys.argv[1:])}"
    lines.append(f"\nPeak memory {peak:.0f} MiB. Command: `{command}`")
    Path(args.out).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


def _load(folder: str) -> tuple[RogleModel, RogleProcessor]:
    return RogleModel.from_pretrained(folder).eval(), RogleProcessor.from_pretrained(folder)


if __name__ == "__main__":
    sys.exit(main())
