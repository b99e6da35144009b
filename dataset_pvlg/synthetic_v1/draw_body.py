"""The body of one person in one pose: positions of shoulders, hands, knees and feet."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from zlib import crc32

from dataset_pvlg.synthetic_v1.draw_canvas import HAIR_COLOURS, SKINS, Colour, Point, tint
from dataset_pvlg.synthetic_v1.identities import Identity

NECK, SHOULDER, HIP, CROTCH, ANKLE, SOLE = 0.185, 0.2, 0.5, 0.535, 0.925, 1.0
_BUILD = {"slim": 0.78, "average": 1.0, "heavy": 1.34}


@dataclass(frozen=True)
class Body:
    """A person in one view. Side views are drawn facing +x; the canvas mirrors them for the left.

    Args:
        person: the identity.
        orientation: front, back, left or right.
        step: length of the step from -1 to 1; the sign is the leg in front.
        yaw: small turn of a front or back view, in body units.
        built_as: identity that determines skin and shades. None: `person`.
    """

    person: Identity
    orientation: str
    step: float
    yaw: float
    built_as: Identity | None = None

    @cached_property
    def side(self) -> bool:
        return self.orientation in ("left", "right")

    @cached_property
    def back(self) -> bool:
        return self.orientation == "back"

    @cached_property
    def woman(self) -> bool:
        return self.person.gender == "woman"

    @cached_property
    def build(self) -> float:
        return _BUILD[self.person.build]

    @cached_property
    def trait(self) -> int:
        """A number that determines what no caption names (skin, shades). It is the same in all images of a person."""
        return crc32(repr(self.built_as or self.person).encode())

    @cached_property
    def skin(self) -> Colour:
        tones: tuple[int, ...] = (0, 0, 0, 1, 1, 1, 2, 2, 3, 4)
        if self.person.hair_colour not in ("black", "grey"):  # brown hair on brown skin would look like a bald head
            tones = (0, 0, 1)
        return SKINS[tones[self.trait % len(tones)]]

    @cached_property
    def hair(self) -> Colour:
        return HAIR_COLOURS[self.person.hair_colour]

    def shade(self, colour: Colour) -> Colour:
        """A slightly darker or lighter variant of a colour, which depends on the person."""
        return tint(colour, 0.9 + 0.1 * ((self.trait >> 8) % 16) / 15)

    # ---- half-widths (front and back) and depths (side)
    @cached_property
    def shoulder(self) -> float:
        return (0.098 if self.woman else 0.116) * self.build**0.75

    @cached_property
    def waist(self) -> float:
        return (0.068 if self.woman else 0.092) * self.build * (1.14 if self.build > 1 else 1.0)

    @cached_property
    def hip(self) -> float:
        return (0.098 if self.woman else 0.09) * self.build**0.95

    @cached_property
    def arm(self) -> float:
        return (0.023 if self.woman else 0.027) * self.build**0.7

    @cached_property
    def thigh(self) -> float:
        return 0.047 * self.build**0.9

    def sign(self, side: str) -> int:
        """Direction in the image, 1 or -1, of the person's own left or right in a front or back view."""
        return 1 if (side == "left") != self.back else -1

    # ---- outlines of the trunk
    def edges(self, y: float) -> tuple[float, float]:
        """x of the left and of the right edge at height y."""
        t = min(max((y - SHOULDER) / (HIP - SHOULDER), 0.0), 1.6)
        if self.side:
            depth = 0.066 * self.build**0.85
            chest = 0.018 * math.exp(-(((t - 0.3) / 0.2) ** 2)) if self.woman else 0.006
            belly = (0.05 if self.build > 1 else 0.0) * math.exp(-(((t - 0.75) / 0.3) ** 2))
            slim = 0.012 if self.woman else 0.004
            inward = slim * math.exp(-(((t - 0.65) / 0.2) ** 2))
            narrow = 0.72 + 0.28 * min(1.0, t / 0.18)
            return -depth * narrow + inward, depth * narrow * 0.92 + chest + belly - inward
        if t < 0.12:
            half = self.shoulder * (0.8 + 0.2 * t / 0.12)
        elif t < 0.68:
            half = self.shoulder + (self.waist - self.shoulder) * ((t - 0.12) / 0.56) ** 1.2
        else:
            half = self.waist + (self.hip - self.waist) * min(1.0, (t - 0.68) / 0.32)
        return -half, half

    def trunk(self, top: float, bottom: float, wider: float = 0.0, flare: float = 0.0) -> list[Point]:
        """Outline of a garment on the trunk from height `top` to `bottom`; `flare` widens it from the hip down."""
        steps = 9
        ys = [top + (bottom - top) * n / steps for n in range(steps + 1)]
        grow = [wider + flare * max(0.0, y - HIP + 0.06) for y in ys]
        left = [(self.edges(y)[0] - g, y) for y, g in zip(ys, grow, strict=True)]
        right = [(self.edges(y)[1] + g, y) for y, g in zip(ys, grow, strict=True)]
        return [*left, *reversed(right)]

    # ---- limbs; `which` is 1 for the limb at the right of the image (front, back) or the near one (side), else -1
    def leg(self, which: int) -> tuple[Point, Point, Point]:
        """Hip, knee and ankle."""
        if self.side:
            swing = 0.44 * self.step * which
            hip = (0.004 * which, HIP + 0.01)
            bend = 0.3 * abs(self.step) if swing < 0 else 0.05
            knee = (hip[0] + 0.215 * math.sin(swing + bend * 0.4), hip[1] + 0.215 * math.cos(swing))
            ankle = (knee[0] + 0.205 * math.sin(swing - bend), knee[1] + 0.205 * math.cos(swing - bend))
            return hip, knee, ankle
        lift = 0.035 * abs(self.step) if self.step * which > 0 else 0.0
        apart = 0.052 * self.build**0.7 - 0.012 * abs(self.step)
        hip = (which * self.hip * 0.5, HIP + 0.01)
        return hip, (which * (apart + 0.004), 0.71 - lift * 0.3), (which * apart, ANKLE - lift)

    def hand_arm(self, which: int, hold: str = "") -> tuple[Point, Point, Point]:
        """Shoulder, elbow and hand; `hold` is "", "down" (holds something heavy) or "up" (before the chest)."""
        if self.side:
            shoulder = (-0.006, SHOULDER + 0.03)
            swing = -0.42 * self.step * which
            if hold == "up":
                return shoulder, (0.01, 0.375), (0.125, 0.345)
            if hold == "down":
                swing *= 0.25
            elbow = (shoulder[0] + 0.15 * math.sin(swing), shoulder[1] + 0.15 * math.cos(swing))
            bend = 0.12 if hold else 0.3
            return (
                shoulder,
                elbow,
                (elbow[0] + 0.145 * math.sin(swing + bend), elbow[1] + 0.145 * math.cos(swing + bend)),
            )
        out = self.shoulder - self.arm * 0.5
        wide = max(self.shoulder, self.waist, self.hip * 0.94)
        if hold == "up":
            return (which * out, SHOULDER + 0.03), (which * (wide + 0.018), 0.37), (which * wide * 0.42, 0.335)
        spread = 0.0 if hold else 0.012 * self.step * which
        return (
            (which * out, SHOULDER + 0.03),
            (which * (wide + self.arm * 0.9 + 0.004), 0.365),
            (which * (wide + self.arm * 0.9 + 0.008), 0.505 + spread),
        )
