"""Rendering of one image of a synthetic person: the crop, exact region boxes, and the visible attributes.

Images are drawn from polygons and ellipses, without assets. Identity, view and random generator determine the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from dataset_pvlg.synthetic_v1 import draw_canvas as c
from dataset_pvlg.synthetic_v1.draw_backgrounds import BACKGROUNDS, draw_background
from dataset_pvlg.synthetic_v1.draw_body import Body
from dataset_pvlg.synthetic_v1.draw_camera import CAMERAS, apply_camera
from dataset_pvlg.synthetic_v1.draw_canvas import LABELS, Canvas
from dataset_pvlg.synthetic_v1.draw_cloth import print_cloth
from dataset_pvlg.synthetic_v1.draw_clothes import draw_arm, draw_logo, draw_trunk
from dataset_pvlg.synthetic_v1.draw_head import draw_hair_behind, draw_head
from dataset_pvlg.synthetic_v1.draw_legs import draw_legs
from dataset_pvlg.synthetic_v1.draw_things import (
    draw_bag,
    draw_bag_behind,
    draw_item,
    draw_occluder,
    draw_straps,
    holds,
)  # fmt: skip
from dataset_pvlg.synthetic_v1.identities import Identity

ORIENTATIONS = {"front": 0.38, "back": 0.26, "left": 0.18, "right": 0.18}
OCCLUDERS = ("pole", "box", "bush", "arm", "car")
OCCLUDED_SHARE = 0.15
SMALL_SHARE = 0.1  # images stored at 64x160
MIN_REGION_SHARE = 0.35  # a region with a smaller visible share has no box
MIN_THING_SHARE = 0.45  # a thing with a smaller visible share is not recognisable
_SUPER = 2  # factor of supersampling
_MARGIN = 0.1  # fraction of the height that is drawn around the crop, to measure what the crop cuts off


@dataclass(frozen=True)
class View:
    """Pose, camera and scene of one image."""

    orientation: str  # front, back; left, right: the side of the image that the person faces
    stride: float  # from 0, standing, to 1, a full step
    leading: int  # leg in front: -1 or 1
    yaw: float  # small turn of a front or back view, in body heights
    camera: str  # c1 to c6
    background: str  # street, grass, mall, wall, indoor
    light: float  # exposure, about 1
    occluder: str  # empty, pole, box, bush, arm, car
    width: int  # of the stored image, in pixels
    height: int  # of the stored image, in pixels


@dataclass(frozen=True)
class Rendering:
    """A rendered image.

    Args:
        image: RGB.
        boxes: region label -> (x, y, w, h) in pixels.
        visible: the fields of `Identity` that are visible.
    """

    image: Image.Image
    boxes: dict[str, tuple[float, float, float, float]]
    visible: frozenset[str]


def sample_view(rng: np.random.Generator) -> View:
    """Samples a view. Sizes follow real crops, with a median near 96x260; one tenth of the images has 64x160 pixels."""
    if rng.random() < SMALL_SHARE:
        width, height = 64, 160
    else:
        width = int(rng.integers(84, 121))
        height = int(width * rng.uniform(2.35, 2.85))
    return View(
        orientation=str(rng.choice(list(ORIENTATIONS), p=list(ORIENTATIONS.values()))),
        stride=float(rng.uniform(0.45, 1.0) if rng.random() < 0.65 else rng.uniform(0.0, 0.15)),
        leading=1 if rng.random() < 0.5 else -1,
        yaw=float(rng.uniform(-0.012, 0.012)),
        camera=str(rng.choice(list(CAMERAS))),
        background=str(rng.choice(BACKGROUNDS)),
        light=float(rng.uniform(0.84, 1.12)),
        occluder=str(rng.choice(OCCLUDERS)) if rng.random() < OCCLUDED_SHARE else "",
        width=width,
        height=height,
    )


def render(identity: Identity, view: View, rng: np.random.Generator, built_as: Identity | None = None) -> Rendering:
    """Draws a person.

    Args:
        identity: the person.
        view: pose, camera and scene.
        rng: random generator of everything that neither of them determines.
        built_as: the person whose edited copy `identity` is. With the same view and generator state, the images of both
            differ by the edit only. None: `identity` itself.

    Returns:
        The image. Boxes are clipped to the crop, and mostly hidden ones are dropped.
    """
    body = Body(identity, view.orientation, view.stride * view.leading, view.yaw, built_as)
    wide, high = view.width * _SUPER, view.height * _SUPER
    margin = int(high * _MARGIN)
    canvas = Canvas(wide + 2 * margin, high + 2 * margin)
    scale, x, y = _scale_and_position(identity, body, view, wide, high, rng)
    draw_background(canvas.image, view.background, margin + y + scale, scale, rng)
    canvas.set_origin(margin + x, margin + y, scale, -1 if view.orientation == "left" else 1)
    _draw_person(canvas, body)

    pixels = np.array(canvas.image)
    print_cloth(pixels, identity, canvas)
    crop = (slice(margin, margin + high), slice(margin, margin + wide))
    drawn_pixels = np.bincount(pixels[..., 3].reshape(-1), minlength=32)
    if view.occluder:
        front = Canvas(wide, high)
        draw_occluder(front, view.occluder, rng)
        over = np.asarray(front.image)
        pixels[crop] = np.where(over[..., 3:] == c.OCCLUDER, over, pixels[crop])
    pixels = pixels[crop]
    parts = pixels[..., 3]
    visible_pixels = np.bincount(parts.reshape(-1), minlength=32)
    boxes = _boxes(parts, drawn_pixels, visible_pixels)
    visible = _visible_fields(identity, body, view, boxes, drawn_pixels, visible_pixels, canvas.expected)

    scene = Image.fromarray(np.ascontiguousarray(pixels[..., :3])).reduce(_SUPER)
    return Rendering(apply_camera(scene, view.camera, view.light, rng), boxes, visible)


def _scale_and_position(
    identity: Identity, body: Body, view: View, wide: int, high: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Pixels per body height, and x and y of the top of the head in the crop."""
    tall = {"hat": 0.03, "beanie": 0.05, "cap": 0.02}.get(identity.headwear, 0.0)
    if identity.hair_style == "bun":
        tall = max(tall, 0.03)
    left, right = -0.19, 0.19
    if body.side:
        left, right = -0.155, 0.165
        if identity.bag_type == "backpack":
            left -= 0.03
        if view.orientation == "left":
            left, right = -right, -left
    else:
        reach = max(body.shoulder, body.waist, body.hip) + 2 * body.arm + 0.012
        left, right = -reach, reach
        if identity.bag_type in ("handbag", "suitcase", "shoulder bag"):
            more = 0.06 if identity.bag_type == "suitcase" else 0.035
            if body.sign(identity.bag_side) > 0:
                right += more
            else:
                left -= more
    scale = min(high * 0.955 / (1 + tall), wide * 1.02 / (right - left)) * rng.uniform(0.93, 1.03)
    x = wide / 2 - scale * (left + right) / 2 + rng.normal(0, 0.022) * wide
    y = (high - scale * (1 + tall)) * rng.uniform(0.35, 0.65) + scale * tall + rng.normal(0, 0.012) * high
    return scale, x, y


def _draw_person(canvas: Canvas, body: Body) -> None:
    """Draws all parts from back to front."""
    hold = holds(body)
    draw_hair_behind(canvas, body)
    if body.side:
        draw_bag_behind(canvas, body)
        draw_arm(canvas, body, -1, hold[-1], far=True)
        draw_legs(canvas, body)
        draw_trunk(canvas, body)
        draw_straps(canvas, body)
    else:
        draw_bag_behind(canvas, body)
        draw_legs(canvas, body)
        for which in (-1, 1):
            if hold[which] != "up":
                draw_arm(canvas, body, which, hold[which])
        draw_trunk(canvas, body)
        draw_logo(canvas, body)
        draw_straps(canvas, body)
    if body.back:
        draw_bag(canvas, body)
    draw_head(canvas, body)
    for which in (1, -1):
        if not body.side and hold[which] == "up":
            draw_arm(canvas, body, which, "up")
    if body.side:
        if body.person.carried and hold[-1] and not hold[1]:
            draw_item(canvas, body)
        draw_arm(canvas, body, 1, hold[1])
    if not body.back:
        draw_bag(canvas, body)
    if not (body.side and hold[-1] and not hold[1]):
        draw_item(canvas, body)


def _boxes(
    parts: np.ndarray, drawn_pixels: np.ndarray, visible_pixels: np.ndarray
) -> dict[str, tuple[float, float, float, float]]:
    """The boxes of all regions with enough visible pixels."""
    labels = c.LABEL_INDEX[parts]
    boxes = {}
    for n, label in enumerate(LABELS, start=1):
        ids = list(c.PARTS_OF[label])
        if not visible_pixels[ids].sum() or visible_pixels[ids].sum() < MIN_REGION_SHARE * drawn_pixels[ids].sum():
            continue
        mask = labels == n
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        x, y = columns[0] / _SUPER, rows[0] / _SUPER
        w, h = (columns[-1] + 1) / _SUPER - x, (rows[-1] + 1) / _SUPER - y
        if w >= 1 and h >= 1:
            boxes[label] = (float(x), float(y), float(w), float(h))
    bag, item = [c.BAG, c.BAG_DETAIL], [c.ITEM, c.ITEM_DETAIL]
    for label, ids in (("bag", bag), ("carried item", item)):
        if label in boxes and visible_pixels[ids].sum() < 40 * _SUPER**2:
            del boxes[label]
    return boxes


def _visible_fields(
    identity: Identity,
    body: Body,
    view: View,
    boxes: dict,
    drawn_pixels: np.ndarray,
    visible_pixels: np.ndarray,
    expected: dict[int, float],
) -> frozenset[str]:
    """The fields of `Identity` that are recognisable; removes the boxes of things that are not."""

    def recognisable(*ids: int, min_pixels: int = 0) -> bool:
        """Whether enough of these parts is visible: a share of the drawn pixels, and `min_pixels` stored pixels."""
        count = visible_pixels[list(ids)].sum()
        return count >= MIN_THING_SHARE * drawn_pixels[list(ids)].sum() and count >= max(1, min_pixels * _SUPER**2)

    fields: set[str] = set()
    front, bareheaded = view.orientation == "front", identity.headwear == "none"
    if "upper body" in boxes and ("head" in boxes or "lower body" in boxes):
        fields |= {"gender", "build"}
    if "head" in boxes:
        fields.add("headwear")
        if not bareheaded and recognisable(c.HEADWEAR, min_pixels=20):
            fields.add("headwear_colour")
        elif not bareheaded:
            fields.discard("headwear")
        if not body.back and (identity.eyewear == "none" or recognisable(c.EYEWEAR, min_pixels=8)):
            fields.add("eyewear")
        if identity.eyewear == "glasses" and view.height < 200:
            fields.discard("eyewear")
        if identity.hair_style == "bald":
            fields |= {"hair_style"} if bareheaded else set()
        elif recognisable(c.HAIR, min_pixels=60 if bareheaded else 45):
            fields.add("hair_colour")
            tied = identity.hair_style in ("ponytail", "bun")
            if bareheaded or identity.hair_style in ("long", "short") or (tied and not front):
                fields.add("hair_style")
    cloth = (c.UPPER, c.DRESS_SKIRT) if identity.upper_type == "dress" else (c.UPPER,)
    if "upper body" in boxes and recognisable(*cloth, min_pixels=150):
        fields |= {"upper_type", "upper_colour"}
        if recognisable(c.UPPER, c.ARM, min_pixels=150):
            fields.add("sleeve")
        if identity.upper_pattern != "logo":
            fields.add("upper_pattern")
        elif recognisable(c.LOGO, min_pixels=40):
            fields.add("upper_pattern")
        if identity.inner_colour and recognisable(c.INNER, min_pixels=60):
            fields.add("inner_colour")
    if "lower body" in boxes and identity.lower_type and recognisable(c.LOWER, min_pixels=150):
        fields |= {"lower_type", "lower_colour"}
    if "feet" in boxes and recognisable(c.SHOE, min_pixels=40):
        fields |= {"shoe_type", "shoe_colour"}
    if "bag" in boxes:
        count = visible_pixels[c.BAG] + visible_pixels[c.BAG_DETAIL]
        if count >= MIN_THING_SHARE * expected.get(c.BAG, 0.0) and recognisable(c.BAG, c.BAG_DETAIL, min_pixels=60):
            fields |= {"bag_type", "bag_colour", "bag_side"}
        else:
            del boxes["bag"]
    if "carried item" in boxes:
        count = visible_pixels[c.ITEM] + visible_pixels[c.ITEM_DETAIL]
        if count >= MIN_THING_SHARE * expected.get(c.ITEM, 0.0) and recognisable(c.ITEM, c.ITEM_DETAIL, min_pixels=35):
            fields |= {"carried", "carried_colour"}
        else:
            del boxes["carried item"]
    return frozenset(fields)
