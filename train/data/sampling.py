"""Which rows make a step: one order for all processes, which depends only on seed and epoch."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class GlobalBatchSampler(Sampler[list[int]]):
    """Batches of row numbers; every process gets its part of the same global batch.

    With `blocks` (streaming), the blocks are taken in a new order in each epoch. Rows are shuffled within windows of
    consecutive blocks that together have at least `buffer` rows, so that few parts of the data are read at a time.

    With `images_per_identity=K`, images of an identity are put into groups of K, drawn again in every epoch. The rest
    of an identity makes a smaller group. A group is divided between two batches only if no other group fits into the
    step. So a batch holds more positive pairs, which the losses recognise by the identity.

    Args:
        person_ids: identity of each row.
        batch_size: rows per process and step.
        seed: seed of the order.
        images_per_identity (`int`, defaults to 1): size of the groups; 1 makes none.
        rank (`int`, defaults to 0): number of this process. The order of the rows of a global batch does not depend
            on it.
        processes (`int`, defaults to 1): number of processes. The order does not depend on it either.
        blocks (defaults to `None`): number of rows of each block, in their order; None shuffles all rows together.
        buffer (`int`, defaults to 2048): minimum number of rows that are shuffled together, if there are blocks.

    Raises:
        ValueError: a step has more rows than the data, or a group has more rows than a step.
    """

    def __init__(
        self,
        person_ids: Sequence[int],
        batch_size: int,
        seed: int,
        images_per_identity: int = 1,
        rank: int = 0,
        processes: int = 1,
        blocks: Sequence[int] | None = None,
        buffer: int = 2048,
    ):
        self.person_ids, self.seed, self.group_size = np.asarray(person_ids), seed, images_per_identity
        self.batch_size, self.rank, self.global_batch = batch_size, rank, batch_size * processes
        if not 0 < self.global_batch <= len(self.person_ids):
            raise ValueError(f"--batch-size: {self.global_batch} images per step, the data have {len(self.person_ids)}")
        if not 1 <= images_per_identity <= self.global_batch:
            raise ValueError(f"--images-per-identity {images_per_identity}: a step has {self.global_batch} images")
        self.blocks, self.buffer = blocks, buffer
        self.epoch = self.start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Sets the epoch, and the number of its steps to skip because they have been done."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        """Steps of a whole epoch. Remaining rows are left out; the next epoch leaves out others."""
        return len(self.person_ids) // self.global_batch

    def __iter__(self) -> Iterator[list[int]]:
        order = self._order()
        for step in range(self.start, len(self)):
            first = step * self.global_batch + self.rank * self.batch_size
            yield order[first : first + self.batch_size]

    def _order(self) -> list[int]:
        rng = np.random.default_rng((self.seed, self.epoch))
        if self.blocks is None:
            return self._grouped(rng.permutation(len(self.person_ids)), rng, self.global_batch)
        order: list[int] = []
        ends = np.cumsum(self.blocks)
        window: list[int] = []
        for n, block in enumerate(rng.permutation(len(ends)).tolist()):
            window += range(int(ends[block]) - self.blocks[block], int(ends[block]))
            if len(window) >= self.buffer or n == len(ends) - 1:
                free = self.global_batch - len(order) % self.global_batch
                order += self._grouped(rng.permutation(window), rng, free)
                window = []
        return order

    def _grouped(self, rows: np.ndarray, rng: np.random.Generator, free: int) -> list[int]:
        """The rows with images of an identity put together; `free` rows still fit into the current step."""
        if self.group_size == 1:
            return rows.tolist()
        groups: list[list[int]] = []
        unfinished: dict[int, list[int]] = {}
        for row in rows.tolist():
            group = unfinished.setdefault(int(self.person_ids[row]), [])
            group.append(row)
            if len(group) == self.group_size:
                groups.append(unfinished.pop(int(self.person_ids[row])))
        groups += unfinished.values()
        waiting = [groups[n] for n in rng.permutation(len(groups))]
        order: list[int] = []
        while waiting:
            # The first group that fits. If none fits, one is divided, so that every step is full.
            n = next((n for n, group in enumerate(waiting) if len(group) <= free), None)
            if n is None:
                group, waiting[0] = waiting[0][:free], waiting[0][free:]
            else:
                group = waiting.pop(n)
            order += group
            free = free - len(group) or self.global_batch
        return order


__all__ = ["GlobalBatchSampler"]
