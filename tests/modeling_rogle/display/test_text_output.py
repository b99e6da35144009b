"""Results as JSON data and as a table, with the verdict of a calibrated search."""

import json
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from modeling_rogle.display.text_output import format_table, to_json_data, verdict
from modeling_rogle.search.results import Match, Matches, SentenceMatch


def result(rank: int, moved: int | None = None, probability: float | None = None, **facts) -> Match:
    sentence = SentenceMatch("A red\ncoat.", 0, 11, "upper body", (1.0, 2.0, 3.0, 4.0), 0.7, moved)
    path = f"c3/{rank}\n.png"
    return Match(
        rank, path, Path("/images", path), 0.5, 0.4, 20, 60, (sentence,), metadata=facts, probability=probability
    )


def test_everything_becomes_json():
    facts = {"time": datetime(2024, 5, 1, 9, tzinfo=UTC), "day": date(2024, 5, 1), "tags": ["a"], "camera": None}
    facts |= {"speed": float("inf"), "heat": float("nan")}
    plain = json.loads(json.dumps(to_json_data(Matches([result(1, **facts)]))))
    assert plain["no_match"] is None and plain["false_alarm_rate"] is None
    (only,) = plain["results"]
    times = {"time": "2024-05-01T09:00:00+00:00", "day": "2024-05-01"}
    assert only["metadata"] == {**times, "tags": ["a"], "camera": None, "speed": None, "heat": None}
    assert only["sentences"][0]["box"] == [1.0, 2.0, 3.0, 4.0] and only["file"] == "/images/c3/1\n.png"


def test_the_table_has_one_line_per_result():
    table = format_table(Matches([result(1, moved=2), result(2, moved=-1), result(3, moved=0)]))
    lines = table.splitlines()
    assert lines[:2] == ["[1] A red coat.", ""] and len(lines) == 6
    assert lines[3].endswith("c3/1\\n.png  [1] upper body (+2)") and lines[4].endswith("[1] upper body (-1)")
    assert lines[5].endswith("[1] upper body") and "prob" not in table


def test_control_characters_of_a_path_are_escaped():
    lines = format_table(Matches([replace(result(1), path="a\x1b[2J\nb.jpg")])).splitlines()
    assert len(lines) == 4 and r"a\x1b[2J\nb.jpg" in lines[3] and "\x1b" not in lines[3]


def test_probabilities_and_no_match():
    matches = Matches([result(1, probability=0.034), result(2, probability=0.01)])
    matches.no_match, matches.false_alarm_rate = False, 0.1
    assert verdict(matches) is None and " 3.4%  c3/1" in format_table(matches)
    table = format_table(Matches([result(1, probability=0.034), result(2)])).splitlines()  # beyond late interaction
    assert table[-1].index("c3/2") == table[-2].index("c3/1")
    matches.no_match = True
    assert verdict(matches).startswith("No match found") and "10 % false-alarm rate" in verdict(matches)
    assert verdict(matches) in format_table(matches)
    assert to_json_data(matches)["no_match"] is True


@pytest.mark.parametrize("show", [verdict, format_table])
def test_no_result(show):
    assert "filter" in show(Matches())
