"""Bags, hats and other things, drawn at their place."""

from __future__ import annotations

import math

from dataset_pvlg.synthetic.canvas import RGB, Canvas, Colour, Point, edge, tint
from dataset_pvlg.synthetic.identities import TYPES, Thing
from dataset_pvlg.synthetic.placing import Place
from dataset_pvlg.synthetic.poses import Skeleton

METAL = (120, 122, 128)
RUBBER = (40, 40, 44)


def is_behind(thing: Thing, place: Place, view: str) -> bool:
    """Whether a thing is drawn before the person."""
    if thing.kind in ("bicycle", "pushchair"):
        return view != "front"
    if place.where == "overhead":
        return True
    return thing.kind == "backpack" and place.where == "back" and view == "side"


def draw_thing(c: Canvas, thing: Thing, place: Place, s: Skeleton, part: int, bag: Point | None = None) -> Point | None:
    """Draws a thing that is no garment of the body. Its pattern is added later.

    Args:
        c: the canvas.
        thing: the thing.
        place: its place.
        s: the joints of the person.
        part: region number.
        bag: top of the person's bag, for a scarf that hangs on it.

    Returns:
        The middle of the top edge of a bag; None for other things.
    """
    colour = RGB[thing.colour]
    hand = s.hands[place.limb or 0]
    kind = TYPES[thing.kind]
    if kind == "hat":
        if place.where == "worn":
            _hat(c, thing.kind, s.head[0], s.head[1] - 0.03, s.view, colour, part)
        else:
            _hat(c, thing.kind, hand[0], hand[1] + 0.06, "front", colour, part)
    elif kind == "bag":
        return _bag(c, thing.kind, place, s, colour, part)
    elif thing.kind == "scarf":
        _scarf(c, place, s, bag, colour, part)
    elif thing.kind == "jacket":
        _spare_jacket(c, place, s, colour, part)
    elif thing.kind == "umbrella":
        _umbrella(c, place, hand, colour, part)
    elif thing.kind == "suitcase":
        x = (
            hand[0] + (0.05 if s.view == "side" else 0.05 * (1 if hand[0] > s.hip[0] else -1))
            if place.where == "hand"
            else s.hip[0] + place.x
        )
        top = min(-0.24, hand[1] + 0.1) if place.where == "hand" else -0.26
        top = max(top, -0.34)
        if place.where == "hand":
            c.line([hand, (x, top)], METAL, part, 0.012)
        c.rect(x - 0.075, top, x + 0.075, -0.02, colour, part)
        c.line([(x - 0.075, top * 0.5), (x + 0.075, top * 0.5)], edge(colour), part, 0.01)
        for dx in (-0.055, 0.055):
            c.oval(x + dx, -0.012, 0.014, 0.014, RUBBER, part)
    elif thing.kind == "pushchair":
        _pushchair(c, place, s, colour, part)
    elif thing.kind == "bicycle":
        _bicycle(c, place, s, colour, part)
    elif thing.kind == "dog":
        _dog(c, s.hip[0] + place.x, 1 if place.x > 0 else -1, colour, part)
    return None


def _hat(c: Canvas, kind: str, x: float, y: float, view: str, colour: Colour, part: int) -> None:
    dark = tint(colour, 0.78) if sum(colour) > 190 else (58, 58, 64)
    dome = [
        (x - 0.066, y + 0.012),
        (x - 0.06, y - 0.03),
        (x - 0.03, y - 0.062),
        (x + 0.03, y - 0.062),
        (x + 0.06, y - 0.03),
        (x + 0.066, y + 0.012),
    ]
    if kind == "cap":
        c.poly(dome, colour, part)
        if view == "side":
            c.poly(
                [(x + 0.04, y - 0.004), (x + 0.125, y + 0.012), (x + 0.125, y + 0.024), (x + 0.04, y + 0.016)],
                dark,
                part,
            )
        elif view == "front":
            c.poly(
                [(x - 0.06, y + 0.004), (x + 0.06, y + 0.004), (x + 0.07, y + 0.026), (x - 0.07, y + 0.026)], dark, part
            )
    elif kind == "beanie":
        c.poly([(px, py - 0.012) for px, py in dome], colour, part)
        c.rect(x - 0.068, y - 0.018, x + 0.068, y + 0.016, dark, part)
        c.oval(x, y - 0.085, 0.022, 0.022, dark, part)
    else:
        c.poly([(x - 0.056, y), (x - 0.046, y - 0.07), (x + 0.046, y - 0.07), (x + 0.056, y)], colour, part)
        c.poly(
            [
                (x - 0.125, y + 0.012),
                (x - 0.06, y - 0.008),
                (x + 0.06, y - 0.008),
                (x + 0.125, y + 0.012),
                (x, y + 0.022),
            ],
            colour,
            part,
        )
        c.line([(x - 0.056, y - 0.008), (x + 0.056, y - 0.008)], dark, part, 0.014)


def _bag(c: Canvas, kind: str, place: Place, s: Skeleton, colour: Colour, part: int) -> Point:
    hand, sign = s.hands[place.limb or 0], (-1, 1)[place.limb or 0]
    (nx, ny), (hx, hy) = s.neck, s.hip
    strap = edge(colour)
    if kind == "backpack":
        if place.where == "back" and s.view == "side":
            x, y = (nx * 0.7 + hx * 0.3) - 0.1, ny * 0.7 + hy * 0.3
            c.poly(
                [(x - 0.05, y - 0.07), (x + 0.05, y - 0.09), (x + 0.06, y + 0.13), (x - 0.06, y + 0.13)], colour, part
            )
            return x, y - 0.06
        if place.where in ("back", "chest"):
            forward = 0.09 if s.view == "side" else 0.0
            x, y = nx * 0.65 + hx * 0.35 + forward, ny * 0.65 + hy * 0.35
            w = 0.05 if s.view == "side" else 0.078
            for dx in (-w * 0.8, w * 0.8):
                c.line([(x + dx * 0.8, ny + 0.01), (x + dx, y - 0.06)], strap, part, 0.018)
            c.poly(
                [(x - w * 0.86, y - 0.09), (x + w * 0.86, y - 0.09), (x + w, y + 0.12), (x - w, y + 0.12)], colour, part
            )
            c.line([(x - w * 0.7, y + 0.05), (x + w * 0.7, y + 0.05)], strap, part, 0.01)
            return x, y - 0.06
        x, y = (hand[0], hand[1] + 0.03) if place.where == "hand" else (hx + place.x, -0.19)
        c.line([(x - 0.02, y + 0.01), (x, y - 0.03), (x + 0.02, y + 0.01)], strap, part, 0.014)
        c.poly([(x - 0.06, y), (x + 0.06, y), (x + 0.072, y + 0.18), (x - 0.072, y + 0.18)], colour, part)
        c.line([(x - 0.05, y + 0.11), (x + 0.05, y + 0.11)], strap, part, 0.01)
    elif kind == "shoulder bag":
        if place.where == "ground":
            x, y = hx + place.x, -0.12
            c.line([(x - 0.07, y), (x - 0.03, y - 0.07), (x + 0.05, y - 0.06), (x + 0.07, y)], strap, part, 0.012)
        elif place.where == "across":
            x, y = hx + sign * (0.03 if s.view == "side" else 0.08), hy - 0.02
            start = (nx - sign * (0.01 if s.view == "side" else 0.055), ny + 0.015)
            c.line([start, (x, y)], strap, part, 0.016)
        else:
            n = 1 if s.view == "side" else place.limb or 0
            shoulder = s.shoulders[n]
            x, y = shoulder[0] + (0 if s.view == "side" else sign * 0.025), shoulder[1] + 0.13
            c.line([(x - 0.03, y), (shoulder[0], shoulder[1] - 0.02), (x + 0.03, y)], strap, part, 0.013)
        c.poly([(x - 0.078, y), (x + 0.078, y), (x + 0.072, y + 0.115), (x - 0.072, y + 0.115)], colour, part)
        c.line([(x - 0.076, y + 0.035), (x + 0.076, y + 0.035)], strap, part, 0.01)
    else:
        if place.where == "ground":
            x, y = hx + place.x, -0.125
        elif place.where == "elbow":
            elbow = s.elbows[place.limb or 0]
            x, y = elbow[0], elbow[1] + 0.045
        else:
            x, y = hand[0], hand[1] + 0.05
        c.line(
            [(x - 0.04, y + 0.01), (x - 0.025, y - 0.05), (x + 0.025, y - 0.05), (x + 0.04, y + 0.01)],
            strap,
            part,
            0.013,
        )
        c.poly([(x - 0.055, y), (x + 0.055, y), (x + 0.08, y + 0.12), (x - 0.08, y + 0.12)], colour, part)
    return x, y + 0.01


def _scarf(c: Canvas, place: Place, s: Skeleton, bag: Point | None, colour: Colour, part: int) -> None:
    if place.where == "neck":
        x, y = s.neck
        x += 0.012 if s.view == "side" else 0
        c.limb([(x - 0.055, y - 0.012), (x, y + 0.006), (x + 0.055, y - 0.012)], [0.024, 0.03, 0.024], colour, part)
        if s.view != "back":
            dx = 0.03 if s.view == "side" else 0.026 * (1 if (place.limb or 0) else -1)
            c.poly(
                [(x + dx - 0.024, y), (x + dx + 0.024, y), (x + dx + 0.036, y + 0.17), (x + dx - 0.016, y + 0.17)],
                colour,
                part,
            )
        else:
            c.poly([(x - 0.025, y), (x + 0.025, y), (x + 0.03, y + 0.14), (x - 0.03, y + 0.14)], colour, part)
    elif bag is not None:
        x, y = bag
        c.limb([(x - 0.04, y), (x + 0.04, y)], [0.022, 0.022], colour, part)
        c.poly([(x + 0.01, y), (x + 0.055, y), (x + 0.065, y + 0.15), (x + 0.015, y + 0.15)], colour, part)


def _spare_jacket(c: Canvas, place: Place, s: Skeleton, colour: Colour, part: int) -> None:
    dark = edge(colour)
    if place.where == "arm":
        (ex, ey), (hx, hy) = s.elbows[place.limb or 0], s.hands[place.limb or 0]
        x0, x1 = min(ex, hx) - 0.025, max(ex, hx) + 0.015
        if x1 - x0 < 0.12:
            x0, x1 = (x0 + x1) / 2 - 0.065, (x0 + x1) / 2 + 0.065
        y = (ey + hy) / 2
        c.poly([(x0, y - 0.035), (x1, y - 0.035), (x1 + 0.012, y + 0.2), (x0 - 0.012, y + 0.18)], colour, part)
        c.line([((x0 + x1) / 2, y), ((x0 + x1) / 2 + 0.012, y + 0.19)], dark, part, 0.01)
    else:
        x, y = s.hip
        y -= 0.035
        w = 0.075 if s.view == "side" else 0.095
        if s.view == "front":
            for sign in (-1, 1):
                c.poly(
                    [
                        (x + sign * 0.015, y + 0.02),
                        (x + sign * w, y - 0.02),
                        (x + sign * w, y + 0.025),
                        (x + sign * 0.075, y + 0.16),
                        (x + sign * 0.035, y + 0.17),
                    ],
                    colour,
                    part,
                )
            c.oval(x, y + 0.02, 0.03, 0.026, colour, part)
        else:
            shift = -0.03 if s.view == "side" else 0.0
            c.poly(
                [
                    (x - w, y - 0.02),
                    (x + w, y - 0.02),
                    (x + w * 0.95 + shift, y + 0.02),
                    (x + w * 0.9 + shift, y + 0.2),
                    (x - w + shift, y + 0.21),
                ],
                colour,
                part,
            )
            c.line([(x - w, y), (x + w, y)], dark, part, 0.02)


def _umbrella(c: Canvas, place: Place, hand: Point, colour: Colour, part: int) -> None:
    x, y = hand
    if place.where == "overhead":
        top = y - 0.2
        c.line([(x, y + 0.03), (x, top - 0.02)], METAL, part, 0.014)
        arc = [(x + 0.25 * math.cos(a), top + 0.03 - 0.15 * math.sin(a)) for a in [math.pi * n / 10 for n in range(11)]]
        c.poly([*arc, (x - 0.13, top + 0.01), (x, top + 0.03), (x + 0.13, top + 0.01)], colour, part)
        for end in (-0.12, 0.0, 0.12):
            c.line([(x, top - 0.12), (x + end, top + 0.015)], edge(colour), part, 0.006)
        c.line([(x, top - 0.12), (x, top - 0.16)], METAL, part, 0.012)
    else:
        low = min(-0.01, y + 0.3)
        c.poly(
            [
                (x - 0.022, y + 0.02),
                (x + 0.022, y + 0.02),
                (x + 0.034, y + 0.1),
                (x + 0.006, low),
                (x - 0.006, low),
                (x - 0.034, y + 0.1),
            ],
            colour,
            part,
        )
        c.line([(x, y - 0.04), (x, y + 0.03)], METAL, part, 0.016)


def _pushchair(c: Canvas, place: Place, s: Skeleton, colour: Colour, part: int) -> None:
    dark = edge(colour)
    if s.view == "side":
        x, hand = s.hip[0] + place.x + 0.06, s.hands[1]
        c.line([hand, (x + 0.05, -0.1)], METAL, part, 0.014)
        c.line([(x - 0.12, -0.06), (x + 0.1, -0.16)], METAL, part, 0.014)
        c.poly([(x - 0.12, -0.3), (x + 0.13, -0.2), (x + 0.14, -0.12), (x - 0.06, -0.12)], colour, part)
        c.poly(
            [(x - 0.14, -0.28), (x - 0.12, -0.42), (x - 0.02, -0.44), (x + 0.05, -0.36), (x - 0.02, -0.29)],
            tint(colour, 0.82) if sum(colour) > 190 else (60, 60, 66),
            part,
        )
        wheels = (x - 0.1, x + 0.11)
    else:
        x = s.hip[0]
        c.line([s.hands[0], (x - 0.1, -0.3), (x + 0.1, -0.3), s.hands[1]], METAL, part, 0.014)
        c.poly([(x - 0.11, -0.3), (x + 0.11, -0.3), (x + 0.12, -0.1), (x - 0.12, -0.1)], colour, part)
        c.poly(
            [(x - 0.11, -0.28), (x - 0.09, -0.38), (x + 0.09, -0.38), (x + 0.11, -0.28)],
            tint(colour, 0.82) if sum(colour) > 190 else (60, 60, 66),
            part,
        )
        c.line([(x - 0.11, -0.2), (x + 0.11, -0.2)], dark, part, 0.008)
        wheels = (x - 0.12, x + 0.12)
    for wx in wheels:
        c.oval(wx, -0.045, 0.045, 0.045, RUBBER, part)
        c.oval(wx, -0.045, 0.02, 0.02, METAL, part)


def _bicycle(c: Canvas, place: Place, s: Skeleton, colour: Colour, part: int) -> None:
    if place.where == "ridden":
        x, seat, bar = s.hip[0], (s.hip[0], s.hip[1] + 0.03), s.hands[1]
    else:
        x = s.hip[0] + place.x
        seat, bar = (x - 0.08, -0.4), (x + 0.16, -0.45)
    rear, front, crank = (x - 0.2, -0.16), (x + 0.3, -0.16), (x + 0.02, -0.15)
    for wx, wy in (rear, front):
        spot, r = c.at([(wx, wy)])[0], 0.155 * c.scale
        box = (spot[0] - r, spot[1] - r, spot[0] + r, spot[1] + r)
        c.draw.ellipse(box, outline=(*RUBBER, part), width=max(2, round(0.02 * c.scale)))
        c.line([(wx - 0.14, wy), (wx + 0.14, wy)], METAL, part, 0.004)
        c.line([(wx, wy - 0.14), (wx, wy + 0.14)], METAL, part, 0.004)
    neck = (x + 0.22, -0.4)
    for line in ([rear, crank, neck], [rear, (seat[0], seat[1] * 0.8), neck], [crank, seat], [front, neck, bar]):
        c.line(line, colour, part, 0.03)
    c.line([(seat[0] - 0.05, seat[1]), (seat[0] + 0.05, seat[1])], RUBBER, part, 0.024)
    c.drawn[part] = c.drawn.get(part, 0.0) + 0.08 * c.scale**2


def _dog(c: Canvas, x: float, sign: int, colour: Colour, part: int) -> None:
    y = -0.16
    for dx in (-0.09, -0.055, 0.06, 0.09):
        c.limb(
            [(x + sign * dx, y), (x + sign * dx, -0.012)],
            [0.017, 0.013],
            tint(colour, 0.85) if sum(colour) > 190 else colour,
            part,
        )
    c.limb([(x - sign * 0.09, y), (x + sign * 0.09, y - 0.01)], [0.05, 0.055], colour, part)
    c.limb([(x - sign * 0.13, y - 0.02), (x - sign * 0.18, y - 0.09)], [0.014, 0.008], colour, part)
    c.limb([(x + sign * 0.1, y - 0.03), (x + sign * 0.14, y - 0.09)], [0.036, 0.042], colour, part)
    c.limb([(x + sign * 0.15, y - 0.09), (x + sign * 0.2, y - 0.075)], [0.03, 0.018], colour, part)
    c.poly([(x + sign * 0.12, y - 0.12), (x + sign * 0.135, y - 0.17), (x + sign * 0.16, y - 0.12)], edge(colour), part)
    c.oval(
        x + sign * 0.158,
        y - 0.1,
        0.006,
        0.006,
        (250, 250, 250) if sum(colour) < 190 else (20, 20, 20),
        part,
        outline=False,
    )
