"""A query, encoded; and late interaction: each sentence of it meets its best region of a picture."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from modeling_rogle.index.manifest import GalleryError
from modeling_rogle.indexing.image_folder import PictureError, read_picture
from modeling_rogle.inference.image_encoder import encode_pixels, finite
from modeling_rogle.modeling_rogle import RogleModel
from modeling_rogle.processing_rogle import RogleProcessor
from modeling_rogle.sentences import split_sentences

MAX_SENTENCES = 64  # of a query; a description has a few, and each costs a row of every candidate's regions


@dataclass(frozen=True)
class Query:
    """What is looked for: a text, a picture, or both. embed `[D]` unit vector (of both: their mean's direction);
    sentences: each with its offsets in the text; sentence_embeds `[S, D]` unit vectors."""

    text: str
    sentences: tuple[tuple[str, int, int], ...]
    embed: np.ndarray
    sentence_embeds: np.ndarray


def encode_query(
    model: RogleModel, processor: RogleProcessor, text: str = "", image: str | Path | Image.Image | None = None
) -> Query:
    """Encodes a description, a picture of a person, or both.

    Raises:
        GalleryError: neither words nor a picture, a picture that cannot be read, broken weights.

    Warns:
        UserWarning: the text has more than 64 sentences, of which the rest is left out, or is longer than the model
            reads; says how many sentences or tokens were cut.
    """
    sentences = split_sentences(text, clauses=True)  # a short query is one sentence that names several parts
    if len(sentences) > MAX_SENTENCES:
        warnings.warn(
            f"query: {len(sentences)} sentences, at most {MAX_SENTENCES} are read: the rest is left out", stacklevel=3
        )
        sentences = sentences[:MAX_SENTENCES]
        text = text[: sentences[-1][2]]
    if not sentences and image is None:
        raise GalleryError('query: no words in it; describe a person, as in "a man in a red coat"')
    embeds, said = [], np.zeros((0, model.config.projection_dim), dtype=np.float32)
    if sentences:
        found = _encode_texts(model, processor, text.strip(), [sentence for sentence, _, _ in sentences])
        embeds.append(found[0])
        said = found[1:]
    if image is not None:
        pixels = processor(images=[_picture(model, image)], return_tensors="pt")["pixel_values"]
        embeds.append(encode_pixels(model, pixels)[0][0])
    mean = np.mean(embeds, axis=0)
    unit = embeds[0] if len(embeds) == 1 else mean / max(float(np.linalg.norm(mean)), 1e-12)
    return Query(text, tuple(sentences), unit.astype(np.float32), said)


def _picture(model: RogleModel, image: str | Path | Image.Image) -> Image.Image:
    least = tuple(model.config.image_size)
    try:
        if isinstance(image, Image.Image):
            return image.convert("RGB")
        with warnings.catch_warnings():  # large ones are decoded; those over the limit are refused
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return read_picture(Path(image), str(image), least).image
    except PictureError as error:
        raise GalleryError(f"query picture {image}: {error}") from error


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


@dataclass(frozen=True)
class Interaction:
    """What late interaction made of n candidates and S sentences. score `[n]`; cosines `[n, S, T]`; moved `[n, S]`:
    the ranks that a sentence lifted (+) or sank (-) a candidate, its rank without that sentence minus its rank."""

    score: np.ndarray
    cosines: np.ndarray
    moved: np.ndarray


def late_interaction(
    global_scores: np.ndarray, cosines: np.ndarray, weight: float, explain: bool = True
) -> Interaction:
    """`score = (1 - w) * global + w * mean over sentences of the best region's cosine`.

    Args:
        global_scores: `[n]`; cosines: `[n, S, T]` of each sentence with each region; weight: w in [0, 1].
        explain: compute `moved`; zeros otherwise.
    """
    n, sentences, _ = cosines.shape
    if not sentences:  # a picture alone says nothing of regions
        return Interaction(global_scores, cosines, np.zeros((n, 0), dtype=np.int64))
    best = cosines.max(axis=2)
    total = best.sum(axis=1)
    score = (1.0 - weight) * global_scores + weight * total / sentences
    moved = np.zeros((n, sentences), dtype=np.int64)
    if explain and weight > 0:
        rank = ranks(score)
        for sentence in range(sentences):
            if sentences == 1:
                without = global_scores
            else:
                without = (1.0 - weight) * global_scores + weight * (total - best[:, sentence]) / (sentences - 1)
            moved[:, sentence] = ranks(without) - rank
    return Interaction(score, cosines, moved)


def rerank(
    global_scores: np.ndarray, cosines: np.ndarray, weight: float, reranked: int
) -> tuple[Interaction, np.ndarray]:
    """Late interaction among the best only.

    Args:
        global_scores: `[n]`, best first; cosines: `[n, S, T]`; weight: w in [0, 1].
        reranked: how many of the first meet late interaction. Those beyond keep their global score and their order, and
            no sentence moves them.

    Returns:
        what became of all n, and their places `[n]`, best first: those that met late interaction by their new score,
        then the others.
    """
    met = late_interaction(global_scores[:reranked], cosines[:reranked], weight)
    rest = global_scores[reranked:]
    moved = np.concatenate([met.moved, np.zeros((len(rest), cosines.shape[1]), dtype=np.int64)])
    order = np.concatenate([np.argsort(-met.score, kind="stable"), np.arange(len(met.score), len(global_scores))])
    return Interaction(np.concatenate([met.score, rest]), cosines, moved), order


def ranks(scores: np.ndarray) -> np.ndarray:
    """Ranks from 1, best first, of equal scores the earlier first."""
    found = np.empty(len(scores), dtype=np.int64)
    found[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return found


__all__ = ["Interaction", "Query", "encode_query", "late_interaction", "ranks", "rerank"]
