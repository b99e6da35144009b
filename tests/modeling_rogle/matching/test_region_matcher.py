from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from modeling_rogle.box_ops import box_iou
from modeling_rogle.matching.anchors import anchor_boxes
from modeling_rogle.matching.region_matcher import MatcherSample, RegionMatcher

ANCHORS, WIDTH, IMAGES = len(anchor_boxes()), 16, 120
SIDES = [int(box_iou(np.array([box]), anchor_boxes()).argmax()) for box in ([0, 0.5, 0.3, 0.9], [0.7, 0.5, 1, 0.9])]


def bags_on_two_sides(seed: int) -> MatcherSample:
    """Images with a bag on one of two sides, which only the embeddings show; the other sentence has no region."""
    rng = np.random.default_rng(seed)
    bag = torch.eye(WIDTH)[0]
    regions = normalize(torch.from_numpy(rng.normal(size=(IMAGES, ANCHORS, WIDTH)).astype(np.float32)), dim=-1)
    texts, image, boxes = [], [], []
    for n in range(IMAGES):
        side = SIDES[int(rng.integers(2))]
        near = box_iou(anchor_boxes()[side : side + 1], anchor_boxes())[0].float()
        regions[n] = normalize(regions[n] + 2 * near[:, None] * bag, dim=-1)
        texts += ["a blue bag over her shoulder", "a man is walking"]
        image += [n, n]
        boxes += [anchor_boxes()[[side]], np.full((1, 4), np.nan)]
    sentences = torch.stack([bag, torch.eye(WIDTH)[1]] * IMAGES)
    candidates = np.broadcast_to(anchor_boxes(), (IMAGES, ANCHORS, 4))
    return MatcherSample(
        candidates, regions, sentences, texts, torch.tensor(image), np.array(boxes), torch.ones(len(texts))
    )


@pytest.fixture(scope="module")
def fitted(tiny_processor) -> RegionMatcher:
    return RegionMatcher.fit(tiny_processor.tokenizer, bags_on_two_sides(0), epochs=8)


def probabilities(matcher, tokenizer, sample, n, boxes=None, embeds=None):
    rows = (sample.sentence_image == n).nonzero().flatten()
    return matcher.probabilities(
        tokenizer,
        [sample.texts[s] for s in rows],
        anchor_boxes() if boxes is None else boxes,
        sample.sentence_embeds[rows],
        sample.region_embeds[n] if embeds is None else embeds,
    )


def test_embeddings_decide_between_boxes_that_words_leave_open(fitted, tiny_processor):
    unseen = bags_on_two_sides(1)
    right = 0
    for n in range(IMAGES):
        best = probabilities(fitted, tiny_processor.tokenizer, unseen, n)[0].argmax()
        right += bool(box_iou(anchor_boxes()[[best]], unseen.target_boxes[2 * n])[0, 0] >= 0.5)
    assert right >= 0.9 * IMAGES


def test_sentences_without_a_region_stay_below_the_threshold(fitted, tiny_processor):
    found = torch.stack(
        [probabilities(fitted, tiny_processor.tokenizer, bags_on_two_sides(1), n).amax(1) for n in range(20)]
    )
    assert (found[:, 1] < fitted.threshold).all() and found[:, 0].min() > found[:, 1].max()


def test_a_box_near_an_anchor_box_scores_like_it(fitted, tiny_processor):
    sample = bags_on_two_sides(1)
    shifted = anchor_boxes() + np.float32(1e-4)
    exact, near = (
        probabilities(fitted, tiny_processor.tokenizer, sample, 0, boxes) for boxes in (anchor_boxes(), shifted)
    )
    assert torch.allclose(exact, near, atol=0.02)


def test_fitting_again_and_loading_give_the_same(fitted, tiny_processor, tmp_path):
    sample = bags_on_two_sides(0)
    before = torch.get_rng_state()
    again = RegionMatcher.fit(tiny_processor.tokenizer, sample, epochs=8)
    assert torch.equal(before, torch.get_rng_state())
    fitted.save(tmp_path / "judge.safetensors")
    loaded = RegionMatcher.load(tmp_path / "judge.safetensors")
    for other in (again, loaded):
        assert torch.equal(
            probabilities(fitted, tiny_processor.tokenizer, sample, 3),
            probabilities(other, tiny_processor.tokenizer, sample, 3),
        )


def test_pairs_of_weight_zero_are_not_learnt(tiny_processor):
    sample = bags_on_two_sides(0)
    sample = replace(sample, pair_weight=torch.tensor([0.0, 1.0] * IMAGES))
    matcher = RegionMatcher.fit(tiny_processor.tokenizer, sample, epochs=8)
    assert probabilities(matcher, tiny_processor.tokenizer, sample, 0)[0].max() < 0.4


def test_nothing_to_learn_from_and_other_files_are_refused(tiny_processor, tmp_path):
    sample = bags_on_two_sides(0)
    with pytest.raises(ValueError, match="no sentence of the sample has a region"):
        RegionMatcher.fit(
            tiny_processor.tokenizer, replace(sample, target_boxes=np.full_like(sample.target_boxes, np.nan))
        )
    (tmp_path / "judge.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="no region matcher"):
        RegionMatcher.load(tmp_path / "judge.safetensors")


def test_every_region_of_a_sentence_is_correct(tiny_processor):
    """Each sentence has two regions, on both sides; a sentence with one region has an empty second place."""
    sample = bags_on_two_sides(0)
    none = np.full_like(sample.target_boxes, np.nan)
    padded = replace(sample, target_boxes=np.concatenate([sample.target_boxes, none], 1))
    both = np.where(np.isnan(sample.target_boxes), np.nan, anchor_boxes()[list(SIDES)]).astype(np.float32)
    scores = []
    for each in (sample, padded, replace(sample, target_boxes=both)):
        matcher = RegionMatcher.fit(tiny_processor.tokenizer, each, epochs=8)
        scores.append(torch.stack([probabilities(matcher, tiny_processor.tokenizer, sample, n)[0] for n in range(40)]))
    assert torch.equal(scores[0], scores[1])
    assert (
        (scores[2][:, list(SIDES)] > 0.5).float().mean() > 0.9 > 0.6 > (scores[0][:, list(SIDES)] > 0.5).float().mean()
    )


def test_a_box_that_is_too_large_scores_lower_than_one_that_fits(tiny_processor):
    """The embeddings are the same everywhere; only the extent of the box differs."""
    rng = np.random.default_rng(0)
    true = np.array([0.3, 0.3, 0.7, 0.6], dtype=np.float32)
    candidates, images = [], 200
    for _ in range(images):
        centre, half = 0.5 + rng.normal(0, 0.1, (24, 2)), 0.2 * np.exp(rng.normal(0, 0.6, (24, 2)))
        free = np.clip(np.concatenate([centre - half, centre + half], 1), 0, 1)
        candidates.append(np.concatenate([anchor_boxes(), free]))
    candidates = np.stack(candidates).astype(np.float32)
    embeds = normalize(torch.ones(images, candidates.shape[1], WIDTH), dim=-1)
    sample = MatcherSample(
        candidates, embeds, torch.eye(WIDTH)[:1].expand(images, -1), ["a red shirt"] * images, torch.arange(images),
        np.tile(true, (images, 1, 1)), torch.ones(images),
    )  # fmt: skip
    matcher = RegionMatcher.fit(tiny_processor.tokenizer, sample)
    boxes = np.array([true, [0.2, 0.2, 0.8, 0.8], [0.4, 0.4, 0.6, 0.5]], dtype=np.float32)
    scores = matcher.probabilities(
        tiny_processor.tokenizer, ["a red shirt"], boxes, sample.sentence_embeds[:1], embeds[0, :3]
    )[0]
    assert scores[0] > 0.6 and scores[1:].max() < 0.4
