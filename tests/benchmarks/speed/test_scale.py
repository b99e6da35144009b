"""benchmarks/speed/scale.py: its tables are those of docs/scale.md and follow from the figures of one image."""

from pathlib import Path

import pytest

from benchmarks.speed import scale

DOCUMENT = Path(__file__).parents[3] / "docs" / "scale.md"


def test_the_document_holds_the_tables_as_they_are_printed(capsys):
    tables = scale.main([])
    assert capsys.readouterr().out.strip() == tables
    text = DOCUMENT.read_text(encoding="utf-8")
    for table in tables.split("\n\n"):
        assert table in text


def test_memory_and_latency_are_the_figures_times_the_images():
    by_name = {method.name: method for method in scale.methods()}
    exact = by_name["exact, fp32"]
    assert 10**9 * exact.memory(10**9) == 2048e9 and scale.format_size(2048e9) == "2.05 TB"
    assert exact.milliseconds(10**6) == pytest.approx(10 * exact.milliseconds(10**5))
    assert scale.shard_bytes() == 2048 + 11 * 516 + 92
    assert by_name["`faiss`, 10% of the cells"].milliseconds(10**6) < exact.milliseconds(10**6) / 2
    assert scale.format_duration(1500) == "1.5 s" and scale.format_size(999) == "999 B"


def test_every_figure_was_measured():
    assert all(value > 0 and command for value, _, command in scale.MEASURED.values())


def test_prices_are_the_users(capsys):
    assert "$0, 0" not in scale.main(["--ram-price", "1"]) and "$" in capsys.readouterr().out
    free = scale.main(["--ram-price", "0", "--disk-price", "0", "--machine-memory", "1000"])
    assert "$0, 3 |" in free  # 2.05 TB
