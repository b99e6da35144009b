"""Groups of weights, rates by depth, and the moving average."""

import pytest
import torch

from modeling_rogle import RogleModel
from train.optimizer import MovingAverage, parameter_groups


def test_scales_and_positions_do_not_decay(tiny_model: RogleModel) -> None:
    decayed, free = parameter_groups(tiny_model, 0.1)
    assert decayed["weight_decay"] == 0.1 and free["weight_decay"] == 0.0
    assert any(p is tiny_model.logit_scale for p in free["params"])
    assert any(p is tiny_model.text_model.embeddings.position_embedding.weight for p in free["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(list(tiny_model.parameters()))


def test_rates_fall_by_depth(tiny_model: RogleModel) -> None:
    rate = {}
    for group in parameter_groups(tiny_model, 0.1, learning_rate=1.0, layer_decay=0.5):
        rate |= {id(parameter): group["lr"] for parameter in group["params"]}
    for tower in (tiny_model.vision_model, tiny_model.text_model):
        assert [rate[id(layer.mlp.fc1.weight)] for layer in tower.encoder.layers] == [0.25, 0.5]
        assert rate[id(tower.embeddings.position_embedding.weight)] == 0.125
    for top in (tiny_model.visual_projection.weight, tiny_model.logit_scale, tiny_model.region_head.logit_scale):
        assert rate[id(top)] == 1.0
    assert rate[id(tiny_model.text_model.final_layer_norm.weight)] == 1.0
    assert len(rate) == len(list(tiny_model.parameters()))


def test_frozen_weights_are_left_out(tiny_model: RogleModel) -> None:
    tiny_model.vision_model.requires_grad_(False)
    kept = {id(p) for group in parameter_groups(tiny_model, 0.1) for p in group["params"]}
    assert kept == {id(p) for p in tiny_model.parameters() if p.requires_grad}


def test_the_moving_average_follows_and_stands_in(tiny_model: RogleModel) -> None:
    average = MovingAverage(tiny_model, 0.9)
    weight = tiny_model.visual_projection.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight += 1
    average.update()
    average.update()
    wanted = 0.9 * (0.9 * before + 0.1 * (before + 1)) + 0.1 * (before + 1)
    with pytest.raises(KeyError), average.in_place():
        torch.testing.assert_close(weight.detach(), wanted)
        raise KeyError  # even then the trained weights come back
    torch.testing.assert_close(weight.detach(), before + 1)
    other = MovingAverage(tiny_model, 0.9)
    other.load_state_dict(average.state_dict())
    torch.testing.assert_close(other.average["visual_projection.weight"], wanted)
