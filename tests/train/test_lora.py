"""Adapters: few weights, saved alone, added to a base and merged without a difference."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPModel

from modeling_rogle import RogleModel
from train import train
from train.lora import add_adapters, load_adapters, merged

pytest.importorskip("peft")
IDS = torch.tensor([[0, 300, 301, 302, 1]])


def outputs(model: RogleModel) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    pixels, boxes = torch.randn(1, 3, 32, 16), torch.tensor([[0.1, 0.1, 0.9, 0.6]])
    return *model.eval().encode_images(pixels, boxes, torch.tensor([0])), model.encode_texts(IDS)


def adapted_with_noise(model: RogleModel, **given) -> object:
    """Adds adapters with random values; they start as zeros."""
    adapted = add_adapters(model, rank=2, **given)
    torch.manual_seed(1)
    with torch.no_grad():
        for each in model.parameters():
            if each.requires_grad:
                each += 0.1 * torch.randn_like(each)
    return adapted


def test_merged_and_loaded_adapters_give_equal_outputs(
    tiny_model: RogleModel, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    before = outputs(tiny_model)
    adapted = adapted_with_noise(tiny_model, base="a/base")
    wanted = outputs(tiny_model)
    assert not torch.allclose(before[0], wanted[0], atol=1e-2) and not torch.allclose(before[2], wanted[2], atol=1e-2)
    adapted.save_pretrained(tmp_path / "adapter")
    for other in (merged(adapted), load_adapters(tiny_checkpoint, tmp_path / "adapter")):
        assert type(other) is RogleModel
        for one, two in zip(wanted, outputs(other), strict=True):
            assert float((one - two).abs().max()) < 1e-5
        torch.testing.assert_close(other.region_head(), tiny_model.region_head())
    saved = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == "a/base"
    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all("lora" in name or "region_head" in name for name in names)
    assert outputs(tiny_model)[0].equal(wanted[0])  # merging was done on a copy


def test_a_folder_of_adapters_loads_with_the_base_that_it_names(
    tiny_model: RogleModel, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    adapted = adapted_with_noise(tiny_model, base=str(tiny_checkpoint))
    wanted = outputs(tiny_model)
    adapted.save_pretrained(tmp_path)
    model = RogleModel.from_pretrained(tmp_path)
    assert type(model) is RogleModel
    for one, two in zip(wanted, outputs(model), strict=True):
        assert float((one - two).abs().max()) < 1e-5
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    with pytest.raises(ValueError, match="field 'base_model_name_or_path' names no model"):
        RogleModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("targets", ["vision", "text"])
def test_one_tower_alone_is_adapted(tiny_model: RogleModel, targets: str) -> None:
    add_adapters(tiny_model, rank=2, targets=targets)
    names = {name for name, each in tiny_model.named_parameters() if each.requires_grad and "lora" in name}
    wanted = ("vision_model", "visual_projection") if targets == "vision" else ("text_model", "text_projection")
    assert names and all(name.startswith(wanted) for name in names)
    with pytest.raises(ValueError, match="targets must be one of"):
        add_adapters(tiny_model, rank=2, targets="head")


def test_adapters_are_added_to_plain_clip_weights(tiny_model: RogleModel, tmp_path: Path) -> None:
    config = tiny_model.config
    clip = CLIPModel(type(config).__bases__[0](**{
        name: getattr(config, name).to_dict() for name in ("text_config", "vision_config")
    }, projection_dim=32))  # fmt: skip
    clip.save_pretrained(tmp_path / "clip")
    base = RogleModel.from_pretrained(tmp_path / "clip", image_size=[32, 16], max_position_embeddings=64)
    adapted = adapted_with_noise(base)
    wanted = outputs(base)
    adapted.save_pretrained(tmp_path / "adapter")
    fields = {"image_size": [32, 16], "max_position_embeddings": 64}
    for one, two in zip(wanted, outputs(load_adapters(tmp_path / "clip", tmp_path / "adapter", **fields)), strict=True):
        assert float((one - two).abs().max()) < 1e-5


@pytest.mark.slow
def test_a_run_trains_and_leaves_adapters(tiny_checkpoint: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train.main([
        "--dataset", "synthetic-tiny", "--model", str(tiny_checkpoint), "--out", str(run), "--epochs", "1",
        "--batch-size", "16", "--threads", "1", "--trackers", "none", "--lora-rank", "2", "--learning-rate", "1e-2",
    ])  # fmt: skip
    best, again = RogleModel.from_pretrained(run / "best"), load_adapters(tiny_checkpoint, run / "best" / "adapter")
    for one, two in zip(outputs(best), outputs(again), strict=True):
        assert float((one - two).abs().max()) < 1e-5
    start = RogleModel.from_pretrained(tiny_checkpoint)
    assert not torch.allclose(outputs(best)[0], outputs(start)[0], atol=1e-3)
    words = [model.text_model.embeddings.token_embedding.weight for model in (best, start)]
    assert torch.equal(*words)
