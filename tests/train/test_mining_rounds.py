import json

import pytest
from accelerate import Accelerator
from datasets import load_dataset

import dataset_pvlg  # noqa: F401, registers "pvlg"
from dataset_pvlg.mining import mine_rows as mine
from dataset_pvlg.mining.mine_rows import with_regions
from train.data.pairs import PairDataset
from train.mining_rounds import MiningRounds


@pytest.fixture(scope="module")
def bare():
    rows = load_dataset("pvlg", "synthetic-tiny", split="train")
    return with_regions(rows, [[]] * len(rows))


def test_rounds_begin_after_the_first_epochs_and_come_again(tmp_path):
    once, often = MiningRounds(tmp_path, 2, 0), MiningRounds(tmp_path, 1, 3)
    assert [once.round_of(n) for n in range(5)] == [None, None, 2, 2, 2]
    assert [often.round_of(n) for n in range(8)] == [None, 1, 1, 1, 4, 4, 4, 7]


def test_a_round_is_mined_once_and_read_again(tmp_path, bare, tiny_model, tiny_processor):
    said = []
    rounds = MiningRounds(tmp_path / "mined", 1, 0, said.append)
    accelerator = Accelerator(cpu=True)
    assert rounds.regions_of(0, accelerator, tiny_model, tiny_processor, bare) == [[]] * len(bare)
    tiny_model.train()
    found = rounds.regions_of(1, accelerator, tiny_model, tiny_processor, bare)
    assert tiny_model.training
    assert sum(map(len, found)) > 0 and len(said) == 1 and "assigned" in said[0]
    assert MiningRounds(tmp_path / "mined", 1, 0).regions_of(2, accelerator, None, tiny_processor, bare) == found


def test_a_later_round_learns_from_the_pairs_of_the_one_before(tmp_path, tiny_model, tiny_processor, monkeypatch):
    monkeypatch.setattr(mine, "MIN_PAIRS", 100)
    rows = load_dataset("pvlg", "synthetic-tiny", split="train")
    bare = with_regions(rows, [[]] * len(rows))
    accelerator = Accelerator(cpu=True)

    def second(folder, first: list) -> list:
        folder.mkdir()
        (folder / "epoch-1.json").write_text(json.dumps(first))
        return MiningRounds(folder, 1, 1, print).regions_of(2, accelerator, tiny_model, tiny_processor, bare)

    true = [[region | {"origin": "rsm"} for region in regions] for regions in rows["regions"][:]]
    afresh, taught = second(tmp_path / "nothing", [[]] * len(rows)), second(tmp_path / "pairs", true)
    assert taught != afresh and sum(map(len, taught)) > 0


def test_a_sentence_keeps_the_number_of_its_pair_from_round_to_round(tmp_path, bare, tiny_model, tiny_processor):
    pairs = PairDataset(bare, tiny_processor)
    assert pairs.n_pairs == 0
    pairs.set_regions(pairs.regions, number_by_sentence=True)
    count = pairs.n_pairs
    assert count == sum(map(len, bare["sentences"]))
    found = MiningRounds(tmp_path, 0, 0).regions_of(0, Accelerator(cpu=True), tiny_model, tiny_processor, bare)
    pairs.set_regions(found, number_by_sentence=True)
    assert pairs.n_pairs == count
    numbers = [number for mine in pairs.pairs for number, *_ in mine]
    assert numbers == sorted(set(numbers)) and max(numbers) < count
    offset = len(bare[0]["sentences"])
    assert {number - offset for number, *_ in pairs.pairs[1]} == {region["sentence"] for region in found[1]}


def test_before_the_first_round_no_image_is_decoded(tmp_path, bare, tiny_processor):
    class Blind:
        def __len__(self):
            return len(bare)

    assert MiningRounds(tmp_path, 2, 0).regions_of(1, Accelerator(cpu=True), None, tiny_processor, Blind()) == [
        []
    ] * len(bare)
