"""Persons of full scenes, found by a real detector of transformers with random weights."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import YolosConfig, YolosForObjectDetection
from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

from modeling_rogle.indexing.person_detector import Detector
from modeling_rogle.inference.errors import GalleryError


def make_detector(folder: Path, labels: tuple[str, ...] = ("person", "dog")) -> Path:
    """A random Yolos that finds something in every image; the bias decides for the first label."""
    torch.manual_seed(0)
    model = YolosForObjectDetection(
        YolosConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=[64, 64],
            patch_size=16,
            num_detection_tokens=2,
            id2label=dict(enumerate(labels)),
            label2id={label: number for number, label in enumerate(labels)},
            use_mid_position_embeddings=False,
        )
    )
    with torch.no_grad():
        model.class_labels_classifier.layers[-1].bias[0] = 4.0
        # A token apart from the other: two persons side by side.
        model.bbox_predictor.layers[-1].weight.normal_(std=0.5)
        model.vit.embeddings.detection_tokens.normal_()
    model.save_pretrained(folder)
    YolosImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def detector_folder(tmp_path_factory) -> Path:
    return make_detector(tmp_path_factory.mktemp("detector") / "yolos")


def test_persons_lie_inside_the_scene_from_left_to_right(detector_folder):
    scenes = [Image.new("RGB", (200, 150), "red"), Image.new("RGB", (90, 300), "blue")]
    found = Detector(detector_folder)(scenes)
    assert [len(persons) for persons in found] == [2, 2]
    for scene, persons in zip(scenes, found, strict=True):
        assert [person.box for person in persons] == sorted(person.box for person in persons)
        for person in persons:
            x, y, width, height = person.box
            assert 0 <= x < x + width <= scene.width and 0 <= y < y + height <= scene.height and person.score > 0.5
    assert Detector(detector_folder, threshold=1.0)(scenes) == [[], []]


def test_what_cannot_detect_persons_is_named(tmp_path, detector_folder, tiny_checkpoint):
    with pytest.raises(GalleryError, match="knows no persons, only cat, dog"):
        Detector(make_detector(tmp_path / "cats", ("cat", "dog")))
    for folder in (tmp_path / "gone", tiny_checkpoint):
        with pytest.raises(GalleryError, match=f"detector {folder}: not an object-detection model") as caught:
            Detector(folder)
        assert "\n" not in str(caught.value)
