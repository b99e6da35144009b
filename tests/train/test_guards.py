"""Faults that a run survives: its message, and what the run does."""

import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from dataset_pvlg.loading import load_rows
from modeling_rogle import RogleModel, RogleProcessor
from tests.helpers.processes import in_processes
from train import train, trainer
from train.data.pairs import PairDataset
from train.guards import BadImages, batches


def flags(model: Path, out: Path, *more: str) -> list[str]:
    given = ["--dataset", "synthetic-tiny", "--model", str(model), "--out", str(out), "--trackers", "none"]
    return [*given, "--epochs", "1", "--batch-size", "8", "--threads", "1", *more]


@pytest.mark.slow
def test_a_broken_image_in_the_middle_of_an_epoch(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    read = PairDataset._image

    def image(self: PairDataset, index: int) -> np.ndarray:
        if index in (5, 6, 30):
            raise OSError("image file is truncated (7 bytes not processed)")
        return read(self, index)

    monkeypatch.setattr(PairDataset, "_image", image)
    train.main(flags(tiny_checkpoint, tmp_path / "run"))
    named = json.loads((tmp_path / "run" / "bad_images.json").read_text())
    assert len(named) == 3 and all("image file is truncated" in fault for fault in named.values())
    output = capsys.readouterr().out
    assert output.count("image file is truncated") == 3
    with pytest.raises(SystemExit, match="images cannot be read: .*bad_images.json"):
        train.main(flags(tiny_checkpoint, tmp_path / "two", "--max-bad-images", "2"))


def test_an_undecodable_image_is_replaced_by_the_next_row(tiny_processor: RogleProcessor, tmp_path: Path) -> None:
    rows = load_rows("synthetic-tiny")[0]["train"].select(range(4))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    broken = rows.to_list()
    broken[1]["image"] = {"path": str(tmp_path / "broken.png"), "bytes": None}
    pairs = PairDataset(type(rows).from_list(broken, features=rows.features), tiny_processor)
    item = pairs[1]
    assert item.row == 2 and list(item.faults) == [pairs.image_ids[1]]
    assert pairs[2].faults == {}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_with_nan_is_skipped_counted_and_reported(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    step, calls = trainer.forward_step, []

    def forward_step(accelerator, model, *args):
        output, backward = step(accelerator, model, *args)
        calls.append(1)
        if len(calls) in (2, 3):
            if what == "loss":
                output.loss = output.loss * float("nan")
            else:
                real_backward = backward

                def backward() -> None:
                    real_backward()
                    next(model.parameters()).grad.fill_(float("nan"))

        return output, backward

    monkeypatch.setattr(trainer, "forward_step", forward_step)
    train.main(flags(tiny_checkpoint, tmp_path / "run"))
    named = json.loads((tmp_path / "run" / "bad_steps.json").read_text())
    assert len(named["image_ids"]) == 16 and named["last"] == {"step": 3, what: "nan"}
    assert json.loads((tmp_path / "run" / "results.json").read_text())["bad_steps"] == 2
    best = RogleModel.from_pretrained(tmp_path / "run" / "best")
    assert all(bool(each.isfinite().all()) for each in best.parameters())
    calls.clear()
    with pytest.raises(SystemExit, match=f"{what} is nan in 1 steps: .*bad_steps.json"):
        train.main(flags(tiny_checkpoint, tmp_path / "two", "--max-bad-steps", "1"))


class KillsItsReader(Dataset):
    """Numbers; a process that reads number 7 is killed, the first `times` times."""

    def __init__(self, folder: Path, times: int):
        self.folder, self.times = folder, times

    def __getitem__(self, index: int) -> int:
        if index == 7 and len(list(self.folder.iterdir())) < self.times:
            (self.folder / str(len(list(self.folder.iterdir())))).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return index


class Steps:
    """Batches of two, from any step."""

    start = 0

    def __iter__(self):
        return iter([[2 * n, 2 * n + 1] for n in range(self.start, 8)])

    def __len__(self) -> int:
        return 8


@pytest.mark.slow
@pytest.mark.parametrize("times", [2, 9])
def test_a_killed_worker_costs_no_batch(tmp_path: Path, times: int) -> None:
    sampler, messages = Steps(), []
    loader = DataLoader(KillsItsReader(tmp_path, times), batch_sampler=sampler, num_workers=1)

    def enter(step: int) -> None:
        sampler.start = step

    iterator = batches(loader, enter, 0, messages.append)
    if times == 9:
        with pytest.raises(RuntimeError, match="DataLoader worker"):
            list(iterator)
        return
    assert torch.cat(list(iterator)).tolist() == list(range(16))
    assert len(messages) == 2 and re.search(
        r"started again \(1 of 3\): .*(killed by|exited|onnection|EOFError)", messages[0]
    )


def _lose_a_rank(model: Path, out: Path, how: str) -> None:
    step, calls = trainer.forward_step, []

    def forward_step(accelerator, *args):
        calls.append(1)
        if len(calls) == 2 and accelerator.process_index == 1:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("image-7: something is wrong")
        return step(accelerator, *args)

    trainer.forward_step = forward_step
    train.main(flags(model, out, "--batch-size", "4"))


@pytest.mark.slow
@pytest.mark.parametrize(("how", "message"), [("killed", "SIGKILL|closed|reset"), ("raised", "image-7: something")])
def test_a_lost_rank_ends_all_with_its_error(tiny_checkpoint: Path, tmp_path: Path, how: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        in_processes(2, _lose_a_rank, tiny_checkpoint, tmp_path / "run", how)
    assert not (tmp_path / "run" / "results.json").exists()


def test_unreadable_metadata_are_counted_once_and_never_end_a_run(tmp_path: Path) -> None:
    lines: list[str] = []
    bad = BadImages(tmp_path / "bad_images.json", limit=1, log=lines.append)
    bad.report_metadata(["a", "b", "a"])
    bad.report_metadata(["b"])
    assert [line.partition(":")[0] for line in lines] == ["a", "b"] and lines[1].endswith("image 2 of this kind")
    assert not bad.path.exists()
