"""Cells: read at an equal budget, trained by one process at a time, edited images in as many steps."""

import os
from pathlib import Path

import pytest
import yaml

from benchmarks.common.training_runs import (
    check_cell,
    claimed,
    run_cell,
    score_at_budget,
    with_edited_images,
)
from dataset_pvlg.loading import load_rows


def test_scores_are_interpolated_at_a_budget() -> None:
    curve = [{"cpu_seconds": 10.0, "s": 20.0}, {"cpu_seconds": 30.0, "s": 60.0}]
    assert [score_at_budget(curve, seconds, "s") for seconds in (5, 10, 20, 30, 99)] == [10, 20, 40, 60, 60]


def test_a_cell_that_another_process_trains_is_skipped(tmp_path: Path) -> None:
    folder = tmp_path / "cells" / "one"
    with claimed(folder) as lock:
        assert lock is not None
        with claimed(folder) as second:
            assert second is None
        assert run_cell(folder, ["--no-such-flag"], []) is False  # nothing was started
    with claimed(folder) as lock:
        assert lock is not None


def test_a_process_that_inherits_the_lock_holds_it(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    with claimed(folder) as lock:
        inherited = os.dup(lock)
    with claimed(folder) as second:
        assert second is None
    os.close(inherited)
    with claimed(folder) as third:
        assert third is not None


def test_a_cell_with_another_budget_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"epochs": 5, "dataset": "synthetic"}))
    check_cell(tmp_path, ["--dataset", "synthetic", "--epochs", "5"])
    with pytest.raises(SystemExit, match="epochs is 5, expected 6"):
        check_cell(tmp_path, ["--dataset", "synthetic", "--epochs", "6"])


@pytest.mark.parametrize(("epochs", "fewer", "share"), [(1, 1, 0), (2, 1, 1), (3, 2, 0.5), (5, 3, 2 / 3), (10, 5, 1)])
def test_edited_images_cost_no_more_steps(tmp_path: Path, epochs: int, fewer: int, share: float) -> None:
    flags = with_edited_images(tmp_path, "synthetic", epochs, make=False)
    given = dict(zip(flags[::2], flags[1::2], strict=True))
    assert int(given["--epochs"]) == fewer and given["--data-root"].endswith(f"synthetic-copies-{share:.3f}")
    assert fewer * (1 + share) == pytest.approx(epochs) and not list(tmp_path.iterdir())


def test_edited_images_are_made_once(tmp_path: Path) -> None:
    flags = with_edited_images(tmp_path, "synthetic-tiny", 5)
    folder = Path(flags[flags.index("--data-root") + 1])
    before = (folder / "generate_report.json").stat().st_mtime_ns
    assert with_edited_images(tmp_path, "synthetic-tiny", 5) == flags
    assert (folder / "generate_report.json").stat().st_mtime_ns == before
    assert 60 < len(load_rows("pvlg", folder)[0]["train"]) < 96
