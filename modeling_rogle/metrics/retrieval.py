"""Retrieval metrics from embeddings and integer ids: the global, local and joint protocols, and grounding.

`eval/pvlg/README.md` defines the protocols. `*_ranking` returns the figures of each query, `*_scores` returns their
means. Similarity is the cosine in float32; ranks come from `ranks.py`.
"""

from typing import Any

import numpy as np

from .cosine import cosine
from .inputs import as_embeddings, as_ids, check_length, device_for, embedding_pair
from .ranks import BLOCK_BYTES, PairsOf, Ranking, rank, same_id


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
        ignore = same_id(*_joint_codes((query_person, person), cameras))
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


def local_ranking(
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
    """Local protocol: one sentence against all regions; only the region paired with the sentence is relevant.

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
    return rank(similarity, len(query), len(gallery), positives, _others(equal, positives), ties)


def local_scores(
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
    """Means of `local_ranking`, with the same arguments and errors.

    Returns:
        `Ranking.scores`, and `gallery`, the number of gallery items.
    """
    queries = (sentence_embeds, target_region_ids, query_person_ids, query_text_ids)
    regions = (gallery_embeds, gallery_region_ids, gallery_person_ids, gallery_text_ids)
    return local_ranking(*queries, *regions, ties, device).scores() | {"gallery": len(gallery_embeds)}


def joint_ranking(
    query_embeds: Any,
    target_region_ids: Any,
    query_person_ids: Any,
    query_text_ids: Any,
    gallery_embeds: Any,
    gallery_region_ids: Any,
    gallery_person_ids: Any,
    gallery_text_ids: Any,
    query_kind: Any,
    gallery_kind: Any,
    parent_image_ids: Any,
    ties: str = "pessimistic",
    device: Any = None,
) -> Ranking:
    """Joint protocol: captions and sentences against one gallery of images and regions, in any order.

    For a caption, all images of its identity and their regions are relevant. For a sentence, its region and the parent
    image of that region are relevant. Other images of the identity, and its other regions with an equal sentence, are
    ignored for a sentence, because the sentence may describe them too.

    Args:
        query_embeds: `[Q, D]`, as in `global_ranking`.
        target_region_ids: `[Q]`, as in `local_ranking` for sentences; ignored for captions.
        query_person_ids: `[Q]` identities.
        query_text_ids: `[Q]`, as in `local_ranking` for sentences; ignored for captions.
        gallery_embeds: `[G, D]`.
        gallery_region_ids: `[G]`, as in `local_ranking` for regions; ignored for images.
        gallery_person_ids: `[G]` identities.
        gallery_text_ids: `[G]`, as in `local_ranking` for regions; ignored for images.
        query_kind: `[Q]`, 0 for a caption and 1 for a sentence.
        gallery_kind: `[G]`, 0 for an image and 1 for a region.
        parent_image_ids: `[G]`; for an image its own id (not negative, each once), for a region the id of its image.
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
    target = as_ids(target_region_ids, "target_region_ids", len(query), "query_embeds")
    query_person = as_ids(query_person_ids, "query_person_ids", len(query), "query_embeds")
    query_text = as_ids(query_text_ids, "query_text_ids", len(query), "query_embeds")
    sentence = _is_part(query_kind, "query_kind", len(query), "query_embeds")
    region = as_ids(gallery_region_ids, "gallery_region_ids", len(gallery), "gallery_embeds")
    person = as_ids(gallery_person_ids, "gallery_person_ids", len(gallery), "gallery_embeds")
    parent = as_ids(parent_image_ids, "parent_image_ids", len(gallery), "gallery_embeds")
    is_region = _is_part(gallery_kind, "gallery_kind", len(gallery), "gallery_embeds")
    _check_unique(region[is_region], "gallery_region_ids of regions")
    _check_unique(parent[~is_region], "parent_image_ids of images")
    image_of = _parents(parent, person, is_region)
    owner, text = _texts_of_regions(gallery_text_ids, len(gallery))
    text = np.where(is_region[owner], text, -1)

    # Identities may be any integers. They become codes from 0, so that -1 and -2 match no identity.
    query_code, person_code = _joint_codes((query_person, person))
    region = np.where(is_region, region, -2)
    order = np.argsort(region, kind="stable")
    column = order[np.minimum(np.searchsorted(region[order], target), len(region) - 1)]
    paired = sentence & (target >= 0) & (region[column] == target)
    by_person = same_id(np.where(sentence, -1, query_code), person_code)
    by_region = same_id(np.where(paired, column, -1), np.arange(len(gallery)))
    by_parent = same_id(np.where(paired, image_of[column], -1), np.arange(len(gallery)))
    other_image = same_id(np.where(sentence, query_code, -1), np.where(is_region, -2, person_code))
    equal = _equal_sentence(query_person, np.where(sentence, query_text, -1), person, owner, text)

    positives = _union(by_person, by_region, by_parent)
    ignore = _others(_union(other_image, equal), positives)
    return rank(cosine(query, gallery, device, reuse=True), len(query), len(gallery), positives, ignore, ties)


def joint_scores(
    query_embeds: Any,
    target_region_ids: Any,
    query_person_ids: Any,
    query_text_ids: Any,
    gallery_embeds: Any,
    gallery_region_ids: Any,
    gallery_person_ids: Any,
    gallery_text_ids: Any,
    query_kind: Any,
    gallery_kind: Any,
    parent_image_ids: Any,
    ties: str = "pessimistic",
    device: Any = None,
) -> dict[str, float]:
    """Means of `joint_ranking`, with the same arguments and errors.

    Returns:
        `Ranking.scores` of all queries, of captions as `caption/...` and of sentences as `sentence/...`, and `gallery`,
        the number of gallery items.
    """
    queries = (query_embeds, target_region_ids, query_person_ids, query_text_ids)
    items = (gallery_embeds, gallery_region_ids, gallery_person_ids, gallery_text_ids)
    ranking = joint_ranking(*queries, *items, query_kind, gallery_kind, parent_image_ids, ties, device)
    sentence = _is_part(query_kind, "query_kind", len(query_embeds), "query_embeds")
    scores = ranking.scores()
    for kind, chosen in (("caption", ~sentence), ("sentence", sentence)):
        scores |= {f"{kind}/{name}": value for name, value in ranking.take(chosen).scores().items()}
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


def _joint_codes(*columns: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Combines several kinds of ids into one code per row.

    Args:
        columns: (query ids, gallery ids) of each kind.

    Returns:
        Codes of queries and of gallery items, from 0. A row with a negative id in any column but the first equals
        nothing: its code is -1 for a query and -2 for a gallery item.
    """
    n_query = len(columns[0][0])
    table = np.stack([np.concatenate(column) for column in columns], axis=1)
    codes = np.unique(table, axis=0, return_inverse=True)[1].reshape(-1)
    unknown = (table[:, 1:] < 0).any(axis=1)
    return np.where(unknown, -1, codes)[:n_query], np.where(unknown, -2, codes)[n_query:]


def _equal_sentence(
    query_person: np.ndarray, query_text: np.ndarray, person: np.ndarray, owner: np.ndarray, text: np.ndarray
) -> PairsOf:
    """Pairs of a sentence and a region of the same identity that has a sentence of the same text."""
    equal = same_id(*_joint_codes((query_person, person[owner]), (query_text, text)))

    def pairs(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        rows, sentences = equal(start, stop)
        return rows, owner[sentences]

    return pairs


def _union(*parts: PairsOf) -> PairsOf:
    """Pairs that are in any of the parts."""

    def pairs(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = zip(*(part(start, stop) for part in parts), strict=True)
        return np.concatenate(rows), np.concatenate(columns)

    return pairs


def _others(pairs: PairsOf, positives: PairsOf) -> PairsOf:
    """The pairs that are not positives."""

    def remaining(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        (rows, columns), (positive_rows, positive_columns) = pairs(start, stop), positives(start, stop)
        width = 1 + max(columns.max(initial=0), positive_columns.max(initial=0))
        others = ~np.isin(rows * width + columns, positive_rows * width + positive_columns)
        return rows[others], columns[others]

    return remaining


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


def grounding_scores(pred_boxes: Any, true_boxes: Any, image_sizes: Any = None) -> dict[str, float]:
    """Grounding: how well the predicted box of each sentence fits its region in the image.

    Args:
        pred_boxes: `[N, 4]` x, y, w, h in pixels of the stored image, or any other unit.
        true_boxes: `[N, 4]`, in the same unit.
        image_sizes: `[N, 2]` width and height, to which both boxes are clipped first; no clipping by default.

    Returns:
        `pointing`: percent of predicted boxes whose centre lies in the true box, edges included. `IoU@0.5`: percent
        with an intersection over union of at least 0.5. `grounded`: N. The percentages are 0 for N = 0.

    Raises:
        ValueError: different lengths, values that are not finite, or a true box without area.
    """
    pred, true = as_embeddings(pred_boxes, "pred_boxes", 4), as_embeddings(true_boxes, "true_boxes", 4)
    check_length(len(pred), "pred_boxes", len(true), "true_boxes")
    pred, true = (np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], axis=1).astype(np.float64) for b in (pred, true))
    if image_sizes is not None:
        sizes = as_embeddings(image_sizes, "image_sizes", 2)
        check_length(len(sizes), "image_sizes", len(true), "true_boxes")
        pred, true = (np.clip(b, 0, np.tile(sizes, 2)) for b in (pred, true))
    true_area = (true[:, 2:] - true[:, :2]).prod(axis=1)
    if (true[:, 2:] <= true[:, :2]).any():
        bad = int(np.argmax((true[:, 2:] <= true[:, :2]).any(axis=1)))
        raise ValueError(f"true_boxes[{bad}] has no area")
    centre = (pred[:, :2] + pred[:, 2:]) / 2
    pointing = ((centre >= true[:, :2]) & (centre <= true[:, 2:])).all(axis=1)
    size = np.minimum(pred[:, 2:], true[:, 2:]) - np.maximum(pred[:, :2], true[:, :2])
    intersection = np.clip(size, 0, None).prod(axis=1)
    pred_area = np.clip(pred[:, 2:] - pred[:, :2], 0, None).prod(axis=1)
    hit = intersection / (pred_area + true_area - intersection) >= 0.5
    n = len(true)
    return {
        "pointing": 100.0 * float(pointing.mean()) if n else 0.0,
        "IoU@0.5": 100.0 * float(hit.mean()) if n else 0.0,
        "grounded": n,
    }


__all__ = [
    "BLOCK_BYTES", "Ranking", "as_embeddings", "as_ids", "cosine", "global_ranking", "global_scores",
    "grounding_scores", "joint_ranking", "joint_scores", "local_ranking", "local_scores", "rank", "same_id",
]  # fmt: skip
