import torch

from modeling_rogle.inference.loading import best_device


def test_a_tensor_can_be_put_on_it_and_an_accelerator_is_preferred():
    device = best_device()
    assert torch.ones(2, device=device).sum().item() == 2
    assert (device.type != "cpu") == torch.accelerator.is_available()
