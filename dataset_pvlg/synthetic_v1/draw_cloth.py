"""Patterns and textures of cloth: stripes, checks, dots, knit and denim."""

from __future__ import annotations

import numpy as np

from dataset_pvlg.synthetic_v1.draw_canvas import COLOURS, DRESS_SKIRT, LOWER, UPPER, Canvas
from dataset_pvlg.synthetic_v1.identities import Identity


def print_cloth(pixels: np.ndarray, identity: Identity, canvas: Canvas) -> None:
    """Adds the patterns of a person's clothes, in place.

    Args:
        pixels: uint8 `[H, W, 4]`; the last channel is the part number.
        identity: the person.
        canvas: the canvas of the pixels, for scale and origin.
    """
    parts, s = pixels[..., 3], canvas.scale
    y, x = np.arange(parts.shape[0])[:, None] - canvas.y, np.arange(parts.shape[1])[None, :] - canvas.x
    pattern, ground = identity.upper_pattern, COLOURS[identity.upper_colour]
    cloth = (parts == UPPER) | (parts == DRESS_SKIRT)
    light = sum(ground) > 520
    mark = (70, 72, 84) if light else (244, 243, 238)
    if identity.upper_type == "sweater":  # before the pattern, which covers it
        knit = (y + np.abs(x % (0.024 * s) - 0.012 * s)) % (0.022 * s) < 0.008 * s
        _shade(pixels, cloth & knit, ground)
    if pattern == "striped":
        pixels[cloth & (y % (0.05 * s) < (0.018 if light else 0.019) * s), :3] = mark
    elif pattern == "dotted":
        gap = 0.045 * s
        odd = (y // gap % 2) * gap / 2
        pixels[cloth & ((y % gap - gap / 2) ** 2 + ((x + odd) % gap - gap / 2) ** 2 < (0.0135 * s) ** 2), :3] = mark
    elif pattern == "plaid":
        gap = 0.072 * s
        down, across = y % gap < gap * 0.42, x % gap < gap * 0.42
        for band in (down, across):
            spots = cloth & band
            pixels[spots, :3] = (pixels[spots, :3] * 0.7 if sum(ground) > 190 else pixels[spots, :3] + 38).astype(
                np.uint8
            )
        thin = (y % gap - gap * 0.7) ** 2 < (0.0035 * s) ** 2, (x % gap - gap * 0.7) ** 2 < (0.0035 * s) ** 2
        pixels[cloth & (thin[0] | thin[1]), :3] = mark
    if identity.lower_type == "jeans":
        weave = (x + 0.6 * y) % 5 < 1.3
        _shade(pixels, (parts == LOWER) & weave, (120, 120, 120))


def _shade(pixels: np.ndarray, spots: np.ndarray, ground: tuple[int, int, int]) -> None:
    if sum(ground) < 190:
        pixels[spots, :3] += 22
    else:
        pixels[spots, :3] = (pixels[spots, :3] * 0.86).astype(np.uint8)
