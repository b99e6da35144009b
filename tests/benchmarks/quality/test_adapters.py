from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.quality import adapters
from dataset_pvlg.loading import load_rows


def test_another_camera_sees_darker_and_bluer_and_the_same_size() -> None:
    image = Image.new("RGB", (20, 41), (200, 200, 200))
    seen = np.asarray(adapters.other_camera(image, 3), dtype=float)
    assert seen.shape == (41, 20, 3) and np.array_equal(seen, adapters.other_camera(image, 3))
    red, green, blue = seen.mean(axis=(0, 1))
    assert 60 < red < green < blue < 200 and seen.std(axis=(0, 1)).min() > 3


def test_adapters_are_measured_against_all_weights(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model", str(tiny_checkpoint), "--dataset", "synthetic-tiny", "--people", "10", "--epochs", "1"]
    flags += ["--rank", "2", "--rates", "1e-3", "--full-rates", "1e-3", "--size", "tiny", "--images", "4"]
    flags += ["--out", str(tmp_path), "--", "--threads", "1", "--batch-size", "8"]
    adapters.main(flags)
    printed = capsys.readouterr().out
    assert "those of others" in printed and "| adapters | 0.001 (chosen) |" in printed
    data = load_rows("pvlg", tmp_path / "synthetic-tiny-10")[0]
    plain = load_rows("synthetic-tiny")[0]
    assert len(set(data["train"]["person_id"])) == 10 and len(data["test"]) == len(plain["test"])
    assert data["test"][0]["caption"] == plain["test"][0]["caption"]
    adapters.main(flags)  # nothing is trained twice
    assert capsys.readouterr().out.splitlines()[-2:] == printed.splitlines()[-2:]
    flags[flags.index("--epochs") + 1] = "2"
    with pytest.raises(SystemExit, match="epochs is 1"):
        adapters.main(flags)
