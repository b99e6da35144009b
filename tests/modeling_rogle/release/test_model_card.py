"""The sections of a release in a model card: metadata for the Hub, and tables that come from measurements."""

import json
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from modeling_rogle.release.model_card import EVAL_RESULTS, finish_card, groups_table, read_evaluation
from modeling_rogle.release.upload import ReleaseError

CARD = "---\nlibrary_name: transformers\nlicense: apache-2.0\n---\n\n# Rogle\n"
BREAKDOWN = [
    {
        "protocol": "global/long",
        "attribute": "upper colour",
        "group": "red",
        "queries": 40,
        "R@1": 61.25,
        "mAP": 50,
    },
    {"protocol": "global/long", "attribute": "upper colour", "group": "teal", "queries": 9, "R@1": 0, "mAP": 1},
    {"protocol": "global+local/long", "attribute": "colour", "group": "red", "queries": 40, "R@1": 71.0, "mAP": 60},
    {"protocol": "local", "attribute": "a|<b>", "group": "x", "queries": 12, "R@1": 5.0, "mAP": 6.0},
]
EVALUATION = {
    "dataset": "synthetic",
    "split": "test",
    "results": {"global/long/R@1": 61.254, "global/long/mAP": 50.0, "global+local/long/R@1": 70.0},
    "breakdown": BREAKDOWN,
    "checkpoint_sha256": "0" * 64,
}
EXAMPLES = [
    {
        "file": "examples/1.jpg",
        "title": "drawn pedestrian 1",
        "candidate_labels": ["A red jacket", "A blue coat"],
        "output": [{"label": "A blue coat", "score": 0.61234567}, {"label": "A red jacket", "score": 0.38765433}],
    }
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "README.md").write_text(CARD)
    return tmp_path


def test_metadata_that_the_hub_reads(folder: Path):
    finish_card(folder, "me/rogle-tiny", "CLIP reads it.", EVALUATION, EXAMPLES, "me/pvlg", "me/rogle-tiny-lora")
    data = ModelCard.load(folder / "README.md").data
    assert (data.library_name, data.license, data.datasets, data.model_name) == (
        "transformers", "apache-2.0", ["me/pvlg"], "rogle-tiny",
    )  # fmt: skip
    (entry,) = data.widget
    assert entry["src"] == "https://huggingface.co/me/rogle-tiny/resolve/main/examples/1.jpg"
    assert entry["candidate_labels"] == "A red jacket, A blue coat"
    assert entry["output"] == [{"label": "A blue coat", "score": 0.6123}, {"label": "A red jacket", "score": 0.3877}]


def test_the_text_names_the_source_of_its_numbers(folder: Path):
    finish_card(folder, "me/rogle-tiny", "CLIP reads it.", EVALUATION, EXAMPLES, "me/pvlg", "me/rogle-tiny-lora")
    text = (folder / "README.md").read_text()
    assert 'AutoModel.from_pretrained("me/rogle-tiny", trust_remote_code=True)' in text and "CLIP reads it." in text
    assert "shows stored outputs" in text and "| A blue coat | 0.612 |" in text
    assert "synthetic, split test" in text and "`eval/eval.py`" in text and "me/rogle-tiny-lora" in text
    for heading in ("## Loading", "## Scores by", "## Examples", "## Verifying"):
        assert f"\n\n{heading}" in text


def test_without_measurements_there_is_no_table(folder: Path):
    finish_card(folder, "me/rogle-tiny", "CLIP reads it.")
    text = (folder / "README.md").read_text()
    assert "## Scores by" not in text and "## Examples" not in text and "adapters" not in text
    data = ModelCard.load(folder / "README.md").data.to_dict()
    assert "widget" not in data and "datasets" not in data and not (folder / EVAL_RESULTS).exists()


def test_small_groups_are_dropped_and_names_are_escaped():
    assert groups_table(BREAKDOWN).splitlines()[2:] == [
        "| long caption → image | upper colour | red | 40 | 61.2 | 50.0 |",
        "| sentence → region | a\\|&lt;b> | x | 12 | 5.0 | 6.0 |",
    ]
    assert groups_table(BREAKDOWN[1:2]) == ""


def test_results_in_the_hubs_own_format(folder: Path):
    finish_card(folder, "me/rogle-tiny", "", EVALUATION, (), "me/pvlg")
    entries = parse_eval_result_entries(yaml.safe_load((folder / EVAL_RESULTS).read_text()))
    assert {(entry.dataset_id, entry.task_id, entry.value) for entry in entries} == {
        ("me/pvlg", "global_long", 61.25), ("me/pvlg", "global_local_long", 70.0),
    }  # fmt: skip
    assert all("R@1 in percent" in entry.notes for entry in entries)


def test_an_evaluation_is_read_from_its_folder_or_named(tmp_path: Path):
    (tmp_path / "results.json").write_text(json.dumps(EVALUATION))
    assert read_evaluation(tmp_path) == read_evaluation(tmp_path / "results.json") == EVALUATION
    (tmp_path / "results.json").write_text(json.dumps({"results": {}}))
    with pytest.raises(ReleaseError, match=r"results\.json: no field 'dataset'"):
        read_evaluation(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(ReleaseError, match=r"results\.json: not JSON"):
        read_evaluation(tmp_path)


def test_a_card_that_cannot_be_read_is_named(folder: Path):
    (folder / "README.md").write_text("---\nlicense: [unclosed\n---\nwords\n")
    with pytest.raises(ReleaseError, match=r"README\.md: its metadata cannot be read"):
        finish_card(folder, "me/rogle", "")
