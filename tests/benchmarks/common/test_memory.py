"""Memory that a variant adds to a process of its own."""

from pathlib import Path

import pytest

from benchmarks.common.memory import measure_memory, peak_bytes, resident_bytes


def test_memory_is_measured_in_a_process_of_its_own_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert 2**20 < measure_memory("benchmarks.speed.step", "rogle, full", ["--size", "tiny", "--batch", "4"]) < 2**30


def test_a_failed_process_is_reported_by_variant() -> None:
    with pytest.raises(RuntimeError, match="no such variant"):
        measure_memory("benchmarks.speed.step", "no such variant", [])


def test_the_peak_is_at_least_the_resident_memory() -> None:
    assert peak_bytes() >= resident_bytes() > 0
