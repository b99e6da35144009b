"""Scores by group: the groups that the rows' own words and labels make, and the figures against plain counts."""

import numpy as np
import pytest

from dataset_pvlg.loading import load_rows
from eval.breakdown import breakdown, breakdown_table, garments_named, groups_of_queries, length_group
from modeling_rogle.evaluation.protocols import RankedQueries
from modeling_rogle.metrics.ranks import Ranking


def row(sentences: list[str], regions: list[tuple[str, int]], captions: list[str]) -> dict:
    return {
        "caption": " ".join(sentences),
        "captions": captions,
        "sentences": [{"text": text} for text in sentences],
        "regions": [{"label": label, "sentence": sentence} for label, sentence in regions],
    }


ROWS = [
    row(
        ["He wears a red hooded sweatshirt.", "His gray trousers are long.", "He is walking."],
        [("upper body", 0), ("lower body", 1), ("head", -1)],
        ["A man in red."],
    ),
    row([], [], ["A person.", "Someone " * 30]),
    row(["She has white tennis shoes."], [("feet", 0)], []),
]


def ranked(kind: str, ranks: list[int]) -> RankedQueries:
    first = np.array(ranks)
    precision = np.divide(1.0, first, out=np.zeros(len(first)), where=first > 0)
    at = np.arange(len(first))
    found = (first > 0).astype(np.int64)
    ranking = Ranking(first, precision, precision, found, precision, precision, np.full(len(first), 9))
    return RankedQueries(ranking, kind, at, at, at, 9)


def test_groups_come_from_labels_and_words_of_paired_sentences() -> None:
    groups = groups_of_queries(ROWS)
    assert [len(groups[kind]) for kind in ("long", "short", "sentence")] == [2, 3, 4]
    assert groups["long"][0] == {
        ("caption words", "1-20"),
        ("colour", "red"),
        ("colour", "grey"),
        ("region", "upper body"),
        ("upper body colour", "red"),
        ("upper body kind", "hoodie"),
        ("region", "lower body"),
        ("lower body colour", "grey"),
        ("lower body kind", "pants"),
    }
    assert groups["sentence"][2] == {("sentence words", "1-5")}  # paired with nothing
    assert ("feet kind", "sneakers") in groups["sentence"][3]
    assert [group for group in groups["short"][2]] == [("caption words", "21-40")]


def test_the_colours_of_a_sentence_about_several_parts_belong_to_no_part() -> None:
    both = row(["A red jacket and blue jeans."], [("upper body", 0), ("lower body", 0)], [])
    (groups,) = groups_of_queries([both])["sentence"]
    assert groups == {("sentence words", "6-8"), ("region", "upper body"), ("region", "lower body")}


def test_longer_names_win() -> None:
    assert garments_named("A tee shirt, tennis shoes and a hooded sweatshirt") == ["hoodie", "sneakers", "t-shirt"]
    assert garments_named("the booking of a coatrack") == []


@pytest.mark.parametrize(
    ("words", "group"), [(1, "1-20"), (20, "1-20"), (21, "21-40"), (160, "121-160"), (161, "over 160")]
)
def test_lengths_fall_in_one_step(words: int, group: str) -> None:
    assert length_group("word " * words, "caption") == ("caption words", group)


def test_figures_equal_plain_counts_and_dropped_queries_count_nowhere() -> None:
    entries = breakdown({"local": ranked("sentence", [1, 4, 0, 2])}, groups_of_queries(ROWS))
    found = {(entry["attribute"], entry["group"]): entry for entry in entries}
    assert found["region", "lower body"] | {"queries": 1, "R@1": 0.0, "mAP": 25.0} == found["region", "lower body"]
    short = found["sentence words", "1-5"]  # of three such sentences the dropped one is no part
    assert (short["queries"], short["R@1"], short["mAP"]) == (2, 0.0, pytest.approx(100 * (1 / 4 + 1 / 2) / 2))
    assert found["upper body kind", "hoodie"]["R@1"] == 100
    assert sum(entry["queries"] for entry in entries if entry["attribute"] == "region") == 3


def test_lines_of_other_queries_are_left_out() -> None:
    groups = groups_of_queries(ROWS)
    assert breakdown({"i2t": ranked("image", [1, 2, 3])}, groups) == []


def test_synthetic_rows_are_grouped_by_garment_colour_and_length() -> None:
    rows = load_rows("synthetic-tiny")[0]["test"].remove_columns("image")
    groups = groups_of_queries(rows)
    n = len(groups["long"])
    entries = breakdown({"global/long": ranked("long", list(range(1, n + 1)))}, groups)
    attributes = {entry["attribute"] for entry in entries}
    assert {"caption words", "upper body kind", "upper body colour", "lower body kind", "feet colour"} <= attributes
    lengths = [entry for entry in entries if entry["attribute"] == "caption words"]
    assert sum(entry["queries"] for entry in lengths) == n
    starts = [int(entry["group"].removeprefix("over ").split("-")[0]) for entry in lengths]
    assert starts == sorted(starts)
    kinds = [entry["R@1"] for entry in entries if entry["attribute"] == "upper body kind"]
    assert kinds == sorted(kinds)
    lines = breakdown_table(entries).splitlines()
    assert len(lines) == len(entries) + 2 and len({line.count("|") for line in lines}) == 1
