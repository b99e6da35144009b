"""The local protocol over the embeddings of a split: relevance of its regions, ranks, and grounding.

`eval/pvlg/README.md` defines the protocol.
"""

import numpy as np
import torch

from modeling_rogle.evaluation.split_embeddings import SplitEmbeddings
from modeling_rogle.metrics.cosine import cosine
from modeling_rogle.metrics.local import LocalRanking, grounding_scores, positives_of, rank_regions
from modeling_rogle.metrics.ranks import PairsOf, Ranking, SimilarityBlock
from modeling_rogle.metrics.relevance import claim_relevance, label_relevance
from modeling_rogle.metrics.retrieval import local_strict_ranking

# Queries of a block: their pairs with regions take about as much memory as their similarities.
BLOCK_ROWS = 512


def image_of_sentences(embeddings: SplitEmbeddings) -> torch.Tensor:
    """int64 `[K]`, the image of each sentence of the long captions."""
    return embeddings.long.image[embeddings.long.sentence_caption]


def region_relevance(embeddings: SplitEmbeddings) -> PairsOf:
    """Which regions each sentence is true of, by the facts of the rows, or else by labels.

    Args:
        embeddings: the split.

    Returns:
        Sparse pairs of K sentences and R regions with grades, see `metrics/relevance.py`.
    """
    people = embeddings.image_person_ids
    sentence_person = people[image_of_sentences(embeddings)].numpy()
    region_person = people[embeddings.region_image].numpy()
    own, claims, facts = (
        table.numpy() for table in (embeddings.own_regions, embeddings.claims, embeddings.region_facts)
    )
    if bool(embeddings.facts_known):
        return claim_relevance(claims, facts, embeddings.region_image.numpy(), own, sentence_person, region_person)
    return label_relevance(
        own,
        embeddings.region_labels.numpy(),
        embeddings.sentence_text_ids.numpy(),
        embeddings.region_texts.numpy(),
        sentence_person,
        region_person,
        claims,
        facts,
    )


def rank_sentences(
    embeddings: SplitEmbeddings, relevance: PairsOf, ties: str, similarity: SimilarityBlock | None = None
) -> LocalRanking:
    """Ranks the regions of the split for each sentence.

    Args:
        embeddings: the split.
        relevance: see `region_relevance`.
        ties: see `ranks.rank`.
        similarity: similarities of sentences and regions; by default the cosine of their embeddings.
    """
    if similarity is None:
        sentences, regions = embeddings.long.sentence_embeds.numpy(), embeddings.region_embeds.numpy()
        similarity = cosine(sentences, regions, reuse=True)
    images = image_of_sentences(embeddings).numpy(), embeddings.region_image.numpy()
    return rank_regions(similarity, relevance, *images, ties=ties, block_rows=BLOCK_ROWS)


def rank_strictly(embeddings: SplitEmbeddings, ties: str) -> Ranking:
    """The ranking of the protocol `local-strict`: only the paired region is relevant."""
    people = embeddings.image_person_ids
    return local_strict_ranking(
        embeddings.long.sentence_embeds,
        embeddings.sentence_region,
        people[image_of_sentences(embeddings)],
        embeddings.sentence_text_ids,
        embeddings.region_embeds,
        torch.arange(len(embeddings.region_embeds)),
        people[embeddings.region_image],
        text_ids_of_regions(embeddings),
        ties=ties,
    )


def text_ids_of_regions(embeddings: SplitEmbeddings) -> list[list[int]]:
    """The text ids of the sentences that describe each region."""
    texts: list[list[int]] = [[] for _ in embeddings.region_image]
    for region, text in embeddings.region_texts.tolist():
        texts[region].append(text)
    return texts


def true_regions_of_images(embeddings: SplitEmbeddings, relevance: PairsOf) -> np.ndarray:
    """The regions of its own image of which each sentence is true.

    Args:
        embeddings: the split.
        relevance: see `region_relevance`.

    Returns:
        int64 `[P, 2]` sentence and region, sentences ascending.
    """
    image, region_image = image_of_sentences(embeddings).numpy(), embeddings.region_image.numpy()
    positives, parts = positives_of(relevance), [np.zeros((0, 2), dtype=np.int64)]
    for start in range(0, len(image), BLOCK_ROWS):
        rows, columns = positives(start, min(start + BLOCK_ROWS, len(image)))[:2]
        inside = image[start + rows] == region_image[columns]
        parts.append(np.stack([start + rows[inside], columns[inside]], axis=1))
    pairs = np.concatenate(parts)
    return pairs[np.argsort(pairs[:, 0], kind="stable")]


def best_templates(embeddings: SplitEmbeddings, sentences: np.ndarray) -> np.ndarray:
    """The most similar template box in the own image of each sentence.

    Args:
        embeddings: the split.
        sentences: int64 `[S]`, numbers of sentences.

    Returns:
        float32 `[S, 4]` x0, y0, x1, y1 in [0, 1].
    """
    image, embeds = image_of_sentences(embeddings), embeddings.long.sentence_embeds
    best = [
        torch.einsum("sd,std->st", embeds[part], embeddings.template_embeds[image[part]]).argmax(1)
        for part in torch.from_numpy(sentences).split(4096)
    ]
    return embeddings.template_boxes[torch.cat(best)].numpy() if best else np.zeros((0, 4), np.float32)


def grounding(embeddings: SplitEmbeddings, true: np.ndarray, corners: np.ndarray) -> dict[str, float]:
    """Grounding of boxes in the own image of each sentence.

    Args:
        embeddings: the split.
        true: see `true_regions_of_images`.
        corners: float `[S, 4]` predicted box of each sentence that occurs in `true`, x0, y0, x1, y1 in [0, 1].

    Returns:
        See `grounding_scores`.
    """
    sentences, box_queries = np.unique(true[:, 0], return_inverse=True)
    sizes = embeddings.image_sizes[image_of_sentences(embeddings)[sentences]].float().numpy()
    corners = corners * np.tile(sizes, 2)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    return grounding_scores(boxes, embeddings.region_boxes[true[:, 1]], sizes, box_queries.reshape(-1))


__all__ = [
    "best_templates", "grounding", "image_of_sentences", "rank_sentences", "rank_strictly", "region_relevance",
    "text_ids_of_regions", "true_regions_of_images",
]  # fmt: skip
