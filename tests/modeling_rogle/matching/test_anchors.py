import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modeling_rogle.matching.anchors import (
    anchor_boxes,
    anchor_weights,
    iou_with_anchors,
    nearest_template_labels,
    random_boxes,
)


def test_anchor_boxes_lie_in_the_image_and_are_sorted_from_head_to_feet():
    boxes = anchor_boxes()
    assert boxes.dtype == np.float32 and boxes.min() >= 0 and boxes.max() <= 1
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    centres = boxes[:, 1] + boxes[:, 3]
    assert (np.diff(centres) >= -1e-6).all()
    assert {"head", "upper body", "lower body", "feet", "bag"} <= set(nearest_template_labels(boxes))


def test_an_anchor_box_has_all_its_weight_on_itself():
    index, weights = anchor_weights(anchor_boxes())
    assert torch.equal(index[:, 0], torch.arange(len(anchor_boxes())))
    assert (weights[:, 0] > 0.999).all()


@given(st.tuples(*[st.floats(0, 0.8)] * 2, *[st.floats(0.1, 0.2)] * 2))
def test_weights_of_any_box_sum_to_one_and_fall_with_its_overlap(drawn):
    x, y, w, h = drawn
    box = np.array([[x, y, x + w, y + h]], dtype=np.float32)
    index, weights = anchor_weights(box)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-5)
    iou = iou_with_anchors(box)[0].numpy()
    assert iou[index[0, 0]] == pytest.approx(iou.max())
    assert (weights.diff(dim=1) <= 1e-6).all()


def test_random_boxes_lie_in_the_image_half_of_them_near_an_anchor_box():
    boxes = random_boxes(400, np.random.default_rng(0))
    assert boxes.dtype == np.float32 and boxes.shape == (400, 4) and boxes.min() >= 0 and boxes.max() <= 1
    assert (boxes[:, 2:] - boxes[:, :2] >= 0.0199).all()
    nearest = iou_with_anchors(boxes).numpy().max(1)
    assert nearest[:200].mean() > nearest[200:].mean() + 0.1 and (nearest[200:] < 0.5).any()
    assert np.array_equal(boxes, random_boxes(400, np.random.default_rng(0)))
