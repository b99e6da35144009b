"""`rogle data card`: measure synthetic P-VLG and write its data card.

The benchmark must require looking at the image. The card therefore has bounds: look-ups without an image and rules of
colour alone must fail, an oracle that knows the true attributes must succeed, and a small model that learns the true
regions must find them (`benchmarks.studies.positive_control`).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from dataset_pvlg.features import REGION_LABELS
from dataset_pvlg.synthetic import baselines
from dataset_pvlg.synthetic.dataset import GENERATOR_VERSION, ORIGINS, SyntheticConfig, rows
from dataset_pvlg.synthetic.facts import is_true, satisfying

BOUNDS: dict[str, tuple[str, float]] = {
    "fitted": ("<=", 45.0),
    "unfitted": ("<=", 20.0),
    "colour": ("<=", 4.0),
    "height": ("<=", 25.0),
    "oracle": (">=", 95.0),
    "false": ("<=", 0.0),
    "recall, given regions": (">=", 80.0),
    "recall": (">=", 80.0),
    "lead": (">=", 3.0),
}
SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)
_CHUNK = 25  # identities that a process draws at a time


def draw_rows(split: str, config: SyntheticConfig, processes: int, with_colours: bool) -> tuple[list[dict], np.ndarray]:
    """The rows of a split without their images, drawn by several processes.

    Args:
        split: train, validation or test.
        config: sizes and seed.
        processes: number of processes.
        with_colours: whether to return the colour maps too.

    Returns:
        The rows, and uint8 `[N, H, W]` of `baselines.colour_map`, with N 0 without colours.
    """
    count = config.identities(split)
    tasks = [(split, start, min(start + _CHUNK, count), config, with_colours) for start in range(0, count, _CHUNK)]
    if processes == 1:
        parts = [_draw_chunk(task) for task in tasks]
    else:
        with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
            parts = list(pool.map(_draw_chunk, tasks))
    maps = list(chain.from_iterable(part[1] for part in parts))
    return list(chain.from_iterable(part[0] for part in parts)), np.array(maps)


def _draw_chunk(task: tuple[str, int, int, SyntheticConfig, bool]) -> tuple[list[dict], list[np.ndarray]]:
    split, start, stop, config, with_colours = task
    drawn, maps = [], []
    for row in rows(split, start, stop, config):
        if with_colours:
            maps.append(baselines.colour_map(Image.open(io.BytesIO(row["image"]["bytes"]))))
        drawn.append(row | {"image": None})
    return drawn, maps


def false_sentences(table: Sequence[dict]) -> list[str]:
    """Sentences that the attributes of their own image do not decide, or whose pairs are wrong.

    A sentence with groups must be true of its image, and its regions must be regions that satisfy one of its groups.
    """
    wrong = []
    for row in table:
        _, attributes, owned = baselines.regions_of(row)
        sets = [frozenset(a) for a in attributes]
        for n, groups in enumerate(row["claims"]):
            paired = {r for r, numbers in enumerate(owned) if n in numbers}
            allowed = {r for group in groups for r in satisfying(group, sets)}
            if not is_true(groups, sets) or bool(groups) != bool(paired) or not paired <= allowed:
                wrong.append(f"{row['image_id']}: {row['sentences'][n]['text']}")
    return wrong


def measure(config: SyntheticConfig | None = None, processes: int = 2) -> dict:
    """Draws training and test split and measures all figures of the card but those of the positive control.

    Args:
        config: sizes and seed. None: the defaults.
        processes: number of processes that draw.

    Returns:
        `rows` (those of test) and the figures by name, in percent unless said otherwise.
    """
    config = config or SyntheticConfig()
    train, _ = draw_rows("train", config, processes, False)
    return measure_rows(train, *draw_rows("test", config, processes, True))


def measure_rows(train: Sequence[dict], test: list[dict], maps: np.ndarray) -> dict:
    """The figures of [`measure`] for rows that have been drawn; `maps` are the colour maps of `test`."""
    texts, boxes, _ = baselines.pairs_of(train)
    seen, true, owner = baselines.pairs_of(test)
    look_ups = {
        "constant box": baselines.LookUp(texts, boxes, 1),
        "two boxes": baselines.LookUp(texts, boxes, 2),
        "word regression": baselines.WordRegression(texts, boxes),
    }
    recalls = {name: baselines.recall(look_up, seen, true) for name, look_up in look_ups.items()}
    ids = np.array([row["person_id"] for row in test])
    whole, height = baselines.colour_scores(test, maps)
    table = baselines.fact_table(test)
    oracle = baselines.oracle_scores(test, table)
    second = np.array([row["caption_origin"] == ORIGINS[1] for row in test])
    return {
        "rows": test,
        "recalls": recalls,
        "fitted": max(recalls.values()),
        "unfitted": baselines.recall(baselines.Proportions(), seen, true),
        "colour": baselines.recall_at_1(whole, ids, ids),
        "height": baselines.recall_at_1(height, ids, ids),
        "oracle": baselines.recall_at_1(oracle, ids, ids),
        "oracle of the second grammar": baselines.recall_at_1(oracle[second], ids[second], ids),
        "false": len(false_sentences(test)) + len(false_sentences(train)),
        "checked": sum(len(row["sentences"]) for row in (*train, *test)),
        "true_of": _true_of(test, table),
        "unseen": _unseen_share(train, test),
    }


def _true_of(test: Sequence[dict], table) -> np.ndarray:
    """For some sentences with a region, the number of regions of the gallery of which each is true."""
    counts = []
    for row in test[:: max(1, len(test) // 400)]:
        for groups in row["claims"]:
            if groups:
                allowed = np.logical_or.reduce([table.regions_with(group) for group in groups])
                counts.append(int((allowed & table.images_where(groups)[table.owner]).sum()))
    return np.array(counts or [0])


def _unseen_share(train: Sequence[dict], test: Sequence[dict]) -> float:
    """Percentage of test sentences of the first grammar with a word that no long caption of train has."""
    known = {word for row in train for word in re.findall(r"[a-z'-]+", row["caption"].lower())}
    sentences = [s["text"] for row in test if row["caption_origin"] == ORIGINS[0] for s in row["sentences"]]
    unseen = [not set(re.findall(r"[a-z'-]+", text.lower())) <= known for text in sentences]
    return 100 * float(np.mean(unseen or [False]))


def failures(numbers: dict) -> list[str]:
    """The figures that miss their bound, one line each."""
    checks: dict[str, Callable[[float, float], bool]] = {"<=": lambda a, b: a <= b, ">=": lambda a, b: a >= b}
    return [
        f"{name}: {numbers[name]:.2f}, bound {sign} {bound:g}"
        for name, (sign, bound) in BOUNDS.items()
        if name in numbers and not checks[sign](numbers[name], bound)
    ]


def _quantiles(values: Sequence[float]) -> str:
    return " / ".join(f"{v:.0f}" for v in np.percentile(values, [5, 50, 95])) + f" (max {max(values):.0f})"


def format_card(numbers: dict, config: SyntheticConfig | None = None) -> str:
    """The card as Markdown.

    Args:
        numbers: the result of [`measure`], and of the positive control if it has been run.
        config: the configuration that was measured. None: the defaults.
    """
    config = config or SyntheticConfig()
    table = numbers["rows"]
    splits = [
        f"| {split} | {config.identities(split):,} | {config.identities(split) * config.images_per_identity:,} |"
        for split in ("train", "validation", "test")
    ]
    return CARD.format(
        version=GENERATOR_VERSION,
        seed=config.seed,
        count=len(table),
        splits="\n".join(splits),
        chance=100 / max(config.test_identities, 1),
        control=_control(numbers),
        recalls=", ".join(f"{name} {value:.1f}" for name, value in numbers["recalls"].items()),
        true_of=_quantiles(numbers["true_of"]),
        bounds={name: f"{sign} {bound:g}" for name, (sign, bound) in BOUNDS.items()},
        **{name: numbers[name] for name in ("fitted", "unfitted", "colour", "height", "oracle", "false", "checked")},
        second=numbers["oracle of the second grammar"],
        unseen=numbers["unseen"],
        **_caption_facts(table),
        **_region_facts(table),
    )


def _control(numbers: dict) -> str:
    if "recall" not in numbers:
        return "The positive control was not run with these sizes."
    return CONTROL.format(
        bound_recall="{} {:g}".format(*BOUNDS["recall, given regions"]),
        bound_lead=f"{BOUNDS['lead'][0]} {BOUNDS['lead'][1]:g}",
        given=numbers["recall, given regions"],
        floor=numbers["look-up recall, given regions"],
        **{re.sub(r"\W+", "_", name): value for name, value in numbers.items()},
    )


def _caption_facts(table: list[dict]) -> dict[str, object]:
    claims = Counter(min(len(groups), 3) for row in table for groups in row["claims"])
    total = sum(claims.values())
    texts = [" ".join([row["caption"], *row["captions"]]).lower() for row in table]
    relations = sum(
        "-than=" in str(groups) or "same-color-as" in str(groups) for row in table for groups in row["claims"]
    )
    named = re.compile(r"'(kind|type)=")
    nameless = sum(bool(groups) and not named.search(str(groups)) for row in table for groups in row["claims"])
    return {
        "nameless": 100 * nameless / total,
        "width": _quantiles([row["width"] for row in table]),
        "height_pixels": _quantiles([row["height"] for row in table]),
        "long_words": _quantiles([len(row["caption"].split()) for row in table]),
        "long_sentences": _quantiles([len(row["sentences"]) for row in table]),
        "short_words": _quantiles([len(text.split()) for row in table for text in row["captions"]]),
        "sides": np.mean([bool(SIDES.search(row["caption"])) for row in table]) * 100,
        "vocabulary": len({word for text in texts for word in re.findall(r"[a-z'-]+", text)}),
        "none": 100 * claims[0] / total,
        "several": 100 * (claims[2] + claims[3]) / total,
        "relations": 100 * relations / total,
    }


def _region_facts(table: list[dict]) -> dict[str, object]:
    lines, count = [], 0
    regions = [
        (box, row, label) for row in table for box, label in {(tuple(r["bbox"]), r["label"]) for r in row["regions"]}
    ]
    for label in REGION_LABELS:
        areas = [b[2] * b[3] / (row["width"] * row["height"]) for b, row, name in regions if name == label]
        images = len({row["image_id"] for _, row, name in regions if name == label})
        count += len(areas)
        if areas:
            lines.append(f"| {label} | {images} | {100 * np.mean(areas):.1f} % |")
    return {"regions": "\n".join(lines), "boxes": count, "entries": sum(len(row["regions"]) for row in table)}


CONTROL = """A small model learned the true regions of the training split for {epochs:.0f} epochs. On test it has:

| positive control | | bound |
|---|---|---|
| recall at IoU 0.5, regions given (look-up {floor:.0f}) | {given:.1f} | {bound_recall} |
| recall at IoU 0.5 of boxes that the model predicts itself | {recall:.1f} | {bound_recall} |
| the same, sentences about one / several regions | {recall_one_region:.1f} / {recall_several_regions:.1f} | none |
| highest score lies inside the region (pointing) | {pointing:.1f} | none |
| R@1 from sentences to all regions of test, every region that the sentence is true of is right | {R_1:.1f} | none |
| the same of the look-up with two boxes / of chance | {look_up_R_1:.1f} / {chance_R_1:.1f} | none |
| R@1 of the model divided by that of the look-up | {lead:.1f} | {bound_lead} |

`python -m benchmarks.studies.positive_control --out runs/control`, then
`rogle data card --control runs/control/control.json`. In the first row, the
true regions of the image are the candidates. In the second row the model must also find the extent of a region."""

CARD = """---
license: apache-2.0
language: en
pretty_name: P-VLG (synthetic)
task_categories: [text-retrieval, image-to-text, zero-shot-object-detection]
tags: [person-retrieval, region-sentence, synthetic]
---
# P-VLG, synthetic {version}

Images of synthetic pedestrians with short captions, a long caption, and the bounding boxes that each sentence
describes. A program draws them from tuples of attributes, and a grammar writes the captions. The set contains no real
person, photograph or other data set.

This is an independent implementation. The benchmark called P-VLG in the ROGLE paper (arXiv 2606.01825) is not public,
and no part of it is included. Every pair of a region and a sentence is correct by construction. The set is meant for
training from scratch, for tests and for measuring region-to-sentence matching. It does not replace real data, and
results on it do not predict results on real data.

```python
import dataset_pvlg
from datasets import load_dataset
load_dataset("pvlg", "synthetic")        # or "synthetic-tiny"; train_identities=, images_per_identity=, seed=, ...
load_dataset("pvlg", "synthetic-v1")     # the older set, see synthetic_v1/README.md
load_dataset("pvlg", data_dir="folder")  # Parquet of the same schema
```

## Sizes (configuration `synthetic`, seed {seed})
| split | identities | images |
|---|---|---|
{splits}

The splits share no identity. One identity in eight is a hard negative: it differs from the one before it in the
colours of two things. The seed and the indices of split, identity and image determine each row. The generator version
is `{version}`; it changes when an image or a text changes. `load_dataset(..., noise={{"glued": 0.1}})` adds faults of
real data; `synthetic_v1/noise.py` lists them. All are off by default.

## What differs from version 1
- People stand, walk, sit, crouch and cycle. They are off-centre, rotated, cut off, or partly hidden. Every third image
  shows a part of a second person, whom no sentence describes.
- Things move: a bag is on the back, on the chest, in the hand, across the body or on the ground; a hat is worn or held.
- Any thing may have any color and pattern. {nameless:.0f} % of the sentences leave the noun out ("a red striped item").
- A box encloses the *visible* part. `regions[].attributes` holds the facts that the image shows (`color=red`,
  `where=hand`, `darker-than=shoes`), and `claims` the facts that each sentence states, one group for each region. A
  sentence is true of an image if different regions of the image have all facts of its groups.
- In test, every second image is described by a second grammar (`caption_origin` is `synthetic:second-grammar`), and
  some words never occur in training.

## Measured on the test split ({count} images)
| | 5 % / median / 95 % |
|---|---|
| image width, pixels | {width} |
| image height, pixels | {height_pixels} |
| long caption, words | {long_words} |
| long caption, sentences | {long_sentences} |
| short caption, words | {short_words} |
| regions of the test split of which a sentence is true | {true_of} |

Of the sentences, {several:.1f} % describe two or three regions ({relations:.1f} % state a relation), and {none:.1f} %
describe none. {unseen:.1f} % of the sentences of the first grammar contain a word that no long caption of the training
split has. A horizontal flip makes {sides:.1f} % of the long captions wrong, because they contain left or right. All
captions together use {vocabulary} different words.

| region | images with a box | mean share of the image |
|---|---|---|
{regions}

There are {boxes:,} boxes and {entries:,} region entries (a box with two sentences has two entries).

## Bounds
The set is only useful if nothing solves it without looking at the image. R@1 is in percent over the {count} test
images, by identity; ties count as misses. Chance is {chance:.1f}. Recall is the share of region-sentence pairs of which
a predicted box has an IoU of at least 0.5 with the true box.

| figure | | bound |
|---|---|---|
| recall of the best image-free look-up, fitted on true boxes ({recalls}) | {fitted:.1f} | {bounds[fitted]} |
| recall of body proportions, fitted on nothing | {unfitted:.1f} | {bounds[unfitted]} |
| R@1 of color words against histograms of named colors | {colour:.1f} | {bounds[colour]} |
| R@1 of the colors of each sentence at the height of the true part | {height:.1f} | {bounds[height]} |
| R@1 of an oracle that knows all attributes (second grammar {second:.1f}) | {oracle:.1f} | {bounds[oracle]} |
| false sentences in train and test, of {checked:,}, by the attributes of their image | {false} | {bounds[false]} |

{control}

Written by `rogle data card`.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `rogle data card`."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).parents[1] / "README.md",
        metavar="FILE",
        help="card to write (default: dataset_pvlg/README.md)",
    )
    parser.add_argument(
        "--control",
        type=Path,
        metavar="FILE",
        help="control.json of benchmarks.studies.positive_control (default: none)",
    )
    parser.add_argument("--num-proc", type=int, default=2, metavar="N", help="processes that draw (default: 2)")


def read_control(file: Path) -> dict[str, float]:
    """The figures of the positive control, with `lead`, the model's R@1 divided by that of the look-up.

    Raises:
        ValueError: the file is not readable or lacks a figure; one line that names it.
    """
    try:
        figures = json.loads(file.read_text(encoding="utf-8"))
        return figures | {"lead": figures["R@1"] / max(figures["look-up R@1"], 1e-9)}
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"--control {file}: not readable: {error}") from error
    except (KeyError, TypeError) as error:
        raise ValueError(f"--control {file}: field {error} is missing") from error


def run(args: argparse.Namespace) -> int:
    """Writes the card.

    Returns:
        0, or 1 if a figure misses its bound.
    """
    control = read_control(args.control) if args.control else {}
    numbers = measure(processes=args.num_proc) | control
    handle, temporary = tempfile.mkstemp(dir=args.out.resolve().parent, suffix=".md")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(format_card(numbers))
    os.chmod(temporary, 0o644)
    os.replace(temporary, args.out)
    shown = {name: round(float(numbers[name]), 2) for name in BOUNDS if name in numbers}
    print(f"{args.out}: {shown}")
    wrong = failures(numbers)
    print("\n".join(wrong) if wrong else "all bounds hold")
    return int(bool(wrong))


__all__ = ["add_arguments", "failures", "false_sentences", "format_card", "measure", "read_control", "run"]
