"""The head: hair, face, headwear and eyewear in all views."""

from __future__ import annotations

from dataset_pvlg.synthetic_v1.draw_body import SHOULDER, Body
from dataset_pvlg.synthetic_v1.draw_canvas import COLOURS, EYEWEAR, HAIR, HEADWEAR, SKIN, Canvas, edge, tint

_Y, _RX, _RY = 0.098, 0.058, 0.078  # centre and half-axes of the skull in a front view
FRAME = (30, 28, 32)


def draw_hair_behind(canvas: Canvas, body: Body) -> None:
    """Draws long hair that hangs behind the trunk in a front view."""
    if body.back:
        return
    style, x, hair = body.person.hair_style, body.yaw, body.hair
    if style == "long" and not body.side:
        canvas.poly([(x - 0.07, 0.05), (x + 0.07, 0.05), (x + 0.09, 0.17), (x + 0.095, 0.28), (x - 0.095, 0.28),
            (x - 0.09, 0.17)],
                    hair, HAIR)  # fmt: skip


def draw_head(canvas: Canvas, body: Body) -> None:
    """Draws neck, head, face, headwear and eyewear."""
    if body.side:
        _side(canvas, body)
    elif body.back:
        _back(canvas, body)
    else:
        _front(canvas, body)
    if body.person.headwear != "none":
        _headwear(canvas, body)


def _bare(body: Body) -> bool:
    return body.person.headwear == "none"


def _tail(canvas: Canvas, body: Body, x: float) -> None:
    s = 1 if body.trait >> 4 & 1 else -1  # side of a ponytail in a front view
    spots = [(x + s * 0.035, 0.02), (x + s * 0.085, 0.012), (x + s * 0.118, 0.08), (x + s * 0.112, 0.18),
        (x + s * 0.09, 0.235),
             (x + s * 0.078, 0.18), (x + s * 0.08, 0.09), (x + s * 0.062, 0.055)]  # fmt: skip
    canvas.poly(spots, body.hair, HAIR)
    canvas.oval(x + s * 0.058, 0.03, 0.013, 0.013, (214, 60, 80), HAIR)


def _front(canvas: Canvas, body: Body) -> None:
    style, x, hair, skin = body.person.hair_style, body.yaw, body.hair, body.skin
    neck = 0.024 if body.woman else 0.031
    canvas.rect(x * 0.5 - neck, 0.15, x * 0.5 + neck, SHOULDER + 0.005, tint(skin, 0.88), SKIN, outline=False)
    if style == "ponytail" and _bare(body):
        _tail(canvas, body, x)
    if style == "bun" and _bare(body):
        canvas.oval(x, 0.008, 0.037, 0.033, hair, HAIR)
    if style != "bald":
        for s in (-1, 1):
            canvas.oval(x + s * _RX, 0.112, 0.012, 0.018, skin, SKIN)
        grow = {"long": 1.26, "short": 1.12}.get(style, 1.06)
        canvas.oval(x, 0.09, _RX * grow, _RY * 0.98, hair, HAIR)
        if style == "short":
            canvas.rect(x - _RX * 1.08, 0.08, x + _RX * 1.08, 0.118, hair, HAIR, outline=False)
        top = 0.047 if body.woman else 0.05
    else:
        for s in (-1, 1):
            canvas.oval(x + s * _RX, 0.112, 0.012, 0.018, skin, SKIN)
        top = 0.018
    low, wide = 0.176, 0.047 if body.woman else 0.05
    if style == "bald":
        wide = 0.056
    canvas.oval(x, (top + low) / 2, wide, (low - top) / 2, skin, SKIN)
    if not body.woman:  # a square jaw
        canvas.poly([(x - wide * 0.96, 0.118), (x + wide * 0.96, 0.118), (x + wide * 0.62, 0.172),
            (x - wide * 0.62, 0.172)], skin, SKIN,
                    outline=False)  # fmt: skip
        canvas.line([(x - wide * 0.96, 0.12), (x - wide * 0.62, 0.172), (x + wide * 0.62, 0.172),
            (x + wide * 0.96, 0.12)], edge(skin), SKIN,
                    0.004)  # fmt: skip
    if style == "bald":
        canvas.oval(x - 0.018, 0.04, 0.014, 0.009, tint(skin, 1.4), SKIN, outline=False)
    elif style == "long":
        for s in (-1, 1):
            canvas.poly([(x + s * 0.01, 0.03), (x + s * 0.06, 0.045), (x + s * 0.082, 0.17), (x + s * 0.088, 0.275),
                (x + s * 0.052, 0.28),
                         (x + s * 0.044, 0.12), (x + s * 0.036, 0.07)], hair, HAIR)  # fmt: skip
    elif style == "short":
        canvas.poly(
            [(x - 0.048, 0.075), (x - 0.04, 0.035), (x + 0.03, 0.03), (x + 0.05, 0.072), (x + 0.02, 0.058)],
            hair,
            HAIR,
            outline=False,
        )
    _front_face(canvas, body)
    if body.person.eyewear != "none":
        _front_eyewear(canvas, body)


def _front_face(canvas: Canvas, body: Body) -> None:
    style, x, hair, skin = body.person.hair_style, body.yaw, body.hair, body.skin
    dark = (40, 28, 24)
    for s in (-1, 1):
        canvas.oval(x + s * 0.021, 0.103, 0.0085, 0.0055, (245, 245, 245), SKIN, outline=False)
        canvas.oval(x + s * 0.021, 0.103, 0.0048, 0.0055, dark, SKIN, outline=False)
        canvas.line([(x + s * 0.011, 0.09), (x + s * 0.032, 0.088)], tint(hair, 0.8) if style != "bald" else dark, SKIN,
                    0.004 if body.woman else 0.008)  # fmt: skip
    canvas.line([(x, 0.105), (x + 0.005, 0.126), (x - 0.003, 0.128)], tint(skin, 0.72), SKIN, 0.004)
    if body.woman:
        canvas.oval(x, 0.149, 0.016, 0.0065, (196, 44, 62), SKIN, outline=False)
    else:
        canvas.line([(x - 0.016, 0.149), (x + 0.016, 0.149)], (128, 66, 60), SKIN, 0.006)


def _front_eyewear(canvas: Canvas, body: Body) -> None:
    x = body.yaw
    for s in (-1, 1):
        if body.person.eyewear == "sunglasses":
            canvas.oval(x + s * 0.025, 0.104, 0.0225, 0.0185, (14, 14, 18), EYEWEAR)
            canvas.line([(x + s * 0.016, 0.097), (x + s * 0.026, 0.095)], (150, 160, 180), EYEWEAR, 0.004)
        else:
            spot = canvas.at([(x + s * 0.025, 0.104)])[0]
            rx, ry = 0.0215 * canvas.scale, 0.018 * canvas.scale
            frame = (spot[0] - rx, spot[1] - ry, spot[0] + rx, spot[1] + ry)
            canvas.draw.ellipse(frame, outline=(*FRAME, EYEWEAR), width=max(2, round(0.0075 * canvas.scale)))
        canvas.line([(x + s * 0.045, 0.1), (x + s * 0.056, 0.098)], FRAME, EYEWEAR, 0.006)
    canvas.line([(x - 0.006, 0.101), (x + 0.006, 0.101)], FRAME, EYEWEAR, 0.006)


def _back(canvas: Canvas, body: Body) -> None:
    style, x, hair, skin = body.person.hair_style, body.yaw, body.hair, body.skin
    neck = 0.025 if body.woman else 0.032
    canvas.rect(x * 0.5 - neck, 0.14, x * 0.5 + neck, SHOULDER - 0.006, tint(skin, 0.86), SKIN, outline=False)
    for s in (-1, 1):
        canvas.oval(x + s * _RX, 0.112, 0.012, 0.018, skin, SKIN)
    if style == "bald":
        canvas.oval(x, _Y, _RX, _RY, skin, SKIN)
        canvas.oval(x - 0.016, 0.05, 0.016, 0.012, tint(skin, 1.35), SKIN, outline=False)
        canvas.line([(x - 0.025, 0.158), (x + 0.025, 0.158)], tint(skin, 0.75), SKIN, 0.004)
        return
    canvas.oval(x, 0.092, _RX * 1.1, _RY, hair, HAIR)
    if style == "short":
        canvas.poly(
            [(x - 0.045, 0.12), (x + 0.045, 0.12), (x + 0.034, 0.172), (x - 0.034, 0.172)], hair, HAIR, outline=False
        )
        for offset in (-0.036, -0.012, 0.012, 0.036):  # locks, so that short hair differs from a bald head
            canvas.line(
                [(x + offset * 0.3, 0.03), (x + offset * 1.2, 0.09), (x + offset, 0.164)], edge(hair), HAIR, 0.004
            )
    elif style == "long":
        canvas.poly([(x - 0.063, 0.08), (x + 0.063, 0.08), (x + 0.082, 0.18), (x + 0.084, 0.3), (x, 0.315),
            (x - 0.084, 0.3), (x - 0.082, 0.18)],
                    hair, HAIR)  # fmt: skip
        for offset in (-0.04, 0.0, 0.04):
            canvas.line([(x + offset * 0.8, 0.1), (x + offset, 0.295)], edge(hair), HAIR, 0.004)
    elif style == "ponytail":
        high = 0.06 if _bare(body) else 0.13
        canvas.poly([(x - 0.016, high), (x + 0.016, high), (x + 0.04, 0.19), (x + 0.03, 0.3), (x, 0.325),
            (x - 0.03, 0.3), (x - 0.04, 0.19)],
                    hair, HAIR)  # fmt: skip
        canvas.oval(x, high + 0.004, 0.022, 0.012, (214, 60, 80), HAIR)
    else:
        high = 0.022 if _bare(body) else 0.142
        canvas.oval(x, high, 0.042, 0.037, hair, HAIR)
        canvas.oval(x, high, 0.022, 0.018, hair, HAIR)


def _side(canvas: Canvas, body: Body) -> None:
    style, hair, skin = body.person.hair_style, body.hair, body.skin
    neck = 0.026 if body.woman else 0.034
    canvas.poly([(-0.012 - neck, 0.13), (neck, 0.15), (neck + 0.004, SHOULDER + 0.006),
        (-0.018 - neck, SHOULDER - 0.004)], tint(skin, 0.88), SKIN,
                outline=False)  # fmt: skip
    face = [
        (-0.02, 0.03),
        (0.046, 0.05),
        (0.056, 0.088),
        (0.074, 0.118),
        (0.059, 0.126),
        (0.06, 0.15),
        (0.048, 0.174),
        (0.01, 0.166),
        (-0.02, 0.14),
    ]
    if style == "bald":
        canvas.oval(-0.004, 0.09, 0.064, 0.074, skin, SKIN)
        canvas.poly(face, skin, SKIN, outline=False)
        canvas.oval(-0.02, 0.042, 0.016, 0.01, tint(skin, 1.35), SKIN, outline=False)
    else:
        if style == "ponytail":
            _side_ponytail(canvas, body)
        elif style == "bun":
            canvas.oval(*((-0.052, 0.022) if _bare(body) else (-0.078, 0.138)), 0.037, 0.034, hair, HAIR)
        canvas.oval(-0.008, 0.09, 0.068, 0.076, hair, HAIR)
        canvas.poly([(-0.006, 0.07), *face[1:8], (0.0, 0.15)], skin, SKIN, outline=False)
        if style == "short":
            canvas.poly([(-0.07, 0.09), (-0.01, 0.09), (-0.016, 0.15), (-0.052, 0.165)], hair, HAIR, outline=False)
        elif style == "long":
            canvas.poly(
                [(-0.072, 0.07), (0.0, 0.06), (0.012, 0.14), (-0.004, 0.2), (-0.02, 0.3), (-0.1, 0.29), (-0.094, 0.16)],
                hair,
                HAIR,
            )
        canvas.poly([(-0.03, 0.02), (0.042, 0.03), (0.052, 0.068), (0.01, 0.07)], hair, HAIR, outline=False)
    if style != "long":
        canvas.oval(-0.008, 0.112, 0.012, 0.019, tint(skin, 0.94), SKIN)
    canvas.oval(0.043, 0.1, 0.006, 0.006, (40, 28, 24), SKIN, outline=False)
    canvas.line([(0.032, 0.086), (0.052, 0.086)], tint(hair, 0.8), SKIN, 0.004 if body.woman else 0.008)
    canvas.line(
        [(0.042, 0.148), (0.06, 0.147)],
        (196, 44, 62) if body.woman else (128, 66, 60),
        SKIN,
        0.009 if body.woman else 0.006,
    )
    if body.person.eyewear == "sunglasses":
        canvas.oval(0.046, 0.102, 0.017, 0.019, (14, 14, 18), EYEWEAR)
        canvas.line([(-0.008, 0.098), (0.04, 0.098)], (14, 14, 18), EYEWEAR, 0.01)
    elif body.person.eyewear == "glasses":
        spot = canvas.at([(0.046, 0.102)])[0]
        rx, ry = 0.015 * canvas.scale, 0.018 * canvas.scale
        frame = (spot[0] - rx, spot[1] - ry, spot[0] + rx, spot[1] + ry)
        canvas.draw.ellipse(frame, outline=(*FRAME, EYEWEAR), width=max(2, round(0.0075 * canvas.scale)))
        canvas.line([(-0.008, 0.098), (0.034, 0.098)], FRAME, EYEWEAR, 0.008)


def _side_ponytail(canvas: Canvas, body: Body) -> None:
    hair = body.hair
    if _bare(body):
        spots = [
            (-0.03, 0.025),
            (-0.085, 0.012),
            (-0.135, 0.07),
            (-0.135, 0.19),
            (-0.112, 0.25),
            (-0.095, 0.18),
            (-0.095, 0.085),
            (-0.055, 0.06),
        ]
        tie = (-0.058, 0.038)
    else:
        spots = [
            (-0.05, 0.12),
            (-0.08, 0.12),
            (-0.118, 0.19),
            (-0.108, 0.28),
            (-0.085, 0.27),
            (-0.08, 0.19),
            (-0.05, 0.15),
        ]
        tie = (-0.064, 0.132)
    canvas.poly(spots, hair, HAIR)
    canvas.oval(*tie, 0.014, 0.014, (214, 60, 80), HAIR)


def _headwear(canvas: Canvas, body: Body) -> None:
    kind, x = body.person.headwear, 0.0 if body.side else body.yaw
    colour = body.shade(COLOURS[body.person.headwear_colour])
    line, dark = edge(colour), tint(colour, 0.8) if sum(colour) > 190 else (56, 56, 62)
    wide, mid = (0.076, -0.004) if body.side else (0.07, x)
    dome = [(mid - wide, 0.078), (mid - wide * 0.94, 0.04), (mid - wide * 0.6, 0.006), (mid, -0.006),
        (mid + wide * 0.6, 0.006),
            (mid + wide * 0.94, 0.04), (mid + wide, 0.078)]  # fmt: skip
    if kind == "cap":
        canvas.poly(dome, colour, HEADWEAR)
        canvas.line([(mid, -0.004), (mid, 0.07)], line, HEADWEAR, 0.005)
        canvas.oval(mid, -0.005, 0.009, 0.006, dark, HEADWEAR)
        if body.side:
            canvas.poly([(0.03, 0.06), (0.125, 0.078), (0.132, 0.092), (0.03, 0.084)], dark, HEADWEAR)
        elif body.back:
            canvas.oval(mid, 0.078, 0.026, 0.02, body.hair if body.person.hair_style != "bald" else body.skin, HAIR
                        if body.person.hair_style != "bald" else SKIN)  # fmt: skip
            canvas.rect(mid - 0.05, 0.078, mid + 0.05, 0.094, dark, HEADWEAR)
        else:
            canvas.poly([(mid - 0.068, 0.068), (mid - 0.03, 0.058), (mid + 0.03, 0.058), (mid + 0.068, 0.068),
                (mid + 0.076, 0.086),
                         (mid, 0.094), (mid - 0.076, 0.086)], dark, HEADWEAR)  # fmt: skip
    elif kind == "hat":
        canvas.poly([(mid - wide * 0.9, 0.07), (mid - wide * 0.78, -0.022), (mid - 0.015, -0.012),
            (mid + 0.015, -0.012), (mid + wide * 0.78, -0.022),
                     (mid + wide * 0.9, 0.07)], colour, HEADWEAR)  # fmt: skip
        canvas.oval(mid, 0.072, wide * 1.85, 0.02, colour, HEADWEAR)
        canvas.rect(
            mid - wide * 0.88,
            0.036,
            mid + wide * 0.88,
            0.058,
            (236, 224, 190) if sum(colour) < 420 else (60, 40, 36),
            HEADWEAR,
        )
    else:
        tall = [(px, py - 0.012 if py < 0.05 else py) for px, py in dome]
        canvas.poly(tall, colour, HEADWEAR)
        for n in (-0.5, 0.0, 0.5):
            canvas.line([(mid + n * wide, 0.05), (mid + n * wide * 0.6, -0.008)], line, HEADWEAR, 0.005)
        canvas.rect(mid - wide * 1.05, 0.046, mid + wide * 1.05, 0.082, dark, HEADWEAR)
        canvas.oval(mid, -0.024, 0.023, 0.019, dark, HEADWEAR)
