"""Clipping of bounding boxes to their image."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

MIN_SIDE = 1.0  # pixels; a box with a shorter side is dropped
_TOLERANCE = 1e-3  # pixels; smaller changes come from float32 arithmetic and do not count as clipping


def clip_regions(
    regions: Iterable[Mapping[str, Any]], width: int, height: int
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Clip the boxes of regions to their image, and drop boxes that are then narrower than one pixel.

    Args:
        regions (`Iterable[Mapping[str, Any]]`): dicts whose `bbox` is x, y, w, h in pixels of the stored image (COCO);
            other keys are kept.
        width (`int`): width of the stored image, pixels.
        height (`int`): height of the stored image, pixels.

    Returns:
        `tuple[list[dict], dict[str, int]]`: the remaining regions in order, and the counts `clipped` and `dropped`. A
        dropped box does not count as clipped. Boxes that are not four finite numbers are dropped.
    """
    remaining: list[dict[str, Any]] = []
    counts = {"clipped": 0, "dropped": 0}
    for region in regions:
        box = clip_box(region.get("bbox"), width, height)
        if box is None:
            counts["dropped"] += 1
            continue
        if any(abs(new - old) > _TOLERANCE for new, old in zip(box, map(float, region["bbox"]), strict=True)):
            counts["clipped"] += 1
        remaining.append({**region, "bbox": box})
    return remaining, counts


def clip_box(box: Any, width: int, height: int) -> list[float] | None:
    """Clip one box to a `width` x `height` image.

    Args:
        box: x, y, w, h in pixels; anything else is accepted and gives None.
        width (`int`): width of the image, pixels.
        height (`int`): height of the image, pixels.

    Returns:
        `list[float]`, *optional*: x, y, w, h inside the image; None if less than one pixel is left.
    """
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
    # With the tolerance, because a valid box may be exactly one pixel wide in float32.
    if right - left < MIN_SIDE - _TOLERANCE or bottom - top < MIN_SIDE - _TOLERANCE:
        return None
    return [left, top, right - left, bottom - top]
