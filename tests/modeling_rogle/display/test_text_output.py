"""What a search answers: data that JSON takes, a table that shows the same, a verdict where there is one."""

import json
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from modeling_rogle.display.text_output import as_plain, as_table, verdict
from modeling_rogle.search.gallery import Match, Matches, SentenceMatch


def found(rank: int, moved: int | None = None, probability: float | None = None, **facts) -> Match:
    said = SentenceMatch("A red\ncoat.", 0, 11, "upper body", (1.0, 2.0, 3.0, 4.0), 0.7, moved)
    path = f"c3/{rank}\n.png"
    return Match(
        rank, path, Path("/pictures", path), 0.5, 0.4, 20, 60, (said,), metadata=facts, probability=probability
    )


def test_everything_becomes_json():
    facts = {"time": datetime(2024, 5, 1, 9, tzinfo=UTC), "day": date(2024, 5, 1), "tags": ["a"], "camera": None}
    facts |= {"speed": float("inf"), "heat": float("nan")}
    plain = json.loads(json.dumps(as_plain(Matches([found(1, **facts)]))))
    assert plain["nobody"] is None and plain["false_alarm_rate"] is None
    (result,) = plain["results"]
    times = {"time": "2024-05-01T09:00:00+00:00", "day": "2024-05-01"}
    assert result["metadata"] == {**times, "tags": ["a"], "camera": None, "speed": None, "heat": None}
    assert result["sentences"][0]["box"] == [1.0, 2.0, 3.0, 4.0] and result["file"] == "/pictures/c3/1\n.png"


def test_the_table_has_one_line_a_result():
    table = as_table(Matches([found(1, moved=2), found(2, moved=-1), found(3, moved=0)]))
    lines = table.splitlines()
    assert lines[:2] == ["[1] A red coat.", ""] and len(lines) == 6
    assert lines[3].endswith("c3/1\\n.png  [1] upper body (+2)") and lines[4].endswith("[1] upper body (-1)")
    assert lines[5].endswith("[1] upper body") and "prob" not in table


def test_probabilities_and_nobody():
    matches = Matches([found(1, probability=0.034), found(2, probability=0.01)])
    matches.nobody, matches.false_alarm_rate = False, 0.1
    assert verdict(matches) is None and " 3.4%  c3/1" in as_table(matches)
    table = as_table(Matches([found(1, probability=0.034), found(2)])).splitlines()  # beyond late interaction
    assert table[-1].index("c3/2") == table[-2].index("c3/1")
    matches.nobody = True
    assert verdict(matches).startswith("nobody here matches (") and " 10% of those for absent people" in verdict(
        matches
    )
    assert verdict(matches) in as_table(matches)
    assert as_plain(matches)["nobody"] is True


@pytest.mark.parametrize("show", [verdict, as_table])
def test_no_result(show):
    assert show(Matches()) == "no image passes the filter"
