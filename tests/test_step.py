"""benchmarks/step.py at its smallest: real steps, a table, and what the variants compute."""

import argparse
import re
from pathlib import Path

import pytest
import step
import torch

from modeling_rogle import RogleModel


def test_table_of_every_variant(capsys: pytest.CaptureFixture[str]):
    command = ["--size", "tiny", "--batch", "5", "--pairs", "2", "--rounds", "2", "--no-memory"]
    seconds = step.main(command)
    assert list(seconds) == list(step.VARIANTS)
    assert all(len(values) == 2 and min(values) > 0 for values in seconds.values())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "`python benchmarks/step.py " + " ".join(command) + "`"
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[4:]] == list(step.VARIANTS)
    assert all(re.search(r"\| \d+\.\d{3} \| \d+\.\d\d \(\d+\.\d\d to \d+\.\d\d\) \| - \| - \|$", x) for x in lines[4:])
    assert "| 1.00 (1.00 to 1.00) |" in lines[4]


def test_ratios_are_of_medians_and_memory_of_the_first():
    seconds = {"off": [1.0, 2.0, 3.0], "on": [3.0, 3.0, 3.0]}
    table = step.markdown(seconds, {"off": 2**20, "on": 3 * 2**20}, "command")
    assert table.splitlines()[-1] == "| on | 3.000 | 1.50 (1.00 to 3.00) | 3 MiB | 3.00 |"


def test_memory_is_measured_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    args = argparse.Namespace(size="tiny", batch=5, pairs=2, threads=1)
    assert 2**20 < step.measure_memory("rogle, local on", args) < 2**30


def test_variants_train_and_the_local_branch_is_what_differs():
    losses = {name: step.make_step(name, "tiny", 5, 2)() for name in step.VARIANTS}
    assert all(torch.tensor(loss).isfinite() for loss in losses.values())
    assert losses["rogle, local on"] > losses["rogle, local off"]
    # Padding costs time and changes nothing.
    assert losses["clip, padded"] == pytest.approx(losses["clip, longest"], abs=1e-5)
    train = step.make_step("rogle, local on", "tiny", 5, 2)
    first = train()
    assert [train() for _ in range(5)][-1] < first


def test_the_batch_is_what_the_docstring_says():
    config, _ = step.configurations("tiny")
    batch = step.random_batch(config, 10, 3)
    assert batch["boxes"].shape == (30, 4) and (batch["boxes"][:, 2:] > batch["boxes"][:, :2]).all()
    lengths = (batch["input_ids"] == step.END).int().argmax(1) + 1
    assert sum(85 <= length <= 155 for length in lengths.tolist()) == 6
    assert sum(20 <= length <= 40 for length in lengths.tolist()) == 4
    sentences = (batch["sentence_input_ids"] == step.END).int().argmax(1) + 1
    assert sentences.min() >= 8 and sentences.max() <= 25
    torch.manual_seed(0)
    output = RogleModel(config)(**batch, return_loss=True)
    assert output.loss_local > 0 and output.loss_tsl_text > 0
    again = step.random_batch(config, 10, 3)
    assert all(torch.equal(batch[name], again[name]) for name in batch)


@pytest.mark.parametrize("option", ["--batch", "--rounds"])
def test_a_number_below_one_is_refused(option: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        step.main([option, "0"])
    assert f"{option} must be at least 1, not 0" in capsys.readouterr().err
