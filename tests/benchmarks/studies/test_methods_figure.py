"""The figure of the systems: one bar a score and system, curves as long as their runs."""

from pathlib import Path

import pytest
from matplotlib import pyplot as plt

from benchmarks.studies.methods_figure import draw_methods

LINE = "validation/global/long/R@1"


def cell(long: float, short: float, epochs: int = 3) -> dict:
    curve = [{"minutes": e + 1.0, LINE: long * (e + 1) / epochs} for e in range(epochs)]
    return {"long": long, "short": short, "curve": curve}


def test_bars_and_curves_are_those_of_the_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(plt, "close", drawn.append)
    cells = {"a": [cell(40.0, 30.0), cell(50.0, 20.0)], "b": [cell(60.0, 10.0, epochs=2)], "c": []}
    draw_methods(cells, {"a": "A", "b": "B", "c": "C"}, LINE, tmp_path / "m.png")
    assert (tmp_path / "m.png").stat().st_size > 1000
    bars, curves = drawn[0].axes
    assert [label.get_text() for label in bars.get_yticklabels()] == ["A", "B"]  # the best on top
    assert [patch.get_width() for patch in bars.patches] == [45.0, 60.0, 25.0, 10.0]
    lines = {line.get_label(): line.get_xydata().tolist() for line in curves.get_lines()}
    assert lines["B"] == [[0, 0], [1, 30], [2, 60]]
    assert lines["A"] == [[0, 0], [1, 15], [2, 30], [3, 45]]


def test_nothing_is_drawn_without_cells(tmp_path: Path) -> None:
    draw_methods({"a": []}, {"a": "A"}, LINE, tmp_path / "m.png")
    assert not list(tmp_path.iterdir())
