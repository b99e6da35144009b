"""Upper garments and arms. Each type of garment has its own silhouette and details in front, back and side views."""

from __future__ import annotations

from dataset_pvlg.synthetic_v1.draw_body import HIP, SHOULDER, Body
from dataset_pvlg.synthetic_v1.draw_canvas import (
    ARM,
    COLOURS,
    DRESS_SKIRT,
    INNER,
    LOGO,
    SKIN,
    UPPER,
    UPPER_DETAIL,
    Canvas,
    Colour,
    Point,
    edge,
    tint,
)  # fmt: skip

HEM = {
    "t-shirt": 0.53, "shirt": 0.55, "jacket": 0.515, "coat": 0.72, "sweater": 0.53, "hoodie": 0.535, "tank top": 0.525,
    "dress": 0.48,
}  # fmt: skip
METAL = (196, 198, 204)


def draw_trunk(canvas: Canvas, body: Body) -> None:
    """Draws the garment on the trunk, without the arms."""
    kind, colour = body.person.upper_type, body.shade(COLOURS[body.person.upper_colour])
    hem, line = HEM[kind], edge(colour)
    if not body.back and kind not in ("hoodie", "coat"):
        canvas.poly(body.trunk(SHOULDER - 0.02, SHOULDER + 0.08, -0.02), body.skin, SKIN, outline=False)
    if kind == "tank top":
        canvas.poly(body.trunk(SHOULDER - 0.012, SHOULDER + 0.12, 0.0), body.skin, ARM)
        canvas.poly(_tank(body, hem), colour, UPPER)
    elif kind == "dress":
        canvas.poly(body.trunk(HIP - 0.05, 0.735, 0.012, 0.17), colour, DRESS_SKIRT)
        for x in (-0.05, 0.0, 0.05):
            canvas.line([(x * 0.6, 0.52), (x * 1.5, 0.725)], line, DRESS_SKIRT, 0.004)
        canvas.poly(body.trunk(SHOULDER - 0.008, hem, 0.0), colour, UPPER)
        canvas.line([(body.edges(hem)[0], hem), (body.edges(hem)[1], hem)], line, UPPER_DETAIL, 0.012)
    else:
        wider = {"coat": 0.016, "jacket": 0.012, "hoodie": 0.014, "sweater": 0.01}.get(kind, 0.004)
        flare = 0.1 if kind == "coat" else 0.0
        canvas.poly(body.trunk(SHOULDER - 0.012, hem, wider, flare), colour, UPPER)
    draw = _side_details if body.side else _back_details if body.back else _front_details
    draw(canvas, body, kind, colour, line, hem)


def _tank(body: Body, hem: float) -> list[Point]:
    outline = body.trunk(SHOULDER + 0.085, hem, 0.003)
    half = len(outline) // 2
    if body.side:
        return [(-0.012, SHOULDER - 0.012), *outline[:half], *outline[half:], (0.018, SHOULDER - 0.012)]
    strap, dip = body.shoulder * 0.62, SHOULDER + (0.045 if body.back else 0.07)
    neck: list[Point] = [(strap, SHOULDER - 0.01), (strap - 0.026, SHOULDER - 0.012), (0.02, dip), (-0.02, dip)]
    return [
        (-strap + 0.026, SHOULDER - 0.012), (-strap, SHOULDER - 0.01), *outline[:half], *outline[half:], *neck,
    ]  # fmt: skip


def _front_details(canvas: Canvas, body: Body, kind: str, colour: Colour, line: Colour, hem: float) -> None:
    x, top = body.yaw, SHOULDER - 0.014
    left, right = body.edges(hem)
    if kind in ("t-shirt", "sweater", "dress"):
        wide = 0.05 if kind == "dress" else 0.044
        canvas.oval(x, top, wide, 0.034 if kind != "dress" else 0.052, body.skin, SKIN, outline=False)
        ring = tint(colour, 0.8) if kind == "sweater" and sum(colour) > 190 else line
        arc = [(x - wide, top), (x - wide * 0.7, top + 0.026), (x, top + 0.036), (x + wide * 0.7, top + 0.026)]
        if kind != "dress":
            canvas.line([*arc, (x + wide, top)], ring, UPPER_DETAIL, 0.022 if kind == "sweater" else 0.008)
    if kind == "sweater":
        _band(canvas, left - 0.01, right + 0.01, hem - 0.03, hem, colour)
    elif kind == "shirt":
        canvas.poly([(x - 0.03, top), (x + 0.03, top), (x, top + 0.055)], body.skin, SKIN, outline=False)
        flap = tint(colour, 1.35) if sum(colour) < 560 else tint(colour, 0.86)
        for s in (-1, 1):
            spots = [(x + s * 0.012, top - 0.014), (x + s * 0.054, top), (x + s * 0.046, top + 0.056), (x, top + 0.04)]
            canvas.poly(spots, flap, UPPER_DETAIL)
        canvas.line([(x, top + 0.05), (x, hem)], line, UPPER_DETAIL, 0.008)
        for n in range(6):
            canvas.oval(
                x + 0.009, top + 0.085 + n * 0.053, 0.0065, 0.0065, _button(colour), UPPER_DETAIL, outline=False
            )
    elif kind == "hoodie":
        canvas.poly([(x - 0.035, top - 0.01), (x + 0.035, top - 0.01), (x, top + 0.05)], body.skin, SKIN, outline=False)
        for s in (-1, 1):
            spots = [
                (x, top + 0.075),
                (x + s * 0.085, top + 0.02),
                (x + s * 0.075, top - 0.03),
                (x + s * 0.03, top - 0.02),
            ]
            canvas.poly(spots, tint(colour, 0.8) if sum(colour) > 190 else (52, 52, 58), UPPER_DETAIL)
            canvas.line(
                [(x + s * 0.018, top + 0.06), (x + s * 0.024, top + 0.15)], _button(colour), UPPER_DETAIL, 0.009
            )
        w = right * 0.7
        pocket = [(-w * 0.6, 0.40), (w * 0.6, 0.40), (w, 0.495), (-w, 0.495)]
        canvas.line([*pocket, pocket[0]], line, UPPER_DETAIL, 0.011)
        _band(canvas, left - 0.012, right + 0.012, hem - 0.022, hem, colour)
    elif kind in ("jacket", "coat"):
        _open_front(canvas, body, kind, colour, line, hem)


def _open_front(canvas: Canvas, body: Body, kind: str, colour: Colour, line: Colour, hem: float) -> None:
    x, top, inner = body.yaw, SHOULDER - 0.014, body.person.inner_colour
    lapel = tint(colour, 1.25) if sum(colour) < 560 else tint(colour, 0.85)
    if inner:
        shirt, low = body.shade(COLOURS[inner]), min(hem, 0.545)
        gap = max(0.032, 0.4 * body.waist)
        spots = [(x - 0.036, top), (x + 0.036, top), (x + gap, top + 0.12), (x + gap * 1.1, low), (x - gap * 1.1, low)]
        canvas.poly([*spots, (x - gap, top + 0.12)], shirt, INNER)
        canvas.poly(
            [(x - 0.03, top - 0.005), (x + 0.03, top - 0.005), (x, top + 0.035)], body.skin, SKIN, outline=False
        )
        for s in (-1, 1):
            flap = [(x + s * 0.04, top - 0.02), (x + s * 0.074, top + 0.01), (x + s * (gap + 0.034), top + 0.11)]
            canvas.poly([*flap, (x + s * gap, top + 0.17)], lapel, UPPER_DETAIL)
            canvas.line([(x + s * gap, top + 0.15), (x + s * gap * 1.1, hem)], line, UPPER_DETAIL, 0.011)
    else:
        canvas.poly([(x - 0.03, top - 0.01), (x + 0.03, top - 0.01), (x, top + 0.03)], body.skin, SKIN, outline=False)
        for s in (-1, 1):
            flap = [(x + s * 0.02, top - 0.03), (x + s * 0.062, top - 0.004), (x + s * 0.058, top + 0.05)]
            canvas.poly([*flap, (x, top + (0.11 if kind == "coat" else 0.04))], lapel, UPPER_DETAIL)
        canvas.line([(x, top + 0.04), (x, hem)], METAL if kind == "jacket" else line, UPPER_DETAIL, 0.012)
    if kind == "coat":
        for n in range(4):
            offset = 0.034 if not inner else max(0.032, 0.4 * body.waist) + 0.022
            canvas.oval(x + offset, 0.33 + n * 0.075, 0.01, 0.01, _button(colour), UPPER_DETAIL, outline=False)
        for s in (-1, 1):
            w = body.edges(0.5)[1]
            canvas.line([(s * w * 0.62, 0.515), (s * w * 1.02, 0.5)], line, UPPER_DETAIL, 0.014)
    else:
        left, right = body.edges(hem)
        gap = max(0.032, 0.4 * body.waist) * 1.1 if inner else 0.0
        for x0, x1 in ((left - 0.012, x - gap), (x + gap, right + 0.012)):
            _band(canvas, x0, x1, hem - 0.024, hem, colour)
        for s in (-1, 1):
            canvas.line([(s * right * 0.6, 0.40), (s * right * 0.92, 0.46)], METAL, UPPER_DETAIL, 0.009)


def _back_details(canvas: Canvas, body: Body, kind: str, colour: Colour, line: Colour, hem: float) -> None:
    x, top = body.yaw, SHOULDER - 0.014
    left, right = body.edges(hem)
    flap = tint(colour, 1.3) if sum(colour) < 560 else tint(colour, 0.86)
    if kind == "shirt":
        canvas.poly([(x - 0.05, top - 0.016), (x + 0.05, top - 0.016), (x + 0.058, top + 0.022),
            (x - 0.058, top + 0.022)],
                    flap, UPPER_DETAIL)  # fmt: skip
        yoke = 0.275
        canvas.line([(body.edges(yoke)[0], yoke - 0.012), (0, yoke), (body.edges(yoke)[1], yoke - 0.012)],
                    line, UPPER_DETAIL, 0.008)  # fmt: skip
        canvas.line([(x - 0.008, yoke), (x - 0.008, hem)], line, UPPER_DETAIL, 0.005)
        canvas.line([(x + 0.008, yoke), (x + 0.008, hem)], line, UPPER_DETAIL, 0.005)
    elif kind == "hoodie":
        hood = tint(colour, 0.8) if sum(colour) > 190 else (52, 52, 58)
        canvas.poly([(x - 0.075, top - 0.03), (x + 0.075, top - 0.03), (x + 0.07, top + 0.05), (x, top + 0.115),
                     (x - 0.07, top + 0.05)], hood, UPPER_DETAIL)  # fmt: skip
        canvas.line([(x, top), (x, top + 0.11)], line, UPPER_DETAIL, 0.006)
        _band(canvas, left - 0.012, right + 0.012, hem - 0.022, hem, colour)
    elif kind == "sweater":
        canvas.line([(x - 0.045, top), (x, top + 0.012), (x + 0.045, top)], tint(colour, 0.8), UPPER_DETAIL, 0.022)
        _band(canvas, left - 0.01, right + 0.01, hem - 0.03, hem, colour)
    elif kind in ("jacket", "coat"):
        canvas.poly([(x - 0.06, top - 0.024), (x + 0.06, top - 0.024), (x + 0.07, top + 0.026),
            (x - 0.07, top + 0.026)],
                    flap, UPPER_DETAIL)  # fmt: skip
        if kind == "coat":
            canvas.line([(x, 0.47), (x, hem)], line, UPPER_DETAIL, 0.01)
            w = body.edges(0.43)[1]
            canvas.rect(x - w * 0.7, 0.425, x + w * 0.7, 0.46, flap, UPPER_DETAIL)
        else:
            canvas.line([(left * 0.9, 0.30), (right * 0.9, 0.30)], line, UPPER_DETAIL, 0.008)
            canvas.line([(x, 0.30), (x, hem - 0.03)], line, UPPER_DETAIL, 0.006)
            _band(canvas, left - 0.012, right + 0.012, hem - 0.028, hem, colour)
    elif kind == "t-shirt":
        canvas.line([(x - 0.04, top), (x, top + 0.014), (x + 0.04, top)], line, UPPER_DETAIL, 0.008)
    elif kind == "dress":
        canvas.line([(x, top), (x, hem)], line, UPPER_DETAIL, 0.006)


def _side_details(canvas: Canvas, body: Body, kind: str, colour: Colour, line: Colour, hem: float) -> None:
    top, inner = SHOULDER - 0.014, body.person.inner_colour
    left, right = body.edges(hem)
    flap = tint(colour, 1.3) if sum(colour) < 560 else tint(colour, 0.86)
    if kind in ("jacket", "coat"):
        if inner:
            ys = [SHOULDER + 0.03, 0.28, 0.36, 0.44, 0.515]
            front = [(body.edges(y)[1] + 0.014, y) for y in ys]
            depth = 0.042
            canvas.poly([*front, *((x - depth, y) for x, y in reversed(front))], body.shade(COLOURS[inner]), INNER)
            canvas.line([(x - depth, y) for x, y in front], line, UPPER_DETAIL, 0.012)
        else:
            ys = [SHOULDER + 0.04, 0.3, 0.4, min(hem, 0.5), hem - 0.02]
            canvas.line(
                [(body.edges(y)[1] - 0.002, y) for y in ys], METAL if kind == "jacket" else line, UPPER_DETAIL, 0.01
            )
        canvas.poly(
            [(-0.055, top - 0.03), (0.03, top - 0.02), (0.05, top + 0.06), (-0.045, top + 0.02)], flap, UPPER_DETAIL
        )
        if kind == "jacket":
            back, front_x = (left - 0.012, right + 0.012 - (0.042 if inner else 0))
            _band(canvas, back, front_x, hem - 0.026, hem, colour)
        else:
            canvas.line([(-0.01, 0.52), (0.045, 0.505)], line, UPPER_DETAIL, 0.014)
    elif kind == "shirt":
        canvas.poly(
            [(-0.045, top - 0.02), (0.035, top - 0.018), (0.058, top + 0.045), (-0.035, top + 0.022)],
            flap,
            UPPER_DETAIL,
        )
        for n in range(5):
            y = top + 0.1 + n * 0.06
            canvas.oval(body.edges(y)[1] - 0.008, y, 0.007, 0.007, _button(colour), UPPER_DETAIL, outline=False)
    elif kind == "hoodie":
        hood = tint(colour, 0.8) if sum(colour) > 190 else (52, 52, 58)
        canvas.poly([(0.045, top - 0.01), (-0.04, top - 0.045), (-0.1, top + 0.01), (-0.085, top + 0.075),
            (-0.02, top + 0.05),
                     (0.05, top + 0.05)], hood, UPPER_DETAIL)  # fmt: skip
        canvas.line([(0.045, top + 0.03), (0.055, top + 0.13)], _button(colour), UPPER_DETAIL, 0.009)
        canvas.line([(0.005, 0.48), (0.02, 0.41), (body.edges(0.41)[1], 0.40)], line, UPPER_DETAIL, 0.01)
        _band(canvas, left - 0.012, right + 0.012, hem - 0.022, hem, colour)
    elif kind == "sweater":
        canvas.line([(-0.04, top), (0.0, top + 0.01), (0.045, top + 0.016)], tint(colour, 0.8), UPPER_DETAIL, 0.024)
        _band(canvas, left - 0.01, right + 0.01, hem - 0.03, hem, colour)
    elif kind == "t-shirt":
        canvas.line([(-0.036, top - 0.004), (0.04, top + 0.014)], line, UPPER_DETAIL, 0.009)


def draw_logo(canvas: Canvas, body: Body) -> None:
    """Draws a logo on the chest: a disc of contrasting colour with a shape in it. Only front views show it."""
    if body.person.upper_pattern != "logo" or body.side or body.back:
        return
    ground = COLOURS[body.person.upper_colour]
    light = sum(ground) > 430
    patch, mark = ((60, 64, 88), (240, 190, 60)) if light else ((242, 240, 236), (214, 70, 52))
    x = body.yaw + (-0.045 if body.person.upper_type == "shirt" else 0.0)
    size = 0.028 if body.person.upper_type == "shirt" else 0.043
    y = 0.345 if body.person.upper_type == "hoodie" else 0.33
    canvas.oval(x, y, size, size, patch, LOGO)
    canvas.poly([(x, y - size * 0.7), (x + size * 0.62, y + size * 0.4), (x - size * 0.62, y + size * 0.4)], mark, LOGO)


def draw_arm(canvas: Canvas, body: Body, which: int, hold: str = "", far: bool = False) -> None:
    """Draws one arm with its sleeve and hand."""
    kind, shade = body.person.upper_type, 0.8 if far else 1.0
    colour, skin = tint(body.shade(COLOURS[body.person.upper_colour]), shade), tint(body.skin, shade)
    shoulder, elbow, hand = body.hand_arm(which, hold)
    r, sleeve = body.arm, body.person.sleeve
    if sleeve != "long":
        canvas.limb([shoulder, elbow, hand], [r * 1.1, r * 0.86, r * 0.68], skin, ARM)
    canvas.oval(*hand, r * 0.98, r * 1.15, skin, ARM)
    if sleeve == "short":
        end = (shoulder[0] + (elbow[0] - shoulder[0]) * 0.8, shoulder[1] + (elbow[1] - shoulder[1]) * 0.8)
        canvas.limb([shoulder, end], [r * 1.35, r * 1.38], colour, UPPER)
    elif sleeve == "long":
        loose = {"coat": 1.5, "jacket": 1.42, "hoodie": 1.4, "sweater": 1.36}.get(kind, 1.24)
        wrist = (elbow[0] + (hand[0] - elbow[0]) * 0.88, elbow[1] + (hand[1] - elbow[1]) * 0.88)
        canvas.limb([shoulder, elbow, wrist], [r * loose, r * loose * 0.92, r * loose * 0.8], colour, UPPER)
        if kind in ("sweater", "hoodie", "shirt", "jacket"):
            near = (elbow[0] + (hand[0] - elbow[0]) * 0.68, elbow[1] + (hand[1] - elbow[1]) * 0.68)
            cuff = tint(colour, 0.72) if sum(colour) > 190 else edge(colour)
            if kind == "shirt":
                near = (near[0] * 0.3 + wrist[0] * 0.7, near[1] * 0.3 + wrist[1] * 0.7)
            canvas.limb([near, wrist], [r * loose * 0.86, r * loose * 0.86], cuff, UPPER_DETAIL, rounded=False)


def _band(canvas: Canvas, x0: float, x1: float, y0: float, y1: float, colour: Colour) -> None:
    """Draws a ribbed hem."""
    band = tint(colour, 0.76) if sum(colour) > 190 else edge(colour)
    canvas.rect(x0, y0, x1, y1, band, UPPER_DETAIL, outline=False)
    for n in range(1, 9):
        x = x0 + (x1 - x0) * n / 9
        canvas.line([(x, y0), (x, y1)], tint(band, 0.78), UPPER_DETAIL, 0.003)


def _button(colour: Colour) -> Colour:
    return (246, 246, 240) if sum(colour) < 480 else (58, 56, 60)
