import numpy as np
import pytest
import torch

from modeling_rogle.matching.anchors import anchor_boxes
from modeling_rogle.reliability.region_agreement import region_agreement

HEAD, TRUNK, FEET = 1, 20, 44
WORDS = {
    HEAD: ("long brown hair", "short hair", "a red hat"),
    TRUNK: ("a red jacket", "a green shirt", "a blue jacket with pockets"),
    FEET: ("white shoes", "black sandals", "grey shoes"),
}


def pairs_with_noise(share: float, count: int = 900, seed: int = 0) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Sentences, boxes near their body part, and whether each pair is true; a share of the sentences is permuted."""
    rng = np.random.default_rng(seed)
    parts = rng.choice(list(WORDS), count)
    texts = [WORDS[part][rng.integers(3)] for part in parts]
    boxes = anchor_boxes()[parts] + rng.normal(0, 0.01, (count, 4)).astype(np.float32)
    chosen = rng.permutation(count)[: int(share * count)]
    moved, own = list(texts), np.ones(count, dtype=bool)
    for n, source in zip(chosen, rng.permutation(chosen), strict=True):
        moved[n], own[n] = texts[source], texts[source] == texts[n]
    return moved, boxes, own


def test_the_body_parts_of_these_tests_are_far_apart():
    centres = anchor_boxes()[[HEAD, TRUNK, FEET]][:, [1, 3]].mean(1)
    assert (np.diff(centres) > 0.2).all()


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_pairs_of_other_parts_get_low_agreement_and_true_ones_high(tiny_processor, share):
    texts, boxes, own = pairs_with_noise(share)
    agreement, estimate = region_agreement(tiny_processor.tokenizer, texts, boxes)
    same_part = np.array([text in WORDS[part] for text, part in zip(texts, part_of(boxes), strict=True)])
    assert (agreement[torch.from_numpy(own)] > 0.5).float().mean() > 0.97
    assert agreement[torch.from_numpy(own)].mean() - agreement[torch.from_numpy(~same_part)].mean() > 0.45
    # A permuted sentence of the same body part looks true to words and boxes: a third of the permuted ones.
    assert estimate == pytest.approx(1 - share, abs=0.12)


def part_of(boxes: np.ndarray) -> list[int]:
    return [min(WORDS, key=lambda part: np.abs(anchor_boxes()[part] - box).sum()) for box in boxes]


def test_clean_pairs_keep_their_agreement(tiny_processor):
    texts, boxes, _ = pairs_with_noise(0.0)
    agreement, share = region_agreement(tiny_processor.tokenizer, texts, boxes)
    assert agreement.mean() > 0.97 and share > 0.9


def test_few_pairs_have_agreement_1_and_broken_boxes_are_refused(tiny_processor):
    texts, boxes, _ = pairs_with_noise(0.5, count=20)
    agreement, share = region_agreement(tiny_processor.tokenizer, texts, boxes)
    assert torch.equal(agreement, torch.ones(20)) and share == 1
    with pytest.raises(ValueError, match="boxes"):
        region_agreement(tiny_processor.tokenizer, texts[1:], boxes)
    boxes[3, 0] = np.nan
    with pytest.raises(ValueError, match="boxes"):
        region_agreement(tiny_processor.tokenizer, texts, boxes)
