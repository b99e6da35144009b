"""benchmarks/speed/mining.py: both variants mine the same candidates, and the tables check the targets."""

import pytest
import torch

from benchmarks.speed import mining as mining_speed
from modeling_rogle import RogleProcessor
from modeling_rogle.matching.mining import encode_rows, propose_anchors


@pytest.fixture(scope="module")
def rows():
    return mining_speed.first_rows("validation", 3, images_per_identity=1)


def test_crops_as_a_model_are_the_crops_of_mining(rows, tiny_model, tiny_processor):
    crops = list(encode_rows(mining_speed.CropEncoder(tiny_model), tiny_processor, rows))
    expected = list(encode_rows(tiny_model, tiny_processor, rows, crops=True))
    for a, b in zip(crops, expected, strict=True):
        assert torch.allclose(a.region_embeds, b.region_embeds, atol=1e-5)
        assert torch.equal(a.sentence_embeds, b.sentence_embeds)


def test_seconds_add_up_and_crops_cost_more(rows, tiny_checkpoint):
    model, processor = mining_speed.random_model("tiny", RogleProcessor.from_pretrained(tiny_checkpoint))
    times = {
        "dense": mining_speed.time_mining(model, processor, rows, propose_anchors),
        "crops": mining_speed.time_mining(mining_speed.CropEncoder(model), processor, rows, propose_anchors),
    }
    for row in times.values():
        assert row["boxes"] == 49
        assert row["total"] == pytest.approx(sum(row[name] for name in ("proposals", "images", "sentences", "rest")))
    assert times["crops"]["images"] > times["dense"]["images"]


def test_tables_say_whether_the_targets_hold():
    dense = {"total": 1.0, "proposals": 0.1, "images": 0.5, "sentences": 0.3, "rest": 0.1, "boxes": 120.0}
    text = mining_speed.speed_markdown({"dense": dense, "crops": dense | {"total": 50.0, "images": 49.5}}, {})
    assert "50.0 times" in text and "at least 40, holds" in text and "alone is 99.0 times" in text
    assert "at least 40, missed" in mining_speed.speed_markdown({"dense": dense, "crops": dense | {"total": 39.0}}, {})
    crops = {"precision": 80.0, "recall": 70.0, "none_f1": 90.0}
    text = mining_speed.quality_markdown({"dense": crops | {"precision": 78.5, "recall": 71.0}, "crops": crops})
    assert "+1.5 points of precision and -1.0 of recall" in text and "at most 2, holds" in text
    assert "at most 2, missed" in mining_speed.quality_markdown({"dense": crops | {"recall": 67.9}, "crops": crops})


def test_the_program_writes_both_tables(tiny_checkpoint, tmp_path, capsys):
    out = tmp_path / "speed.md"
    command = ["--size", "tiny", "--model", str(tiny_checkpoint), "--proposer", "anchors", "--images", "2"]
    command += ["--rounds", "1", "--train-rows", "6", "--rows", "2", "--out", str(out)]
    assert mining_speed.main(command) == 0
    text = out.read_text()
    assert text == capsys.readouterr().out and text.count("| dense |") == text.count("| crops |") == 2
    assert "proposer anchors" in text and "MiB" in text
