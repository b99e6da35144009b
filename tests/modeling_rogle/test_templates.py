"""Template boxes: their shape, labels and symmetry."""

import numpy as np

from dataset_pvlg.features import REGION_LABELS
from modeling_rogle.templates import TEMPLATE_LABELS, template_boxes


def test_template_boxes_lie_inside_the_image_and_the_last_is_the_whole_image():
    boxes = template_boxes()
    assert boxes.dtype == np.float32
    assert boxes.shape == (len(TEMPLATE_LABELS), 4)
    assert (boxes >= 0).all() and (boxes <= 1).all()
    assert (boxes[:, 2:] - boxes[:, :2] >= 0.1).all()
    assert boxes[-1].tolist() == [0, 0, 1, 1]
    assert len({tuple(box) for box in boxes.tolist()}) == len(boxes)


def test_template_labels_cover_the_regions_of_the_schema():
    assert set(TEMPLATE_LABELS[:-1]) == set(REGION_LABELS)
    assert TEMPLATE_LABELS[-1] == "whole person"


def test_templates_mirror_onto_themselves():
    mirrored = template_boxes()[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [1, 0, 1, 0]
    boxes = {tuple(box) for box in template_boxes().round(4).tolist()}
    assert {tuple(box) for box in mirrored.astype(np.float32).round(4).tolist()} == boxes
