"""Rendering of one image: the crop, a box for each visible region, and the facts that the image shows of it.

Images are drawn from polygons and ellipses, without assets. Identity, seed key and size determine the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from dataset_pvlg.synthetic.canvas import RGB, Canvas
from dataset_pvlg.synthetic.draw_person import Figure, shoulder_width
from dataset_pvlg.synthetic.draw_things import draw_thing, is_behind
from dataset_pvlg.synthetic.facts import Region, facts_of_regions
from dataset_pvlg.synthetic.identities import TYPES, Identity, things_of
from dataset_pvlg.synthetic.placing import Arrangement, arrange
from dataset_pvlg.synthetic.poses import Skeleton, make_skeleton
from dataset_pvlg.synthetic.scenes import add_pattern, draw_occluder, draw_scene
from dataset_pvlg.synthetic_v1.draw_camera import CAMERAS, apply_camera

MIN_PIXELS, MIN_SIDE, MIN_SHARE = 90, 7, 0.25  # a region with less visible area or share has no box
_SUPER = 2  # factor of supersampling
_OTHER = 100  # first region number of the second person, who has no boxes
PATTERN_PERIOD = {"bag": 0.05, "hat": 0.034, "scarf": 0.04, "suitcase": 0.06, "umbrella": 0.075, "dog": 0.05}


@dataclass(frozen=True)
class View:
    """Composition, camera and pose of one image.

    Args:
        width: of the image in pixels.
        height: of the image in pixels.
        scale: height of the standing person as a fraction of the image height.
        x: position of the person's hips as a fraction of the width.
        ground: row of the feet as a fraction of the height; over 1 if they are below the image.
        roll: rotation of the person in radians.
        faces: 1 or -1; direction of a person seen from the side.
        framing: full, upper or lower, for what the composition shows; occluded for a wall in front of the legs.
        camera: c1 to c6.
        light: exposure, about 1.
        pole: whether a pole stands in front.
        other: 0 for no second person; otherwise -1 or 1 for the edge where the second person is.
        arrangement: pose and places of things.
    """

    width: int
    height: int
    scale: float
    x: float
    ground: float
    roll: float
    faces: int
    framing: str
    camera: str
    light: float
    pole: bool
    other: int
    arrangement: Arrangement


@dataclass(frozen=True)
class Rendering:
    """A rendered image.

    Args:
        image: RGB.
        regions: the visible regions, with boxes in pixels and facts.
        trunk_visible: whether the trunk and the head are mostly in the image.
        other_visible: share of the image that the second person covers.
        ids: uint8 `[2 h, 2 w]`, number of the region of each pixel of the drawing; region n of `regions` has the
            number `regions[n].number`.
    """

    image: Image.Image
    regions: tuple[Region, ...]
    trunk_visible: bool
    other_visible: float
    ids: np.ndarray


def sample_view(identity: Identity, rng: np.random.Generator) -> View:
    """Samples a view of a person."""
    width = int(rng.integers(76, 133))
    height = int(width * rng.uniform(1.35, 2.9))
    height = min(height, 272)
    arrangement = arrange(identity, rng)
    framing = ("full", "upper", "occluded", "lower")[int(np.searchsorted([0.74, 0.88, 0.96], rng.random()))]
    if framing == "full":
        scale = float(rng.uniform(0.5, 1.1))
        if scale > 0.94:
            ground = float(rng.uniform(0.94, 1.08))
        else:
            ground = float(rng.uniform(min(scale + 0.06, 0.99), 0.99))
    elif framing == "upper":
        scale = float(rng.uniform(1.15, 1.6))
        ground = float(scale * rng.uniform(0.92, 1.08))
    elif framing == "lower":
        scale = float(rng.uniform(0.95, 1.25))
        ground = float(rng.uniform(0.88, 0.98))
    else:
        scale, ground = float(rng.uniform(0.75, 1.15)), 0.0
        ground = float(min(scale + rng.uniform(0.05, 0.16), 1.25))
    # A person of this height in a narrow image is wider than the image; a wide image leaves space beside the person.
    reach = 0.3 * scale * height / width
    low, high = (0.3, 0.7) if reach > 0.5 else (max(0.16, reach * 0.62), min(0.84, 1 - reach * 0.62))
    return View(
        width=width,
        height=height,
        scale=scale,
        x=float(rng.uniform(low, high)),
        ground=ground,
        roll=float(np.clip(rng.normal(0, 0.07), -0.2, 0.2)),
        faces=1 if rng.random() < 0.5 else -1,
        framing=framing,
        camera=str(list(CAMERAS)[int(rng.integers(len(CAMERAS)))]),
        light=float(rng.uniform(0.9, 1.1)),
        pole=bool(rng.random() < 0.1),
        other=int(rng.choice([-1, 1])) if rng.random() < 0.36 else 0,
        arrangement=arrangement,
    )


def draw_figure(
    canvas: Canvas, identity: Identity, arrangement: Arrangement, skeleton: Skeleton, parts: dict[str, int]
) -> None:
    """Draws a person with all things of the arrangement.

    Args:
        canvas: the canvas, with its origin set.
        identity: the person.
        arrangement: places of the things.
        skeleton: the joints.
        parts: slot -> region number.
    """
    things = things_of(identity)
    places = arrangement.places
    loose = {slot: things[slot] for slot in places if slot not in ("top", "inner", "bottom", "shoes")}
    worn_hat = any(TYPES[thing.kind] == "hat" and places[slot].where == "worn" for slot, thing in loose.items())
    figure = Figure(canvas, identity, skeleton, parts, worn_hat)
    view = skeleton.view
    behind = [slot for slot, thing in loose.items() if is_behind(thing, places[slot], view)]
    bag = None
    for slot in behind:
        bag = draw_thing(canvas, loose[slot], places[slot], skeleton, parts[slot]) or bag
    if skeleton.pose == "sitting":
        _seat(canvas, skeleton)
    arms_first = [0] if view == "side" else []
    for n in arms_first:
        figure.arm(n)
    if view == "back" and skeleton.pose in ("sitting", "crouching"):
        figure.legs()
        figure.trunk()
    elif skeleton.pose in ("sitting", "crouching", "cycling"):
        figure.trunk()
        figure.legs()
    else:
        figure.legs()
        figure.trunk()
    on_body = ("neck", "waist", "back", "chest")
    first = [slot for slot in loose if slot not in behind and places[slot].where in on_body]
    for slot in sorted(first, key=lambda slot: on_body.index(places[slot].where)):
        if places[slot].where != "neck":
            bag = draw_thing(canvas, loose[slot], places[slot], skeleton, parts[slot]) or bag
    figure.head()
    for slot in first:
        if places[slot].where == "neck":
            draw_thing(canvas, loose[slot], places[slot], skeleton, parts[slot])
    for n in (0, 1):
        if n not in arms_first:
            figure.arm(n)
    rest = [slot for slot in loose if slot not in behind and slot not in first]
    for slot in sorted(rest, key=lambda slot: (places[slot].where == "bag", slot != "bag")):
        bag = draw_thing(canvas, loose[slot], places[slot], skeleton, parts[slot], bag) or bag


def _seat(canvas: Canvas, skeleton: Skeleton) -> None:
    x, y = skeleton.hip
    canvas.rect(x - 0.14, y + 0.05, x + 0.16, y + 0.085, (128, 98, 66), 0)
    for dx in (-0.11, 0.13):
        canvas.rect(x + dx - 0.012, y + 0.085, x + dx + 0.012, 0.0, (96, 72, 50), 0)


def _figure_on(
    canvas: Canvas,
    identity: Identity,
    arrangement: Arrangement,
    origin: tuple[float, float, float, int, float],
    first: int,
    rng: np.random.Generator,
) -> dict[str, int]:
    """Draws a person at an origin; region numbers start at `first`. Returns slot -> region number."""
    slots = [slot for slot in things_of(identity) if slot in arrangement.places]
    parts = {slot: first + n for n, slot in enumerate([*slots, "hair"])}
    canvas.set_origin(*origin)
    skeleton = make_skeleton(arrangement.pose, arrangement.view, shoulder_width(identity), arrangement.arms, rng)
    draw_figure(canvas, identity, arrangement, skeleton, parts)
    return parts


def render(identity: Identity, other: Identity, view: View, key: tuple[int, ...]) -> Rendering:
    """Draws an image.

    Args:
        identity: the person.
        other: the second person, drawn if `view.other` is not 0.
        view: composition, camera and pose.
        key: of the random generators of everything that the others do not determine.
    """
    wide, high = view.width * _SUPER, view.height * _SUPER
    canvas = Canvas(wide, high)
    scene_rng, body_rng, other_rng, camera_rng = (np.random.default_rng((*key, n)) for n in range(4))
    ground, scale = view.ground * high, view.scale * high
    draw_scene(canvas.image, ground, scene_rng)
    in_front = view.other != 0 and other_rng.random() < 0.3
    if view.other and not in_front:
        others = _second_person(canvas, other, view, other_rng)
    origin = (view.x * wide, ground, scale, view.faces if view.arrangement.view == "side" else 1, view.roll)
    canvas.drawn = {}
    parts = _figure_on(canvas, identity, view.arrangement, origin, 1, body_rng)
    drawn = dict(canvas.drawn)
    if in_front:
        others = _second_person(canvas, other, view, other_rng)
    if view.framing == "occluded":
        draw_occluder(canvas.image, "wall", ground - scale * float(scene_rng.uniform(0.3, 0.5)), scene_rng)
    if view.pole:
        draw_occluder(canvas.image, "pole", 0, scene_rng)

    pixels = np.array(canvas.image)
    ids = pixels[..., 3].copy()
    if view.other:
        _patterns(pixels, ids, things_of(other), others, scale, other_rng)
    boxes, counts = _patterns(pixels, ids, things_of(identity), parts, scale, body_rng)
    visible = {
        slot: counts[slot] for slot in boxes if _is_region(boxes[slot], counts[slot], drawn.get(parts[slot], 1.0))
    }
    full = {slot: 0.8 * drawn.get(number, 1.0) / _SUPER**2 for slot, number in parts.items()}  # shapes overlap
    shares = {slot: min(1.0, count / full[slot]) for slot, count in visible.items()}
    centre = (view.x * wide - view.roll * scale * -0.5) / _SUPER
    regions = facts_of_regions(
        identity,
        view.arrangement,
        {slot: boxes[slot] for slot in visible},
        visible,
        shares,
        parts,
        centre,
        view.scale * view.height,
    )
    scene = Image.fromarray(np.ascontiguousarray(pixels[..., :3])).reduce(_SUPER)
    image = apply_camera(scene, view.camera, view.light, camera_rng)
    top_share = counts.get("top", 0) / full["top"]
    return Rendering(image, regions, top_share > 0.5, float((ids >= _OTHER).mean()), ids)


def _second_person(canvas: Canvas, other: Identity, view: View, rng: np.random.Generator) -> dict[str, int]:
    """Draws the second person at the edge of the image, partly cut off."""
    wide, high = canvas.image.size
    arrangement = arrange(other, rng)
    scale = view.scale * high * rng.uniform(0.75, 1.1)
    x = wide * (0.5 + 0.5 * view.other) + view.other * scale * rng.uniform(-0.02, 0.09)
    ground = view.ground * high + rng.uniform(-0.06, 0.03) * high
    keep = canvas.drawn
    faces = 1 if rng.random() < 0.5 or arrangement.view != "side" else -1
    parts = _figure_on(canvas, other, arrangement, (x, ground, scale, faces, 0.0), _OTHER, rng)
    canvas.drawn = keep
    return parts


def _patterns(pixels, ids, things, parts, scale, rng) -> tuple[dict, dict]:
    """Adds the patterns of a person's things. Returns boxes in pixels of the image, and visible pixels, by slot."""
    boxes, counts = {}, {}
    turns = rng.uniform(-0.25, 0.25, len(parts)) + np.where(rng.random(len(parts)) < 0.3, np.pi / 2, 0.0)
    for n, (slot, number) in enumerate(parts.items()):
        mask = ids == number
        rows = np.flatnonzero(mask.any(1))
        if not len(rows):
            continue
        columns = np.flatnonzero(mask.any(0))
        y0, y1, x0, x1 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        inside = mask[y0:y1, x0:x1]
        boxes[slot] = (x0 / _SUPER, y0 / _SUPER, (x1 - x0) / _SUPER, (y1 - y0) / _SUPER)
        counts[slot] = int(inside.sum()) / _SUPER**2
        thing = things.get(slot)
        if thing is not None and thing.pattern != "plain":
            period = max(PATTERN_PERIOD.get(TYPES[thing.kind], 0.062) * scale, 10.0)
            add_pattern(pixels, inside, (x0, y0, x1, y1), thing.pattern, RGB[thing.second], period, float(turns[n]))
    return boxes, counts


def _is_region(box: tuple[float, float, float, float], pixels: float, drawn: float) -> bool:
    enough = pixels >= MIN_PIXELS and min(box[2], box[3]) >= MIN_SIDE
    return enough and pixels * _SUPER**2 >= MIN_SHARE * drawn
