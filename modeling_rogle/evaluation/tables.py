"""Markdown tables of evaluation results."""

from collections.abc import Collection, Mapping, Sequence

PERCENTAGES = ("R@1", "R@5", "R@10", "mAP", "mINP")
GRADED = ("R@1", "R@5", "R-precision", "mAP", "nDCG@10", "chance", "within-R@1", "within-chance", "pointing", "IoU@0.5")
COUNTS = ("queries", "dropped_queries", "gallery")
TITLES = {
    "chance": "expected R@1 of a random order",
    "within-R@1": "R@1 in its image",
    "within-chance": "random, in its image",
    "dropped_queries": "dropped",
}
Line = Mapping[str, float]
Intervals = Mapping[str, Mapping[str, Sequence[float]]]


def format_table(
    results: Mapping[str, float], intervals: Intervals | None = None, protocols: Collection[str] = ("local",)
) -> str:
    """Formats results as Markdown tables, one row per line of the results.

    Lines with graded relevance (`local`, its reference lines, and `joint/sentence`) have a table of their own.

    Args:
        results: flat results, `<line>/<metric>` -> value, see `all_protocols`.
        intervals: lower and upper bound by line and metric, printed behind the value; none by default.
        protocols: protocols that were requested, `("local",)` by default. If `results` has nothing of `local` or
            `joint` although requested, a note under the table states it.

    Returns:
        The tables.
    """
    lines: dict[str, dict[str, float]] = {}
    for key, value in results.items():
        line, _, metric = key.rpartition("/")
        lines.setdefault(line, {})[metric] = value
    graded = {name: line for name, line in lines.items() if "nDCG@10" in line}
    binary = {name: line for name, line in lines.items() if name not in graded}
    parts = [
        _table(chosen, intervals or {}, columns)
        for chosen, columns in ((binary, PERCENTAGES), (graded, GRADED))
        if chosen
    ]
    parts += _positives(graded)
    missing = [name for name in ("local", "joint") if name in protocols and not any(_is_of(n, name) for n in lines)]
    if missing:
        parts.append(f"{', '.join(missing)}: not scored, the rows have no regions paired with sentences")
    return "\n\n".join(parts)


def _is_of(line: str, protocol: str) -> bool:
    return line == protocol or line.startswith(f"{protocol}/")


def _table(lines: Mapping[str, Line], intervals: Intervals, columns: Sequence[str]) -> str:
    titles = ("protocol", *(TITLES.get(name, name) for name in (*columns, *COUNTS)))
    rows = ["| " + " | ".join(titles) + " |", "|---|" + "---:|" * (len(titles) - 1)]
    for line, scores in lines.items():
        bounds = intervals.get(line, {})
        cells = [f"{scores[metric]:.2f}" if metric in scores else "-" for metric in columns]
        for n, metric in enumerate(columns):
            if metric in bounds:
                cells[n] += f" [{bounds[metric][0]:.1f}, {bounds[metric][1]:.1f}]"
        cells += [f"{scores[metric]:.0f}" if metric in scores else "-" for metric in COUNTS]
        rows.append(f"| {line} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _positives(graded: Mapping[str, Line]) -> list[str]:
    """How many items are relevant to a sentence; nothing without such lines."""
    counts = [f"{graded[name]['positives']:.0f} relevant items ({name})" for name in ("local", "joint/sentence")
              if name in graded]  # fmt: skip
    return [f"Half of the sentences have at most {', '.join(counts)}."] if counts else []


__all__ = ["format_table"]
