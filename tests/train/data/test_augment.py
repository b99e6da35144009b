"""Crops, erasing, approximate captions and mixes: boxes and spans stay correct."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_pvlg.loading import load_rows
from modeling_rogle import RogleProcessor
from train.data.augment import Augmentation, join_captions, mix_images
from train.data.pairs import PairDataset


def marked(h: int, w: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """Black but for a white box, x0, y0, x1, y1 in pixels."""
    image = np.zeros((3, h, w), dtype=np.uint8)
    image[:, box[1] : box[3], box[0] : box[2]] = 255
    return image


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), left=st.integers(0, 24), top=st.integers(0, 48))
def test_boxes_move_with_a_crop(seed: int, left: int, top: int) -> None:
    h, w, box = 64, 32, (left, top, left + 8, top + 16)
    image = marked(h, w, box)
    boxes = np.array([box], dtype=np.float32) / [w, h, w, h]
    moved, boxes_after, visible = Augmentation(crop=1.0).change_image(
        image, boxes.astype(np.float32), np.random.default_rng(seed)
    )
    white = np.argwhere(moved[0] == 255)
    inside = np.array([white[:, 1].min(), white[:, 0].min(), white[:, 1].max() + 1, white[:, 0].max() + 1])
    np.testing.assert_allclose(boxes_after[0] * [w, h, w, h], inside, atol=1e-4)
    assert visible.all() and moved.shape == image.shape and image.max() == 255  # shifts are small, it is still there


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6))
def test_a_box_that_is_more_than_half_erased_is_marked(seed: int) -> None:
    h, w = 64, 32
    box = (8, 16, 16, 24)
    image = marked(h, w, box)
    boxes = (np.array([box], dtype=np.float32) / [w, h, w, h]).astype(np.float32)
    changed, boxes_after, visible = Augmentation(erase=1.0).change_image(image, boxes, np.random.default_rng(seed))
    left = (changed[0, 16:24, 8:16] == 255).mean()
    assert bool(visible[0]) == (left >= 0.5) and np.array_equal(boxes_after, boxes)
    assert 0.01 < (changed != image).any(0).mean() + (changed[0] == changed[0, 0, 0]).mean()
    assert np.array_equal(image, marked(h, w, box))  # it may be a cached one


def test_an_erased_rectangle_has_the_stated_size() -> None:
    image = np.random.default_rng(0).integers(0, 255, (3, 192, 64), dtype=np.uint8)
    none = np.zeros((0, 4), dtype=np.float32)
    shares = []
    for seed in range(200):
        changed, _, _ = Augmentation(erase=1.0).change_image(image, none, np.random.default_rng(seed))
        shares.append((changed != image).any(0).mean())
    assert min(shares) > 0.015 and max(shares) < 0.22 and 0.08 < np.mean(shares) < 0.14


def test_approximate_captions_keep_the_spans_of_their_sentences(tiny_processor: RogleProcessor) -> None:
    rows = load_rows("synthetic-tiny")[0]["train"].select(range(8))
    processor = copy.deepcopy(tiny_processor)
    processor.tokenizer.model_max_length = 200
    pairs = PairDataset(rows, processor, long_share=0.7, max_pairs=9, augmentation=Augmentation(approximate=0.5))
    plain = PairDataset(rows, processor, long_share=0.7, max_pairs=9)
    changed, checked = 0, 0
    for epoch in range(6):
        pairs.set_epoch(epoch)
        plain.set_epoch(epoch)
        for n in range(len(pairs)):
            item, own = pairs[n], plain[n]
            assert np.array_equal(item.image, own.image) and item.person_id == own.person_id
            changed += item.caption != own.caption
            for (first, last), sentence in zip(item.spans, item.sentences, strict=True):
                if last > first:
                    words = item.caption[first:last]
                    assert len(set(words) & set(sentence[1:-1])) >= len(set(words)) / 3
                    checked += 1
    assert 10 < changed < 38 and checked > 60


def test_a_mixed_pair_shows_both_images_and_has_its_own_identity(tiny_processor: RogleProcessor) -> None:
    rows = load_rows("synthetic-tiny")[0]["train"].select(range(8))
    mixing = PairDataset(rows, tiny_processor, long_share=0.0, flip=0.0, augmentation=Augmentation(mix=1.0))
    plain = PairDataset(rows, tiny_processor, long_share=0.0, flip=0.0)
    mixed = 0
    for n in range(len(mixing)):
        item, own = mixing[n], plain[n]
        if item.person_id == own.person_id:  # drawn with an image of the same person
            assert np.array_equal(item.image, own.image) and item.caption == own.caption
            continue
        mixed += 1
        others = [m for m in range(8) if np.array_equal(item.image, mix_images(own.image, plain._image(m)))]
        assert len(others) == 1 and plain.person_ids[others[0]] != own.person_id
        own_words = [*(own.caption[1:-1])]
        length = next(k for k in range(len(own_words), -1, -1) if item.caption[1 : 1 + k] == own_words[:k])
        rest = item.caption[1 + length : -1]
        assert rest and any(rest == short[1 : 1 + len(rest)] for short in plain.short_ids[others[0]])
        assert item.person_id == -1 - n and not item.sentences and item.boxes.shape == (0, 4)
    assert mixed >= 5
    batch = mixing.collate([mixing[n] for n in range(8)])  # one with pairs and one without, or with none at all
    assert len(batch.boxes) == len(batch.box_image) and (batch.person_ids < 0).sum() == mixed


def test_joined_captions_share_the_limit() -> None:
    one, other = [0, 5, 5, 5, 5, 1], [0, 6, 6, 6, 6, 6, 6, 1]
    assert join_captions(one, other, 20) == [0, *[5] * 4, *[6] * 6, 1]
    assert join_captions(one, other, 10) == [0, *[5] * 4, *[6] * 4, 1]
    assert join_captions(one, other, 8) == [0, *[5] * 3, *[6] * 3, 1]
    assert join_captions(other, [0, 7, 1], 8) == [0, *[6] * 5, 7, 1]


def test_images_are_averaged_without_overflow() -> None:
    one = np.full((3, 2, 2), 250, dtype=np.uint8)
    assert (mix_images(one, np.full_like(one, 200)) == 225).all() and mix_images(one, one).dtype == np.uint8


def test_a_generated_image_has_the_family_of_its_source(tiny_processor: RogleProcessor) -> None:
    rows = load_rows("synthetic-tiny")[0]["train"].select(range(4))
    changed = [{"image_id": "copy", "person_id": 99, "parent": rows[0]["image_id"]} if n == 3 else {} for n in range(4)]
    rows = rows.map(lambda row, n: row | changed[n], with_indices=True, features=rows.features)
    pairs = PairDataset(rows, tiny_processor)
    assert pairs.families == [*pairs.person_ids[:3], pairs.person_ids[0]] and pairs.person_ids[3] == 99


@pytest.mark.parametrize("name", ["crop", "erase", "approximate", "mix"])
def test_nothing_is_changed_by_default(name: str) -> None:
    assert not Augmentation() and Augmentation(**{name: 0.1})
