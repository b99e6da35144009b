"""Bags, carried items, and objects that occlude the person."""

from __future__ import annotations

import numpy as np

from dataset_pvlg.synthetic_v1.draw_body import SHOULDER, Body
from dataset_pvlg.synthetic_v1.draw_canvas import (
    BAG,
    BAG_DETAIL,
    COLOURS,
    ITEM,
    ITEM_DETAIL,
    OCCLUDER,
    Canvas,
    Colour,
    edge,
    tint,
)  # fmt: skip

METAL = (188, 190, 196)


def bag_arm(body: Body) -> int:
    """The arm on the side of the bag, numbered as in `Body.leg`."""
    side = body.person.bag_side or "left"
    if body.side:
        return 1 if side == body.orientation else -1
    return body.sign(side)


def item_arm(body: Body) -> int:
    """The arm that holds the carried item. It never holds the bag."""
    if body.person.bag_type in ("handbag", "suitcase", "shoulder bag"):
        return -bag_arm(body)
    return 1 if body.side else body.sign("right" if body.trait >> 5 & 1 else "left")


def holds(body: Body) -> dict[int, str]:
    """arm -> "down" (holds something heavy), "up" (holds something before the chest) or ""."""
    hold = {1: "", -1: ""}
    if body.person.bag_type in ("handbag", "suitcase"):
        hold[bag_arm(body)] = "down"
    if body.person.carried:
        hold[item_arm(body)] = "up" if body.person.carried in ("phone", "book") and not body.back else "down"
    return hold


def _cloth(body: Body) -> tuple[Colour, Colour, Colour]:
    colour = body.shade(COLOURS[body.person.bag_colour])
    return colour, edge(colour), tint(colour, 0.78) if sum(colour) > 190 else (58, 58, 64)


def draw_bag_behind(canvas: Canvas, body: Body) -> None:
    """Draws what is behind the person: a backpack in a front or side view, or a bag at the far side."""
    kind = body.person.bag_type
    if kind == "backpack" and not body.back:
        colour, _, dark = _cloth(body)
        if body.side:
            back = body.edges(0.3)[0]
            canvas.poly([(back + 0.03, 0.2), (back - 0.06, 0.205), (back - 0.094, 0.26), (back - 0.1, 0.44),
                (back - 0.07, 0.475), (back + 0.03, 0.475)],
                        colour, BAG)  # fmt: skip
            canvas.poly(
                [(back - 0.065, 0.33), (back - 0.118, 0.345), (back - 0.118, 0.45), (back - 0.065, 0.46)],
                dark,
                BAG_DETAIL,
            )
        else:
            w = body.shoulder * 0.92 + 0.012
            canvas.poly(
                [(-w, 0.23), (-w + 0.02, 0.2), (w - 0.02, 0.2), (w, 0.23), (w + 0.006, 0.44), (-w - 0.006, 0.44)],
                colour,
                BAG_DETAIL,
            )
    elif kind in ("handbag", "suitcase") and body.side and bag_arm(body) == -1:
        _hand_bag(canvas, body, kind, -1)


def draw_straps(canvas: Canvas, body: Body) -> None:
    """Draws straps over the trunk. The arms are drawn later."""
    kind = body.person.bag_type
    if not kind:
        return
    colour, line, dark = _cloth(body)
    if kind == "backpack" and not body.back:
        if body.side:
            front = body.edges(0.27)[1]
            canvas.line([(-0.05, SHOULDER - 0.006), (front * 0.5, SHOULDER + 0.02), (front * 0.78, 0.29),
                (front * 0.3, 0.38), (-0.05, 0.42)], line,
                        BAG_DETAIL, 0.034)  # fmt: skip
            canvas.line([(-0.05, SHOULDER - 0.006), (front * 0.5, SHOULDER + 0.02), (front * 0.78, 0.29),
                (front * 0.3, 0.38), (-0.05, 0.42)], colour,
                        BAG, 0.026)  # fmt: skip
        else:
            for s in (-1, 1):
                x = body.shoulder * 0.62
                spots = [
                    (s * (x - 0.02), SHOULDER - 0.018),
                    (s * (x + 0.014), SHOULDER - 0.012),
                    (s * (x + 0.022), 0.34),
                    (s * (x + 0.03), 0.43),
                ]
                spots += [(s * (x - 0.004), 0.43), (s * (x - 0.014), 0.34)]
                canvas.poly(spots, colour, BAG)
                canvas.rect(
                    min(s * (x - 0.016), s * (x + 0.022)),
                    0.33,
                    max(s * (x - 0.016), s * (x + 0.022)),
                    0.345,
                    METAL,
                    BAG_DETAIL,
                )
    elif kind == "shoulder bag":
        which = bag_arm(body)
        if body.side:
            if which == 1:
                canvas.line([(0.0, SHOULDER - 0.012), (0.02, 0.34), (0.012, 0.46)], dark, BAG_DETAIL, 0.022)
            return
        start, end = -which * body.shoulder * 0.6, which * (body.hip + 0.012)
        canvas.line([(start, SHOULDER - 0.014), (end, 0.475)], line, BAG_DETAIL, 0.032)
        canvas.line([(start, SHOULDER - 0.014), (end, 0.475)], colour, BAG_DETAIL, 0.024)


def draw_bag(canvas: Canvas, body: Body) -> None:
    """Draws the bag in front of the person."""
    kind = body.person.bag_type
    if not kind:
        return
    colour, line, dark = _cloth(body)
    which = bag_arm(body)
    if kind == "backpack" and body.back:
        w = min(body.shoulder * 0.9, 0.1)
        canvas.line([(-0.025, 0.205), (-0.02, 0.18), (0.02, 0.18), (0.025, 0.205)], dark, BAG_DETAIL, 0.014)
        canvas.poly(
            [
                (-w * 0.7, 0.2),
                (w * 0.7, 0.2),
                (w, 0.25),
                (w, 0.45),
                (w * 0.86, 0.475),
                (-w * 0.86, 0.475),
                (-w, 0.45),
                (-w, 0.25),
            ],
            colour,
            BAG,
        )
        canvas.line(
            [(-w * 0.8, 0.275), (-w * 0.6, 0.235), (w * 0.6, 0.235), (w * 0.8, 0.275)], METAL, BAG_DETAIL, 0.007
        )
        canvas.rect(-w * 0.72, 0.34, w * 0.72, 0.455, dark, BAG_DETAIL)
        canvas.line([(-w * 0.62, 0.362), (w * 0.62, 0.362)], METAL, BAG_DETAIL, 0.007)
    elif kind == "shoulder bag" and (not body.side or which == 1):
        x = 0.004 if body.side else which * (body.hip + 0.02)
        half = 0.072 if body.side else 0.056
        canvas.poly(
            [(x - half, 0.465), (x + half, 0.465), (x + half * 1.04, 0.585), (x - half * 1.04, 0.585)], colour, BAG
        )
        canvas.poly(
            [(x - half, 0.465), (x + half, 0.465), (x + half * 0.9, 0.525), (x, 0.54), (x - half * 0.9, 0.525)],
            dark,
            BAG_DETAIL,
        )
        canvas.oval(x, 0.53, 0.009, 0.009, METAL, BAG_DETAIL)
    elif kind in ("handbag", "suitcase") and (not body.side or which == 1):
        _hand_bag(canvas, body, kind, which)


def _hand_bag(canvas: Canvas, body: Body, kind: str, which: int) -> None:
    colour, line, dark = _cloth(body)
    x, y = body.hand_arm(which, "down")[2]
    if kind == "handbag":
        half = 0.066 if body.side else 0.052
        canvas.line([(x - half * 0.6, y + 0.07), (x - half * 0.36, y + 0.006), (x + half * 0.36, y + 0.006),
            (x + half * 0.6, y + 0.07)], dark, BAG_DETAIL,
                    0.013)  # fmt: skip
        canvas.poly(
            [
                (x - half * 0.82, y + 0.06),
                (x + half * 0.82, y + 0.06),
                (x + half * 1.12, y + 0.165),
                (x - half * 1.12, y + 0.165),
            ],
            colour,
            BAG,
        )
        canvas.line([(x - half * 0.85, y + 0.085), (x + half * 0.85, y + 0.085)], line, BAG_DETAIL, 0.006)
        canvas.oval(x, y + 0.09, 0.009, 0.009, (222, 184, 84), BAG_DETAIL)
        return
    out = x - 0.07 if body.side else x + which * 0.022
    half = 0.068 if body.side else 0.062
    for s in (-1, 1):
        canvas.line([(x + s * 0.014, y), (out + s * 0.022, 0.705)], METAL, BAG_DETAIL, 0.01)
    canvas.line([(x - 0.022, y + 0.004), (x + 0.022, y + 0.004)], (60, 60, 66), BAG_DETAIL, 0.016)
    canvas.poly([(out - half, 0.71), (out - half * 0.85, 0.698), (out + half * 0.85, 0.698), (out + half, 0.71),
        (out + half, 0.968), (out - half, 0.968)],
                colour, BAG)  # fmt: skip
    for n in (-0.5, 0.0, 0.5):
        canvas.line([(out + n * half, 0.72), (out + n * half, 0.955)], line, BAG_DETAIL, 0.007)
    for s in (-1, 1):
        canvas.oval(out + s * half * 0.7, 0.978, 0.014, 0.014, (30, 30, 32), BAG_DETAIL)


def draw_item(canvas: Canvas, body: Body) -> None:
    """Draws the carried item. In a back view the body hides a phone or a book."""
    kind = body.person.carried
    if not kind or body.back and kind in ("phone", "book"):
        return
    colour = body.shade(COLOURS[body.person.carried_colour])
    which = item_arm(body)
    x, y = body.hand_arm(which, holds(body)[which])[2]
    draw = {"phone": _phone, "book": _book, "bottle": _bottle, "umbrella": _umbrella}[kind]
    draw(canvas, body, colour, x, y, which)


def _phone(canvas: Canvas, body: Body, colour: Colour, x: float, y: float, which: int) -> None:
    x, y = x + (0.012 if body.side else 0.0), y - 0.036
    canvas.poly(
        [(x - 0.024, y - 0.046), (x + 0.024, y - 0.046), (x + 0.024, y + 0.042), (x - 0.024, y + 0.042)],
        (206, 210, 216),
        ITEM,
    )
    canvas.rect(x - 0.018, y - 0.04, x + 0.018, y + 0.036, (18, 18, 22), ITEM_DETAIL, outline=False)
    canvas.oval(x - 0.008, y - 0.028, 0.006, 0.006, (120, 170, 220), ITEM_DETAIL)
    canvas.oval(x, y + 0.04, 0.02, 0.014, body.skin, ITEM_DETAIL)


def _book(canvas: Canvas, body: Body, colour: Colour, x: float, y: float, which: int) -> None:
    line = edge(colour)
    x, y = x - (0.0 if body.side else which * 0.008), y - 0.022
    canvas.poly(
        [(x - 0.054, y - 0.062), (x + 0.056, y - 0.062), (x + 0.056, y + 0.066), (x - 0.054, y + 0.066)],
        (246, 243, 230),
        ITEM,
    )
    canvas.rect(x - 0.058, y - 0.066, x + 0.046, y + 0.06, colour, ITEM_DETAIL)
    canvas.line([(x - 0.044, y - 0.066), (x - 0.044, y + 0.06)], line, ITEM_DETAIL, 0.006)
    label = (250, 246, 230) if sum(colour) < 560 else (70, 70, 80)
    canvas.line([(x - 0.026, y - 0.03), (x + 0.03, y - 0.03)], label, ITEM_DETAIL, 0.009)
    canvas.line([(x - 0.026, y - 0.012), (x + 0.018, y - 0.012)], label, ITEM_DETAIL, 0.007)
    canvas.oval(x + 0.006, y + 0.056, 0.022, 0.014, body.skin, ITEM_DETAIL)


def _bottle(canvas: Canvas, body: Body, colour: Colour, x: float, y: float, which: int) -> None:
    canvas.poly([(x - 0.025, y - 0.015), (x - 0.011, y - 0.04), (x + 0.011, y - 0.04), (x + 0.025, y - 0.015),
        (x + 0.025, y + 0.088),
                 (x - 0.025, y + 0.088)], colour, ITEM)  # fmt: skip
    canvas.rect(
        x - 0.014,
        y - 0.058,
        x + 0.014,
        y - 0.038,
        (236, 236, 240) if sum(colour) < 560 else (60, 110, 190),
        ITEM_DETAIL,
    )
    canvas.rect(
        x - 0.025,
        y + 0.036,
        x + 0.025,
        y + 0.06,
        (238, 240, 244) if sum(colour) < 560 else (120, 150, 190),
        ITEM_DETAIL,
    )
    canvas.oval(x, y + 0.01, 0.03, 0.015, body.skin, ITEM_DETAIL)


def _umbrella(canvas: Canvas, body: Body, colour: Colour, x: float, y: float, which: int) -> None:
    line, dark = edge(colour), tint(colour, 0.78) if sum(colour) > 190 else (60, 60, 66)
    hook = [(x + 0.03, y - 0.045), (x + 0.03, y - 0.065), (x + 0.015, y - 0.078), (x, y - 0.065), (x, y + 0.06)]
    canvas.line(hook, (126, 84, 46), ITEM_DETAIL, 0.015)
    canvas.poly([(x - 0.016, y + 0.04), (x + 0.016, y + 0.04), (x + 0.032, y + 0.15), (x + 0.024, y + 0.3),
        (x, y + 0.37), (x - 0.024, y + 0.3),
                 (x - 0.032, y + 0.15)], colour, ITEM)  # fmt: skip
    for s in (-0.5, 0.0, 0.5):
        canvas.line([(x + s * 0.02, y + 0.05), (x + s * 0.05, y + 0.16), (x, y + 0.365)], line, ITEM_DETAIL, 0.005)
    canvas.line([(x - 0.03, y + 0.16), (x + 0.03, y + 0.145)], dark, ITEM_DETAIL, 0.014)
    canvas.line([(x, y + 0.36), (x, y + 0.4)], METAL, ITEM_DETAIL, 0.01)


def draw_occluder(canvas: Canvas, kind: str, rng: np.random.Generator) -> None:
    """Draws an object between camera and person.

    Args:
        canvas: a canvas of the size of the crop; its origin is changed.
        kind: pole, box, bush, arm or car.
        rng: random generator of position, size and colour.
    """
    width, height = canvas.size
    red, green, blue = (int(c) for c in rng.integers(40, 210, 3))
    base = red, green, blue
    canvas.set_origin(0, 0, height, 1)
    u, side = width / height, bool(rng.random() < 0.5)

    def flip(x: float) -> float:
        return x * u if side else (1 - x) * u

    if kind == "pole":
        x, w = rng.uniform(0.2, 0.8) * u, rng.uniform(0.035, 0.055) * u
        grey = tint((150, 152, 158), rng.uniform(0.5, 1.1))
        canvas.rect(x - w, 0, x + w, 1, grey, OCCLUDER)
        canvas.line([(x - w * 0.4, 0), (x - w * 0.4, 1)], tint(grey, 1.3), OCCLUDER, 0.006)
    elif kind == "box":
        y, x = rng.uniform(0.72, 0.84), rng.uniform(0.3, 0.48)
        canvas.poly([(flip(-0.1), y), (flip(x), y), (flip(x), 1), (flip(-0.1), 1)], base, OCCLUDER)
        canvas.line([(flip(0), y + 0.05), (flip(x), y + 0.05)], edge(base), OCCLUDER, 0.008)
    elif kind == "bush":
        for _ in range(9):
            x, y = flip(rng.uniform(0.05, 0.45)), rng.uniform(0.78, 1.0)
            canvas.oval(
                x,
                y,
                rng.uniform(0.03, 0.06),
                rng.uniform(0.03, 0.05),
                tint((70, 130, 56), rng.uniform(0.6, 1.1)),
                OCCLUDER,
                outline=False,
            )
    elif kind == "arm":
        canvas.limb([(flip(0.02), 0.2), (flip(0.12), 0.45), (flip(0.16), 0.66)], [0.05, 0.04, 0.03], base, OCCLUDER)
        canvas.oval(flip(0.165), 0.69, 0.022, 0.03, (214, 170, 140), OCCLUDER)
    else:
        y = rng.uniform(0.76, 0.84)
        canvas.poly(
            [(flip(-0.1), y), (flip(0.3), y + 0.01), (flip(0.42), y + 0.08), (flip(0.46), 1), (flip(-0.1), 1)],
            base,
            OCCLUDER,
        )
        canvas.oval(flip(0.37), y + 0.1, 0.014, 0.014, (250, 240, 190), OCCLUDER)
        canvas.oval(flip(0.12), 0.985, 0.05, 0.05, (24, 24, 26), OCCLUDER)
