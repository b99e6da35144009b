"""benchmarks/quality/int8.py: R@1 equals that of the torch model, and bad input is reported in one line."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality import int8

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from dataset_pvlg.loading import load_rows  # noqa: E402
from modeling_rogle import RogleModel, RogleProcessor  # noqa: E402
from tests.helpers.onnx_files import exported_folder  # noqa: E402


@pytest.fixture(scope="module")
def exported(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_folder(tiny_checkpoint, tmp_path_factory)


def test_r1_is_the_models_own(exported: Path, tiny_checkpoint: Path):
    rows = load_rows("synthetic-tiny")[0]["validation"]
    rows = rows.select(range(min(12, len(rows))))
    cost = int8.measure(exported, rows, int8=False, progress=False)
    model, processor = RogleModel.from_pretrained(tiny_checkpoint), RogleProcessor.from_pretrained(tiny_checkpoint)
    images = model.encode_images(processor(images=list(rows["image"]), return_tensors="pt")["pixel_values"])[0]
    texts = model.encode_texts(processor(text=list(rows["caption"]), return_tensors="pt")["input_ids"])
    people = np.array(rows["person_id"])
    first = (texts @ images.T).argmax(1).numpy()
    assert cost.r1_global == pytest.approx(100 * (people[first] == people).mean())
    assert cost.queries == cost.gallery == len(rows) and cost.megabytes > 0 and cost.text_ms > 0


def test_table_says_what_is_lost():
    float32 = int8.Cost(80.0, 91.0, 600, 600, 7.0, 2.0, 3.0)
    table = int8.as_table(float32, replace(float32, r1_global=79.25, r1_fused=91.5))
    assert "int8 loses 0.75 and -0.50 points of 600 queries" in table and table.count("\n|") == 3


def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], exported: Path):
    assert int8.main(["--model", str(exported), "--dataset", "synthetic-tiny", "--split", "holdout"]) == 2
    assert "--split holdout: synthetic-tiny has" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no rows"):
        int8.measure(exported, [], int8=True)
