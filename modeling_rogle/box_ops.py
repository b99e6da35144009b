"""Bounding boxes on images of any height and width: template boxes, IoU, shares of patches, RoIAlign and crops."""

from typing import Any

import numpy as np
import torch

# Parts of an upright person in a tight crop that is about 2.5 times as tall as wide: fractions x0, y0, x1, y1.
# They follow body proportions (head 1/7.5 of the height plus hair, hips at half of it, feet at the bottom, arms nearly
# as wide as the crop) and are not fitted to annotated images.
_TEMPLATES = (
    ("head", (0.28, 0.00, 0.72, 0.19)),
    ("upper body", (0.08, 0.15, 0.92, 0.57)),
    ("upper body", (0.08, 0.15, 0.92, 0.78)),  # a coat or a long dress
    ("lower body", (0.16, 0.52, 0.84, 0.93)),
    ("feet", (0.16, 0.87, 0.84, 1.00)),
    ("upper body", (0.18, 0.17, 0.82, 0.50)),  # chest, or back with a backpack
    ("bag", (0.00, 0.32, 0.42, 0.70)),
    ("bag", (0.58, 0.32, 1.00, 0.70)),
    ("carried item", (0.00, 0.40, 0.34, 0.62)),
    ("carried item", (0.66, 0.40, 1.00, 0.62)),
    ("whole person", (0.00, 0.00, 1.00, 1.00)),
)

TEMPLATE_LABELS: tuple[str, ...] = tuple(label for label, _ in _TEMPLATES)


def template_boxes() -> np.ndarray:
    """Region proposals for a crop of a pedestrian.

    Returns:
        float32 `[T, 4]` x0, y0, x1, y1 in [0, 1] of the image's width and height, in the order of `TEMPLATE_LABELS`.
        The last row is the whole image. Each call returns a new array.
    """
    return np.array([box for _, box in _TEMPLATES], dtype=np.float32)


def clip_boxes(boxes: torch.Tensor) -> torch.Tensor:
    """Clips boxes to the image.

    Args:
        boxes: `[n, 4]` x0, y0, x1, y1 in units of the image's width and height.

    Returns:
        `[n, 4]` in [0, 1], float32 or float64: half precision would round a box by pixels.

    Raises:
        ValueError: a box has no area inside the image (not checked inside `torch.compile`).
    """
    inside = (boxes if boxes.dtype == torch.float64 else boxes.float()).clamp(0, 1)
    empty = ~((inside[:, 2:] - inside[:, :2]).clamp(min=0).prod(1) > 0)  # also true for NaN
    if not torch.compiler.is_compiling() and bool(empty.any()):
        bad = int(empty.nonzero()[0])
        raise ValueError(f"boxes: row {bad} {boxes[bad].tolist()} has no area inside the image (x0 y0 x1 y1 in [0, 1])")
    return inside


def check_box_image(box_image: torch.Tensor, images: int) -> None:
    """Checks that `box_image` `[n]` holds indices below `images` (not inside `torch.compile`).

    Raises:
        ValueError: an index is out of range.
    """
    if torch.compiler.is_compiling() or not len(box_image):
        return
    low, high = int(box_image.min()), int(box_image.max())
    if not 0 <= low <= high < images:
        raise ValueError(f"box_image names image {low if low < 0 else high}, there are {images}")


def box_iou(first: Any, second: Any) -> torch.Tensor:
    """Intersection over union (IoU) of every pair of boxes.

    Args:
        first: `[A, 4]` tensor or array, x0, y0, x1, y1 in any unit.
        second: `[B, 4]` tensor or array, in the same unit.

    Returns:
        float64 `[A, B]`; 0 for two boxes without area.
    """
    first, second = (torch.tensor(np.asarray(boxes), dtype=torch.float64) for boxes in (first, second))
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    inside = (high - low).clamp(min=0).prod(-1)
    areas = (first[:, 2:] - first[:, :2]).prod(-1)[:, None] + (second[:, 2:] - second[:, :2]).prod(-1)[None]
    return inside / (areas - inside).clamp(min=1e-12)


def box_patch_shares(boxes: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """The share of each box that lies in each patch.

    The overlap of a box with a patch is the product of two one-dimensional overlaps. Boxes smaller than a patch are
    therefore weighted exactly, and nothing is rounded to the grid.

    Args:
        boxes: `[n, 4]` x0, y0, x1, y1 in [0, 1] of the image's width and height.
        grid: (rows, columns) of patches.

    Returns:
        `[n, rows * columns]` weights, float32 or float64, row-major like the patch tokens; each row sums to 1.

    Raises:
        ValueError: a box has no area inside the image.
    """
    rows, columns = grid
    boxes = clip_boxes(boxes)
    overlaps = []
    for low, high, cells in ((boxes[:, 1], boxes[:, 3], rows), (boxes[:, 0], boxes[:, 2], columns)):
        edges = torch.arange(cells + 1, device=boxes.device, dtype=boxes.dtype) / cells
        overlap = torch.minimum(high[:, None], edges[None, 1:]) - torch.maximum(low[:, None], edges[None, :-1])
        overlaps.append(overlap.clamp(min=0))
    shares = (overlaps[0][:, :, None] * overlaps[1][:, None, :]).flatten(1)
    return shares / shares.sum(1, keepdim=True)


def positions_in_image(box_image: torch.Tensor, images: int) -> tuple[torch.Tensor, int]:
    """Numbers the boxes of each image, so that one batched product per image covers all of its boxes.

    Args:
        box_image: `[n]` int64, in any order.
        images: number of images.

    Returns:
        `[n]` int64, from 0 on in every image, and the largest number of boxes of an image. The latter is read from the
        device, which `torch.compile` does not support.
    """
    order = box_image.argsort(stable=True)
    counts = torch.bincount(box_image, minlength=images)
    first = counts.cumsum(0) - counts
    position = torch.empty_like(box_image)
    position[order] = torch.arange(len(box_image), device=box_image.device) - first[box_image[order]]
    return position, int(counts.max()) if len(counts) else 0


def weighted_tokens(weights: torch.Tensor, patch_tokens: torch.Tensor, box_image: torch.Tensor) -> torch.Tensor:
    """Weighted sums of the patch tokens of each box's image.

    Args:
        weights: `[n, k, p]`, for k sums per box.
        patch_tokens: `[b, p, d]`.
        box_image: `[n]` int64.

    Returns:
        `[n, k, d]` in the dtype of `patch_tokens`.
    """
    n, k, p = weights.shape
    images, weights = len(patch_tokens), weights.to(patch_tokens.dtype)
    if torch.compiler.is_compiling():
        # Shapes that depend on no value: every box reads every image, with weight 0 for all but its own.
        wide = weights.new_zeros(n, images, k, p)
        wide[torch.arange(n, device=weights.device), box_image] = weights
        return torch.einsum("nbkp,bpd->nkd", wide, patch_tokens)
    # One matrix product per image, because gathering the tokens for each box would copy them once per box.
    position, max_boxes = positions_in_image(box_image, images)
    table = weights.new_zeros(images, max_boxes, k, p)
    table[box_image, position] = weights
    return (table.flatten(1, 2) @ patch_tokens).unflatten(1, (max_boxes, k))[box_image, position]


def mean_patch_tokens(
    patch_tokens: torch.Tensor, boxes: torch.Tensor, box_image: torch.Tensor, grid: tuple[int, int]
) -> torch.Tensor:
    """Mean of the patch tokens in each box, weighted by the covered share of each patch.

    Args:
        patch_tokens: `[b, rows * columns, d]`, without the class token.
        boxes: `[n, 4]` x0, y0, x1, y1 in [0, 1].
        box_image: `[n]` int64, the image (row of `patch_tokens`) of each box.
        grid: (rows, columns) of patches.

    Returns:
        `[n, d]` in the dtype of `patch_tokens`.

    Raises:
        ValueError: the tokens do not fit the grid, box_image names no image, or a box has no area inside the image.
    """
    check_box_image(box_image, len(patch_tokens))
    _check_grid(patch_tokens, grid)
    return weighted_tokens(box_patch_shares(boxes, grid)[:, None], patch_tokens, box_image)[:, 0]


def roi_align(
    patch_tokens: torch.Tensor,
    boxes: torch.Tensor,
    box_image: torch.Tensor,
    grid: tuple[int, int],
    output: tuple[int, int] = (1, 1),
    samples: int | None = None,
) -> torch.Tensor:
    """RoIAlign (Mask R-CNN, arXiv 1703.06870): means of bilinear samples in the bins of each box.

    As torchvision's `roi_align(aligned=True)`: a patch's value lies at its centre, nothing is rounded, and boxes
    smaller than a patch keep their size. Boxes are clipped to the image first (torchvision counts the outside as
    zeros). A sample closer to the border than half a patch takes the border patch's value in that direction. Bilinear
    weights are the product of a row and a column weight. So each bin has one weight per patch, and all boxes of an
    image are one matrix product.

    Args:
        patch_tokens: `[b, rows * columns, d]`, without the class token.
        boxes: `[n, 4]` x0, y0, x1, y1 in [0, 1].
        box_image: `[n]` int64, the image (row of `patch_tokens`) of each box.
        grid: (rows, columns) of patches.
        output: numbers of bins (vertical, horizontal); (1, 1), the default, gives the pooled vector.
        samples: samples per bin and direction; by default as many as a bin has patches in that direction, rounded up.

    Returns:
        `[n, vertical, horizontal, d]` in the dtype of `patch_tokens`.

    Raises:
        ValueError: as [`mean_patch_tokens`].
    """
    check_box_image(box_image, len(patch_tokens))
    _check_grid(patch_tokens, grid)
    boxes = clip_boxes(boxes)
    y = _bin_weights(boxes[:, 1], boxes[:, 3], grid[0], output[0], samples)
    x = _bin_weights(boxes[:, 0], boxes[:, 2], grid[1], output[1], samples)
    weights = torch.einsum("nhr,nwc->nhwrc", y, x).flatten(3).flatten(1, 2)
    return weighted_tokens(weights, patch_tokens, box_image).unflatten(1, output)


def crop_boxes(pixel_values: torch.Tensor, boxes: torch.Tensor, box_image: torch.Tensor) -> torch.Tensor:
    """Crops boxes and resizes each to the full input size, bilinear, without reading a pixel outside the box.

    Args:
        pixel_values: `[b, c, h, w]`.
        boxes: `[n, 4]` x0, y0, x1, y1 in [0, 1].
        box_image: `[n]` int64.

    Returns:
        `[n, c, h, w]` in the dtype of `pixel_values`.

    Raises:
        ValueError: box_image names no image, or a box has no area inside the image.
    """
    check_box_image(box_image, len(pixel_values))
    boxes = clip_boxes(boxes)
    weights = []
    for low, high, pixels in (
        (boxes[:, 1:2], boxes[:, 3:4], pixel_values.shape[2]),
        (boxes[:, 0:1], boxes[:, 2:3], pixel_values.shape[3]),
    ):
        share = (torch.arange(pixels, device=boxes.device, dtype=boxes.dtype) + 0.5) / pixels
        # Only pixels that the box touches are read; the tolerance covers the float32 rounding of box edges.
        first, last = (pixels * low + 1e-3).floor() + 0.5, (pixels * high - 1e-3).ceil() - 0.5
        points = torch.minimum(torch.maximum(pixels * (low + share * (high - low)), first), last)
        weights.append(_bilinear_weights(points, pixels).to(pixel_values.dtype)[:, None])
    return weights[0] @ pixel_values[box_image] @ weights[1].mT


def blank_outside(pixel_values: torch.Tensor, boxes: torch.Tensor, box_image: torch.Tensor) -> torch.Tensor:
    """The image of each box, with every pixel that the box does not touch set to 0, the processor's mean colour.

    Args:
        pixel_values: `[b, c, h, w]`, normalised by the processor.
        boxes: `[n, 4]` x0, y0, x1, y1 in [0, 1].
        box_image: `[n]` int64.

    Returns:
        `[n, c, h, w]`.

    Raises:
        ValueError: box_image names no image, or a box has no area inside the image.
    """
    check_box_image(box_image, len(pixel_values))
    touched = box_patch_shares(boxes, tuple(pixel_values.shape[2:])).unflatten(1, pixel_values.shape[2:])
    # Box edges are rounded in float32: less than a thousandth of the most covered pixel does not count as touched.
    touched = touched > touched.amax((1, 2), keepdim=True) / 1000
    return torch.where(touched[:, None], pixel_values[box_image], 0)


def _check_grid(patch_tokens: torch.Tensor, grid: tuple[int, int]) -> None:
    if patch_tokens.shape[1] != grid[0] * grid[1]:
        raise ValueError(f"{patch_tokens.shape[1]} patch tokens do not fit a grid of {grid[0]} x {grid[1]}")


def _bilinear_weights(points: torch.Tensor, cells: int) -> torch.Tensor:
    """`[n, k]` points in units of cells -> `[n, k, cells]` weights of linear interpolation between cell centres."""
    points = (points - 0.5).clamp(0, cells - 1)
    return (1 - (points[..., None] - torch.arange(cells, device=points.device, dtype=points.dtype)).abs()).clamp(min=0)


def _bin_weights(low: torch.Tensor, high: torch.Tensor, cells: int, bins: int, samples: int | None) -> torch.Tensor:
    """Mean interpolation weights of each bin in one direction: `[n]` edges in [0, 1] -> `[n, bins, cells]`."""
    size = (high - low)[:, None] * (cells / bins)
    max_samples = samples or -(-cells // bins)
    # The tolerance keeps a box on patch edges from getting one more sample by float32 rounding.
    count = torch.full_like(size, samples) if samples else (size - 1e-4).ceil().clamp(1, max_samples)
    sample = torch.arange(max_samples, device=low.device, dtype=low.dtype)
    position = torch.arange(bins, device=low.device, dtype=low.dtype)[:, None] + (sample + 0.5) / count[:, None]
    weights = _bilinear_weights((low[:, None] * cells + (position * size[..., None]).flatten(1)), cells)
    counted = (sample < count).to(low.dtype)[:, None, :, None]
    return (weights.unflatten(1, (bins, max_samples)) * counted).sum(2) / count[..., None]
