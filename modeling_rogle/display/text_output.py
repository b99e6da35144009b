"""Search results as data for JSON and as a table for a terminal; files that are replaced when complete. No torch."""

from __future__ import annotations

import errno
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from modeling_rogle.image_io import printable_path

if TYPE_CHECKING:
    from modeling_rogle.search.results import Matches, SentenceMatch


NO_REGIONS = "This model has no trained regions. `--explain crops` finds the best region of each sentence from crops."


@contextmanager
def replacing(path: str | Path) -> Iterator[TextIO]:
    """Opens a text file that replaces `path` when the block ends without an error. Its folder is created."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(unfinished, "w", encoding="utf-8", errors="replace", newline="") as file:
            yield file
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def to_json_data(matches: Matches) -> dict[str, Any]:
    """Converts results to types that JSON has: times in ISO 8601, None for a number that is not finite.

    Returns:
        `no_match`, `false_alarm_rate` and `false_alarm_interval`, all None without a calibration; `trained_regions`;
        and `results`: each `Match` as a dict.
    """
    return {
        "no_match": matches.no_match,
        "false_alarm_rate": matches.false_alarm_rate,
        "false_alarm_interval": matches.false_alarm_interval,
        "trained_regions": matches.trained_regions,
        "results": [_json_value(asdict(match)) for match in matches],
    }


def verdict(matches: Matches) -> str | None:
    """The line above the results: that no image passes the filter, or that none is likely to match; otherwise None."""
    if not matches:
        return "No image passes the filter."
    if not matches.no_match or matches.false_alarm_rate is None:
        return None
    rate = f"{100 * matches.false_alarm_rate:.0f} %"
    reason = f"threshold set for a {rate} false-alarm rate, which was not measured"
    if matches.false_alarm_interval is not None:
        low, high = (f"{100 * end:.0f}" for end in matches.false_alarm_interval)
        reason = f"measured false-alarm rate {rate}, 95 % interval {low} to {high} %"
    return f"No match found ({reason}). Closest results:"


def format_table(matches: Matches) -> str:
    """Formats results for a terminal: the numbered sentences of the query, the verdict, and one line per result."""
    message = verdict(matches)
    if not matches:
        return str(message)
    sentences = matches[0].sentences
    lines = [f"[{number}] {' '.join(item.sentence.split())}" for number, item in enumerate(sentences, start=1)]
    lines += [""] * bool(sentences) + ([message, ""] if message else [])
    calibrated = matches[0].probability is not None
    has_regions = any(item.label for match in matches for item in match.sentences)
    names = [f"{printable_path(match.path)}{f' (+{len(match.others)})' if match.others else ''}" for match in matches]
    width = max(len("image"), *map(len, names))
    title = f"{'rank':>4}  {'score':>6}  {'global':>6}  {'prob.   ' * calibrated}{'image':<{width}}"
    lines.append(title + "  best region of each sentence (ranks moved)" * has_regions)
    for match, name in zip(matches, names, strict=True):
        numbers = f"{match.rank:>4}  {match.score:>6.3f}  {match.global_score:>6.3f}  "
        if calibrated:
            numbers += f"{'' if match.probability is None else f'{match.probability:.1%}':>6}  "
        regions = ", ".join(
            _region(number, item) for number, item in enumerate(match.sentences, start=1) if has_regions
        )
        lines.append(f"{numbers}{name:<{width}}  {regions}".rstrip())
    if sentences and not has_regions:
        lines += ["", NO_REGIONS]
    return "\n".join(lines)


def _region(number: int, sentence: SentenceMatch) -> str:
    return f"[{number}] {sentence.label}{f' ({sentence.moved:+d})' if sentence.moved else ''}"


def _json_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, date):  # includes datetime
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


__all__ = ["format_table", "replacing", "to_json_data", "verdict"]
