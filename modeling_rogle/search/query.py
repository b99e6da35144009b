"""A search query and its embeddings: a description, an image of a person, or both."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow.compute as pc
from PIL import Image

from modeling_rogle.image_io import ImageError, printable_path, read_image, to_rgb
from modeling_rogle.index.shards import Index
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.sentences import bytes_without_text, normalize_text, query_sentences


class Encoder(Protocol):
    """What a search needs of a model. `TorchEncoder` runs it in torch, `OnnxEncoder` in onnxruntime.

    Attributes:
        dimension: length D of an embedding.
        fingerprint: SHA-256 of the model; an index is searched with the model that made it.
        folder: folder of the model, which may hold a `calibration.json`; None for a model that was never saved.
        image_size: height and width in pixels to which an image is resized.
        fit: how an image is fitted to that size: `squeeze`, `pad` or `crop`.
        trained_regions: whether the region embeddings were trained; otherwise results show no regions.
        has_image_encoder: whether an image can be a query.
        local_weight: default weight of the local score in the final score, in [0, 1].
        max_tokens: maximum length of a text in tokens, including the start and end tokens.
    """

    @property
    def dimension(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def folder(self) -> Path | None: ...
    @property
    def image_size(self) -> tuple[int, int]: ...
    @property
    def fit(self) -> str: ...
    @property
    def trained_regions(self) -> bool: ...
    @property
    def has_image_encoder(self) -> bool: ...
    @property
    def local_weight(self) -> float: ...
    @property
    def max_tokens(self) -> int: ...

    def count_tokens(self, text: str) -> int:
        """Number of tokens in a text before truncation, including the start and end tokens."""

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """float32 `[n, D]` unit vectors of n texts."""

    def encode_images(self, images: Sequence[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
        """float32 `[n, D]` and `[n, T, D]` unit vectors of n images and of their template regions."""


@dataclass(frozen=True)
class Query:
    """A query and its embeddings.

    Attributes:
        text: the description as [`normalize_text`] cleans it, without the clauses beyond the 64th; empty if the query
            is an image.
        sentences: S clauses of the text, each as `(clause, start, end)` with its offsets in the text.
        embed: `[D]` unit vector; with both a text and an image, the direction of their mean.
        sentence_embeds: `[S, D]` unit vectors of the sentences.
    """

    text: str
    sentences: tuple[tuple[str, int, int], ...]
    embed: np.ndarray
    sentence_embeds: np.ndarray


def encode_query(encoder: Encoder, text: str = "", image: str | Path | Image.Image | None = None) -> Query:
    """Encodes a description, an image of a person, or both.

    Args:
        encoder: the encoder of texts and images.
        text: a description of one or more sentences. Default: none.
        image: an image or its file. Default: none.

    Raises:
        GalleryError: there are neither words nor an image, the image cannot be read, or the encoder has no image
            encoder or returns embeddings that are not finite.

    Warns:
        UserWarning: the text has more than 64 clauses, more tokens than the model reads, or bytes that are not text;
            the message gives the number that was cut.
    """
    if lost := bytes_without_text(text):
        warnings.warn(f"query: {lost} bytes are not text in UTF-8 and were removed", stacklevel=3)
    text = normalize_text(text)
    sentences, omitted = query_sentences(text)
    if omitted:
        read = len(sentences)
        warnings.warn(f"query: {read + omitted} clauses, at most {read} are read; the rest is ignored", stacklevel=3)
        text = text[: sentences[-1][2]]
    if not sentences and image is None:
        raise GalleryError('query: no words in it; describe a person, as in "a man in a red coat"')
    if image is not None and not encoder.has_image_encoder:
        raise GalleryError(f"query image: {encoder.folder} has no image encoder; search with a description")
    embeds, sentence_embeds = [], np.zeros((0, encoder.dimension), dtype=np.float32)
    if sentences:
        texts = [text.strip(), *(sentence for sentence, _, _ in sentences)]
        _warn_of_truncation(encoder, texts)
        text_embeds = encoder.encode_texts(texts)
        embeds.append(text_embeds[0])
        sentence_embeds = text_embeds[1:]
    if image is not None:
        embeds.append(encoder.encode_images([_read_query_image(image, encoder)])[0][0])
    mean = np.mean(embeds, axis=0)
    embed = embeds[0] if len(embeds) == 1 else mean / max(float(np.linalg.norm(mean)), 1e-12)
    return Query(text, tuple(sentences), embed.astype(np.float32), sentence_embeds)


def query_like(index: Index, path: str, rows: np.ndarray | None = None) -> tuple[Query, np.ndarray]:
    """The stored embedding of an indexed image as a query, and the rows to search: all but that image and its copies.

    Args:
        index: the index.
        path: path of the image, as in `Match.path`.
        rows: `[n]` rows to search. Default: all.

    Raises:
        GalleryError: the image is not in the index.
    """
    if path not in index.paths:
        raise GalleryError(f"like: {printable_path(path)} is not in this index")
    row = index.paths.index(path)
    embed = index.global_rows(np.array([row]))[0]
    rows = np.arange(len(index)) if rows is None else rows
    return Query("", (), embed, np.zeros((0, len(embed)), dtype=np.float32)), rows[~is_copy(index, row)[rows]]


def is_copy(index: Index, row: int) -> np.ndarray:
    """Bool `[N]`: whether each image has the same bytes as the one in `row`, and in a scene the same box."""
    table = index.table.select(["sha256", "box"])
    digest, box = table["sha256"][row], table["box"][row].as_py()
    same = np.zeros(len(index), dtype=bool)
    same[row] = True
    if digest.is_valid:
        rows = np.flatnonzero(pc.fill_null(pc.equal(table["sha256"], digest), False).to_numpy())
        same[[int(n) for n in rows if table["box"][int(n)].as_py() == box]] = True
    return same


def _read_query_image(image: str | Path | Image.Image, encoder: Encoder) -> Image.Image:
    try:
        if isinstance(image, Image.Image):
            return to_rgb(image)
        with warnings.catch_warnings():  # large images are decoded; those above the limit are refused
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return read_image(Path(image), str(image), encoder.image_size, encoder.fit).image
    except ImageError as error:
        raise GalleryError(f"query image {image}: {error}") from error


def _warn_of_truncation(encoder: Encoder, texts: Sequence[str]) -> None:
    """Warns if the first text, the whole query, is longer than the model reads. The others are its sentences."""
    tokens, limit = encoder.count_tokens(texts[0]), encoder.max_tokens
    if tokens <= limit:
        return
    read_in_full = sum(encoder.count_tokens(sentence) <= limit for sentence in texts[1:])
    warnings.warn(
        f"query: {tokens} tokens, the model reads {limit}: the last {tokens - limit} were cut from it; "
        f"{read_in_full} of {len(texts) - 1} sentences are still read in full, each by itself",
        stacklevel=4,
    )


__all__ = ["Encoder", "Query", "encode_query", "query_like"]
