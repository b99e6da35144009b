"""The vision model: the last block for the class token only, and the input of the last block."""

import torch

from modeling_rogle import RogleModel
from modeling_rogle.vision_rogle import LastBlock


def test_the_class_token_only_changes_no_value_and_no_gradient(tiny_model: RogleModel) -> None:
    model, pixels = tiny_model, torch.randn(3, 3, 32, 16)
    found = []
    for last_block in (None, LastBlock(class_token_only=True)):
        model.zero_grad()
        vision = model.vision_model(pixel_values=pixels, last_block=last_block)
        vision.pooler_output[:, :5].sum().backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        found.append((vision.pooler_output.detach(), gradients))
        assert vision.last_hidden_state.shape == (3, 9 if last_block is None else 1, 32)
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-4)


def test_the_input_of_the_last_block_is_kept(tiny_model: RogleModel) -> None:
    pixels, last_block = torch.randn(3, 3, 32, 16), LastBlock(keep_input=True)
    states = tiny_model.vision_model(pixels, output_hidden_states=True).hidden_states
    tiny_model.vision_model(pixels, last_block=last_block)
    torch.testing.assert_close(last_block.input, states[-2])
