"""The person detector, with a model of transformers that has random weights."""

from pathlib import Path

import pytest
from PIL import Image

from modeling_rogle.indexing.person_detector import Detector
from modeling_rogle.inference.errors import GalleryError
from tests.helpers.tiny_detector import make_detector


@pytest.fixture(scope="module")
def detector_folder(tmp_path_factory) -> Path:
    return make_detector(tmp_path_factory.mktemp("detector") / "yolos")


def test_persons_lie_inside_the_scene_from_left_to_right(detector_folder):
    scenes = [Image.new("RGB", (200, 150), "red"), Image.new("RGB", (90, 300), "blue")]
    detections = Detector(detector_folder)(scenes)
    assert [len(persons) for persons in detections] == [2, 2]
    for scene, persons in zip(scenes, detections, strict=True):
        assert [person.box for person in persons] == sorted(person.box for person in persons)
        for person in persons:
            x, y, width, height = person.box
            assert 0 <= x < x + width <= scene.width and 0 <= y < y + height <= scene.height and person.score > 0.5
    assert Detector(detector_folder, threshold=0.999)(scenes) == [[], []]


def test_a_model_that_cannot_detect_persons_is_refused(tmp_path, detector_folder, tiny_checkpoint):
    with pytest.raises(GalleryError, match="has no label for persons, only cat, dog"):
        Detector(make_detector(tmp_path / "cats", ("cat", "dog")))
    for folder in (tmp_path / "gone", tiny_checkpoint):
        with pytest.raises(GalleryError, match=f"detector {folder}: not an object-detection model") as caught:
            Detector(folder)
        assert "\n" not in str(caught.value)
