"""Images of synthetic people: deterministic, with exact boxes and the visible fields."""

from dataclasses import fields, replace

import numpy as np
import pytest

from dataset_pvlg.features import REGION_LABELS
from dataset_pvlg.synthetic_v1.draw_canvas import COLOURS, LABELS
from dataset_pvlg.synthetic_v1.identities import Identity, sample_identities
from dataset_pvlg.synthetic_v1.render import ORIENTATIONS, View, render, sample_view

MAN = Identity(
    gender="man", build="average", hair_colour="black", hair_style="short", headwear="none", headwear_colour="",
    eyewear="none", upper_type="t-shirt", upper_colour="red", upper_pattern="plain", sleeve="short", inner_colour="",
    lower_type="pants", lower_colour="blue", shoe_type="sneakers", shoe_colour="green", bag_type="", bag_colour="",
    bag_side="", carried="", carried_colour="",
)  # fmt: skip
VIEW = View(
    orientation="front", stride=0.5, leading=1, yaw=0.0, camera="c1", background="wall", light=1.0, occluder="",
    width=100, height=260,
)  # fmt: skip


def draw(seed: int = 0, view: dict | None = None, **person):
    return render(replace(MAN, **person), replace(VIEW, **(view or {})), np.random.default_rng(seed))


def inside(drawn, label: str) -> np.ndarray:
    x, y, w, h = (round(v) for v in drawn.boxes[label])
    return np.asarray(drawn.image)[y : y + h, x : x + w].reshape(-1, 3).astype(int)


def share(pixels: np.ndarray, colour: str, within: int = 60) -> float:
    return float((np.abs(pixels - np.array(COLOURS[colour])).max(axis=1) < within).mean())


@pytest.fixture(scope="module")
def many():
    people = sample_identities(4, 0, 300)
    views = [sample_view(np.random.default_rng((5, n))) for n in range(300)]
    return [
        (p, v, render(p, v, np.random.default_rng((6, n)))) for n, (p, v) in enumerate(zip(people, views, strict=True))
    ]


def test_the_same_arguments_give_the_same_image_boxes_and_fields(many):
    for n in (0, 17, 120):
        person, view, first = many[n]
        again = render(person, view, np.random.default_rng((6, n)))
        assert first.image.tobytes() == again.image.tobytes()
        assert (first.boxes, first.visible) == (again.boxes, again.visible)
        assert render(person, view, np.random.default_rng(999)).image.tobytes() != first.image.tobytes()


def test_images_have_the_sizes_of_real_crops(many):
    sizes = np.array([drawn.image.size for _, _, drawn in many])
    assert all(drawn.image.mode == "RGB" and drawn.image.size == (v.width, v.height) for _, v, drawn in many)
    assert 240 < np.median(sizes[:, 1]) < 290 and sizes[:, 0].max() <= 120
    assert 0.03 < (sizes == (64, 160)).all(axis=1).mean() < 0.2


def test_boxes_lie_in_the_image_and_fields_have_a_box(many):
    region = {"upper": "upper body", "inner": "upper body", "sleeve": "upper body", "lower": "lower body"}
    region |= {"hair": "head", "headwear": "head", "eyewear": "head"}
    region |= {"shoe": "feet", "bag": "bag", "carried": "carried item"}
    assert set(LABELS) == set(REGION_LABELS)
    for person, view, drawn in many:
        assert drawn.visible <= {field.name for field in fields(Identity)} and set(drawn.boxes) <= set(LABELS)
        for x, y, w, h in drawn.boxes.values():
            assert x >= 0 and y >= 0 and w >= 1 and h >= 1
            assert x + w <= view.width and y + h <= view.height
        for name in drawn.visible - {"gender", "build"}:
            assert region[name.split("_")[0]] in drawn.boxes, name
        assert ("bag" in drawn.boxes) <= (person.bag_type != "")
        assert ("carried item" in drawn.boxes) <= (person.carried != "")


def test_boxes_have_the_areas_and_order_of_annotated_ones(many):
    area = {label: [] for label in LABELS}
    for _, view, drawn in many:
        for label, (_, _, w, h) in drawn.boxes.items():
            area[label].append(w * h / view.width / view.height)
        if {"head", "upper body", "lower body", "feet"} <= drawn.boxes.keys():
            centre = {label: y + h / 2 for label, (_, y, _, h) in drawn.boxes.items()}
            assert centre["head"] < centre["upper body"] < centre["lower body"] < centre["feet"]
    mean = {label: np.mean(values) for label, values in area.items()}
    assert 0.06 < mean["head"] < 0.12 and 0.18 < mean["upper body"] < 0.4
    assert 0.14 < mean["lower body"] < 0.3 and 0.03 < mean["feet"] < 0.08


def test_most_attributes_are_visible_in_most_images(many):
    for name in ("upper_colour", "lower_colour", "shoe_colour", "hair_colour"):
        worn = [name in drawn.visible for p, _, drawn in many if getattr(p, name) and p.hair_style != "bald"]
        assert np.mean(worn) > 0.85, name


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_boxes_contain_the_colours_of_their_parts(orientation):
    drawn = draw(view={"orientation": orientation})
    assert share(inside(drawn, "upper body"), "red") > 0.3
    assert share(inside(drawn, "lower body"), "blue") > 0.25
    assert share(inside(drawn, "feet"), "green") > 0.08
    assert share(inside(drawn, "upper body"), "blue") < 0.1


def test_a_back_view_hides_what_is_in_front():
    person = {"eyewear": "glasses", "upper_pattern": "logo", "carried": "phone", "carried_colour": "black"}
    front, back = draw(**person), draw(view={"orientation": "back"}, **person)
    hidden = {"eyewear", "upper_pattern", "carried", "carried_colour"}
    assert hidden <= front.visible and not hidden & back.visible
    assert "carried item" in front.boxes and "carried item" not in back.boxes
    open_jacket = {"upper_type": "jacket", "sleeve": "long", "inner_colour": "yellow"}
    assert "inner_colour" in draw(**open_jacket).visible
    assert "inner_colour" not in draw(view={"orientation": "back"}, **open_jacket).visible


def test_headwear_hides_a_bald_head_and_a_bun_from_the_front():
    cap = {"headwear": "cap", "headwear_colour": "yellow"}
    assert {"headwear", "headwear_colour"} <= draw(**cap).visible
    assert "hair_style" in draw(hair_style="bald").visible and "hair_colour" not in draw(hair_style="bald").visible
    assert not {"hair_style", "hair_colour"} & draw(hair_style="bald", **cap).visible
    assert "hair_style" not in draw(hair_style="bun", **cap).visible
    assert "hair_style" in draw(view={"orientation": "back"}, hair_style="bun", **cap).visible


@pytest.mark.parametrize("orientation", ["front", "back"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_bag_is_on_the_persons_own_side(orientation, side):
    for kind in ("handbag", "suitcase"):
        drawn = draw(view={"orientation": orientation}, bag_type=kind, bag_colour="purple", bag_side=side)
        x, _, w, _ = drawn.boxes["bag"]
        ux, _, uw, _ = drawn.boxes["upper body"]
        at_image_right = (side == "left") == (orientation == "front")
        assert (x + w / 2 > ux + uw / 2) == at_image_right


def test_a_bag_at_the_far_side_is_not_named():
    bag = {"bag_type": "shoulder bag", "bag_colour": "purple", "bag_side": "left"}
    near, far = draw(view={"orientation": "left"}, **bag), draw(view={"orientation": "right"}, **bag)
    assert "bag" in near.boxes and "bag_type" in near.visible
    assert "bag" not in far.boxes and not {"bag_type", "bag_colour", "bag_side"} & far.visible


def test_builds_have_different_widths():
    widths = [
        draw(build=build).boxes["upper body"][2] / draw(build=build).boxes["upper body"][3]
        for build in ("slim", "average", "heavy")
    ]
    assert widths[0] * 1.1 < widths[1] and widths[1] * 1.1 < widths[2]


def test_a_dress_fills_upper_and_lower_body():
    drawn = draw(gender="woman", upper_type="dress", lower_type="", lower_colour="")
    assert {"upper body", "lower body"} <= drawn.boxes.keys()
    assert share(inside(drawn, "lower body"), "red") > 0.2
    assert "upper_type" in drawn.visible and "lower_type" not in drawn.visible


def test_occluded_parts_are_dropped(many):
    case = {"bag_type": "suitcase", "bag_colour": "purple", "bag_side": "left"}
    bare = [draw(seed, **case) for seed in range(40)]
    behind = [draw(seed, view={"occluder": "bush"}, **case) for seed in range(40)]
    assert all({"feet", "bag"} <= drawn.boxes.keys() for drawn in bare)
    for label, field in (("feet", "shoe_type"), ("bag", "bag_type")):
        gone = [drawn for drawn in behind if label not in drawn.boxes]
        assert 0 < len(gone) < 40
        assert all(field not in drawn.visible for drawn in gone)
    assert 0.08 < np.mean([view.occluder != "" for _, view, _ in many]) < 0.24


def test_patterns_show_on_the_cloth():
    def spread(pattern):
        return inside(draw(upper_pattern=pattern), "upper body").std()

    assert all(spread(pattern) > spread("plain") * 1.04 for pattern in ("striped", "plaid", "dotted"))


def test_cameras_and_backgrounds_change_the_whole_image():
    means = [np.asarray(draw(view={"camera": f"c{n}"}).image).mean(axis=(0, 1)) for n in range(1, 7)]
    assert min(np.abs(a - b).max() for n, a in enumerate(means) for b in means[:n]) > 1.5
    backgrounds = [np.asarray(draw(seed).image)[:, :12].mean(axis=(0, 1)) for seed in range(12)]
    assert np.std(backgrounds, axis=0).min() > 12  # of 255
