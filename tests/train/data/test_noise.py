"""Shuffled pairs: the requested share is moved, all words stay, and the truth is returned."""

from collections import Counter

import numpy as np
import pytest
from datasets import Dataset

from dataset_pvlg.features import FEATURES
from modeling_rogle import RogleProcessor
from tests.helpers.training_rows import training_row
from train.data.noise import shuffle_captions, shuffle_sentences
from train.data.pairs import PairDataset

COLOURS = "red blue green white black grey pink brown purple orange".split()


@pytest.fixture
def pairs(tiny_processor: RogleProcessor) -> PairDataset:
    rows = [
        training_row(n, n // 2, (f"A man wears a {COLOURS[n]} jacket.", "His shoes are white.", "He walks."))
        for n in range(10)
    ]
    return PairDataset(Dataset.from_list(rows, features=FEATURES), tiny_processor, long_share=1.0, flip=0.0)


def sentences(pairs: PairDataset) -> list[str]:
    return [pairs.sentence_texts[row][k] for row_pairs in pairs.pairs for _, _, row, k in row_pairs]


def test_shuffled_captions_are_marked_by_identity(pairs: PairDataset) -> None:
    before = [pairs[n].sentences for n in range(10)]
    clean = shuffle_captions(pairs, 0.6, seed=3)
    moved = pairs.caption_rows != np.arange(10)
    assert sorted(pairs.caption_rows) == list(range(10)) and 2 <= moved.sum() <= 6
    assert clean.tolist() == [int(source) // 2 == n // 2 for n, source in enumerate(pairs.caption_rows)]
    wrong = int(np.flatnonzero(~clean)[0])
    assert pairs[wrong].caption == pairs.long_ids[pairs.caption_rows[wrong]]
    assert pairs[wrong].sentences == before[wrong]  # region-sentence pairs do not move
    assert all(span == (-1, -1) for span in pairs[wrong].spans)  # but their sentences are not in that caption
    right = int(np.flatnonzero(~moved)[0])
    assert all(span[0] >= 0 for span in pairs[right].spans)


def test_sentences_move_and_equal_words_stay_clean(pairs: PairDataset) -> None:
    before = sentences(pairs)
    clean = shuffle_sentences(pairs, 0.5, seed=0)
    after = sentences(pairs)
    assert Counter(before) == Counter(after) and len(clean) == pairs.n_pairs == 20
    assert clean.tolist() == [a == b for a, b in zip(before, after, strict=True)]
    assert 0 < (~clean).sum() <= 10
    assert (pairs.caption_rows == np.arange(10)).all()


@pytest.mark.parametrize("shuffle", [shuffle_captions, shuffle_sentences])
def test_none_changes_nothing_and_a_seed_repeats(shuffle, pairs: PairDataset, tiny_processor: RogleProcessor) -> None:
    before = (sentences(pairs), pairs.caption_rows.tolist())
    assert shuffle(pairs, 0.0, seed=0).all() and before == (sentences(pairs), pairs.caption_rows.tolist())
    twin = PairDataset(pairs.rows, tiny_processor)
    shuffle(pairs, 0.8, seed=5), shuffle(twin, 0.8, seed=5)
    assert sentences(pairs) == sentences(twin) and pairs.caption_rows.tolist() == twin.caption_rows.tolist()
    with pytest.raises(ValueError, match="share of shuffled pairs must lie in"):
        shuffle(pairs, 1.5, seed=0)
