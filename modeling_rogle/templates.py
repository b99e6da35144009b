"""Template regions of an upright pedestrian: region proposals without a model. NumPy only."""

import numpy as np

# Parts of an upright person in a tight crop that is about 2.5 times as tall as wide: fractions x0, y0, x1, y1.
# They follow body proportions (head 1/7.5 of the height plus hair, hips at half of it, feet at the bottom, arms nearly
# as wide as the crop) and are not fitted to annotated images.
_TEMPLATES = (
    ("head", (0.28, 0.00, 0.72, 0.19)),
    ("upper body", (0.08, 0.15, 0.92, 0.57)),
    ("upper body", (0.08, 0.15, 0.92, 0.78)),  # a coat or a long dress
    ("lower body", (0.16, 0.52, 0.84, 0.93)),
    ("feet", (0.16, 0.87, 0.84, 1.00)),
    ("upper body", (0.18, 0.17, 0.82, 0.50)),  # chest, or back with a backpack
    ("bag", (0.00, 0.32, 0.42, 0.70)),
    ("bag", (0.58, 0.32, 1.00, 0.70)),
    ("carried item", (0.00, 0.40, 0.34, 0.62)),
    ("carried item", (0.66, 0.40, 1.00, 0.62)),
    ("whole person", (0.00, 0.00, 1.00, 1.00)),
)

TEMPLATE_LABELS: tuple[str, ...] = tuple(label for label, _ in _TEMPLATES)


def template_boxes() -> np.ndarray:
    """Region proposals for a crop of a pedestrian.

    Returns:
        float32 `[T, 4]` x0, y0, x1, y1 in [0, 1] of the image's width and height, in the order of `TEMPLATE_LABELS`.
        The last row is the whole image. Each call returns a new array.
    """
    return np.array([box for _, box in _TEMPLATES], dtype=np.float32)


__all__ = ["TEMPLATE_LABELS", "template_boxes"]
