"""Losses over the global batch: several processes, or several parts, train as one large batch does."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from safetensors.torch import load_file
from torch import distributed

from dataset_pvlg.loading import load_rows
from modeling_rogle import RogleModel, RogleProcessor
from tests.helpers.processes import in_processes
from train import train, trainer
from train.data.pairs import PairDataset, normalize_images
from train.global_batch import GlobalBatch, forward_step


@pytest.fixture(scope="module")
def batch(tiny_processor: RogleProcessor) -> dict:
    """Ten synthetic images, with pairs of unequal number: the first image has none."""
    pairs = PairDataset(load_rows("synthetic-tiny")[0]["train"].select(range(10)), tiny_processor)
    pairs.pairs[0] = []
    batch = pairs.collate([pairs[n] for n in range(10)])
    batch.caption_weight = torch.linspace(0, 1, 10)
    return batch.model_inputs(normalize_images(batch.images, tiny_processor))


def gradients(model: RogleModel, batch: dict, parts: int) -> tuple[dict, dict[str, torch.Tensor]]:
    model.zero_grad()
    output, backward = forward_step(Accelerator(cpu=True), model, batch, GlobalBatch(), parts)
    backward()
    return output, {name: each.grad.clone() for name, each in model.named_parameters()}


def test_gradient_caching_equals_the_full_batch(tiny_model: RogleModel, batch: dict) -> None:
    config = tiny_model.config
    config.tsl_image_weight = 0.5
    full, expected = gradients(tiny_model, batch, 1)
    cached, actual = gradients(tiny_model, batch, 4)
    names = [name for name in full if name.startswith("loss") and name != "loss_inputs"]
    assert {"loss_local", "loss_tsl_text", "loss_tsl_image"} <= set(names)
    for name in names:
        assert abs(float(full[name]) - float(cached[name])) < 1e-5, name
    largest = max(float(each.abs().max()) for each in expected.values())
    for name, each in expected.items():
        assert float((actual[name] - each).abs().max()) < 1e-5 * largest, name


def test_both_passes_of_gradient_caching_have_equal_dropout(tiny_model: RogleModel, batch: dict) -> None:
    for tower in (tiny_model.vision_model, tiny_model.text_model):
        for layer in tower.encoder.layers:
            layer.self_attn.dropout = 0.2
    tiny_model.train()
    seen: dict[str, list] = {}
    forward = RogleModel.forward

    def remember(self, **kwargs):
        output = forward(self, **kwargs)
        if kwargs.get("return_loss_inputs"):
            seen.setdefault("second" if torch.is_grad_enabled() else "first", []).append(output.loss_inputs)
        return output

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RogleModel, "forward", remember)
        gradients(tiny_model, batch, 3)
    for one, two in zip(seen["first"], seen["second"], strict=True):
        torch.testing.assert_close(one["image_embeds"], two["image_embeds"].detach())
    assert not torch.allclose(seen["first"][0]["image_embeds"], tiny_model.eval()(
        input_ids=batch["input_ids"][:4], pixel_values=batch["pixel_values"][:4]
    ).image_embeds)  # fmt: skip


def _gather_unequal_rows(folder: Path) -> None:
    state = PartialState(cpu=True)
    assert state.num_processes == distributed.get_world_size() == 2
    rank, gather = state.process_index, GlobalBatch(2, state.process_index)
    rows = torch.arange(6.0).view(3, 2)
    own = (rows if rank == 0 else rows[:0]).clone().requires_grad_()
    if rank == 1:
        gather.request_stop()
    gathered = gather({"a": own, "ids": torch.full((rank + 1,), rank), "none": torch.zeros(0, 2)})
    assert torch.equal(gathered["a"], rows) and gathered["ids"].tolist() == [0, 1, 1] and len(gathered["none"]) == 0
    assert gather.stop
    (gathered["a"] ** 2).sum().backward()
    assert torch.equal(own.grad, 2 * 2 * own.detach())  # times the number of processes, whose mean is taken
    (folder / f"done-{rank}").touch()


def test_rows_of_unequal_number_are_gathered_with_their_gradient(tmp_path: Path) -> None:
    in_processes(2, _gather_unequal_rows, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["done-0", "done-1"]


def _train(model: Path, out: Path, batch_size: int, epochs: int, processes: int, *more: str) -> None:
    """train.main, writing every loss; scores of validation are left out until the end, the last epoch is the best."""
    step, losses = trainer.forward_step, []

    def forward_step(*args, **kwargs):
        output, backward = step(*args, **kwargs)
        losses.append(output.loss.item())
        return output, backward

    def validate(self):
        assert self.accelerator.num_processes == processes  # the obvious launch silently runs one
        return {"global/long/R@1": float(len(losses))}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "forward_step", forward_step)
        patch.setattr(trainer.Trainer, "validate", validate)
        results = train.main([
            "--dataset", "synthetic-tiny", "--model", str(model), "--out", str(out), "--threads", "1",
            "--batch-size", str(batch_size), "--epochs", str(epochs), "--trackers", "none", *more,
        ])  # fmt: skip
    if results:
        (out / "losses.json").write_text(json.dumps(losses))


def read(run: Path) -> tuple[np.ndarray, dict, dict[str, torch.Tensor]]:
    losses, results = (json.loads((run / f"{name}.json").read_text()) for name in ("losses", "results"))
    weights = load_file(sorted((run / "checkpoints").glob("step-*"))[-1] / "model.safetensors")
    return np.array(losses), results["results"], weights


@pytest.mark.slow
def test_two_processes_train_as_one_does_on_batches_twice_as_large(tiny_checkpoint: Path, tmp_path: Path) -> None:
    arguments = ["--reliability-local", "gmm_consensus", "--reliability-global", "gmm_consensus"]
    arguments += ["--images-per-identity", "2"]
    _train(tiny_checkpoint, tmp_path / "one", 16, 17, 1, *arguments)
    in_processes(2, _train, tiny_checkpoint, tmp_path / "two", 8, 17, 2, *arguments)
    (one, scores, _), (two, others, _) = read(tmp_path / "one"), read(tmp_path / "two")
    assert len(one) == len(two) == 51 and one[-1] < 0.9 * one[0]
    assert np.abs(one - two).max() < 1e-4
    for name in scores:
        if name.rpartition("/")[2] in ("R@1", "R@5", "R@10", "mAP"):
            assert abs(scores[name] - others[name]) <= 0.1, name


@pytest.mark.slow
def test_caching_in_two_processes_gives_the_same_weights(tiny_checkpoint: Path, tmp_path: Path) -> None:
    _train(tiny_checkpoint, tmp_path / "one", 16, 1, 1)
    in_processes(2, _train, tiny_checkpoint, tmp_path / "two", 8, 1, 2, "--micro-batches", "2")
    (one, _, weights), (two, _, others) = read(tmp_path / "one"), read(tmp_path / "two")
    assert np.abs(one - two).max() < 1e-4
    assert all(float((weights[name] - others[name]).abs().max()) < 1e-4 for name in weights)
