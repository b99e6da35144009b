"""Retrieval metrics of the three protocols, from embeddings and integer ids: global, local, joint; and grounding.

What the protocols are is written in `eval/pvlg/README.md`. `*_ranking` returns the figures of each query, `*_scores`
their means. Similarity is the cosine in float32; ranks come from `counting.py`.
"""

from typing import Any

import numpy as np

from .cosine import cosine
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
        query_embeds, gallery_embeds: `[Q, D]` and `[G, D]`, arrays, tensors or lists; half precision is upcast to
            float32. Need not be unit vectors: similarity is the cosine.
        query_ids, gallery_ids: `[Q]` and `[G]` integers, the identities.
        ties: see `rank`.
        query_cameras, gallery_cameras: `[Q]` and `[G]` integers or names, -1 or None where unknown. With them, gallery
            items of the query's identity *and* camera are ignored, as re-identification does.
        device: torch device that multiplies and counts; None means that of the gallery's tensor, numpy on a CPU.

    Raises:
        ValueError: lengths or dimensions that differ, embeddings that are not finite, ids that are not integers, no
            query, an empty gallery.
    """
    device = _device_of(gallery_embeds, device)
    query, gallery = _embedding_pair(query_embeds, gallery_embeds, "query_embeds", "gallery_embeds")
    wanted = as_ids(query_ids, "query_ids", len(query), "query_embeds")
    offered = as_ids(gallery_ids, "gallery_ids", len(gallery), "gallery_embeds")
    ignore = None
    if (query_cameras is None) != (gallery_cameras is None):
        raise ValueError("query_cameras and gallery_cameras go together")
    if query_cameras is not None:
        cameras = _camera_codes(query_cameras, gallery_cameras, len(query), len(gallery))
        ignore = same_id(*_joint_codes((wanted, offered), cameras))
    similarity = cosine(query, gallery, device, reuse=True)
    return rank(similarity, len(query), len(gallery), same_id(wanted, offered), ignore, ties)


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
    """Means of `global_ranking`, which takes and refuses the same: `Ranking.scores`, and `gallery`, its size."""
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
    """Local protocol: sentence -> regions of the whole gallery, relevant is the one region paired with the sentence.

    Regions of the same identity whose own sentence has the same text are ignored: they show what the sentence says.

    Args:
        sentence_embeds: `[S, D]`, as in `global_ranking`.
        target_region_ids: `[S]` ids in `gallery_region_ids`; -1, or an id that is not there, leaves the sentence out,
            and it is counted in `dropped_queries`.
        query_person_ids, query_text_ids: `[S]`; equal text ids mean equal texts, -1 is equal to none.
        gallery_embeds, gallery_region_ids, gallery_person_ids: `[R, D]` and `[R]`; region ids are not negative and
            occur once: one box of one image is one region, however many sentences speak of it.
        gallery_text_ids: `[R]` text id of the region's own sentence, -1 for none; or R lists, for regions that have
            several sentences or none.
        ties, device: see `global_ranking`.

    Raises:
        ValueError: as `global_ranking`; also for a region id that is negative or occurs twice.
    """
    device = _device_of(gallery_embeds, device)
    query, gallery = _embedding_pair(sentence_embeds, gallery_embeds, "sentence_embeds", "gallery_embeds")
    target = as_ids(target_region_ids, "target_region_ids", len(query), "sentence_embeds")
    region = as_ids(gallery_region_ids, "gallery_region_ids", len(gallery), "gallery_embeds")
    _check_ids_of(region, "gallery_region_ids")
    query_person = as_ids(query_person_ids, "query_person_ids", len(query), "sentence_embeds")
    query_text = as_ids(query_text_ids, "query_text_ids", len(query), "sentence_embeds")
    person = as_ids(gallery_person_ids, "gallery_person_ids", len(gallery), "gallery_embeds")
    owner, text = _texts_of_regions(gallery_text_ids, len(gallery))
    positives = same_id(target, region)
    said = _equal_sentence(query_person, query_text, person, owner, text)
    similarity = cosine(query, gallery, device, reuse=True)
    return rank(similarity, len(query), len(gallery), positives, _others(said, positives), ties)


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
    """Means of `local_ranking`, which takes and refuses the same: `Ranking.scores`, and `gallery`, its size."""
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
    """Joint protocol: captions and sentences -> one gallery of full images and regions, in any order.

    To a caption its identity's images and their regions are relevant. To a sentence its region and the image it lies
    in; other images of that identity, and other regions of it with an equal sentence, are ignored: what the sentence
    says is true of them, or may be.

    Args:
        query_embeds, gallery_embeds: `[Q, D]` and `[G, D]`, as in `global_ranking`.
        query_kind: `[Q]`, 0 a full caption, 1 a sentence. gallery_kind: `[G]`, 0 a full image, 1 a region.
        target_region_ids, query_text_ids: `[Q]`, of sentences as in `local_ranking`, of captions not read.
        gallery_region_ids, gallery_text_ids: `[G]`, of regions as in `local_ranking`, of images not read.
        query_person_ids, gallery_person_ids: `[Q]` and `[G]`.
        parent_image_ids: `[G]`, of an image its own id (not negative, once), of a region that of the image it lies in.
        ties, device: see `global_ranking`.

    Raises:
        ValueError: as `local_ranking`; also for a kind that is neither 0 nor 1, and for a region whose parent is no
            image of the gallery, or one of another identity: a lost link would quietly leave one relevant item of two,
            as in GOAL's published joint test.
    """
    device = _device_of(gallery_embeds, device)
    query, gallery = _embedding_pair(query_embeds, gallery_embeds, "query_embeds", "gallery_embeds")
    target = as_ids(target_region_ids, "target_region_ids", len(query), "query_embeds")
    query_person = as_ids(query_person_ids, "query_person_ids", len(query), "query_embeds")
    query_text = as_ids(query_text_ids, "query_text_ids", len(query), "query_embeds")
    sentence = _is_part(query_kind, "query_kind", len(query), "query_embeds")
    region = as_ids(gallery_region_ids, "gallery_region_ids", len(gallery), "gallery_embeds")
    person = as_ids(gallery_person_ids, "gallery_person_ids", len(gallery), "gallery_embeds")
    parent = as_ids(parent_image_ids, "parent_image_ids", len(gallery), "gallery_embeds")
    is_region = _is_part(gallery_kind, "gallery_kind", len(gallery), "gallery_embeds")
    _check_ids_of(region[is_region], "gallery_region_ids of regions")
    _check_ids_of(parent[~is_region], "parent_image_ids of images")
    image_of = _parents(parent, person, is_region)
    owner, text = _texts_of_regions(gallery_text_ids, len(gallery))
    text = np.where(is_region[owner], text, -1)

    # Codes from 0 for identities, which may be any integers, so that -1 and -2 are nobody.
    people, offered = _joint_codes((query_person, person))
    region = np.where(is_region, region, -2)
    order = np.argsort(region, kind="stable")
    at = order[np.minimum(np.searchsorted(region[order], target), len(region) - 1)]
    found = sentence & (target >= 0) & (region[at] == target)
    by_person = same_id(np.where(sentence, -1, people), offered)
    by_region = same_id(np.where(found, at, -1), np.arange(len(gallery)))
    by_parent = same_id(np.where(found, image_of[at], -1), np.arange(len(gallery)))
    other_image = same_id(np.where(sentence, people, -1), np.where(is_region, -2, offered))
    said = _equal_sentence(query_person, np.where(sentence, query_text, -1), person, owner, text)

    positives = _union(by_person, by_region, by_parent)
    ignore = _others(_union(other_image, said), positives)
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
    """Means of `joint_ranking`, which takes and refuses the same.

    Returns:
        `Ranking.scores` of all queries, of captions as `caption/...` and of sentences as `sentence/...`; and `gallery`.
    """
    queries = (query_embeds, target_region_ids, query_person_ids, query_text_ids)
    items = (gallery_embeds, gallery_region_ids, gallery_person_ids, gallery_text_ids)
    ranking = joint_ranking(*queries, *items, query_kind, gallery_kind, parent_image_ids, ties, device)
    sentence = _is_part(query_kind, "query_kind", len(query_embeds), "query_embeds")
    scores = ranking.scores()
    for kind, chosen in (("caption", ~sentence), ("sentence", sentence)):
        scores |= {f"{kind}/{name}": value for name, value in ranking.take(chosen).scores().items()}
    return scores | {"gallery": len(gallery_embeds)}


def _is_part(kinds: Any, name: str, length: int, of: str) -> np.ndarray:
    kinds = as_ids(kinds, name, length, of)
    if ((kinds != 0) & (kinds != 1)).any():
        raise ValueError(f"{name} must be 0 (caption, image) or 1 (sentence, region), not {kinds.min()}..{kinds.max()}")
    return kinds == 1


def _check_ids_of(ids: np.ndarray, name: str) -> None:
    if len(np.unique(ids)) < len(ids) or (len(ids) and ids.min() < 0):
        raise ValueError(f"{name} must be non-negative and each occur once")


def _parents(parent: np.ndarray, person: np.ndarray, is_region: np.ndarray) -> np.ndarray:
    """Gallery column of each item's image."""
    images = np.flatnonzero(~is_region)
    images = images[np.argsort(parent[images])]
    if not len(images):
        raise ValueError("gallery_kind names no image, the joint gallery holds regions and the images they lie in")
    image_of = images[np.minimum(np.searchsorted(parent[images], parent), len(images) - 1)]
    lost = np.flatnonzero(parent[image_of] != parent)
    if len(lost):
        raise ValueError(f"parent_image_ids[{lost[0]}] is {parent[lost[0]]}, which is no image of the gallery")
    strange = np.flatnonzero(person[image_of] != person)
    if len(strange):
        raise ValueError(f"parent_image_ids[{strange[0]}] is {parent[strange[0]]}, an image of another identity")
    return image_of


def _joint_codes(*columns: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(query ids, gallery ids) of each kind -> one code from 0 for each combination; -1, and -2 in the gallery, where a
    later column than the first is negative: equal to nothing."""
    n_query = len(columns[0][0])
    table = np.stack([np.concatenate(column) for column in columns], axis=1)
    codes = np.unique(table, axis=0, return_inverse=True)[1].reshape(-1)
    unknown = (table[:, 1:] < 0).any(axis=1)
    return np.where(unknown, -1, codes)[:n_query], np.where(unknown, -2, codes)[n_query:]


def _equal_sentence(
    query_person: np.ndarray, query_text: np.ndarray, person: np.ndarray, owner: np.ndarray, text: np.ndarray
) -> PairsOf:
    """The pairs of a sentence and a region of the same identity that has a sentence of the same text."""
    equal = same_id(*_joint_codes((query_person, person[owner]), (query_text, text)))

    def pairs(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        rows, said = equal(start, stop)
        return rows, owner[said]

    return pairs


def _union(*parts: PairsOf) -> PairsOf:
    def pairs(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = zip(*(part(start, stop) for part in parts), strict=True)
        return np.concatenate(rows), np.concatenate(columns)

    return pairs


def _others(pairs: PairsOf, positives: PairsOf) -> PairsOf:
    """Pairs that are not positive."""

    def others(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        (rows, columns), (good_rows, good_columns) = pairs(start, stop), positives(start, stop)
        width = 1 + max(columns.max(initial=0), good_columns.max(initial=0))
        kept = ~np.isin(rows * width + columns, good_rows * width + good_columns)
        return rows[kept], columns[kept]

    return others


def _camera_codes(query: Any, gallery: Any, n_query: int, n_gallery: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers or names of cameras -> codes from 0, -1 where the camera is not known."""
    try:
        query, gallery = (list(part.tolist() if hasattr(part, "tolist") else part) for part in (query, gallery))
        hash((*query, *gallery))
    except TypeError as error:
        raise ValueError("query_cameras and gallery_cameras must be lists of integers or names") from error
    _same_length(len(query), "query_cameras", n_query, "query_embeds")
    _same_length(len(gallery), "gallery_cameras", n_gallery, "gallery_embeds")
    seen: dict[Any, int] = {None: -1, -1: -1}
    codes = np.array([seen.setdefault(camera, len(seen)) for camera in query + gallery], dtype=np.int64)
    return codes[:n_query], codes[n_query:]


def _device_of(gallery_embeds: Any, device: Any) -> Any:
    """The device asked for, else that of a tensor which is not on the CPU, else None: numpy."""
    if device is None and hasattr(gallery_embeds, "device") and getattr(gallery_embeds.device, "type", "cpu") != "cpu":
        return gallery_embeds.device
    if device is not None:
        import torch

        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device {device!r}: {str(error).splitlines()[0]}") from error
    return device


def _texts_of_regions(text_ids: Any, n_regions: int) -> tuple[np.ndarray, np.ndarray]:
    """Region and text id of every (region, sentence) pair."""
    # A tensor has no lists in it, and is slow to look through.
    kinds = set() if hasattr(text_ids, "detach") else {isinstance(ids, list | tuple) for ids in text_ids}
    if len(kinds) > 1:
        raise ValueError("gallery_text_ids mixes integers and lists of them; every region needs the same kind")
    if True in kinds:
        _same_length(len(text_ids), "gallery_text_ids", n_regions, "gallery_embeds")
        owner = np.repeat(np.arange(n_regions), [len(ids) for ids in text_ids])
        flat = [text for ids in text_ids for text in ids]
        return owner, as_ids(flat, "gallery_text_ids", len(owner), "gallery_text_ids")
    return np.arange(n_regions), as_ids(text_ids, "gallery_text_ids", n_regions, "gallery_embeds")


def grounding_scores(pred_boxes: Any, true_boxes: Any, image_sizes: Any = None) -> dict[str, float]:
    """Grounding in the image: does the best box for a sentence lie where the sentence's region is?

    Args:
        pred_boxes, true_boxes: `[N, 4]` x, y, w, h in one unit (pixels of the stored image).
        image_sizes: `[N, 2]` width and height; both boxes are then clipped to the image first.

    Returns:
        `pointing`: percent of predicted boxes whose centre lies in the true box, edges included; `IoU@0.5`: percent
        with intersection over union of at least 0.5; `grounded`: N. Both are 0 for N = 0.

    Raises:
        ValueError: lengths that differ, values that are not finite, a true box without area.
    """
    pred, true = as_embeddings(pred_boxes, "pred_boxes", 4), as_embeddings(true_boxes, "true_boxes", 4)
    _same_length(len(pred), "pred_boxes", len(true), "true_boxes")
    pred, true = (np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], axis=1).astype(np.float64) for b in (pred, true))
    if image_sizes is not None:
        sizes = as_embeddings(image_sizes, "image_sizes", 2)
        _same_length(len(sizes), "image_sizes", len(true), "true_boxes")
        pred, true = (np.clip(b, 0, np.tile(sizes, 2)) for b in (pred, true))
    true_area = (true[:, 2:] - true[:, :2]).prod(axis=1)
    if (true[:, 2:] <= true[:, :2]).any():
        bad = int(np.argmax((true[:, 2:] <= true[:, :2]).any(axis=1)))
        raise ValueError(f"true_boxes[{bad}] has no area")
    centre = (pred[:, :2] + pred[:, 2:]) / 2
    pointing = ((centre >= true[:, :2]) & (centre <= true[:, 2:])).all(axis=1)
    overlap = np.clip(np.minimum(pred[:, 2:], true[:, 2:]) - np.maximum(pred[:, :2], true[:, :2]), 0, None).prod(axis=1)
    pred_area = np.clip(pred[:, 2:] - pred[:, :2], 0, None).prod(axis=1)
    hit = overlap / (pred_area + true_area - overlap) >= 0.5
    n = len(true)
    return {
        "pointing": 100.0 * float(pointing.mean()) if n else 0.0,
        "IoU@0.5": 100.0 * float(hit.mean()) if n else 0.0,
        "grounded": n,
    }


def as_embeddings(values: Any, name: str, columns: int | None = None) -> np.ndarray:
    """Array, tensor or lists -> `[N, columns]` float32.

    Raises:
        ValueError: another shape, or a value that is not finite; the message names `name`.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu().float().numpy()
    try:
        values = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be rows of numbers, all of one length") from error
    if values.size == 0 and columns:
        values = values.reshape(0, columns)
    if values.ndim != 2 or (columns and values.shape[1] != columns):
        raise ValueError(f"{name} must have shape [N, {columns or 'D'}], not {list(values.shape)}")
    if values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
        raise ValueError(f"{name} holds a value that is not finite (row {int(np.argmin(np.isfinite(values).all(1)))})")
    return np.ascontiguousarray(values)


def as_ids(values: Any, name: str, length: int, of: str) -> np.ndarray:
    """Array, tensor or list -> `[length]` int64.

    Raises:
        ValueError: not integers, or another length than that of the argument `of`; the message names both.
    """
    try:
        values = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{name} must be a list of integers, not of lists") from error
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
        raise ValueError(f"{name} must be a list of integers, not {values.dtype} of shape {list(values.shape)}")
    _same_length(len(values), name, length, of)
    return values.astype(np.int64)


def _embedding_pair(query: Any, gallery: Any, query_name: str, gallery_name: str) -> tuple[np.ndarray, np.ndarray]:
    for values, name in ((gallery, gallery_name), (query, query_name)):
        if not hasattr(values, "__len__"):
            raise ValueError(f"{name} must be rows of numbers, not {values!r}")
        if len(values) == 0:
            raise ValueError(f"{name} is empty")
    query, gallery = as_embeddings(query, query_name), as_embeddings(gallery, gallery_name)
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(f"{query_name} has {query.shape[1]} dimensions, {gallery_name} has {gallery.shape[1]}")
    return query, gallery


def _same_length(n: int, name: str, m: int, other: str) -> None:
    if n != m:
        raise ValueError(f"{name} has {n} rows, {other} has {m}")


__all__ = [
    "BLOCK_BYTES", "Ranking", "as_embeddings", "as_ids", "cosine", "global_ranking", "global_scores",
    "grounding_scores", "joint_ranking", "joint_scores", "local_ranking", "local_scores", "rank", "same_id",
]  # fmt: skip
