"""benchmarks/quality/matching.py: what it counts, and its table on tiny data."""

import numpy as np
import pytest
from datasets import Dataset, load_dataset

import dataset_pvlg  # noqa: F401, registers "pvlg"
from benchmarks.quality.matching import ceiling, compare, main
from dataset_pvlg.features import FEATURES
from modeling_rogle.matching.mining import propose_anchors


@pytest.fixture(scope="module")
def rows() -> Dataset:
    return load_dataset("pvlg", "synthetic-tiny", split="validation")


def paired(row: dict) -> list[dict]:
    return [region for region in row["regions"] if region["sentence"] >= 0]


def test_the_truth_is_right_and_nothing_is_not(rows):
    truth = [paired(row) for row in rows.remove_columns("image")]
    assert compare(rows, truth) == {"precision": 100.0, "recall": 100.0, "none_f1": 100.0}
    nothing = compare(rows, [[] for _ in truth])
    sentences, true = sum(map(len, rows["sentences"])), sum(len({r["sentence"] for r in each}) for each in truth)
    silent = sentences - true
    assert nothing["recall"] == 0 and nothing["none_f1"] == pytest.approx(200 * silent / (sentences + silent))


def test_half_of_the_pairs_wrong_halves_precision_and_one_left_out_costs_recall(rows):
    row = rows.remove_columns("image")[0]
    truth = list({region["sentence"]: region for region in paired(row)}.values())[:2]
    one = rows.select([0]).remove_columns("regions").add_column("regions", [truth], feature=FEATURES["regions"])
    x, y, w, h = truth[0]["bbox"]
    wrong = truth[0] | {"bbox": [x, y, w / 3, h]}  # IoU 1/3 with the true box
    found = compare(one, [[wrong, truth[1]]])
    assert found["precision"] == found["recall"] == pytest.approx(50) and found["none_f1"] == pytest.approx(100)
    found = compare(one, [[truth[1]]])
    assert found["precision"] == 100 and found["recall"] == pytest.approx(50) and found["none_f1"] < 100


def test_the_ceiling_is_of_the_regions_alone(rows):
    some = rows.select(range(4))

    def cheat(image: object, texts: list[str]) -> object:
        row = by_texts[tuple(texts)]
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (region["bbox"] for region in paired(row))]
        size = np.array([row["width"], row["height"]] * 2)
        found = propose_anchors(image, texts)
        return type(found)(np.concatenate([boxes / size, found.boxes[-1:]]).astype(np.float32), ())

    by_texts = {tuple(s["text"] for s in row["sentences"]): row for row in some.select([0])}
    assert ceiling(some.select([0]), cheat)[0] == 100
    best, boxes = ceiling(some, propose_anchors)
    assert 50 < best <= 100 and boxes == 49
    with_nothing = propose_anchors(None, [])
    assert ceiling(some, lambda *_: type(with_nothing)(with_nothing.boxes[[5, -1]], ()))[0] < best


def test_the_table_has_a_row_for_each_scorer(tiny_checkpoint, tmp_path, capsys):
    out = tmp_path / "table.md"
    model, options = str(tiny_checkpoint), ["--dataset", "synthetic-tiny", "--rows", "2"]
    mined = tmp_path / "mined" / "data"
    mined.mkdir(parents=True)
    load_dataset("pvlg", "synthetic-tiny", split="train").to_parquet(mined / "train-00000-of-00001.parquet")
    options += ["--mined-model", model, "--mined-rows", str(mined.parent), "--true-model", model]
    main(["--global-model", model, "--proposer", "places", *options, "--out", str(out)])
    lines = [line for line in out.read_text().splitlines() if line.startswith("| ")][1:]
    names = [tuple(cell.strip() for cell in line.split("|")[1:3]) for line in lines]
    assert names == [
        ("global", "cosine"),
        ("global", "position prior"),
        ("global", "matcher of the prior's pairs"),
        ("mined pairs", "cosine"),
        ("mined pairs", "position prior"),
        ("mined pairs", "matcher of the prior's pairs"),
        ("mined pairs", "matcher of the first round's pairs"),
        ("true pairs", "cosine"),
        ("true pairs", "matcher of true pairs"),
    ]
    for line in lines:
        assert all(0 <= float(cell) <= 100 for cell in line.split("|")[3:6])
    assert "proposer places: 49 candidates" in out.read_text() and lines[0] in capsys.readouterr().out
