"""Backgrounds, objects in front, and patterns of cloth."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from dataset_pvlg.synthetic.canvas import RGB, Colour, tint

_NAMES = list(RGB)


def _palette(rng: np.random.Generator) -> Colour:
    """A named colour with a small shift, so that things in the scene have the colours of clothes."""
    base = RGB[_NAMES[int(rng.integers(len(_NAMES)))]]
    shifts = rng.integers(-22, 23, 3).tolist()
    red, green, blue = (min(max(c + d, 0), 255) for c, d in zip(base, shifts, strict=True))
    return red, green, blue


def draw_scene(image: Image.Image, ground: float, rng: np.random.Generator) -> None:
    """Fills an image with a wall, a floor and coloured clutter. The alpha of all pixels becomes 0.

    Args:
        image: RGBA, changed in place.
        ground: pixel row where the feet are.
        rng: random generator of everything.
    """
    w, h = image.size
    draw = ImageDraw.Draw(image)
    horizon = min(h * 1.0, ground) - h * rng.uniform(0.04, 0.3)
    wall, floor = (tuple(int(c) for c in rng.integers(70, 226, 3)) for _ in range(2))
    if rng.random() < 0.5:
        wall = tint(_palette(rng), rng.uniform(0.85, 1.4))
    draw.rectangle((0, 0, w, horizon), fill=(*wall, 0))
    for _ in range(int(rng.integers(5, 12))):  # windows, posters, doors, cars
        x, y = rng.uniform(-0.25, 1.0) * w, rng.uniform(-0.1, 0.95) * horizon
        wide, high = rng.uniform(0.1, 0.5) * w, rng.uniform(0.04, 0.32) * h
        colour, box = _palette(rng), (x, y, x + wide, min(y + high, horizon))
        if box[3] <= box[1]:
            continue
        if rng.random() < 0.25:
            draw.ellipse(box, fill=(*colour, 0))
        else:
            draw.rectangle(box, fill=(*colour, 0))
            if rng.random() < 0.4:
                second, step = _palette(rng), rng.uniform(8, 20)
                if rng.random() < 0.5:
                    for line in np.arange(box[1], box[3], step):
                        draw.rectangle((x, line, x + wide, min(line + step / 2, box[3])), fill=(*second, 0))
                else:
                    for line in np.arange(x, x + wide, step):
                        draw.rectangle((line, box[1], min(line + step / 2, x + wide), box[3]), fill=(*second, 0))
    draw.rectangle((0, horizon, w, h), fill=(*floor, 0))
    for _ in range(int(rng.integers(2, 7))):  # tiles, marks, boxes on the ground
        x, y = rng.uniform(-0.2, 1.0) * w, rng.uniform(horizon - 0.02 * h, h)
        wide, high = rng.uniform(0.08, 0.5) * w, rng.uniform(0.015, 0.1) * h
        draw.rectangle((x, y, x + wide, y + high), fill=(*_palette(rng), 0))


def draw_occluder(image: Image.Image, kind: str, cover: float, rng: np.random.Generator) -> None:
    """Draws an object in front of everything: a pole, or a wall, hedge or car along the lower edge.

    Args:
        image: RGBA, changed in place; the object's alpha is 0.
        kind: pole or wall.
        cover: top of a wall, in pixels.
        rng: random generator of shape and colour.
    """
    w, h = image.size
    draw = ImageDraw.Draw(image)
    colour = _palette(rng)
    if kind == "pole":
        x, wide = rng.uniform(0.1, 0.9) * w, rng.uniform(0.05, 0.11) * w
        draw.rectangle((x, 0, x + wide, h), fill=(*colour, 0), outline=(*tint(colour, 0.7), 0))
        return
    draw.rectangle((0, cover, w, h), fill=(*colour, 0))
    draw.rectangle((0, cover, w, cover + 0.03 * h), fill=(*tint(colour, 0.75), 0))
    for x in np.arange(rng.uniform(0, 0.2) * w, w, rng.uniform(0.2, 0.5) * w):
        draw.line((x, cover, x, h), fill=(*tint(colour, 0.8), 0), width=3)


def add_pattern(
    pixels: np.ndarray, mask: np.ndarray, box: tuple[int, int, int, int], pattern: str, second: Colour, period: float,
    angle: float,
) -> None:  # fmt: skip
    """Draws the second colour of a pattern on the pixels of a region, in place.

    Args:
        pixels: uint8 `[H, W, 4]`.
        mask: bool `[h, w]`, the region inside `box`.
        box: x0, y0, x1, y1 in pixels.
        pattern: striped, checked or dotted.
        second: the colour.
        period: in pixels.
        angle: of the stripes, in radians.
    """
    x0, y0, x1, y1 = box
    y, x = np.arange(y0, y1, dtype=np.float32)[:, None], np.arange(x0, x1, dtype=np.float32)[None, :]
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    along, across = cos * x + sin * y, cos * y - sin * x
    if pattern == "striped":
        spots = across % period < period * 0.42
    elif pattern == "checked":
        spots = (across % period < period * 0.62) & (along % period < period * 0.62)
    else:
        shift = (across // period % 2) * (period / 2)
        spots = (across % period - period / 2) ** 2 + ((along + shift) % period - period / 2) ** 2 < (0.3 * period) ** 2
    view = pixels[y0:y1, x0:x1, :3]
    view[mask & spots] = second
