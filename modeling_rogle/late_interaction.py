"""Late interaction of a query's sentences with the regions of images, and the int8 regions of an index. NumPy only."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interaction:
    """Result of late interaction for n candidates, S sentences and T regions per image.

    Attributes:
        score: `[n]` final scores.
        cosines: `[n, S, T]` cosine of each sentence with each region.
        moved: `[n, S]` int64, the ranks that a sentence raised (+) or lowered (-) a candidate: its rank without that
            sentence minus its rank.
    """

    score: np.ndarray
    cosines: np.ndarray
    moved: np.ndarray


def fuse(global_scores: np.ndarray, local_scores: np.ndarray, weight: float) -> np.ndarray:
    """`(1 - w) * global + w * local`, the score of Rogle.

    Args:
        global_scores: cosines of caption and image, of any shape.
        local_scores: similarities of the local branch, of the same shape.
        weight: w in [0, 1].

    Returns:
        The fused scores in the type of the arguments: float32 stays float32.
    """
    weight = float(weight)  # a NumPy float64 would turn float32 scores into float64
    return (1.0 - weight) * global_scores + weight * local_scores


def late_interaction(
    global_scores: np.ndarray, cosines: np.ndarray, weight: float, explain: bool = True
) -> Interaction:
    """Fuses the global scores with the mean over sentences of the best region's cosine.

    A sentence is scored by one region. A sentence about several parts of a person is therefore split before, see
    [`sentences.query_sentences`]: each clause is one of the S sentences here, with a best region of its own.

    Args:
        global_scores: `[n]`.
        cosines: `[n, S, T]` cosine of each sentence with each region. With S = 0 the global scores are final.
        weight: w in [0, 1].
        explain: also compute `moved`, which is zero otherwise.
    """
    n, sentences, _ = cosines.shape
    if not sentences:  # the query is an image
        return Interaction(global_scores, cosines, np.zeros((n, 0), dtype=np.int64))
    best = cosines.max(axis=2)
    total = best.sum(axis=1)
    score = fuse(global_scores, total / sentences, weight)
    moved = np.zeros((n, sentences), dtype=np.int64)
    if explain and weight > 0:
        rank = ranks(score)
        for sentence in range(sentences):
            if sentences == 1:
                without = global_scores
            else:
                without = fuse(global_scores, (total - best[:, sentence]) / (sentences - 1), weight)
            moved[:, sentence] = ranks(without) - rank
    return Interaction(score, cosines, moved)


def local_similarities(region_cosines: Iterable[np.ndarray], counts: np.ndarray, axis: int = 0) -> np.ndarray:
    """Local similarities of many captions: the mean over the sentences of the best region's cosine.

    The same formula as [`late_interaction`], for blocks of captions. The regions come one by one, so that the cosines
    with all regions are never stored together.

    Args:
        region_cosines: T arrays `[S, n]` (`[n, S]` with axis 1), cosine of each sentence of all captions with one
            region of each image. The first array is overwritten.
        counts: `[C]` number of sentences of each caption, at least 1 each; their sum is S.
        axis: axis of the sentences, 0 by default.

    Returns:
        `[C, n]`, or `[n, C]` with axis 1.
    """
    arrays = iter(region_cosines)
    best = next(arrays)
    for cosines in arrays:
        np.maximum(best, cosines, out=best)
    first = np.cumsum(counts) - counts
    sums = np.add.reduceat(best, first, axis=axis)
    return sums / counts.astype(np.float32).reshape((-1, 1) if axis == 0 else (1, -1))


def rerank(
    global_scores: np.ndarray, cosines: np.ndarray, weight: float, reranked: int
) -> tuple[Interaction, np.ndarray]:
    """Applies late interaction to the best candidates only.

    Args:
        global_scores: `[n]`, best first.
        cosines: `[n, S, T]` cosine of each sentence with each region.
        weight: w in [0, 1].
        reranked: number of leading candidates that late interaction reranks. The others keep their global score and
            order and follow behind; their `moved` is 0.

    Returns:
        The result for all n candidates in the given order, and the final order: `[n]` int64 indices, best first.
    """
    head = late_interaction(global_scores[:reranked], cosines[:reranked], weight)
    rest = global_scores[reranked:]
    moved = np.concatenate([head.moved, np.zeros((len(rest), cosines.shape[1]), dtype=np.int64)])
    order = np.concatenate([np.argsort(-head.score, kind="stable"), np.arange(len(head.score), len(global_scores))])
    return Interaction(np.concatenate([head.score, rest]), cosines, moved), order


def ranks(scores: np.ndarray) -> np.ndarray:
    """Ranks `[n]` int64 from 1, the highest score first; of equal scores the earlier one ranks first."""
    rank = np.empty(len(scores), dtype=np.int64)
    rank[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return rank


def quantize_regions(embeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rounds region embeddings to int8, as an index stores them.

    Args:
        embeds: `[..., D]` float vectors of any length.

    Returns:
        int8 `[..., D]`, and float32 `[...]` scales: an int8 row times its scale has unit length.
    """
    largest = np.abs(embeds).max(axis=-1, keepdims=True)
    rounded = np.rint(embeds * (127.0 / np.maximum(largest, 1e-12))).astype(np.int8)
    lengths = np.linalg.norm(rounded.astype(np.float32), axis=-1)
    return rounded, (1.0 / np.maximum(lengths, 1.0)).astype(np.float32)


def dequantize_regions(regions: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The unit vectors, float32 `[..., D]`, of [`quantize_regions`]'s result."""
    return regions.astype(np.float32) * scales[..., None]


def region_cosines(regions: np.ndarray, scales: np.ndarray, sentence_embeds: np.ndarray) -> np.ndarray:
    """Cosines of sentences with int8 regions.

    Cheaper than through [`dequantize_regions`]: a scale is multiplied into the S cosines of its region instead of its
    D numbers.

    Args:
        regions: `[n, T, D]` int8.
        scales: `[n, T]` float32.
        sentence_embeds: `[S, D]` unit vectors.

    Returns:
        float32 `[n, S, T]`.
    """
    sentences = np.ascontiguousarray(sentence_embeds.T, dtype=np.float32)
    products = regions.reshape(-1, regions.shape[-1]).astype(np.float32) @ sentences
    products = products.reshape(*regions.shape[:2], len(sentence_embeds)) * scales[..., None]
    return products.transpose(0, 2, 1)


__all__ = [
    "Interaction",
    "dequantize_regions",
    "fuse",
    "late_interaction",
    "local_similarities",
    "quantize_regions",
    "rerank",
    "ranks",
    "region_cosines",
]
