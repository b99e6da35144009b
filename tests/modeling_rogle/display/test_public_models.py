"""The list of public models: every entry is complete, and its configuration is one that the tests use."""

import json

from modeling_rogle.cli.main import main
from modeling_rogle.display.public_models import MODELS
from tests.helpers.clip_folders import CONFIGS


def test_every_model_states_licence_size_source_and_what_was_tried(capsys):
    assert main(["models", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert len(listed) == len(MODELS) and {model["name"] for model in listed} >= set(CONFIGS)
    for model in listed:
        assert all(model.values()) and model["source"].startswith("https://")
        assert f"\n{model['name']}\n" in f"\n{text}" and model["licence"] in text and "not " in model["tried"]
