"""Pixels -> embeddings of images and their template regions, in bfloat16 where this machine is faster in it."""

import copy
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image

from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.inference.loading import device_of
from modeling_rogle.modeling_rogle import RogleModel
from modeling_rogle.templates import template_boxes


@cache
def fast_bfloat16(device: str = "cpu") -> bool:
    """True where a matrix product in bfloat16 takes at most two thirds of the time of one in fp32.

    Measured, once a process, in some 50 ms: the instruction alone says little. AVX512-BF16 without AMX halves the
    speed of such a product on one processor and doubles it on another.

    For inference: `if fast_bfloat16(model.device.type): model = model.to(torch.bfloat16)`. `encode_images` and
    `encode_texts` still return fp32; on a CPU that is faster than autocast, which casts the weights in every call.

    Args:
        device: `"cpu"` is timed; of CUDA torch is asked; False for others.
    """
    if device == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu":
        return False
    operands = {}
    for dtype in (torch.float32, torch.bfloat16):
        operands[dtype] = torch.ones(256, 768, dtype=dtype), torch.ones(768, 768, dtype=dtype)
    seconds: dict[torch.dtype, list[float]] = {dtype: [] for dtype in operands}
    for _ in range(6):  # taking turns, the best of five: another program's burst meets both or neither
        for dtype, (rows, weight) in operands.items():
            started = time.perf_counter()
            torch.nn.functional.linear(rows, weight)
            seconds[dtype].append(time.perf_counter() - started)
    return min(seconds[torch.bfloat16][1:]) <= min(seconds[torch.float32][1:]) * 2 / 3


def image_encoder(model: RogleModel) -> RogleModel:
    """The model that indexes: `model` itself, or a copy in bfloat16 where that is faster by enough to be worth its
    rounding. Towers narrower than ViT-S gain nothing by it."""
    wide = model.config.vision_config.hidden_size >= 384
    if wide and model.dtype == torch.float32 and fast_bfloat16(model.device.type):
        return copy.deepcopy(model).to(torch.bfloat16)
    return model


@torch.no_grad()
def encode_pixels(model: RogleModel, pixels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """`[B, 3, h, w]` -> float32 unit vectors `[B, D]` of the images and `[B, T, D]` of their template regions.

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


@torch.no_grad()
def encode_with_templates(
    model: Any,
    processor: Any,
    images: Sequence[Image.Image],
    boxes: torch.Tensor | None = None,
    box_image: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Embeds images, their template regions and, if given, other boxes, all in one dense forward.

    Args:
        model, processor: see [`match_rows`].
        images: B RGB images.
        boxes: `[R, 4]` x0, y0, x1, y1 in [0, 1]; box_image: `[R]` int64, the image of each.

    Returns:
        `[B, D]` images, `[B, T, D]` templates in the order of `template_boxes`, `[R, D]` boxes: unit fp32 on the CPU.
    """
    templates = torch.from_numpy(template_boxes())
    every_box = templates.repeat(len(images), 1)
    owner = torch.arange(len(images)).repeat_interleave(len(templates))
    if boxes is not None:
        every_box, owner = torch.cat([every_box, boxes]), torch.cat([owner, box_image])
    device = device_of(model)
    pixels = processor(images=list(images), return_tensors="pt")["pixel_values"]
    whole, regions = model.encode_images(pixels.to(device), every_box.to(device), owner.to(device))
    of_templates, of_boxes = regions.cpu().tensor_split([len(images) * len(templates)])
    return whole.cpu(), of_templates.unflatten(0, (len(images), len(templates))), of_boxes


__all__ = ["encode_pixels", "encode_with_templates", "fast_bfloat16", "finite", "image_encoder"]
