"""Position tables: longer text, rectangular images. Used once, when weights are loaded, never in a forward pass."""

import torch
from torch import nn

KEPT_TEXT_POSITIONS = 20


def lengthen_text_positions(table: torch.Tensor, length: int) -> torch.Tensor:
    """Lengthens a text position table by knowledge-preserved stretching (Long-CLIP, arXiv 2403.15378).

    The first 20 rows are kept, so that a caption of at most 20 tokens embeds exactly as before. The other `n - 20` rows
    are stretched linearly over the rest: 77 -> 20 + 57 * 4 = 248. The last few rows are extrapolated.

    Args:
        table: `[n, d]` learnt positions (77 in CLIP).
        length: the new number of positions, at least n.

    Returns:
        `[length, d]` in the dtype of `table`.

    Raises:
        ValueError: `length` is shorter than the table, or the table has fewer than 22 rows.
    """
    n = table.shape[0]
    if length == n:
        return table.clone()
    if length < n:
        raise ValueError(f"cannot shorten a table of {n} text positions to {length}")
    tail = n - KEPT_TEXT_POSITIONS
    if tail < 2:
        raise ValueError(f"stretching keeps {KEPT_TEXT_POSITIONS} positions and needs 2 more, the table has {n}")
    wide = table.float()
    # New row 20 + k lies at old row 20 + k / ratio; past the last old row the last difference continues.
    ratio = (length - KEPT_TEXT_POSITIONS) / tail
    position = torch.arange(length - KEPT_TEXT_POSITIONS, dtype=torch.float64) / ratio
    low = position.floor().long().clamp(max=tail - 2)
    share = (position - low).to(wide.dtype)[:, None]
    old = wide[KEPT_TEXT_POSITIONS:]
    rows = torch.cat([wide[:KEPT_TEXT_POSITIONS], old[low] + share * (old[low + 1] - old[low])])
    return rows.to(table.dtype)


def resize_image_positions(table: torch.Tensor, grid: tuple[int, int], old_grid: tuple[int, int]) -> torch.Tensor:
    """Resizes an image position table to another grid, bicubic in two dimensions, class token kept.

    The same interpolation as `CLIPModel(interpolate_pos_encoding=True)` computes in every forward pass.

    Args:
        table: `[1 + old_rows * old_columns, d]`, the class token first.
        grid: new (rows, columns).
        old_grid: (rows, columns) of the table.

    Returns:
        `[1 + rows * columns, d]` in the dtype of `table`.

    Raises:
        ValueError: the table does not have `1 + old_rows * old_columns` rows.
    """
    if table.shape[0] != 1 + old_grid[0] * old_grid[1]:
        raise ValueError(f"{table.shape[0]} image positions do not fit a grid of {old_grid[0]} x {old_grid[1]} + 1")
    if tuple(grid) == tuple(old_grid):
        return table.clone()
    patches = table[1:].float().reshape(1, *old_grid, -1).permute(0, 3, 1, 2)
    patches = nn.functional.interpolate(patches, size=tuple(grid), mode="bicubic", align_corners=False)
    return torch.cat([table[:1], patches[0].permute(1, 2, 0).reshape(grid[0] * grid[1], -1).to(table.dtype)])
