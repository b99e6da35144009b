"""Finds the persons in full scenes with any object-detection model of transformers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.inference.loading import best_device

PERSON_LABELS = ("person", "pedestrian", "people", "human")
DEFAULT_THRESHOLD = 0.5
MIN_SIDE = 8  # pixels; smaller boxes are dropped


@dataclass(frozen=True)
class Detection:
    """A person in a scene.

    Attributes:
        box: x, y, width, height in pixels, inside the scene.
        score: score of the detector.
    """

    box: tuple[int, int, int, int]
    score: float


class Detector:
    """A model that detects persons.

    Args:
        name: folder or Hub name of an object-detection model with a label for persons.
        threshold: detections with a lower score are dropped. Default: 0.5.

    Raises:
        GalleryError: the model cannot be loaded, or has no label for persons, or the threshold is out of range.
    """

    def __init__(self, name: str | Path, threshold: float = DEFAULT_THRESHOLD):
        if not 0.0 < threshold < 1.0:
            raise GalleryError(f"detector threshold must lie between 0 and 1, not {threshold}")
        from transformers import pipeline

        self.name = str(Path(name).resolve()) if Path(name).is_dir() else str(name)
        self.threshold = threshold
        try:
            self.pipeline: Any = pipeline("object-detection", model=self.name, device=best_device())
        except Exception as error:  # transformers raises almost any exception for a folder of another kind
            reason = " ".join(str(error).split("\n")[0].split())
            raise GalleryError(
                f"detector {name}: not an object-detection model that can be loaded ({reason})"
            ) from error
        labels = [str(label).lower() for label in self.pipeline.model.config.id2label.values()]
        if not set(labels) & set(PERSON_LABELS):
            raise GalleryError(f"detector {name}: has no label for persons, only {', '.join(labels[:5])}")

    def __call__(self, scenes: Sequence[Image.Image]) -> list[list[Detection]]:
        """Detects the persons in each scene.

        Args:
            scenes: RGB images.

        Returns:
            for each scene its persons from left to right, without boxes smaller than MIN_SIDE.
        """
        persons_of_scenes = []
        results = self.pipeline(list(scenes), threshold=self.threshold, batch_size=1)
        for scene, objects in zip(scenes, results, strict=True):
            persons = []
            for result in objects:
                box = result["box"]
                x0, y0 = max(0, round(box["xmin"])), max(0, round(box["ymin"]))
                x1, y1 = min(scene.width, round(box["xmax"])), min(scene.height, round(box["ymax"]))
                if str(result["label"]).lower() in PERSON_LABELS and min(x1 - x0, y1 - y0) >= MIN_SIDE:
                    persons.append(Detection((x0, y0, x1 - x0, y1 - y0), float(result["score"])))
            persons_of_scenes.append(sorted(persons, key=lambda person: person.box))
        return persons_of_scenes


__all__ = ["DEFAULT_THRESHOLD", "Detection", "Detector"]
