"""What a search answers, as plain data for JSON and as lines for a terminal."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from modeling_rogle.inference.image_io import printable_path
from modeling_rogle.search.gallery import Matches, SentenceMatch


def as_plain(matches: Matches) -> dict[str, Any]:
    """`nobody` and `false_alarm_rate` (None without a calibration) and `results`, each a [`Match`] as a dict; of types
    that JSON knows: times in ISO 8601, None for a number that is not finite."""
    results = [_plain(asdict(match)) for match in matches]
    return {"nobody": matches.nobody, "false_alarm_rate": matches.false_alarm_rate, "results": results}


def verdict(matches: Matches) -> str | None:
    """The line that comes before the results, where there is one."""
    if not matches:
        return "no image passes the filter"
    if not matches.nobody:
        return None
    rate = f"{matches.false_alarm_rate:.0%}"
    return (
        f"nobody here matches (this search misses the mark that {rate} of those for absent people pass); the nearest:"
    )


def as_table(matches: Matches) -> str:
    """The query's sentences by number, the verdict, and a line a result."""
    said = verdict(matches)
    if not matches:
        return str(said)
    sentences = matches[0].sentences
    lines = [f"[{number}] {' '.join(found.sentence.split())}" for number, found in enumerate(sentences, start=1)]
    lines += [""] * bool(sentences) + ([said, ""] if said else [])
    judged = matches[0].probability is not None
    width = max(len("image"), *(len(printable_path(match.path)) for match in matches))
    title = f"{'rank':>4}  {'score':>6}  {'global':>6}  {'prob.   ' * judged}{'image':<{width}}"
    lines.append(title + "  best region of each sentence (ranks moved)" * bool(sentences))
    for match in matches:
        numbers = f"{match.rank:>4}  {match.score:>6.3f}  {match.global_score:>6.3f}  "
        numbers += f"{'' if match.probability is None else f'{match.probability:.1%}':>6}  " if judged else ""
        regions = ", ".join(_region(number, found) for number, found in enumerate(match.sentences, start=1))
        lines.append(f"{numbers}{printable_path(match.path):<{width}}  {regions}".rstrip())
    return "\n".join(lines)


def _region(number: int, found: SentenceMatch) -> str:
    return f"[{number}] {found.label}{f' ({found.moved:+d})' if found.moved else ''}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, date):  # a datetime is one
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


__all__ = ["as_plain", "as_table", "verdict"]
