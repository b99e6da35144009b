"""RogleConfig: defaults, the round trip, fields of earlier versions, and errors that name the field."""

import json
from pathlib import Path

import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import AutoConfig, CLIPConfig

from modeling_rogle import RogleConfig


def test_defaults_are_the_releases() -> None:
    config = RogleConfig(vision_config={"patch_size": 16})
    assert tuple(config.image_size) == (384, 128)
    assert config.patch_grid == (24, 8)
    assert config.initializer_range == 0.02


def test_a_configuration_older_than_the_heads_has_no_head(tmp_path: Path, tiny_config: RogleConfig) -> None:
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


def test_there_are_few_fields_and_head_settings_have_defaults() -> None:
    own = set(RogleConfig.__dataclass_fields__) - set(CLIPConfig.__dataclass_fields__)
    assert len(own | {"initializer_range"}) <= 24
    assert RogleConfig().head_config == {}
    config = RogleConfig(head="acsa", head_config={"head_loss_weight": 0.1})
    assert config.head_config == {"head_loss_weight": 0.1, "head_temperature": 0.02}
    assert RogleConfig(head="parts", part_slots=3).head_config["part_slots"] == 3
    with pytest.raises(ValueError, match="head_config has no key 'slots'"):
        RogleConfig(head="parts", head_config={"slots": 3})


def test_head_fields_of_an_earlier_version_are_read_silently(
    tmp_path: Path, tiny_config: RogleConfig, caplog: pytest.LogCaptureFixture
) -> None:
    store(tmp_path, tiny_config, head="parts", part_slots=4, part_margin=0.3, mask_probability=0.2, head_config=None)
    loaded = RogleConfig.from_pretrained(tmp_path)
    assert (loaded.head_config["part_slots"], loaded.head_config["part_margin"]) == (4, 0.3)
    assert not caplog.messages
    loaded.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["head_config"] == loaded.head_config and "part_slots" not in stored
    assert RogleConfig.from_pretrained(tmp_path, part_slots=2).head_config == loaded.head_config | {"part_slots": 2}
    assert RogleConfig.from_pretrained(tmp_path, head="acsa").head_config["head_temperature"] == 0.02


def test_deleted_fields_are_ignored_with_one_warning(
    tmp_path: Path, tiny_config: RogleConfig, caplog: pytest.LogCaptureFixture
) -> None:
    store(tmp_path, tiny_config, soft_negatives=0.5, distill_weight=0.0, reliability_local="margin")
    loaded = RogleConfig.from_pretrained(tmp_path)
    (message,) = caplog.messages
    assert "soft_negatives" in message and "distill_weight" in message and "reliability_local" in message
    assert loaded.reliability_local == "none"
    assert "soft_negatives" not in loaded.to_dict()


def test_an_argument_that_overrides_a_stored_field_is_checked(tmp_path: Path, tiny_config: RogleConfig) -> None:
    tiny_config.save_pretrained(tmp_path)
    for field, value in (("global_loss", "magic"), ("reliability_local", "margin"), ("region_feature", "masked_cls")):
        with pytest.raises(StrictDataclassClassValidationError, match=field):
            RogleConfig.from_pretrained(tmp_path, **{field: value})


def test_a_deleted_region_feature_is_refused(tmp_path: Path, tiny_config: RogleConfig) -> None:
    store(tmp_path, tiny_config, region_feature="masked_cls", masked_blocks=1)
    with pytest.raises(StrictDataclassClassValidationError, match="region_feature 'masked_cls' was removed"):
        RogleConfig.from_pretrained(tmp_path)


def store(folder: Path, config: RogleConfig, **fields: object) -> None:
    config.save_pretrained(folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_size", [100, 64]),
        ("image_size", [64]),
        ("region_feature", "magic"),
        ("local_weight", 1.5),
        ("local_loss_weight", -0.1),
        ("tsl_text_weight", -1.0),
        ("head", "transformer"),
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


@pytest.mark.parametrize(
    ("head", "field", "value"),
    [
        ("acsa", "head_loss_weight", -1.0),
        ("acsa", "head_temperature", 0.0),
        ("parts", "head_layers", 0),
        ("parts", "part_slots", 2.5),
        ("parts", "part_margin", -0.1),
        ("parts", "commonality", 1.1),
        ("implicit_relations", "mask_probability", -0.1),
        ("implicit_relations", "mask_probability", "much"),
    ],
)
def test_a_wrong_value_of_a_head_names_its_key(head: str, field: str, value: object) -> None:
    for given in ({field: value}, {"head_config": {field: value}}):
        with pytest.raises(StrictDataclassClassValidationError, match=field):
            RogleConfig(head=head, **given)
