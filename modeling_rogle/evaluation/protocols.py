"""The global, local and joint protocols over the embeddings of one split.

`encode_split` encodes a split once; the protocols can then be scored any number of times. `eval/pvlg/README.md` defines
the protocols, and the ranks come from `metrics/`.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers.utils import logging

from modeling_rogle.evaluation.fusion import rank_captions, rank_images
from modeling_rogle.evaluation.split_embeddings import SplitEmbeddings
from modeling_rogle.metrics.ranks import Ranking
from modeling_rogle.metrics.retrieval import global_ranking, grounding_scores, joint_ranking, local_ranking

logger = logging.get_logger(__name__)

PROTOCOLS = ("global", "local", "joint")


@dataclass(frozen=True)
class RankedQueries:
    """The Q queries of one line of the results, with the ranks of their positives.

    Attributes:
        ranking: the ranks.
        kind: kind of the queries: `long` or `short` captions, `sentence` (of long captions), `image`, or `mixed`.
        query: int64 `[Q]`, index of each query among all of its kind; -1 for `mixed`.
        image: int64 `[Q]`, the image that each query belongs to.
        person_ids: int64 `[Q]`, the identity of that image.
        gallery: number of gallery items.
        extra: further figures, those of grounding; none by default.
    """

    ranking: Ranking
    kind: str
    query: np.ndarray
    image: np.ndarray
    person_ids: np.ndarray
    gallery: int
    extra: dict[str, float] = field(default_factory=dict)

    def scores(self) -> dict[str, float]:
        """`Ranking.scores`, the number of gallery items as `gallery`, and `extra`."""
        return self.ranking.scores() | {"gallery": self.gallery} | self.extra


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


def _text_ids_of_regions(embeddings: SplitEmbeddings) -> list[list[int]]:
    texts: list[list[int]] = [[] for _ in embeddings.region_embeds]
    for region, text in embeddings.region_texts.tolist():
        texts[region].append(text)
    return texts


def _rank_local(embeddings: SplitEmbeddings, ties: str) -> dict[str, RankedQueries]:
    """Sentence -> regions of the whole split, and grounding among the template boxes of the sentence's own image."""
    if not _has_pairs(embeddings, "local"):
        return {}
    captions, target = embeddings.long, embeddings.sentence_region
    image = captions.image[captions.sentence_caption]
    ranking = local_ranking(
        captions.sentence_embeds,
        target,
        embeddings.image_person_ids[image],
        embeddings.sentence_text_ids,
        embeddings.region_embeds,
        torch.arange(len(embeddings.region_embeds)),
        embeddings.image_person_ids[embeddings.region_image],
        _text_ids_of_regions(embeddings),
        ties=ties,
    )
    line = RankedQueries(
        ranking,
        "sentence",
        np.arange(len(target)),
        image.numpy(),
        embeddings.image_person_ids[image].numpy(),
        len(embeddings.region_embeds),
        _ground_sentences(embeddings, image),
    )
    return {"local": line}


def _ground_sentences(embeddings: SplitEmbeddings, image: torch.Tensor) -> dict[str, float]:
    """Grounding of the paired sentences; `image` is int64 `[K]`, the image of each sentence."""
    target = embeddings.sentence_region
    paired = (target >= 0).nonzero()[:, 0]
    sentences, templates = embeddings.long.sentence_embeds, embeddings.template_embeds
    best = torch.cat(
        [torch.einsum("sd,std->st", sentences[part], templates[image[part]]).argmax(1) for part in paired.split(4096)]
    )
    sizes = embeddings.image_sizes[image[paired]].float()
    corners = embeddings.template_boxes[best] * sizes.repeat(1, 2)
    boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1)
    return grounding_scores(boxes, embeddings.region_boxes[target[paired]], sizes)


def _rank_joint(embeddings: SplitEmbeddings, ties: str) -> dict[str, RankedQueries]:
    """Long captions and their sentences -> one gallery of all images and regions."""
    if not _has_pairs(embeddings, "joint"):
        return {}
    captions, people = embeddings.long, embeddings.image_person_ids
    n_captions, n_sentences = len(captions.embeds), len(captions.sentence_embeds)
    n_images, n_regions = len(embeddings.image_embeds), len(embeddings.region_embeds)
    image = torch.cat([captions.image, captions.image[captions.sentence_caption]])
    none = torch.full((n_captions,), -1)
    query_kind = torch.tensor([0, 1]).repeat_interleave(torch.tensor([n_captions, n_sentences]))
    ranking = joint_ranking(
        torch.cat([captions.embeds, captions.sentence_embeds]),
        torch.cat([none, embeddings.sentence_region]),
        people[image],
        torch.cat([none, embeddings.sentence_text_ids]),
        torch.cat([embeddings.image_embeds, embeddings.region_embeds]),
        torch.cat([torch.full((n_images,), -1), torch.arange(n_regions)]),
        torch.cat([people, people[embeddings.region_image]]),
        [[] for _ in range(n_images)] + _text_ids_of_regions(embeddings),
        query_kind,
        torch.tensor([0, 1]).repeat_interleave(torch.tensor([n_images, n_regions])),
        torch.cat([torch.arange(n_images), embeddings.region_image]),
        ties=ties,
    )
    image, query_people, gallery = image.numpy(), people[image].numpy(), n_images + n_regions
    lines = {"joint": RankedQueries(ranking, "mixed", np.full(len(image), -1), image, query_people, gallery)}
    for kind, (name, line_kind) in enumerate((("caption", "long"), ("sentence", "sentence"))):
        rows = np.flatnonzero(query_kind.numpy() == kind)
        lines[f"joint/{name}"] = RankedQueries(
            ranking.take(rows), line_kind, np.arange(len(rows)), image[rows], query_people[rows], gallery
        )
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
    if "local" in protocols:
        lines |= _rank_local(embeddings, ties)
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
    """`all_protocols` for global and local only, as used after each epoch; joint doubles the cost."""
    return all_protocols(embeddings, local_weight, ("global", "local"))


__all__ = ["PROTOCOLS", "RankedQueries", "all_protocols", "both_protocols", "ranked_queries"]
