"""Grounding of sentences on hand-placed boxes of real images, by look-ups, templates and region-sentence matching.

    python -m benchmarks.quality.grounding DIR --model DIR [--dataset NAME] [--out FILE.json]

`DIR` has an `annotations.json`: a list of {file_path, width, height, id, long_caption, sentences, regions: [{label,
bbox x0 y0 x1 y1 in pixels, sentence_index}]}. The table has a row for each way to predict a box for a paired sentence:

- keyword look-up: reads no image. The template box of the part that the sentence names; nothing is fitted.
- fitted look-up: reads no image. A constant box for each word, chosen on the training boxes of --dataset.
- templates: the template box with the highest cosine to the sentence, by the model.
- RSM: what `rogle mine` does without any given pair. Position prior and matcher are fitted on all images of DIR; their
  boxes are not read. A sentence that RSM leaves without a region counts as a miss.

95 % intervals come from a bootstrap over identities. The second table is the local protocol on the annotated images,
with relevance by part labels.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from benchmarks.common.tables import write_json
from dataset_pvlg.features import FEATURES
from dataset_pvlg.loading import load_rows
from dataset_pvlg.mining.mine_rows import fit_matching, with_regions
from eval.intervals import bootstrap
from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.box_ops import box_iou
from modeling_rogle.evaluation.box_lookup import keyword_boxes
from modeling_rogle.evaluation.local_protocol import best_templates
from modeling_rogle.evaluation.protocols import ranked_queries
from modeling_rogle.evaluation.references import fit_look_up, reference_lines, sentences_of
from modeling_rogle.evaluation.split_embeddings import encode_split
from modeling_rogle.evaluation.tables import format_table
from modeling_rogle.matching.mining import match_rows

DRAWS = 2000


def annotated_rows(folder: Path) -> Dataset:
    """P-VLG rows of all images of a folder with `annotations.json`; images without boxes have no regions."""
    rows = []
    for entry in json.loads((folder / "annotations.json").read_text(encoding="utf-8")):
        sentences, end = [], 0
        for text in entry["sentences"]:
            start = entry["long_caption"].index(text, end)
            end = start + len(text)
            sentences.append({"text": text, "start": start, "end": end})
        row: dict[str, Any] = dict.fromkeys(FEATURES)
        row |= {
            "image": str(folder / entry["file_path"]),
            "path": entry["file_path"],
            "image_id": entry["file_path"],
            "width": entry["width"],
            "height": entry["height"],
            "person_id": entry["id"],
            "captions": [],
            "caption": entry["long_caption"],
            "caption_origin": "human",
            "sentences": sentences,
            "regions": [
                {
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "label": region["label"].replace("_", " "),
                    "sentence": region["sentence_index"],
                    "score": 1.0,
                    "reliability": 1.0,
                    "origin": "human",
                    "attributes": None,
                }
                for region in entry["regions"]
                for x0, y0, x1, y1 in [region["bbox"]]
            ],
        }
        rows.append(row)
    return Dataset.from_list(rows, features=FEATURES)


def paired_sentences(rows: Dataset) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Text, box `[N, 4]` x0, y0, x1, y1 in [0, 1], identity and (row, sentence) `[N, 2]` of every pair."""
    texts, boxes, people, at = [], [], [], []
    for n, row in enumerate(rows.remove_columns("image")):
        for region in row["regions"]:
            x, y, width, height = region["bbox"]
            texts.append(row["sentences"][region["sentence"]]["text"])
            boxes.append(np.array([x, y, x + width, y + height]) / np.array([row["width"], row["height"]] * 2))
            people.append(row["person_id"])
            at.append((n, region["sentence"]))
    return texts, np.array(boxes), np.array(people), np.array(at)


def mined_boxes(model: RogleModel, processor: RogleProcessor, rows: Dataset, at: np.ndarray) -> np.ndarray:
    """The box `[N, 4]` that RSM gives each sentence, NaN for none; the regions of the rows are not read."""
    unpaired = with_regions(rows, [[] for _ in range(len(rows))])
    matcher = fit_matching(model, processor, unpaired, progress=False)
    numbers = np.unique(at[:, 0])
    matched, _ = match_rows(model, processor, unpaired.select(numbers), matcher, progress=False)
    found: dict[tuple[int, int], np.ndarray] = {}
    for number, regions in zip(numbers.tolist(), matched, strict=True):
        size = np.array([rows[number]["width"], rows[number]["height"]] * 2)
        for region in regions:
            x, y, width, height = region["bbox"]
            found[number, region["sentence"]] = np.array([x, y, x + width, y + height]) / size
    return np.array([found.get((n, sentence), np.full(4, np.nan)) for n, sentence in at.tolist()])


def hits(predicted: np.ndarray, true: np.ndarray) -> dict[str, np.ndarray]:
    """bool `[N]` by metric; both boxes are `[N, 4]` x0, y0, x1, y1, and a NaN box is a miss."""
    centre = (predicted[:, :2] + predicted[:, 2:]) / 2
    overlap = np.array([float(box_iou(a[None], b[None])) for a, b in zip(np.nan_to_num(predicted), true, strict=True)])
    pointing = ((centre >= true[:, :2]) & (centre <= true[:, 2:])).all(axis=1)
    return {"pointing": pointing, "IoU@0.5": (overlap >= 0.5) & np.isfinite(predicted).all(axis=1)}


def interval(values: np.ndarray, people: np.ndarray) -> tuple[float, float]:
    """95 % interval in percent of a mean, from draws of whole identities."""
    person = np.unique(people, return_inverse=True)[1].reshape(-1)
    sums, counts = np.bincount(person, values), np.bincount(person)
    n = len(counts)
    times = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=DRAWS)
    low, high = np.quantile(100 * (times @ sums) / (times @ counts), [0.025, 0.975])
    return float(low), float(high)


def main(argv: Sequence[str] | None = None) -> dict:
    """Measures, prints the tables, writes the JSON file, and returns its content."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.grounding", description="Grounding on hand-placed boxes of real images."
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder with annotations.json (required)")
    parser.add_argument("--model", required=True, metavar="DIR", help="Rogle checkpoint (required)")
    parser.add_argument(
        "--dataset", default="synthetic", metavar="NAME", help="data set of the fitted look-up (default: synthetic)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all figures to a JSON file (default: none)")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    model, processor = RogleModel.from_pretrained(args.model).eval(), RogleProcessor.from_pretrained(args.model)
    rows = annotated_rows(args.folder)
    texts, boxes, people, at = paired_sentences(rows)
    look_up = fit_look_up(load_rows(args.dataset)[0]["train"])
    annotated = rows.select(np.unique(at[:, 0]))
    split = encode_split(model, processor, annotated, progress=False, split="test")
    sentence = {pair: n for n, pair in enumerate(
        (n, s) for n in np.unique(at[:, 0]).tolist() for s in range(len(rows[n]["sentences"]))
    )}  # fmt: skip
    predicted = {"keyword look-up (no image)": keyword_boxes(texts)}
    if look_up is not None:
        predicted["fitted look-up (no image)"] = look_up.boxes(texts)
    predicted["templates"] = best_templates(split, np.array([sentence[pair] for pair in map(tuple, at.tolist())]))
    predicted["RSM"] = mined_boxes(model, processor, rows, at)
    words = shlex.join(sys.argv[1:] if argv is None else argv)
    command = f"python -m benchmarks.quality.grounding {words}"
    print(f"`{command}`\n\n{len(texts)} pairs, {len(annotated)} images, {len(set(people.tolist()))} identities.\n")
    print("| box of a sentence | pointing | IoU@0.5 |\n|---|---:|---:|")
    results: dict[str, Any] = {"command": command, "pairs": len(texts), "grounding": {}}
    for name, chosen in predicted.items():
        figures = {
            metric: {"value": 100 * float(hit.mean()), "interval": interval(hit, people)}
            for metric, hit in hits(chosen.astype(np.float64), boxes).items()
        }
        results["grounding"][name] = figures
        cells = [f"{f['value']:.1f} [{f['interval'][0]:.0f}, {f['interval'][1]:.0f}]" for f in figures.values()]
        print(f"| {name} | {' | '.join(cells)} |")
    lines = ranked_queries(split, protocols=("local", "local-strict"))
    lines |= reference_lines(split, sentences_of(annotated), look_up)
    results["local"] = {f"{name}/{k}": value for name, line in lines.items() for k, value in line.scores().items()}
    intervals = {name: bootstrap(line.ranking, line.person_ids, DRAWS) for name, line in lines.items()}
    print(f"\n{format_table(results['local'], intervals)}")
    if args.out:
        write_json(args.out, results)
    return results


if __name__ == "__main__":
    main()
