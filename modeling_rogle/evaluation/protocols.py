"""The global, local, local-strict and joint protocols over the embeddings of one split.

`encode_split` encodes a split once; the protocols can then be scored any number of times. `eval/pvlg/README.md` defines
the protocols, and the ranks come from `metrics/`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from transformers.utils import logging

from modeling_rogle.evaluation.fusion import rank_captions, rank_images
from modeling_rogle.evaluation.local_protocol import (
    best_templates,
    grounding,
    image_of_sentences,
    rank_sentences,
    rank_strictly,
    region_relevance,
    true_regions_of_images,
)
from modeling_rogle.evaluation.split_embeddings import SplitEmbeddings
from modeling_rogle.metrics.local import LocalRanking
from modeling_rogle.metrics.pairs import graded, shifted, union
from modeling_rogle.metrics.ranks import Ranking, same_id
from modeling_rogle.metrics.relevance import IGNORED
from modeling_rogle.metrics.retrieval import global_ranking, joint_ranking

logger = logging.get_logger(__name__)

PROTOCOL = 2  # version of the protocols, a field of every result
PROTOCOLS = ("global", "local", "local-strict", "joint")


@dataclass(frozen=True)
class RankedQueries:
    """The Q queries of one line of the results, with the ranks of their positives.

    Attributes:
        ranking: the ranks.
        kind: kind of the queries: `long` or `short` captions, `sentence` (of long captions), or `image`.
        query: int64 `[Q]`, index of each query among all of its kind.
        image: int64 `[Q]`, the image that each query belongs to.
        person_ids: int64 `[Q]`, the identity of that image.
        gallery: number of gallery items.
        extra: further figures, those within the image and of grounding; none by default.
        graded: positives have grades, so that `scores` are `Ranking.graded_scores`; False by default.
    """

    ranking: Ranking
    kind: str
    query: np.ndarray
    image: np.ndarray
    person_ids: np.ndarray
    gallery: int
    extra: dict[str, float] = field(default_factory=dict)
    graded: bool = False

    def scores(self) -> dict[str, float]:
        """`Ranking.scores` or `graded_scores`, the number of gallery items as `gallery`, and `extra`."""
        scores = self.ranking.graded_scores() if self.graded else self.ranking.scores()
        return scores | {"gallery": self.gallery} | self.extra


def _rank_global(
    embeddings: SplitEmbeddings, captions: str, local_weight: float, ties: str
) -> dict[str, RankedQueries]:
    """Caption -> images by identity, and image -> captions (`/i2t`) by the same similarity."""
    queries = embeddings.captions(captions)
    if len(queries.embeds) == 0:
        logger.warning_once(f"global protocol: the rows have no {captions} captions, nothing is scored")
        return {}
    people, image = embeddings.image_person_ids.numpy(), queries.image.numpy()
    images = np.arange(len(people))
    if local_weight > 0:
        (to_image,) = rank_captions(embeddings, queries, (local_weight,), ties)
        to_caption = rank_images(embeddings, queries, local_weight, ties)
    else:
        to_image = global_ranking(queries.embeds, people[image], embeddings.image_embeds, people, ties=ties)
        to_caption = global_ranking(embeddings.image_embeds, people, queries.embeds, people[image], ties=ties)
    return {
        "": RankedQueries(to_image, captions, np.arange(len(image)), image, people[image], len(people)),
        "/i2t": RankedQueries(to_caption, "image", images, images, people, len(image)),
    }


def _has_pairs(embeddings: SplitEmbeddings, protocol: str) -> bool:
    if len(embeddings.region_embeds) and bool((embeddings.sentence_region >= 0).any()):
        return True
    logger.warning_once(f"{protocol} protocol: the rows have no regions paired with sentences, nothing is scored")
    return False


def _rank_local(embeddings: SplitEmbeddings, ties: str, strict: bool) -> dict[str, RankedQueries]:
    """Sentence -> regions of the whole split and of its image; grounding among the template boxes of its image."""
    if not _has_pairs(embeddings, "local"):
        return {}
    relevance = region_relevance(embeddings)
    true = true_regions_of_images(embeddings, relevance)
    boxes = best_templates(embeddings, np.unique(true[:, 0]))
    ranking = rank_sentences(embeddings, relevance, ties)
    lines = {"local": local_line(embeddings, ranking, grounding(embeddings, true, boxes))}
    if strict:
        lines["local-strict"] = replace(lines["local"], ranking=rank_strictly(embeddings, ties), graded=False, extra={})
    return lines


def local_line(embeddings: SplitEmbeddings, ranking: LocalRanking, extra: Mapping[str, float]) -> RankedQueries:
    """The line of the results for a ranking of the split's regions.

    Args:
        embeddings: the split.
        ranking: the ranking of its K sentences.
        extra: further figures.
    """
    image = image_of_sentences(embeddings)
    within = {name: value for name, value in ranking.scores().items() if name.startswith("within-")}
    return RankedQueries(
        ranking.ranking,
        "sentence",
        np.arange(len(image)),
        image.numpy(),
        embeddings.image_person_ids[image].numpy(),
        len(embeddings.region_embeds),
        within | dict(extra),
        graded=True,
    )


def _rank_joint(embeddings: SplitEmbeddings, ties: str) -> dict[str, RankedQueries]:
    """Long captions and their sentences -> one gallery of all images and regions."""
    if not _has_pairs(embeddings, "joint"):
        return {}
    captions, people = embeddings.long, embeddings.image_person_ids
    n_captions, n_sentences = len(captions.embeds), len(captions.sentence_embeds)
    n_images, n_regions = len(embeddings.image_embeds), len(embeddings.region_embeds)
    image = torch.cat([captions.image, image_of_sentences(embeddings)])
    query_kind = torch.tensor([0, 1]).repeat_interleave(torch.tensor([n_captions, n_sentences]))
    relevance = shifted(region_relevance(embeddings), n_captions, n_images)
    if not bool(embeddings.facts_known):
        # A sentence may be true of other images of its identity, where nobody labelled a region for it.
        sentence_person = torch.cat([torch.full((n_captions,), -1), people[image_of_sentences(embeddings)]])
        relevance = union(relevance, graded(same_id(sentence_person.numpy(), people.numpy()), IGNORED))
    ranking = joint_ranking(
        torch.cat([captions.embeds, captions.sentence_embeds]),
        people[image],
        query_kind,
        torch.cat([embeddings.image_embeds, embeddings.region_embeds]),
        torch.cat([people, people[embeddings.region_image]]),
        torch.tensor([0, 1]).repeat_interleave(torch.tensor([n_images, n_regions])),
        torch.cat([torch.arange(n_images), embeddings.region_image]),
        relevance,
        ties=ties,
    )
    image, query_people, gallery = image.numpy(), people[image].numpy(), n_images + n_regions
    lines = {}
    for kind, (name, line_kind) in enumerate((("caption", "long"), ("sentence", "sentence"))):
        rows = np.flatnonzero(query_kind.numpy() == kind)
        lines[f"joint/{name}"] = RankedQueries(
            ranking.take(rows), line_kind, np.arange(len(rows)), image[rows], query_people[rows], gallery,
            graded=kind == 1,
        )  # fmt: skip
    return lines


def ranked_queries(
    embeddings: SplitEmbeddings,
    local_weight: float = 0.0,
    protocols: Collection[str] = PROTOCOLS,
    ties: str = "pessimistic",
) -> dict[str, RankedQueries]:
    """Ranks all queries of the protocols.

    Args:
        embeddings: the split.
        local_weight: weight of late interaction in [0, 1]. With a weight above 0, the lines `global+local/...` are
            added; 0 by default.
        protocols: names from `PROTOCOLS`; all by default.
        ties: see `ranks.rank`; against the query by default.

    Returns:
        The queries by line of the results: `global/long`, `global/long/i2t`, `local`, `joint/caption` and so on. Lines
        that the split cannot score are missing, with a warning.

    Raises:
        ValueError: an unknown protocol or tie rule, or a weight outside [0, 1].
    """
    unknown = sorted(set(protocols) - set(PROTOCOLS))
    if unknown or not protocols:
        raise ValueError(f"protocol {', '.join(unknown) or 'none'} is not known; known are {', '.join(PROTOCOLS)}")
    if not 0.0 <= local_weight <= 1.0:
        raise ValueError(f"local_weight must lie in [0, 1], not {local_weight}")
    lines: dict[str, RankedQueries] = {}
    for captions in ("long", "short") if "global" in protocols else ():
        for prefix, weight in (("global", 0.0), ("global+local", local_weight)):
            if prefix == "global" or weight > 0:
                ranked = _rank_global(embeddings, captions, weight, ties)
                lines |= {f"{prefix}/{captions}{name}": line for name, line in ranked.items()}
    if not {"local", "local-strict"}.isdisjoint(protocols):
        ranked = _rank_local(embeddings, ties, "local-strict" in protocols)
        lines |= {name: line for name, line in ranked.items() if name in protocols}
    if "joint" in protocols:
        lines |= _rank_joint(embeddings, ties)
    return lines


def all_protocols(
    embeddings: SplitEmbeddings,
    local_weight: float = 0.0,
    protocols: Collection[str] = PROTOCOLS,
    ties: str = "pessimistic",
) -> dict[str, float]:
    """All figures of a split, flat: `global/long/R@1`, `global/short/mAP`, `local/pointing` and so on.

    Arguments and errors: see [`ranked_queries`].
    """
    lines = ranked_queries(embeddings, local_weight, protocols, ties)
    return {f"{line}/{name}": value for line, ranked in lines.items() for name, value in ranked.scores().items()}


def both_protocols(embeddings: SplitEmbeddings, local_weight: float = 0.0) -> dict[str, float]:
    """`all_protocols` for global and local only, as used after each epoch; the others triple the cost."""
    return all_protocols(embeddings, local_weight, ("global", "local"))


__all__ = [
    "PROTOCOL", "PROTOCOLS", "RankedQueries", "all_protocols", "both_protocols", "local_line", "ranked_queries",
]  # fmt: skip
