"""Curves and card of a run."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from train.report import draw_curves, write_card

HISTORY = [
    {"step": 10, "loss": 6.0, "loss_global": 4.0, "loss_local": 4.0, "validation/global/long/R@1": 2.0},
    {"step": 20, "loss": 5.0, "loss_global": 3.5, "loss_local": 3.0, "validation/global/long/R@1": 9.0},
]
SUMMARY = {
    "command": "accelerate launch train/train.py --out /home/me/run --data-root /home/me/data",
    "split": "test",
    "chosen_on": "validation R@1 of long captions, epoch 2 of 2",
    "local_weight": 0.15,
    "training_seconds": 12.0,
    "bad_steps": 0,
    "results": {"global/long/R@1": 41.25, "global/long/mAP": 30.5, "local/R@5": 50.0, "local/queries": 12},
    "references": {"local/random/R@1": 1.5, "local/random/nDCG@10": 2.5},
}


def test_curves_show_more_ink_for_more_lines(tmp_path: Path) -> None:
    draw_curves(HISTORY, tmp_path / "both.png")
    only_global = [{k: v for k, v in entry.items() if k != "loss_local"} for entry in HISTORY]
    draw_curves(only_global, tmp_path / "one.png")
    ink = []
    for name in ("both", "one"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.size[0] > image.size[1] > 300
            ink.append(sum(image.convert("L").histogram()[:200]))
    assert ink[0] > ink[1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["both.png", "one.png"]


@pytest.mark.parametrize(
    ("dataset", "model", "licence", "named"),
    [
        ("synthetic", None, "apache-2.0", "**synthetic**"),
        ("synthetic", "some/clip", "other", "fine-tuned from `some/clip`"),
        ("icfg_pedes", "some/clip", "other", "`icfg_pedes`"),
        ("icfg_pedes", "LOCAL", "other", "from `small`"),
    ],
)
def test_the_card_names_training_data_and_scores(
    tmp_path: Path, dataset: str, model: str | None, licence: str, named: str
) -> None:
    if model == "LOCAL":
        (tmp_path / "small").mkdir()
        model = str(tmp_path / "small")
    recipe = {"dataset": dataset, "model": model, "epochs": 2, "out": "/home/me/run", "data_root": "/home/me/data"}
    write_card(tmp_path / "README.md", recipe, SUMMARY)
    card = ModelCard.load(tmp_path / "README.md")
    first = " ".join(card.content.split("# Rogle")[1].split("\n\n")[1].split())
    assert "independent implementation" in first and named in first
    assert card.data.license == licence
    assert card.data.base_model == (model if model == "some/clip" else None)
    listed = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert listed == {k: v for k, v in SUMMARY["results"].items() if k != "local/queries"}
    assert "| epochs | 2 |" in card.content
    assert "train/train.py --out OUT --data-root DATA_ROOT" in card.content
    assert "/home" not in card.content and str(tmp_path) not in card.content  # folders of the machine stay there
