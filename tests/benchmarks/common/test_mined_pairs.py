"""Scores of mined pairs against the ground truth."""

import pytest
from datasets import Dataset, load_dataset

import dataset_pvlg  # noqa: F401, registers "pvlg"
from benchmarks.common.mined_pairs import score_mined_pairs
from dataset_pvlg.features import FEATURES


@pytest.fixture(scope="module")
def rows() -> Dataset:
    return load_dataset("pvlg", "synthetic-tiny", split="validation")


def paired(row: dict) -> list[dict]:
    return [region for region in row["regions"] if region["sentence"] >= 0]


def test_the_ground_truth_has_full_scores_and_no_pair_has_recall_zero(rows):
    truth = [paired(row) for row in rows.remove_columns("image")]
    assert score_mined_pairs(rows, truth) == {"precision": 100.0, "recall": 100.0, "none_f1": 100.0}
    nothing = score_mined_pairs(rows, [[] for _ in truth])
    sentences, true = sum(map(len, rows["sentences"])), sum(len({r["sentence"] for r in each}) for each in truth)
    silent = sentences - true
    assert nothing["recall"] == 0 and nothing["none_f1"] == pytest.approx(200 * silent / (sentences + silent))


def test_every_region_of_a_sentence_counts(rows):
    row = rows.remove_columns("image")[0]
    first, second = list({tuple(region["bbox"]): region for region in paired(row)}.values())[:2]
    truth = [first | {"sentence": 0}, second | {"sentence": 0}, first | {"sentence": 1}]
    several = rows.select([0]).remove_columns("regions").add_column("regions", [truth], feature=FEATURES["regions"])
    scores = score_mined_pairs(several, [[second | {"sentence": 0}]])
    assert scores["precision"] == 100 and scores["recall"] == pytest.approx(100 / 3)
    assert score_mined_pairs(several, [truth])["recall"] == 100


def test_a_wrong_pair_lowers_precision_and_a_missing_one_recall(rows):
    row = rows.remove_columns("image")[0]
    truth = list({region["sentence"]: region for region in paired(row)}.values())[:2]
    one = rows.select([0]).remove_columns("regions").add_column("regions", [truth], feature=FEATURES["regions"])
    x, y, w, h = truth[0]["bbox"]
    wrong = truth[0] | {"bbox": [x, y, w / 3, h]}  # IoU 1/3 with the true box
    scores = score_mined_pairs(one, [[wrong, truth[1]]])
    assert scores["precision"] == scores["recall"] == pytest.approx(50) and scores["none_f1"] == pytest.approx(100)
    scores = score_mined_pairs(one, [[truth[1]]])
    assert scores["precision"] == 100 and scores["recall"] == pytest.approx(50) and scores["none_f1"] < 100
