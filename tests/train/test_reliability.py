"""Reliability in training: which captions are replaced, which pairs weigh nothing, and what a step observes."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from dataset_pvlg.arrow_io import pack_rows
from dataset_pvlg.synthetic.dataset import SyntheticConfig, rows
from modeling_rogle import RogleProcessor
from modeling_rogle.reliability.pair_reliability import PairReliability
from train.data.noise import shuffle_captions
from train.data.pairs import PairDataset
from train.reliability import agreement_of_captions, observe, replace_unreliable_captions

CONFIG = SyntheticConfig(train_identities=40, validation_identities=0, test_identities=0)


@pytest.fixture(scope="module")
def forty_identities() -> Dataset:
    """Four images of each of forty identities."""
    return pack_rows(("train", row) for row in rows("train", 0, 40, CONFIG))["train"]


@pytest.fixture
def pairs(forty_identities: Dataset, tiny_processor: RogleProcessor) -> PairDataset:
    return PairDataset(forty_identities, tiny_processor)


def weights_before_training(pairs: PairDataset) -> torch.Tensor:
    """Weights of the captions before the first step; captions of weight 0 are replaced in `pairs`."""
    weights = PairReliability("identity", len(pairs), agreement=agreement_of_captions(pairs)).weights()
    replace_unreliable_captions(pairs, weights)
    return weights


def test_clean_captions_are_reliable_and_keep_their_images(pairs: PairDataset) -> None:
    weights = weights_before_training(pairs)
    reliable = weights.nonzero().flatten().tolist()
    assert len(reliable) >= 0.97 * len(pairs) and weights[reliable].min() > 0.5
    assert set(pairs.replacement_rows) == set(range(len(pairs))) - set(reliable)
    assert all(pairs[n].source_row == n for n in reliable)


def test_an_unreliable_caption_is_replaced_by_a_reliable_one_of_the_same_person(pairs: PairDataset) -> None:
    clean = shuffle_captions(pairs, 0.3, seed=0)
    weights = weights_before_training(pairs)
    unreliable = (weights == 0).numpy()
    assert unreliable[~clean].mean() > 0.6 > 0.2 > unreliable[clean].mean()
    assert set(pairs.replacement_rows) <= set(np.flatnonzero(unreliable)) and pairs.replacement_rows
    for row, replacements in pairs.replacement_rows.items():
        sample = pairs[row]
        source = sample.source_row
        assert source in replacements and weights[source] > 0.5
        assert pairs.person_ids[source] == pairs.person_ids[row] and sample.row == row
        caption_row = pairs.caption_rows[source]
        assert sample.caption in [pairs.long_ids[caption_row], *pairs.short_ids[caption_row]]
        if caption_row != row:
            assert all(span == (-1, -1) for span in sample.spans)  # its sentences are not in that caption
        assert sample.image_id == pairs.image_ids[row]
    batch = pairs.collate([pairs[row] for row in pairs.replacement_rows])
    assert batch.source_rows.tolist() != batch.rows.tolist()
    assert (weights[batch.source_rows] > 0.5).all()
    row = next(row for row, replacements in pairs.replacement_rows.items() if len(replacements) > 1)
    drawn = set()
    for epoch in range(20):
        pairs.set_epoch(epoch)
        drawn.add(pairs[row].source_row)
    assert drawn == set(pairs.replacement_rows[row])  # drawn again in each epoch


def test_sentences_of_an_unreliable_caption_weigh_nothing(pairs: PairDataset) -> None:
    weights = torch.ones(len(pairs))
    assert replace_unreliable_captions(pairs, weights).startswith("captions of 0 of 160 images")
    assert all(value == 1 for row in (0, 1) for value in pairs[row].pair_weights)
    weights[:4] = 0  # all of one person
    weights[5] = 0
    pairs.caption_rows[1] = 7  # its captions are another row's, the sentences of its regions are its own
    message = replace_unreliable_captions(pairs, weights)
    assert "captions of 5 of 160" in message and "1 are replaced" in message and "4 have no replacement" in message
    assert pairs.replacement_rows.keys() == {5} and list(pairs.replacement_rows[5]) == [4, 6, 7]
    for row, positive in ((0, False), (5, False), (1, True), (4, True)):
        values = pairs[row].pair_weights
        assert values and all((value > 0) == positive for value in values)
    assert pairs[0].source_row == 0  # it is still used, with weight 0


def test_an_image_without_regions_has_one_score_and_replaced_captions_are_not_observed() -> None:
    images, texts = (torch.nn.functional.normalize(torch.randn(6, 8), dim=-1) for _ in range(2))
    box_image = torch.tensor([0, 0, 1, 2, 3])  # no region of images 4 and 5
    regions = torch.nn.functional.normalize(torch.randn(5, 8), dim=-1)
    loss_inputs = {"person_ids": torch.arange(6), "image_embeds": images, "text_embeds": texts}
    loss_inputs["region_embeds"] = regions
    trackers = {"global": PairReliability("identity", 6), "local": PairReliability("none", 5)}
    rows = torch.tensor([0, 1, 2, -1, 4, 5])
    observe(trackers, loss_inputs, rows, torch.arange(5), box_image)
    first, second = trackers["global"].scores
    assert first.isnan().tolist() == [False, False, False, True, False, False]
    assert torch.equal(first[4:], second[4:]) and not torch.isclose(first[:3], second[:3]).any()
