"""How much of a region's embedding comes from outside its box."""

import torch
from torch import nn

from modeling_rogle.box_ops import blank_outside


@torch.no_grad()
def leak(model: nn.Module, pixel_values: torch.Tensor, boxes: torch.Tensor, box_image: torch.Tensor) -> torch.Tensor:
    """How much of a region's embedding comes from outside its box.

    1 - cos of the region's embedding in its image and in the same image with everything outside the box blanked to the
    processor's mean colour (ours). 0: the embedding speaks of the box alone. One image forward a box.

    Args:
        model: a [`RogleModel`], or anything with its `encode_images`.
        pixel_values: `[b, 3, h, w]`, normalised by the processor.
        boxes: `[n, 4]` x0, y0, x1, y1 in [0, 1].
        box_image: `[n]` int64, the image of each box.

    Returns:
        `[n]` fp32 in [0, 2].

    Raises:
        ValueError: box_image names no image, or a box has no area inside the image.
    """
    full = model.encode_images(pixel_values, boxes, box_image)[1]
    blanked = []
    # As many images at a time as were given: the memory is there.
    for rows in torch.arange(len(boxes), device=boxes.device).split(max(len(pixel_values), 1)):
        alone = blank_outside(pixel_values, boxes[rows], box_image[rows])
        blanked.append(model.encode_images(alone, boxes[rows], torch.arange(len(rows), device=boxes.device))[1])
    return 1 - (full * torch.cat(blanked)).sum(-1) if blanked else full.new_zeros(0)


__all__ = ["leak"]
