"""Where in an image a sentence is: its cosine with every patch, drawn over the image.

Dense features leak (see `matching.py`): a patch token speaks of its surroundings too, so a map shows where the model
finds the sentence, not which pixels made it.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps

from modeling_rogle.display.result_sheet import (
    CELL,
    GAP,
    GREY,
    INK,
    MARGIN,
    PALE,
    PAPER,
    SMALL,
    TEXT,
    THUMB_HEIGHT,
    check_suffix,
    draw_mark,
    font_of,
    save_figure,
    wrap,
)
from modeling_rogle.inference.image_io import DecodedImage, ImageError, read_image
from modeling_rogle.modeling_rogle import RogleModel
from modeling_rogle.processing_rogle import RogleProcessor
from modeling_rogle.search.gallery import Match

MAX_IMAGES, MAX_SENTENCES = 10, 12
OPACITY = 0.62
BAR = 14  # height of the scale
# From dark to light, so that it reads in grey too: blue-black, purple, red, orange, pale yellow.
_STOPS = ((10, 10, 40), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))


@torch.no_grad()
def patch_similarity(
    model: RogleModel, processor: RogleProcessor, images: Sequence[Image.Image], sentences: Sequence[str]
) -> np.ndarray:
    """Cosine of each sentence with each patch of each image.

    Args:
        images: B RGB images; sentences: S texts.

    Returns:
        `[S, B, rows, columns]` float32, the patch grid being `model.config.patch_grid`.

    Raises:
        ValueError: a model whose region feature is one forward a region, which would be one a patch.
    """
    if model.config.region_feature == "crop":
        raise ValueError("heat map: this model crops its regions, so it has no features of a patch")
    rows, columns = model.config.patch_grid
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    corners = torch.stack([x / columns, y / rows, (x + 1) / columns, (y + 1) / rows], dim=-1).reshape(-1, 4).float()
    encoded = processor(text=list(sentences), return_tensors="pt")
    texts = model.encode_texts(encoded["input_ids"].to(model.device), encoded["attention_mask"].to(model.device))
    found = []
    for image in images:
        pixels = processor(images=[image], return_tensors="pt")["pixel_values"].to(model.device)
        owner = torch.zeros(len(corners), dtype=torch.long, device=model.device)
        _, patches = model.encode_images(pixels, corners.to(model.device), owner)
        found.append((texts @ patches.T).cpu().numpy().reshape(len(sentences), rows, columns))
    return np.stack(found, axis=1)


def draw_maps(
    model: RogleModel,
    processor: RogleProcessor,
    matches: Sequence[Match],
    path: str | Path,
    sentence: int | None = None,
) -> Path:
    """Draws the maps of a search's sentences, a row each, over its best ten results, and saves the image.

    Each row has one scale for all its images, so that they can be compared; rows cannot.

    Args:
        matches: of one `Gallery.search`, best first.
        path: where to save (.png, .jpg or .webp).
        sentence: number of the one sentence to draw, from 1; by default the first twelve.

    Raises:
        ValueError: nothing to draw, another suffix, no such sentence, or a model without features of a patch.
    """
    path = Path(path)
    check_suffix(path)
    if not matches or not matches[0].sentences:
        raise ValueError("heat map: no results with sentences to draw")
    texts = [item.sentence for item in matches[0].sentences]
    if sentence is not None and not 1 <= sentence <= len(texts):
        raise ValueError(f"heat map: no sentence {sentence}, the query has {len(texts)}")
    numbers = [sentence - 1] if sentence is not None else list(range(min(len(texts), MAX_SENTENCES)))
    shown = []
    for match in matches[:MAX_IMAGES]:
        try:
            shown.append((match, read_image(match.file, match.path, (THUMB_HEIGHT, CELL))))
        except ImageError:  # gone or changed since it was indexed
            continue
    if not shown:
        raise ValueError("heat map: none of the images is there any more")
    similarity = patch_similarity(model, processor, [found.image for _, found in shown], [texts[i] for i in numbers])
    width = max(2 * MARGIN + len(shown) * (CELL + GAP) - GAP, 560)
    rows = [
        _row(number, texts[number], maps, shown, width - 2 * MARGIN)
        for number, maps in zip(numbers, similarity, strict=True)
    ]
    canvas = Image.new("RGB", (width, 2 * MARGIN + sum(row.height + GAP for row in rows) - GAP), PAPER)
    y = MARGIN
    for row in rows:
        canvas.paste(row, (MARGIN, y))
        y += row.height + GAP
    return save_figure(canvas, path)


def _row(
    number: int, text: str, maps: np.ndarray, shown: Sequence[tuple[Match, DecodedImage]], width: int
) -> Image.Image:
    lines = wrap(text, font_of(TEXT), width - 32)
    top = len(lines) * (TEXT + 7) + 8
    image = Image.new("RGB", (width, top + THUMB_HEIGHT + 30 + BAR + 28), PAPER)
    draw = ImageDraw.Draw(image)
    draw_mark(draw, 0, 2, number)
    for i, line in enumerate(lines):
        draw.text((30, i * (TEXT + 7)), line, fill=INK, font=font_of(TEXT))
    low, high = np.quantile(maps, (0.02, 0.995))
    for column, (match, found) in enumerate(shown):
        x = column * (CELL + GAP)
        draw.rectangle((x, top, x + CELL - 1, top + THUMB_HEIGHT - 1), fill=PALE)
        covered = overlay(found.image, maps[column], float(low), float(high), (found.width, found.height))
        image.paste(covered, (x + (CELL - covered.width) // 2, top + (THUMB_HEIGHT - covered.height) // 2))
        below = top + THUMB_HEIGHT + 6
        draw.text((x, below), f"#{match.rank}", fill=INK, font=font_of(SMALL))
        draw.text((x + CELL, below), f"at most {maps[column].max():.2f}", fill=GREY, font=font_of(SMALL), anchor="ra")
    y = top + THUMB_HEIGHT + 30
    scale = _coloured(np.linspace(0, 1, CELL)[None].repeat(BAR, axis=0))
    image.paste(Image.fromarray(scale), (0, y))
    draw.text((0, y + BAR + 4), f"{low:.2f}", fill=GREY, font=font_of(SMALL))
    draw.text((CELL, y + BAR + 4), f"{high:.2f}", fill=GREY, font=font_of(SMALL), anchor="ra")
    draw.text((CELL + 12, y - 2), "cosine of sentence and patch", fill=GREY, font=font_of(SMALL))
    return image


def overlay(
    image: Image.Image, similarity: np.ndarray, low: float, high: float, size: tuple[int, int] | None = None
) -> Image.Image:
    """The whole image in grey, fitted into a cell, under the map `[rows, columns]` scaled from low to high.

    size: width and height of its file, where each side was shrunk by a factor of its own; by default the image's.
    """
    width, height = size or image.size
    scale = min(CELL / width, THUMB_HEIGHT / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    grey = ImageOps.grayscale(image.resize(size, Image.Resampling.LANCZOS))
    share = np.clip((similarity - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)
    smooth = np.asarray(Image.fromarray(share).resize(size, Image.Resampling.BILINEAR))
    mixed = (1 - OPACITY) * np.asarray(grey, dtype=np.float32)[..., None] + OPACITY * _coloured(smooth)
    return Image.fromarray(mixed.round().astype(np.uint8))


def _coloured(share: np.ndarray) -> np.ndarray:
    stops = np.array(_STOPS, dtype=np.float32)
    at = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(share, at, stops[:, channel]) for channel in range(3)], axis=-1).astype(np.uint8)


__all__ = ["draw_maps", "overlay", "patch_similarity"]
