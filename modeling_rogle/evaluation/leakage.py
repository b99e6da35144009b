"""Leakage: how much of a region's embedding comes from outside its box."""

import torch
from torch import nn

from modeling_rogle.box_ops import blank_outside


@torch.no_grad()
def region_leakage(
    model: nn.Module, pixel_values: torch.Tensor, boxes: torch.Tensor, box_image: torch.Tensor
) -> torch.Tensor:
    """Measures how much of each region's embedding comes from outside its box (ours).

    The leakage is 1 - cosine of the region's embeddings in two images: its own, and a copy in which everything outside
    the box has the processor's mean colour. At 0 the embedding depends only on the box. It takes one image forward
    pass per box.

    Args:
        model: a [`RogleModel`], or an object with its `encode_images`.
        pixel_values: `[b, 3, h, w]`, normalised by the processor.
        boxes: `[n, 4]` x0, y0, x1, y1 in [0, 1].
        box_image: int64 `[n]`, the image of each box.

    Returns:
        fp32 `[n]` in [0, 2].

    Raises:
        ValueError: an index in `box_image` is out of range, or a box has no area inside the image.
    """
    full = model.encode_images(pixel_values, boxes, box_image)[1]
    blanked = []
    # As many images per forward pass as the caller passed, since these fit into memory.
    for rows in torch.arange(len(boxes), device=boxes.device).split(max(len(pixel_values), 1)):
        images = blank_outside(pixel_values, boxes[rows], box_image[rows])
        blanked.append(model.encode_images(images, boxes[rows], torch.arange(len(rows), device=boxes.device))[1])
    return 1 - (full * torch.cat(blanked)).sum(-1) if blanked else full.new_zeros(0)


__all__ = ["region_leakage"]
