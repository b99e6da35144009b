"""Template regions of an upright pedestrian: candidate boxes that need no weights."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

# Where the parts of an upright person lie in a tight crop about 2.5 times as tall as wide: fractions x0, y0, x1, y1.
# From body proportions (head 1/7.5 of the height plus hair, hips at half of it, soles at its end, the arms' span near
# the crop's width), not fitted to any annotated image. Sides are the image's, not the person's.
_TEMPLATES = (
    ("head", (0.28, 0.00, 0.72, 0.19)),
    ("upper body", (0.08, 0.15, 0.92, 0.57)),
    ("upper body", (0.08, 0.15, 0.92, 0.78)),  # a coat or a long dress
    ("lower body", (0.16, 0.52, 0.84, 0.93)),
    ("feet", (0.16, 0.87, 0.84, 1.00)),
    ("upper body", (0.18, 0.17, 0.82, 0.50)),  # chest or back, where a backpack is
    ("bag", (0.00, 0.32, 0.42, 0.70)),
    ("bag", (0.58, 0.32, 1.00, 0.70)),
    ("carried item", (0.00, 0.40, 0.34, 0.62)),
    ("carried item", (0.66, 0.40, 1.00, 0.62)),
    ("whole person", (0.00, 0.00, 1.00, 1.00)),
)

TEMPLATE_LABELS: tuple[str, ...] = tuple(label for label, _ in _TEMPLATES)


def template_boxes() -> np.ndarray:
    """Weight-free region proposals for a pedestrian crop.

    Returns:
        float32 `[T, 4]` x0, y0, x1, y1 in [0, 1] of the image's width and height, in the order of `TEMPLATE_LABELS`;
        the last row is the whole image. A fresh array on each call.
    """
    return np.array([box for _, box in _TEMPLATES], dtype=np.float32)


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


def device_of(model: Any) -> torch.device:
    """Where a model's weights lie; the CPU for one without any."""
    return next(model.parameters()).device if hasattr(model, "parameters") else torch.device("cpu")


__all__ = ["TEMPLATE_LABELS", "device_of", "encode_with_templates", "template_boxes"]
