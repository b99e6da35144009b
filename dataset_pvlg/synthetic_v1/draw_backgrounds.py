"""Backgrounds: ground, walls and clutter in many colours, so that the colours of the whole image are misleading."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

BACKGROUNDS = ("street", "grass", "mall", "wall", "indoor")


def draw_background(image: Image.Image, kind: str, feet: float, scale: float, rng: np.random.Generator) -> None:
    """Fills an image with a background.

    Args:
        image: RGBA, changed in place. The alpha of all pixels becomes 0, the part number of the background.
        kind: one of `BACKGROUNDS`.
        feet: pixel row where the feet touch the ground.
        scale: height of the person in pixels.
        rng: random generator of layout and colours.
    """
    w, h = image.size
    draw = ImageDraw.Draw(image)

    def colour(low: int = 40, high: int = 230) -> tuple[int, int, int, int]:
        red, green, blue = (int(c) for c in rng.integers(low, high, 3))
        return red, green, blue, 0

    def near(base: tuple[int, ...], spread: int = 16) -> tuple[int, int, int, int]:
        shifts = rng.integers(-spread, spread + 1, 3)
        red, green, blue = (int(min(255, max(0, c + d))) for c, d in zip(base[:3], shifts, strict=True))
        return red, green, blue, 0

    def rect(x0: float, y0: float, x1: float, y1: float, fill: tuple, line: tuple | None = None) -> None:
        draw.rectangle((x0, y0, max(x0, x1), max(y0, y1)), fill=fill, outline=line)

    horizon = feet - scale * rng.uniform(0.1, 0.42)
    if kind == "street":
        _street(rect, draw, colour, near, w, h, horizon, rng)
    elif kind == "grass":
        _grass(rect, draw, colour, near, w, h, horizon, rng)
    elif kind == "mall":
        _mall(rect, draw, colour, near, w, h, horizon, rng)
    elif kind == "wall":
        _wall(rect, draw, colour, near, w, h, horizon, rng)
    else:
        _indoor(rect, draw, colour, near, w, h, horizon, rng)
    reach = scale * rng.uniform(0.13, 0.2)
    ground = np.asarray(image)[min(h - 1, int(feet)), w // 2, :3]
    shadow = (*(int(c * 0.6) for c in ground.tolist()), 0)
    draw.ellipse((w / 2 - reach, feet - scale * 0.02, w / 2 + reach, feet + scale * 0.012), fill=shadow)


def _street(rect, draw, colour, near, w, h, horizon, rng) -> None:
    wall = colour(90, 220)
    rect(0, 0, w, horizon, wall)
    for _ in range(int(rng.integers(1, 3))):
        x = rng.uniform(-0.3, 0.9) * w
        rect(x, rng.uniform(-0.1, 0.2) * h, x + rng.uniform(0.3, 0.7) * w, horizon, colour(60, 220))
    glass, step = near((110, 140, 165), 40), rng.uniform(0.1, 0.16) * h
    for y in np.arange(rng.uniform(0, 0.06) * h, horizon - step, step):
        for x in np.arange(rng.uniform(0, 0.1) * w, w, rng.uniform(0.24, 0.36) * w):
            rect(x, y, x + 0.14 * w, y + step * 0.5, glass)
    road = near((116, 116, 120), 30)
    rect(0, horizon, w, h, road)
    rect(0, horizon, w, horizon + 0.02 * h, near((176, 172, 166)))
    if rng.random() < 0.5:
        x, size, paint = rng.uniform(-0.5, 0.9) * w, rng.uniform(0.5, 0.9) * w, colour(20, 230)
        y = horizon - size * 0.34
        draw.polygon(
            [
                (x + size * 0.2, y - size * 0.2),
                (x + size * 0.75, y - size * 0.2),
                (x + size * 0.9, y),
                (x + size * 0.08, y),
            ],
            fill=glass,
        )
        rect(x, y, x + size, y + size * 0.28, paint)
        for part in (0.2, 0.76):
            draw.ellipse(
                (x + size * part - 12, y + size * 0.2, x + size * part + 12, y + size * 0.2 + 24), fill=(24, 24, 26, 0)
            )
    if rng.random() < 0.4:
        for x in np.arange(rng.uniform(-0.2, 0) * w, w, 0.3 * w):
            draw.polygon(
                [(x, h), (x + 0.16 * w, h), (x + 0.2 * w, horizon + 0.12 * h), (x + 0.08 * w, horizon + 0.12 * h)],
                fill=near((216, 214, 208)),
            )
    if rng.random() < 0.4:
        x = rng.uniform(0, 1) * w
        rect(x, 0, x + 0.03 * w, horizon + 0.02 * h, near((90, 92, 96)))
        rect(x - 0.12 * w, 0.1 * h, x + 0.15 * w, 0.18 * h, colour(30, 230))


def _grass(rect, draw, colour, near, w, h, horizon, rng) -> None:
    sky = near((176, 200, 226), 28)
    rect(0, 0, w, horizon, sky)
    leaf = near([(70, 118, 58), (110, 140, 70), (150, 132, 66), (58, 98, 70)][int(rng.integers(4))])
    for _ in range(int(rng.integers(5, 10))):
        x, y, r = rng.uniform(0, 1) * w, horizon - rng.uniform(0.05, 0.6) * horizon, rng.uniform(0.12, 0.32) * w
        draw.ellipse((x - r, y - r, x + r, y + r), fill=near(leaf, 22))
    if rng.random() < 0.6:
        x = rng.uniform(0, 1) * w
        rect(x, 0.1 * h, x + 0.08 * w, horizon, near((98, 74, 52)))
    if rng.random() < 0.5:
        fence = colour(70, 235)
        rect(0, horizon - 0.12 * h, w, horizon - 0.1 * h, fence)
        for x in np.arange(0, w, 0.13 * w):
            rect(x, horizon - 0.16 * h, x + 0.04 * w, horizon, fence)
    ground = near([(96, 146, 66), (128, 150, 72), (170, 160, 92), (84, 120, 70)][int(rng.integers(4))])
    rect(0, horizon, w, h, ground)
    for _ in range(40):
        x, y = rng.uniform(0, w), rng.uniform(horizon, h)
        draw.line((x, y, x + rng.uniform(-4, 4), y - rng.uniform(4, 14)), fill=near(ground, 34), width=2)
    for _ in range(int(rng.integers(0, 8))):
        x, y = rng.uniform(0, w), rng.uniform(horizon, h)
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour(60, 255))


def _mall(rect, draw, colour, near, w, h, horizon, rng) -> None:
    rect(0, 0, w, horizon, near((226, 220, 210), 26))
    x = rng.uniform(-0.3, 0.0) * w
    while x < w:
        size = rng.uniform(0.4, 0.8) * w
        rect(x, 0.12 * h, x + size, horizon, near((200, 206, 212), 30))
        rect(x, 0.05 * h, x + size, 0.13 * h, colour(20, 240))
        for _ in range(int(rng.integers(3, 7))):
            gx, gy = x + rng.uniform(0, 0.8) * size, rng.uniform(0.18, 0.9) * horizon
            rect(gx, gy, gx + rng.uniform(0.08, 0.24) * size, gy + rng.uniform(0.05, 0.16) * h, colour(20, 240))
        rect(x, 0, x + 0.04 * w, horizon, near((140, 140, 146), 30))
        x += size
    floor = near((214, 206, 192), 30)
    rect(0, horizon, w, h, floor)
    dark = tuple(int(c * 0.86) for c in floor[:3])
    for n in range(1, 8):
        y = horizon + (h - horizon) * (n / 8) ** 1.6
        draw.line((0, y, w, y), fill=(*dark, 0), width=2)
    for x in np.linspace(-0.4, 1.4, 8) * w:
        draw.line((w / 2 + (x - w / 2) * 0.6, horizon, x, h), fill=(*dark, 0), width=2)


def _wall(rect, draw, colour, near, w, h, horizon, rng) -> None:
    paint = colour(70, 236)
    rect(0, 0, w, horizon, paint)
    line = (*(int(c * 0.82) for c in paint[:3]), 0)
    if rng.random() < 0.5:
        row, brick = rng.uniform(0.03, 0.05) * h, rng.uniform(0.16, 0.26) * w
        for n, y in enumerate(np.arange(0, horizon, row)):
            draw.line((0, y, w, y), fill=line, width=2)
            for x in np.arange((n % 2) * brick / 2, w, brick):
                draw.line((x, y, x, min(horizon, y + row)), fill=line, width=2)
    else:
        rect(0, horizon * rng.uniform(0.5, 0.75), w, horizon, colour(60, 230))
    for _ in range(int(rng.integers(1, 5))):
        x, y = rng.uniform(-0.1, 0.9) * w, rng.uniform(0, 0.7) * horizon
        rect(x, y, x + rng.uniform(0.14, 0.4) * w, y + rng.uniform(0.06, 0.2) * h, colour(20, 250), line)
    rect(
        0,
        horizon,
        w,
        h,
        near([(150, 148, 144), (176, 158, 134), (120, 122, 130), (160, 110, 90)][int(rng.integers(4))], 22),
    )
    rect(0, horizon - 0.012 * h, w, horizon, line)


def _indoor(rect, draw, colour, near, w, h, horizon, rng) -> None:
    rect(0, 0, w, horizon, near((208, 202, 188), 40))
    for _ in range(int(rng.integers(2, 5))):
        x, y = rng.uniform(-0.2, 0.9) * w, rng.uniform(0.05, 0.5) * horizon
        rect(x, y, x + rng.uniform(0.2, 0.5) * w, horizon, near([(120, 84, 56), (150, 160, 170), (90, 110, 140),
            (196, 180, 150)][int(rng.integers(4))], 30),
             (60, 56, 52, 0))  # fmt: skip
    if rng.random() < 0.6:
        x, wide = rng.uniform(-0.1, 0.7) * w, rng.uniform(0.3, 0.5) * w
        for y in np.arange(0.2 * h, horizon, 0.1 * h):
            rect(x, y, x + wide, y + 0.012 * h, near((120, 90, 60)))
            spot = x
            while spot < x + wide - 6:
                thick = rng.uniform(0.04, 0.09) * w
                rect(spot, y - rng.uniform(0.04, 0.075) * h, spot + thick - 3, y, colour(20, 240))
                spot += thick
    for x in np.arange(0.1 * w, w, 0.5 * w):
        rect(x, 0, x + 0.26 * w, 0.02 * h, (252, 250, 236, 0))
    floor = colour(80, 210)
    rect(0, horizon, w, h, floor)
    if rng.random() < 0.5:
        for n in range(1, 6):
            y = horizon + (h - horizon) * n / 6
            draw.line((0, y, w, y), fill=(*(int(c * 0.84) for c in floor[:3]), 0), width=2)
