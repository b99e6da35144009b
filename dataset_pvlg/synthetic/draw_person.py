"""The person: skin, head, hair and garments."""

from __future__ import annotations

import math
from collections.abc import Mapping

from dataset_pvlg.synthetic.canvas import HAIR_RGB, RGB, SKINS, Canvas, Colour, Point, edge, tint
from dataset_pvlg.synthetic.identities import Identity, Thing
from dataset_pvlg.synthetic.poses import Skeleton

SLEEVES = {"t-shirt": "short", "tank top": "none", "dress": "short"}  # all others are long
HEMS = {"coat": 0.2, "jacket": 0.02, "hoodie": 0.03, "sweater": 0.02, "tank top": 0.03}  # below the hips


def shoulder_width(identity: Identity) -> float:
    """Half the distance of the shoulders in body units."""
    base = 0.092 if identity.gender == "man" else 0.076
    return base * {"slim": 0.92, "average": 1.0, "heavy": 1.14}[identity.build]


def _between(a: Point, b: Point, t: float) -> Point:
    return a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t


class Figure:
    """Draws one person.

    Args:
        canvas: where to draw.
        identity: the person.
        skeleton: the joints.
        parts: slot of `things_of` (and `hair`) -> region number; absent slots are background.
        worn_hat: whether a hat covers the top of the hair.
    """

    def __init__(
        self, canvas: Canvas, identity: Identity, skeleton: Skeleton, parts: Mapping[str, int], worn_hat: bool
    ) -> None:
        self.c, self.person, self.s, self.parts, self.worn_hat = canvas, identity, skeleton, parts, worn_hat
        self.thick = {"slim": 0.86, "average": 1.0, "heavy": 1.2}[identity.build]
        self.skin = SKINS[identity.skin]
        self.side, self.back = skeleton.view == "side", skeleton.view == "back"

    def part(self, slot: str) -> int:
        """The region number of a slot."""
        return self.parts.get(slot, 0)

    def legs(self) -> None:
        """Both legs with garment and footwear, the far one first."""
        for n in (0, 1):
            self._leg(n, 0.8 if self.side and n == 0 else 1.0)
        bottom = self.person.bottom
        if bottom:
            self._hips(bottom)

    def _leg(self, n: int, shade: float) -> None:
        s, c, k = self.s, self.c, self.thick
        hip, knee, ankle = s.hips[n], s.knees[n], s.ankles[n]
        skin, bottom = tint(self.skin, shade), self.person.bottom
        c.limb([hip, knee, ankle], [0.05 * k, 0.034 * k, 0.022], skin, 0)
        self._shoe(n, shade)
        if bottom is None or bottom.kind == "skirt":
            return
        colour, part = tint(RGB[bottom.colour], shade), self.part("bottom")
        if bottom.kind == "shorts":
            c.limb([hip, _between(hip, knee, 0.85)], [0.056 * k, 0.05 * k], colour, part)
        else:
            c.limb([hip, knee, _between(knee, ankle, 0.96)], [0.056 * k, 0.044 * k, 0.036], colour, part)
        if self.person.shoes.kind == "boots" and bottom.kind == "trousers":
            self._shoe(n, shade)

    def _shoe(self, n: int, shade: float) -> None:
        s, c, shoes = self.s, self.c, self.person.shoes
        ankle, knee, part = s.ankles[n], s.knees[n], self.part("shoes")
        colour = tint(RGB[shoes.colour], shade)
        if shoes.kind == "boots":
            c.limb([_between(ankle, knee, 0.42), ankle], [0.038, 0.036], colour, part)
        x, y = ankle
        if self.side:
            points = [
                (x - 0.032, y - 0.018),
                (x + 0.02, y - 0.022),
                (x + 0.085, y + 0.012),
                (x + 0.085, y + 0.032),
                (x - 0.034, y + 0.032),
            ]
        else:
            w = 0.034
            points = [
                (x - w * 0.8, y - 0.022),
                (x + w * 0.8, y - 0.022),
                (x + w * 1.1, y + 0.034),
                (x - w * 1.1, y + 0.034),
            ]
        c.poly(points, colour, part)
        sole = (235, 235, 232) if sum(RGB[shoes.colour]) < 560 else (60, 60, 64)
        c.line([points[-2], points[-1]], sole, part, 0.009)

    def _hips(self, bottom: Thing) -> None:
        s, c, k = self.s, self.c, self.thick
        colour, part = RGB[bottom.colour], self.part("bottom")
        x, y = s.hip
        w = (0.066 if self.side else 0.086) * k
        if bottom.kind == "skirt":
            c.poly(self._skirt_points(w, 0.9), colour, part)
            return
        c.poly(
            [(x - w * 0.92, y - 0.05), (x + w * 0.92, y - 0.05), (x + w, y + 0.04), (x - w, y + 0.04)],
            colour,
            part,
            outline=False,
        )

    def _skirt_points(self, w: float, reach: float) -> list[Point]:
        """The outline of a skirt from the waist to a share of the thighs."""
        s = self.s
        x, y = s.hip
        ends = [_between(s.hips[n], s.knees[n], reach) for n in (0, 1)]
        low = max(end[1] for end in ends) + 0.02
        left, right = min(ends[0][0], ends[1][0], x) - 0.055, max(ends[0][0], ends[1][0], x) + 0.055
        if s.pose in ("sitting", "crouching", "cycling"):
            low = max(low, y + 0.07)
        return [
            (x - w, y - 0.06),
            (x + w, y - 0.06),
            (right, low - 0.02),
            (right - 0.01, low),
            (left + 0.01, low),
            (left, low - 0.02),
        ]

    def trunk(self) -> None:
        """The garment of the trunk and the neck, without the arms."""
        s, c, k, top = self.s, self.c, self.thick, self.person.top
        colour, part = RGB[top.colour], self.part("top")
        c.limb([_between(s.neck, s.head, 0.35), _between(s.neck, s.head, -0.2)], [0.026, 0.03], tint(self.skin, 0.9), 0)
        c.poly(self._trunk_points(0.0, 0.03), colour, part)
        if top.kind == "dress":
            c.poly(self._skirt_points((0.062 if self.side else 0.078) * k, 0.95), colour, part)
            c.poly(self._trunk_points(0.0, -0.02), colour, part, outline=False, counts=False)
        elif top.kind == "coat":
            x, y = s.hip
            w = (0.072 if self.side else 0.094) * k
            knees = [_between(s.hips[n], s.knees[n], 0.62) for n in (0, 1)]
            low = max(y + 0.1, max(p[1] for p in knees))
            left, right = min(x - w, *(p[0] - 0.05 for p in knees)), max(x + w, *(p[0] + 0.05 for p in knees))
            c.poly([(x - w * 0.9, y - 0.05), (x + w * 0.9, y - 0.05), (right, low), (left, low)], colour, part)
        self._details(colour, part)

    def _trunk_points(self, wider: float, below: float) -> list[Point]:
        s, k = self.s, self.thick
        (nx, ny), (hx, hy) = s.neck, s.hip
        hem = hy + HEMS.get(self.person.top.kind, below) if self.person.top.kind not in ("coat", "dress") else hy
        if self.side:
            w, belly = 0.062 * k + wider, 0.07 * k + wider
            dx, dy = nx - hx, ny - hy
            length = math.hypot(dx, dy)
            px, py = -dy / length, dx / length  # forward
            mid = _between(s.hip, s.neck, 0.5)
            return [
                (nx - px * w * 0.8, ny - py * w * 0.8),
                (nx + px * w * 0.75, ny + py * w * 0.75 + 0.01),
                (mid[0] + px * belly, mid[1] + py * belly),
                (hx + px * w, hem + py * w),
                (hx - px * w * 1.05, hem - py * w),
                (mid[0] - px * w, mid[1] - py * w),
            ]
        left, right = s.shoulders
        hips = (0.078 if self.person.gender == "man" else 0.086) * k + wider
        waist = (0.078 if self.person.gender == "man" else 0.064) * k + wider
        mid = _between(s.hip, s.neck, 0.42)
        strap = 0.55 if self.person.top.kind == "tank top" else 1.0
        return [
            (nx - 0.03, ny - 0.008),
            (nx + 0.03, ny - 0.008),
            (nx + (right[0] - nx) * strap, right[1] - 0.022),
            (right[0] + 0.004, right[1] + 0.05),
            (mid[0] + waist, mid[1]),
            (hx + hips, hem),
            (hx - hips, hem),
            (mid[0] - waist, mid[1]),
            (left[0] - 0.004, left[1] + 0.05),
            (nx + (left[0] - nx) * strap, left[1] - 0.022),
        ]

    def _details(self, colour: Colour, part: int) -> None:
        s, c, top, k = self.s, self.c, self.person.top, self.thick
        (nx, ny), (hx, hy) = s.neck, s.hip
        line = edge(colour)
        if top.kind == "hoodie":
            hood = tint(colour, 0.75) if sum(colour) > 190 else (58, 58, 64)
            if self.side:
                c.oval(nx - 0.055, ny + 0.012, 0.036, 0.034, hood, part)
            elif self.back:
                c.poly(
                    [
                        (nx - 0.06, ny - 0.02),
                        (nx + 0.06, ny - 0.02),
                        (nx + 0.05, ny + 0.06),
                        (nx, ny + 0.1),
                        (nx - 0.05, ny + 0.06),
                    ],
                    hood,
                    part,
                )
            else:
                c.poly(
                    [
                        (nx - 0.065, ny - 0.015),
                        (nx, ny + 0.055),
                        (nx + 0.065, ny - 0.015),
                        (nx + 0.03, ny + 0.05),
                        (nx, ny + 0.09),
                        (nx - 0.03, ny + 0.05),
                    ],
                    hood,
                    part,
                )
        elif top.kind in ("jacket", "coat") and not self.back:
            low = hy + HEMS[top.kind] * (1.0 if top.kind == "jacket" else 0.2)
            if self.person.inner and not self.side:
                w = 0.03 * k
                inner, number = RGB[self.person.inner.colour], self.part("inner")
                c.poly(
                    [(nx - 0.026, ny - 0.004), (nx + 0.026, ny - 0.004), (hx + w * 1.15, low), (hx - w * 1.15, low)],
                    inner,
                    number,
                )
            else:
                x = 0.05 * k if self.side else 0.0
                c.line([(nx + x * 0.8, ny + 0.02), (hx + x, low)], line, part, 0.012)
            for sign in (-1, 1) if not self.side else (1,):
                c.poly(
                    [(nx + sign * 0.026, ny - 0.012), (nx + sign * 0.06, ny + 0.005), (nx + sign * 0.036, ny + 0.08)],
                    tint(colour, 0.8) if sum(colour) > 190 else (62, 62, 68),
                    part,
                )
        elif top.kind == "shirt" and not self.back:
            flap = tint(colour, 1.4) if sum(colour) < 560 else tint(colour, 0.8)
            x = 0.05 * k if self.side else 0.0
            c.line([(nx + x * 0.7, ny + 0.03), (hx + x, hy + 0.02)], line, part, 0.009)
            for n in range(1, 5):
                spot = _between((nx + x * 0.7, ny), (hx + x, hy), n / 5)
                c.oval(*spot, 0.007, 0.007, flap, part)
            for sign in (-1, 1) if not self.side else (1,):
                c.poly([(nx, ny + 0.006), (nx + sign * 0.05, ny - 0.012), (nx + sign * 0.042, ny + 0.045)], flap, part)
        elif top.kind in ("t-shirt", "sweater", "tank top") and not self.back:
            x = 0.03 if self.side else 0.0
            c.oval(nx + x, ny - 0.006, 0.024, 0.018 if top.kind != "tank top" else 0.034, self.skin, 0, outline=False)
        if top.kind == "sweater":
            w = (0.062 if self.side else 0.078) * k
            c.line(
                [(hx - w, hy + 0.016), (hx + w, hy + 0.016)],
                tint(colour, 0.6) if sum(colour) > 190 else line,
                part,
                0.018,
            )

    def arm(self, n: int) -> None:
        """One arm with sleeve and hand."""
        s, c, k, top = self.s, self.c, self.thick, self.person.top
        shade = 0.8 if self.side and n == 0 else 1.0
        shoulder, elbow, hand = s.shoulders[n], s.elbows[n], s.hands[n]
        colour, skin, part = tint(RGB[top.colour], shade), tint(self.skin, shade), self.part("top")
        sleeve = SLEEVES.get(top.kind, "long")
        c.oval(*hand, 0.021, 0.024, skin, 0)
        c.limb([shoulder, elbow, hand], [0.03 * k, 0.024 * k, 0.018], skin, 0)
        if sleeve == "short":
            c.limb([shoulder, _between(shoulder, elbow, 0.72)], [0.036 * k, 0.037 * k], colour, part)
        elif sleeve == "long":
            c.limb([shoulder, elbow, _between(elbow, hand, 0.86)], [0.037 * k, 0.034 * k, 0.028], colour, part)
            c.line([_between(elbow, hand, 0.7), _between(elbow, hand, 0.86)], edge(colour), part, 0.012)
        if not self.side:
            c.line(
                [
                    (shoulder[0] - (0.03 if n == 1 else -0.03), shoulder[1] + 0.045),
                    (s.hip[0] * 0.3 + shoulder[0] * 0.62, shoulder[1] + 0.14),
                ],
                edge(colour),
                part,
                0.006,
            )

    def head(self) -> None:
        """Head, face and hair."""
        s, c, style = self.s, self.c, self.person.hair_style
        (x, y), hair, skin, part = s.head, HAIR_RGB[self.person.hair_colour], self.skin, self.part("hair")
        bald = style == "bald"
        if style == "long" and not self.back:
            shape = (
                [(-0.062, -0.03), (0.062, -0.03), (0.074, 0.12), (-0.074, 0.12)]
                if not self.side
                else [(-0.07, -0.03), (0.02, -0.04), (0.0, 0.06), (-0.02, 0.15), (-0.085, 0.14)]
            )
            c.poly([(x + dx, y + dy) for dx, dy in shape], hair, part)
        if style == "bun":
            c.oval(x - (0.058 if self.side else 0), y - (0.035 if self.side else 0.085), 0.032, 0.03, hair, part)
        c.oval(x, y, 0.055, 0.072, skin, 0)
        if self.back:
            if not bald:
                c.oval(x, y - 0.006, 0.06, 0.075, hair, part)
                if style == "long":
                    c.poly([(x - 0.058, y), (x + 0.058, y), (x + 0.075, y + 0.15), (x - 0.075, y + 0.15)], hair, part)
            return
        if self.side:
            c.poly([(x + 0.045, y), (x + 0.07, y + 0.022), (x + 0.046, y + 0.032)], skin, 0, outline=False)
            c.oval(x + 0.033, y - 0.002, 0.007, 0.007, (40, 28, 24), 0, outline=False)
            c.line([(x + 0.03, y + 0.042), (x + 0.05, y + 0.042)], (170, 50, 60), 0, 0.009)
            if not bald:
                c.poly(
                    [
                        (x + 0.046, y - 0.045),
                        (x + 0.01, y - 0.078),
                        (x - 0.045, y - 0.07),
                        (x - 0.068, y - 0.02),
                        (x - 0.06, y + 0.045),
                        (x - 0.022, y + 0.05),
                        (x - 0.01, y - 0.02),
                    ],
                    hair,
                    part,
                )
            return
        for sign in (-1, 1):
            c.oval(x + sign * 0.021, y, 0.0075, 0.0065, (40, 28, 24), 0, outline=False)
        c.line([(x - 0.015, y + 0.04), (x + 0.015, y + 0.04)], (170, 50, 60), 0, 0.009)
        if not bald:
            c.poly(
                [
                    (x - 0.062, y + 0.005),
                    (x - 0.056, y - 0.05),
                    (x - 0.02, y - 0.08),
                    (x + 0.02, y - 0.08),
                    (x + 0.056, y - 0.05),
                    (x + 0.062, y + 0.005),
                    (x + 0.04, y - 0.032),
                    (x - 0.04, y - 0.032),
                ],
                hair,
                part,
            )
            if style == "long":
                for sign in (-1, 1):
                    c.poly(
                        [
                            (x + sign * 0.06, y - 0.03),
                            (x + sign * 0.04, y - 0.02),
                            (x + sign * 0.048, y + 0.12),
                            (x + sign * 0.078, y + 0.12),
                        ],
                        hair,
                        part,
                    )
