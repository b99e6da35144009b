"""Region features from the one dense forward: boxes on a patch grid of any height and width."""

import torch


def box_patch_shares(boxes: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """How much of each box lies in each patch.

    The overlap of a box with a patch is the product of two one-dimensional overlaps, so boxes smaller than a patch
    are weighted exactly and nothing is rounded to the grid.

    Args:
        boxes: `[n, 4]` x0, y0, x1, y1 in [0, 1] of the image's width and height.
        grid: (rows, columns) of patches.

    Returns:
        `[n, rows * columns]` fp32 weights, row-major as the patch tokens are; each row sums to 1.

    Raises:
        ValueError: a box has no area inside the image.
    """
    rows, columns = grid
    boxes = boxes.float()
    overlaps = []
    for low, high, cells in ((boxes[:, 1], boxes[:, 3], rows), (boxes[:, 0], boxes[:, 2], columns)):
        edges = torch.arange(cells + 1, device=boxes.device, dtype=torch.float32) / cells
        overlap = torch.minimum(high[:, None], edges[None, 1:]) - torch.maximum(low[:, None], edges[None, :-1])
        overlaps.append(overlap.clamp(min=0))
    shares = (overlaps[0][:, :, None] * overlaps[1][:, None, :]).flatten(1)
    area = shares.sum(1, keepdim=True)
    empty = ~(area > 0)  # a NaN is no area either
    if not torch.compiler.is_compiling() and bool(empty.any()):
        bad = int(empty.flatten().nonzero()[0])
        raise ValueError(f"boxes: row {bad} {boxes[bad].tolist()} has no area inside the image (x0 y0 x1 y1 in [0, 1])")
    return shares / area


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
        ValueError: the tokens do not fit the grid, or a box has no area inside the image.
    """
    if len(box_image) and not 0 <= int(box_image.min()) <= int(box_image.max()) < len(patch_tokens):
        raise ValueError(f"box_image names image {int(box_image.max())}, there are {len(patch_tokens)}")
    if patch_tokens.shape[1] != grid[0] * grid[1]:
        raise ValueError(f"{patch_tokens.shape[1]} patch tokens do not fit a grid of {grid[0]} x {grid[1]}")
    shares = box_patch_shares(boxes, grid).to(patch_tokens.dtype)
    # One matrix product an image: gathering the tokens once a box would copy them as often as there are boxes.
    order = box_image.argsort(stable=True)
    counts = torch.bincount(box_image, minlength=len(patch_tokens))
    first = counts.cumsum(0) - counts
    slot = torch.empty_like(box_image)
    slot[order] = torch.arange(len(box_image), device=box_image.device) - first[box_image[order]]
    weights = shares.new_zeros(len(patch_tokens), int(counts.max()) if len(counts) else 0, shares.shape[1])
    weights[box_image, slot] = shares
    return (weights @ patch_tokens)[box_image, slot]


def crop_boxes(pixel_values: torch.Tensor, boxes: torch.Tensor, box_image: torch.Tensor) -> torch.Tensor:
    """Cuts boxes out and resizes each to the full input size, bilinear.

    Args:
        pixel_values: `[b, c, h, w]`.
        boxes: `[n, 4]` x0, y0, x1, y1 in [0, 1].
        box_image: `[n]` int64.

    Returns:
        `[n, c, h, w]`.
    """
    _, _, height, width = pixel_values.shape
    boxes = boxes.to(pixel_values.dtype)
    ys = (torch.arange(height, device=boxes.device, dtype=boxes.dtype) + 0.5) / height
    xs = (torch.arange(width, device=boxes.device, dtype=boxes.dtype) + 0.5) / width
    y = boxes[:, 1:2] + ys * (boxes[:, 3:4] - boxes[:, 1:2])
    x = boxes[:, 0:1] + xs * (boxes[:, 2:3] - boxes[:, 0:1])
    points = torch.stack(
        [x[:, None, :].expand(-1, height, -1) * 2 - 1, y[:, :, None].expand(-1, -1, width) * 2 - 1], dim=-1
    )
    return torch.nn.functional.grid_sample(pixel_values[box_image], points, padding_mode="border", align_corners=False)
