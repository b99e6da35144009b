"""The Markdown table of results."""

from modeling_rogle.evaluation.protocols import both_protocols
from modeling_rogle.evaluation.tables import format_table
from tests.helpers.splits import random_split


def test_the_table_is_markdown() -> None:
    lines = format_table(both_protocols(random_split(6), local_weight=0.2)).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    names = [line.split("|")[1].strip() for line in lines[2:]]
    assert names == [
        "global/long",
        "global/long/i2t",
        "global+local/long",
        "global+local/long/i2t",
        "global/short",
        "global/short/i2t",
        "global+local/short",
        "global+local/short/i2t",
        "local",
    ]


def test_intervals_are_printed_behind_their_figures() -> None:
    results = {"global/long/R@1": 50.0, "global/long/mAP": 40.0, "global/long/queries": 8}
    line = format_table(results, {"global/long": {"R@1": (41.234, 58.9)}}, protocols=()).splitlines()[-1]
    assert "| 50.00 [41.2, 58.9] |" in line and "| 40.00 |" in line
