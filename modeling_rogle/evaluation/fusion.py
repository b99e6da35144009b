"""Ranking by fused global and local similarity, and the fit of the local weight.

The formulas are `fuse` and `local_similarities` of late_interaction.py; this file applies them to blocks of a split.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

from modeling_rogle.evaluation.head_similarity import HeadSimilarity
from modeling_rogle.evaluation.split_embeddings import CaptionSet, SplitEmbeddings
from modeling_rogle.late_interaction import fuse, local_similarities
from modeling_rogle.metrics.cosine import cosine
from modeling_rogle.metrics.ranks import BLOCK_BYTES, PairsOf, Ranking, rank, same_id

LOCAL_WEIGHTS = tuple(round(0.05 * step, 2) for step in range(21))


def caption_similarities(
    embeddings: SplitEmbeddings, captions: CaptionSet
) -> Callable[[int, int], tuple[np.ndarray, np.ndarray]]:
    """Global and local similarity of captions and images.

    Local similarity is late interaction of the captions' clauses with the template regions, as in a search. A caption
    without sentences has its global similarity there too. If the model has a head that compares, its similarity is used
    instead, see head_similarity.py.

    Args:
        embeddings: the split.
        captions: the captions of the split that are the queries.

    Returns:
        A function (start, stop) -> global and local similarity of these captions to all I images, float32
        `[stop - start, I]` each.
    """
    head = HeadSimilarity.of(embeddings, captions)
    by_image = cosine(captions.embeds.numpy(), embeddings.image_embeds.numpy())
    clauses, owner = (values.numpy() for values in captions.clauses)
    templates = embeddings.template_embeds.unbind(1) if len(clauses) else ()
    by_template = [cosine(clauses, template.numpy()) for template in templates]
    first = np.searchsorted(owner, np.arange(len(captions.embeds) + 1))

    def block(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        global_scores = by_image(start, stop)
        if head is not None:
            return global_scores, head.by_caption(start, stop, global_scores)
        local_scores = global_scores.copy()
        if first[stop] > first[start]:
            counts = np.diff(first[start : stop + 1])
            cosines = (similarity(first[start], first[stop]) for similarity in by_template)
            local_scores[counts > 0] = local_similarities(cosines, counts[counts > 0])
        return global_scores, local_scores

    return block


def rank_captions(
    embeddings: SplitEmbeddings, captions: CaptionSet, weights: Sequence[float], ties: str = "pessimistic"
) -> list[Ranking]:
    """Ranks the images for each caption by fused similarity, for several local weights at once.

    Both similarities of a block of captions are computed once for all weights.

    Args:
        embeddings: the split.
        captions: the captions of the split that are the queries.
        weights: local weights in [0, 1].
        ties: see `ranks.rank`; against the query by default.

    Returns:
        One ranking per weight.
    """
    n_captions, n_images = len(captions.embeds), len(embeddings.image_embeds)
    similarities = caption_similarities(embeddings, captions)
    people = embeddings.image_person_ids.numpy()
    positives = same_id(people[captions.image.numpy()], people)
    step = max(1, BLOCK_BYTES // (4 * n_images * (2 + len(captions.clauses[0]) // n_captions)))
    parts: list[list[Ranking]] = [[] for _ in weights]
    for start in range(0, n_captions, step):
        stop = min(start + step, n_captions)
        global_scores, local_scores = similarities(start, stop)
        for part, weight in zip(parts, weights, strict=True):
            part.append(_rank_block(fuse(global_scores, local_scores, weight), positives, start, ties))
    return [Ranking.concatenate(part) for part in parts]


def _rank_block(similarities: np.ndarray, positives: PairsOf, first_query: int, ties: str) -> Ranking:
    """The ranking of consecutive queries, whose similarities are known."""

    def block(start: int, stop: int) -> np.ndarray:
        return similarities[start:stop]

    def pairs(start: int, stop: int) -> tuple[np.ndarray, ...]:
        return positives(first_query + start, first_query + stop)

    n_query, n_gallery = similarities.shape
    return rank(block, n_query, n_gallery, pairs, ties=ties)


def rank_images(embeddings: SplitEmbeddings, captions: CaptionSet, weight: float, ties: str = "pessimistic") -> Ranking:
    """Ranks the captions for each image by the fused similarity of [`caption_similarities`].

    Args:
        embeddings: the split; its images are the queries.
        captions: the captions of the split that are the gallery.
        weight: local weight in [0, 1].
        ties: see `ranks.rank`; against the query by default.

    Returns:
        The ranking of each image.
    """
    head = HeadSimilarity.of(embeddings, captions)
    by_caption = cosine(embeddings.image_embeds.numpy(), captions.embeds.numpy())
    clauses, owner = (values.numpy() for values in captions.clauses)
    templates = embeddings.template_embeds.unbind(1) if len(clauses) else ()
    by_template = [cosine(template.numpy(), clauses) for template in templates]
    counts = np.bincount(owner, minlength=len(captions.embeds))

    def block(start: int, stop: int) -> np.ndarray:
        global_scores = by_caption(start, stop)
        if head is not None:
            return fuse(global_scores, head.by_image(start, stop, global_scores), weight)
        local_scores = global_scores.copy()
        if len(clauses):
            cosines = (similarity(start, stop) for similarity in by_template)
            local_scores[:, counts > 0] = local_similarities(cosines, counts[counts > 0], axis=1)
        return fuse(global_scores, local_scores, weight)

    people = embeddings.image_person_ids.numpy()
    step = max(1, BLOCK_BYTES // (4 * (2 * len(counts) + 2 * len(clauses))))
    positives = same_id(people, people[captions.image.numpy()])
    return rank(block, len(people), len(counts), positives, ties=ties, block_rows=step)


def fit_local_weight(
    embeddings: SplitEmbeddings, grid: Sequence[float] = LOCAL_WEIGHTS, captions: Sequence[str] = ("long", "short")
) -> tuple[float, list[dict[str, float]]]:
    """Chooses the local weight by R@1 + mAP on a validation split; on equal values the first of `grid` wins.

    Long captions prefer a higher weight than short ones, and a user's query may be either. So the scores are the mean
    over both kinds.

    Args:
        embeddings: a validation split.
        grid: weights in [0, 1]; by default 0 to 1 in steps of 0.05.
        captions: kinds of captions that count, both by default; kinds that the rows do not have are skipped.

    Returns:
        weight: the chosen weight.
        table: one `{"local_weight", "R@1", "mAP"}` for each weight of `grid`, means over the kinds.

    Raises:
        ValueError: a test split, a split without such captions, or a weight outside [0, 1].
    """
    if "test" in re.split(r"[\W_]+", (embeddings.split or "").lower()):
        raise ValueError(f"fit_local_weight: split {embeddings.split!r} is for reporting, choose on validation")
    if not grid or min(grid) < 0 or max(grid) > 1:
        raise ValueError(f"fit_local_weight: grid must be weights in [0, 1], not {list(grid)}")
    sets = [embeddings.captions(kind) for kind in captions]
    sets = [caption_set for caption_set in sets if len(caption_set.embeds)]
    if not sets:
        raise ValueError(f"fit_local_weight: the rows have no {' or '.join(captions)} captions")
    scores = [[ranking.scores() for ranking in rank_captions(embeddings, item, grid)] for item in sets]
    table = [
        {"local_weight": float(weight)}
        | {name: float(np.mean([kind[name] for kind in kinds])) for name in ("R@1", "mAP")}
        for weight, *kinds in zip(grid, *scores, strict=True)
    ]
    best = max(table, key=lambda entry: entry["R@1"] + entry["mAP"])
    return best["local_weight"], table


__all__ = ["LOCAL_WEIGHTS", "caption_similarities", "fit_local_weight", "rank_captions", "rank_images"]
