"""Boxes against the image they belong to."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

MIN_SIDE = 1.0  # pixels; a smaller box has nothing to show
_TOLERANCE = 1e-3  # pixels; what float32 arithmetic moves a box by is no clip


def clip_regions(
    regions: Iterable[Mapping[str, Any]], width: int, height: int
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Clips the boxes of regions to their image and drops what is left with a side under one pixel.

    Args:
        regions: dicts whose `bbox` is x, y, w, h in pixels of the stored image (COCO); other keys are kept.
        width, height: of the stored image, pixels.

    Returns:
        The regions that remain, in order, and the counts `clipped` and `dropped`; a dropped box is not counted as
        clipped. Boxes that are not four finite numbers are dropped.
    """
    kept: list[dict[str, Any]] = []
    counts = {"clipped": 0, "dropped": 0}
    for region in regions:
        box = clip_box(region.get("bbox"), width, height)
        if box is None:
            counts["dropped"] += 1
            continue
        if any(abs(new - old) > _TOLERANCE for new, old in zip(box, map(float, region["bbox"]), strict=True)):
            counts["clipped"] += 1
        kept.append({**region, "bbox": box})
    return kept, counts


def clip_box(box: Any, width: int, height: int) -> list[float] | None:
    """x, y, w, h clipped to a `width` x `height` image, or None if nothing useful of the box lies inside."""
    if not isinstance(box, list | tuple) or len(box) != 4:
        return None
    try:
        x, y, w, h = map(float, box)
    except (TypeError, ValueError, OverflowError):
        return None
    if not all(map(math.isfinite, (x, y, w, h))):
        return None
    left, top = max(0.0, x), max(0.0, y)
    right, bottom = min(float(width), x + w), min(float(height), y + h)
    # An own box may be exactly one pixel wide in float32.
    if right - left < MIN_SIDE - _TOLERANCE or bottom - top < MIN_SIDE - _TOLERANCE:
        return None
    return [left, top, right - left, bottom - top]
