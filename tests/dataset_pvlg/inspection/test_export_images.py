"""Exported images are the data set's own bytes."""

import hashlib
from pathlib import Path

import pytest

from dataset_pvlg.inspection import export_images
from dataset_pvlg.loading import load_rows
from tests.helpers.commands import one_line, run_data_command


def test_images_are_written_byte_for_byte(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["--dataset", "synthetic-tiny", "--out", str(tmp_path / "gallery")]
    assert run_data_command(export_images, arguments) == 0
    rows = load_rows("synthetic-tiny")[0]["test"]
    written = {hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / "gallery").iterdir()}
    assert written == set(rows["sha256"])
    assert f"{len(rows)} images" in capsys.readouterr().out


def test_unknown_split_is_one_line(tmp_path: Path) -> None:
    arguments = ["--dataset", "synthetic-tiny", "--split", "holdout", "--out", str(tmp_path)]
    with pytest.raises(ValueError) as caught:
        run_data_command(export_images, arguments)
    assert "--split holdout: synthetic-tiny has train, validation, test" in one_line(caught.value)


@pytest.mark.parametrize("name", ["pvlg", "cuhk_pedes", "synthetc"])
def test_only_synthetic_images_are_exported(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        run_data_command(export_images, ["--dataset", name, "--out", str(tmp_path / "gallery")])
    assert f"--dataset {name}" in one_line(caught.value)
    assert not (tmp_path / "gallery").exists()
