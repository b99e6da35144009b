"""One image of a synthetic person: the crop, exact region boxes, and what of the person can be seen in it.

Procedural (polygons and ellipses, no assets), deterministic from identity, view and generator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from dataset_pvlg.synthetic import draw_canvas as c
from dataset_pvlg.synthetic.draw_backgrounds import BACKGROUNDS, draw_background
from dataset_pvlg.synthetic.draw_body import Body
from dataset_pvlg.synthetic.draw_camera import CAMERAS, photograph
from dataset_pvlg.synthetic.draw_canvas import LABELS, Canvas
from dataset_pvlg.synthetic.draw_cloth import print_cloth
from dataset_pvlg.synthetic.draw_clothes import draw_arm, draw_logo, draw_trunk
from dataset_pvlg.synthetic.draw_head import draw_hair_behind, draw_head
from dataset_pvlg.synthetic.draw_legs import draw_legs
from dataset_pvlg.synthetic.draw_things import (
    draw_bag,
    draw_bag_behind,
    draw_item,
    draw_occluder,
    draw_straps,
    holds,
)  # fmt: skip
from dataset_pvlg.synthetic.identities import Identity

ORIENTATIONS = {"front": 0.38, "back": 0.26, "left": 0.18, "right": 0.18}
OCCLUDERS = ("pole", "box", "bush", "arm", "car")
OCCLUDED_SHARE = 0.15
SMALL_SHARE = 0.1  # images stored at 64x160
SEEN = 0.35  # a region of which less is left has no box
KNOWN = 0.45  # a thing of which less is left is not recognised
_SUPER = 2  # drawn at twice the stored size
_MARGIN = 0.1  # of the height, drawn around the crop, so that what is cut off is known


@dataclass(frozen=True)
class View:
    """How a person is seen. `orientation` left: facing the image's left, so that the left side is near."""

    orientation: str  # front, back, left, right
    stride: float  # 0 standing to 1 full step
    leading: int  # which leg is in front: -1 or 1
    yaw: float  # small turn of a front or back view, body heights
    camera: str  # c1 to c6
    background: str  # street, grass, mall, wall, indoor
    light: float  # exposure
    occluder: str  # empty, pole, box, bush, arm, car
    width: int  # of the stored image, pixels
    height: int


@dataclass(frozen=True)
class Rendering:
    """image: RGB. boxes: region label -> (x, y, w, h) in its pixels. visible: identity fields one can see."""

    image: Image.Image
    boxes: dict[str, tuple[float, float, float, float]]
    visible: frozenset[str]


def sample_view(rng: np.random.Generator) -> View:
    """A view by the frequencies of real crops: sizes with a median near 96x260, a tenth at 64x160."""
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
    """Draw `identity` as seen in `view`; boxes are clipped to the crop and dropped where mostly hidden.

    `built_as`: the person of whom `identity` is an edited copy. With the same view and generator state the two images
    then differ by the edit alone.
    """
    body = Body(identity, view.orientation, view.stride * view.leading, view.yaw, built_as)
    wide, high = view.width * _SUPER, view.height * _SUPER
    margin = int(high * _MARGIN)
    canvas = Canvas(wide + 2 * margin, high + 2 * margin)
    scale, x, y = _place(identity, body, view, wide, high, rng)
    draw_background(canvas.image, view.background, margin + y + scale, scale, rng)
    canvas.place(margin + x, margin + y, scale, -1 if view.orientation == "left" else 1)
    _draw_person(canvas, body)

    pixels = np.array(canvas.image)
    print_cloth(pixels, identity, canvas)
    crop = (slice(margin, margin + high), slice(margin, margin + wide))
    whole = np.bincount(pixels[..., 3].reshape(-1), minlength=32)
    if view.occluder:
        front = Canvas(wide, high)
        draw_occluder(front, view.occluder, rng)
        over = np.asarray(front.image)
        pixels[crop] = np.where(over[..., 3:] == c.OCCLUDER, over, pixels[crop])
    pixels = pixels[crop]
    parts = pixels[..., 3]
    left = np.bincount(parts.reshape(-1), minlength=32)
    boxes = _boxes(parts, whole, left)
    visible = _visible(identity, body, view, boxes, whole, left, canvas.expected)

    scene = Image.fromarray(np.ascontiguousarray(pixels[..., :3])).reduce(_SUPER)
    return Rendering(photograph(scene, view.camera, view.light, rng), boxes, visible)


def _place(
    identity: Identity, body: Body, view: View, wide: int, high: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Pixels per body height, and the place of the top of the head in the crop."""
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
    """Back to front."""
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


def _boxes(parts: np.ndarray, whole: np.ndarray, left: np.ndarray) -> dict[str, tuple[float, float, float, float]]:
    labels = c.LABEL_INDEX[parts]
    boxes = {}
    for n, label in enumerate(LABELS, start=1):
        ids = list(c.PARTS_OF[label])
        if not left[ids].sum() or left[ids].sum() < SEEN * whole[ids].sum():
            continue
        spots = labels == n
        rows, columns = np.flatnonzero(spots.any(axis=1)), np.flatnonzero(spots.any(axis=0))
        x, y = columns[0] / _SUPER, rows[0] / _SUPER
        w, h = (columns[-1] + 1) / _SUPER - x, (rows[-1] + 1) / _SUPER - y
        if w >= 1 and h >= 1:
            boxes[label] = (float(x), float(y), float(w), float(h))
    bag, item = [c.BAG, c.BAG_DETAIL], [c.ITEM, c.ITEM_DETAIL]
    for label, ids in (("bag", bag), ("carried item", item)):
        if label in boxes and left[ids].sum() < 40 * _SUPER**2:
            del boxes[label]
    return boxes


def _visible(
    identity: Identity,
    body: Body,
    view: View,
    boxes: dict,
    whole: np.ndarray,
    left: np.ndarray,
    expected: dict[int, float],
) -> frozenset[str]:
    """The identity fields that a person would recognise in this image."""

    def kept(*ids: int, least: int = 0) -> bool:
        """Enough of these parts is left: a share of what is drawn, and `least` stored pixels."""
        there = left[list(ids)].sum()
        return there >= KNOWN * whole[list(ids)].sum() and there >= max(1, least * _SUPER**2)

    seen: set[str] = set()
    front, bare = view.orientation == "front", identity.headwear == "none"
    if "upper body" in boxes and ("head" in boxes or "lower body" in boxes):
        seen |= {"gender", "build"}
    if "head" in boxes:
        seen.add("headwear")
        if not bare and kept(c.HEADWEAR, least=20):
            seen.add("headwear_colour")
        elif not bare:
            seen.discard("headwear")
        if not body.back and (identity.eyewear == "none" or kept(c.EYEWEAR, least=8)):
            seen.add("eyewear")
        if identity.eyewear == "glasses" and view.height < 200:
            seen.discard("eyewear")
        if identity.hair_style == "bald":
            seen |= {"hair_style"} if bare else set()
        elif kept(c.HAIR, least=60 if bare else 45):
            seen.add("hair_colour")
            tied = identity.hair_style in ("ponytail", "bun")
            if bare or identity.hair_style in ("long", "short") or (tied and not front):
                seen.add("hair_style")
    cloth = (c.UPPER, c.DRESS_SKIRT) if identity.upper_type == "dress" else (c.UPPER,)
    if "upper body" in boxes and kept(*cloth, least=150):
        seen |= {"upper_type", "upper_colour"}
        if kept(c.UPPER, c.ARM, least=150):
            seen.add("sleeve")
        if identity.upper_pattern != "logo":
            seen.add("upper_pattern")
        elif kept(c.LOGO, least=40):
            seen.add("upper_pattern")
        if identity.inner_colour and kept(c.INNER, least=60):
            seen.add("inner_colour")
    if "lower body" in boxes and identity.lower_type and kept(c.LOWER, least=150):
        seen |= {"lower_type", "lower_colour"}
    if "feet" in boxes and kept(c.SHOE, least=40):
        seen |= {"shoe_type", "shoe_colour"}
    if "bag" in boxes:
        there = left[c.BAG] + left[c.BAG_DETAIL]
        if there >= KNOWN * expected.get(c.BAG, 0.0) and kept(c.BAG, c.BAG_DETAIL, least=60):
            seen |= {"bag_type", "bag_colour", "bag_side"}
        else:
            del boxes["bag"]
    if "carried item" in boxes:
        there = left[c.ITEM] + left[c.ITEM_DETAIL]
        if there >= KNOWN * expected.get(c.ITEM, 0.0) and kept(c.ITEM, c.ITEM_DETAIL, least=35):
            seen |= {"carried", "carried_colour"}
        else:
            del boxes["carried item"]
    return frozenset(seen)
