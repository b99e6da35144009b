"""Loading a model for search, its default device, and the fingerprint of its weights and configuration."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from modeling_rogle.clip_weights import END_TOKEN, LEGACY_END_TOKEN, rogle_weights
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.inference.loading import best_device, fingerprint, load_model
from modeling_rogle.modeling_rogle import RogleModel
from modeling_rogle.processing_rogle import RogleProcessor


def test_a_tensor_can_be_put_on_the_default_device_and_an_accelerator_is_preferred():
    device = best_device()
    assert torch.ones(2, device=device).sum().item() == 2
    assert (device.type != "cpu") == torch.accelerator.is_available()


def test_the_fingerprint_survives_saving_and_follows_weights_and_configuration(tiny_model, tmp_path):
    before = fingerprint(tiny_model)
    tiny_model.save_pretrained(tmp_path / "model")
    assert fingerprint(RogleModel.from_pretrained(tmp_path / "model")) == before
    tiny_model.config.local_weight = 0.123  # changes how scores are combined, not what an index stores
    assert fingerprint(tiny_model) == before
    tiny_model.config.text_config.eos_token_id += 1
    changed = fingerprint(tiny_model)
    assert changed != before
    with torch.no_grad():
        tiny_model.visual_projection.weight[0, 0] += 1e-3
    assert fingerprint(tiny_model) not in (before, changed)


def test_models_that_cannot_search_are_refused_in_one_line(tiny_checkpoint, tmp_path):
    def copy_model(name: str) -> Path:
        return Path(shutil.copytree(tiny_checkpoint, tmp_path / name))

    (copy_model("bert") / "config.json").write_text('{"model_type": "bert"}')
    os.truncate(copy_model("cut") / "model.safetensors", 5000)
    (copy_model("wordless") / "tokenizer.json").unlink()
    config = copy_model("foreign") / "config.json"
    settings = json.loads(config.read_text())
    settings["text_config"]["eos_token_id"] += 3
    config.write_text(json.dumps(settings))
    config = copy_model("heavy") / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"local_weight": 5.0}))
    for name, message in (
        ("bert", "model_type 'bert' in config.json"),
        ("cut", "weights cannot be read"),
        ("foreign", "the tokenizer is not this model's"),
        ("heavy", "config.json: local_weight must lie in \\[0, 1\\], not 5.0"),
    ):
        with pytest.raises(GalleryError, match=message) as caught:
            load_model(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(OSError, match="no vocabulary"):
        load_model(tmp_path / "wordless")


def test_words_added_to_the_tokenizer_do_not_end_a_text_in_an_old_configuration(tiny_model, tiny_processor, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    processor = RogleProcessor.from_pretrained(tmp_path)
    processor.tokenizer.add_tokens(["poncho"])
    processor.save_pretrained(tmp_path)
    model = RogleModel.from_pretrained(tmp_path)
    model.text_model.resize_token_embeddings(len(processor.tokenizer))
    model.config.text_config.vocab_size = len(processor.tokenizer)
    model.config.text_config.eos_token_id = LEGACY_END_TOKEN
    model.save_pretrained(tmp_path)
    model, processor = load_model(tmp_path)
    texts = ["A poncho with red shoes.", "A poncho with a blue bag."]
    embeds = model.encode_texts(**processor(text=texts, return_tensors="pt"))
    assert embeds[0] @ embeds[1] < 0.999


def test_an_old_configuration_of_clip_ends_a_text_at_the_end_token_of_clip(tiny_config):
    from transformers import CLIPConfig, CLIPModel

    tower = {**tiny_config.text_config.to_dict(), "vocab_size": END_TOKEN + 2, "eos_token_id": LEGACY_END_TOKEN}
    clip = CLIPModel(
        CLIPConfig(text_config=tower, vision_config=tiny_config.vision_config.to_dict(), projection_dim=32)
    )
    config, _ = rogle_weights("clip", clip, {"image_size": [32, 16]})
    assert config.text_config.eos_token_id == END_TOKEN
