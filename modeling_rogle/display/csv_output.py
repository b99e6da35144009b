"""Search results as a CSV file: one row a result, for a spreadsheet."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from modeling_rogle.display.text_output import to_json_data

if TYPE_CHECKING:
    from modeling_rogle.search.requests import Answer

COLUMNS = (
    "query_number", "query", "where", "like", "rank", "path", "file", "score", "probability", "no_match",
    "global_score", "global_rank", "width", "height", "scene", "scene_box", "count", "others", "sentences",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet runs a cell that starts with one of these


class CsvOutput:
    """Writes answers to an open text file.

    Args:
        file: the file, opened with `newline=""`.
        columns: names of the user's columns.
    """

    def __init__(self, file: TextIO, columns: Sequence[str]):
        self.metadata = [name for name in columns if name not in COLUMNS]
        self.writer = csv.writer(file)
        self.writer.writerow(map(_cell, (*COLUMNS, *self.metadata)))
        self.queries = 0

    def add(self, answer: Answer) -> None:
        """Writes one row for each result of an answer. An answer without results has no row."""
        self.queries += 1
        request = answer.request
        data = to_json_data(answer.matches) if answer.matches is not None else {"results": []}
        for result in data["results"]:
            search = {"query_number": self.queries, "query": request.query, "where": request.where, "like": answer.like}
            row = {**result["metadata"], **result, **search, "no_match": data["no_match"]}
            row["count"] = 1 + len(result["others"])
            self.writer.writerow(_cell(row.get(name)) for name in (*COLUMNS, *self.metadata))


def _cell(value: Any) -> Any:
    """A value as a cell. Text that a spreadsheet would run as a formula starts with an apostrophe."""
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Path):
        value = str(value)
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


__all__ = ["CsvOutput"]
