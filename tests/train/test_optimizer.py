"""Groups of weights: which decay, and which are trained."""

from modeling_rogle import RogleModel
from train.optimizer import parameter_groups


def test_scales_and_positions_do_not_decay(tiny_model: RogleModel) -> None:
    decayed, free = parameter_groups(tiny_model, 0.1)
    assert decayed["weight_decay"] == 0.1 and free["weight_decay"] == 0.0
    assert any(p is tiny_model.logit_scale for p in free["params"])
    assert any(p is tiny_model.text_model.embeddings.position_embedding.weight for p in free["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(list(tiny_model.parameters()))


def test_frozen_weights_are_left_out(tiny_model: RogleModel) -> None:
    tiny_model.vision_model.requires_grad_(False)
    trained = {id(p) for group in parameter_groups(tiny_model, 0.1) for p in group["params"]}
    assert trained == {id(p) for p in tiny_model.parameters() if p.requires_grad}
