"""python -m dataset_pvlg.build --source cuhk_pedes=FOLDER --out DIR [--image-root FOLDER] [--matcher MODEL_DIR]

One's own copies of the public sets -> P-VLG as Parquet with embedded images, a report and a data card. Afterwards
`datasets.load_dataset(DIR)` works.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset, concatenate_datasets
from datasets.table import embed_table_storage
from tqdm import tqdm

from dataset_pvlg.features import SPLITS
from dataset_pvlg.mine import mine_rows
from dataset_pvlg.sources.read import SOURCE_NAMES, read_source

ROWS_PER_GROUP = 100  # rows decoded together when a Parquet file is read at random

# No `configs` in the card: with them, `load_dataset` keys its cache by folder name and file patterns alone and answers
# with another folder's rows (datasets 5.2). The names data/<split>-00000-of-00001.parquet need none.
CARD = """---
license: other
task_categories: [image-to-text, text-to-image]
tags: [person-search, text-based-person-retrieval]
---
# P-VLG rows built from {sources}

Built with Rogle, an independent implementation of ROGLE (arXiv 2606.01825); this is not the authors' P-VLG. The
images and captions remain under the licences of their sources, which forbid passing them on: keep this folder to
yourself.

| split | rows | identities | captions | sentences | regions |
|---|---|---|---|---|---|
{table}

{regions}

What was skipped, dropped and repaired, by reason and with examples, stands in `build_report.json`:

```
{reports}
```

People in these pictures can be recognised and did not ask to be searchable. Use the data for research that the
sources allow, and delete a person's rows when asked to.
"""


@dataclass(frozen=True)
class Source:
    name: str
    root: str
    image_root: str | None = None


def build(
    sources: Sequence[Source], out: str | Path, matcher: str | Path | None = None, batch_size: int = 32
) -> dict[str, Any]:
    """Reads the sources, mines regions if there is a matcher, and writes the folder `out`.

    Args:
        sources: what to read; their rows follow each other within each split.
        out: a folder that does not exist yet or is empty. It appears complete or not at all.
        matcher: folder or name of a Rogle or CLIP checkpoint with its processor; None leaves the `regions` as read.
        batch_size: images a forward of the matcher.

    Returns:
        The content of `build_report.json`.

    Raises:
        SourceError: (a ValueError) a source cannot be read.
        ValueError: `out` holds something already, or `matcher` cannot be read.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: exists and is not an empty folder; choose another --out")
    model, processor = (None, None) if matcher is None else _load_matcher(matcher)  # a typo must not cost a read
    parts: dict[str, list[Dataset]] = {}
    report: dict[str, Any] = {"sources": [], "matching": {}, "splits": {}}
    reports = []
    for source in sources:
        rows_by_split, read_report = read_source(source.name, source.root, source.image_root)
        print(read_report, file=sys.stderr)
        # The card and the report may be passed on; the paths of this machine are nobody's business.
        read_report.file, read_report.image_root = Path(read_report.file).name, Path(read_report.image_root).name
        reports.append(read_report)
        report["sources"].append(read_report.as_dict())
        for split, rows in rows_by_split.items():
            parts.setdefault(split, []).append(rows)
    splits = {split: concatenate_datasets(parts[split]) for split in SPLITS if split in parts}

    if model is not None:
        for split, rows in splits.items():
            splits[split], report["matching"][split] = mine_rows(model, processor, rows, batch_size)

    report["splits"] = {split: _describe(rows) for split, rows in splits.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        (part / "data").mkdir()
        for split, rows in splits.items():
            write_parquet(rows, part / "data" / _file_name(split))
        content = json.dumps(report, indent=2, ensure_ascii=False)
        (part / "build_report.json").write_text(content, encoding="utf-8")
        (part / "README.md").write_text(_card(report, [str(r) for r in reports]), encoding="utf-8")
        part.chmod(0o755)  # mkdtemp's folders are closed to everybody else
        os.replace(part, out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return report


def _load_matcher(matcher: str | Path) -> tuple[Any, Any]:
    from modeling_rogle import RogleModel, RogleProcessor  # the one place where the data needs the model

    try:
        return RogleModel.from_pretrained(matcher).eval(), RogleProcessor.from_pretrained(matcher)
    except (OSError, ValueError) as error:  # the Hub's own message does not say which argument it is about
        raise ValueError(f"--matcher {matcher} cannot be read: {str(error).strip().splitlines()[0]}") from error


def write_parquet(rows: Dataset, path: str | Path) -> None:
    """Writes rows with the bytes of their image files inside, a group of rows at a time."""
    arrow = rows.with_format("arrow")
    # The schema's metadata carry the features, so that `load_dataset` gives the same types back.
    with pq.ParquetWriter(path, rows.features.arrow_schema) as writer:
        for start in tqdm(range(0, len(rows), ROWS_PER_GROUP), desc=f"writing {Path(path).name}", disable=None):
            table = embed_table_storage(arrow[start : start + ROWS_PER_GROUP])
            writer.write_table(table.cast(rows.features.arrow_schema))


def _file_name(split: str) -> str:
    return f"{split}-00000-of-00001.parquet"


def _describe(rows: Dataset) -> dict[str, int]:
    return {
        "rows": len(rows),
        "identities": len(set(rows["person_id"][:])),
        "captions": sum(map(len, rows["captions"][:])),
        "sentences": sum(map(len, rows["sentences"][:])),
        "regions": sum(map(len, rows["regions"][:])),
    }


def _card(report: dict[str, Any], reports: list[str]) -> str:
    splits, matching = report["splits"], report["matching"]
    assigned, sentences = (sum(counts[key] for counts in matching.values()) for key in ("assigned", "sentences"))
    regions = "No regions were mined."
    if matching:
        regions = f"Region-to-Sentence Matching found a region for {assigned} of {sentences} sentences; their \
`origin` is `rsm` and their `reliability` comes from the score margin."
    return CARD.format(
        sources=" and ".join(source["source"] for source in report["sources"]),
        table="\n".join(
            f"| {split} | " + " | ".join(str(n) for n in numbers.values()) + " |" for split, numbers in splits.items()
        ),
        regions=regions,
        reports="\n".join(reports),
    )


def parse_sources(sources: Sequence[str], image_roots: Sequence[str]) -> list[Source]:
    """`name=path` arguments; an image root is `path`, for the only source, or `name=path`.

    Raises:
        ValueError: one of them has another form or names no source.
    """
    roots: dict[str, str] = {}
    for text in sources:
        name, equals, path = text.partition("=")
        if not equals or not path or name not in SOURCE_NAMES:
            raise ValueError(f"--source {text}: NAME=PATH is expected, NAME one of {', '.join(SOURCE_NAMES)}")
        if name in roots:
            raise ValueError(f"--source {text}: {name} is given twice")
        roots[name] = path
    images: dict[str, str] = {}
    for text in image_roots:
        name, equals, path = text.partition("=")
        if equals and name in roots:
            images[name] = path
        elif len(roots) == 1:
            images[next(iter(roots))] = text
        else:
            raise ValueError(f"--image-root {text}: with several sources, NAME=PATH is expected")
    return [Source(name, root, images.get(name)) for name, root in roots.items()]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dataset_pvlg.build", description=__doc__.split("\n\n")[1])
    parser.add_argument("--source", action="append", required=True, metavar="NAME=PATH", help=", ".join(SOURCE_NAMES))
    parser.add_argument("--image-root", action="append", default=[], metavar="[NAME=]PATH")
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument("--matcher", metavar="MODEL", help="a Rogle or CLIP checkpoint that mines the regions")
    parser.add_argument("--batch-size", type=int, default=32)
    arguments = parser.parse_args(argv)
    try:
        sources = parse_sources(arguments.source, arguments.image_root)
        report = build(sources, arguments.out, arguments.matcher, arguments.batch_size)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for split, counts in report["splits"].items():
        print(f"{split}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    print(arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
