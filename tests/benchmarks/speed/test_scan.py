"""benchmarks/speed/scan.py at its smallest size: every kind of storage is measured."""

import pytest

from benchmarks.speed import scan

pytest.importorskip("faiss")


def test_every_kind_is_measured_and_printed(capsys):
    measured = scan.main(["--vectors", "2500", "--queries", "3"])
    assert {name: size for name, (size, _) in measured.items()} == {"fp32": 2048, "bf16": 1024, "int8": 512, "PQ64": 64}
    assert all(nanoseconds > 0 for _, nanoseconds in measured.values())
    assert "| int8 | 512 | " in capsys.readouterr().out
