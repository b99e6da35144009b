"""Exported images are the data set's own bytes."""

import hashlib
from pathlib import Path

import pytest

from dataset_pvlg.inspection.export_images import main
from dataset_pvlg.loading import load_rows


def test_images_are_written_byte_for_byte(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["--dataset", "synthetic-tiny", "--out", str(tmp_path / "gallery")]) == 0
    rows = load_rows("synthetic-tiny")[0]["test"]
    written = {hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / "gallery").iterdir()}
    assert written == set(rows["sha256"])
    assert f"{len(rows)} images" in capsys.readouterr().out


def test_unknown_split_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["--dataset", "synthetic-tiny", "--split", "holdout", "--out", str(tmp_path)]) == 2
    assert "--split holdout: synthetic-tiny has train, validation, test" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["pvlg", "cuhk_pedes", "synthetc"])
def test_only_synthetic_images_are_exported(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["--dataset", name, "--out", str(tmp_path / "gallery")]) == 2
    told = capsys.readouterr().err
    assert f"--dataset {name}: only synthetic and synthetic-tiny are exported" in told and told.count("\n") == 1
    assert not (tmp_path / "gallery").exists()
