"""Markdown tables and result files. A file is replaced as a whole: an interrupted run leaves the old one."""

import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def mean_and_deviation(values: Sequence[float]) -> str:
    """`mean ± standard deviation` with one digit; the mean alone for one value, `-` for none."""
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def format_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table. All columns but the first are aligned to the right."""
    lines = ["| " + " | ".join(titles) + " |", "|---|" + "---:|" * (len(titles) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def write_text(path: Path, text: str) -> None:
    """Writes text and a line break to a file, whose folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, path)


def write_json(path: Path, content: Any) -> None:
    """Writes content as JSON to a file, whose folder is made."""
    write_text(path, json.dumps(content, indent=2))


__all__ = ["format_table", "mean_and_deviation", "write_json", "write_text"]
