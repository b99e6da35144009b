import math

import pytest
import torch

from modeling_rogle.matching.assignment import margin_reliability, match_sentences

REGIONS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])  # the last is the whole image


def test_each_sentence_takes_its_best_region():
    matches = match_sentences(REGIONS, torch.tensor([[0.8, 0.6, 0.0], [0.0, 0.96, 0.28], [0.0, 0.6, 0.8]]))
    assert matches.region.tolist() == [0, 1, -1]  # the third is best explained by the whole image
    assert matches.score.tolist() == pytest.approx([0.8, 0.96, 0.8])
    assert matches.margin.tolist() == pytest.approx([0.2, 0.68, 0.2])


def test_threshold_and_ties_give_no_region():
    tie = torch.tensor([[0.0, 0.5**0.5, 0.5**0.5]])
    assert match_sentences(REGIONS, tie).region.tolist() == [-1]
    assert match_sentences(REGIONS, torch.tensor([[0.8, 0.6, 0.0]]), threshold=0.9).region.tolist() == [-1]
    assert match_sentences(REGIONS, torch.tensor([[-1.0, -0.2, -0.4]])).region.tolist() == [-1]


def test_matching_equals_a_loop():
    generator = torch.Generator().manual_seed(0)
    regions = torch.nn.functional.normalize(torch.randn(7, 16, generator=generator), dim=-1)
    sentences = torch.nn.functional.normalize(torch.randn(50, 16, generator=generator), dim=-1)
    matches = match_sentences(regions, sentences, threshold=0.1)
    for s, sentence in enumerate(sentences):
        scores = [float(sentence @ region) for region in regions]
        best = max(range(7), key=scores.__getitem__)
        assert matches.region[s] == (best if best != 6 and scores[best] >= 0.1 else -1)
        assert float(matches.margin[s]) == pytest.approx(scores[best] - sorted(scores)[-2], abs=1e-5)


def test_no_sentence_gives_no_match():
    assert match_sentences(REGIONS, torch.zeros(0, 3)).region.shape == (0,)


@pytest.mark.parametrize(
    ("regions", "sentences"),
    [
        (REGIONS[:1], REGIONS),
        (REGIONS, torch.zeros(2, 4)),
        (REGIONS, torch.zeros(3)),
        (REGIONS, torch.full((1, 3), float("nan"))),
    ],
)
def test_bad_embeddings_are_refused(regions, sentences):
    with pytest.raises(ValueError):
        match_sentences(regions, sentences)


def test_reliability_is_the_rescaled_probability_of_the_better_of_two_candidates():
    margin, temperature = 0.013, 0.01
    probability = 1 / (1 + math.exp(-margin / temperature))
    assert margin_reliability(torch.tensor([margin])).item() == pytest.approx(2 * probability - 1, abs=1e-6)


def test_reliability_grows_from_zero_to_one():
    reliability = margin_reliability(torch.tensor([-0.1, 0.0, 0.001, 0.01, 0.1, 5.0]))
    assert reliability[0] == reliability[1] == 0
    assert bool((reliability[1:].diff() >= 0).all())
    assert reliability[-1] == 1
    assert margin_reliability(torch.tensor(0.02), 0.1) < margin_reliability(torch.tensor(0.02), 0.01)


def test_reliability_takes_half_precision_and_has_no_gradient():
    reliability = margin_reliability(torch.tensor([0.5], dtype=torch.float16, requires_grad=True))
    assert reliability.dtype == torch.float32
    assert not reliability.requires_grad


@pytest.mark.parametrize(("margin", "temperature"), [(0.1, 0.0), (0.1, -1.0), (float("nan"), 0.01)])
def test_bad_margins_are_refused(margin, temperature):
    with pytest.raises(ValueError, match=r"temperature|margin"):
        margin_reliability(torch.tensor([margin]), temperature)
