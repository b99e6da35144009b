"""Proposers without weights: the form of their boxes, and that they cover the parts of synthetic persons."""

import builtins

import numpy as np
import pytest
from PIL import Image

from dataset_pvlg.features import REGION_LABELS
from dataset_pvlg.proposals.base import select_boxes
from dataset_pvlg.proposals.proposers import PROPOSER_NAMES, load_proposer
from dataset_pvlg.synthetic_v1.dataset import SyntheticConfig, image
from dataset_pvlg.synthetic_v1.render import Rendering

WEIGHT_FREE = ("templates", "templates+felzenszwalb", "grid")


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union by its definition, pair by pair."""
    iou = np.zeros((len(boxes), len(others)))
    for n, (a, b, c, d) in enumerate(boxes.tolist()):
        for m, (e, f, g, h) in enumerate(others.tolist()):
            shared = max(0.0, min(c, g) - max(a, e)) * max(0.0, min(d, h) - max(b, f))
            iou[n, m] = shared / ((c - a) * (d - b) + (g - e) * (h - f) - shared)
    return iou


@pytest.fixture(scope="module")
def persons() -> list[Rendering]:
    config = SyntheticConfig(train_identities=8, validation_identities=1, test_identities=1)
    return [image("train", index, number, config)[1] for index in range(8) for number in range(2)]


@pytest.fixture(params=WEIGHT_FREE)
def proposer(request):
    if request.param == "templates+felzenszwalb":
        pytest.importorskip("skimage")
    return load_proposer(request.param)


def test_boxes_have_allowed_areas_and_the_whole_image_is_last(proposer, persons):
    for person in persons[:4]:
        proposals = proposer(person.image, [])
        assert proposals.boxes.dtype == np.float32 and proposals.boxes.shape == (len(proposals.labels), 4)
        assert 20 < len(proposals.boxes) <= 120
        assert proposals.boxes[-1].tolist() == [0, 0, 1, 1] and proposals.labels[-1] == "whole person"
        assert (proposals.boxes >= 0).all() and (proposals.boxes <= 1).all()
        areas = (proposals.boxes[:-1, 2:] - proposals.boxes[:-1, :2]).prod(axis=1)
        assert areas.min() >= 0.00499 and areas.max() <= 0.80001
        others = overlaps(proposals.boxes, proposals.boxes) - np.eye(len(proposals.boxes))
        assert others.max() <= 0.9001


def test_the_same_image_gives_the_same_boxes(proposer, persons):
    image = persons[0].image
    first, again = proposer(image, ["A man."]), proposer(image.copy(), ["A man."])
    assert first.labels == again.labels
    np.testing.assert_array_equal(first.boxes, again.boxes)


@pytest.mark.parametrize("size", [(1, 1), (13, 34), (400, 20), (20, 900)])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "RGBA"])
def test_any_image_is_taken(proposer, size, mode):
    proposals = proposer(Image.new(mode, size), [])
    assert proposals.boxes[-1].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("most", [2, 10, 60])
@pytest.mark.parametrize("name", WEIGHT_FREE)
def test_no_more_boxes_than_requested(name, most, persons):
    if name == "templates+felzenszwalb":
        pytest.importorskip("skimage")
    few, many = load_proposer(name, max_boxes=most)(persons[0].image, []), load_proposer(name)(persons[0].image, [])
    assert len(few.boxes) <= most
    assert few.labels[-1] == "whole person"
    np.testing.assert_array_equal(few.boxes[:-1], many.boxes[: len(few.boxes) - 1])


def test_templates_have_the_labels_of_the_schema_and_ignore_the_image():
    propose = load_proposer("templates")
    proposals = propose(Image.new("RGB", (50, 120)), [])
    assert set(proposals.labels[:-1]) == set(REGION_LABELS)
    np.testing.assert_array_equal(proposals.boxes, propose(Image.new("RGB", (70, 200), "red"), []).boxes)


def test_templates_are_symmetric():
    boxes = load_proposer("templates")(Image.new("RGB", (50, 120)), []).boxes.round(4)
    mirrored = boxes[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [1, 0, 1, 0]
    assert {tuple(box) for box in mirrored.round(3).tolist()} == {
        tuple(box) for box in boxes.astype(float).round(3).tolist()
    }


def test_a_salient_region_is_found_at_any_position():
    pytest.importorskip("skimage")
    image = Image.new("RGB", (100, 260), (120, 130, 120))
    image.paste((200, 30, 30), (61, 3, 84, 21))  # far from all templates
    thing = np.array([[0.61, 3 / 260, 0.84, 21 / 260]])
    with_segments = load_proposer("templates+felzenszwalb")(image, [])
    best = overlaps(with_segments.boxes, thing)[:, 0]
    assert best.max() > 0.8 and with_segments.labels[int(best.argmax())] == "segment"
    assert overlaps(load_proposer("templates")(image, []).boxes, thing).max() < 0.5


def test_proposals_cover_the_parts_of_synthetic_persons(persons):
    pytest.importorskip("skimage")
    propose, best = load_proposer("templates+felzenszwalb"), []
    for person in persons:
        x, y, w, h = np.array(list(person.boxes.values())).T
        true = np.stack([x, y, x + w, y + h], axis=1) / [*person.image.size, *person.image.size]
        best += overlaps(propose(person.image, []).boxes, true).max(axis=0).tolist()
    assert np.mean(np.array(best) >= 0.5) >= 0.95


def test_selected_boxes_are_clipped_and_keep_their_order():
    boxes = [(-0.5, 0.2, 0.5, 0.6), (0, 0.2, 0.5, 0.61), (0.1, 0.1, 0.1, 0.9), (0.9, 0.9, 0.2, 0.2), (0, 0, 1, 0.9)]
    proposals = select_boxes([*boxes, (0.5, 0.5, 1.5, 0.7)], ["a", "b", "c", "d", "e", "f"], max_boxes=10)
    assert proposals.labels == ("a", "f", "whole person")
    assert proposals.boxes == pytest.approx(np.array([[0, 0.2, 0.5, 0.6], [0.5, 0.5, 1, 0.7], [0, 0, 1, 1]]), abs=1e-6)
    assert select_boxes([], [], max_boxes=5).boxes.tolist() == [[0, 0, 1, 1]]


def test_wrong_names_and_options_are_one_line():
    for arguments, words in (
        ({"name": "magic"}, "proposer 'magic' is not known; known are " + ", ".join(PROPOSER_NAMES)),
        ({"name": "sam"}, "proposer 'sam'"),
        ({"name": "grid", "model": "x"}, "proposer 'grid'"),
        ({"name": "grid", "max_boxes": 1}, "max_boxes"),
    ):
        with pytest.raises(ValueError) as caught:
            load_proposer(**arguments)
        assert str(caught.value).startswith(words) and "\n" not in str(caught.value)


def test_a_missing_scikit_image_is_reported_with_the_install_command(monkeypatch):
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.startswith("skimage"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=r"pip install 'rogle\[pvlg\]', or use the proposer templates"):
        load_proposer("templates+felzenszwalb")
    load_proposer("templates")
