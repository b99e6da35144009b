"""Scores in the model card: as huggingface_hub reads them, once each, and nothing else of the card touched."""

from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from eval.card_entries import card_path, write_entries
from train.report import write_card

FOUND = {
    "model": "runs/x",
    "dataset": "synthetic",
    "split": "test",
    "results": {
        "global/long/R@1": 41.256,
        "global/short/mAP": 30.5,
        "local/R@5": 50.0,
        "joint/caption/R@1": 12.0,
        "local/queries": 12,
        "local/median_rank": 3.0,
    },
}


def entries(path: Path) -> dict[tuple, float]:
    values = [
        ((entry.dataset_config, entry.dataset_split, entry.metric_type), entry.metric_value)
        for entry in ModelCard.load(path).data.eval_results
    ]
    assert len(dict(values)) == len(values), "an entry occurs twice"
    return dict(values)


def test_a_new_card_contains_only_percentages(tmp_path: Path) -> None:
    path = write_entries(tmp_path, FOUND)
    assert path == tmp_path / "README.md"
    names = {"global/long/R@1": 41.26, "global/short/mAP": 30.5, "local/R@5": 50.0, "joint/caption/R@1": 12.0}
    assert entries(path) == {("synthetic", "test", name): value for name, value in names.items()}
    header = yaml.safe_load(path.read_text().split("---")[1])
    assert header["model-index"][0]["name"] == "x"
    assert header["model-index"][0]["results"][0]["task"]["type"] == "text-based-person-search"
    assert [p.name for p in tmp_path.iterdir()] == ["README.md"]


def test_a_second_run_replaces_its_entries_and_keeps_others(tmp_path: Path) -> None:
    write_entries(tmp_path, FOUND)
    write_entries(tmp_path, FOUND | {"results": {"global/long/R@1": 45.0}})
    write_entries(tmp_path, FOUND | {"dataset": "icfg_pedes", "results": {"global/long/R@1": 9.0}})
    write_entries(tmp_path, FOUND | {"split": "validation", "results": {"global/long/R@1": 50.0}})
    values = entries(tmp_path / "README.md")
    assert values["synthetic", "test", "global/long/R@1"] == 45.0
    assert values["synthetic", "test", "local/R@5"] == 50.0
    assert values["icfg_pedes", "test", "global/long/R@1"] == 9.0
    assert values["synthetic", "validation", "global/long/R@1"] == 50.0


def test_the_text_of_a_training_card_is_kept(tmp_path: Path) -> None:
    summary = {"command": "train", "split": "test", "chosen_on": "validation", "local_weight": 0.1}
    summary |= {"training_seconds": 1.0, "bad_steps": 0, "references": {}}
    summary |= {"results": {"global/long/R@1": 40.0, "global/long/mAP": 33.0}}
    recipe = {"dataset": "synthetic", "model": None, "epochs": 2, "out": "runs/x"}
    write_card(tmp_path / "README.md", recipe, summary)
    before = ModelCard.load(tmp_path / "README.md")
    write_entries(tmp_path / "README.md", FOUND)
    after = ModelCard.load(tmp_path / "README.md")
    assert after.text == before.text
    assert (after.data.license, after.data.model_name) == (before.data.license, before.data.model_name)
    values = entries(tmp_path / "README.md")
    assert values["synthetic", "test", "global/long/R@1"] == 41.26  # training's own figure is replaced, not doubled
    assert values["synthetic", "test", "global/long/mAP"] == 33.0


def test_paths_that_are_no_card_and_headers_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="model.safetensors: no folder"):
        card_path(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="no folder"):
        write_entries(tmp_path / "nowhere/README.md", FOUND)
    (tmp_path / "README.md").write_text("---\nlicense: [unclosed\n---\nwords\n")
    with pytest.raises(ValueError, match="README.md: its metadata cannot be read"):
        write_entries(tmp_path, FOUND)
    assert "unclosed" in (tmp_path / "README.md").read_text()
