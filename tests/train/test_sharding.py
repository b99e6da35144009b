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
from train.sharding import as_in_run, as_published, before_sharding, without_scalars

STEPS_AN_EPOCH = 3
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",  # accelerate launch's defaults
}


def unsharded(arguments: list[str]) -> None:
    train.main(arguments)


def in_shards(arguments: list[str]) -> None:
    os.environ.update(FSDP)
    assert PartialState(cpu=True).num_processes == 2
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    train.main(arguments)


def uneven(arguments: list[str]) -> None:
    text_packing.PACK_TOKENS = 200 if PartialState(cpu=True).process_index else 4000
    in_shards(arguments)


def refused(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as error:
        in_shards(arguments)
    Path(message).write_text(str(error.value))


def flags(model: Path, out: Path, *more: str) -> list[str]:
    given = ["--dataset", "synthetic-tiny", "--model", str(model), "--out", str(out), "--trackers", "none"]
    given += ["--epochs", "2", "--batch-size", "8", "--threads", "1", "--resume", "auto"]
    # Everything that reads weights outside the forward: reliability of pairs and gradient caching.
    given += ["--reliability-local", "gmm_consensus", "--reliability-global", "gmm_consensus"]
    return [*given, "--micro-batches", "2", *more]


def log_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_sharded_weights_train_like_unsharded_ones_and_resume_to_the_bit(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for name, run in (("unsharded", unsharded), ("shards", in_shards)):
        in_processes(2, run, flags(tiny_checkpoint, tmp_path / name))
    for one, other in zip(log_of(tmp_path / "unsharded"), log_of(tmp_path / "shards"), strict=True):
        for name in one:
            if name.startswith(("loss", "trust", "validation")):
                assert one[name] == pytest.approx(other[name], abs=1e-4), name
    best = [load_file(tmp_path / name / "best" / "model.safetensors") for name in ("unsharded", "shards")]
    assert best[0].keys() == best[1].keys() and best[1]["logit_scale"].shape == ()
    for name, expected in best[0].items():
        torch.testing.assert_close(best[1][name], expected, rtol=0, atol=2e-4)
    RogleModel.from_pretrained(tmp_path / "shards" / "best")

    # A run can be resumed in shards from unsharded weights.
    last = tmp_path / "unsharded" / "checkpoints" / f"step-{2 * STEPS_AN_EPOCH:08d}"
    expected = load_file(last / "model.safetensors")
    shutil.rmtree(last)
    (tmp_path / "unsharded" / "results.json").unlink()
    in_processes(2, in_shards, flags(tiny_checkpoint, tmp_path / "unsharded"))
    actual = load_file(last / "model.safetensors")
    for name, value in expected.items():
        torch.testing.assert_close(actual[name].reshape(value.shape), value, rtol=0, atol=2e-4)

    checkpoints = tmp_path / "shards" / "checkpoints"
    last = checkpoints / f"step-{2 * STEPS_AN_EPOCH:08d}"
    expected = load_file(last / "model.safetensors")
    shutil.rmtree(last)
    (tmp_path / "shards" / "results.json").unlink()
    in_processes(2, in_shards, flags(tiny_checkpoint, tmp_path / "shards"))
    actual = load_file(last / "model.safetensors")
    assert all(torch.equal(actual[name], value) for name, value in expected.items())


@pytest.mark.slow
@pytest.mark.parametrize("more", [["--lora-rank", "2"], ["--regions", "mined"]])
def test_adapters_and_mining_are_refused_under_fsdp(tiny_checkpoint: Path, tmp_path: Path, more: list[str]) -> None:
    given = flags(tiny_checkpoint, tmp_path / "out", *more)
    in_processes(2, refused, given, str(tmp_path / "message"))
    assert "under FSDP" in (tmp_path / "message").read_text()


def test_version_1_is_refused(tiny_model: RogleModel) -> None:
    with pytest.raises(ValueError, match="--fsdp_version 2"):
        before_sharding(SimpleNamespace(is_fsdp2=False), tiny_model)  # Accelerate supports it on accelerators only


@pytest.mark.slow
@pytest.mark.parametrize("more", [["--regions", "none"], ["--region-feature", "dense_roi", "--tsl-image-weight", "1"]])
def test_processes_may_call_a_tower_at_different_rates(tiny_checkpoint: Path, tmp_path: Path, more: list[str]) -> None:
    """Parts of layers are called outside their forward, and the text tower depends on the caption lengths."""
    given = flags(tiny_checkpoint, tmp_path / "out", "--epochs", "1", "--batch-size", "24", *more)
    in_processes(2, uneven, given)
    assert log_of(tmp_path / "out")[0]["loss"] > 0


def test_the_temperature_is_a_vector_in_shards_and_a_scalar_when_saved(tiny_model: RogleModel) -> None:
    expected = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    without_scalars(tiny_model)
    assert not [name for name, value in tiny_model.named_parameters() if value.ndim == 0]
    assert as_in_run(expected, tiny_model)["logit_scale"].shape == (1,)
    actual = as_published(tiny_model.state_dict())
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].shape == value.shape and torch.equal(actual[name], value)
