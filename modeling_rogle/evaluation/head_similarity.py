"""The similarity that a model's head adds to the global one, from the embeddings of a split alone.

`encode_split` keeps what a head compares: `image_parts` of the images, and `parts` of the captions where the head has
slots. With slots (`head="parts"`) every image is compared with every caption, one product a slot. With stripes
(`head="acsa"`) attention is too dear for that: each query re-ranks its top images, and the others stay where they are.
"""

from collections.abc import Callable

import numpy as np
import torch

from modeling_rogle.evaluation.split_embeddings import CaptionSet, SplitEmbeddings
from modeling_rogle.head_acsa import local_similarity
from modeling_rogle.metrics.retrieval import cosine

TOP = 100  # of a query's gallery are re-ranked by attention


class HeadSimilarity:
    """A head's similarity of captions and images, to be fused as late interaction is: `(1 - w) * global + w * this`.

    Args:
        top: how many of the best by the global similarity are compared by attention.
    """

    def __init__(self, embeddings: SplitEmbeddings, captions: CaptionSet, top: int = TOP):
        self.embeddings, self.captions, self.top = embeddings, captions, top
        self.first = torch.searchsorted(captions.sentence_caption, torch.arange(len(captions.embeds) + 1))

    @classmethod
    def of(cls, embeddings: SplitEmbeddings, captions: CaptionSet) -> "HeadSimilarity | None":
        """None where the model had no head that compares."""
        return cls(embeddings, captions) if embeddings.image_parts.shape[1] else None

    def by_caption(self, start: int, stop: int, whole: np.ndarray) -> np.ndarray:
        """Captions start..stop-1 to all I images, `[stop - start, I]` float32; `whole` their global similarity."""
        images = self.embeddings.image_parts
        if self.captions.parts.shape[1]:
            return cosine(_flat(self.captions.parts), _flat(images))(start, stop)

        def local(row: int, best: torch.Tensor) -> torch.Tensor:
            return local_similarity(images[best], *self._phrases(torch.tensor([start + row])))

        return rerank(whole, self.top, local)

    def by_image(self, start: int, stop: int, whole: np.ndarray) -> np.ndarray:
        """Images start..stop-1 to all C captions, `[stop - start, C]`, likewise."""
        images = self.embeddings.image_parts
        if self.captions.parts.shape[1]:
            return cosine(_flat(images), _flat(self.captions.parts))(start, stop)

        def local(row: int, best: torch.Tensor) -> torch.Tensor:
            return local_similarity(images[start + row][None], *self._phrases(best))

        return rerank(whole, self.top, local)

    def _phrases(self, captions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sentences `[n, p, d]` of n captions and which there are `[n, p]`; a caption without any is its own."""
        counts = self.first[captions + 1] - self.first[captions]
        place = torch.arange(max(int(counts.max()), 1))
        kept = place < counts.clamp(min=1)[:, None]
        if not len(self.captions.sentence_embeds):
            return self.captions.embeds[captions][:, None], kept
        at = (self.first[captions][:, None] + place).clamp(max=len(self.captions.sentence_embeds) - 1)
        found = self.captions.sentence_embeds[at]
        alone = counts == 0
        found[alone, 0] = self.captions.embeds[captions[alone]]
        return found, kept


def rerank(whole: np.ndarray, top: int, local: Callable[[int, torch.Tensor], torch.Tensor]) -> np.ndarray:
    """Local similarities of each query's top; the rest follow behind the last of these, in their order and as far away.

    So `(1 - w) * whole + w * this` changes the order of the top alone, whatever w.

    Args:
        whole: `[n, g]` global similarities.
        top: compared by `local`.
        local: (row, `[t]` int64 columns) -> `[t]` similarities.

    Returns:
        `[n, g]` float32.
    """
    found = np.empty_like(whole, dtype=np.float32)
    for row, scores in enumerate(torch.from_numpy(whole)):
        order = scores.argsort(descending=True, stable=True)[:top]
        best = local(row, order).to(torch.float32)
        moved = scores - scores[order[-1]] + best.min()
        moved[order] = best
        found[row] = moved.numpy()
    return found


def _flat(parts: torch.Tensor) -> np.ndarray:
    """`[n, K, d]` unit vectors -> `[n, K * d]` unit vectors, whose cosine is the mean cosine of the slots."""
    return (parts.flatten(1) / parts.shape[1] ** 0.5).numpy()


__all__ = ["HeadSimilarity", "rerank"]
