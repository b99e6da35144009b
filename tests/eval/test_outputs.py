"""The files of an evaluation, read back."""

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from eval.outputs import query_table, texts_of_queries, write_outputs, write_text
from modeling_rogle.evaluation.protocols import ranked_queries
from tests.helpers.splits import random_split

REPORT = {
    "command": "python eval/eval.py --model runs/x",
    "protocol": 2,
    "relevance": "facts",
    "look_up": "words and boxes of train",
    "model": "runs/x",
    "checkpoint_sha256": "c" * 64,
    "dataset": "synthetic-tiny",
    "dataset_fingerprint": "d" * 64,
    "split": "test",
    "rows": 6,
    "identities": 3,
    "protocols": ["global", "local"],
    "local_weight": 0.15,
    "weight_from": "the checkpoint's",
    "ties": "pessimistic",
    "code": "a" * 40,
    "dropped": {"local": {"queries": 4, "why": "are true of no region"}},
    "results": {"global/long/R@1": 41.25, "global/long/queries": 6, "local/R@1": 3.5, "local/queries": 2},
    "bootstrap": {"draws": 1000, "seed": 0, "over": "identities of the queries"},
    "intervals": {"global/long": {"R@1": [30.0, 52.5]}},
    "breakdown": [
        {"protocol": "global/long", "attribute": "colour", "group": "red", "queries": 2, "R@1": 50.0, "mAP": 60.0}
    ],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = ranked_queries(random_split(6), 0.2)
    texts = {"long": [f"long {n}" for n in range(6)], "short": ["s"] * 6, "sentence": [f"part {n}" for n in range(18)]}
    write_outputs(tmp_path / "deep/out", REPORT, query_table(lines, [f"image {n}" for n in range(6)], texts))
    return tmp_path / "deep/out"


def test_all_files_are_written_and_no_unfinished_ones(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        "results.json",
        "results.csv",
        "results.md",
        "queries.parquet",
    }
    assert json.loads((folder / "results.json").read_text()) == REPORT


def test_every_row_of_the_csv_has_its_provenance(folder: Path) -> None:
    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert {f"{row['protocol']}/{row['metric']}": float(row["value"]) for row in rows} == REPORT["results"]
    assert {row["protocol_version"] for row in rows} == {"2"}
    first = rows[0]
    assert (first["low"], first["high"], first["split"], first["ties"]) == ("30.0", "52.5", "test", "pessimistic")
    assert (rows[2]["low"], rows[2]["checkpoint_sha256"]) == ("", "c" * 64)


def test_the_page_lists_provenance_and_settings(folder: Path) -> None:
    page = (folder / "results.md").read_text()
    for text in ("c" * 64, "d" * 64, "a" * 40, "split test", "pessimistic", "0.15", "[30.0, 52.5]", "| colour | red |"):
        assert text in page, text
    assert "local: 4 queries are true of no region" in page


def test_each_query_has_its_row(folder: Path) -> None:
    split = random_split(6)
    lines = ranked_queries(split, 0.2)
    table = pq.read_table(folder / "queries.parquet")
    counted = {line["protocol"]: line for line in table.group_by("protocol").aggregate([([], "count_all")]).to_pylist()}
    assert {name: entry["count_all"] for name, entry in counted.items()} == {
        name: len(line.image) for name, line in lines.items()
    }
    rows = [row for row in table.to_pylist() if row["protocol"] == "local-strict"]
    for n, row in enumerate(rows):
        assert (row["text"], row["image_id"], row["person_id"]) == (f"part {n}", f"image {n // 3}", n // 6)
        dropped = int(split.sentence_region[n]) < 0
        assert (row["first_rank"] is None) == (row["average_precision"] is None) == dropped
        assert row["positives"] == (0 if dropped else 1)
    assert {row["text"] for row in table.to_pylist() if row["protocol"] == "global/long/i2t"} == {None}


def test_texts_are_in_the_order_of_the_queries() -> None:
    rows = [
        {"caption": "One. Two.", "captions": ["a", "b"], "sentences": [{"text": "One."}, {"text": "Two."}]},
        {"caption": "", "captions": ["c"], "sentences": [{"text": "not asked"}]},
    ]
    assert texts_of_queries(rows) == {"long": ["One. Two."], "short": ["a", "b", "c"], "sentence": ["One.", "Two."]}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.md", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.md", "new \ud800")
    assert (tmp_path / "a.md").read_text() == "old" and len(list(tmp_path.iterdir())) == 1
