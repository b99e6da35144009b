"""Late interaction of a query's sentences with the regions of images. NumPy only; this file travels to the Hub."""

from dataclasses import dataclass

import numpy as np


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
    if not sentences:  # an image alone says nothing of regions
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


__all__ = ["Interaction", "late_interaction", "ranks", "rerank"]
