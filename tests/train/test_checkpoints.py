"""Checkpoints are complete or missing, and runs killed at any moment end in the same bits."""

import json
import multiprocessing
import os
import random
import resource
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.processes import Run, newest_step
from train import train
from train.checkpoints import Checkpoints, find_fault


def tensors_of(value: float, size: int = 10) -> dict:
    return {"model": {"weight": torch.full((size,), value), "step": torch.tensor(value)}}


def test_the_last_few_are_kept_and_come_back_as_saved(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    assert checkpoints.newest() is None
    for step in (1, 2, 30):
        checkpoints.save(step, tensors_of(step), {"step": step, "loss": 0.1})
    assert [path.name for path in sorted(checkpoints.folder.iterdir())] == ["step-00000002", "step-00000030"]
    tensors, state = Checkpoints.load(checkpoints.newest())
    assert torch.equal(tensors["model"]["weight"], torch.full((10,), 30.0)) and state == {"step": 30, "loss": 0.1}


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("model.safetensors", "has 50 bytes of"),
        ("state.json", "has 5 bytes of"),
        ("manifest.json", "Unterminated"),
    ],
)
def test_a_truncated_checkpoint_is_skipped_for_the_previous_one(tmp_path: Path, name: str, fault: str) -> None:
    checkpoints, messages = Checkpoints(tmp_path), []
    checkpoints.save(1, tensors_of(1), {})
    checkpoints.save(2, tensors_of(2), {"long enough": 1})
    content = (tmp_path / "step-00000002" / name).read_bytes()
    (tmp_path / "step-00000002" / name).write_bytes(content[: 50 if name.startswith("model") else 5])
    assert checkpoints.newest(messages.append) == tmp_path / "step-00000001"
    assert len(messages) == 1 and "step-00000002 is broken, the checkpoint before it is used" in messages[0]
    assert fault in messages[0]
    checkpoints.save(2, tensors_of(2), {})  # the resumed run reaches this step again
    assert find_fault(tmp_path / "step-00000002") is None


def test_one_changed_bit_is_reported(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, tensors_of(1), {})
    path = tmp_path / "step-00000001" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "model.safetensors" in find_fault(path.parent)
    path.unlink()
    assert "No such file" in find_fault(path.parent)


def _save_with_little_room(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
    try:
        Checkpoints(folder).save(2, tensors_of(2, size=10_000), {})
    except OSError as error:
        (folder / "message").write_text(str(error))


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, tensors_of(1), {})
    child = multiprocessing.get_context("fork").Process(target=_save_with_little_room, args=(tmp_path,))
    child.start()
    child.join()
    message = (tmp_path / "message").read_text()
    assert "step-00000002 cannot be written" in message and "File too large" in message
    assert str(tmp_path / "step-00000001") in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["message", "step-00000001"]
    assert checkpoints.newest() == tmp_path / "step-00000001"


def flags(model: Path, out: Path, *more: str) -> list[str]:
    reliability = ["--reliability-local", "gmm_consensus", "--reliability-global", "gmm_consensus"]
    arguments = ["--dataset", "synthetic-tiny", "--model", str(model), "--out", str(out), "--trackers", "none"]
    return [*arguments, "--batch-size", "8", "--threads", "1", "--save-steps", "2", *reliability, *more]


def last(run: Path) -> dict[str, torch.Tensor]:
    step = newest_step(run)
    return {
        f"{name}/{key}": value
        for name in ("model", "optimizer", "trust_local", "trust_global")
        for key, value in load_file(run / "checkpoints" / f"step-{step:08d}" / f"{name}.safetensors").items()
    }


def same_bits(one: Path, two: Path) -> None:
    first, second = last(one), last(two)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key].nan_to_num(-1), second[key].nan_to_num(-1)) for key in first)
    results = [json.loads((run / "results.json").read_text())["results"] for run in (one, two)]
    assert results[0] == results[1]


MINED = ("--regions", "mined", "--mine-epoch", "1", "--mine-every", "1")


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "kills", "more"), [(1, 3, ()), (2, 1, ()), (2, 1, MINED)])
def test_a_run_killed_at_any_moment_ends_in_the_same_bits(
    tiny_checkpoint: Path, tmp_path: Path, processes: int, kills: int, more: tuple[str, ...]
) -> None:
    arguments = ["--epochs", "3", "--batch-size", str(8 // processes), *more]
    reference, killed, output = tmp_path / "reference", tmp_path / "killed", tmp_path / "output"
    assert Run(output, train.main, flags(tiny_checkpoint, reference, *arguments), processes=processes).join() == 0
    draw, seen = random.Random(processes), 0
    for _ in range(kills):
        run = Run(
            output, train.main, flags(tiny_checkpoint, killed, *arguments, "--resume", "auto"), processes=processes
        )
        run.wait_for(lambda seen=seen: newest_step(killed) > seen)
        time.sleep(draw.uniform(0, 0.3))
        run.kill()
        seen = newest_step(killed)
    assert seen < 18 or not (killed / "results.json").exists()
    run = Run(output, train.main, flags(tiny_checkpoint, killed, *arguments, "--resume", "auto"), processes=processes)
    assert run.join() == 0, output.read_text()[-2000:]
    same_bits(reference, killed)
    assert f"step {seen} of 18" in output.read_text()
    mined = [sorted((run / "mined").glob("*.json")) for run in (reference, killed)]
    assert [[file.read_bytes() for file in files] for files in mined] == 2 * [[f.read_bytes() for f in mined[0]]]
    assert len(mined[0]) == 2 * bool(more)


@pytest.mark.slow
def test_sigterm_saves_and_a_truncated_checkpoint_is_skipped(tiny_checkpoint: Path, tmp_path: Path) -> None:
    reference, killed, output = tmp_path / "reference", tmp_path / "killed", tmp_path / "output"
    arguments = flags(tiny_checkpoint, reference, "--epochs", "2")
    train.main(arguments)
    arguments = flags(tiny_checkpoint, killed, "--epochs", "2", "--resume", "auto")
    run = Run(output, train.main, arguments)
    run.wait_for(lambda: newest_step(killed) > 0)
    os.kill(run.process.pid, signal.SIGTERM)
    assert run.join() == 128 + signal.SIGTERM
    step = newest_step(killed)
    assert f"SIGTERM: saved after step {step} of 12; continue with --resume auto" in output.read_text()
    os.truncate(killed / "checkpoints" / f"step-{step:08d}" / "optimizer.safetensors", 1000)
    assert Run(output, train.main, arguments).join() == 0
    assert "optimizer.safetensors has 1000 bytes of" in output.read_text()
    same_bits(reference, killed)


@pytest.mark.slow
def test_another_batch_size_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    train.main(flags(tiny_checkpoint, tmp_path / "run", "--epochs", "1"))
    (tmp_path / "run" / "recipe.yaml").write_text(
        (tmp_path / "run" / "recipe.yaml").read_text().replace("batch_size: 8", "batch_size: 4")
    )
    with pytest.raises(ValueError, match=r"8 images per step, this run 4 \(--batch-size times 1 processes\)"):
        train.main(flags(tiny_checkpoint, tmp_path / "run", "--epochs", "1", "--batch-size", "4", "--resume"))
