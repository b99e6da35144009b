"""The data card of a built folder, made from its `build_report.json`, and the histograms of both."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

# The card has no `configs`. With them, `load_dataset` would key its cache by folder name and file patterns, and answer
# with the rows of another folder (datasets 5.2). The file names data/<split>-00000-of-00001.parquet need none.
CARD = """---
license: {license}
task_categories: [text-retrieval, image-to-text, zero-shot-object-detection]
tags: [person-search, text-based-person-retrieval]
---
# P-VLG rows built from {sources}

Built with Rogle, an independent implementation of ROGLE (arXiv 2606.01825); this is not the authors' P-VLG.
{images}

{table}

A region is a bounding box; one with two sentences, or a sentence with two regions, makes two pairs.

{steps}

## Licences
| source | terms of its authors |
|---|---|
{licences}

## Distributions
{histograms}

## What was skipped, dropped and repaired
`build_report.json` lists examples, and the checksum of every file.

```
{reports}
```

The people in these images can be recognised and did not ask to be searchable. Use the data only for research that the
sources allow, and delete a person's rows on request.
"""
EMBEDDED = """The images are inside the Parquet files. The images and captions remain under the
licences of their sources, below. Keep this folder private unless all of them allow redistribution."""
LEFT_OUT = """This folder holds annotations only: `image` is null in every row. If you have the sources, add the
images again. They are found by `path` and checked by `sha256`:

    rogle join THIS_FOLDER {images} --out DIR"""

# Images of these sources may be redistributed by the person who built the folder; the authors of all others forbid it.
FREE_SOURCES = ("synthetic", "own")
LICENCES = {
    "synthetic": "Apache-2.0; drawn by a program, no real person is in it",
    "cuhk_pedes": "non-commercial research and education; its owners forbid distributing it",
    "icfg_pedes": "on request from its owners, research only; its images are those of MSMT17",
    "rstpreid": "research only; its images are those of MSMT17",
    "ufine": "on a signed agreement with its owners, research only",
    "ufine3c": "on a signed agreement with its owners, research only",
    "own": "the builder's own; people can be recognised in its images",
    "generated": "made from images of another source, under that source's terms",
}

# Lower edges of the bins; the last one is open.
WORDS = (0, 10, 20, 30, 40, 60, 80, 100, 120, 150, 200)
TOKENS = (0, 21, 41, 78, 100, 125, 150, 200, 249)  # CLIP reads 77 tokens, its stretched form 248
SENTENCES = (0, 1, 2, 3, 4, 5, 6, 8, 10, 15)
AREAS = (0, 1, 2, 5, 10, 20, 30, 50, 80, 100)
BINS = {
    "caption, words": WORDS,
    "caption, tokens": TOKENS,
    "sentences a row": SENTENCES,
    "region, % of the image": AREAS,
}


COUNTS = ("rows", "captions", "sentences", "regions", "pairs", "sentences with several regions")


class Histograms:
    """Counts rows into the bins of the card.

    Args:
        tokenizer (*optional*): the tokenizer that counts tokens; None leaves the histogram of tokens out.
    """

    def __init__(self, tokenizer: Any = None):
        self._tokenizer = tokenizer
        self._counts: dict[str, Counter[int]] = {name: Counter() for name in BINS}

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Count more rows; their images are not needed."""
        rows = list(rows)
        if self._tokenizer is not None and rows:
            lengths = map(len, self._tokenizer([row["caption"] for row in rows], truncation=False)["input_ids"])
            self._count("caption, tokens", lengths)
        self._count("caption, words", (len(row["caption"].split()) for row in rows))
        self._count("sentences a row", (len(row["sentences"]) for row in rows))
        areas = (
            100 * box[2] * box[3] / (row["width"] * row["height"])
            for row in rows
            for box in dict.fromkeys(tuple(region["bbox"]) for region in row["regions"])
        )
        self._count("region, % of the image", areas)

    def _count(self, name: str, values: Iterable[float]) -> None:
        # rounded, because float32 boxes of the whole image may be slightly under or over 100 %
        self._counts[name].update(bisect_right(BINS[name], round(value, 3)) - 1 for value in values)

    def as_dict(self) -> dict[str, dict[str, int]]:
        """Name -> label of a bin -> count, with every bin in order. Empty histograms are left out."""
        return {
            name: {_label(name, n): counts[n] for n in range(len(BINS[name]))}
            for name, counts in self._counts.items()
            if counts.total()
        }


def _label(name: str, n: int) -> str:
    edges = BINS[name]
    if n == len(edges) - 1:
        return f"{edges[n]}" if name.endswith("image") else f"{edges[n]} or more"
    if name.endswith("image"):
        return f"{edges[n]} to {edges[n + 1]}"
    return f"{edges[n]}" if edges[n + 1] == edges[n] + 1 else f"{edges[n]}-{edges[n + 1] - 1}"


def merge(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Sum the numbers under equal keys of nested dicts. For other values, the first one stays."""
    total: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            if isinstance(value, Mapping):
                total[name] = merge([total.get(name, {}), value])
            elif isinstance(value, int | float) and not isinstance(value, bool):
                total[name] = total.get(name, 0) + value
            else:
                total.setdefault(name, value)
    return total


def card(report: Mapping[str, Any]) -> str:
    """The data card as Markdown.

    Args:
        report (`Mapping[str, Any]`): the content of `build_report.json`.
    """
    names = [source["source"] for source in report["sources"]]
    images = " ".join(f"--images {name}=FOLDER" for name in names)
    return CARD.format(
        license="apache-2.0" if set(names) == {"synthetic"} else "other",
        sources=" and ".join(names),
        images=EMBEDDED if report["pictures"] else LEFT_OUT.format(images=images),
        table="\n".join(_sizes(report["splits"])),
        steps=_steps(report),
        licences="\n".join(f"| {name} | {LICENCES.get(name, 'see its authors')} |" for name in names),
        histograms="\n".join(_histogram(name, bins) for name, bins in report["histograms"].items()),
        reports="\n".join(_reasons(report)).replace("```", "'''"),  # an example may hold a fence
    )


def count_parts(rows: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """Sizes of rows for the card.

    Args:
        rows (`Iterable[Mapping[str, Any]]`): P-VLG rows; their images are not needed. Lists may be null.

    Returns:
        `Counter[str]`: `rows`, `captions`, `sentences`, `regions` (distinct boxes of an image), `pairs` (of a region
        and a sentence) and `sentences with several regions`.
    """
    counts = Counter(dict.fromkeys(COUNTS, 0))
    for row in rows:
        regions = row["regions"] or []
        pairs = {(tuple(region["bbox"]), region["sentence"]) for region in regions if region["sentence"] >= 0}
        regions_of = Counter(sentence for _, sentence in pairs)
        counts["rows"] += 1
        counts["captions"] += len(row["captions"] or [])
        counts["sentences"] += len(row["sentences"] or [])
        counts["regions"] += len({tuple(region["bbox"]) for region in regions})
        counts["pairs"] += len(pairs)
        counts["sentences with several regions"] += sum(count > 1 for count in regions_of.values())
    return counts


def _sizes(splits: Mapping[str, Mapping[str, int]]) -> list[str]:
    columns = list(dict.fromkeys(name for numbers in splits.values() for name in numbers))
    lines = [f"| split | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    return lines + [
        f"| {split} | " + " | ".join(str(numbers.get(name, 0)) for name in columns) + " |"
        for split, numbers in splits.items()
    ]


def _steps(report: Mapping[str, Any]) -> str:
    curation = report["curation"]
    lines = ["The rows were not curated."]
    if curation:
        removed = merge(curation["removed"].values())
        lines = [f"Curation kept {sum(curation['after'].values())} of {sum(curation['before'].values())} rows"]
        lines[0] += "".join(f"; {count} x {reason}" for reason, count in removed.items()) + "."
    captioning = merge(report["captioning"].values())
    if captioning:
        lines.append(
            f"A model wrote {captioning['vlm']} of the {captioning['rows']} long captions; `caption_origin` marks them."
        )
    matching = merge(report["matching"].values())
    if matching:
        lines.append(
            f"Region-to-Sentence Matching found a region for {matching['assigned']} of {matching['sentences']} "
            "sentences. Their `origin` is `rsm`, and their `reliability` estimates how likely they are right."
        )
    else:
        lines.append("No regions were mined.")
    return "\n\n".join(lines)


def _histogram(name: str, bins: Mapping[str, int]) -> str:
    total, largest = sum(bins.values()), max(bins.values())
    lines = [f"| {name} | count | share | |", "|---|---|---|---|"]
    for label, count in bins.items():
        bar = "█" * round(20 * count / largest)
        lines.append(f"| {label} | {count} | {100 * count / total:.1f} % | {bar} |")
    return "\n".join(lines) + "\n"


def _reasons(report: Mapping[str, Any]) -> list[str]:
    lines = []
    for source in report["sources"]:
        lines.append(f"{source['source']}: {source['records']} records")
        for title in ("skipped", "dropped", "repaired", "noted"):
            for reason, count in source[title].items():
                example = source["examples"].get(reason, [""])[0]
                lines.append(f"  {title}: {count} x {reason}" + (f", as {example}" if example else ""))
        lines += [f"  warning: {line}" for line in source["warnings"]]
    curation = report["curation"] or {}
    for title in ("changed", "cleaned", "noted"):
        for reason, count in curation.get(title, {}).items():
            lines.append(f"curation, {title}: {count} x {reason}, as {curation['examples'][reason][0]}")
    return lines


__all__ = ["COUNTS", "FREE_SOURCES", "LICENCES", "Histograms", "card", "count_parts", "merge"]
