"""Thumbnails of results for a web page. Only files of the gallery are opened. No torch."""

import base64
import io

from PIL import Image

from modeling_rogle.display.drawing import CELL, CELL_HEIGHT
from modeling_rogle.image_io import ImageError, read_image
from modeling_rogle.search.gallery import Gallery
from modeling_rogle.search.results import Match

QUALITY = 85  # of a JPEG in a page


def thumbnail(gallery: Gallery, match: Match) -> Image.Image | None:
    """The whole image without distortion, at most 472 x 744 px; None if the file is missing, damaged or outside the
    gallery."""
    try:
        if not is_inside(gallery, match):
            return None
        image = read_image(match.file, match.path, (CELL_HEIGHT, CELL)).image
    except ImageError:
        return None
    if image.width * match.height != image.height * match.width:  # decoding shrank the sides by different factors
        image = image.resize((max(1, round(image.height * match.width / match.height)), image.height))
    image.thumbnail((2 * CELL, 2 * CELL_HEIGHT))
    return image


def is_inside(gallery: Gallery, match: Match) -> bool:
    """Whether a result's file, after following links, is inside the indexed folder or the index."""
    file = match.file.resolve()
    return any(file.is_relative_to(folder.resolve()) for folder in (gallery.folder, gallery.path))


def data_uri(image: Image.Image) -> str:
    """The image as a `data:` address of a JPEG."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


__all__ = ["data_uri", "is_inside", "thumbnail"]
