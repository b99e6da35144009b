"""benchmarks/speed/step.py at its smallest: real steps, a table, and what the variants compute."""

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import CLIPModel

from benchmarks.speed import step
from modeling_rogle import RogleModel


def test_tables_of_every_variant(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    out = tmp_path / "made" / "step.json"
    command = ["--size", "tiny", "--batch", "4", "--pairs", "2", "--rounds", "2", "--no-memory", "--out", str(out)]
    seconds = step.main(command)
    assert list(seconds) == list(step.VARIANTS)
    assert all(len(values) == 2 and min(values) > 0 for values in seconds.values())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "`python -m benchmarks.speed.step " + " ".join(command) + "`"
    table = lines[4 : 4 + len(step.VARIANTS)]
    assert [line.split(" | ")[0].removeprefix("| ") for line in table] == list(step.VARIANTS)
    assert all(re.search(r"\| \d+\.\d{3} \| \d+\.\d\d \(\d+\.\d\d to \d+\.\d\d\) \| - \| - \|$", x) for x in table)
    assert "| 1.00 (1.00 to 1.00) |" in table[0]
    written = json.loads(out.read_text())
    assert written["seconds"] == seconds and written["memory_bytes"] == {}
    assert len(written["bars"]) == 4 and lines[-1].startswith(written["machine"])


def test_ratios_are_of_medians_and_memory_of_the_first():
    seconds = {"off": [1.0, 2.0, 3.0], "on": [3.0, 3.0, 3.0]}
    table = step.markdown(seconds, {"off": 2**20, "on": 3 * 2**20}, "command")
    assert table.splitlines()[-1] == "| on | 3.000 | 1.50 (1.00 to 3.00) | 3 MiB | 3.00 |"


def test_every_bar_is_compared():
    seconds = {name: [2.0, 1.0, 9.0] for name in step.VARIANTS}
    rows = step.against_bars(seconds, dict.fromkeys(step.VARIANTS, 100))
    assert [row["ratio"] for row in rows] == [1.0] * len(step.BARS)
    assert [row["holds"] for row in rows] == [bar >= 1 for *_, bar in step.BARS]
    assert step.bars_markdown(rows).count("| missed |") == 1
    assert [row["what"] for row in step.against_bars(seconds, {})] == ["seconds"] * 4


def test_memory_is_measured_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    assert 2**20 < step.measure_memory("rogle, full", ["--size", "tiny", "--batch", "4"]) < 2**30


def test_variants_train_and_the_work_is_what_differs():
    losses = {name: step.make_steps([name], "tiny", 4, 2)[name]() for name in step.VARIANTS}
    assert all(torch.tensor(loss).isfinite() for loss in losses.values())
    # Padding and the optimizer cost time and do not change the loss.
    assert losses["clip, padded"] == pytest.approx(losses["clip, padded, fused"], abs=1e-6)
    assert losses["clip, padded"] == pytest.approx(losses["clip, longest, fused"], abs=1e-5)
    assert losses["rogle, full"] > losses["rogle, global only"]
    assert losses["crops, towers twice"] > losses["clip, padded"]
    train = step.make_steps(["rogle, full"], "tiny", 4, 2)["rogle, full"]
    first = train()
    assert [train() for _ in range(5)][-1] < first


def test_the_relative_walks_each_tower_twice_over_wholes_and_parts():
    config, clip = step.configurations("tiny")
    model = CLIPModel(clip)
    seen = {"pixel_values": 0, "input_ids": 0}

    def count(_module: torch.nn.Module, _args: tuple, kwargs: dict) -> None:
        for name in seen:
            seen[name] += len(kwargs.get(name, ()))

    for tower in (model.vision_model, model.text_model):
        tower.register_forward_pre_hook(count, with_kwargs=True)
    step.crops_towers_twice(model, step.random_batch(config, 5, 3), config.patch_grid, 160).backward()
    assert seen == {"pixel_values": 4 * 5, "input_ids": 4 * 5}
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_batch_is_what_the_docstring_says():
    config, _ = step.configurations("tiny")
    batch = step.random_batch(config, 10)
    assert (batch["boxes"][:, 2:] > batch["boxes"][:, :2]).all()
    lengths = (batch["input_ids"] == step.END).int().argmax(1) + 1
    assert lengths.min() >= 85 and lengths.max() <= 155
    counts = batch["box_image"].bincount()
    assert counts.min() >= 6 and counts.max() <= 9
    # The sentences, laid end to end, are the caption.
    ends = (batch["sentence_input_ids"] == step.END).int().argmax(1)
    for image in range(10):
        rows = (batch["box_image"] == image).nonzero()[:, 0].tolist()
        words = torch.cat([batch["sentence_input_ids"][row, 1 : ends[row]] for row in rows])
        assert torch.equal(words, batch["input_ids"][image, 1 : lengths[image] - 1])
        start, stop = batch["sentence_spans"][rows[1]].tolist()
        assert torch.equal(
            batch["input_ids"][image, start:stop], batch["sentence_input_ids"][rows[1], 1 : ends[rows[1]]]
        )
    torch.manual_seed(0)
    output = RogleModel(config)(**batch, return_loss=True)
    assert output.loss_local > 0 and output.loss_tsl_text > 0
    again = step.random_batch(config, 10)
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    assert step.random_batch(config, 10, 3)["boxes"].shape == (30, 4)


@pytest.mark.parametrize("option", ["--batch", "--rounds"])
def test_a_number_below_one_is_refused(option: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        step.main([option, "0"])
    assert f"{option} must be at least 1, not 0" in capsys.readouterr().err
