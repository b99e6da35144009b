"""FSDP2 on the CPU: Accelerate supports it on accelerators only, so these tests declare gloo processes as such."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import DistributedType
from accelerate.state import PartialState
from safetensors.torch import load_file

from modeling_rogle import RogleModel, text_packing
from tests.helpers.processes import in_processes
from train import train
from train.sharding import as_in_run, as_published, before_sharding, gathered, without_scalars

STEPS_AN_EPOCH = 3
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",  # accelerate launch's defaults
}


def whole(arguments: list[str]) -> None:
    train.main(arguments)


def in_shards(arguments: list[str]) -> None:
    os.environ.update(FSDP)
    assert PartialState(cpu=True).num_processes == 2
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    train.main(arguments)


def uneven(arguments: list[str]) -> None:
    text_packing.PACK_TOKENS = 200 if PartialState(cpu=True).process_index else 4000
    in_shards(arguments)


def refused(arguments: list[str], said: str) -> None:
    with pytest.raises(SystemExit) as error:
        in_shards(arguments)
    Path(said).write_text(str(error.value))


def flags(model: Path, out: Path, *more: str) -> list[str]:
    given = ["--dataset", "synthetic-tiny", "--model", str(model), "--out", str(out), "--trackers", "none"]
    given += ["--epochs", "2", "--batch-size", "8", "--threads", "1", "--resume", "auto"]
    # Everything that reads weights outside the forward: reliability of pairs and gradient caching.
    given += ["--reliability-local", "gmm_consensus", "--reliability-global", "gmm_consensus"]
    return [*given, "--micro-batches", "2", *more]


def log_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()]


def test_weights_in_shards_train_as_whole_ones_do_and_resume_to_the_bit(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for name, run in (("whole", whole), ("shards", in_shards)):
        in_processes(2, run, flags(tiny_checkpoint, tmp_path / name))
    for one, other in zip(log_of(tmp_path / "whole"), log_of(tmp_path / "shards"), strict=True):
        for name in one:
            if name.startswith(("loss", "trust", "validation")):
                assert one[name] == pytest.approx(other[name], abs=1e-4), name
    best = [load_file(tmp_path / name / "best" / "model.safetensors") for name in ("whole", "shards")]
    assert best[0].keys() == best[1].keys() and best[1]["logit_scale"].shape == ()
    for name, expected in best[0].items():
        torch.testing.assert_close(best[1][name], expected, rtol=0, atol=2e-4)
    RogleModel.from_pretrained(tmp_path / "shards" / "best")

    # A run goes on in shards from whole weights, too.
    last = tmp_path / "whole" / "checkpoints" / f"step-{2 * STEPS_AN_EPOCH:08d}"
    expected = load_file(last / "model.safetensors")
    shutil.rmtree(last)
    (tmp_path / "whole" / "results.json").unlink()
    in_processes(2, in_shards, flags(tiny_checkpoint, tmp_path / "whole"))
    found = load_file(last / "model.safetensors")
    for name, value in expected.items():
        torch.testing.assert_close(found[name].reshape(value.shape), value, rtol=0, atol=2e-4)

    checkpoints = tmp_path / "shards" / "checkpoints"
    last = checkpoints / f"step-{2 * STEPS_AN_EPOCH:08d}"
    expected = load_file(last / "model.safetensors")
    shutil.rmtree(last)
    (tmp_path / "shards" / "results.json").unlink()
    in_processes(2, in_shards, flags(tiny_checkpoint, tmp_path / "shards"))
    found = load_file(last / "model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("more", [["--lora-rank", "2"], ["--regions", "mined"]])
def test_what_needs_whole_weights_is_refused_under_fsdp(tiny_checkpoint: Path, tmp_path: Path, more: list[str]) -> None:
    given = flags(tiny_checkpoint, tmp_path / "out", *more)
    in_processes(2, refused, given, str(tmp_path / "said"))
    assert "under FSDP" in (tmp_path / "said").read_text()


def test_version_1_is_refused(tiny_model: RogleModel) -> None:
    with pytest.raises(ValueError, match="--fsdp_version 2"):
        before_sharding(SimpleNamespace(is_fsdp2=False), tiny_model)  # Accelerate has it for accelerators alone


@pytest.mark.parametrize("more", [["--regions", "none"], ["--region-feature", "dense_roi", "--tsl-image-weight", "1"]])
def test_whatever_is_trained_and_however_often_a_tower_is_called(
    tiny_checkpoint: Path, tmp_path: Path, more: list[str]
) -> None:
    """Parts of layers are called beside their forward, and the text tower as often as a process's captions need."""
    given = flags(tiny_checkpoint, tmp_path / "out", "--epochs", "1", "--batch-size", "24", *more)
    in_processes(2, uneven, given)
    assert log_of(tmp_path / "out")[0]["loss"] > 0


def test_the_temperature_is_a_vector_in_shards_and_a_scalar_where_it_is_published(tiny_model: RogleModel) -> None:
    expected = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    without_scalars(tiny_model)
    assert not [name for name, value in tiny_model.named_parameters() if value.ndim == 0]
    assert as_in_run(expected, tiny_model)["logit_scale"].shape == (1,)
    found = as_published(tiny_model.state_dict())
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape and torch.equal(found[name], value)


def test_weights_without_shards_are_not_copied() -> None:
    weight = torch.arange(3.0)
    assert gathered(weight) is weight
