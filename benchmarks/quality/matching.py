"""python -m benchmarks.quality.matching --global-model DIR [--mined-model DIR [--mined-rows DIR]] [--true-model DIR] --out FILE

How well Region-to-Sentence Matching finds the true regions of synthetic P-VLG: precision, recall and F1 of "this
sentence has no region", one row per scorer, the proposals' ceiling beside. The models are train/train.py's:

- `--global-model`: `--regions none`; has never seen a box. Plain rules and the position prior are its rows.
- `--mined-model`: trained on pairs that the first mined, no box either; the second round, begun afresh, and with
  `--mined-rows`, what it was trained on, learnt from the pairs of the first.
- `--true-model`: trained with true pairs of the training identities, which validation and test do not share.
"""

import argparse
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataset_pvlg.loading import load_rows
from dataset_pvlg.mining.mine_rows import with_regions
from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.box_ops import box_iou
from modeling_rogle.matching.mining import SAMPLE, fit_matcher, fit_prior, match_rows, propose_anchors, spread

HEADER = "| model | scorer | precision | recall | no region, F1 | CPU ms an image |\n|---|---|---|---|---|---|"


def compare(rows: Any, found: Sequence[Sequence[dict]]) -> dict[str, float]:
    """Mined regions against the rows' own.

    Returns:
        `precision` (share of mined pairs whose box has IoU >= 0.5 with its sentence's true box), `recall` (share of
        the sentences with a true box), `none_f1` (of "no region" as the answer), in percent.
    """
    right = assigned = true = none_right = none_said = none_true = 0
    for row, regions in zip(rows.remove_columns("image"), found, strict=True):
        truth = {region["sentence"]: region["bbox"] for region in row["regions"]}
        mined = {region["sentence"]: region["bbox"] for region in regions}
        for sentence in range(len(row["sentences"])):
            true, assigned = true + (sentence in truth), assigned + (sentence in mined)
            none_true, none_said = none_true + (sentence not in truth), none_said + (sentence not in mined)
            none_right += sentence not in truth and sentence not in mined
            if sentence in truth and sentence in mined:
                right += bool(box_iou(_corners(truth[sentence]), _corners(mined[sentence]))[0, 0] >= 0.5)
    return {
        "precision": 100 * right / max(assigned, 1),
        "recall": 100 * right / max(true, 1),
        "none_f1": 200 * none_right / max(none_said + none_true, 1),
    }


def ceiling(rows: Any, propose: Any) -> tuple[float, float]:
    """Percent of sentences with a region whose best candidate has IoU >= 0.5; candidates an image."""
    covered, boxes = [], 0
    for row in rows:
        found = propose(row["image"].convert("RGB"), [s["text"] for s in row["sentences"]]).boxes
        size, boxes = np.array([row["width"], row["height"]] * 2), boxes + len(found)
        paired = [_corners(region["bbox"])[0] for region in row["regions"] if region["sentence"] >= 0]
        if paired:
            covered += (box_iou(np.array(paired) / size, found[:-1]).numpy().max(1) >= 0.5).tolist()
    return 100 * float(np.mean(covered)), boxes / max(len(rows), 1)


def remembering(propose: Any) -> Any:
    """The proposer, asked once for each image: its time is that of benchmarks/quality/proposals.py."""
    found: dict[bytes, Any] = {}

    def again(image: Any, sentences: Sequence[str]) -> Any:
        key = image.tobytes()
        if key not in found:
            found[key] = propose(image, sentences)
        return found[key]

    return again


def _corners(bbox: Sequence[float]) -> np.ndarray:
    x, y, w, h = bbox
    return np.array([[x, y, x + w, y + h]])


def measure(model: Any, processor: Any, rows: Any, **options: Any) -> dict[str, float]:
    began = time.process_time()
    found, _ = match_rows(model, processor, rows, progress=False, **options)
    return compare(rows, found) | {"ms": 1000 * (time.process_time() - began) / max(len(rows), 1)}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.matching", description=__doc__.split("\n\n")[1])
    parser.add_argument("--global-model", required=True)
    parser.add_argument("--mined-model")
    parser.add_argument("--mined-rows", help="the folder that `rogle mine` made with the global model")
    parser.add_argument("--true-model")
    parser.add_argument("--proposer", default="templates+felzenszwalb", help="or places, or another of proposals.py")
    parser.add_argument("--dataset", default="synthetic")
    parser.add_argument("--split", default="test")
    parser.add_argument("--rows", type=int, default=0, help="of the split; 0: all")
    parser.add_argument("--out", required=True)
    args = parser.parse_args(argv)
    if args.mined_rows and not args.mined_model:
        parser.error("--mined-rows: what --mined-model was trained on, and there is none")
    torch.set_num_threads(1)
    data, _ = load_rows(args.dataset)
    rows, train = data[args.split], data["train"]
    rows = rows.select(range(min(args.rows or len(rows), len(rows))))
    if args.proposer == "places":
        propose = propose_anchors
    else:
        from dataset_pvlg.proposals.proposers import load_proposer

        propose = remembering(load_proposer(args.proposer))
    best, boxes = ceiling(rows, propose)
    lines = [
        f"{len(rows)} images of {args.dataset}'s {args.split} split; proposer {args.proposer}: {boxes:.0f} candidates "
        f"an image, {best:.1f} % of the sentences' regions among them at IoU 0.5. One thread.\n",
        HEADER,
    ]

    def add(name: str, scorer: str, found: dict[str, float]) -> None:
        lines.append(
            f"| {name} | {scorer} | {found['precision']:.1f} | {found['recall']:.1f} | "
            f"{found['none_f1']:.1f} | {found['ms']:.1f} |"
        )
        print(lines[-1], flush=True)

    untaught = with_regions(train, [[]] * len(train))  # without a single box
    for name, folder in (("global", args.global_model), ("mined pairs", args.mined_model)):
        if not folder:
            continue
        model, processor = _load(folder)
        add(name, "cosine", measure(model, processor, rows, propose=propose))
        # From here on as dataset_pvlg.mining.mine_rows.fit_matching does without pairs.
        sample = spread(untaught, SAMPLE["matcher"])
        prior = fit_prior(model, processor, sample, progress=False)
        add(name, "position prior", measure(model, processor, rows, scorer=prior, propose=propose))
        sample = with_regions(sample, match_rows(model, processor, sample, prior, progress=False)[0])
        matcher = fit_matcher(model, processor, sample, progress=False)
        found = measure(model, processor, rows, scorer=matcher, propose=propose)
        add(name, "matcher of the prior's pairs", found)
        if name == "mined pairs" and args.mined_rows:  # and as it does with those of the last round
            matcher = fit_matcher(model, processor, load_rows("pvlg", args.mined_rows)[0]["train"], progress=False)
            found = measure(model, processor, rows, scorer=matcher, propose=propose)
            add(name, "matcher of the first round's pairs", found)
    if args.true_model:
        model, processor = _load(args.true_model)
        add("true pairs", "cosine", measure(model, processor, rows, propose=propose))
        matcher = fit_matcher(model, processor, train, progress=False)
        found = measure(model, processor, rows, scorer=matcher, propose=propose)
        add("true pairs", "matcher of true pairs", found)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    lines.append(
        f"\nPeak memory {peak:.0f} MiB. Command: `python -m benchmarks.quality.matching {' '.join(argv or sys.argv[1:])}`"
    )
    Path(args.out).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


def _load(folder: str) -> tuple[Any, Any]:
    return RogleModel.from_pretrained(folder).eval(), RogleProcessor.from_pretrained(folder)


if __name__ == "__main__":
    sys.exit(main())
