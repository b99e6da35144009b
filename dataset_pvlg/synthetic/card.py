"""Measure the synthetic test split and write the data card: `python -m dataset_pvlg.synthetic.card [--out FILE]`.

Two of the card's four sanity numbers have a bar: a matcher of colour histograms must fail (R@1 at most 10 %) and a
reader of the captions' attributes must succeed (R@1 at least 90 %), or the benchmark is not worth a table. The other
two, the same matcher with knowledge of bodies and image to image, are there to compare with.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from dataset_pvlg.features import REGION_LABELS
from dataset_pvlg.synthetic import caption_words
from dataset_pvlg.synthetic.dataset import GENERATOR_VERSION, SyntheticConfig, image, rows, split_identities

# What the words look like; ordinary sRGB values, not the renderer's own.
NAMED_RGB = {
    "black": (25, 25, 28),
    "white": (238, 238, 236),
    "grey": (128, 128, 128),
    "blue": (45, 85, 185),
    "red": (190, 35, 40),
    "pink": (235, 150, 175),
    "green": (50, 130, 65),
    "yellow": (230, 205, 60),
    "purple": (115, 55, 140),
    "brown": (105, 70, 45),
    "orange": (230, 120, 35),
    "khaki": (150, 135, 90),
    "blonde": (215, 180, 110),
}
BANDS = {  # fractions of the height, for the banded matcher; the middle half of the width
    "head": (0.0, 0.2),
    "upper body": (0.17, 0.52),
    "lower body": (0.5, 0.85),
    "feet": (0.87, 1.0),
    "bag": (0.2, 0.7),
    "carried item": (0.0, 0.7),
    None: (0.0, 1.0),
}
SIDES = re.compile(r"\b(left(?! open)|right)\b", re.IGNORECASE)  # a jacket "left open" has no side
MAX_COLOUR_R1, MIN_ORACLE_R1 = 10.0, 90.0


def recall_at_1(scores: np.ndarray, query_ids: np.ndarray, gallery_ids: np.ndarray, same: bool = False) -> float:
    """R@1 in percent of scores [Q, G], relevance by identity, ties against the query.

    same: query i is gallery image i and is left out of its own ranking.
    """
    scores = scores.astype(np.float64, copy=True)
    if same:
        np.fill_diagonal(scores, -np.inf)
    relevant = query_ids[:, None] == gallery_ids[None, :]
    best = np.where(relevant, scores, -np.inf).max(axis=1)
    rival = np.where(relevant, -np.inf, scores).max(axis=1)
    return float(100 * (best > rival).mean())


def _colour_pattern() -> dict[re.Pattern, str]:
    words = {name: name for name in NAMED_RGB}
    for table in (caption_words.COLOUR_WORDS, caption_words.HAIR_COLOUR_WORDS):
        for name, options in table.items():
            words |= {word: name for word, _ in options}
    longest_first = sorted(words.items(), key=lambda item: -len(item[0]))
    return {re.compile(rf"\b{re.escape(word)}\b"): name for word, name in longest_first}


_COLOURS = _colour_pattern()


def colours_named(text: str) -> list[str]:
    """Canonical colour names in a text, one for each mention."""
    text, found = text.lower(), []
    for pattern, name in _COLOURS.items():
        text, count = pattern.subn(" ", text)
        found += [name] * count
    return [name for name in found if name in NAMED_RGB]


def _named_maps(images: list[Image.Image], size: tuple[int, int] = (32, 96)) -> np.ndarray:
    """Index of the nearest named colour of every pixel, [N, H, W]."""
    palette = _to_lab(np.array(list(NAMED_RGB.values()), np.float64))
    maps = []
    for one in images:
        lab = _to_lab(np.asarray(one.convert("RGB").resize(size, Image.Resampling.BILINEAR), np.float64))
        maps.append(((lab[..., None, :] - palette) ** 2).sum(-1).argmin(-1))
    return np.stack(maps)


def _to_lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D65) of sRGB in 0..255."""
    c = rgb / 255
    c = np.where(c > 0.04045, ((c + 0.055) / 1.055) ** 2.4, c / 12.92)
    xyz = c @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    xyz /= np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def _evidence(maps: np.ndarray) -> np.ndarray:
    """How much more of each colour an image holds than the others do, [N, colours]: standardised log shares."""
    count = len(NAMED_RGB)
    share = np.stack([np.bincount(m.ravel(), minlength=count) for m in maps]) / maps[0].size
    logs = np.log(share + 0.01)
    return (logs - logs.mean(0)) / (logs.std(0) + 1e-6)


def colour_r1(
    images: list[Image.Image], texts: list[list[tuple[str, str | None]]], ids: np.ndarray
) -> tuple[float, float]:
    """(whole-image R@1, banded R@1) of a matcher that knows colour words and pixels and nothing else.

    texts: for each caption its (sentence, region label). The banded one looks for a sentence's colours at the height
    where its region usually is, so it also uses knowledge of bodies.
    """
    maps, names = _named_maps(images), list(NAMED_RGB)
    whole = _evidence(maps)
    height, width = maps.shape[1:]
    centre = maps[:, :, width // 4 : width - width // 4]
    bands = {label: _evidence(centre[:, int(a * height) : int(b * height)]) for label, (a, b) in BANDS.items()}
    scores = np.zeros((2, len(texts), len(images)))
    for q, sentences in enumerate(texts):
        said = {c for text, _ in sentences for c in colours_named(text)}
        placed = {(c, label) for text, label in sentences for c in colours_named(text)}
        scores[0, q] = sum((whole[:, names.index(c)] for c in sorted(said)), np.zeros(len(images)))
        for c, label in placed:
            scores[1, q] += bands[label][:, names.index(c)]
    return recall_at_1(scores[0], ids, ids), recall_at_1(scores[1], ids, ids)


def image_r1(images: list[Image.Image], ids: np.ndarray) -> float:
    """R@1 of image to image by the intersection of 8x8x8 RGB histograms, an image's own entry left out."""
    bins = []
    for one in images:
        pixels = np.asarray(one.convert("RGB").resize((64, 192)), np.int64).reshape(-1, 3) // 32
        bins.append(np.bincount(pixels @ np.array([64, 8, 1]), minlength=512) / len(pixels))
    hist = np.stack(bins).astype(np.float32)
    scores = np.stack([np.minimum(h, hist).sum(1) for h in hist])
    return recall_at_1(scores, ids, ids, same=True)


def oracle_r1(named: list[frozenset[str]], ids: np.ndarray, identities: dict[int, object]) -> float:
    """R@1 of a reader who knows every image's true attributes and counts those that the caption names and match."""
    people = sorted(identities)
    scores = np.zeros((len(named), len(people)))
    for q, fields in enumerate(named):
        own = identities[int(ids[q])]
        for p, person in enumerate(people):
            scores[q, p] = sum(getattr(identities[person], f) == getattr(own, f) for f in fields)
    return recall_at_1(scores, ids, np.array(people))


def measure(config: SyntheticConfig | None = None) -> dict:
    """All numbers of the card, by name. Slow parts are one rendering of the test split and an 800x800 ranking."""
    config = config or SyntheticConfig()
    images, texts, named, ids, table = [], [], [], [], []
    for index in range(config.test_identities):
        for number, row in enumerate(rows("test", index, index + 1, config)):
            captions = image("test", index, number, config)[2]
            images.append(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB"))
            texts.append(captions.sentences)
            named.append(frozenset().union(*captions.named))
            ids.append(row["person_id"])
            table.append(row)
    person = np.array(ids)
    first = config.first_person("test")
    identities = {first + n: identity for n, identity in enumerate(split_identities("test", config))}
    colour, banded = colour_r1(images, texts, person)
    return {
        "rows": table,
        "colour": colour,
        "banded": banded,
        "image": image_r1(images, person),
        "oracle": oracle_r1(named, person, identities),
        "fields": float(np.mean([len(f) for f in named])),
    }


def _quantiles(values: list[float]) -> str:
    return " / ".join(f"{v:.0f}" for v in np.percentile(values, [5, 50, 95])) + f" (max {max(values):.0f})"


def card(numbers: dict, config: SyntheticConfig | None = None) -> str:
    """The card as Markdown."""
    config = config or SyntheticConfig()
    table = numbers["rows"]
    long = [len(row["caption"].split()) for row in table]
    short = [len(text.split()) for row in table for text in row["captions"]]
    sentences = [len(row["sentences"]) for row in table]
    single = [len(re.findall(r"\.(?:\s|$)", text)) for row in table for text in row["captions"]]
    words = {w for row in table for w in re.findall(r"[a-z'-]+", " ".join([row["caption"], *row["captions"]]).lower())}
    regions = [(region, row) for row in table for region in row["regions"]]
    boxes = {(row["image_id"], region["label"]) for region, row in regions}
    paired = sum(region["sentence"] >= 0 for region, _ in regions)
    sides = np.mean([bool(SIDES.search(row["caption"])) for row in table]) * 100
    areas = {
        label: [
            r["bbox"][2] * r["bbox"][3] / (row["width"] * row["height"]) for r, row in regions if r["label"] == label
        ]
        for label in REGION_LABELS
    }
    lines = "\n".join(
        f"| {label} | {sum(name == label for _, name in boxes)} | {100 * np.mean(areas[label]):.1f} % |"
        for label in REGION_LABELS
        if areas[label]
    )
    people = [config.identities(split) for split in ("train", "validation", "test")]
    sizes = "\n".join(
        f"| {split} | {count:,} | {count * config.images_per_identity:,} |"
        for split, count in zip(("train", "validation", "test"), people, strict=True)
    )
    width, height = [row["width"] for row in table], [row["height"] for row in table]
    return f"""---
license: apache-2.0
language: en
pretty_name: P-VLG (synthetic)
task_categories: [text-to-image, image-to-text]
tags: [person-retrieval, region-sentence, synthetic]
---
# P-VLG, synthetic {GENERATOR_VERSION}

An independent implementation: the benchmark called P-VLG in the ROGLE paper (arXiv 2606.01825) is not public, and
nothing of it is here. These are procedural pedestrians, drawn by a program from tuples of attributes, with captions
written by a grammar from the same tuples. No person, photograph or other data set is in them. Every pair of a region
and a sentence is true by construction, which is what they are for: training from scratch, tests, and measuring a
matcher. They are not a substitute for real data and no measure of performance on it.

```python
import dataset_pvlg
from datasets import load_dataset
load_dataset("pvlg", "synthetic")        # or "synthetic-tiny"; train_identities=, images_per_identity=, seed=, ...
load_dataset("pvlg", data_dir="folder")  # Parquet of the same schema
```

## Sizes (configuration `synthetic`, seed {config.seed})
| split | identities | images |
|---|---|---|
{sizes}

No identity is in two splits. About one identity in six is nearly another one (a hard negative beside it). Everything
is determined by the seed and the index of split, identity and image. The generator's version is
`{GENERATOR_VERSION}`; a change of image or text bumps it. `sources/noise.py` lists faults of real data that
`load_dataset(..., noise={{"glued": 0.1}})` puts in; all are off.

## Measured on the test split ({len(table)} images)
| | 5 % / median / 95 % |
|---|---|
| image width, pixels | {_quantiles(width)} |
| image height, pixels | {_quantiles(height)} |
| long caption, words | {_quantiles(long)} |
| long caption, sentences | {_quantiles(sentences)} |
| short caption, words | {_quantiles(short)} |
| short caption, sentences | {_quantiles(single)} |

{100 * np.mean(np.array(long) > 200):.1f} % of the long captions have over 200 words (more than the 248 tokens of a
stretched CLIP). {sides:.1f} % say left or right, which a horizontal flip makes false. {len(words)} different words are
used. A caption names {numbers["fields"]:.1f} attributes of its person on average.

| region | images with a box | mean share of the image |
|---|---|---|
{lines}

{len(boxes):,} boxes, {len(regions):,} region entries (a box with two sentences has two),
{100 * paired / len(regions):.1f} % of them paired with a sentence.

## Sanity
R@1 in percent over the {len(table)} test images, relevance by identity, ties against the query; chance is
{100 / config.test_identities:.1f}.

| matcher | R@1 | bar |
|---|---|---|
| colour words of the long caption, histograms of named colours | {numbers["colour"]:.1f} | <= {MAX_COLOUR_R1:.0f} |
| the same, each sentence's colours at the height of its region | {numbers["banded"]:.1f} | none |
| image to image, RGB histogram | {numbers["image"]:.1f} | none |
| attributes the long caption names, every image's true ones | {numbers["oracle"]:.1f} | >= {MIN_ORACLE_R1:.0f} |

Written by `python -m dataset_pvlg.synthetic.card`.
"""


def main(argv: list[str] | None = None) -> int:
    """Write the card; exit status 1 when a sanity bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m dataset_pvlg.synthetic.card", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "README.md", help="where the card goes")
    out = parser.parse_args(argv).out
    numbers = measure()
    text = card(numbers)
    handle, temporary = tempfile.mkstemp(dir=out.resolve().parent, suffix=".md")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(temporary, 0o644)
    os.replace(temporary, out)
    shown = {name: round(numbers[name], 2) for name in ("colour", "banded", "image", "oracle", "fields")}
    print(f"{out}: {shown}")
    return int(numbers["colour"] > MAX_COLOUR_R1 or numbers["oracle"] < MIN_ORACLE_R1)


if __name__ == "__main__":
    raise SystemExit(main())
