"""The project is recognised by the keys; unsupported layouts are refused with the reason."""

import pytest
import torch

from modeling_rogle.conversion.checkpoint_files import ConvertError
from modeling_rogle.conversion.layouts import recognise, source_grid
from tests.helpers.checkpoint_layouts import (
    irra_state,
    long_clip_state,
    open_clip_state,
    openai_state,
    rde_state,
    tbps_clip_state,
)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (openai_state, "OpenAI CLIP"),
        (open_clip_state, "open_clip"),
        (long_clip_state, "Long-CLIP"),
        (irra_state, "IRRA"),
        (rde_state, "RDE"),
        (tbps_clip_state, "TBPS-CLIP"),
    ],
)
def test_the_project_is_recognised_and_no_key_is_lost(make, name: str):
    state = make()
    layout = recognise(state, "file")
    assert layout.name == name
    read = set(layout.keys.values()) | set(layout.unused)
    assert read | {"positional_embedding_res", "logit_scale"} >= set(state)
    assert set(layout.state) == set(layout.keys) == set(openai_state())


def test_open_clip_is_recognised_by_its_training_file_and_its_widths():
    assert recognise(openai_state(), "file", wrapper="state_dict").activation == "gelu"
    huge = openai_state() | {"visual.conv1.weight": torch.zeros(1408, 3, 14, 14)}
    layout = recognise(huge, "file")
    assert (layout.name, layout.vision_head, layout.activation) == ("open_clip", 88, "gelu") and layout.notes


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("visual.layer1.0.conv1.weight", "ResNet"),
        ("base_model.visual.layer1.0.conv1.weight", "ResNet"),
        ("visual.trunk.patch_embed.proj.weight", "timm"),
        ("text_decoder.resblocks.0.ln_1.weight", "CoCa"),
        ("vision_model.embeddings.class_embedding", "layout of transformers"),
    ],
)
def test_unsupported_layouts(key: str, reason: str):
    with pytest.raises(ConvertError, match=reason) as caught:
        recognise({key: torch.zeros(1)}, "file.pt")
    assert str(caught.value).startswith(f"file.pt: {key!r}")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"vision_cfg": {"pool_type": "avg"}}, "vision_cfg has pool_type 'avg'"),
        ({"text_cfg": {"no_causal_mask": True}}, "text_cfg has no_causal_mask True"),
        ({"text_cfg": {"hf_model_name": "roberta"}}, "hf_model_name"),
    ],
)
def test_settings_that_compute_something_else(settings: dict, reason: str):
    with pytest.raises(ConvertError, match=reason):
        recognise(openai_state(), "file.pt", settings={"model_cfg": settings})


def test_an_unknown_activation_is_refused():
    with pytest.raises(ConvertError, match="relu"):
        recognise(openai_state(), "file.pt", activation="relu")


def test_no_table_fits_two_grids():
    assert source_grid(197, "f") == (14, 14) and source_grid(193, "f") == (24, 8) and source_grid(129, "f") == (16, 8)
    with pytest.raises(ConvertError, match="311 rows"):
        source_grid(311, "f")  # 384 x 128 in overlapping patches, a stride of 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_cfg": {"vision_cfg": [1]}}, "'vision_cfg'"),
        ({"model_cfg": {"text_cfg": "wide"}}, "'text_cfg'"),
        (
            {"model_cfg": {"vision_cfg": {"head_width": "64"}}},
            "'head_width' in its settings is '64'",
        ),
        ({"model_cfg": {"text_cfg": {"heads": 0, "width": 64}}}, "'heads' in its settings is 0"),
        ({"preprocess_cfg": {"mean": 0.5}}, "'mean' in its settings is 0.5"),
        ({"preprocess_cfg": {"std": [0.2, "x", 0.2]}}, "'std' in its settings is"),
    ],
)
def test_settings_of_another_kind_are_named(settings: dict, message: str):
    with pytest.raises(ConvertError, match=f"^file.bin: {message}"):
        recognise(openai_state(), "file.bin", settings=settings)
