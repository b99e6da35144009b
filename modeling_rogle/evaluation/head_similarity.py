"""The similarity that a model's head adds to the global one, computed only from the embeddings of a split.

`encode_split` stores what a head compares: `image_parts` of the images, and `parts` of the captions if the head has
slots. With slots (`head="parts"`), every image is compared with every caption, one product per slot. Attention over
stripes (`head="acsa"`) is too expensive for that: each query reranks its top images, and the others keep their order.
"""

from collections.abc import Callable

import numpy as np
import torch

from modeling_rogle.evaluation.split_embeddings import CaptionSet, SplitEmbeddings
from modeling_rogle.head_acsa import local_similarity
from modeling_rogle.metrics.cosine import cosine

TOP = 100  # gallery items per query that attention reranks


class HeadSimilarity:
    """Similarity of captions and images by a head, fused like late interaction: `(1 - w) * global + w * head`.

    Args:
        embeddings: the split.
        captions: the captions of the split to compare.
        top: number of items, best by the global similarity, that attention compares; 100 by default.
    """

    def __init__(self, embeddings: SplitEmbeddings, captions: CaptionSet, top: int = TOP):
        self.embeddings, self.captions, self.top = embeddings, captions, top
        self.first = torch.searchsorted(captions.sentence_caption, torch.arange(len(captions.embeds) + 1))

    @classmethod
    def of(cls, embeddings: SplitEmbeddings, captions: CaptionSet) -> "HeadSimilarity | None":
        """The similarity of the split's head; None if the model has no head that compares."""
        return cls(embeddings, captions) if embeddings.image_parts.shape[1] else None

    def by_caption(self, start: int, stop: int, global_scores: np.ndarray) -> np.ndarray:
        """Similarity of some captions to all images.

        Args:
            start: first caption.
            stop: caption after the last one.
            global_scores: `[stop - start, I]`, their global similarities.

        Returns:
            float32 `[stop - start, I]`.
        """
        images = self.embeddings.image_parts
        if self.captions.parts.shape[1]:
            return cosine(_flat(self.captions.parts), _flat(images))(start, stop)

        def local(row: int, best: torch.Tensor) -> torch.Tensor:
            return local_similarity(images[best], *self._phrases(torch.tensor([start + row])))

        return rerank_top(global_scores, self.top, local)

    def by_image(self, start: int, stop: int, global_scores: np.ndarray) -> np.ndarray:
        """Similarity of some images to all captions.

        Args:
            start: first image.
            stop: image after the last one.
            global_scores: `[stop - start, C]`, their global similarities.

        Returns:
            float32 `[stop - start, C]`.
        """
        images = self.embeddings.image_parts
        if self.captions.parts.shape[1]:
            return cosine(_flat(images), _flat(self.captions.parts))(start, stop)

        def local(row: int, best: torch.Tensor) -> torch.Tensor:
            return local_similarity(images[start + row][None], *self._phrases(best))

        return rerank_top(global_scores, self.top, local)

    def _phrases(self, captions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sentences `[n, p, d]` of n captions, and a mask `[n, p]`; a caption without sentences is its own sentence."""
        counts = self.first[captions + 1] - self.first[captions]
        slot = torch.arange(max(int(counts.max()), 1))
        mask = slot < counts.clamp(min=1)[:, None]
        if not len(self.captions.sentence_embeds):
            return self.captions.embeds[captions][:, None], mask
        index = (self.first[captions][:, None] + slot).clamp(max=len(self.captions.sentence_embeds) - 1)
        phrases = self.captions.sentence_embeds[index]
        empty = counts == 0
        phrases[empty, 0] = self.captions.embeds[captions[empty]]
        return phrases, mask


def rerank_top(global_scores: np.ndarray, top: int, local: Callable[[int, torch.Tensor], torch.Tensor]) -> np.ndarray:
    """Local similarities of the top items of each query; the others keep their order and distances behind the top.

    So `(1 - w) * global_scores + w * this` changes only the order of the top items, for any w.

    Args:
        global_scores: `[n, g]`.
        top: number of items that `local` compares.
        local: (row, int64 columns `[t]`) -> similarities `[t]`.

    Returns:
        float32 `[n, g]`.
    """
    result = np.empty_like(global_scores, dtype=np.float32)
    for row, scores in enumerate(torch.from_numpy(global_scores)):
        order = scores.argsort(descending=True, stable=True)[:top]
        best = local(row, order).to(torch.float32)
        shifted = scores - scores[order[-1]] + best.min()
        shifted[order] = best
        result[row] = shifted.numpy()
    return result


def _flat(parts: torch.Tensor) -> np.ndarray:
    """Unit vectors `[n, K, d]` -> unit vectors `[n, K * d]`, whose cosine is the mean cosine of the slots."""
    return (parts.flatten(1) / parts.shape[1] ** 0.5).numpy()


__all__ = ["HeadSimilarity", "rerank_top"]
