"""Which rows make a step: one order for all processes, from seed and epoch alone, entered at any step."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class GlobalBatchSampler(Sampler[list[int]]):
    """Batches of row numbers; every process gets its part of the same global batch.

    With `blocks` (streaming) the rows lie in blocks of these lengths, which are taken in a new order in each epoch; as
    many as have `buffer` rows are shuffled with each other, and only then come the next ones: images are read from
    few places at a time.

    With `images_per_identity` K the images of each identity are put into groups of K (the rest of an identity makes a
    smaller one), new ones in every epoch, and a group is parted between two batches only where no other fills the
    step: a batch holds more true pairs, which the losses know by identity.

    Args:
        person_ids: of each row.
        batch_size: rows of one process and step.
        seed: of the order.
        images_per_identity: 1 draws rows alone.
        blocks: rows of each block, in their order; none: all rows are shuffled with each other.
        buffer: least rows that are shuffled with each other, where there are blocks.
        rank, processes: the share of this process; the order of the rows of a global batch hangs on neither.

    Raises:
        ValueError: more rows a step than there are, or groups that are larger than a batch.
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
        self.person_ids, self.seed, self.group = np.asarray(person_ids), seed, images_per_identity
        self.batch_size, self.rank, self.global_batch = batch_size, rank, batch_size * processes
        if not 0 < self.global_batch <= len(self.person_ids):
            raise ValueError(f"--batch-size: {self.global_batch} images a step, the data have {len(self.person_ids)}")
        if not 1 <= images_per_identity <= self.global_batch:
            raise ValueError(f"--images-per-identity {images_per_identity}: a step has {self.global_batch} images")
        self.blocks, self.buffer = blocks, buffer
        self.epoch = self.start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """`start`: steps of the epoch to leave out, which an earlier run has done."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        """Steps of a whole epoch; the rows that are left over take their turn in another one."""
        return len(self.person_ids) // self.global_batch

    def __iter__(self) -> Iterator[list[int]]:
        order = self._order()
        for step in range(self.start, len(self)):
            first = step * self.global_batch + self.rank * self.batch_size
            yield order[first : first + self.batch_size]

    def _order(self) -> list[int]:
        draw = np.random.default_rng((self.seed, self.epoch))
        if self.blocks is None:
            return self._grouped(draw.permutation(len(self.person_ids)), draw, self.global_batch)
        order: list[int] = []
        ends = np.cumsum(self.blocks)
        window: list[int] = []
        for n, block in enumerate(draw.permutation(len(ends)).tolist()):
            window += range(int(ends[block]) - self.blocks[block], int(ends[block]))
            if len(window) >= self.buffer or n == len(ends) - 1:
                room = self.global_batch - len(order) % self.global_batch
                order += self._grouped(draw.permutation(window), draw, room)
                window = []
        return order

    def _grouped(self, rows: np.ndarray, draw: np.random.Generator, room: int) -> list[int]:
        """The rows with their identities put together; `room`: rows that the step which is begun still takes."""
        if self.group == 1:
            return rows.tolist()
        groups: list[list[int]] = []
        unfinished: dict[int, list[int]] = {}
        for row in rows.tolist():
            group = unfinished.setdefault(int(self.person_ids[row]), [])
            group.append(row)
            if len(group) == self.group:
                groups.append(unfinished.pop(int(self.person_ids[row])))
        groups += unfinished.values()
        waiting = [groups[n] for n in draw.permutation(len(groups))]
        order: list[int] = []
        while waiting:
            # The first that fits; where none does, one is parted rather than a step left short.
            n = next((n for n, group in enumerate(waiting) if len(group) <= room), None)
            if n is None:
                group, waiting[0] = waiting[0][:room], waiting[0][room:]
            else:
                group = waiting.pop(n)
            order += group
            room = room - len(group) or self.global_batch
        return order


__all__ = ["GlobalBatchSampler"]
