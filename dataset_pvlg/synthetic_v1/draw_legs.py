"""Lower garments, bare legs and shoes."""

from __future__ import annotations

from dataset_pvlg.synthetic_v1.draw_body import HIP, Body
from dataset_pvlg.synthetic_v1.draw_canvas import (
    COLOURS,
    DENIM,
    LEG,
    LOWER,
    LOWER_DETAIL,
    SHOE,
    SHOE_DETAIL,
    Canvas,
    Colour,
    Point,
    edge,
    tint,
)  # fmt: skip

STITCH = (226, 168, 84)
# Half-widths at hip, knee and ankle, relative to the thigh.
_FIT = {"pants": (1.06, 0.84, 0.8), "jeans": (1.0, 0.7, 0.6), "leggings": (0.92, 0.55, 0.4)}


def draw_legs(canvas: Canvas, body: Body) -> None:
    """Draws both legs with garment and shoes, the rear leg first."""
    first = 1 if body.step > 0 and not body.side else -1
    for which in (first, -first):
        far = body.side and which == -1
        _leg(canvas, body, which, 0.76 if far else 1.0)
        _shoe(canvas, body, which, 0.8 if far else 1.0)
    kind = body.person.lower_type
    if kind:
        _hips(canvas, body, kind, _cloth(body))


def _cloth(body: Body) -> Colour:
    table = DENIM if body.person.lower_type == "jeans" else COLOURS
    return body.shade(table[body.person.lower_colour])


def _between(a: Point, b: Point, t: float) -> Point:
    return a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t


def _leg(canvas: Canvas, body: Body, which: int, shade: float) -> None:
    hip, knee, ankle = body.leg(which)
    kind, t = body.person.lower_type, body.thigh
    if kind in _FIT:
        colour = tint(_cloth(body), shade)
        wide = [t * f for f in _FIT[kind]]
        if kind == "leggings":
            canvas.limb([knee, ankle], [t * 0.45, t * 0.36], tint(body.skin, shade), LEG)
            ankle = _between(knee, ankle, 0.86)
        canvas.limb([hip, knee, ankle], wide, colour, LOWER)
        line = edge(colour)
        if kind == "pants":
            canvas.line([_between(hip, knee, 0.2), knee, _between(knee, ankle, 0.95)], line, LOWER_DETAIL, 0.005)
            canvas.limb(
                [_between(knee, ankle, 0.95), ankle], [wide[2] * 1.08] * 2, tint(colour, 0.9), LOWER, rounded=False
            )
        elif kind == "jeans":
            fade = tint(colour, 1.22) if sum(colour) > 190 else tint(colour, 1.1)
            canvas.limb([_between(hip, knee, 0.45), _between(hip, knee, 0.95)], [t * 0.42, t * 0.34], fade, LOWER)
            side = wide[0] * 0.8
            seam = [(hip[0] + which * side, hip[1] + 0.03), (knee[0] + which * wide[1] * 0.7, knee[1]), ankle]
            canvas.line(seam, STITCH, LOWER_DETAIL, 0.0035)
            cuff = [_between(knee, ankle, 0.9), _between(knee, ankle, 1.02)]
            canvas.limb(cuff, [wide[2] * 1.15] * 2, tint(colour, 1.45), LOWER_DETAIL, rounded=False)
        else:
            canvas.line([_between(hip, knee, 0.3), _between(hip, knee, 0.85)], tint(colour, 1.25), LOWER_DETAIL, 0.006)
        return
    canvas.limb([hip, knee, ankle], [t * 0.86, t * 0.56, t * 0.38], tint(body.skin, shade), LEG)
    if kind == "shorts":
        colour = tint(_cloth(body), shade)
        end = _between(hip, knee, 0.92)
        canvas.limb([hip, end], [t * 1.0, t * 1.14], colour, LOWER, rounded=False)
        canvas.limb([_between(hip, knee, 0.84), end], [t * 1.13, t * 1.15], tint(colour, 0.86), LOWER, rounded=False)


def _hips(canvas: Canvas, body: Body, kind: str, colour: Colour) -> None:
    if kind == "skirt":
        canvas.poly(body.trunk(HIP - 0.03, 0.715, 0.004, 0.2), colour, LOWER)
        for x in (-0.075, -0.03, 0.03, 0.075):
            canvas.line([(x * 0.8, 0.54), (x * 1.5, 0.708)], edge(colour), LOWER_DETAIL, 0.005)
        return
    canvas.poly(body.trunk(HIP - 0.025, HIP + 0.05), colour, LOWER, outline=False)
    if kind == "jeans":
        left, right = body.edges(HIP + 0.05)
        if body.back:
            for s in (-1, 1):
                x = s * right * 0.5
                pocket = [(x - 0.026, 0.555), (x + 0.026, 0.555), (x + 0.022, 0.595), (x, 0.607), (x - 0.022, 0.595)]
                canvas.poly(pocket, tint(colour, 0.9), LOWER_DETAIL, outline=False)
                canvas.line([*pocket, pocket[0]], STITCH, LOWER_DETAIL, 0.004)
        elif not body.side:
            for x in (left, right):
                canvas.line([(x * 0.45, 0.535), (x * 0.62, 0.57), (x * 0.98, 0.578)], STITCH, LOWER_DETAIL, 0.004)
            canvas.line([(0, 0.535), (0, 0.58)], STITCH, LOWER_DETAIL, 0.004)
        else:
            canvas.line([(-0.03, 0.555), (0.02, 0.585)], STITCH, LOWER_DETAIL, 0.005)


def _shoe(canvas: Canvas, body: Body, which: int, shade: float) -> None:
    _, knee, (x, y) = body.leg(which)
    kind = body.person.shoe_type
    colour = tint(body.shade(COLOURS[body.person.shoe_colour]), shade)
    sole = (38, 34, 34) if sum(colour) > 300 else (150, 142, 132)
    skin, width = tint(body.skin, shade), 0.92 + 0.08 * body.build
    draw = _side_shoe if body.side else _front_shoe
    draw(canvas, body, kind, (x, y), knee, (colour, sole, skin), width, which)


def _front_shoe(
    canvas: Canvas, body: Body, kind: str, at: Point, knee: Point, colours: tuple, width: float, which: int
):
    (x, y), (colour, sole, skin) = at, colours
    w, base, line = 0.038 * width, y + 0.068, edge(colour)
    out = which * 0.006
    if kind == "boots":
        top = _between(knee, at, 0.5)
        canvas.limb([top, (x, y + 0.02)], [w * 0.96, w * 0.9], colour, SHOE)
        canvas.rect(top[0] - w * 1.02, top[1] - 0.012, top[0] + w * 1.02, top[1] + 0.014,
            tint(colour, 0.75) if sum(colour) > 190
                    else line, SHOE_DETAIL)  # fmt: skip
        canvas.oval(x + out, y + 0.036, w * 1.14, 0.034, colour, SHOE)
        canvas.rect(x + out - w * 1.14, base - 0.012, x + out + w * 1.14, base + 0.004, sole, SHOE_DETAIL)
        return
    if kind == "heels":
        if body.back:
            canvas.oval(x, y + 0.012, w * 0.72, 0.03, colour, SHOE)
            canvas.poly(
                [(x - 0.012, y + 0.03), (x + 0.012, y + 0.03), (x + 0.006, base + 0.004), (x - 0.006, base + 0.004)],
                colour,
                SHOE,
            )
        else:
            canvas.oval(x, y - 0.002, w * 0.62, 0.034, skin, SHOE_DETAIL)
            spots = [(x - w * 0.86, y + 0.012), (x, y + 0.032), (x + w * 0.86, y + 0.012), (x + w * 0.66, y + 0.046)]
            canvas.poly([*spots, (x, base + 0.004), (x - w * 0.66, y + 0.046)], colour, SHOE)
        return
    if kind == "sandals":
        canvas.oval(x + out, y + 0.03, w * 0.98, 0.04, skin, SHOE_DETAIL)
        canvas.rect(x + out - w, base - 0.016, x + out + w, base + 0.002, colour, SHOE)
        ys = (y + 0.004, y + 0.034) if not body.back else (y + 0.012, y + 0.03)
        for band in ys:
            canvas.rect(x + out - w, band, x + out + w, band + 0.015, colour, SHOE)
        return
    canvas.oval(x + out, y + 0.032, w * (1.1 if kind == "sneakers" else 0.98), 0.04, colour, SHOE)
    if kind == "sneakers":
        white = (250, 250, 250) if sum(colour) < 660 else (202, 204, 210)
        canvas.rect(x + out - w * 1.14, base - 0.02, x + out + w * 1.14, base + 0.004, white, SHOE_DETAIL)
        if not body.back:
            lace = white if sum(colour) < 660 else (90, 92, 100)
            for n in range(3):
                canvas.line(
                    [(x + out - 0.018, y + 0.008 + n * 0.012), (x + out + 0.018, y + 0.008 + n * 0.012)],
                    lace,
                    SHOE_DETAIL,
                    0.005,
                )
        else:
            canvas.rect(x + out - 0.01, y + 0.004, x + out + 0.01, y + 0.04, white, SHOE_DETAIL)
    else:
        canvas.rect(
            x + out - w * 0.98, base - 0.008, x + out + w * 0.98, base + 0.003, sole, SHOE_DETAIL, outline=False
        )
        canvas.line([(x + out - w * 0.6, y + 0.034), (x + out + w * 0.6, y + 0.034)], line, SHOE_DETAIL, 0.005)


def _side_shoe(canvas: Canvas, body: Body, kind: str, at: Point, knee: Point, colours: tuple, width: float, which: int):
    (x, y), (colour, sole, skin) = at, colours
    base, line = y + 0.064, edge(colour)
    heel, toe = x - 0.036, x + 0.09
    shape = [
        (heel, y - 0.004),
        (x + 0.03, y - 0.006),
        (x + 0.05, y + 0.022),
        (toe - 0.008, y + 0.034),
        (toe, base),
        (heel, base),
    ]
    if kind == "boots":
        top = _between(knee, at, 0.5)
        canvas.limb([top, (x, y + 0.02)], [0.037, 0.036], colour, SHOE, rounded=False)
        canvas.poly(shape, colour, SHOE)
        canvas.limb(
            [top, _between(knee, at, 0.58)],
            [0.04, 0.04],
            tint(colour, 0.75) if sum(colour) > 190 else line,
            SHOE_DETAIL,
            rounded=False,
        )
        canvas.rect(heel - 0.003, base - 0.01, toe + 0.004, base + 0.006, sole, SHOE_DETAIL)
    elif kind == "heels":
        canvas.limb([(x, y - 0.02), (x + 0.02, y + 0.012)], [0.02, 0.02], skin, SHOE_DETAIL)
        canvas.poly([(heel, y), (x - 0.008, y + 0.004), (x + 0.03, y + 0.036), (toe - 0.03, y + 0.036),
            (toe, base + 0.004),
                     (x + 0.03, base + 0.004), (x - 0.012, y + 0.034), (heel, y + 0.034)], colour, SHOE)  # fmt: skip
        canvas.poly(
            [(heel, y + 0.03), (heel + 0.018, y + 0.03), (heel + 0.009, base + 0.006), (heel, base + 0.006)],
            colour,
            SHOE,
        )
    elif kind == "sandals":
        canvas.poly(shape, skin, SHOE_DETAIL)
        canvas.rect(heel - 0.003, base - 0.014, toe + 0.003, base + 0.004, colour, SHOE)
        for offset, wide in ((-0.012, 0.018), (0.052, 0.022)):
            canvas.poly([(x + offset - wide, y + 0.012), (x + offset + wide * 0.4, y), (x + offset + wide, base),
                (x + offset - wide * 0.5, base)],
                        colour, SHOE)  # fmt: skip
    else:
        canvas.poly(shape, colour, SHOE)
        if kind == "sneakers":
            white = (250, 250, 250) if sum(colour) < 660 else (202, 204, 210)
            canvas.rect(heel - 0.006, base - 0.018, toe + 0.006, base + 0.006, white, SHOE_DETAIL)
            lace = white if sum(colour) < 660 else (90, 92, 100)
            for n in range(2):
                canvas.line(
                    [(x + 0.02 + n * 0.017, y + 0.024), (x + 0.038 + n * 0.014, y + 0.008 + n * 0.012)],
                    lace,
                    SHOE_DETAIL,
                    0.006,
                )
        else:
            canvas.rect(heel, base - 0.006, toe + 0.002, base + 0.005, sole, SHOE_DETAIL, outline=False)
            canvas.rect(heel, base, heel + 0.03, base + 0.008, sole, SHOE_DETAIL, outline=False)
