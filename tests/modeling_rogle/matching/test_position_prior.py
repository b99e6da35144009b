import numpy as np
import pytest
import torch

from modeling_rogle.box_ops import box_iou
from modeling_rogle.matching.anchors import place_boxes
from modeling_rogle.matching.position_prior import PositionPrior

PLACES = len(place_boxes())
HEAD = int(box_iou(np.array([[0.3, 0.04, 0.7, 0.25]]), place_boxes()).argmax())
FEET = int(box_iou(np.array([[0.25, 0.88, 0.75, 0.98]]), place_boxes()).argmax())
TEXTS = ["long brown hair", "white shoes", "black sandals and shoes", "brown hair", "a man is walking"] * 60


def noisy_scores(seed: int = 0) -> torch.Tensor:
    """What a weak model says of crops: the true place is a little better on average, and seldom the best one."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(len(TEXTS), PLACES + 1, generator=generator)
    like = box_iou(place_boxes(), place_boxes()).float()
    for n, text in enumerate(TEXTS):
        for word, place in (("hair", HEAD), ("shoes", FEET)):
            if word in text:
                scores[n, :-1] += 1.6 * like[place]
    scores += 5 * torch.arange(PLACES + 1) / PLACES  # crops that score high with any sentence
    return scores


def test_words_find_their_places_where_single_crops_do_not(tiny_processor):
    scores, tokenizer = noisy_scores(), tiny_processor.tokenizer
    prior = PositionPrior.fit(tokenizer, TEXTS, scores)
    right = box_iou(place_boxes()[[HEAD, FEET]], place_boxes()) >= 0.5
    alone = np.mean([bool(right[0][scores[n, :-1].argmax()]) for n, text in enumerate(TEXTS) if "hair" in text])
    assert alone < 0.5
    for text, is_right in (("long brown hair", right[0]), ("his shoes are white", right[1])):
        best = prior.probabilities(tokenizer, [text], place_boxes())[0].argmax()
        assert is_right[best]


def test_sentences_that_speak_of_no_place_are_the_least_sure(tiny_processor):
    prior = PositionPrior.fit(tiny_processor.tokenizer, TEXTS, noisy_scores())
    sure = prior.probabilities(tiny_processor.tokenizer, TEXTS[:5], place_boxes()).amax(1)
    assert sure.argmin() == 4
    places = prior.places(tiny_processor.tokenizer, TEXTS[:5])
    assert places.shape == (5, PLACES + 1) and torch.allclose(places.sum(1), torch.ones(5))


def test_bad_scores_are_refused(tiny_processor):
    for scores in (torch.zeros(3, PLACES), torch.full((3, PLACES + 1), float("nan"))):
        with pytest.raises(ValueError, match="scores"):
            PositionPrior.fit(tiny_processor.tokenizer, TEXTS[:3], scores)
    prior = PositionPrior.fit(tiny_processor.tokenizer, TEXTS, noisy_scores())
    with pytest.raises(ValueError, match="weights"):
        PositionPrior(prior.bags, prior.weights[:, :-1])
