"""RogleConfig: defaults, the round trip, and each wrong field named."""

import json
from pathlib import Path

import pytest
from transformers import AutoConfig

from modeling_rogle import RogleConfig


def test_defaults_are_the_releases() -> None:
    config = RogleConfig(vision_config={"patch_size": 16})
    assert tuple(config.image_size) == (384, 128)
    assert config.patch_grid == (24, 8)
    assert config.initializer_range == 0.02


def test_a_configuration_from_before_there_were_heads_has_none(tmp_path: Path, tiny_config: RogleConfig) -> None:
    tiny_config.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    new = ("head", "itc_temperature", "same_identity", "local_contrast", "id_loss", "short_loss_weight")
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in stored.items() if k not in new}))
    loaded = RogleConfig.from_pretrained(tmp_path)
    assert loaded.head == "none" and loaded.itc_temperature == loaded.short_loss_weight == 0


def test_round_trip_through_auto_config(tmp_path: Path, tiny_config: RogleConfig) -> None:
    tiny_config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, RogleConfig)
    assert loaded.model_type == "rogle"
    assert list(loaded.image_size) == [32, 16]
    assert loaded.text_config.max_position_embeddings == 64


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_size", [100, 64]),
        ("image_size", [64]),
        ("text_positions", "spline"),
        ("region_feature", "magic"),
        ("local_weight", 1.5),
        ("local_loss_weight", -0.1),
        ("tsl_text_weight", -1.0),
        ("head", "transformer"),
        ("head_loss_weight", -1.0),
        ("head_temperature", 0.0),
        ("head_layers", 0),
        ("part_slots", 0),
        ("part_margin", -0.1),
        ("commonality", 1.1),
        ("mask_probability", -0.1),
        ("itc_temperature", -0.02),
        ("same_identity", "negative"),
        ("local_contrast", "image"),
        ("id_loss", "none"),
        ("short_components", 0),
        ("short_loss_weight", -1.0),
    ],
)
def test_a_wrong_value_names_its_field(field: str, value: object) -> None:
    with pytest.raises(Exception, match=field):
        RogleConfig(vision_config={"patch_size": 16}, **{field: value})
