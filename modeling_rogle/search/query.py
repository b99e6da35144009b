"""A query, encoded; and late interaction: each sentence of it meets its best region of an image."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.inference.image_encoder import encode_pixels, finite
from modeling_rogle.inference.image_io import ImageError, read_image
from modeling_rogle.modeling_rogle import RogleModel
from modeling_rogle.processing_rogle import RogleProcessor
from modeling_rogle.sentences import query_sentences


@dataclass(frozen=True)
class Query:
    """What is looked for: a text, an image, or both. embed `[D]` unit vector (of both: their mean's direction);
    sentences: each with its offsets in the text; sentence_embeds `[S, D]` unit vectors."""

    text: str
    sentences: tuple[tuple[str, int, int], ...]
    embed: np.ndarray
    sentence_embeds: np.ndarray


def encode_query(
    model: RogleModel, processor: RogleProcessor, text: str = "", image: str | Path | Image.Image | None = None
) -> Query:
    """Encodes a description, an image of a person, or both.

    Raises:
        GalleryError: neither words nor an image, an image that cannot be read, broken weights.

    Warns:
        UserWarning: the text has more than 64 sentences, of which the rest is left out, or is longer than the model
            reads; says how many sentences or tokens were cut.
    """
    sentences, omitted = query_sentences(text)
    if omitted:
        read = len(sentences)
        warnings.warn(f"query: {read + omitted} sentences, at most {read} are read: the rest is left out", stacklevel=3)
        text = text[: sentences[-1][2]]
    if not sentences and image is None:
        raise GalleryError('query: no words in it; describe a person, as in "a man in a red coat"')
    embeds, said = [], np.zeros((0, model.config.projection_dim), dtype=np.float32)
    if sentences:
        found = _encode_texts(model, processor, text.strip(), [sentence for sentence, _, _ in sentences])
        embeds.append(found[0])
        said = found[1:]
    if image is not None:
        pixels = processor(images=[_image(model, image)], return_tensors="pt")["pixel_values"]
        embeds.append(encode_pixels(model, pixels)[0][0])
    mean = np.mean(embeds, axis=0)
    unit = embeds[0] if len(embeds) == 1 else mean / max(float(np.linalg.norm(mean)), 1e-12)
    return Query(text, tuple(sentences), unit.astype(np.float32), said)


def _image(model: RogleModel, image: str | Path | Image.Image) -> Image.Image:
    least = tuple(model.config.image_size)
    try:
        if isinstance(image, Image.Image):
            return image.convert("RGB")
        with warnings.catch_warnings():  # large ones are decoded; those over the limit are refused
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return read_image(Path(image), str(image), least).image
    except ImageError as error:
        raise GalleryError(f"query image {image}: {error}") from error


def _encode_texts(model: RogleModel, processor: RogleProcessor, query: str, sentences: Sequence[str]) -> np.ndarray:
    """`[1 + S, D]`: the query, then its sentences."""
    texts = [query, *sentences]
    limit = min(processor.tokenizer.model_max_length, model.config.text_config.max_position_embeddings)
    tokens = [len(ids) for ids in processor.tokenizer(texts, verbose=False)["input_ids"]]
    if tokens[0] > limit:
        cut = sum(count > limit for count in tokens[1:])
        warnings.warn(
            f"query: {tokens[0]} tokens, the model reads {limit}: the last {tokens[0] - limit} were cut from it; "
            f"{len(sentences) - cut} of {len(sentences)} sentences are still read in full, each by itself",
            stacklevel=4,
        )
    encoded = processor(text=texts, return_tensors="pt", max_length=limit)
    return finite(model.encode_texts(encoded["input_ids"].to(model.device)))


__all__ = ["Query", "encode_query"]
