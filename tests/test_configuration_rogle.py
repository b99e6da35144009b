"""RogleConfig: defaults, the round trip, and each wrong field named."""

from pathlib import Path

import pytest
from transformers import AutoConfig

from modeling_rogle import RogleConfig


def test_defaults_are_the_releases() -> None:
    config = RogleConfig(vision_config={"patch_size": 16})
    assert tuple(config.image_size) == (384, 128)
    assert config.patch_grid == (24, 8)
    assert config.initializer_range == 0.02


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
    ],
)
def test_a_wrong_value_names_its_field(field: str, value: object) -> None:
    with pytest.raises(Exception, match=field):
        RogleConfig(vision_config={"patch_size": 16}, **{field: value})
