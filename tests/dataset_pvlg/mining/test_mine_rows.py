"""Mining of rows in memory: what the scorer is fitted on, and which regions are kept."""

import pytest
import torch
from datasets import load_dataset

import dataset_pvlg  # noqa: F401, registers "pvlg"
from dataset_pvlg.mining import mine_rows as module
from dataset_pvlg.mining.mine_rows import fit_matching, mine_rows, with_regions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows():
    return load_dataset("pvlg", "synthetic-tiny", split="train")


def test_without_pairs_a_scorer_is_fitted_on_images_and_sentences_only(rows, tiny_model, tiny_processor):
    bare = with_regions(rows, [[]] * len(rows))
    scorer = fit_matching(tiny_model, tiny_processor, bare, progress=False)
    mined, counts = mine_rows(tiny_model, tiny_processor, bare, scorer=scorer, progress=False)
    assert counts["kept"] == 0 and counts["assigned"] > 0
    assert counts["assigned"] + counts["unassigned"] == counts["sentences"] == sum(map(len, rows["sentences"]))
    assert mined.features == rows.features
    again, counts_again = mine_rows(tiny_model, tiny_processor, mined, scorer=scorer, progress=False)
    assert counts_again == counts and again["regions"][:] == mined["regions"][:]


def test_given_pairs_are_kept_and_used_and_mined_ones_are_not(rows, tiny_model, tiny_processor, monkeypatch):
    monkeypatch.setattr(module, "MIN_PAIRS", 100)
    half = len(rows) // 2
    given = [regions if n < half else [] for n, regions in enumerate(rows["regions"])]
    some = with_regions(rows, given)
    scorer = fit_matching(tiny_model, tiny_processor, some, progress=False)
    mined, counts = mine_rows(tiny_model, tiny_processor, some, scorer=scorer, progress=False)
    assert counts["kept"] == len(
        {(n, r["sentence"]) for n, regions in enumerate(given) for r in regions if r["sentence"] >= 0}
    )
    for old, new in zip(given[:half], mined["regions"][:half], strict=True):
        assert new[: len(old)] == old
        assert all(r["origin"] == "rsm" for r in new[len(old) :])
    # Mined pairs are not used besides given ones: the scorer of the mined rows is that of the given pairs.
    again = fit_matching(tiny_model, tiny_processor, mined, progress=False)
    assert (
        mine_rows(tiny_model, tiny_processor, some, scorer=again, progress=False)[0]["regions"][:]
        == mined["regions"][:]
    )


def test_without_given_pairs_the_scorer_is_fitted_on_those_of_the_last_round(
    rows, tiny_model, tiny_processor, monkeypatch
):
    mined = with_regions(rows, [[region | {"origin": "rsm"} for region in regions] for regions in rows["regions"][:]])
    unpaired = fit_matching(tiny_model, tiny_processor, mined, progress=False).state_dict()  # too few pairs are ignored
    monkeypatch.setattr(module, "MIN_PAIRS", 100)
    from_given, from_mined = (
        fit_matching(tiny_model, tiny_processor, each, progress=False).state_dict() for each in (rows, mined)
    )
    assert all(torch.equal(from_given[name], from_mined[name]) for name in from_given)
    assert not torch.equal(unpaired["prefer"], from_mined["prefer"])
