import numpy as np
import pytest
import torch

from modeling_rogle.matching.anchors import place_boxes
from modeling_rogle.reliability.region_agreement import place_agreement

HEAD, TRUNK, FEET = 1, 20, 44
WORDS = {
    HEAD: ("long brown hair", "short hair", "a red hat"),
    TRUNK: ("a red jacket", "a green shirt", "a blue jacket with pockets"),
    FEET: ("white shoes", "black sandals", "grey shoes"),
}


def pairs_with_noise(share: float, count: int = 900, seed: int = 0) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Sentences, boxes near their part's place, and whether each pair is its own; a share of the sentences permuted."""
    rng = np.random.default_rng(seed)
    parts = rng.choice(list(WORDS), count)
    texts = [WORDS[part][rng.integers(3)] for part in parts]
    boxes = place_boxes()[parts] + rng.normal(0, 0.01, (count, 4)).astype(np.float32)
    chosen = rng.permutation(count)[: int(share * count)]
    moved, own = list(texts), np.ones(count, dtype=bool)
    for n, source in zip(chosen, rng.permutation(chosen), strict=True):
        moved[n], own[n] = texts[source], texts[source] == texts[n]
    return moved, boxes, own


def test_places_are_far_apart_as_the_tests_take_them():
    middles = place_boxes()[[HEAD, TRUNK, FEET]][:, [1, 3]].mean(1)
    assert (np.diff(middles) > 0.2).all()


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_pairs_of_other_parts_are_doubted_and_own_ones_are_not(tiny_processor, share):
    texts, boxes, own = pairs_with_noise(share)
    agree, right = place_agreement(tiny_processor.tokenizer, texts, boxes)
    same_part = np.array([text in WORDS[part] for text, part in zip(texts, part_of(boxes), strict=True)])
    assert (agree[torch.from_numpy(own)] > 0.5).float().mean() > 0.97
    assert agree[torch.from_numpy(own)].mean() - agree[torch.from_numpy(~same_part)].mean() > 0.45
    # A permuted sentence of the same part is right as far as places tell: a third of the permuted ones are.
    assert right == pytest.approx(1 - share, abs=0.12)


def part_of(boxes: np.ndarray) -> list[int]:
    return [min(WORDS, key=lambda part: np.abs(place_boxes()[part] - box).sum()) for box in boxes]


def test_clean_pairs_are_all_trusted(tiny_processor):
    texts, boxes, _ = pairs_with_noise(0.0)
    agree, right = place_agreement(tiny_processor.tokenizer, texts, boxes)
    assert agree.mean() > 0.97 and right > 0.9


def test_few_pairs_are_trusted_and_broken_boxes_refused(tiny_processor):
    texts, boxes, _ = pairs_with_noise(0.5, count=20)
    agree, right = place_agreement(tiny_processor.tokenizer, texts, boxes)
    assert torch.equal(agree, torch.ones(20)) and right == 1
    with pytest.raises(ValueError, match="boxes"):
        place_agreement(tiny_processor.tokenizer, texts[1:], boxes)
    boxes[3, 0] = np.nan
    with pytest.raises(ValueError, match="boxes"):
        place_agreement(tiny_processor.tokenizer, texts, boxes)
