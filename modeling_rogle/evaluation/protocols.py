"""The protocols over the embeddings of one split (`encode_split`): encode once, score as often as one likes.

What the figures mean is written in `eval/pvlg/README.md`; ranks come from `ranking.py`.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers.utils import logging

from modeling_rogle.evaluation.head_similarity import HeadSimilarity
from modeling_rogle.evaluation.split_embeddings import CaptionSet, SplitEmbeddings, encode_split
from modeling_rogle.late_interaction import fuse
from modeling_rogle.metrics.retrieval import (
    BLOCK_BYTES,
    Ranking,
    cosine,
    global_ranking,
    grounding_scores,
    joint_ranking,
    local_ranking,
    rank,
    same_id,
)

logger = logging.get_logger(__name__)

PROTOCOLS = ("global", "local", "joint")
LOCAL_WEIGHTS = tuple(round(0.05 * step, 2) for step in range(21))


@dataclass(frozen=True)
class Ranked:
    """The queries of one line of the table, Q of them, and where each found its positives.

    kind: what the queries are: `long` or `short` captions, `sentence`s of long captions, `image`s, or `mixed`.
    query (`[Q]` int64): row of each among all of its kind; -1 for `mixed`. image, person_ids (`[Q]` int64): the image
    that each belongs to, and its identity. extra: figures that are no ranks, grounding's.
    """

    ranking: Ranking
    kind: str
    query: np.ndarray
    image: np.ndarray
    person_ids: np.ndarray
    gallery: int
    extra: dict[str, float] = field(default_factory=dict)

    def scores(self) -> dict[str, float]:
        """`Ranking.scores`, `gallery`, the number of its items, and `extra`."""
        return self.ranking.scores() | {"gallery": self.gallery} | self.extra


def global_protocol(
    embeddings: SplitEmbeddings, captions: str = "long", local_weight: float = 0.0, ties: str = "pessimistic"
) -> dict[str, float]:
    """Caption -> images by identity; also image -> caption (`i2t/...`), by the same similarity.

    Args:
        captions: `"long"` or `"short"`.
        local_weight: w of `(1 - w) * cos(caption, image) + w * mean over sentences of max over template regions of
            cos(sentence, region)`. A caption without sentences keeps its global similarity.
        ties: see `ranking.rank`.

    Returns:
        See `ranking.global_scores`. Empty, with a warning, if the split has no caption of that kind.

    Raises:
        ValueError: another kind of caption, a weight outside [0, 1].
    """
    found = _global_rankings(embeddings, captions, local_weight, ties)
    return {f"{prefix}{name}": value for prefix, line in found.items() for name, value in line.scores().items()}


def _global_rankings(embeddings: SplitEmbeddings, captions: str, local_weight: float, ties: str) -> dict[str, Ranked]:
    chosen = _captions_of(embeddings, captions)
    if not 0.0 <= local_weight <= 1.0:
        raise ValueError(f"local_weight must lie in [0, 1], not {local_weight}")
    if len(chosen.embeds) == 0:
        logger.warning_once(f"global protocol: the rows have no {captions} captions, nothing is scored")
        return {}
    people, image = embeddings.image_person_ids.numpy(), chosen.image.numpy()
    every_image = np.arange(len(people))
    if local_weight > 0:
        (forth,) = _fused_rankings(embeddings, chosen, (local_weight,), ties)
        back = _fused_image_ranking(embeddings, chosen, local_weight, ties)
    else:
        forth = global_ranking(chosen.embeds, people[image], embeddings.image_embeds, people, ties=ties)
        back = global_ranking(embeddings.image_embeds, people, chosen.embeds, people[image], ties=ties)
    return {
        "": Ranked(forth, captions, np.arange(len(image)), image, people[image], len(people)),
        "i2t/": Ranked(back, "image", every_image, every_image, people, len(image)),
    }


def _captions_of(embeddings: SplitEmbeddings, captions: str) -> CaptionSet:
    if captions not in ("long", "short"):
        raise ValueError(f"captions must be 'long' or 'short', not {captions!r}")
    return embeddings.long if captions == "long" else embeddings.short


def caption_similarities(
    embeddings: SplitEmbeddings, captions: CaptionSet
) -> Callable[[int, int], tuple[np.ndarray, np.ndarray]]:
    """Global and local similarity of captions start..stop-1 to all I images, each `[stop - start, I]` float32.

    Local is late interaction: mean over the caption's sentences of the max over template regions; a caption without
    sentences has its global similarity there too. A model whose head compares has that similarity in its place, see
    `reranking.py`.
    """
    head = HeadSimilarity.of(embeddings, captions)
    by_image = cosine(captions.embeds.numpy(), embeddings.image_embeds.numpy())
    templates = embeddings.template_embeds.unbind(1) if len(captions.sentence_embeds) else ()
    by_template = [cosine(captions.sentence_embeds.numpy(), template.numpy()) for template in templates]
    first = np.searchsorted(captions.sentence_caption.numpy(), np.arange(len(captions.embeds) + 1))

    def block(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        whole = by_image(start, stop)
        if head is not None:
            return whole, head.by_caption(start, stop, whole)
        local = whole.copy()
        if first[stop] > first[start]:
            best = by_template[0](first[start], first[stop])
            for similarity in by_template[1:]:
                np.maximum(best, similarity(first[start], first[stop]), out=best)
            counts = np.diff(first[start : stop + 1])
            kept = counts > 0
            sums = np.add.reduceat(best, first[start:stop][kept] - first[start], axis=0)
            local[kept] = sums / counts[kept, None].astype(np.float32)
        return whole, local

    return block


def _fused_rankings(
    embeddings: SplitEmbeddings, captions: CaptionSet, weights: Sequence[float], ties: str = "pessimistic"
) -> list[Ranking]:
    """One Ranking a weight; both similarities of a block of captions are computed once for all weights."""
    n_captions, n_images = len(captions.embeds), len(embeddings.image_embeds)
    similarities = caption_similarities(embeddings, captions)
    people = embeddings.image_person_ids.numpy()
    positives = same_id(people[captions.image.numpy()], people)
    step = max(1, BLOCK_BYTES // (4 * n_images * (2 + len(captions.sentence_embeds) // n_captions)))
    parts: list[list[Ranking]] = [[] for _ in weights]
    for start in range(0, n_captions, step):
        stop = min(start + step, n_captions)
        whole, local = similarities(start, stop)
        for part, weight in zip(parts, weights, strict=True):
            fused = fuse(whole, local, weight)
            part.append(
                rank(
                    lambda a, b, block=fused: block[a:b],
                    stop - start,
                    n_images,
                    lambda a, b, offset=start: positives(offset + a, offset + b),
                    ties=ties,
                )
            )
    return [Ranking.concatenate(part) for part in parts]


def _fused_image_ranking(embeddings: SplitEmbeddings, captions: CaptionSet, weight: float, ties: str) -> Ranking:
    """Image -> captions by the similarity of [`caption_similarities`], read the other way round."""
    head = HeadSimilarity.of(embeddings, captions)
    by_caption = cosine(embeddings.image_embeds.numpy(), captions.embeds.numpy())
    n_sentences, sentences = len(captions.sentence_embeds), captions.sentence_embeds.numpy()
    templates = embeddings.template_embeds.unbind(1) if n_sentences else ()
    by_template = [cosine(template.numpy(), sentences) for template in templates]
    counts = np.bincount(captions.sentence_caption.numpy(), minlength=len(captions.embeds))
    kept = counts > 0
    first = np.cumsum(counts)[kept] - counts[kept]

    def block(start: int, stop: int) -> np.ndarray:
        whole = by_caption(start, stop)
        if head is not None:
            return fuse(whole, head.by_image(start, stop, whole), weight)
        local = whole.copy()
        if n_sentences:
            best = by_template[0](start, stop)
            for similarity in by_template[1:]:
                np.maximum(best, similarity(start, stop), out=best)
            local[:, kept] = np.add.reduceat(best, first, axis=1) / counts[kept].astype(np.float32)
        return fuse(whole, local, weight)

    people = embeddings.image_person_ids.numpy()
    step = max(1, BLOCK_BYTES // (4 * (2 * len(counts) + 2 * n_sentences)))
    positives = same_id(people, people[captions.image.numpy()])
    return rank(block, len(people), len(counts), positives, ties=ties, block_rows=step)


def local_protocol(embeddings: SplitEmbeddings, ties: str = "pessimistic") -> dict[str, float]:
    """Sentence -> regions of the whole split, and grounding in the sentence's own image among the template boxes.

    Returns:
        See `ranking.local_scores` and `ranking.grounding_scores`. Empty, with a warning, if the rows have no regions
        or no sentence is paired with one.
    """
    found = _local_rankings(embeddings, ties)
    return found["local"].scores() if found else {}


def _has_pairs(embeddings: SplitEmbeddings, protocol: str) -> bool:
    if len(embeddings.region_embeds) and bool((embeddings.sentence_region >= 0).any()):
        return True
    logger.warning_once(f"{protocol} protocol: the rows have no regions paired with sentences, nothing is scored")
    return False


def _texts_of_regions(embeddings: SplitEmbeddings) -> list[list[int]]:
    said: list[list[int]] = [[] for _ in embeddings.region_embeds]
    for region, text in embeddings.region_texts.tolist():
        said[region].append(text)
    return said


def _local_rankings(embeddings: SplitEmbeddings, ties: str) -> dict[str, Ranked]:
    if not _has_pairs(embeddings, "local"):
        return {}
    chosen, target = embeddings.long, embeddings.sentence_region
    image = chosen.image[chosen.sentence_caption]
    ranking = local_ranking(
        chosen.sentence_embeds,
        target,
        embeddings.image_person_ids[image],
        embeddings.sentence_text_ids,
        embeddings.region_embeds,
        torch.arange(len(embeddings.region_embeds)),
        embeddings.image_person_ids[embeddings.region_image],
        _texts_of_regions(embeddings),
        ties=ties,
    )
    paired = (target >= 0).nonzero()[:, 0]
    best = torch.cat(
        [
            torch.einsum("sd,std->st", chosen.sentence_embeds[part], embeddings.template_embeds[image[part]]).argmax(1)
            for part in paired.split(4096)
        ]
    )
    sizes = embeddings.image_sizes[image[paired]].float()
    corners = embeddings.template_boxes[best] * sizes.repeat(1, 2)
    pred = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1)
    grounding = grounding_scores(pred, embeddings.region_boxes[target[paired]], sizes)
    people = embeddings.image_person_ids[image].numpy()
    queries = np.arange(len(target))
    line = Ranked(ranking, "sentence", queries, image.numpy(), people, len(embeddings.region_embeds), grounding)
    return {"local": line}


def joint_protocol(embeddings: SplitEmbeddings, ties: str = "pessimistic") -> dict[str, float]:
    """Long captions and their sentences -> one gallery of all images and all regions.

    Returns:
        See `ranking.joint_scores`: over all queries, and apart as `caption/...` and `sentence/...`. Empty, with a
        warning, if the rows have no regions or no sentence is paired with one.
    """
    return {
        f"{line.removeprefix('joint').removeprefix('/')}/{name}".removeprefix("/"): value
        for line, ranked in _joint_rankings(embeddings, ties).items()
        for name, value in ranked.scores().items()
    }


def _joint_rankings(embeddings: SplitEmbeddings, ties: str) -> dict[str, Ranked]:
    if not _has_pairs(embeddings, "joint"):
        return {}
    chosen, people = embeddings.long, embeddings.image_person_ids
    n_captions, n_sentences = len(chosen.embeds), len(chosen.sentence_embeds)
    n_images, n_regions = len(embeddings.image_embeds), len(embeddings.region_embeds)
    image = torch.cat([chosen.image, chosen.image[chosen.sentence_caption]])
    none = torch.full((n_captions,), -1)
    query_kind = torch.tensor([0, 1]).repeat_interleave(torch.tensor([n_captions, n_sentences]))
    ranking = joint_ranking(
        torch.cat([chosen.embeds, chosen.sentence_embeds]),
        torch.cat([none, embeddings.sentence_region]),
        people[image],
        torch.cat([none, embeddings.sentence_text_ids]),
        torch.cat([embeddings.image_embeds, embeddings.region_embeds]),
        torch.cat([torch.full((n_images,), -1), torch.arange(n_regions)]),
        torch.cat([people, people[embeddings.region_image]]),
        [[] for _ in range(n_images)] + _texts_of_regions(embeddings),
        query_kind,
        torch.tensor([0, 1]).repeat_interleave(torch.tensor([n_images, n_regions])),
        torch.cat([torch.arange(n_images), embeddings.region_image]),
        ties=ties,
    )
    image, query_people = image.numpy(), people[image].numpy()
    found = {"joint": Ranked(ranking, "mixed", np.full(len(image), -1), image, query_people, n_images + n_regions)}
    for kind, name in enumerate(("caption", "sentence")):
        at = np.flatnonzero(query_kind.numpy() == kind)
        found[f"joint/{name}"] = Ranked(
            ranking.take(at),
            ("long", "sentence")[kind],
            np.arange(len(at)),
            image[at],
            query_people[at],
            n_images + n_regions,
        )
    return found


def fit_local_weight(
    embeddings: SplitEmbeddings, grid: Sequence[float] = LOCAL_WEIGHTS, captions: Sequence[str] = ("long", "short")
) -> tuple[float, list[dict[str, float]]]:
    """Chooses w of late interaction by R@1 + mAP of a validation split; of equals the first in `grid`.

    Long captions want more of it than short ones, and a searcher's query may be either: the mean over both counts.

    Args:
        captions: the kinds that count; one that the rows do not have is passed over.

    Returns:
        The weight, and one `{"local_weight", "R@1", "mAP"}`, means over the kinds, for each of `grid`.

    Raises:
        ValueError: the split is a test split, it has no such captions, or `grid` leaves [0, 1].
    """
    if "test" in re.split(r"[\W_]+", (embeddings.split or "").lower()):
        raise ValueError(f"fit_local_weight: split {embeddings.split!r} is for reporting, choose on validation")
    if not grid or min(grid) < 0 or max(grid) > 1:
        raise ValueError(f"fit_local_weight: grid must be weights in [0, 1], not {list(grid)}")
    chosen = [found for kind in captions if len((found := _captions_of(embeddings, kind)).embeds)]
    if not chosen:
        raise ValueError(f"fit_local_weight: the rows have no {' or '.join(captions)} captions")
    found = [[ranking.scores() for ranking in _fused_rankings(embeddings, kind, grid)] for kind in chosen]
    table = [
        {"local_weight": float(weight)}
        | {name: float(np.mean([each[name] for each in scores])) for name in ("R@1", "mAP")}
        for weight, *scores in zip(grid, *found, strict=True)
    ]
    best = max(table, key=lambda entry: entry["R@1"] + entry["mAP"])
    return best["local_weight"], table


def ranked_queries(
    embeddings: SplitEmbeddings,
    local_weight: float = 0.0,
    protocols: Collection[str] = PROTOCOLS,
    ties: str = "pessimistic",
) -> dict[str, Ranked]:
    """Every query of the protocols, by line of the table: `global/long`, `global/long/i2t`, `local`, `joint/caption`...

    With a weight also `global+local/long` and `global+local/short`. What cannot be scored is absent.

    Raises:
        ValueError: an unknown protocol or tie rule, a weight outside [0, 1].
    """
    unknown = sorted(set(protocols) - set(PROTOCOLS))
    if unknown or not protocols:
        raise ValueError(f"protocol {', '.join(unknown) or 'none'} is not known; known are {', '.join(PROTOCOLS)}")
    if not 0.0 <= local_weight <= 1.0:
        raise ValueError(f"local_weight must lie in [0, 1], not {local_weight}")
    found: dict[str, Ranked] = {}
    for captions in ("long", "short") if "global" in protocols else ():
        lines = {f"global/{captions}/{k}": v for k, v in _global_rankings(embeddings, captions, 0.0, ties).items()}
        if local_weight != 0:
            fused = _global_rankings(embeddings, captions, local_weight, ties)
            lines |= {f"global+local/{captions}/{k}": v for k, v in fused.items()}
        found |= {name.removesuffix("/"): line for name, line in lines.items()}
    if "local" in protocols:
        found |= _local_rankings(embeddings, ties)
    if "joint" in protocols:
        found |= _joint_rankings(embeddings, ties)
    return found


def all_protocols(
    embeddings: SplitEmbeddings,
    local_weight: float = 0.0,
    protocols: Collection[str] = PROTOCOLS,
    ties: str = "pessimistic",
) -> dict[str, float]:
    """Everything there is to say of a split, flat: `global/long/R@1`, `global/short/mAP`, `local/pointing` and so on.

    Arguments and errors: see [`ranked_queries`].
    """
    lines = ranked_queries(embeddings, local_weight, protocols, ties)
    return {f"{line}/{name}": value for line, ranked in lines.items() for name, value in ranked.scores().items()}


def both_protocols(embeddings: SplitEmbeddings, local_weight: float = 0.0) -> dict[str, float]:
    """`all_protocols` without joint, which costs as much again: what is worth knowing after each epoch."""
    return all_protocols(embeddings, local_weight, ("global", "local"))


def format_table(
    results: Mapping[str, float],
    intervals: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    asked: Collection[str] = ("local",),
) -> str:
    """Flat results (`<line>/<name>`, see `all_protocols`) -> a markdown table, one row a line.

    Args:
        intervals: low and high by line and name, printed behind the figure where there is one.
        asked: protocols that are said not to be scored where `results` has nothing of them.
    """
    percents = ("R@1", "R@5", "R@10", "mAP", "mINP", "pointing", "IoU@0.5")
    counts = ("queries", "dropped_queries", "gallery")
    lines: dict[str, dict[str, float]] = {}
    for key, value in results.items():
        line, _, name = key.rpartition("/")
        lines.setdefault(line, {})[name] = value
    titles = ("protocol", *percents, "queries", "dropped", "gallery")
    printed = ["| " + " | ".join(titles) + " |", "|---|" + "---:|" * (len(titles) - 1)]
    for line, scores in lines.items():
        around = (intervals or {}).get(line, {})
        cells = [f"{scores[name]:.2f}" if name in scores else "-" for name in percents]
        for n, name in enumerate(percents):
            if name in around:
                cells[n] += f" [{around[name][0]:.1f}, {around[name][1]:.1f}]"
        cells += [f"{scores[name]:.0f}" if name in scores else "-" for name in counts]
        printed.append(f"| {line} | " + " | ".join(cells) + " |")
    absent = [name for name in ("local", "joint") if name in asked and name not in lines]
    if absent:
        printed.append(f"\n{', '.join(absent)}: not scored, the rows have no regions paired with sentences")
    return "\n".join(printed)


__all__ = [
    "CaptionSet", "Ranked", "SplitEmbeddings", "all_protocols", "both_protocols", "caption_similarities",
    "encode_split", "fit_local_weight", "format_table", "global_protocol", "joint_protocol", "local_protocol",
    "ranked_queries",
]  # fmt: skip
