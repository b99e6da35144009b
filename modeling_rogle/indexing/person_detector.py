"""Persons in full scenes: any object-detection model of transformers finds them, the index keeps scene and box."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.inference.loading import best_device

PERSON = ("person", "pedestrian", "people", "human")
MIN_SIDE = 8  # pixels; less shows nobody


@dataclass(frozen=True)
class Detection:
    """A person of a scene: `box` x, y, w, h in whole pixels inside it, and the detector's score."""

    box: tuple[int, int, int, int]
    score: float


class Detector:
    """A model that finds persons.

    Args:
        name: folder or Hub name of an object-detection model; its labels must hold a person.
        threshold: detections under this score are left out.

    Raises:
        GalleryError: not such a model, or one that knows no persons; said in one line.
    """

    def __init__(self, name: str | Path, threshold: float = 0.5):
        from transformers import pipeline

        self.name = str(Path(name).resolve()) if Path(name).is_dir() else str(name)
        self.threshold = threshold
        try:
            self.pipeline: Any = pipeline("object-detection", model=self.name, device=best_device())
        except Exception as error:  # transformers raises almost anything for a folder that is something else
            reason = " ".join(str(error).split("\n")[0].split())
            raise GalleryError(
                f"detector {name}: not an object-detection model that can be loaded ({reason})"
            ) from error
        labels = [str(label).lower() for label in self.pipeline.model.config.id2label.values()]
        if not set(labels) & set(PERSON):
            raise GalleryError(f"detector {name}: knows no persons, only {', '.join(labels[:5])}")

    def __call__(self, scenes: Sequence[Image.Image]) -> list[list[Detection]]:
        """Finds the persons of each scene, from left to right; boxes under 8 pixels are left out."""
        found = []
        for scene, objects in zip(
            scenes, self.pipeline(list(scenes), threshold=self.threshold, batch_size=1), strict=True
        ):
            persons = []
            for thing in objects:
                x0, y0 = max(0, round(thing["box"]["xmin"])), max(0, round(thing["box"]["ymin"]))
                x1, y1 = min(scene.width, round(thing["box"]["xmax"])), min(scene.height, round(thing["box"]["ymax"]))
                if str(thing["label"]).lower() in PERSON and min(x1 - x0, y1 - y0) >= MIN_SIDE:
                    persons.append(Detection((x0, y0, x1 - x0, y1 - y0), float(thing["score"])))
            found.append(sorted(persons, key=lambda person: person.box))
        return found


__all__ = ["Detection", "Detector"]
