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
from train.trust import agreement_of_captions, find_stand_ins, observe

CONFIG = SyntheticConfig(train_identities=40, validation_identities=0, test_identities=0)


@pytest.fixture(scope="module")
def people() -> Dataset:
    """Four images of each of forty people."""
    return pack_rows(("train", row) for row in rows("train", 0, 40, CONFIG))["train"]


@pytest.fixture
def pairs(people: Dataset, tiny_processor: RogleProcessor) -> PairDataset:
    return PairDataset(people, tiny_processor)


def told_apart(pairs: PairDataset) -> torch.Tensor:
    """Weights of the captions before the first step; the rows that weigh nothing have their stand-ins."""
    weights = PairReliability("identity", len(pairs), agreement=agreement_of_captions(pairs)).weights()
    find_stand_ins(pairs, weights)
    return weights


def test_clean_captions_are_trusted_and_told_of_their_own_images(pairs: PairDataset) -> None:
    agreement = told_apart(pairs)
    trusted = agreement.nonzero().flatten().tolist()
    assert len(trusted) >= 0.97 * len(pairs) and agreement[trusted].min() > 0.5
    assert set(pairs.stand_ins) == set(range(len(pairs))) - set(trusted)
    assert all(pairs[n]["caption_row"] == n for n in trusted)


def test_a_doubted_caption_gives_its_place_to_a_trusted_one_of_the_same_person(pairs: PairDataset) -> None:
    true = shuffle_captions(pairs, 0.3, seed=0)
    agreement = told_apart(pairs)
    doubted = (agreement == 0).numpy()
    assert doubted[~true].mean() > 0.6 > 0.2 > doubted[true].mean()
    assert set(pairs.stand_ins) <= set(np.flatnonzero(doubted)) and pairs.stand_ins
    for row, others in pairs.stand_ins.items():
        item = pairs[row]
        source = item["caption_row"]
        assert source in others and agreement[source] > 0.5
        assert pairs.person_ids[source] == pairs.person_ids[row] and item["row_number"] == row
        told = pairs.caption_row[source]
        assert item["caption"] in [pairs.long_ids[told], *pairs.short_ids[told]]
        if told != row:
            assert all(span == (-1, -1) for span in item["spans"])  # its sentences are not in that caption
        assert item["image_id"] == pairs.image_ids[row]
    batch = pairs.collate([pairs[row] for row in pairs.stand_ins])
    assert batch["caption_rows"].tolist() != batch["row_numbers"].tolist()
    assert (agreement[batch["caption_rows"]] > 0.5).all()
    row = next(row for row, others in pairs.stand_ins.items() if len(others) > 1)
    drawn = set()
    for epoch in range(20):
        pairs.set_epoch(epoch)
        drawn.add(pairs[row]["caption_row"])
    assert drawn == set(pairs.stand_ins[row])  # another one from epoch to epoch


def test_a_doubted_caption_tells_nothing_of_regions_either(pairs: PairDataset) -> None:
    weights = torch.ones(len(pairs))
    assert find_stand_ins(pairs, weights).startswith("captions of 0 of 160 images are doubted")
    assert all(value == 1 for row in (0, 1) for value in pairs[row]["reliability"])
    weights[:4] = 0  # all of one person's
    weights[5] = 0
    pairs.caption_row[1] = 7  # its captions are another's, the sentences of its regions its own
    said = find_stand_ins(pairs, weights)
    assert "captions of 5 of 160" in said and "stand in for 1, 4 are left without" in said
    assert pairs.stand_ins.keys() == {5} and list(pairs.stand_ins[5]) == [4, 6, 7]
    for row, weighs in ((0, False), (5, False), (1, True), (4, True)):
        found = pairs[row]["reliability"]
        assert found and all((value > 0) == weighs for value in found)
    assert pairs[0]["caption_row"] == 0  # goes on being seen, with weight 0


def test_an_image_without_regions_is_seen_once_and_anothers_caption_not_at_all() -> None:
    images, texts = (torch.nn.functional.normalize(torch.randn(6, 8), dim=-1) for _ in range(2))
    owner = torch.tensor([0, 0, 1, 2, 3])  # none of images 4 and 5
    regions = torch.nn.functional.normalize(torch.randn(5, 8), dim=-1)
    seen = {"person_ids": torch.arange(6), "image_embeds": images, "text_embeds": texts, "region_embeds": regions}
    trust = {"global": PairReliability("identity", 6), "local": PairReliability("none", 5)}
    rows = torch.tensor([0, 1, 2, -1, 4, 5])
    observe(trust, seen, rows, torch.arange(5), owner)
    first, second = trust["global"].scores
    assert first.isnan().tolist() == [False, False, False, True, False, False]
    assert torch.equal(first[4:], second[4:]) and not torch.isclose(first[:3], second[:3]).any()
