"""The order of the rows: equal for any number of processes, from any step, with grouped identities."""

from collections import Counter

import pytest

from train.data.sampling import GlobalBatchSampler

PEOPLE = [n // 3 for n in range(60)] + [20, 20, 21, 22]  # 3 images each, and some with fewer


def global_batches(processes: int, per_process: int, **more: int) -> list[list[int]]:
    parts = [
        list(GlobalBatchSampler(PEOPLE, per_process, 1, rank=rank, processes=processes, **more))
        for rank in range(processes)
    ]
    return [sum(steps, []) for steps in zip(*parts, strict=True)]


@pytest.mark.parametrize("together", [1, 2, 4])
def test_any_number_of_processes_sees_the_same_batches(together: int) -> None:
    one = global_batches(1, 12, images_per_identity=together)
    assert len(one) == 5 and len({row for batch in one for row in batch}) == 60
    for processes in (2, 3, 4):
        assert global_batches(processes, 12 // processes, images_per_identity=together) == one


def test_a_new_epoch_is_another_order_that_can_be_entered_at_any_step() -> None:
    sampler = GlobalBatchSampler(PEOPLE, 8, seed=1, images_per_identity=2)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert first != second
    sampler.set_epoch(1, start=5)
    assert list(sampler) == second[5:]


def test_images_of_an_identity_come_together() -> None:
    for batch in global_batches(1, 12, images_per_identity=3):
        groups = Counter(PEOPLE[row] for row in batch)
        # A divided group ends a step or begins one.
        assert all(count == 3 or {batch[0], batch[-1]} & {3 * person, 3 * person + 1, 3 * person + 2}
                   for person, count in groups.items() if person < 20)  # fmt: skip
    complete = GlobalBatchSampler([n // 3 for n in range(60)], 12, seed=1, images_per_identity=3)
    assert all(set(Counter(row // 3 for row in batch).values()) == {3} for batch in complete)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"batch_size": 65}, "65 images per step"), ({"images_per_identity": 9}, "a step has 8 images")],
)
def test_sizes_that_do_not_fit_are_one_line(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GlobalBatchSampler(PEOPLE, **({"batch_size": 8, "seed": 0} | given))
