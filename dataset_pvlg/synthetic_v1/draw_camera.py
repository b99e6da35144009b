"""Six cameras with different colour cast, contrast, sharpness, noise and compression."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter


@dataclass(frozen=True)
class Camera:
    """Properties of a camera."""

    gains: tuple[float, float, float]  # of red, green and blue
    gamma: float  # a value over 1 darkens
    blur: float  # radius in pixels of an image 270 pixels high
    noise: float  # standard deviation at a height of 270 pixels
    jpeg: int  # quality of the camera's own compression; 0: none


CAMERAS: dict[str, Camera] = {
    "c1": Camera((1.0, 1.0, 1.0), 1.0, 0.0, 3.0, 0),
    "c2": Camera((1.05, 1.0, 0.94), 1.05, 0.5, 4.0, 0),  # evening
    "c3": Camera((0.94, 1.0, 1.07), 0.94, 0.0, 6.0, 55),  # cool daylight, compressed
    "c4": Camera((0.97, 1.04, 0.97), 1.1, 0.7, 5.0, 0),  # fluorescent
    "c5": Camera((1.04, 0.97, 1.06), 1.0, 0.45, 8.0, 60),  # magenta, noisy
    "c6": Camera((0.96, 0.98, 1.02), 1.2, 0.6, 9.0, 50),  # dim
}


def apply_camera(image: Image.Image, name: str, light: float, rng: np.random.Generator) -> Image.Image:
    """Converts a scene into the image of a camera.

    Args:
        image: RGB scene.
        name: a key of `CAMERAS`.
        light: exposure, about 1.
        rng: random generator of noise and blur.

    Returns:
        An RGB image of the same size.
    """
    camera = CAMERAS[name]
    ramp = np.arange(256) / 255.0
    gains = np.array(camera.gains) * light * rng.uniform(0.98, 1.02, 3)
    curves = np.clip(gains[:, None] * ramp[None, :] ** camera.gamma * 255, 0, 255).astype(np.uint8)
    image = image.point(curves.reshape(-1).tolist())
    blur = (camera.blur + (rng.uniform(0.2, 0.6) if rng.random() < 0.15 else 0.0)) * image.height / 270
    if blur > 0.1:
        image = image.filter(ImageFilter.GaussianBlur(blur))
    pixels = np.asarray(image).astype(np.int16)
    grain = rng.normal(0, camera.noise * min(1.0, (image.height / 270) ** 0.5), pixels.shape[:2]).astype(np.int16)
    image = Image.fromarray(np.clip(pixels + grain[..., None], 0, 255).astype(np.uint8))
    if camera.jpeg:
        stored = io.BytesIO()
        image.save(stored, "JPEG", quality=camera.jpeg)
        stored.seek(0)
        image = Image.open(stored).convert("RGB")
    return image
