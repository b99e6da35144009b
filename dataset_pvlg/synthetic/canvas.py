"""A canvas in body units. The alpha channel of each pixel holds the number of the region that it shows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]
BACKGROUND = 0

RGB: dict[str, Colour] = {
    "black": (26, 26, 30), "white": (242, 242, 239), "grey": (134, 137, 141), "blue": (34, 80, 200),
    "red": (206, 26, 34), "green": (30, 140, 58), "yellow": (245, 216, 44), "orange": (248, 126, 18),
    "pink": (250, 148, 190), "purple": (120, 42, 164), "brown": (112, 64, 30),
}  # fmt: skip
HAIR_RGB: dict[str, Colour] = {
    "black": (24, 21, 21), "brown": (110, 62, 26), "blonde": (234, 200, 104), "grey": (170, 170, 174),
    "red": (192, 76, 20),
}  # fmt: skip
SKINS: tuple[Colour, ...] = ((241, 205, 177), (226, 180, 146), (198, 148, 112), (150, 104, 74), (104, 70, 50))


def tint(colour: Colour, factor: float) -> Colour:
    """A darker colour for a factor below 1, a colour nearer to white for a factor above 1."""
    if factor <= 1:
        return int(colour[0] * factor), int(colour[1] * factor), int(colour[2] * factor)
    more = factor - 1
    red, green, blue = (int(c + (255 - c) * more) for c in colour)
    return red, green, blue


def edge(colour: Colour) -> Colour:
    """The colour of a line on `colour`: lighter on dark cloth, darker on light cloth."""
    if sum(colour) < 190:
        return colour[0] + 44, colour[1] + 44, colour[2] + 44
    return tint(colour, 0.66)


class Canvas:
    """Draws shapes in body units: 1 is the height of the standing person, x points right and y points down.

    Attributes:
        image: RGBA.
        drawn: region number -> pixels of its shapes if nothing covered them and nothing cut them off.
    """

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGBA", (width, height))
        self.draw = ImageDraw.Draw(self.image)
        self.drawn: dict[int, float] = {}
        self.set_origin(0, 0, height, 1, 0)

    def set_origin(self, x: float, y: float, scale: float, mirror: int, roll: float) -> None:
        """Maps body point (0, 0) to pixel (x, y), `scale` pixels per unit; `mirror` -1 flips x, `roll` turns."""
        self.x, self.y, self.scale, self.mirror = x, y, scale, mirror
        self.cos, self.sin = math.cos(roll) * scale, math.sin(roll) * scale

    def at(self, points: Sequence[Point]) -> list[Point]:
        """Pixel coordinates of points in body units."""
        x, y, c, s, m = self.x, self.y, self.cos, self.sin, self.mirror
        return [(x + c * m * px - s * py, y + s * m * px + c * py) for px, py in points]

    def poly(
        self, points: Sequence[Point], colour: Colour, part: int, outline: bool = True, counts: bool = True
    ) -> None:
        """Draws a filled polygon. `counts`: whether its area adds to `drawn`."""
        spots = self.at(points)
        self.draw.polygon(spots, fill=(*colour, part))
        if outline:
            self.draw.line([*spots, spots[0]], fill=(*edge(colour), part), width=2)
        if counts and part:
            area = sum(ax * by - bx * ay for (ax, ay), (bx, by) in zip(spots, [*spots[1:], spots[0]], strict=True))
            self.drawn[part] = self.drawn.get(part, 0.0) + abs(area) / 2

    def oval(self, x: float, y: float, rx: float, ry: float, colour: Colour, part: int, outline: bool = True) -> None:
        """Draws a filled ellipse around (x, y) with half-axes rx and ry."""
        (cx, cy), s = self.at([(x, y)])[0], self.scale
        line = (*edge(colour), part) if outline else None
        self.draw.ellipse((cx - rx * s, cy - ry * s, cx + rx * s, cy + ry * s), (*colour, part), line, 2)
        if part:
            self.drawn[part] = self.drawn.get(part, 0.0) + math.pi * rx * ry * s * s

    def line(self, points: Sequence[Point], colour: Colour, part: int, width: float = 0.01) -> None:
        """Draws a line through all points."""
        thick = max(2, round(width * self.scale))
        self.draw.line(self.at(points), fill=(*colour, part), width=thick, joint="curve" if thick > 4 else None)

    def limb(self, points: Sequence[Point], widths: Sequence[float], colour: Colour, part: int) -> None:
        """Draws a tube along two or more points with half-widths `widths`."""
        left, right = [], []
        for n, (x, y) in enumerate(points):
            (ax, ay), (bx, by) = points[max(n - 1, 0)], points[min(n + 1, len(points) - 1)]
            dx, dy = bx - ax, by - ay
            length = math.hypot(dx, dy) or 1.0
            nx, ny = -dy / length * widths[n], dx / length * widths[n]
            left.append((x + nx, y + ny))
            right.append((x - nx, y - ny))
        for (x, y), r in zip(points, widths, strict=True):
            spot, reach = self.at([(x, y)])[0], r * self.scale
            box = (spot[0] - reach, spot[1] - reach, spot[0] + reach, spot[1] + reach)
            self.draw.ellipse(box, (*colour, part))
        self.poly([*left, *reversed(right)], colour, part)

    def rect(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, part: int, outline: bool = True) -> None:
        """Draws a filled rectangle."""
        self.poly([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour, part, outline)
