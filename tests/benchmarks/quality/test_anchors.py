"""benchmarks/quality/anchors.py: anchors are chosen by the boxes that they cover."""

import numpy as np
from datasets import load_dataset

import dataset_pvlg  # noqa: F401, registers "pvlg"
from benchmarks.quality.anchors import choose_anchors, region_boxes
from modeling_rogle.box_ops import box_iou


def test_each_anchor_covers_the_most_boxes_that_are_left():
    rng = np.random.default_rng(0)
    centres = np.array([[0.1, 0.1, 0.4, 0.3], [0.5, 0.6, 0.9, 0.9], [0.2, 0.4, 0.8, 0.55]])
    boxes = np.repeat(centres, (60, 25, 10), axis=0) + rng.normal(0, 0.005, (95, 4))
    for count, covered in ((1, 60), (2, 85), (3, 95)):
        anchors = choose_anchors(boxes, count)
        assert anchors.shape == (count, 4) and (anchors == anchors.round(2)).all()
        assert (box_iou(boxes, anchors).amax(1) >= 0.5).sum() == covered
    assert (np.diff(anchors[:, 1] + anchors[:, 3]) >= 0).all()  # from top to bottom
    assert (choose_anchors(boxes, 3) == anchors).all()


def test_a_region_of_several_sentences_is_one_box():
    rows = load_dataset("pvlg", "synthetic-tiny", split="validation").select(range(3))
    boxes, labels = region_boxes(rows)
    regions = rows["regions"][:]
    assert len(boxes) == len(labels) == sum(len({(r["label"], tuple(r["bbox"])) for r in each}) for each in regions)
    assert boxes.min() >= 0 and boxes.max() <= 1 + 1e-6 and (boxes[:, 2:] > boxes[:, :2]).all()
    twice = rows.remove_columns("regions").add_column("regions", [each * 2 for each in regions])
    assert len(region_boxes(twice)[0]) == len(boxes)
