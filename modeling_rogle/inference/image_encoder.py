"""Pixels -> embeddings of pictures and their template regions, in bfloat16 where this machine is faster in it."""

import copy

import numpy as np
import torch

from modeling_rogle.index.manifest import GalleryError
from modeling_rogle.inference.precision import fast_bfloat16
from modeling_rogle.matching.assignment import template_boxes
from modeling_rogle.modeling_rogle import RogleModel


def image_encoder(model: RogleModel) -> RogleModel:
    """The model that indexes: `model` itself, or a copy in bfloat16 where that is faster by enough to be worth its
    rounding. Towers narrower than ViT-S gain nothing by it."""
    wide = model.config.vision_config.hidden_size >= 384
    if wide and model.dtype == torch.float32 and fast_bfloat16(model.device.type):
        return copy.deepcopy(model).to(torch.bfloat16)
    return model


@torch.no_grad()
def encode_pixels(model: RogleModel, pixels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """`[B, 3, h, w]` -> float32 unit vectors `[B, D]` of the pictures and `[B, T, D]` of their template regions.

    Raises:
        GalleryError: embeddings that are not finite.
    """
    boxes = torch.from_numpy(template_boxes())
    owner = torch.arange(len(pixels)).repeat_interleave(len(boxes)).to(model.device)
    every_box = boxes.repeat(len(pixels), 1).to(model.device)
    images, regions = model.encode_images(pixels.to(model.device), every_box, owner)
    return finite(images), finite(regions).reshape(len(pixels), len(boxes), -1)


def finite(embeds: torch.Tensor) -> np.ndarray:
    """float32 on the CPU. Raises GalleryError for broken weights: as int8 they would look like any other region."""
    embeds = embeds.float().cpu()
    if not bool(embeds.isfinite().all()):
        raise GalleryError("the model gives embeddings that are not finite; its weights are broken")
    return embeds.numpy()


__all__ = ["encode_pixels", "finite", "image_encoder"]
