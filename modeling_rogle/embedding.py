"""Pixels -> embeddings of pictures and their template regions, in bfloat16 where this machine is faster in it."""

import numpy as np
import torch

from .manifest import GalleryError
from .matching import template_boxes
from .modeling_rogle import RogleModel


def encodes_in_bfloat16(model: RogleModel) -> bool:
    """Whether this model on this machine encodes faster in bfloat16 by enough to be worth its rounding.

    On a CPU that means AMX tiles: with AVX512-BF16 alone autocast was slower than float32 (measured, 0.6x). Towers
    narrower than ViT-S gain nothing.
    """
    if model.config.vision_config.hidden_size < 384 or model.dtype != torch.float32:
        return False
    if model.device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return model.device.type == "cpu" and supported is not None and bool(supported())


@torch.no_grad()
def encode_pixels(model: RogleModel, pixels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """`[B, 3, h, w]` -> float32 unit vectors `[B, D]` of the pictures and `[B, T, D]` of their template regions.

    Raises:
        GalleryError: embeddings that are not finite.
    """
    boxes = torch.from_numpy(template_boxes())
    owner = torch.arange(len(pixels)).repeat_interleave(len(boxes)).to(model.device)
    every_box = boxes.repeat(len(pixels), 1).to(model.device)
    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=encodes_in_bfloat16(model)):
        images, regions = model.encode_images(pixels.to(model.device), every_box, owner)
    return finite(images), finite(regions).reshape(len(pixels), len(boxes), -1)


def finite(embeds: torch.Tensor) -> np.ndarray:
    """float32 on the CPU. Raises GalleryError for broken weights: as int8 they would look like any other region."""
    embeds = embeds.float().cpu()
    if not bool(embeds.isfinite().all()):
        raise GalleryError("the model gives embeddings that are not finite; its weights are broken")
    return embeds.numpy()


__all__ = ["encode_pixels", "encodes_in_bfloat16", "finite"]
