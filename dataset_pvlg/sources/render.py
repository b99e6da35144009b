"""Draws a synthetic pedestrian: an identity seen in a view -> picture, exact boxes of its parts, what can be seen.

Every shape is drawn twice, in colour and as its part's number in a mask, so that a part's box is the extent of the
pixels that show it, whatever covers it. No fonts, no assets; the same arguments give the same picture.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from dataset_pvlg.features import REGION_LABELS
from dataset_pvlg.sources.belongings import carrying_hand, draw_bag, draw_carried, near_side
from dataset_pvlg.sources.body import draw_arm, draw_head, draw_legs, draw_shoes, draw_torso
from dataset_pvlg.sources.figure import Figure, Pose
from dataset_pvlg.sources.identities import FIELDS, Identity
from dataset_pvlg.sources.scene import View, draw_background, occluder, photograph, sample_view

__all__ = ["Rendering", "View", "render", "sample_view"]

SCALE = 2  # the canvas is drawn at twice the stored size
SKIN = ((241, 205, 178), (224, 180, 146), (190, 138, 102), (141, 96, 66), (96, 64, 46))
# A part is shown when this many pixels of the stored picture show it, and this share of what stood there before
# something came in front.
LEAST_PIXELS, LEAST_SHARE = 24, 0.4
# The fields that go with a part: hidden when it is.
PART_FIELDS = {
    "head": ("hair_colour", "hair_style", "headwear", "headwear_colour", "eyewear"),
    "upper body": ("upper_type", "upper_colour", "upper_pattern", "sleeve", "inner_colour"),
    "lower body": ("lower_type", "lower_colour"),
    "feet": ("shoe_type", "shoe_colour"),
    "bag": ("bag_type", "bag_colour", "bag_side"),
    "carried item": ("carried", "carried_colour"),
}


@dataclass(frozen=True)
class Rendering:
    """A drawn picture."""

    image: Image.Image  # RGB, the stored size
    boxes: dict[str, tuple[float, float, float, float]]  # label -> x, y, w, h in pixels of the stored picture
    visible: frozenset[str]  # fields of Identity that a person can see in it


def _picture_size(rng: np.random.Generator) -> tuple[int, int]:
    """Width and height: free sizes with a median about 100 x 265, one in ten 64 x 160."""
    if rng.random() < 0.1:
        return 64, 160
    width = int(rng.integers(84, 121))
    return width, int(width * rng.uniform(2.35, 2.85))


def _hidden_by_view(identity: Identity, view: View) -> frozenset[str]:
    """Fields that this direction, or what the person wears on the head, does not show."""
    hidden = set()
    if view.orientation == "back":
        hidden.add("eyewear")
        if identity.headwear == "cap":  # without its peak it looks like hair
            hidden |= {"headwear", "headwear_colour"}
    if view.orientation != "front":
        hidden.add("inner_colour")
        if identity.upper_pattern == "logo":
            hidden.add("upper_pattern")
    if view.orientation in ("left", "right"):
        hidden.add("bag_side")
    if identity.headwear != "none" and identity.hair_style not in ("long", "ponytail"):
        hidden |= {"hair_style", "hair_colour"}
    if identity.hair_style == "bald":
        hidden.add("hair_colour")
    return frozenset(hidden)


def _draw_person(figure: Figure, identity: Identity, view: View, rng: np.random.Generator) -> None:
    pose = Pose(identity, view, rng)
    skin = SKIN[int(rng.integers(len(SKIN)))]
    beard = identity.gender == "man" and rng.random() < 0.3
    hidden = _hidden_by_view(identity, view)
    arms = pose.arms()
    held = carrying_hand(identity, pose)
    shows_bag = bool(identity.bag_type) and (identity.bag_type == "backpack" or near_side(identity, pose))
    if pose.side:
        draw_arm(figure, identity, pose, arms[0], True, skin)
    draw_legs(figure, identity, pose, skin)
    draw_shoes(figure, identity, pose, skin)
    draw_torso(figure, identity, pose, skin, hidden)
    if not pose.side:
        for arm in arms:
            draw_arm(figure, identity, pose, arm, False, skin)
    if shows_bag and identity.bag_type == "backpack":
        draw_bag(figure, identity, pose)
    draw_head(figure, identity, pose, skin, beard)
    if pose.side:
        draw_arm(figure, identity, pose, arms[1], False, skin)
    if shows_bag and identity.bag_type != "backpack":
        draw_bag(figure, identity, pose)
    # From behind, the body hides what is held in front of it; an umbrella or a bottle hangs at the side.
    if identity.carried and not (pose.back and identity.carried in ("phone", "book")):
        draw_carried(figure, identity, arms[held][2], pose.facing)


def render(identity: Identity, view: View, rng: np.random.Generator) -> Rendering:
    """Draws a picture.

    Args:
        identity: who.
        view: from where, by which camera, in front of what.
        rng: decides size, jitter, skin, clutter and noise.
    """
    width, height = _picture_size(rng)
    canvas = (width * SCALE, height * SCALE)
    unit = canvas[1] * rng.uniform(0.87, 0.97)
    top = canvas[1] * rng.uniform(0.010, 0.045)
    middle = canvas[0] * rng.uniform(0.44, 0.56)
    figure = Figure(*canvas, middle, top, unit)
    draw_background(figure.colour, view.background, *canvas, rng)
    _draw_person(figure, identity, view, rng)
    drawn = np.bincount(np.asarray(figure.mask).ravel(), minlength=7)
    if view.occluded:
        shape, box, fill = occluder(*canvas, rng)
        for draw, paint in ((figure.colour, fill), (figure.part, 0)):
            (draw.rectangle if shape == "rectangle" else draw.ellipse)(box, fill=paint)
    mask = np.asarray(figure.mask)
    boxes = {}
    for number, label in enumerate(REGION_LABELS, start=1):
        shown = mask == number
        count = int(shown.sum())
        if count < LEAST_PIXELS * SCALE**2 or count < LEAST_SHARE * drawn[number]:
            continue
        rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
        x, y = columns[0] / SCALE, rows[0] / SCALE
        boxes[label] = (x, y, (columns[-1] + 1) / SCALE - x, (rows[-1] + 1) / SCALE - y)
    gone = {field for label, names in PART_FIELDS.items() if label not in boxes for field in names}
    visible = frozenset(FIELDS) - gone - _hidden_by_view(identity, view)
    return Rendering(photograph(figure.image, (width, height), view, rng), boxes, visible)
