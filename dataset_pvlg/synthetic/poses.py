"""Poses: the joints of a person in body units, standing, walking, sitting, crouching or cycling."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dataset_pvlg.synthetic.canvas import Point

THIGH, SHIN, TRUNK, UPPER_ARM, FOREARM = 0.245, 0.245, 0.30, 0.155, 0.145
POSES = {"standing": 0.32, "walking": 0.4, "sitting": 0.15, "crouching": 0.13}
VIEWS = {"front": 0.36, "back": 0.24, "side": 0.4}
ARMS = ("down", "bent", "up", "push")


@dataclass(frozen=True)
class Skeleton:
    """Joints of a person. Limbs have index 0 (left in the image, or the far one in a side view) and 1.

    The ground is y = 0, upwards is negative, and the hips are near x = 0. A person seen from the side faces right.
    """

    pose: str
    view: str  # front, back, side
    hip: Point
    neck: Point
    head: Point  # centre of the skull
    shoulders: tuple[Point, Point]
    elbows: tuple[Point, Point]
    hands: tuple[Point, Point]
    hips: tuple[Point, Point]
    knees: tuple[Point, Point]
    ankles: tuple[Point, Point]


def _ahead(start: Point, angle: float, length: float) -> Point:
    """The end of a bone; angle 0 points down, a positive one forward (right)."""
    return start[0] + length * math.sin(angle), start[1] + length * math.cos(angle)


def _arm(shoulder: Point, how: str, side: int, view: str, swing: float) -> tuple[Point, Point]:
    """Elbow and hand. `side` is -1 or 1 in front and back views, 1 in a side view."""
    if view == "side":
        upper, fore = {
            "down": (swing, swing + 0.25),
            "bent": (swing * 0.4 - 0.1, 1.45),
            "up": (1.0, 2.75),
            "push": (0.75, 1.2),
        }[how]
        elbow = _ahead(shoulder, upper, UPPER_ARM)
        return elbow, _ahead(elbow, fore, FOREARM)
    upper, fore = {
        "down": (0.16 + abs(swing) * 0.2, 0.08),
        "bent": (0.3, -0.95),
        "up": (0.75, 2.6),
        "push": (0.35, -0.35),
    }[how]
    elbow = _ahead(shoulder, side * upper, UPPER_ARM)
    return elbow, _ahead(elbow, side * fore, FOREARM)


def _side_legs(pose: str, stride: float, rng: np.random.Generator) -> tuple[list[tuple[float, float]], float]:
    """(thigh angle, knee flexion) of both legs, and the lean of the trunk."""
    if pose == "sitting":
        return [(1.4 + rng.uniform(-0.1, 0.1), 1.4), (1.45, 1.5 + rng.uniform(-0.3, 0.2))], rng.uniform(-0.15, 0.2)
    if pose == "crouching":
        return [(1.75, 2.3), (1.5 + rng.uniform(0, 0.3), 2.15)], rng.uniform(0.35, 0.65)
    if pose == "cycling":
        phase = rng.uniform(-0.35, 0.35)
        return [(0.85 + phase, 1.05 + phase * 0.6), (0.85 - phase, 1.05 - phase * 0.6)], rng.uniform(0.45, 0.7)
    if pose == "walking":
        return [(stride, 0.1), (-stride * 0.8, 0.3)], rng.uniform(0.0, 0.12)
    return [(stride, 0.02), (-stride, 0.04)], rng.uniform(-0.04, 0.06)


def make_skeleton(pose: str, view: str, wide: float, arms: tuple[str, str], rng: np.random.Generator) -> Skeleton:
    """The joints of one person in one image.

    Args:
        pose: standing, walking, sitting, crouching or cycling.
        view: front, back or side. Cycling exists in a side view only.
        wide: half the distance of the shoulders.
        arms: how each arm is held, see `ARMS`.
        rng: random generator of angles.
    """
    stride = rng.uniform(0.25, 0.5) if pose == "walking" else rng.uniform(0.0, 0.06)
    if rng.random() < 0.5:
        stride = -stride
    swing = 0.8 * stride if pose == "walking" else float(rng.uniform(-0.1, 0.15))
    if view == "side":
        angles, lean = _side_legs(pose, stride, rng)
        hips: tuple[Point, Point] = ((-0.012, 0.0), (0.012, 0.0))
        knees = tuple(_ahead(h, a, THIGH) for h, (a, _) in zip(hips, angles, strict=True))
        ankles = tuple(_ahead(k, a - f, SHIN) for k, (a, f) in zip(knees, angles, strict=True))
        neck = (TRUNK * math.sin(lean), -TRUNK * math.cos(lean))
        shoulders = ((neck[0] - 0.01, neck[1] + 0.03), (neck[0] + 0.01, neck[1] + 0.035))
        head = (neck[0] + 0.02 + 0.04 * math.sin(lean), neck[1] - 0.105)
        limbs = [_arm(shoulders[n], arms[n], 1, view, (-swing, swing)[n]) for n in (0, 1)]
    else:
        lean = float(rng.uniform(-0.08, 0.08))
        hips = ((-0.045, 0.0), (0.045, 0.0))
        short = {"sitting": 0.4, "crouching": 0.12}.get(pose, 1.0)
        spread = {"sitting": 0.05, "crouching": 0.09}.get(pose, 0.012)
        lift = (0.09 * abs(stride), 0.0) if stride > 0 else (0.0, 0.09 * abs(stride))
        knees = tuple((hips[n][0] + (-1, 1)[n] * spread, THIGH * short * (1 - lift[n])) for n in (0, 1))
        ankles = tuple(
            (
                knees[n][0] - (-1, 1)[n] * spread * 0.4,
                knees[n][1] + SHIN * (0.92 if pose == "crouching" else 1.0) - lift[n] * 0.8,
            )
            for n in (0, 1)
        )
        squash = 0.86 if pose == "crouching" else 1.0
        neck = (TRUNK * math.sin(lean), -TRUNK * squash)
        shoulders = ((neck[0] - wide, neck[1] + 0.035), (neck[0] + wide, neck[1] + 0.035))
        head = (neck[0] + float(rng.uniform(-0.015, 0.015)), neck[1] - (0.105 if pose != "crouching" else 0.09))
        limbs = [_arm(shoulders[n], arms[n], (-1, 1)[n], view, swing) for n in (0, 1)]
    down = -0.03 - max(point[1] for point in ankles)  # the ankles are a little above the ground
    if pose == "cycling":
        down -= 0.1
    move = lambda p: (p[0], p[1] + down)  # noqa: E731
    return Skeleton(
        pose,
        view,
        move((0.0, 0.0)),
        move(neck),
        move(head),
        (move(shoulders[0]), move(shoulders[1])),
        (move(limbs[0][0]), move(limbs[1][0])),
        (move(limbs[0][1]), move(limbs[1][1])),
        (move(hips[0]), move(hips[1])),
        (move(knees[0]), move(knees[1])),
        (move(ankles[0]), move(ankles[1])),
    )
