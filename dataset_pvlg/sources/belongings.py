"""What a synthetic pedestrian has along: a bag and a carried item."""

from dataset_pvlg.sources.figure import BAG, CARRIED, Figure, Point, Pose
from dataset_pvlg.sources.garments import PAINT, accent, darker
from dataset_pvlg.sources.identities import Identity


def near_side(i: Identity, pose: Pose) -> bool:
    """From the side only what hangs on the near side can be seen; a person who faces left shows the left side."""
    return not pose.side or (i.bag_side == "left") == (pose.facing < 0)


def draw_bag(f: Figure, i: Identity, pose: Pose) -> None:
    colour = PAINT[i.bag_colour]
    dark = darker(colour, 0.6) if sum(colour) > 150 else (85, 85, 92)
    s = pose.shoulder
    if i.bag_type == "backpack":
        if pose.back:
            f.polygon([(-s * 0.72, 0.20), (s * 0.72, 0.20), (s * 0.78, 0.46), (-s * 0.78, 0.46)], colour, BAG)
            f.polygon([(-s * 0.5, 0.34), (s * 0.5, 0.34), (s * 0.5, 0.44), (-s * 0.5, 0.44)], dark, BAG)
            f.line([(-s * 0.72, 0.28), (s * 0.72, 0.28)], dark, 0.008, BAG)
            f.line([(-0.03, 0.20), (0, 0.185), (0.03, 0.20)], dark, 0.010, BAG)
        elif pose.side:
            x = -pose.facing * s * 0.75
            f.polygon(
                [(x, 0.20), (x - pose.facing * 0.10, 0.23), (x - pose.facing * 0.11, 0.45), (x, 0.46)], colour, BAG
            )
            f.line([(x - pose.facing * 0.03, 0.36), (x - pose.facing * 0.10, 0.36)], dark, 0.010, BAG)
            f.line([(x, 0.21), (pose.facing * 0.02, 0.19), (pose.facing * 0.03, 0.30), (x, 0.40)], colour, 0.024, BAG)
        else:
            for sign in (-1, 1):
                f.line([(sign * s * 0.62, 0.175), (sign * s * 0.62, 0.40)], colour, 0.036, BAG)
                f.line([(sign * s * 0.62, 0.28), (sign * s * 0.62, 0.30)], dark, 0.036, BAG)
                f.polygon(
                    [(sign * s * 1.0, 0.22), (sign * s * 1.16, 0.24), (sign * s * 1.16, 0.42), (sign * s * 1.0, 0.44)],
                    colour,
                    BAG,
                )
        return
    sign = (1 if i.bag_side == "left" else -1) * pose.left
    hand = pose.arms()[1][2] if pose.side else pose.arms()[1 if sign > 0 else 0][2]
    if i.bag_type == "shoulder bag":
        x = 0.0 if pose.side else sign * (pose.hip + 0.025)
        top = (-pose.facing * 0.05, 0.18) if pose.side else (-sign * s * 0.75, 0.178)
        f.line([top, (x, 0.44)], colour, 0.020, BAG)
        f.polygon([(x - 0.062, 0.43), (x + 0.062, 0.43), (x + 0.058, 0.54), (x - 0.058, 0.54)], colour, BAG)
        f.polygon([(x - 0.062, 0.43), (x + 0.062, 0.43), (x + 0.05, 0.48), (x - 0.05, 0.48)], dark, BAG)
    elif i.bag_type == "handbag":
        x, y = hand
        f.line([(x - 0.035, y + 0.07), (x - 0.02, y), (x + 0.02, y), (x + 0.035, y + 0.07)], colour, 0.012, BAG)
        f.polygon(
            [(x - 0.055, y + 0.06), (x + 0.055, y + 0.06), (x + 0.068, y + 0.16), (x - 0.068, y + 0.16)], colour, BAG
        )
        f.ellipse(x, y + 0.085, 0.012, 0.010, dark, BAG)
    else:
        x = hand[0] + (-pose.facing * 0.06 if pose.side else sign * 0.035)
        f.line([(hand[0], hand[1] + 0.01), (x, 0.68)], (70, 70, 75), 0.014, BAG)
        f.polygon([(x - 0.075, 0.68), (x + 0.075, 0.68), (x + 0.075, 0.955), (x - 0.075, 0.955)], colour, BAG)
        for dx in (-0.03, 0.03):
            f.line([(x + dx, 0.70), (x + dx, 0.935)], dark, 0.010, BAG)
        for dx in (-0.05, 0.05):
            f.ellipse(x + dx, 0.968, 0.016, 0.014, (30, 30, 30), BAG)


def carrying_hand(i: Identity, pose: Pose) -> int:
    """Index into `Pose.arms()` of the hand that holds the carried item: not the one with the bag."""
    if pose.side:
        return 1
    return 0 if i.bag_side and (1 if i.bag_side == "left" else -1) * pose.left > 0 else 1


def draw_carried(f: Figure, i: Identity, hand: Point, facing: int) -> None:
    colour, (x, y) = PAINT[i.carried_colour], hand
    if i.carried == "umbrella":
        f.polygon([(x - 0.022, y), (x + 0.022, y), (x + 0.006, y + 0.33), (x - 0.006, y + 0.33)], colour, CARRIED)
        f.line([(x, y - 0.05), (x, y + 0.02)], (90, 60, 35), 0.014, CARRIED)
        f.line([(x, y + 0.32), (x, y + 0.36)], (60, 60, 60), 0.008, CARRIED)
    elif i.carried == "phone":
        f.polygon(
            [(x - 0.024, y - 0.07), (x + 0.024, y - 0.07), (x + 0.024, y + 0.015), (x - 0.024, y + 0.015)],
            (22, 22, 26),
            CARRIED,
        )
        f.polygon(
            [(x - 0.017, y - 0.058), (x + 0.017, y - 0.058), (x + 0.017, y), (x - 0.017, y)], (120, 190, 240), CARRIED
        )
    elif i.carried == "bottle":
        f.polygon(
            [(x - 0.022, y - 0.06), (x + 0.022, y - 0.06), (x + 0.022, y + 0.06), (x - 0.022, y + 0.06)],
            colour,
            CARRIED,
        )
        f.polygon(
            [(x - 0.010, y - 0.095), (x + 0.010, y - 0.095), (x + 0.010, y - 0.06), (x - 0.010, y - 0.06)],
            (235, 235, 235),
            CARRIED,
        )
    else:
        f.polygon(
            [(x - 0.050, y - 0.05), (x + 0.050, y - 0.05), (x + 0.050, y + 0.055), (x - 0.050, y + 0.055)],
            colour,
            CARRIED,
        )
        f.line([(x - 0.040, y - 0.05), (x - 0.040, y + 0.055)], (245, 245, 240), 0.010, CARRIED)
        f.line([(x - 0.01, y - 0.015), (x + 0.035, y - 0.015)], accent(i.carried_colour), 0.010, CARRIED)
