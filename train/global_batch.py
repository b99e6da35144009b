"""Losses over the global batch: rows of all processes gathered with their gradient, and exact gradient caching.

Every process takes the same loss of the same gathered rows. So the gradient of the rows is in each process the whole
one, and its own slice, times the number of processes, is what averages to the gradient of one large batch once data
parallelism takes the mean over processes (`accelerate`'s own gather has no gradient; gathering with the others' rows
detached halves it for two processes).
"""

from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import distributed

# Of what `PairDataset.collate` gives, that which has a row for each pair instead of for each image.
PAIR_FIELDS = (
    "boxes", "box_image", "sentence_input_ids", "sentence_spans", "sentence_ids", "part_ids", "pair_weight",
)  # fmt: skip


class GlobalBatch:
    """Gathers the rows of all processes, each name by itself, in the order of the processes.

    Also agrees on stopping: what one process has been told, all know after the next step.

    Args:
        processes, rank: of the default process group; one process gathers nothing.
    """

    def __init__(self, processes: int = 1, rank: int = 0):
        self.processes, self.rank = processes, rank
        self.asked_to_stop = self.stop = False

    def ask_to_stop(self) -> None:
        self.asked_to_stop = True

    def __call__(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """`[n, ...]` of this process, n its own for every name -> `[sum of all n, ...]`, floats in fp32.

        Every process must call with the same names.
        """
        if self.processes == 1:
            self.stop = self.asked_to_stop
            return inputs
        names = sorted(inputs)
        device = inputs[names[0]].device
        mine = torch.tensor([len(inputs[name]) for name in names] + [int(self.asked_to_stop)], device=device)
        counts = [torch.empty_like(mine) for _ in range(self.processes)]
        distributed.all_gather(counts, mine)
        table = torch.stack(counts).tolist()
        self.stop = any(row[-1] for row in table)
        gathered = {}
        for column, name in enumerate(names):
            rows = inputs[name].float() if inputs[name].is_floating_point() else inputs[name]
            gathered[name] = GatherRows.apply(rows, [row[column] for row in table], self.rank)
        return gathered


class GatherRows(torch.autograd.Function):
    """All processes' rows end to end; on the way back each takes its own, times their number."""

    @staticmethod
    def forward(ctx, rows: torch.Tensor, counts: list[int], rank: int) -> torch.Tensor:
        ctx.counts, ctx.rank = counts, rank
        if not any(counts):
            return rows
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        found = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(found, padded)
        return torch.cat([part[:count] for part, count in zip(found, counts, strict=True)])

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        start = sum(ctx.counts[: ctx.rank])
        return gradient[start : start + ctx.counts[ctx.rank]] * len(ctx.counts), None, None


def forward_step(
    accelerator: Accelerator,
    model: torch.nn.Module,
    batch: dict[str, torch.Tensor],
    gather: GlobalBatch,
    parts: int = 1,
) -> tuple[object, Callable[[], None]]:
    """Losses of the global batch, and what back-propagates them.

    With more than one part this is gradient caching (GradCache, arXiv 2101.06983): the parts are embedded without a
    graph, the loss of all embeddings gives each embedding its gradient, and each part is embedded once more to carry
    its share to the weights. The same gradient for the memory of one part and one more forward.

    Args:
        model: as prepared; its output has `loss`, and `loss_inputs` of the global batch.
        batch: arguments of `RogleModel.forward`.
        gather: called once.
        parts: at most as many as images.

    Returns:
        Model output, and a function to be called at most once; without it nothing but the forward has happened.
    """
    if parts == 1:
        output = model(**batch, return_loss=True, gather=gather)
        return output, lambda: accelerator.backward(output.loss)
    pieces, states, found = split_batch(batch, parts), [], []
    with torch.no_grad():
        for piece in pieces:
            states.append(_random_state(accelerator.device))
            found.append(model(**piece, return_loss_inputs=True).loss_inputs)
    leaves = {name: torch.cat([each[name] for each in found]) for name in found[0]}
    cached = [name for name in leaves if leaves[name].is_floating_point() and not name.endswith("_weight")]
    for name in cached:
        leaves[name] = leaves[name].float().requires_grad_()
    with accelerator.no_sync(model):
        output = model(loss_inputs=leaves, gather=gather)

    def backward() -> None:
        found_gradients = torch.autograd.grad(
            output.loss, [leaves[name] for name in cached], retain_graph=True, allow_unused=True
        )
        shares = {
            name: gradient.split([len(each[name]) for each in found])
            for name, gradient in zip(cached, found_gradients, strict=True)
            if gradient is not None  # targets of a stopped gradient have none
        }
        end = _random_state(accelerator.device)
        for number, piece in enumerate(pieces):
            _set_random_state(states[number], accelerator.device)  # the same dropout as in the first pass
            last = number == len(pieces) - 1
            with torch.enable_grad() if last else accelerator.no_sync(model):
                again = model(**piece, return_loss_inputs=True).loss_inputs
                carried = sum((again[name].float() * shares[name][number]).sum() for name in shares)
                # The last one takes along what the loss itself trains, such as its temperature: data parallelism
                # exchanges gradients in one backward, in which every weight has to take part.
                accelerator.backward(carried + output.loss if last else carried)
        _set_random_state(end, accelerator.device)

    return output, backward


def split_batch(batch: dict[str, torch.Tensor], parts: int) -> list[dict[str, torch.Tensor]]:
    """Batches of consecutive images with their pairs, as equal as can be."""
    images = len(batch["input_ids"])
    found = []
    for rows in torch.arange(images).chunk(parts):
        start, stop = int(rows[0]), int(rows[-1]) + 1
        piece = {name: value[start:stop] for name, value in batch.items() if name not in PAIR_FIELDS}
        if "box_image" in batch:
            own = (batch["box_image"] >= start) & (batch["box_image"] < stop)
            piece |= {name: batch[name][own] for name in PAIR_FIELDS if name in batch}
            piece["box_image"] = piece["box_image"] - start
        found.append(piece)
    return found


def _random_state(device: torch.device) -> tuple[torch.Tensor, ...]:
    on_device = () if device.type == "cpu" else (getattr(torch, device.type).get_rng_state(device),)
    return torch.get_rng_state(), *on_device


def _set_random_state(state: tuple[torch.Tensor, ...], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if len(state) > 1:
        getattr(torch, device.type).set_rng_state(state[1], device)


__all__ = ["GatherRows", "GlobalBatch", "forward_step", "split_batch"]
