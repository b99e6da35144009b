"""Where each thing of a person is in one image: worn, held, carried or on the ground; pose and view."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dataset_pvlg.synthetic.identities import TYPES, Identity, draw
from dataset_pvlg.synthetic.poses import POSES, VIEWS


@dataclass(frozen=True)
class Place:
    """The place of a thing.

    Args:
        where: worn, neck, hand, arm, elbow, waist, back, chest, shoulder, across, overhead, ground, bag or ridden.
        limb: the arm that holds it, 0 or 1; None for no arm.
        x: offset from the hips in body units for what stands on the ground.
    """

    where: str
    limb: int | None = None
    x: float = 0.0


@dataclass(frozen=True)
class Arrangement:
    """Pose, view and places in one image. A thing without a place is not in the image."""

    pose: str
    view: str  # front, back, side
    arms: tuple[str, str]
    places: dict[str, Place]


_WHERE = {
    "hat": {"worn": 62, "hand": 38},
    "scarf": {"neck": 68, "bag": 32},
    "jacket": {"arm": 52, "waist": 48},
    "backpack": {"back": 52, "chest": 12, "hand": 16, "ground": 20},
    "shoulder bag": {"across": 44, "shoulder": 34, "ground": 22},
    "handbag": {"hand": 42, "elbow": 34, "ground": 24},
    "umbrella": {"overhead": 58, "hand": 42},
    "suitcase": {"hand": 60, "ground": 40},
    "dog": {"ground": 100},
}


def _ground(rng: np.random.Generator, taken: list[float]) -> float | None:
    """A free position beside the person."""
    options = [x for x in (-0.27, 0.27, -0.4, 0.4, -0.14, 0.14) if all(abs(x - other) > 0.17 for other in taken)]
    if not options:
        return None
    x = options[int(rng.integers(min(2, len(options))))] + float(rng.uniform(-0.04, 0.04))
    taken.append(x)
    return x


def arrange(identity: Identity, rng: np.random.Generator) -> Arrangement:
    """Draws pose, view and places for one image of a person."""
    kinds = {thing.kind for thing in identity.things}
    view, pose = draw(rng, VIEWS), draw(rng, POSES)
    places: dict[str, Place] = {slot: Place("worn") for slot in ("top", "inner", "bottom", "shoes")}
    free, arms = [int(n) for n in rng.permutation(2)], ["down", "down"]
    ground: list[float] = []

    def hold(how: str) -> int | None:
        if not free:
            return None
        limb = free.pop()
        arms[limb] = how
        return limb

    if "bicycle" in kinds:
        if rng.random() < 0.55 and "pushchair" not in kinds:
            pose, view = "cycling", "side"
            places["bicycle"] = Place("ridden")
            arms = ["push", "push"]
            free = []
        elif pose in ("standing", "walking") and view == "side":
            places["bicycle"] = Place("hand", hold("push"), 0.12)
    if "pushchair" in kinds and len(free) == 2 and pose in ("standing", "walking"):
        places["pushchair"] = Place("hand", hold("push"), 0.36 if view == "side" else 0.0)
        hold("push")
        ground.append(0.4 if view == "side" else 0.0)
    order = ["bag", *(kind for kind in sorted(kinds) if kind not in ("bicycle", "pushchair", "scarf")), "scarf"]
    for slot in order:
        thing = identity.bag if slot == "bag" else next((t for t in identity.things if t.kind == slot), None)
        if thing is not None:
            place = _place(thing.kind, places, pose, view, hold, ground, rng)
            if place is not None:
                places[slot] = place
    if pose in ("sitting", "crouching"):
        arms = [how if how != "down" else "bent" for how in arms]
    for limb in free:
        if arms[limb] == "down" and rng.random() < 0.3:
            arms[limb] = "bent"
    return Arrangement(pose, view, (arms[0], arms[1]), places)


def _place(kind, places, pose, view, hold, ground, rng) -> Place | None:
    weights = dict(_WHERE["hat" if TYPES[kind] == "hat" else kind])
    if pose == "cycling":
        weights.pop("ground", None)
    if kind == "scarf" and places.get("bag", Place("")).where not in ("hand", "ground", "elbow"):
        weights.pop("bag")
    if kind == "jacket" and pose in ("sitting", "crouching", "cycling"):
        weights.pop("waist")
    if kind == "backpack" and view == "front":
        weights.pop("back")
    if kind == "backpack" and view == "back":
        weights.pop("chest")
    while weights:
        where = draw(rng, weights)
        if where in ("hand", "arm", "elbow", "overhead"):
            how = {"hand": "down", "arm": "bent", "elbow": "bent", "overhead": "up"}[where]
            if kind in ("cap", "beanie", "sun hat") and rng.random() < 0.4:
                how = "bent"
            limb = hold(how)
            if limb is not None:
                return Place(where, limb)
        elif where == "ground":
            x = _ground(rng, ground)
            if x is not None:
                return Place(where, None, x)
        else:
            return Place(where, int(rng.integers(2)))
        weights.pop(where)
    return None
