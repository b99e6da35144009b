"""Loading a model for search, its default device, and the fingerprint of its weights and configuration."""

import torch

from modeling_rogle.inference.loading import best_device, fingerprint
from modeling_rogle.modeling_rogle import RogleModel


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
