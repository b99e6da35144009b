import json

import pytest
from accelerate import Accelerator
from datasets import load_dataset

import dataset_pvlg  # noqa: F401, registers "pvlg"
from dataset_pvlg.mining import mine_rows
from dataset_pvlg.mining.mine_rows import with_regions
from train.data.pairs import PairDataset
from train.mining_rounds import MiningRounds

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bare():
    rows = load_dataset("pvlg", "synthetic-tiny", split="train")
    return with_regions(rows, [[]] * len(rows))


def test_rounds_begin_after_the_first_epochs_and_repeat(tmp_path):
    once, often = MiningRounds(tmp_path, 2, 0), MiningRounds(tmp_path, 1, 3)
    assert [once.round_of(n) for n in range(5)] == [None, None, 2, 2, 2]
    assert [often.round_of(n) for n in range(8)] == [None, 1, 1, 1, 4, 4, 4, 7]


def test_a_round_is_mined_once_and_then_read(tmp_path, bare, tiny_model, tiny_processor):
    messages = []
    rounds = MiningRounds(tmp_path / "mined", 1, 0, messages.append)
    accelerator = Accelerator(cpu=True)
    assert rounds.regions_of(0, accelerator, tiny_model, tiny_processor, bare) == [[]] * len(bare)
    tiny_model.train()
    regions = rounds.regions_of(1, accelerator, tiny_model, tiny_processor, bare)
    assert tiny_model.training
    assert sum(map(len, regions)) > 0 and len(messages) == 1 and "assigned" in messages[0]
    assert MiningRounds(tmp_path / "mined", 1, 0).regions_of(2, accelerator, None, tiny_processor, bare) == regions


@pytest.mark.slow
def test_a_later_round_uses_the_pairs_of_the_last_one(tmp_path, tiny_model, tiny_processor, monkeypatch):
    monkeypatch.setattr(mine_rows, "MIN_PAIRS", 100)
    rows = load_dataset("pvlg", "synthetic-tiny", split="train")
    bare = with_regions(rows, [[]] * len(rows))
    accelerator = Accelerator(cpu=True)

    def second(folder, first: list) -> list:
        folder.mkdir()
        (folder / "epoch-1.json").write_text(json.dumps(first))
        return MiningRounds(folder, 1, 1, print).regions_of(2, accelerator, tiny_model, tiny_processor, bare)

    true = [[region | {"origin": "rsm"} for region in regions] for regions in rows["regions"][:]]
    without_pairs, with_pairs = second(tmp_path / "nothing", [[]] * len(rows)), second(tmp_path / "pairs", true)
    assert with_pairs != without_pairs and sum(map(len, with_pairs)) > 0


def test_a_sentence_keeps_the_number_of_its_pair_from_round_to_round(tmp_path, bare, tiny_model, tiny_processor):
    pairs = PairDataset(bare, tiny_processor)
    assert pairs.n_pairs == 0
    pairs.set_regions(pairs.regions, number_by_sentence=True)
    count = pairs.n_pairs
    assert count == sum(map(len, bare["sentences"]))
    regions = MiningRounds(tmp_path, 0, 0).regions_of(0, Accelerator(cpu=True), tiny_model, tiny_processor, bare)
    pairs.set_regions(regions, number_by_sentence=True)
    assert pairs.n_pairs == count
    numbers = [number for row_pairs in pairs.pairs for number, *_ in row_pairs]
    assert numbers == sorted(set(numbers)) and max(numbers) < count
    offset = len(bare[0]["sentences"])
    assert {number - offset for number, *_ in pairs.pairs[1]} == {region["sentence"] for region in regions[1]}


def test_before_the_first_round_no_image_is_decoded(tmp_path, bare, tiny_processor):
    class Blind:
        def __len__(self):
            return len(bare)

    assert MiningRounds(tmp_path, 2, 0).regions_of(1, Accelerator(cpu=True), None, tiny_processor, Blind()) == [
        []
    ] * len(bare)
