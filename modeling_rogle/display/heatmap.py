"""Heat maps: the cosine of each sentence with every patch of an image, drawn over the image.

Dense features are not localised: each patch token also encodes its surroundings. A map shows where the model matches
the sentence, not which pixels caused the match.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps

from modeling_rogle.display.drawing import (
    CELL,
    CELL_HEIGHT,
    GAP,
    GREY,
    INK,
    MARGIN,
    PALE,
    PAPER,
    SMALL,
    TEXT,
    check_image_suffix,
    draw_number,
    fit_size,
    load_font,
    save_image,
    wrap_text,
)
from modeling_rogle.image_io import DecodedImage, ImageError, read_image
from modeling_rogle.modeling_rogle import RogleModel
from modeling_rogle.processing_rogle import RogleProcessor
from modeling_rogle.search.results import Match

MAX_IMAGES, MAX_SENTENCES = 10, 12
OPACITY = 0.62
BAR = 14  # pixels: height of the colour scale
# Blue-black, purple, red, orange, pale yellow: from dark to light, so that it is also readable in grey.
_STOPS = ((10, 10, 40), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))


@torch.no_grad()
def patch_similarity(
    model: RogleModel, processor: RogleProcessor, images: Sequence[Image.Image], sentences: Sequence[str]
) -> np.ndarray:
    """Computes the cosine of each sentence with each patch of each image.

    Args:
        model: a model whose region feature comes from dense features.
        processor: its processor.
        images: B RGB images.
        sentences: S texts.

    Returns:
        `[S, B, rows, columns]` float32; (rows, columns) is `model.config.patch_grid`.

    Raises:
        ValueError: the model computes region features from crops, which would need one forward pass per patch.
    """
    if model.config.region_feature == "crop":
        raise ValueError("heat map: region_feature is 'crop', so this model has no patch features")
    rows, columns = model.config.patch_grid
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    corners = torch.stack([x / columns, y / rows, (x + 1) / columns, (y + 1) / rows], dim=-1).reshape(-1, 4).float()
    encoded = processor(text=list(sentences), return_tensors="pt")
    texts = model.encode_texts(encoded["input_ids"].to(model.device), encoded["attention_mask"].to(model.device))
    cosines = []
    for image in images:
        pixels = processor(images=[image], return_tensors="pt")["pixel_values"].to(model.device)
        owner = torch.zeros(len(corners), dtype=torch.long, device=model.device)
        _, patches = model.encode_images(pixels, corners.to(model.device), owner)
        cosines.append((texts @ patches.T).cpu().numpy().reshape(len(sentences), rows, columns))
    return np.stack(cosines, axis=1)


def draw_maps(
    model: RogleModel,
    processor: RogleProcessor,
    matches: Sequence[Match],
    path: str | Path,
    sentence: int | None = None,
) -> Path:
    """Draws one row of heat maps for each sentence of a query, over the best ten results, and saves the image.

    The images of a row share one colour scale and can be compared; two rows cannot.

    Args:
        model: the model of the index.
        processor: its processor.
        matches: the results of one `Gallery.search`, best first.
        path: the file to write (.png, .jpg or .webp).
        sentence: the number of the only sentence to draw, from 1. Default: the first twelve sentences.

    Returns:
        `path`.

    Raises:
        ValueError: there is nothing to draw, the suffix is not supported, the query has no such sentence, or the
            model has no patch features or no trained regions.
    """
    path = Path(path)
    check_image_suffix(path)
    if not model.config.trained_regions:
        raise ValueError("heat map: this model has no trained regions")
    if not matches or not matches[0].sentences:
        raise ValueError("heat map: no results with sentences to draw")
    texts = [item.sentence for item in matches[0].sentences]
    if sentence is not None and not 1 <= sentence <= len(texts):
        raise ValueError(f"heat map: no sentence {sentence}, the query has {len(texts)}")
    numbers = [sentence - 1] if sentence is not None else list(range(min(len(texts), MAX_SENTENCES)))
    readable = []
    for match in matches[:MAX_IMAGES]:
        try:
            readable.append((match, read_image(match.file, match.path, (CELL_HEIGHT, CELL))))
        except ImageError:  # deleted or changed since it was indexed
            continue
    if not readable:
        raise ValueError("heat map: none of the image files can be read any more")
    images = [decoded.image for _, decoded in readable]
    similarity = patch_similarity(model, processor, images, [texts[i] for i in numbers])
    width = max(2 * MARGIN + len(readable) * (CELL + GAP) - GAP, 560)
    rows = [
        _row(number, texts[number], maps, readable, width - 2 * MARGIN)
        for number, maps in zip(numbers, similarity, strict=True)
    ]
    canvas = Image.new("RGB", (width, 2 * MARGIN + sum(row.height + GAP for row in rows) - GAP), PAPER)
    y = MARGIN
    for row in rows:
        canvas.paste(row, (MARGIN, y))
        y += row.height + GAP
    return save_image(canvas, path)


def _row(
    number: int, text: str, maps: np.ndarray, readable: Sequence[tuple[Match, DecodedImage]], width: int
) -> Image.Image:
    font, small = load_font(TEXT), load_font(SMALL)
    lines = wrap_text(text, font, width - 32)
    top = len(lines) * (TEXT + 7) + 8
    image = Image.new("RGB", (width, top + CELL_HEIGHT + 30 + BAR + 28), PAPER)
    draw = ImageDraw.Draw(image)
    draw_number(draw, 0, 2, number)
    for i, line in enumerate(lines):
        draw.text((30, i * (TEXT + 7)), line, fill=INK, font=font)
    low, high = np.quantile(maps, (0.02, 0.995))
    for column, (match, decoded) in enumerate(readable):
        x = column * (CELL + GAP)
        draw.rectangle((x, top, x + CELL - 1, top + CELL_HEIGHT - 1), fill=PALE)
        covered = overlay(decoded.image, maps[column], float(low), float(high), (decoded.width, decoded.height))
        image.paste(covered, (x + (CELL - covered.width) // 2, top + (CELL_HEIGHT - covered.height) // 2))
        below = top + CELL_HEIGHT + 6
        draw.text((x, below), f"#{match.rank}", fill=INK, font=small)
        draw.text((x + CELL, below), f"maximum {maps[column].max():.2f}", fill=GREY, font=small, anchor="ra")
    y = top + CELL_HEIGHT + 30
    scale = _coloured(np.linspace(0, 1, CELL)[None].repeat(BAR, axis=0))
    image.paste(Image.fromarray(scale), (0, y))
    draw.text((0, y + BAR + 4), f"{low:.2f}", fill=GREY, font=small)
    draw.text((CELL, y + BAR + 4), f"{high:.2f}", fill=GREY, font=small, anchor="ra")
    draw.text((CELL + 12, y - 2), "cosine of sentence and patch", fill=GREY, font=small)
    return image


def overlay(
    image: Image.Image, similarity: np.ndarray, low: float, high: float, size: tuple[int, int] | None = None
) -> Image.Image:
    """Blends a heat map over the whole image in grey, fitted into a cell.

    Args:
        image: an RGB image.
        similarity: `[rows, columns]`.
        low: the cosine drawn darkest.
        high: the cosine drawn lightest.
        size: width and height of the image file, if decoding shrank its sides by different factors. Default: the
            size of `image`.
    """
    size, _ = fit_size(*(size or image.size), CELL, CELL_HEIGHT)
    grey = ImageOps.grayscale(image.resize(size, Image.Resampling.LANCZOS))
    share = np.clip((similarity - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)
    smooth = np.asarray(Image.fromarray(share).resize(size, Image.Resampling.BILINEAR))
    mixed = (1 - OPACITY) * np.asarray(grey, dtype=np.float32)[..., None] + OPACITY * _coloured(smooth)
    return Image.fromarray(mixed.round().astype(np.uint8))


def _coloured(share: np.ndarray) -> np.ndarray:
    """RGB colours `[..., 3]` uint8 of values from 0 to 1."""
    stops = np.array(_STOPS, dtype=np.float32)
    positions = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(share, positions, stops[:, channel]) for channel in range(3)], axis=-1).astype(np.uint8)


__all__ = ["draw_maps", "overlay", "patch_similarity"]
