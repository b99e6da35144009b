import numpy as np
import pytest
import torch

from dataset_pvlg.features import REGION_LABELS
from modeling_rogle.matching.assignment import assign, match_sentences
from modeling_rogle.templates import TEMPLATE_LABELS, template_boxes


def test_templates_are_boxes_inside_the_image_and_the_last_is_the_image():
    boxes = template_boxes()
    assert boxes.dtype == np.float32
    assert boxes.shape == (len(TEMPLATE_LABELS), 4)
    assert (boxes >= 0).all() and (boxes <= 1).all()
    assert (boxes[:, 2:] - boxes[:, :2] >= 0.1).all()
    assert boxes[-1].tolist() == [0, 0, 1, 1]
    assert len({tuple(box) for box in boxes.tolist()}) == len(boxes)


def test_template_labels_cover_the_regions_of_the_schema():
    assert set(TEMPLATE_LABELS[:-1]) == set(REGION_LABELS)
    assert TEMPLATE_LABELS[-1] == "whole person"


def test_templates_mirror_onto_themselves():
    mirrored = template_boxes()[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [1, 0, 1, 0]
    boxes = {tuple(box) for box in template_boxes().round(4).tolist()}
    assert {tuple(box) for box in mirrored.astype(np.float32).round(4).tolist()} == boxes


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


SCORES = torch.tensor([[0.9, 0.8, 0.0], [0.85, 0.1, 0.0]])


def test_the_best_candidate_may_be_taken_twice_and_one_to_one_has_the_highest_sum():
    assert assign(SCORES).tolist() == [0, 0]
    pytest.importorskip("scipy")
    assert assign(SCORES, "one_to_one").tolist() == [1, 0]
    assert sorted(assign(SCORES.T, "one_to_one").tolist()) == [-1, 0, 1]  # three sentences, two candidates


def test_transport_spreads_sentences_that_compete():
    assert assign(SCORES[:, :2], "transport").tolist() == [1, 0]
    assert assign(torch.zeros(0, 3), "transport").shape == assign(torch.zeros(0, 3)).shape == (0,)


def test_other_rules_and_broken_scores_are_refused():
    with pytest.raises(ValueError, match="rule must be"):
        assign(SCORES, "worst")
    with pytest.raises(ValueError, match="finite"):
        assign(torch.tensor([[float("nan"), 0.0]]))
