"""benchmarks/speed/step.py at its smallest size: real steps, tables, and the work of each variant."""

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import CLIPModel

from benchmarks.common.random_models import configurations, random_batch
from benchmarks.speed import step


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


def test_every_target_is_checked():
    seconds = {name: [2.0, 1.0, 9.0] for name in step.VARIANTS}
    rows = step.check_targets(seconds, dict.fromkeys(step.VARIANTS, 100))
    assert [row["ratio"] for row in rows] == [1.0] * len(step.TARGETS)
    assert [row["holds"] for row in rows] == [bar >= 1 for *_, bar in step.TARGETS]
    assert step.targets_markdown(rows).count("| missed |") == 1
    assert [row["what"] for row in step.check_targets(seconds, {})] == ["seconds"] * 4


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


def test_goal_passes_images_and_crops_captions_and_sentences_twice():
    config, clip = configurations("tiny")
    model = CLIPModel(clip)
    seen = {"pixel_values": 0, "input_ids": 0}

    def count(_module: torch.nn.Module, _args: tuple, kwargs: dict) -> None:
        for name in seen:
            seen[name] += len(kwargs.get(name, ()))

    for tower in (model.vision_model, model.text_model):
        tower.register_forward_pre_hook(count, with_kwargs=True)
    step.crops_towers_twice(model, random_batch(config, 5, 3), config.patch_grid, 160).backward()
    assert seen == {"pixel_values": 4 * 5, "input_ids": 4 * 5}
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("option", ["--batch", "--rounds"])
def test_a_number_below_one_is_refused(option: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        step.main([option, "0"])
    assert f"{option} must be at least 1, not 0" in capsys.readouterr().err
