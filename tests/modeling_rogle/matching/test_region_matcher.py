from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from modeling_rogle.box_ops import box_iou
from modeling_rogle.matching.anchors import place_boxes
from modeling_rogle.matching.region_matcher import RegionMatcher, SeenBoxes

PLACES, WIDTH, IMAGES = len(place_boxes()), 16, 120
SIDES = [int(box_iou(np.array([box]), place_boxes()).argmax()) for box in ([0, 0.5, 0.3, 0.9], [0.7, 0.5, 1, 0.9])]


def bags_on_two_sides(seed: int) -> SeenBoxes:
    """Images with a bag on one side or the other, to be told by looking alone; `no bag` has no region."""
    rng = np.random.default_rng(seed)
    bag = torch.eye(WIDTH)[0]
    regions = normalize(torch.from_numpy(rng.normal(size=(IMAGES, PLACES, WIDTH)).astype(np.float32)), dim=-1)
    texts, image, boxes = [], [], []
    for n in range(IMAGES):
        side = SIDES[int(rng.integers(2))]
        near = box_iou(place_boxes()[side : side + 1], place_boxes())[0].float()
        regions[n] = normalize(regions[n] + 2 * near[:, None] * bag, dim=-1)
        texts += ["a blue bag over her shoulder", "a man is walking"]
        image += [n, n]
        boxes += [place_boxes()[side], np.full(4, np.nan)]
    sentences = torch.stack([bag, torch.eye(WIDTH)[1]] * IMAGES)
    candidates = np.broadcast_to(place_boxes(), (IMAGES, PLACES, 4))
    return SeenBoxes(
        candidates, regions, sentences, texts, torch.tensor(image), np.array(boxes), torch.ones(len(texts))
    )


@pytest.fixture(scope="module")
def fitted(tiny_processor) -> RegionMatcher:
    return RegionMatcher.fit(tiny_processor.tokenizer, bags_on_two_sides(0), epochs=8)


def ask(matcher, tokenizer, seen, n, boxes=None, embeds=None):
    mine = (seen.image == n).nonzero().flatten()
    return matcher.probabilities(
        tokenizer,
        [seen.texts[s] for s in mine],
        place_boxes() if boxes is None else boxes,
        seen.sentence_embeds[mine],
        seen.region_embeds[n] if embeds is None else embeds,
    )


def test_looking_decides_between_places_that_words_leave_open(fitted, tiny_processor):
    unseen = bags_on_two_sides(1)
    right = 0
    for n in range(IMAGES):
        best = ask(fitted, tiny_processor.tokenizer, unseen, n)[0].argmax()
        right += bool(box_iou(place_boxes()[[best]], unseen.boxes[[2 * n]])[0, 0] >= 0.5)
    assert right >= 0.9 * IMAGES


def test_sentences_without_a_region_are_known(fitted, tiny_processor):
    found = torch.stack([ask(fitted, tiny_processor.tokenizer, bags_on_two_sides(1), n).amax(1) for n in range(20)])
    assert (found[:, 1] < fitted.threshold).all() and found[:, 0].min() > found[:, 1].max()


def test_a_box_between_places_is_judged_between_them(fitted, tiny_processor):
    seen = bags_on_two_sides(1)
    shifted = place_boxes() + np.float32(1e-4)
    exact, near = (ask(fitted, tiny_processor.tokenizer, seen, 0, boxes) for boxes in (place_boxes(), shifted))
    assert torch.allclose(exact, near, atol=0.02)


def test_fitting_again_and_loading_give_the_same(fitted, tiny_processor, tmp_path):
    seen = bags_on_two_sides(0)
    before = torch.get_rng_state()
    again = RegionMatcher.fit(tiny_processor.tokenizer, seen, epochs=8)
    assert torch.equal(before, torch.get_rng_state())
    fitted.save(tmp_path / "judge.safetensors")
    loaded = RegionMatcher.load(tmp_path / "judge.safetensors")
    for other in (again, loaded):
        assert torch.equal(
            ask(fitted, tiny_processor.tokenizer, seen, 3), ask(other, tiny_processor.tokenizer, seen, 3)
        )


def test_pairs_that_count_nothing_are_not_learnt(tiny_processor):
    seen = bags_on_two_sides(0)
    seen = replace(seen, weight=torch.tensor([0.0, 1.0] * IMAGES))
    matcher = RegionMatcher.fit(tiny_processor.tokenizer, seen, epochs=8)
    assert ask(matcher, tiny_processor.tokenizer, seen, 0)[0].max() < 0.4


def test_nothing_to_learn_from_and_other_files_are_refused(tiny_processor, tmp_path):
    seen = bags_on_two_sides(0)
    with pytest.raises(ValueError, match="no sentence of the sample has a region"):
        RegionMatcher.fit(tiny_processor.tokenizer, replace(seen, boxes=np.full_like(seen.boxes, np.nan)))
    (tmp_path / "judge.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="no region matcher"):
        RegionMatcher.load(tmp_path / "judge.safetensors")


def test_a_box_too_large_is_told_from_one_that_fits(tiny_processor):
    """What is seen is the same everywhere; only the extent, learnt between places, tells."""
    rng = np.random.default_rng(0)
    true = np.array([0.3, 0.3, 0.7, 0.6], dtype=np.float32)
    candidates, images = [], 200
    for _ in range(images):
        centre, half = 0.5 + rng.normal(0, 0.1, (24, 2)), 0.2 * np.exp(rng.normal(0, 0.6, (24, 2)))
        free = np.clip(np.concatenate([centre - half, centre + half], 1), 0, 1)
        candidates.append(np.concatenate([place_boxes(), free]))
    candidates = np.stack(candidates).astype(np.float32)
    embeds = normalize(torch.ones(images, candidates.shape[1], WIDTH), dim=-1)
    seen = SeenBoxes(
        candidates, embeds, torch.eye(WIDTH)[:1].expand(images, -1), ["a red shirt"] * images, torch.arange(images),
        np.tile(true, (images, 1)), torch.ones(images),
    )  # fmt: skip
    matcher = RegionMatcher.fit(tiny_processor.tokenizer, seen)
    asked = np.array([true, [0.2, 0.2, 0.8, 0.8], [0.4, 0.4, 0.6, 0.5]], dtype=np.float32)
    found = matcher.probabilities(
        tiny_processor.tokenizer, ["a red shirt"], asked, seen.sentence_embeds[:1], embeds[0, :3]
    )[0]
    assert found[0] > 0.6 and found[1:].max() < 0.4
