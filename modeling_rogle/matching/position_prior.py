"""Position prior: where on a person the thing that a sentence names usually is, learnt without any paired region.

The first round of Region-to-Sentence Matching has no pairs to learn from. Dense features of a model that was never
trained on pairs are not localised: each encodes the whole person. But a model that distinguishes people by their
captions also separates, slightly, the crop of a coat from the crop of a pair of boots. The best crop of a single image
is more often wrong than correct. Over a thousand images the errors average out and the true positions remain. So the
scores of all crops are regressed on the words of the sentence, and the regression gives the position. (Ours: ROGLE's
matching is not public.)
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from modeling_rogle.matching.anchors import anchor_boxes, iou_with_anchors
from modeling_rogle.matching.bag_of_words import WordBags

RIDGE = 10.0  # L2 penalty of the regression of scores on words
SHARPNESS = 3.0  # inverse temperature of the softmax over boxes, in standard deviations of a crop's score
LARGER = 0.3  # bonus per unit of log area: a crop of half a coat scores as high as one of the whole coat


class PositionPrior:
    """p(box | words of the sentence) over the anchor boxes and the whole image.

    Args:
        bags: the known words.
        weights: `[V + 1, K + 1]` fp32, expected score of each anchor box, the whole image last, for each word.
        threshold: lowest probability at which a box counts as a region, 0 by default; `mining.fit_prior` sets it.

    Raises:
        ValueError: weights of another shape.
    """

    def __init__(self, bags: WordBags, weights: torch.Tensor, threshold: float = 0.0):
        self.bags, self.weights, self.threshold = bags, weights, threshold
        boxes = np.concatenate([anchor_boxes(), [[0, 0, 1, 1]]])
        if weights.shape != (len(bags.words) + 1, len(boxes)):
            raise ValueError(f"weights must be [{len(bags.words) + 1}, {len(boxes)}], not {[*weights.shape]}")
        self._log_area = torch.from_numpy((boxes[:, 2:] - boxes[:, :2]).prod(1)).float().log()

    @classmethod
    def fit(cls, tokenizer: Any, texts: Sequence[str], scores: torch.Tensor) -> "PositionPrior":
        """Fits a ridge regression of crop scores on words.

        Args:
            tokenizer: a Hugging Face tokenizer.
            texts: S sentences from many images.
            scores: `[S, K + 1]`, cosine of each sentence with each crop of its image, the whole image last.

        Returns:
            The fitted prior, with threshold 0.

        Raises:
            ValueError: fewer than two sentences, scores of another shape, or a score that is not finite.
        """
        columns = len(anchor_boxes()) + 1
        if len(texts) < 2 or scores.shape != (len(texts), columns):
            raise ValueError(
                f"scores must be [S, {columns}] of S >= 2 sentences, not {[*scores.shape]} of {len(texts)}"
            )
        scores = scores.float()
        if not bool(scores.isfinite().all()):
            raise ValueError("scores: one is not finite; the embeddings of the model are broken")
        # Some crops score high with every sentence, and some sentences with every crop. Neither is about positions.
        scores = (scores - scores.mean(0)) / scores.std(0).clamp(min=1e-6)
        scores = scores - scores.mean(1, keepdim=True)
        bags = WordBags.of_texts(tokenizer, texts)
        inputs = bags(tokenizer, texts)
        weights = torch.linalg.solve(inputs.T @ inputs + RIDGE * torch.eye(inputs.shape[1]), inputs.T @ scores)
        return cls(bags, weights)

    def anchor_probabilities(self, tokenizer: Any, texts: Sequence[str]) -> torch.Tensor:
        """Distribution over the anchor boxes and the whole image.

        Args:
            tokenizer: the tokenizer that the prior was fitted with.
            texts: S sentences.

        Returns:
            fp32 `[S, K + 1]`, the whole image last; each row sums to 1.
        """
        expected = self.bags(tokenizer, texts) @ self.weights
        return torch.softmax(SHARPNESS * (expected + LARGER * self._log_area), dim=1)

    def probabilities(
        self,
        tokenizer: Any,
        texts: Sequence[str],
        boxes: np.ndarray,
        sentence_embeds: torch.Tensor | None = None,
        region_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Score of each box: the total probability of the anchor boxes that it overlaps with IoU >= 0.5.

        Args:
            tokenizer: the tokenizer that the prior was fitted with.
            texts: S sentences.
            boxes: `[N, 4]` x0, y0, x1, y1 in [0, 1].
            sentence_embeds: ignored; only a [`RegionMatcher`] uses it.
            region_embeds: ignored; only a [`RegionMatcher`] uses it.

        Returns:
            fp32 `[S, N]` in [0, 1]. Anchor boxes overlap each other, so this is a share of the softmax, larger for more
            certain sentences, and no calibrated probability.
        """
        overlaps = (iou_with_anchors(boxes).T >= 0.5).float().contiguous()
        return self.anchor_probabilities(tokenizer, texts)[:, :-1] @ overlaps


__all__ = ["PositionPrior"]
