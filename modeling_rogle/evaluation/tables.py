"""Markdown tables of evaluation results."""

from collections.abc import Collection, Mapping, Sequence

PERCENTAGES = ("R@1", "R@5", "R@10", "mAP", "mINP", "pointing", "IoU@0.5")
COUNTS = ("queries", "dropped_queries", "gallery")


def format_table(
    results: Mapping[str, float],
    intervals: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    protocols: Collection[str] = ("local",),
) -> str:
    """Formats results as a Markdown table, one row per line of the results.

    Args:
        results: flat results, `<line>/<metric>` -> value, see `all_protocols`.
        intervals: lower and upper bound by line and metric, printed behind the value; none by default.
        protocols: protocols that were requested, `("local",)` by default. If `results` has nothing of `local` or
            `joint` although requested, a note under the table states it.

    Returns:
        The table.
    """
    lines: dict[str, dict[str, float]] = {}
    for key, value in results.items():
        line, _, metric = key.rpartition("/")
        lines.setdefault(line, {})[metric] = value
    titles = ("protocol", *PERCENTAGES, "queries", "dropped", "gallery")
    rows = ["| " + " | ".join(titles) + " |", "|---|" + "---:|" * (len(titles) - 1)]
    for line, scores in lines.items():
        bounds = (intervals or {}).get(line, {})
        cells = [f"{scores[metric]:.2f}" if metric in scores else "-" for metric in PERCENTAGES]
        for n, metric in enumerate(PERCENTAGES):
            if metric in bounds:
                cells[n] += f" [{bounds[metric][0]:.1f}, {bounds[metric][1]:.1f}]"
        cells += [f"{scores[metric]:.0f}" if metric in scores else "-" for metric in COUNTS]
        rows.append(f"| {line} | " + " | ".join(cells) + " |")
    missing = [protocol for protocol in ("local", "joint") if protocol in protocols and protocol not in lines]
    if missing:
        rows.append(f"\n{', '.join(missing)}: not scored, the rows have no regions paired with sentences")
    return "\n".join(rows)


__all__ = ["format_table"]
