"""The canvas that a synthetic pedestrian is drawn on, in body units, and where the joints are."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from dataset_pvlg.sources.garments import paint_pattern
from dataset_pvlg.sources.identities import Identity
from dataset_pvlg.sources.scene import View

HEAD, UPPER, LOWER, FEET, BAG, CARRIED = range(1, 7)  # numbers in the part mask

Point = tuple[float, float]


class Figure:
    """A canvas with its part mask, addressed in body units: x from the middle, y from the crown, 1 = body height."""

    def __init__(self, width: int, height: int, middle: float, top: float, unit: float):
        self.image = Image.new("RGB", (width, height))
        self.mask = Image.new("L", (width, height))
        self.colour, self.part = ImageDraw.Draw(self.image), ImageDraw.Draw(self.mask)
        self.middle, self.top, self.unit = middle, top, unit

    def at(self, x: float, y: float) -> Point:
        return self.middle + x * self.unit, self.top + y * self.unit

    def polygon(self, points: Sequence[Point], fill: tuple, part: int) -> None:
        pixels = [self.at(*p) for p in points]
        self.colour.polygon(pixels, fill=fill)
        self.part.polygon(pixels, fill=part)

    def patterned(self, points: Sequence[Point], fill: tuple, pattern: str, part: int) -> None:
        """A polygon of cloth with its pattern, clipped to the polygon."""
        pixels = [self.at(*p) for p in points]
        if pattern in ("striped", "plaid", "dotted"):
            stencil = Image.new("L", self.image.size)
            ImageDraw.Draw(stencil).polygon(pixels, fill=255)
            box = stencil.getbbox()
            if box:
                cloth = paint_pattern((box[2] - box[0], box[3] - box[1]), fill, pattern, self.unit)
                self.image.paste(cloth, box[:2], stencil.crop(box))
        else:
            self.colour.polygon(pixels, fill=fill)
        self.part.polygon(pixels, fill=part)

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: tuple, part: int) -> None:
        box = (*self.at(x - rx, y - ry), *self.at(x + rx, y + ry))
        self.colour.ellipse(box, fill=fill)
        self.part.ellipse(box, fill=part)

    def slice(self, x: float, y: float, rx: float, ry: float, start: float, end: float, fill: tuple, part: int) -> None:
        box = (*self.at(x - rx, y - ry), *self.at(x + rx, y + ry))
        self.colour.pieslice(box, start, end, fill=fill)
        self.part.pieslice(box, start, end, fill=part)

    def line(self, points: Sequence[Point], fill: tuple, width: float, part: int) -> None:
        pixels, thick = [self.at(*p) for p in points], max(1, round(width * self.unit))
        self.colour.line(pixels, fill=fill, width=thick, joint="curve")
        self.part.line(pixels, fill=part, width=thick, joint="curve")

    def limb(self, points: Sequence[Point], fill: tuple, width: float, part: int) -> None:
        """A thick line with round ends."""
        self.line(points, fill, width, part)
        for x, y in (points[0], points[-1]):
            self.ellipse(x, y, width / 2, width / 2, fill, part)


class Pose:
    """Where the joints are: everything that depends on build, gender, direction and stride."""

    def __init__(self, identity: Identity, view: View, rng: np.random.Generator):
        self.side = view.orientation in ("left", "right")
        self.back = view.orientation == "back"
        self.facing = {"left": -1, "right": 1}.get(view.orientation, 0)
        self.left = -1 if view.orientation in ("back",) else 1  # the person's own left, as a sign of x
        girth = {"slim": 0.80, "average": 1.0, "heavy": 1.36}[identity.build]
        woman = identity.gender == "woman"
        depth = 0.66 if self.side else 1.0
        self.shoulder = (0.112 if woman else 0.134) * girth * depth
        self.waist = (0.080 if woman else 0.112) * girth * depth
        self.hip = (0.108 if woman else 0.106) * girth * depth
        self.thick = 0.058 * (0.6 + 0.4 * girth)
        step = view.stride if view.stride > 0.35 else 0.0
        self.swing = step * (1 if rng.random() < 0.5 else -1)

    def legs(self) -> list[tuple[Point, Point, Point]]:
        """Hip, knee, ankle of the far and the near leg."""
        if self.side:
            out = []
            for sign in (-1, 1):
                reach = 0.10 * self.swing * sign + 0.008 * sign
                out.append(((0.0, 0.50), (reach * 0.6 + 0.012 * self.facing, 0.72), (reach, 0.945)))
            return out
        lift = 0.022 * abs(self.swing)
        first = 1 if self.swing > 0 else -1
        return [
            (
                (s * self.hip * 0.52, 0.50),
                (s * self.hip * 0.56, 0.72),
                (s * self.hip * 0.55, 0.945 - lift * (s == first)),
            )
            for s in (-1, 1)
        ]

    def arms(self) -> list[tuple[Point, Point, Point]]:
        """Shoulder, elbow, hand; from the side the far arm first, else the picture's left first."""
        if self.side:
            return [
                (
                    (0.0, 0.20),
                    (-0.05 * self.swing * s - 0.01 * self.facing, 0.335),
                    (-0.09 * self.swing * s + 0.01 * self.facing, 0.46),
                )
                for s in (-1, 1)
            ]
        return [
            (
                (s * self.shoulder * 0.92, 0.195),
                (s * (self.shoulder + 0.026), 0.335),
                (s * (self.shoulder + 0.03), 0.465),
            )
            for s in (-1, 1)
        ]
