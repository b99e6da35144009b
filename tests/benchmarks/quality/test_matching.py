"""benchmarks/quality/matching.py: recall of the proposals, and the table on tiny data."""

import numpy as np
import pytest
from datasets import Dataset, load_dataset

import dataset_pvlg  # noqa: F401, registers "pvlg"
from benchmarks.quality.matching import main, proposal_recall
from modeling_rogle.matching.mining import propose_anchors


@pytest.fixture(scope="module")
def rows() -> Dataset:
    return load_dataset("pvlg", "synthetic-tiny", split="validation")


def paired(row: dict) -> list[dict]:
    return [region for region in row["regions"] if region["sentence"] >= 0]


def test_proposal_recall_counts_regions_only():
    # The anchors fit version 1 of the synthetic set.
    sizes = {"train_identities": 0, "validation_identities": 2, "test_identities": 0, "images_per_identity": 2}
    some = load_dataset("pvlg", "synthetic-v1", split="validation", **sizes)

    def propose_ground_truth(image: object, texts: list[str]) -> object:
        row = by_texts[tuple(texts)]
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (region["bbox"] for region in paired(row))]
        size = np.array([row["width"], row["height"]] * 2)
        anchors = propose_anchors(image, texts)
        return type(anchors)(np.concatenate([boxes / size, anchors.boxes[-1:]]).astype(np.float32), ())

    by_texts = {tuple(s["text"] for s in row["sentences"]): row for row in some.select([0])}
    assert proposal_recall(some.select([0]), propose_ground_truth)[0] == 100
    best, boxes = proposal_recall(some, propose_anchors)
    assert 50 < best <= 100 and boxes == 49
    with_nothing = propose_anchors(None, [])
    assert proposal_recall(some, lambda *_: type(with_nothing)(with_nothing.boxes[[5, -1]], ()))[0] < best


def test_the_table_has_a_row_for_each_scorer(tiny_checkpoint, tmp_path, capsys):
    out = tmp_path / "table.md"
    model, options = str(tiny_checkpoint), ["--dataset", "synthetic-tiny", "--rows", "2"]
    mined = tmp_path / "mined" / "data"
    mined.mkdir(parents=True)
    load_dataset("pvlg", "synthetic-tiny", split="train").to_parquet(mined / "train-00000-of-00001.parquet")
    options += ["--mined-model", model, "--mined-rows", str(mined.parent), "--ground-truth-model", model]
    main(["--global-model", model, "--proposer", "anchors", *options, "--out", str(out)])
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
        ("ground-truth pairs", "cosine"),
        ("ground-truth pairs", "matcher of ground-truth pairs"),
    ]
    for line in lines:
        assert all(0 <= float(cell) <= 100 for cell in line.split("|")[3:6])
    assert "proposer anchors: 49 candidates" in out.read_text() and lines[0] in capsys.readouterr().out
