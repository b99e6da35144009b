"""How images and texts are prepared for a model: image size, fit and text length. An index records it."""

from dataclasses import dataclass
from typing import Any

from modeling_rogle.image_io import FITS
from modeling_rogle.inference.errors import GalleryError

_VERBS = {"squeeze": "resized without their aspect ratio", "pad": "padded", "crop": "cropped"}


@dataclass(frozen=True)
class Preprocessing:
    """Image size, text length and fit.

    Attributes:
        image_size: height and width in pixels that the model reads.
        max_tokens: maximum length of a text in tokens, including the start and end tokens.
        fit: how an image is fitted to that size: `squeeze`, `pad` or `crop`.

    Raises:
        GalleryError: a value is out of range.
    """

    image_size: tuple[int, int]
    max_tokens: int
    fit: str = "squeeze"

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise GalleryError(f"fit must be one of {', '.join(FITS)}, not {self.fit!r}")
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise GalleryError(f"image size must be height and width in pixels, not {self.image_size}")

    @classmethod
    def from_manifest(cls, header: dict[str, Any]) -> "Preprocessing":
        """Reads the field `preprocessing` of an index. Without it, the index was made as `PERSON_SEARCH`."""
        stored = header.get("preprocessing")
        if stored is None:
            return PERSON_SEARCH
        height, width = stored["image_size"]
        return cls((height, width), stored["max_tokens"], stored["fit"])

    def to_manifest(self) -> dict[str, Any]:
        """Returns the value of the field `preprocessing`."""
        return {"image_size": list(self.image_size), "max_tokens": self.max_tokens, "fit": self.fit}

    def __str__(self) -> str:
        height, width = self.image_size
        return f"images {_VERBS[self.fit]} to {height} x {width} px, texts of up to {self.max_tokens} tokens"


# The shape that person search trains CLIP weights in, and what indexes of format 2 used for all CLIP weights.
PERSON_SEARCH = Preprocessing((384, 128), 248, "squeeze")

__all__ = ["PERSON_SEARCH", "Preprocessing"]
