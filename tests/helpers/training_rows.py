"""P-VLG rows with known pixels and regions, for tests of training data."""

import numpy as np
from PIL import Image

LONG = ("A man wears a red jacket.", "His shoes are white.", "He is walking.")


def training_row(number: int, person: int, sentences: tuple[str, ...] = LONG, mark: bool = False) -> dict:
    """A row of 40 x 80 px. With `mark` the left half is white, and the first region is exactly this half."""
    pixels = np.random.default_rng(number).integers(0, 60, (80, 40, 3), dtype=np.uint8)
    if mark:
        pixels[:, :20] = 255
    spans, start = [], 0
    for text in sentences:
        spans.append({"text": text, "start": start, "end": start + len(text)})
        start += len(text) + 1
    region = {"score": 1.0, "origin": "human"}
    return {
        "image": Image.fromarray(pixels),
        "path": f"{number}.png",
        "sha256": "",
        "image_id": f"image-{number}",
        "width": 40,
        "height": 80,
        "person_id": person,
        "source": "own",
        "camera": None,
        "parent": None,
        "captions": ["A man in red.", "A man in a jacket with white shoes."],
        "caption": " ".join(sentences),
        "caption_origin": "human",
        "sentences": spans,
        "regions": [
            {"bbox": [0, 0, 20, 80], "label": "upper body", "sentence": 0, "reliability": 1.0, **region},
            {"bbox": [10, 60, 20, 20], "label": "feet", "sentence": 1, "reliability": 0.5, **region},
            {"bbox": [0, 0, 5, 5], "label": "bag", "sentence": -1, "reliability": 1.0, **region},
            {"bbox": [0, 0, 5, 5], "label": "bag", "sentence": 2, "reliability": 0.0, **region},
        ],
        "claims": None,
    }
