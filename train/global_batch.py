"""Losses over the global batch: rows of all processes gathered with their gradient, and exact gradient caching.

Every process computes the same loss of the same gathered rows. So each process has the whole gradient of all rows. Its
own slice, multiplied by the number of processes, averages to the gradient of one large batch when data parallelism
takes the mean over processes. (The gather of `accelerate` has no gradient. Gathering with the other processes' rows
detached gives half of the gradient with two processes.)
"""

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import distributed

from train.data.batch import split_inputs


class GlobalBatch:
    """Gathers the rows of all processes, each name by itself, in the order of the processes.

    It also makes all processes stop together: a request to stop in one process is known to all after the next step.

    Args:
        processes (`int`, defaults to 1): size of the default process group. One process gathers nothing.
        rank (`int`, defaults to 0): rank of this process in the group.
    """

    def __init__(self, processes: int = 1, rank: int = 0):
        self.processes, self.rank = processes, rank
        self.stop_requested = self.stop = False

    def request_stop(self) -> None:
        """Makes `stop` true in all processes after the next call."""
        self.stop_requested = True

    def __call__(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Gathers tensors with their gradient. Every process must call it with the same names.

        Args:
            inputs: `[n, ...]` tensors of this process; n may differ by name and process.

        Returns:
            `[sum of all n, ...]` by name, floating-point tensors in float32. With one process `inputs` itself.
        """
        if self.processes == 1:
            self.stop = self.stop_requested
            return inputs
        names = sorted(inputs)
        device = inputs[names[0]].device
        own = torch.tensor([len(inputs[name]) for name in names] + [int(self.stop_requested)], device=device)
        counts = [torch.empty_like(own) for _ in range(self.processes)]
        distributed.all_gather(counts, own)
        table = torch.stack(counts).tolist()
        self.stop = any(row[-1] for row in table)
        gathered = {}
        for column, name in enumerate(names):
            rows = inputs[name].float() if inputs[name].is_floating_point() else inputs[name]
            gathered[name] = GatherRows.apply(rows, [row[column] for row in table], self.rank)
        return gathered


class GatherRows(torch.autograd.Function):
    """Concatenates the rows of all processes; backward returns each its own gradient rows, times the process count."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, counts: list[int], rank: int) -> torch.Tensor:
        ctx.counts, ctx.rank = counts, rank
        if not any(counts):
            return rows
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        start = sum(ctx.counts[: ctx.rank])
        return gradient[start : start + ctx.counts[ctx.rank]] * len(ctx.counts), None, None


def forward_step(
    accelerator: Accelerator,
    model: torch.nn.Module,
    inputs: dict[str, torch.Tensor],
    gather: GlobalBatch,
    parts: int = 1,
) -> tuple[Any, Callable[[], None]]:
    """Computes the losses of the global batch.

    With more than one part this is gradient caching (GradCache, arXiv 2101.06983). The parts are embedded without a
    graph. The loss of all embeddings gives the gradient of each embedding. Each part is embedded again to propagate
    its share to the weights. The gradient is the same, for the memory of one part and one more forward.

    Args:
        accelerator: runs the backward pass.
        model: prepared model whose output has `loss`, and `loss_inputs` of the global batch.
        inputs: arguments of `RogleModel.forward`, see `Batch.model_inputs`.
        gather: called once.
        parts (`int`, defaults to 1): at most the number of images.

    Returns:
        The model output, and a function that runs the backward pass, to be called at most once.
    """
    if parts == 1:
        output = model(**inputs, return_loss=True, gather=gather)
        return output, lambda: accelerator.backward(output.loss)
    pieces, random_states, embedded = split_inputs(inputs, parts), [], []
    with torch.no_grad():
        for piece in pieces:
            random_states.append(_random_state(accelerator.device))
            embedded.append(model(**piece, return_loss_inputs=True).loss_inputs)
    leaves = {name: torch.cat([part[name] for part in embedded]) for name in embedded[0]}
    cached = [name for name in leaves if leaves[name].is_floating_point() and not name.endswith("_weight")]
    for name in cached:
        leaves[name] = leaves[name].float().requires_grad_()
    with accelerator.no_sync(model):
        output = model(loss_inputs=leaves, gather=gather)

    def backward() -> None:
        gradients = torch.autograd.grad(
            output.loss, [leaves[name] for name in cached], retain_graph=True, allow_unused=True
        )
        shares = {
            name: gradient.split([len(part[name]) for part in embedded])
            for name, gradient in zip(cached, gradients, strict=True)
            if gradient is not None  # detached targets have none
        }
        end = _random_state(accelerator.device)
        for number, piece in enumerate(pieces):
            _set_random_state(random_states[number], accelerator.device)  # the same dropout as in the first pass
            last = number == len(pieces) - 1
            with torch.enable_grad() if last else accelerator.no_sync(model):
                repeated = model(**piece, return_loss_inputs=True).loss_inputs
                carried = sum((repeated[name].float() * shares[name][number]).sum() for name in shares)
                # The last backward includes what the loss itself trains, such as its temperature: data parallelism
                # exchanges gradients in one backward, in which every weight must take part.
                accelerator.backward(carried + output.loss if last else carried)
        _set_random_state(end, accelerator.device)

    return output, backward


def _random_state(device: torch.device) -> tuple[torch.Tensor, ...]:
    on_device = () if device.type == "cpu" else (getattr(torch, device.type).get_rng_state(device),)
    return torch.get_rng_state(), *on_device


def _set_random_state(state: tuple[torch.Tensor, ...], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if len(state) > 1:
        getattr(torch, device.type).set_rng_state(state[1], device)


__all__ = ["GatherRows", "GlobalBatch", "forward_step"]
