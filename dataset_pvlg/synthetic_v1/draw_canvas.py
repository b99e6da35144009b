"""A canvas that stores the part of the person that each pixel shows, and the colours of the generator.

Pixels are RGBA, and alpha holds the part number. One drawing gives the image, the boxes and the hidden parts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

(
    NOTHING, SKIN, HAIR, HEADWEAR, EYEWEAR, UPPER, UPPER_DETAIL, INNER, LOGO, LOWER, LOWER_DETAIL, LEG, SHOE,
    SHOE_DETAIL, BAG, BAG_DETAIL, ITEM, ITEM_DETAIL, ARM, OCCLUDER, DRESS_SKIRT,
) = range(21)  # fmt: skip

LABELS = ("head", "upper body", "lower body", "feet", "bag", "carried item")
PARTS_OF = {
    "head": (SKIN, HAIR, HEADWEAR, EYEWEAR),
    "upper body": (UPPER, UPPER_DETAIL, INNER, LOGO, ARM),
    "lower body": (LOWER, LOWER_DETAIL, LEG, DRESS_SKIRT),
    "feet": (SHOE, SHOE_DETAIL),
    "bag": (BAG, BAG_DETAIL),
    "carried item": (ITEM, ITEM_DETAIL),
}
LABEL_INDEX = np.zeros(256, dtype=np.uint8)  # part number -> 1 + index in LABELS, or 0 for none
for _n, _label in enumerate(LABELS):
    LABEL_INDEX[list(PARTS_OF[_label])] = _n + 1

COLOURS: dict[str, Colour] = {
    "black": (27, 27, 31),
    "white": (240, 240, 237),
    "grey": (136, 138, 141),
    "blue": (36, 82, 196),
    "red": (204, 28, 36),
    "green": (34, 138, 58),
    "yellow": (244, 214, 48),
    "pink": (248, 146, 186),
    "purple": (122, 46, 160),
    "brown": (112, 66, 34),
    "orange": (246, 128, 24),
    "khaki": (184, 166, 112),
}
HAIR_COLOURS: dict[str, Colour] = {
    "black": (24, 21, 21),
    "brown": (108, 62, 28),
    "blonde": (232, 196, 100),
    "grey": (168, 168, 172),
    "red": (186, 72, 22),
}
DENIM: dict[str, Colour] = {"blue": (60, 94, 156), "black": (40, 42, 49), "grey": (116, 121, 130)}
SKINS: tuple[Colour, ...] = ((241, 205, 177), (226, 180, 146), (198, 148, 112), (150, 104, 74), (104, 70, 50))


def tint(colour: Colour, factor: float) -> Colour:
    """A darker colour for a factor below 1, a colour nearer to white for a factor above 1."""
    red, green, blue = colour
    if factor <= 1:
        return int(red * factor), int(green * factor), int(blue * factor)
    more = factor - 1
    return int(red + (255 - red) * more), int(green + (255 - green) * more), int(blue + (255 - blue) * more)


def edge(colour: Colour) -> Colour:
    """The colour of a line on `colour`: lighter on dark cloth, darker on light cloth."""
    red, green, blue = colour
    return (red + 44, green + 44, blue + 44) if sum(colour) < 190 else tint(colour, 0.66)


class Canvas:
    """Draws shapes in body units: 1 is the height of the person, (0, 0) the top of the head, and y points down."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGBA", (width, height))
        self.draw = ImageDraw.Draw(self.image)
        self.size = (width, height)
        self.set_origin(0, 0, height, 1)
        self.expected: dict[int, float] = {}  # part -> pixels of its largest shape, for bags and carried items

    def set_origin(self, x: float, y: float, scale: float, mirror: int) -> None:
        """Maps body point (0, 0) to pixel (x, y), with `scale` pixels per unit; `mirror` -1 flips x."""
        self.x, self.y, self.scale, self.mirror = x, y, scale, mirror

    def at(self, points: Sequence[Point]) -> list[Point]:
        """Pixel coordinates of points in body units."""
        x, y, s, m = self.x, self.y, self.scale, self.scale * self.mirror
        return [(x + m * px, y + s * py) for px, py in points]

    def poly(self, points: Sequence[Point], colour: Colour, part: int, outline: bool = True) -> None:
        """Draws a filled polygon."""
        spots = self.at(points)
        self.draw.polygon(spots, fill=(*colour, part))
        if outline:
            self.draw.line([*spots, spots[0]], fill=(*edge(colour), part), width=2)
        if part in (BAG, ITEM):
            xs, ys = np.array(spots).T
            area = 0.5 * abs(float(np.dot(xs, np.roll(ys, 1)) - np.dot(ys, np.roll(xs, 1))))
            self.expected[part] = max(self.expected.get(part, 0.0), area)

    def oval(self, x: float, y: float, rx: float, ry: float, colour: Colour, part: int, outline: bool = True) -> None:
        """Draws a filled ellipse around (x, y) with half-axes rx and ry."""
        (cx, cy), s = self.at([(x, y)])[0], self.scale
        spot = (cx - rx * s, cy - ry * s, cx + rx * s, cy + ry * s)
        self.draw.ellipse(spot, fill=(*colour, part), outline=(*edge(colour), part) if outline else None, width=2)

    def line(self, points: Sequence[Point], colour: Colour, part: int, width: float = 0.008) -> None:
        """Draws a line through all points."""
        thick = max(2, round(width * self.scale))
        self.draw.line(self.at(points), fill=(*colour, part), width=thick, joint="curve" if thick > 4 else None)

    def limb(
        self, points: Sequence[Point], widths: Sequence[float], colour: Colour, part: int, rounded: bool = True
    ) -> None:
        """Draws a tube along two or more points with half-widths `widths`; its ends are rounded or straight."""
        left, right = [], []
        for n, (x, y) in enumerate(points):
            (ax, ay), (bx, by) = points[max(n - 1, 0)], points[min(n + 1, len(points) - 1)]
            dx, dy = bx - ax, by - ay
            length = (dx * dx + dy * dy) ** 0.5 or 1.0
            nx, ny = -dy / length * widths[n], dx / length * widths[n]
            left.append((x + nx, y + ny))
            right.append((x - nx, y - ny))
        if rounded:
            self.oval(*points[0], widths[0], widths[0], colour, part)
            self.oval(*points[-1], widths[-1], widths[-1], colour, part, outline=False)
        self.poly([*left, *reversed(right)], colour, part)

    def rect(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, part: int, outline: bool = True) -> None:
        """Draws a filled rectangle."""
        self.poly([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour, part, outline)
