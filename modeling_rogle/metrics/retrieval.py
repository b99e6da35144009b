"""Retrieval metrics from embeddings and integer ids: the global, local-strict and joint protocols.

`eval/pvlg/README.md` defines the protocols. `*_ranking` returns the figures of each query, `*_scores` returns their
means. Similarity is the cosine in float32; ranks come from `ranks.py`.
"""

from typing import Any

import numpy as np

from .cosine import cosine
from .inputs import as_ids, check_length, device_for, embedding_pair
from .local import as_relevance, ignored_of, positives_of
from .pairs import graded, joint_codes, last_block_kept, others, selected, to_owners, union
from .ranks import PairsOf, Ranking, rank, same_id


def global_ranking(
    query_embeds: Any,
    query_ids: Any,
    gallery_embeds: Any,
    gallery_ids: Any,
    ties: str = "pessimistic",
    query_cameras: Any = None,
    gallery_cameras: Any = None,
    device: Any = None,
) -> Ranking:
    """Global protocol: every gallery item of the query's identity is relevant.

    Args:
        query_embeds: `[Q, D]` array, tensor or lists. Half precision is converted to float32. The vectors need not have
            unit length, because similarity is the cosine.
        query_ids: `[Q]` integers, the identities.
        gallery_embeds: `[G, D]`, like `query_embeds`.
        gallery_ids: `[G]` integers, the identities.
        ties: order of a positive and a negative of equal similarity, see `rank`; the negative first by default.
        query_cameras: `[Q]` integers or names; -1 or None where unknown. Given together with `gallery_cameras`. Gallery
            items of the query's identity *and* camera are then ignored, as in re-identification.
        gallery_cameras: `[G]`, likewise.
        device: torch device that multiplies and counts. The default, None, is the device of the gallery tensor, and
            NumPy on the CPU.

    Returns:
        The ranking of each query.

    Raises:
        ValueError: different lengths or dimensions, embeddings that are not finite, ids that are not integers, no
            query, or an empty gallery.
    """
    device = device_for(gallery_embeds, device)
    query, gallery = embedding_pair(query_embeds, gallery_embeds, "query_embeds", "gallery_embeds")
    query_person = as_ids(query_ids, "query_ids", len(query), "query_embeds")
    person = as_ids(gallery_ids, "gallery_ids", len(gallery), "gallery_embeds")
    ignore = None
    if (query_cameras is None) != (gallery_cameras is None):
        raise ValueError("query_cameras and gallery_cameras go together")
    if query_cameras is not None:
        cameras = _camera_codes(query_cameras, gallery_cameras, len(query), len(gallery))
        ignore = same_id(*joint_codes((query_person, person), cameras))
    similarity = cosine(query, gallery, device, reuse=True)
    return rank(similarity, len(query), len(gallery), same_id(query_person, person), ignore, ties)


def global_scores(
    query_embeds: Any,
    query_ids: Any,
    gallery_embeds: Any,
    gallery_ids: Any,
    ties: str = "pessimistic",
    query_cameras: Any = None,
    gallery_cameras: Any = None,
    device: Any = None,
) -> dict[str, float]:
    """Means of `global_ranking`, with the same arguments and errors.

    Returns:
        `Ranking.scores`, and `gallery`, the number of gallery items.
    """
    arguments = (query_embeds, query_ids, gallery_embeds, gallery_ids, ties, query_cameras, gallery_cameras, device)
    return global_ranking(*arguments).scores() | {"gallery": len(gallery_embeds)}


def local_strict_ranking(
    sentence_embeds: Any,
    target_region_ids: Any,
    query_person_ids: Any,
    query_text_ids: Any,
    gallery_embeds: Any,
    gallery_region_ids: Any,
    gallery_person_ids: Any,
    gallery_text_ids: Any,
    ties: str = "pessimistic",
    device: Any = None,
) -> Ranking:
    """Strict local protocol: one sentence against all regions; only the region paired with the sentence is relevant.

    Other regions of the same identity that have a sentence of the same text are ignored, because the query describes
    them too.

    Args:
        sentence_embeds: `[S, D]`, as in `global_ranking`.
        target_region_ids: `[S]`, the paired region in `gallery_region_ids`. A sentence with -1, or with an id that the
            gallery does not have, is left out and counted in `dropped_queries`.
        query_person_ids: `[S]` identities.
        query_text_ids: `[S]`; equal ids mean equal texts, and -1 equals nothing.
        gallery_embeds: `[R, D]`.
        gallery_region_ids: `[R]`, not negative, each once: one box of one image is one region, even if several
            sentences describe it.
        gallery_person_ids: `[R]` identities.
        gallery_text_ids: `[R]` text id of the region's sentence, -1 for none; or R lists, if regions have several
            sentences or none.
        ties: see `global_ranking`.
        device: see `global_ranking`.

    Returns:
        The ranking of each sentence.

    Raises:
        ValueError: as `global_ranking`; also a region id that is negative or occurs twice.
    """
    device = device_for(gallery_embeds, device)
    query, gallery = embedding_pair(sentence_embeds, gallery_embeds, "sentence_embeds", "gallery_embeds")
    target = as_ids(target_region_ids, "target_region_ids", len(query), "sentence_embeds")
    region = as_ids(gallery_region_ids, "gallery_region_ids", len(gallery), "gallery_embeds")
    _check_unique(region, "gallery_region_ids")
    query_person = as_ids(query_person_ids, "query_person_ids", len(query), "sentence_embeds")
    query_text = as_ids(query_text_ids, "query_text_ids", len(query), "sentence_embeds")
    person = as_ids(gallery_person_ids, "gallery_person_ids", len(gallery), "gallery_embeds")
    owner, text = _texts_of_regions(gallery_text_ids, len(gallery))
    positives = same_id(target, region)
    equal = _equal_sentence(query_person, query_text, person, owner, text)
    similarity = cosine(query, gallery, device, reuse=True)
    return rank(similarity, len(query), len(gallery), positives, others(equal, positives), ties)


def local_strict_scores(
    sentence_embeds: Any,
    target_region_ids: Any,
    query_person_ids: Any,
    query_text_ids: Any,
    gallery_embeds: Any,
    gallery_region_ids: Any,
    gallery_person_ids: Any,
    gallery_text_ids: Any,
    ties: str = "pessimistic",
    device: Any = None,
) -> dict[str, float]:
    """Means of `local_strict_ranking`, with the same arguments and errors.

    Returns:
        `Ranking.scores`, and `gallery`, the number of gallery items.
    """
    queries = (sentence_embeds, target_region_ids, query_person_ids, query_text_ids)
    regions = (gallery_embeds, gallery_region_ids, gallery_person_ids, gallery_text_ids)
    return local_strict_ranking(*queries, *regions, ties, device).scores() | {"gallery": len(gallery_embeds)}


def joint_ranking(
    query_embeds: Any,
    query_person_ids: Any,
    query_kind: Any,
    gallery_embeds: Any,
    gallery_person_ids: Any,
    gallery_kind: Any,
    parent_image_ids: Any,
    relevance: Any,
    ties: str = "pessimistic",
    device: Any = None,
) -> Ranking:
    """Joint protocol: captions and sentences against one gallery of images and regions, in any order.

    For a caption, all images of its identity and their regions are relevant. For a sentence, the items of `relevance`
    are relevant, and the image of each relevant region. The image of an ignored region is ignored, unless it is
    relevant.

    Args:
        query_embeds: `[Q, D]`, as in `global_ranking`.
        query_person_ids: `[Q]` identities.
        query_kind: `[Q]`, 0 for a caption and 1 for a sentence.
        gallery_embeds: `[G, D]`.
        gallery_person_ids: `[G]` identities.
        gallery_kind: `[G]`, 0 for an image and 1 for a region.
        parent_image_ids: `[G]`; for an image its own id (not negative, each once), for a region the id of its image.
        relevance: rows of queries that are sentences, and of the gallery, see `local.local_ranking`.
        ties: see `global_ranking`.
        device: see `global_ranking`.

    Returns:
        The ranking of each query.

    Raises:
        ValueError: as `local_ranking`; also a kind that is neither 0 nor 1, and a region whose parent is not in the
            gallery or belongs to another identity. A lost link would silently leave one relevant item instead of two,
            as in GOAL's published joint test.
    """
    device = device_for(gallery_embeds, device)
    query, gallery = embedding_pair(query_embeds, gallery_embeds, "query_embeds", "gallery_embeds")
    query_person = as_ids(query_person_ids, "query_person_ids", len(query), "query_embeds")
    sentence = _is_part(query_kind, "query_kind", len(query), "query_embeds")
    person = as_ids(gallery_person_ids, "gallery_person_ids", len(gallery), "gallery_embeds")
    parent = as_ids(parent_image_ids, "parent_image_ids", len(gallery), "gallery_embeds")
    is_region = _is_part(gallery_kind, "gallery_kind", len(gallery), "gallery_embeds")
    _check_unique(parent[~is_region], "parent_image_ids of images")
    image_of = _parents(parent, person, is_region)
    # Identities may be any integers. They become codes from 0, so that -1 and -2 match no identity.
    query_code, person_code = joint_codes((query_person, person))
    by_person = graded(same_id(np.where(sentence, -1, query_code), person_code), 1)
    listed = as_relevance(relevance, len(query), len(gallery))
    listed = last_block_kept(selected(listed, lambda rows, *_: sentence[rows]))
    positives, ignored = positives_of(listed), ignored_of(listed)
    positives = last_block_kept(union(by_person, positives, to_owners(positives, image_of)))
    ignored = others(union(ignored, to_owners(ignored, image_of)), positives)
    return rank(cosine(query, gallery, device, reuse=True), len(query), len(gallery), positives, ignored, ties)


def joint_scores(
    query_embeds: Any,
    query_person_ids: Any,
    query_kind: Any,
    gallery_embeds: Any,
    gallery_person_ids: Any,
    gallery_kind: Any,
    parent_image_ids: Any,
    relevance: Any,
    ties: str = "pessimistic",
    device: Any = None,
) -> dict[str, float]:
    """Means of `joint_ranking` for captions and for sentences, with the same arguments and errors.

    Returns:
        `Ranking.scores` of captions as `caption/...`, `Ranking.graded_scores` of sentences as `sentence/...`, and
        `gallery`, the number of gallery items. There is no mean over both, because a caption and a sentence have
        different positives.
    """
    queries, items = (query_embeds, query_person_ids, query_kind), (gallery_embeds, gallery_person_ids, gallery_kind)
    ranking = joint_ranking(*queries, *items, parent_image_ids, relevance, ties, device)
    sentence = _is_part(query_kind, "query_kind", len(query_embeds), "query_embeds")
    scores = {f"caption/{name}": value for name, value in ranking.take(~sentence).scores().items()}
    scores |= {f"sentence/{name}": value for name, value in ranking.take(sentence).graded_scores().items()}
    return scores | {"gallery": len(gallery_embeds)}


def _is_part(kinds: Any, name: str, length: int, length_of: str) -> np.ndarray:
    """bool `[length]`: sentences among queries, regions in the gallery."""
    kinds = as_ids(kinds, name, length, length_of)
    if ((kinds != 0) & (kinds != 1)).any():
        raise ValueError(f"{name} must be 0 (caption, image) or 1 (sentence, region), not {kinds.min()}..{kinds.max()}")
    return kinds == 1


def _check_unique(ids: np.ndarray, name: str) -> None:
    if len(np.unique(ids)) < len(ids) or (len(ids) and ids.min() < 0):
        raise ValueError(f"{name} must be non-negative and each occur once")


def _parents(parent: np.ndarray, person: np.ndarray, is_region: np.ndarray) -> np.ndarray:
    """Gallery column of each item's parent image; an image is its own parent."""
    images = np.flatnonzero(~is_region)
    images = images[np.argsort(parent[images])]
    if not len(images):
        raise ValueError("gallery_kind names no image, the joint gallery holds regions and their parent images")
    image_of = images[np.minimum(np.searchsorted(parent[images], parent), len(images) - 1)]
    lost = np.flatnonzero(parent[image_of] != parent)
    if len(lost):
        raise ValueError(f"parent_image_ids[{lost[0]}] is {parent[lost[0]]}, which is no image of the gallery")
    foreign = np.flatnonzero(person[image_of] != person)
    if len(foreign):
        raise ValueError(f"parent_image_ids[{foreign[0]}] is {parent[foreign[0]]}, an image of another identity")
    return image_of


def _equal_sentence(
    query_person: np.ndarray, query_text: np.ndarray, person: np.ndarray, owner: np.ndarray, text: np.ndarray
) -> PairsOf:
    """Pairs of a sentence and a region of the same identity that has a sentence of the same text."""
    return to_owners(same_id(*joint_codes((query_person, person[owner]), (query_text, text))), owner)


def _camera_codes(query: Any, gallery: Any, n_query: int, n_gallery: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes of cameras from 0; -1 where the camera is unknown."""
    try:
        query, gallery = (list(part.tolist() if hasattr(part, "tolist") else part) for part in (query, gallery))
        hash((*query, *gallery))
    except TypeError as error:
        raise ValueError("query_cameras and gallery_cameras must be lists of integers or names") from error
    check_length(len(query), "query_cameras", n_query, "query_embeds")
    check_length(len(gallery), "gallery_cameras", n_gallery, "gallery_embeds")
    code_of: dict[Any, int] = {None: -1, -1: -1}
    codes = np.array([code_of.setdefault(camera, len(code_of)) for camera in query + gallery], dtype=np.int64)
    return codes[:n_query], codes[n_query:]


def _texts_of_regions(text_ids: Any, n_regions: int) -> tuple[np.ndarray, np.ndarray]:
    """Region and text id of every (region, sentence) pair."""
    # A tensor contains no lists, and iterating over one is slow.
    kinds = set() if hasattr(text_ids, "detach") else {isinstance(ids, list | tuple) for ids in text_ids}
    if len(kinds) > 1:
        raise ValueError("gallery_text_ids mixes integers and lists of them; every region needs the same kind")
    if True in kinds:
        check_length(len(text_ids), "gallery_text_ids", n_regions, "gallery_embeds")
        owner = np.repeat(np.arange(n_regions), [len(ids) for ids in text_ids])
        flat = [text for ids in text_ids for text in ids]
        return owner, as_ids(flat, "gallery_text_ids", len(owner), "gallery_text_ids")
    return np.arange(n_regions), as_ids(text_ids, "gallery_text_ids", n_regions, "gallery_embeds")


__all__ = [
    "global_ranking", "global_scores", "joint_ranking", "joint_scores", "local_strict_ranking", "local_strict_scores",
]  # fmt: skip
