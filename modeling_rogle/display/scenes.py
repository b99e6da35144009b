"""The full scene of a result with the box of the person. Pillow only: no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from modeling_rogle.display.drawing import WRONG, fit_size
from modeling_rogle.image_io import ImageError, read_image

if TYPE_CHECKING:
    from modeling_rogle.search.results import Match

LINE = 3  # pixels: width of the box


def draw_scene(match: Match, max_width: int, max_height: int) -> Image.Image | None:
    """Draws the scene of a result, with the box of the person.

    Args:
        match: a result.
        max_width: largest width in pixels.
        max_height: largest height in pixels.

    Returns:
        None for a result that is no person in a scene, or whose scene cannot be read any more.
    """
    if match.scene_file is None or match.scene_box is None:
        return None
    try:
        scene = read_image(match.scene_file, match.scene or "", (max_height, max_width))
    except ImageError:
        return None
    size, scale = fit_size(scene.width, scene.height, max_width, max_height)
    image = scene.image.resize(size, Image.Resampling.LANCZOS)
    x, y, width, height = (value * scale for value in match.scene_box)
    # A box of a few pixels stays visible.
    corners = (x, y, max(x + width, x + 2 * LINE), max(y + height, y + 2 * LINE))
    ImageDraw.Draw(image).rectangle(corners, outline=WRONG, width=LINE)
    return image


__all__ = ["draw_scene"]
