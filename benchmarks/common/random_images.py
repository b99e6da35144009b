"""Image files with random content, for benchmarks that do not depend on it."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_random_images(folder: Path, count: int) -> Path:
    """Writes `count` different JPEG files of 60 x 150 pixels into a new folder, which is returned."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(count):
        small = generator.integers(0, 256, (15, 6, 3), dtype=np.uint8)
        Image.fromarray(small).resize((60, 150)).save(folder / f"{number:04d}.jpg")
    return folder


__all__ = ["write_random_images"]
