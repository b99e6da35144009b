"""The data card: its bounds, and the card that is in the repository."""

import json
import re
from pathlib import Path

import pytest

from dataset_pvlg.synthetic import card
from dataset_pvlg.synthetic.dataset import SyntheticConfig
from tests.helpers.commands import one_line, run_data_command

SMALL = SyntheticConfig(train_identities=4, validation_identities=1, test_identities=4, images_per_identity=2)
CONTROL = {"recall, given regions": 91.0, "look-up recall, given regions": 50.0, "epochs": 2,
    "recall": 85.0, "recall, one region": 90.0, "recall, several regions": 80.0, "pointing": 92.0, "R@1": 40.0,
           "look-up R@1": 2.0, "chance R@1": 1.0}  # fmt: skip


def test_card_is_written_whole(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(card, "SyntheticConfig", lambda: SMALL)
    out, control = tmp_path / "README.md", tmp_path / "control.json"
    control.write_text(json.dumps(CONTROL))
    run_data_command(card, ["--out", str(out), "--control", str(control), "--num-proc", "1"])
    text = out.read_text()
    assert "independent implementation" in text and "synthetic v2" in text and "| train | 4 | 8 |" in text
    assert "nan" not in text and "{" not in text.split("## Sizes")[1].replace('noise={"glued": 0.1}', "")
    assert "| 20.0 | >= 3 |" in text  # 40 / 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "control.json"]
    assert "oracle" in capsys.readouterr().out


def test_missed_bounds_are_named():
    numbers = {
        "fitted": 46.0,
        "unfitted": 20.0,
        "colour": 1.0,
        "height": 26.0,
        "oracle": 95.0,
        "false": 0,
        "recall, given regions": 79.9,
    }
    assert [line.partition(":")[0] for line in card.failures(numbers)] == ["fitted", "height", "recall, given regions"]


@pytest.mark.parametrize("content", [None, "{", "{}", "[]"])
def test_a_wrong_control_file_is_one_line(tmp_path, content):
    file = tmp_path / "control.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValueError, match="control.json") as error:
        card.read_control(file)
    assert one_line(str(error.value))


def test_the_card_in_the_repository_meets_its_bounds():
    """The bounds of the data. The positive control is a figure of a model: the card shows where it misses its bound."""
    text = (Path(card.__file__).parents[1] / "README.md").read_text().partition("| positive control |")[0]
    figures = re.findall(r"\| ([\d.]+) \| (<=|>=) ([\d.]+) \|", text)
    assert len(figures) == len(card.BOUNDS) - 3
    for value, sign, bound in figures:
        assert float(value) <= float(bound) if sign == "<=" else float(value) >= float(bound)
