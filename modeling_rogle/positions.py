"""Position tables: longer text, rectangular images. Used once, when weights are loaded, never in a forward pass."""

import torch
from torch import nn

KEPT_TEXT_POSITIONS = 20


def lengthen_text_positions(table: torch.Tensor, length: int, mode: str = "stretch") -> torch.Tensor:
    """Lengthens a text position table.

    Args:
        table: `[n, d]` learnt positions (77 in CLIP).
        length: the new number of positions, at least n.
        mode: `"stretch"` keeps the first 20 rows as they are and spreads the other `n - 20` linearly over the rest
            (knowledge-preserved stretching, Long-CLIP, arXiv 2403.15378: 77 -> 20 + 57 * 4 = 248, the last few rows
            extrapolated from the last difference), so that a caption of at most 20 tokens embeds exactly as before;
            `"interpolate"` resizes the whole table linearly (CFAM, ICL).

    Returns:
        `[length, d]` in the dtype of `table`.

    Raises:
        ValueError: `length` is shorter than the table, or the mode is unknown, or nothing is left to stretch.
    """
    n = table.shape[0]
    if length == n:
        return table.clone()
    if length < n:
        raise ValueError(f"cannot shorten a table of {n} text positions to {length}")
    wide = table.float()
    if mode == "interpolate":
        rows = nn.functional.interpolate(wide.T[None], size=length, mode="linear", align_corners=True)[0].T
    elif mode == "stretch":
        tail = n - KEPT_TEXT_POSITIONS
        if tail < 2:
            raise ValueError(f"stretching keeps {KEPT_TEXT_POSITIONS} positions and needs 2 more, the table has {n}")
        # New row 20 + k sits at old row 20 + k / ratio; past the last old row the last difference goes on.
        ratio = (length - KEPT_TEXT_POSITIONS) / tail
        where = torch.arange(length - KEPT_TEXT_POSITIONS, dtype=torch.float64) / ratio
        low = where.floor().long().clamp(max=tail - 2)
        share = (where - low).to(wide.dtype)[:, None]
        old = wide[KEPT_TEXT_POSITIONS:]
        rows = torch.cat([wide[:KEPT_TEXT_POSITIONS], old[low] + share * (old[low + 1] - old[low])])
    else:
        raise ValueError(f"text_positions must be 'stretch' or 'interpolate', not {mode!r}")
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
