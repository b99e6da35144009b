"""Body and clothes of a synthetic pedestrian: legs, shoes, torso, arms, head."""

import numpy as np

from dataset_pvlg.sources.figure import FEET, HEAD, LOWER, UPPER, Figure, Point, Pose
from dataset_pvlg.sources.garments import HAIR, PAINT, accent, darker, lighter
from dataset_pvlg.sources.identities import Identity


def draw_legs(f: Figure, i: Identity, pose: Pose, skin: tuple) -> None:
    legs = pose.legs()
    cloth = PAINT.get(i.lower_colour, (0, 0, 0))
    kind = i.lower_type or "dress"
    for n, (hip, knee, ankle) in enumerate(legs):
        shade = darker(skin) if pose.side and n == 0 else skin
        f.limb([hip, knee, ankle], shade, pose.thick * 0.86, 0)
        if kind in ("pants", "jeans", "leggings", "shorts"):
            tone = darker(cloth, 0.8) if pose.side and n == 0 else cloth
            end = knee if kind == "shorts" else ankle
            wide = {"pants": 1.22, "jeans": 1.1, "leggings": 0.86, "shorts": 1.45}[kind] * pose.thick
            thigh = max(wide, pose.hip * 0.98)
            points = [(hip[0] - thigh / 2, hip[1] - 0.02), (hip[0] + thigh / 2, hip[1] - 0.02)]
            if kind != "shorts":
                points += [(knee[0] + wide / 2, knee[1])]
            points += [(end[0] + wide / 2, end[1] - 0.005), (end[0] - wide / 2, end[1] - 0.005)]
            if kind != "shorts":
                points += [(knee[0] - wide / 2, knee[1])]
            f.polygon(points, tone, LOWER)
            if kind == "jeans":
                seam = lighter(cloth, 0.45)
                f.line([(hip[0], hip[1]), (knee[0], knee[1]), (ankle[0], ankle[1])], seam, 0.006, LOWER)
                f.polygon(
                    [
                        (knee[0] - 0.014, 0.60),
                        (knee[0] + 0.014, 0.60),
                        (knee[0] + 0.014, 0.67),
                        (knee[0] - 0.014, 0.67),
                    ],
                    lighter(cloth, 0.25),
                    LOWER,
                )
                f.line([(end[0] - wide / 2, 0.925), (end[0] + wide / 2, 0.925)], seam, 0.010, LOWER)
            elif kind == "pants":
                f.line([(knee[0], 0.55), (ankle[0], ankle[1])], darker(tone, 0.75), 0.006, LOWER)
    if kind in ("skirt", "dress"):
        tone = cloth if kind == "skirt" else PAINT[i.upper_colour]
        flare, hem = (pose.hip * 1.45 + 0.01, 0.70)
        points = [(-pose.waist * 0.98, 0.46), (pose.waist * 0.98, 0.46), (flare, hem), (-flare, hem)]
        f.patterned(points, tone, i.upper_pattern if kind == "dress" else "plain", LOWER)
        for share in (-0.5, 0.0, 0.5):
            f.line([(pose.waist * share, 0.50), (flare * share, hem)], darker(tone, 0.82), 0.005, LOWER)


def draw_shoes(f: Figure, i: Identity, pose: Pose, skin: tuple) -> None:
    colour = PAINT[i.shoe_colour]
    for n, (_, _, (x, y)) in enumerate(pose.legs()):
        tone = darker(colour, 0.85) if pose.side and n == 0 else colour
        toe = pose.facing * 0.075 if pose.side else (-1 if x < 0 else 1) * 0.012
        long, low = (0.042, y + 0.046) if pose.side else (0.036, y + 0.052)
        if i.shoe_type == "boots":
            f.polygon(
                [(x - 0.036, y - 0.13), (x + 0.036, y - 0.13), (x + 0.038, y + 0.02), (x - 0.038, y + 0.02)], tone, FEET
            )
            f.line([(x - 0.036, y - 0.125), (x + 0.036, y - 0.125)], lighter(tone, 0.35), 0.012, FEET)
        centre = x + toe * 0.5
        if i.shoe_type == "sandals":
            f.ellipse(centre, y + 0.022, long + abs(toe) * 0.5, 0.024, skin, FEET)
            f.line([(centre - long - abs(toe) * 0.4, low), (centre + long + abs(toe) * 0.4, low)], tone, 0.016, FEET)
            for up in (0.0, 0.026):
                f.line([(centre - long, y + up), (centre + long, y + up + 0.006)], tone, 0.012, FEET)
            continue
        f.ellipse(centre, y + 0.022, long + abs(toe) * 0.5, 0.03, tone, FEET)
        f.polygon(
            [(x - long * 0.8, y - 0.012), (x + long * 0.8, y - 0.012), (x + long, y + 0.03), (x - long, y + 0.03)],
            tone,
            FEET,
        )
        if i.shoe_type == "sneakers":
            sole = (250, 250, 250) if i.shoe_colour != "white" else (60, 60, 70)
            f.line([(centre - long - abs(toe) * 0.45, low), (centre + long + abs(toe) * 0.45, low)], sole, 0.016, FEET)
            f.line([(centre - long * 0.6, y + 0.006), (centre + long * 0.6, y + 0.022)], sole, 0.009, FEET)
        elif i.shoe_type == "heels":
            f.ellipse(x, y - 0.004, 0.026, 0.018, skin, FEET)
            back = x - pose.facing * 0.024 if pose.side else x
            f.line([(back, y + 0.02), (back, y + 0.062)], tone, 0.014, FEET)


def hem_of(i: Identity) -> float:
    return {"coat": 0.70, "jacket": 0.53, "sweater": 0.525, "hoodie": 0.535, "dress": 0.475}.get(i.upper_type, 0.515)


def draw_torso(f: Figure, i: Identity, pose: Pose, skin: tuple, hidden: frozenset[str]) -> None:
    colour, s, w, hem = PAINT[i.upper_colour], pose.shoulder, pose.waist, hem_of(i)
    bulk = 1.12 if i.upper_type in ("jacket", "coat", "hoodie", "sweater") else 1.0
    s, w, h = s * bulk, w * bulk, pose.hip * (1.12 if i.upper_type in ("coat", "jacket") else 1.0)
    f.polygon([(-0.03, 0.13), (0.03, 0.13), (0.04, 0.19), (-0.04, 0.19)], skin, HEAD)
    if i.sleeve == "none":
        f.polygon([(-s, 0.19), (s, 0.19), (s * 0.9, 0.26), (-s * 0.9, 0.26)], skin, UPPER)
        body = [
            (-s * 0.55, 0.185),
            (-s * 0.34, 0.165),
            (-s * 0.2, 0.22),
            (s * 0.2, 0.22),
            (s * 0.34, 0.165),
            (s * 0.55, 0.185),
            (s * 0.78, 0.30),
            (w, 0.40),
        ]
    else:
        body = [
            (-s, 0.20),
            (-s * 0.75, 0.175),
            (-0.035, 0.16),
            (0.035, 0.16),
            (s * 0.75, 0.175),
            (s, 0.20),
            (w * 1.02, 0.40),
        ]
    flare = h * (1.18 if i.upper_type == "coat" else 1.0)
    body += [(flare, hem), (-flare, hem), (-w * 1.02, 0.40)]
    f.patterned(body, colour, i.upper_pattern, UPPER)
    dark, pale = darker(colour, 0.62), accent(i.upper_colour)
    front = not pose.back
    mid = pose.facing * s * 0.55
    if i.upper_type in ("jacket", "coat"):
        if front and i.inner_colour:
            gap = 0.030 if pose.side else s * 0.36
            f.polygon(
                [(mid - gap, 0.165), (mid + gap, 0.165), (mid + gap * 0.9, hem), (mid - gap * 0.9, hem)],
                PAINT[i.inner_colour],
                UPPER,
            )
        edge = s * 0.36 if i.inner_colour else 0.004
        if front:
            for sign in (-1, 1):
                x = mid + sign * (edge if not pose.side else min(edge, 0.030))
                f.line([(x, 0.18), (x, hem)], dark, 0.012, UPPER)
                f.polygon([(x, 0.165), (x + sign * 0.045, 0.20), (x, 0.27)], dark, UPPER)
                if not pose.side:
                    f.line([(sign * s * 0.55, 0.44), (sign * s * 0.85, 0.42)], dark, 0.010, UPPER)
        else:
            f.line([(-s * 0.5, 0.175), (s * 0.5, 0.175)], dark, 0.024, UPPER)
            f.line([(0, 0.45 if i.upper_type == "coat" else 0.5), (0, hem)], dark, 0.010, UPPER)
        f.line([(-flare, hem), (flare, hem)], dark, 0.012, UPPER)
        if i.upper_type == "coat":
            f.line([(-w * 1.05, 0.44), (w * 1.05, 0.44)], dark, 0.018, UPPER)
    elif i.upper_type == "shirt":
        for sign in (-1, 1):
            f.polygon(
                [(mid + sign * 0.004, 0.155), (mid + sign * 0.05, 0.165), (mid + sign * 0.022, 0.205)],
                lighter(colour, 0.55) if i.upper_colour != "white" else dark,
                UPPER,
            )
        if front:
            f.line([(mid, 0.19), (mid, hem)], dark, 0.008, UPPER)
            for y in np.arange(0.22, hem - 0.02, 0.05):
                f.ellipse(mid, float(y), 0.009, 0.007, pale, UPPER)
    elif i.upper_type == "sweater":
        for y in (hem - 0.02, hem - 0.008):
            f.line([(-flare, y), (flare, y)], dark, 0.008, UPPER)
        f.line([(-0.045, 0.172), (0.045, 0.172)], dark, 0.022, UPPER)
    elif i.upper_type == "hoodie":
        f.ellipse(-pose.facing * 0.03, 0.165, 0.085 if not pose.side else 0.06, 0.034 if front else 0.055, dark, UPPER)
        if front:
            f.polygon(
                [
                    (mid * 0.6 - s * 0.5, 0.50),
                    (mid * 0.6 - s * 0.36, 0.41),
                    (mid * 0.6 + s * 0.36, 0.41),
                    (mid * 0.6 + s * 0.5, 0.50),
                ],
                dark,
                UPPER,
            )
            for sign in (-1, 1):
                f.line([(mid + sign * 0.02, 0.18), (mid + sign * 0.024, 0.27)], pale, 0.007, UPPER)
    elif i.upper_type == "t-shirt":
        f.ellipse(mid * 0.7, 0.168, 0.042, 0.016, skin if front else dark, UPPER)
    elif i.upper_type == "dress":
        f.line([(-w * 1.05, 0.465), (w * 1.05, 0.465)], dark, 0.016, UPPER)
    if i.upper_pattern == "logo" and "upper_pattern" not in hidden:
        f.polygon([(mid - 0.045, 0.26), (mid + 0.045, 0.26), (mid + 0.045, 0.33), (mid - 0.045, 0.33)], pale, UPPER)
        f.ellipse(mid, 0.295, 0.026, 0.024, PAINT["red"] if i.upper_colour != "red" else PAINT["blue"], UPPER)


def draw_arm(f: Figure, i: Identity, pose: Pose, arm: tuple[Point, Point, Point], far: bool, skin: tuple) -> None:
    shoulder, elbow, hand = arm
    tone = darker(skin) if far else skin
    f.limb([shoulder, elbow, hand], tone, 0.040, UPPER)
    f.ellipse(*hand, 0.026, 0.028, tone, UPPER)
    if i.sleeve == "none":
        return
    colour = PAINT[i.upper_colour]
    cloth = darker(colour, 0.8) if far else darker(colour, 0.92)
    thick = 0.066 if i.upper_type in ("jacket", "coat", "hoodie", "sweater") else 0.056
    if i.sleeve == "short":
        end = (shoulder[0] + 0.75 * (elbow[0] - shoulder[0]), shoulder[1] + 0.75 * (elbow[1] - shoulder[1]))
        f.line([shoulder, end], cloth, thick * 1.15, UPPER)
        f.ellipse(*shoulder, thick * 0.56, thick * 0.56, cloth, UPPER)
        f.line([(end[0] - thick * 0.55, end[1]), (end[0] + thick * 0.55, end[1])], darker(cloth, 0.7), 0.008, UPPER)
    else:
        f.limb([shoulder, elbow, (hand[0], hand[1] - 0.03)], cloth, thick, UPPER)
        if i.upper_type == "sweater":
            f.line(
                [(hand[0] - 0.03, hand[1] - 0.03), (hand[0] + 0.03, hand[1] - 0.03)], darker(cloth, 0.6), 0.024, UPPER
            )


def draw_head(f: Figure, i: Identity, pose: Pose, skin: tuple, beard: bool) -> None:
    hair, turn = HAIR[i.hair_colour], pose.facing
    f.ellipse(turn * 0.006, 0.083, 0.056 if not pose.side else 0.060, 0.068, skin, HEAD)
    bald = i.hair_style == "bald"
    if pose.back:
        if not bald:
            f.ellipse(0, 0.074, 0.060, 0.068, hair, HEAD)
    elif pose.side:
        f.polygon([(turn * 0.056, 0.082), (turn * 0.078, 0.100), (turn * 0.054, 0.106)], skin, HEAD)
        f.ellipse(turn * 0.036, 0.080, 0.008, 0.007, (25, 25, 25), HEAD)
        f.line([(turn * 0.036, 0.126), (turn * 0.058, 0.124)], (170, 60, 60), 0.007, HEAD)
        if not bald:
            f.slice(-turn * 0.004, 0.070, 0.066, 0.066, 180, 360, hair, HEAD)
            f.ellipse(-turn * 0.034, 0.080, 0.034, 0.052, hair, HEAD)
    else:
        for sign in (-1, 1):
            f.ellipse(sign * 0.022, 0.084, 0.009, 0.008, (25, 25, 25), HEAD)
        f.line([(-0.016, 0.124), (0.016, 0.124)], (175, 60, 60), 0.009, HEAD)
        if not bald:
            f.slice(0, 0.068, 0.062, 0.064, 180, 360, hair, HEAD)
            for sign in (-1, 1):
                f.ellipse(sign * 0.052, 0.078, 0.012, 0.030, hair, HEAD)
    if beard and not pose.back:
        f.slice(turn * 0.012, 0.112, 0.046, 0.042, 15, 165, darker(hair, 0.9), HEAD)
        f.line([(turn * 0.03 - 0.014, 0.126), (turn * 0.03 + 0.014, 0.126)], (150, 70, 70), 0.007, HEAD)
    if i.hair_style == "long":
        if pose.back:
            f.polygon([(-0.062, 0.07), (0.062, 0.07), (0.072, 0.27), (-0.072, 0.27)], hair, HEAD)
        elif pose.side:
            f.polygon(
                [(-turn * 0.066, 0.07), (turn * 0.0, 0.06), (-turn * 0.008, 0.25), (-turn * 0.082, 0.26)], hair, HEAD
            )
        else:
            for sign in (-1, 1):
                f.polygon(
                    [(sign * 0.046, 0.06), (sign * 0.066, 0.07), (sign * 0.082, 0.25), (sign * 0.048, 0.25)], hair, HEAD
                )
    elif i.hair_style == "ponytail":
        if pose.back:
            f.polygon([(-0.016, 0.09), (0.016, 0.09), (0.028, 0.25), (-0.028, 0.25)], hair, HEAD)
            f.line([(-0.020, 0.095), (0.020, 0.095)], PAINT["red"], 0.014, HEAD)
        else:  # from the front it hangs over a shoulder
            x = -turn if pose.side else 1
            f.limb([(x * 0.06, 0.06), (x * 0.098, 0.10), (x * 0.088, 0.22)], hair, 0.036, HEAD)
    elif i.hair_style == "bun":
        f.ellipse(-turn * 0.055, 0.014 if not pose.side else 0.03, 0.036, 0.032, hair, HEAD)
        f.line([(-turn * 0.055 - 0.03, 0.036), (-turn * 0.055 + 0.03, 0.036)], darker(hair, 0.5), 0.008, HEAD)
    if i.headwear != "none":
        cap = PAINT[i.headwear_colour]
        if i.headwear == "hat":
            f.slice(0, 0.050, 0.058, 0.066, 180, 360, cap, HEAD)
            f.line([(-0.11, 0.050), (0.11, 0.050)], cap, 0.020, HEAD)
            f.line(
                [(-0.056, 0.036), (0.056, 0.036)], darker(cap, 0.45) if sum(cap) > 150 else (170, 170, 170), 0.012, HEAD
            )
        else:
            f.slice(0, 0.062, 0.068, 0.074, 180, 360, cap, HEAD)
            if i.headwear == "beanie":
                f.line(
                    [(-0.066, 0.058), (0.066, 0.058)], darker(cap, 0.6) if sum(cap) > 150 else (90, 90, 95), 0.024, HEAD
                )
                f.ellipse(0, -0.012, 0.022, 0.018, lighter(cap, 0.4), HEAD)
            elif pose.side:
                f.polygon(
                    [(turn * 0.03, 0.046), (turn * 0.125, 0.056), (turn * 0.125, 0.068), (turn * 0.03, 0.064)],
                    darker(cap, 0.75),
                    HEAD,
                )
            elif not pose.back:
                f.slice(0, 0.058, 0.072, 0.024, 0, 180, darker(cap, 0.65), HEAD)
            else:
                f.ellipse(0, 0.052, 0.020, 0.010, skin if i.hair_style == "bald" else hair, HEAD)
    if i.eyewear != "none" and not pose.back:
        dark = (12, 12, 14)
        places = (turn * 0.036,) if pose.side else (-0.024, 0.024)
        for x in places:
            f.ellipse(x, 0.084, 0.022, 0.018, dark, HEAD)
            if i.eyewear == "glasses":
                f.ellipse(x, 0.084, 0.015, 0.011, (235, 240, 245), HEAD)
                f.ellipse(x, 0.084, 0.005, 0.005, dark, HEAD)
        start, end = (-turn * 0.03, turn * 0.03) if pose.side else (-0.055, 0.055)
        f.line([(start, 0.080), (end, 0.080)], dark, 0.006, HEAD)
