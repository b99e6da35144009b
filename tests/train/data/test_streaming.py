"""Training from Parquet shards: equal rows, draws and results as with images in memory, of which few are held."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from dataset_pvlg.loading import load_rows
from modeling_rogle import RogleProcessor
from tests.helpers.processes import in_processes
from train import train, trainer
from train.data.pairs import PairDataset
from train.data.sampling import GlobalBatchSampler
from train.data.streaming import stream_rows

SHARDS, GROUP = 3, 4  # rows of a row group


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """synthetic-tiny as Parquet: 48 training rows in three files, 4 to a row group."""
    data, root = load_rows("synthetic-tiny")[0], tmp_path_factory.mktemp("pvlg")
    for split, rows in data.items():
        for n in range(SHARDS):
            part = rows.shard(SHARDS, n, contiguous=True).with_format("arrow")[:]
            pq.write_table(part, root / f"{split}-{n:05d}-of-{SHARDS:05d}.parquet", row_group_size=GROUP)
    return root


def test_rows_and_images_are_those_of_the_folder(folder: Path, tiny_processor: RogleProcessor) -> None:
    data, shards = stream_rows(str(folder), buffer=8)
    loaded = load_rows("pvlg", folder)[0]
    assert data["train"].column_names == [name for name in loaded["train"].column_names if name != "image"]
    assert data["train"].to_list() == loaded["train"].remove_columns("image").to_list()
    assert data["test"][3]["image"].tobytes() == loaded["test"][3]["image"].tobytes() and len(data["validation"]) == 16
    streamed = PairDataset(data["train"], tiny_processor, cache_bytes=0, images=shards)
    in_memory = PairDataset(loaded["train"], tiny_processor)
    for n in (0, 47, 15, 16, 3):
        one, two = streamed[n], in_memory[n]
        assert one.image_id == two.image_id and np.array_equal(one.image, two.image)
        assert sum(len(group) for group in shards._held.values()) <= 16


def test_an_epoch_in_order_reads_each_row_group_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, shards = stream_rows(str(folder), buffer=8)
    read, table = [], type(shards.rows).table
    monkeypatch.setattr(type(shards.rows), "table", lambda self, *given: read.append(given) or table(self, *given))
    people = data["train"]["person_id"][:]
    sampler = GlobalBatchSampler(people, 6, seed=0, images_per_identity=2, blocks=shards.lengths, buffer=8)
    rows = [row for batch in sampler for row in batch]
    assert sorted(rows) == list(range(48)) and rows != sorted(rows)
    assert all(shards[row]["image"]["bytes"] for row in rows)
    assert len(read) == 12
    with pytest.raises(IndexError):
        shards[48]


def test_any_number_of_processes_streams_the_same_batches_from_any_step() -> None:
    def steps(processes: int, start: int = 0) -> list[list[int]]:
        parts = []
        for rank in range(processes):
            one = GlobalBatchSampler(range(50), 8 // processes, 1, 2, rank, processes, [7] * 7 + [1], 14)
            one.set_epoch(3, start)
            parts.append(list(one))
        return [sum(each, []) for each in zip(*parts, strict=True)]

    assert steps(1) == steps(2) == steps(4) and steps(1, 4) == steps(2)[4:]


def test_a_broken_row_group_costs_its_rows_and_is_named(folder: Path, tmp_path: Path, tiny_processor) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    data, shards = stream_rows(str(tmp_path), buffer=8)
    file = tmp_path / "train-00000-of-00003.parquet"
    content = bytearray(file.read_bytes())
    start = pq.ParquetFile(file).metadata.row_group(1).column(0).data_page_offset
    content[start : start + 40] = b"\xff" * 40
    file.write_bytes(content)
    item = PairDataset(data["train"], tiny_processor, cache_bytes=0, images=shards)[4]
    assert item.row == 8 and len(item.faults) == 4
    assert all("train-00000-of-00003.parquet, row group 1: " in fault for fault in item.faults.values())


def _train(folder: Path, model: Path, out: Path, *more: str) -> None:
    train.main([
        "--dataset", "pvlg", "--data-root", str(folder), "--stream", "--shuffle-buffer", "8", "--model", str(model),
        "--out", str(out), "--epochs", "2", "--threads", "1", "--trackers", "none", *more,
    ])  # fmt: skip


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(sorted((run / "checkpoints").glob("step-*"))[-1] / "model.safetensors")


@pytest.mark.slow
def test_a_run_streams_resumes_to_the_same_bits_and_two_processes_do_as_one(
    folder: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, cut = tmp_path / "one", tmp_path / "two", tmp_path / "cut"
    _train(folder, tiny_checkpoint, one, "--batch-size", "8")
    in_processes(2, _train, folder, tiny_checkpoint, two, "--batch-size", "4")
    step, calls = trainer.forward_step, []

    def forward_step(*given):
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return step(*given)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "forward_step", forward_step)
        with pytest.raises(KeyboardInterrupt):
            _train(folder, tiny_checkpoint, cut, "--batch-size", "8", "--save-steps", "1")
    _train(folder, tiny_checkpoint, cut, "--batch-size", "8", "--resume", "auto")
    assert all(torch.equal(value, weights(cut)[name]) for name, value in weights(one).items())
    logs = [[json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()] for run in (one, two)]
    assert [entry["step"] for entry in logs[0]] == [6, 12]
    assert all(abs(first["loss"] - second["loss"]) < 1e-4 for first, second in zip(*logs, strict=True))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--dataset", "synthetic-tiny", "--stream"], "--stream .* --dataset pvlg"),
        (["--dataset", "pvlg", "--data-root", "x", "--stream", "--mix", "0.5"], "--mix .* --stream"),
        (["--dataset", "pvlg", "--data-root", "x", "--stream", "--regions", "mined"], "--regions mined .* --stream"),
        (["--dataset", "pvlg", "--data-root", "no/where/at/all", "--stream"], "no data set on the Hub"),
        (["--dataset", "pvlg", "--data-root", "me/nothing", "--stream"], "no data set on the Hub"),
    ],
)
def test_options_that_cannot_be_streamed_are_named(tmp_path: Path, given: list[str], named: str) -> None:
    with pytest.raises(SystemExit, match=named):
        train.main([*given, "--out", str(tmp_path / "run")])
