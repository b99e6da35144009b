"""The Markdown table of results."""

from modeling_rogle.evaluation.protocols import all_protocols
from modeling_rogle.evaluation.references import reference_lines
from modeling_rogle.evaluation.tables import format_table
from tests.helpers.splits import random_split


def rows_of(table: str) -> list[str]:
    lines = table.splitlines()
    assert len({line.count("|") for line in lines}) == 1
    return [line.split("|")[1].strip() for line in lines[2:]]


def test_the_tables_are_markdown() -> None:
    split = random_split(6)
    results = all_protocols(split, local_weight=0.2)
    for name, line in reference_lines(split, ["a red coat"] * 18).items():
        results |= {f"{name}/{metric}": value for metric, value in line.scores().items()}
    binary, graded, note = format_table(results).split("\n\n")
    captions = ["global/long", "global/short"]
    fused = [f"global+local/{kind}" for kind in ("long", "short")]
    names = [name + end for pair in zip(captions, fused, strict=True) for name in pair for end in ("", "/i2t")]
    assert rows_of(binary) == [*names, "local-strict", "joint/caption"]
    assert rows_of(graded) == ["local", "joint/sentence", "local/random", "local/look-up"]
    assert f"{results['local/positives']:.0f} relevant items (local)" in note


def test_intervals_are_printed_behind_their_figures() -> None:
    results = {"global/long/R@1": 50.0, "global/long/mAP": 40.0, "global/long/queries": 8}
    line = format_table(results, {"global/long": {"R@1": (41.234, 58.9)}}, protocols=()).splitlines()[-1]
    assert "| 50.00 [41.2, 58.9] |" in line and "| 40.00 |" in line
