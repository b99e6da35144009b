import pytest
from datasets import load_dataset

import dataset_pvlg  # noqa: F401, registers "pvlg"
from dataset_pvlg.mine import fit_matching, mine_rows, with_regions


@pytest.fixture(scope="module")
def rows():
    return load_dataset("pvlg", "synthetic-tiny", split="train")


def test_without_pairs_a_judge_is_learnt_from_pictures_and_sentences_alone(rows, tiny_model, tiny_processor):
    bare = with_regions(rows, [[]] * len(rows))
    judge = fit_matching(tiny_model, tiny_processor, bare, progress=False)
    mined, counts = mine_rows(tiny_model, tiny_processor, bare, judge=judge, progress=False)
    assert counts["kept"] == 0 and counts["assigned"] > 0
    assert counts["assigned"] + counts["unassigned"] == counts["sentences"] == sum(map(len, rows["sentences"]))
    assert mined.features == rows.features
    again, counts_again = mine_rows(tiny_model, tiny_processor, mined, judge=judge, progress=False)
    assert counts_again == counts and again["regions"][:] == mined["regions"][:]


def test_given_pairs_are_learnt_from_and_stay_and_mined_ones_are_not(rows, tiny_model, tiny_processor):
    half = len(rows) // 2
    given = [regions if n < half else [] for n, regions in enumerate(rows["regions"])]
    some = with_regions(rows, given)
    judge = fit_matching(tiny_model, tiny_processor, some, progress=False)
    mined, counts = mine_rows(tiny_model, tiny_processor, some, judge=judge, progress=False)
    assert counts["kept"] == len(
        {(n, r["sentence"]) for n, regions in enumerate(given) for r in regions if r["sentence"] >= 0}
    )
    for old, new in zip(given[:half], mined["regions"][:half], strict=True):
        assert new[: len(old)] == old
        assert all(r["origin"] == "rsm" for r in new[len(old) :])
    # What was mined is no truth: the judge of the mined rows is the judge of the given ones.
    again = fit_matching(tiny_model, tiny_processor, mined, progress=False)
    assert (
        mine_rows(tiny_model, tiny_processor, some, judge=again, progress=False)[0]["regions"][:] == mined["regions"][:]
    )
