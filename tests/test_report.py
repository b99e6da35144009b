"""Curves and card: what people see of a run, read back."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image
from report import draw_curves, write_card

HISTORY = [
    {"step": 10, "loss": 6.0, "loss_global": 4.0, "loss_local": 4.0, "validation/global/long/R@1": 2.0},
    {"step": 20, "loss": 5.0, "loss_global": 3.5, "loss_local": 3.0, "validation/global/long/R@1": 9.0},
]
SUMMARY = {
    "command": "accelerate launch train/train.py",
    "split": "test",
    "chosen_on": "validation R@1 of long captions, epoch 2 of 2",
    "local_weight": 0.15,
    "training_seconds": 12.0,
    "bad_steps": 0,
    "results": {"global/long/R@1": 41.25, "global/long/mAP": 30.5, "local/R@5": 50.0},
}


def test_curves_show_more_ink_for_more_lines(tmp_path: Path) -> None:
    draw_curves(HISTORY, tmp_path / "both.png")
    only_global = [{k: v for k, v in entry.items() if k != "loss_local"} for entry in HISTORY]
    draw_curves(only_global, tmp_path / "one.png")
    ink = []
    for name in ("both", "one"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.size[0] > picture.size[1] > 300
            ink.append(sum(picture.convert("L").histogram()[:200]))
    assert ink[0] > ink[1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["both.png", "one.png"]


@pytest.mark.parametrize(
    ("dataset", "licence", "said"), [("synthetic", "apache-2.0", "synthetic"), ("icfg_pedes", "other", "terms bind")]
)
def test_card_says_what_it_is_trained_on_and_its_numbers(tmp_path: Path, dataset: str, licence: str, said: str) -> None:
    write_card(tmp_path / "README.md", {"dataset": dataset, "model": "some/clip", "epochs": 2}, SUMMARY)
    card = ModelCard.load(tmp_path / "README.md")
    first = card.content.split("# Rogle")[1].split("\n\n")[1]
    assert "independent implementation" in first and said in first
    assert card.data.license == licence
    assert card.data.base_model == "some/clip"
    found = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert found == SUMMARY["results"]
    assert "| epochs | 2 |" in card.content and SUMMARY["command"] in card.content
