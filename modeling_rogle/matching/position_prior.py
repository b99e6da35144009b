"""Where on a person the thing that a sentence names is usually seen, learnt from images and captions alone.

The first round of Region-to-Sentence Matching has no pair to start from, and the dense features of a model that has
never seen one speak of the whole person everywhere. But a model that tells people apart by their captions also tells,
a little, the crop of a coat from the crop of a pair of boots. One crop of one image is wrong more often than right;
over a thousand images the mistakes scatter and the words' true places add up. So the score of each crop is regressed
on the sentence's words, and the regression, not the single image, says where to look. (Ours: ROGLE's matching is
not public.)
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from modeling_rogle.box_ops import box_iou
from modeling_rogle.matching.anchors import place_boxes
from modeling_rogle.matching.bag_of_words import WordBags

RIDGE = 10.0  # of the regression of scores on words
SHARPNESS = 3.0  # of the softmax over places, in standard deviations of a crop's score
LARGER = 0.3  # of log area: a crop that shows half the coat scores as well as one that shows all of it


class PositionPrior:
    """p(place | words of the sentence) over the places of places.py and the whole image.

    Args:
        bags: the words it knows.
        weights: `[V + 1, K + 1]` fp32, the expected score of each place, the whole image last, for each word.
        threshold: a box less probable than this is no region; where it lies, whoever fits the prior decides.
    """

    def __init__(self, bags: WordBags, weights: torch.Tensor, threshold: float = 0.0):
        self.bags, self.weights, self.threshold = bags, weights, threshold
        boxes = np.concatenate([place_boxes(), [[0, 0, 1, 1]]])
        if weights.shape != (len(bags.words) + 1, len(boxes)):
            raise ValueError(f"weights must be [{len(bags.words) + 1}, {len(boxes)}], not {[*weights.shape]}")
        self._area = torch.from_numpy((boxes[:, 2:] - boxes[:, :2]).prod(1)).float().log()

    @classmethod
    def fit(cls, tokenizer: Any, texts: Sequence[str], scores: torch.Tensor) -> "PositionPrior":
        """Ridge regression of scores on words.

        Args:
            texts: S sentences of many images.
            scores: `[S, K + 1]` cosine of each with the crop of its image at every place, the whole image last.

        Raises:
            ValueError: fewer than two sentences, scores of another shape, or one that is not finite.
        """
        if len(texts) < 2 or scores.shape != (len(texts), len(place_boxes()) + 1):
            raise ValueError(
                f"scores must be [S, {len(place_boxes()) + 1}] of S >= 2 sentences, not {[*scores.shape]} "
                f"of {len(texts)}"
            )
        scores = scores.float()
        if not bool(scores.isfinite().all()):
            raise ValueError("scores: one is not finite; the matcher's embeddings are broken")
        # Some crops score high with any sentence, and some sentences with any crop: neither says anything of places.
        scores = (scores - scores.mean(0)) / scores.std(0).clamp(min=1e-6)
        scores = scores - scores.mean(1, keepdim=True)
        bags = WordBags.of_texts(tokenizer, texts)
        read = bags(tokenizer, texts)
        weights = torch.linalg.solve(read.T @ read + RIDGE * torch.eye(read.shape[1]), read.T @ scores)
        return cls(bags, weights)

    def places(self, tokenizer: Any, texts: Sequence[str]) -> torch.Tensor:
        """`[S, K + 1]` fp32: probability of each place, the whole image last."""
        expected = self.bags(tokenizer, texts) @ self.weights
        return torch.softmax(SHARPNESS * (expected + LARGER * self._area), dim=1)

    def probabilities(
        self,
        tokenizer: Any,
        texts: Sequence[str],
        boxes: np.ndarray,
        sentence_embeds: torch.Tensor | None = None,
        region_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """How likely each box is to be right: the probability of the places that it overlaps at IoU 0.5 or more.

        Args:
            boxes: `[N, 4]` x0, y0, x1, y1 in [0, 1].
            sentence_embeds, region_embeds: not read; a [`RegionMatcher`] reads them.

        Returns:
            `[S, N]` fp32 in [0, 1]. Places overlap: it is a share of the softmax, larger for surer sentences, and no
            calibrated chance.
        """
        right = (box_iou(place_boxes(), boxes) >= 0.5).float()
        return self.places(tokenizer, texts)[:, :-1] @ right


__all__ = ["PositionPrior"]
