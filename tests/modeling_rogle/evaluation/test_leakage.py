"""Leakage of region embeddings, on a model whose leakage is known."""

import math

import torch

from modeling_rogle.box_ops import crop_boxes
from modeling_rogle.evaluation.leakage import region_leakage


class Means:
    """A model whose region feature is a constant and the mean colour of the box, or of the whole image."""

    def __init__(self, whole: bool):
        self.whole = whole

    def encode_images(self, pixels: torch.Tensor, boxes: torch.Tensor, box_image: torch.Tensor) -> tuple:
        pixels_read = pixels[box_image] if self.whole else crop_boxes(pixels, boxes, box_image)
        means = torch.cat([pixels_read.mean((2, 3)), torch.ones(len(boxes), 1)], dim=1)
        return None, torch.nn.functional.normalize(means, dim=-1)


def test_leakage_is_the_effect_of_the_surroundings() -> None:
    torch.manual_seed(2)
    pixels = torch.zeros(2, 1, 32, 16)
    pixels[0, :, :16] = 1.0  # the upper half of the first image
    boxes = torch.tensor([[0.0, 0.5, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0], [0.1, 0.1, 0.13, 0.15]])
    image = torch.tensor([0, 0, 1])
    torch.testing.assert_close(
        region_leakage(Means(whole=False), pixels, boxes, image), torch.zeros(3), atol=1e-6, rtol=0
    )
    leakage = region_leakage(Means(whole=True), pixels, boxes, image)
    # The lower half is empty: (0.5, 1) with its surroundings, (0, 1) without.
    torch.testing.assert_close(leakage, torch.tensor([1 - 1 / math.sqrt(1.25), 0.0, 0.0]), atol=1e-6, rtol=0)
