"""The batch: parts of it hold their own pairs, and its tensors move together."""

import pickle

import pytest
import torch

from dataset_pvlg.loading import load_rows
from modeling_rogle import RogleProcessor
from train.data.batch import Batch, pad_rows, split_inputs
from train.data.pairs import PairDataset, normalize_images


@pytest.fixture(scope="module")
def batch(tiny_processor: RogleProcessor) -> Batch:
    """Ten synthetic images with different numbers of pairs; the first image has none."""
    pairs = PairDataset(load_rows("synthetic-tiny")[0]["train"].select(range(10)), tiny_processor)
    pairs.pairs[0] = []
    return pairs.collate([pairs[n] for n in range(10)])


def test_a_batch_is_split_with_its_pairs(batch: Batch, tiny_processor: RogleProcessor) -> None:
    inputs = batch.model_inputs(normalize_images(batch.images, tiny_processor))
    pieces = split_inputs(inputs, 4)
    assert [len(piece["input_ids"]) for piece in pieces] == [3, 3, 3, 1]
    assert sum(len(piece["boxes"]) for piece in pieces) == len(inputs["boxes"])
    start = 0
    for piece in pieces:
        assert not len(piece["box_image"]) or int(piece["box_image"].max()) < len(piece["input_ids"])
        owner = piece["box_image"] + start
        torch.testing.assert_close(piece["boxes"], inputs["boxes"][torch.isin(inputs["box_image"], owner)])
        start += len(piece["input_ids"])


def test_tables_on_the_cpu_are_indexed_by_rows_that_stay_there(batch: Batch) -> None:
    moved = pickle.loads(pickle.dumps(batch)).to(torch.device("meta"))
    assert moved.images.is_meta and moved.boxes.is_meta and moved.person_ids.is_meta
    assert moved.rows.tolist() == batch.rows.tolist() and not moved.pair_numbers.is_meta


def test_rows_are_padded_on_the_right() -> None:
    assert pad_rows([[1, 2, 3], [4]], 0).tolist() == [[1, 2, 3], [4, 0, 0]]
