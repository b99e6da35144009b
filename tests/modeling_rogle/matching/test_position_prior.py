import numpy as np
import pytest
import torch

from modeling_rogle.box_ops import box_iou
from modeling_rogle.matching.anchors import anchor_boxes
from modeling_rogle.matching.position_prior import PositionPrior

ANCHORS = len(anchor_boxes())
HEAD = int(box_iou(np.array([[0.3, 0.04, 0.7, 0.25]]), anchor_boxes()).argmax())
FEET = int(box_iou(np.array([[0.25, 0.88, 0.75, 0.98]]), anchor_boxes()).argmax())
TEXTS = ["long brown hair", "white shoes", "black sandals and shoes", "brown hair", "a man is walking"] * 60


def noisy_scores(seed: int = 0) -> torch.Tensor:
    """Scores of a weak model: the true box scores a little higher on average, but is seldom the best."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(len(TEXTS), ANCHORS + 1, generator=generator)
    like = box_iou(anchor_boxes(), anchor_boxes()).float()
    for n, text in enumerate(TEXTS):
        for word, anchor in (("hair", HEAD), ("shoes", FEET)):
            if word in text:
                scores[n, :-1] += 1.6 * like[anchor]
    scores += 5 * torch.arange(ANCHORS + 1) / ANCHORS  # crops that score high with any sentence
    return scores


def test_words_find_the_boxes_that_single_crops_do_not(tiny_processor):
    scores, tokenizer = noisy_scores(), tiny_processor.tokenizer
    prior = PositionPrior.fit(tokenizer, TEXTS, scores)
    right = box_iou(anchor_boxes()[[HEAD, FEET]], anchor_boxes()) >= 0.5
    alone = np.mean([bool(right[0][scores[n, :-1].argmax()]) for n, text in enumerate(TEXTS) if "hair" in text])
    assert alone < 0.5
    for text, is_right in (("long brown hair", right[0]), ("his shoes are white", right[1])):
        best = prior.probabilities(tokenizer, [text], anchor_boxes())[0].argmax()
        assert is_right[best]


def test_sentences_without_a_position_get_the_lowest_probability(tiny_processor):
    prior = PositionPrior.fit(tiny_processor.tokenizer, TEXTS, noisy_scores())
    best = prior.probabilities(tiny_processor.tokenizer, TEXTS[:5], anchor_boxes()).amax(1)
    assert best.argmin() == 4
    distribution = prior.anchor_probabilities(tiny_processor.tokenizer, TEXTS[:5])
    assert distribution.shape == (5, ANCHORS + 1) and torch.allclose(distribution.sum(1), torch.ones(5))


def test_bad_scores_are_refused(tiny_processor):
    for scores in (torch.zeros(3, ANCHORS), torch.full((3, ANCHORS + 1), float("nan"))):
        with pytest.raises(ValueError, match="scores"):
            PositionPrior.fit(tiny_processor.tokenizer, TEXTS[:3], scores)
    prior = PositionPrior.fit(tiny_processor.tokenizer, TEXTS, noisy_scores())
    with pytest.raises(ValueError, match="weights"):
        PositionPrior(prior.bags, prior.weights[:, :-1])
