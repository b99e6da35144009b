import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modeling_rogle.box_ops import box_iou
from modeling_rogle.matching.anchors import boxes_around, place_boxes, place_labels, place_shares


def test_places_are_boxes_of_the_image_from_the_head_down():
    boxes = place_boxes()
    assert boxes.dtype == np.float32 and boxes.min() >= 0 and boxes.max() <= 1
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    middles = boxes[:, 1] + boxes[:, 3]
    assert (np.diff(middles) >= -1e-6).all()
    assert {"head", "upper body", "lower body", "feet", "bag"} <= set(place_labels(boxes))


def test_a_place_is_itself_alone():
    index, share = place_shares(place_boxes())
    assert torch.equal(index[:, 0], torch.arange(len(place_boxes())))
    assert (share[:, 0] > 0.999).all()


@given(st.tuples(*[st.floats(0, 0.8)] * 2, *[st.floats(0.1, 0.2)] * 2))
def test_shares_of_any_box_sum_to_one_and_favour_what_it_overlaps(drawn):
    x, y, w, h = drawn
    box = np.array([[x, y, x + w, y + h]], dtype=np.float32)
    index, share = place_shares(box)
    assert float(share.sum()) == pytest.approx(1, abs=1e-5)
    found = box_iou(box, place_boxes())[0].numpy()
    assert found[index[0, 0]] == pytest.approx(found.max())
    assert (share.diff(dim=1) <= 1e-6).all()


def test_boxes_around_places_lie_in_the_image_near_and_far():
    boxes = boxes_around(400, np.random.default_rng(0))
    assert boxes.dtype == np.float32 and boxes.shape == (400, 4) and boxes.min() >= 0 and boxes.max() <= 1
    assert (boxes[:, 2:] - boxes[:, :2] >= 0.0199).all()
    near = box_iou(boxes, place_boxes()).numpy().max(1)
    assert near[:200].mean() > near[200:].mean() + 0.1 and (near[200:] < 0.5).any()
    assert np.array_equal(boxes, boxes_around(400, np.random.default_rng(0)))
