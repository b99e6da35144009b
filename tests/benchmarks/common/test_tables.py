"""Markdown tables and result files."""

import json
from pathlib import Path

from benchmarks.common.tables import format_table, mean_and_deviation, write_json, write_text


def test_mean_and_deviation_of_many_one_and_no_value() -> None:
    assert [mean_and_deviation(values) for values in ([1.0, 3.0], [2.0], [])] == ["2.0 ± 1.4", "2.0", "-"]


def test_all_columns_but_the_first_are_aligned_to_the_right() -> None:
    assert format_table(["a", "b"], [["x", "1"]]) == "| a | b |\n|---|---:|\n| x | 1 |"


def test_files_are_replaced_and_leave_no_part(tmp_path: Path) -> None:
    file = tmp_path / "new" / "report.json"
    for content in ({"a": 1}, {"b": 2}):
        write_json(file, content)
        assert json.loads(file.read_text()) == content
    write_text(file.with_name("report.md"), "a")
    assert {path.name for path in file.parent.iterdir()} == {"report.md", "report.json"}
