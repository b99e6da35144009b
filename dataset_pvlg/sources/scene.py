"""Around the synthetic pedestrian: backgrounds, occluders, and what each camera does to the picture."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

BACKGROUNDS = ("street", "grass", "mall", "wall", "indoor")
ORIENTATIONS = ("front", "back", "left", "right")


@dataclass(frozen=True)
class Camera:
    """Fixed character of one camera: channel gains, gamma, blur in pixels of the stored image, noise in grey levels."""

    gain: tuple[float, float, float]
    gamma: float
    blur: float
    noise: float


CAMERAS = {
    "c1": Camera((1.00, 1.00, 1.00), 1.00, 0.3, 3),
    "c2": Camera((1.07, 1.00, 0.90), 1.08, 0.5, 4),
    "c3": Camera((0.90, 0.97, 1.10), 0.95, 0.4, 5),
    "c4": Camera((0.95, 1.06, 0.95), 1.15, 0.7, 6),
    "c5": Camera((1.04, 0.95, 1.05), 0.88, 0.6, 4),
    "c6": Camera((0.97, 0.99, 0.96), 1.22, 0.8, 8),
}


@dataclass(frozen=True)
class View:
    """How one picture of a person is taken."""

    orientation: str  # front, back, left, right: the way the person faces, as the viewer sees it
    stride: float  # 0 standing ... 1 full step
    camera: str  # c1 ... c6
    background: str
    brightness: float
    occluded: bool


def sample_view(rng: np.random.Generator) -> View:
    """A view: front and back are commoner than the sides, one picture in seven has something in the way."""
    return View(
        orientation=str(rng.choice(ORIENTATIONS, p=(0.38, 0.24, 0.19, 0.19))),
        stride=float(rng.random()) if rng.random() < 0.7 else 0.0,
        camera=str(rng.choice(list(CAMERAS))),
        background=str(rng.choice(BACKGROUNDS, p=(0.3, 0.15, 0.2, 0.15, 0.2))),
        brightness=float(rng.uniform(0.78, 1.15)),
        occluded=bool(rng.random() < 0.14),
    )


def _any_colour(rng: np.random.Generator, low: int = 30, high: int = 225) -> tuple[int, int, int]:
    return tuple(int(v) for v in rng.integers(low, high, 3))


def draw_background(draw: ImageDraw.ImageDraw, kind: str, width: int, height: int, rng: np.random.Generator) -> None:
    """Fills the canvas. Colours are drawn widely, so that a picture's overall colour says little about the clothes."""
    horizon = int(height * rng.uniform(0.42, 0.78))
    wall, floor = _any_colour(rng), _any_colour(rng)
    if kind == "street":
        shade = int(rng.integers(70, 150))
        floor = (shade, shade, shade + int(rng.integers(0, 12)))
    elif kind == "grass":
        floor = (int(rng.integers(60, 120)), int(rng.integers(120, 170)), int(rng.integers(40, 80)))
    draw.rectangle((0, 0, width, horizon), fill=wall)
    draw.rectangle((0, horizon, width, height), fill=floor)
    if kind == "street":
        pane = _any_colour(rng, 60, 250)
        step = int(width * rng.uniform(0.2, 0.34))
        for x in range(int(rng.integers(-step, 0)), width, step):
            for y in range(8, horizon - step, int(step * 1.4)):
                draw.rectangle((x, y, x + step * 0.55, y + step * 0.8), fill=pane)
        slope = int(rng.integers(-width, width))
        draw.line((width // 2, horizon, width // 2 + slope, height), fill=(225, 225, 215), width=max(3, width // 30))
    elif kind == "grass":
        for _ in range(5):
            x, size = int(rng.integers(0, width)), int(rng.integers(width // 5, width // 2))
            green = (int(rng.integers(20, 70)), int(rng.integers(80, 140)), int(rng.integers(20, 60)))
            draw.ellipse((x - size, horizon - 2 * size, x + size, horizon + size // 5), fill=green)
    elif kind == "mall":
        for _ in range(4):
            x, w = int(rng.integers(-width // 4, width)), int(rng.integers(width // 5, width // 2))
            y = int(rng.integers(0, max(1, horizon - 20)))
            draw.rectangle((x, y, x + w, y + int(rng.integers(12, height // 4))), fill=_any_colour(rng, 40, 255))
        for y in range(horizon, height, max(10, height // 16)):
            draw.line((0, y, width, y), fill=tuple(max(0, c - 25) for c in floor), width=1)
    elif kind == "wall":
        joint = tuple(max(0, c - 30) for c in wall)
        brick = max(10, height // 26)
        for row, y in enumerate(range(0, horizon, brick)):
            draw.line((0, y, width, y), fill=joint, width=2)
            for x in range(brick * (row % 2), width, brick * 2):
                draw.line((x, y, x, y + brick), fill=joint, width=2)
    else:
        draw.rectangle((0, horizon - 8, width, horizon), fill=_any_colour(rng))
        x, y = int(rng.integers(0, width // 2)), int(rng.integers(0, horizon // 2 + 1))
        frame = (x, y, x + int(rng.integers(width // 5, width // 2)), y + int(rng.integers(height // 12, height // 5)))
        draw.rectangle(frame, fill=_any_colour(rng), outline=_any_colour(rng), width=4)
        for x in range(int(rng.integers(-20, 0)), width, width // 4):
            draw.line((x, horizon, x - width // 6, height), fill=tuple(max(0, c - 20) for c in floor), width=2)


def occluder(width: int, height: int, rng: np.random.Generator) -> tuple[str, tuple[float, ...], tuple[int, int, int]]:
    """Something in front of the person: (shape, box, colour); a pole, a box on the ground, or a bush at the side."""
    kind = str(rng.choice(["pole", "crate", "bush"]))
    if kind == "pole":
        x, w = width * rng.uniform(0.1, 0.85), width * rng.uniform(0.06, 0.12)
        return "rectangle", (x, 0, x + w, height), _any_colour(rng, 40, 190)
    if kind == "crate":
        w, h = width * rng.uniform(0.35, 0.6), height * rng.uniform(0.1, 0.24)
        x = width * rng.uniform(-0.1, 0.6)
        return "rectangle", (x, height - h, x + w, height), _any_colour(rng, 40, 200)
    size, x = width * rng.uniform(0.3, 0.45), width * rng.choice([-0.05, 1.05])
    y = height * rng.uniform(0.6, 0.95)
    green = (int(rng.integers(30, 80)), int(rng.integers(90, 150)), int(rng.integers(30, 70)))
    return "ellipse", (x - size, y - size, x + size, y + size), green


def photograph(canvas: Image.Image, size: tuple[int, int], view: View, rng: np.random.Generator) -> Image.Image:
    """Canvas -> stored picture of `size` (width, height): camera cast, light, blur and noise."""
    camera = CAMERAS[view.camera]
    small = canvas.resize(size, Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(camera.blur))
    pixels = np.asarray(small, dtype=np.float32) / 255
    slant = 1 + rng.uniform(-0.12, 0.12) * np.linspace(-1, 1, size[0], dtype=np.float32)[None, :, None]
    gain = np.array(camera.gain, dtype=np.float32) * np.float32(view.brightness) * slant
    pixels = np.clip(pixels * gain, 0, 1) ** np.float32(camera.gamma) * 255
    pixels += rng.standard_normal(pixels.shape, dtype=np.float32) * camera.noise
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
