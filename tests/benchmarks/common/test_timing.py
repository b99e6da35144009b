"""Timing in rounds."""

from benchmarks.common.timing import describe_machine, format_ratio, time_in_rounds


def test_variants_take_turns_and_each_round_starts_with_the_next() -> None:
    calls: list[str] = []
    seconds = time_in_rounds({name: lambda name=name: calls.append(name) for name in "abc"}, rounds=2)
    assert "".join(calls) == "abc" + "bca" + "cab"
    assert list(seconds) == ["a", "b", "c"] and all(len(values) == 2 for values in seconds.values())


def test_a_ratio_is_that_of_medians_with_the_range_of_rounds() -> None:
    assert format_ratio([3.0, 3.0, 3.0], [1.0, 2.0, 3.0]) == "1.50 (1.00 to 3.00)"


def test_the_machine_is_described_with_threads_and_torch() -> None:
    assert "thread(s), torch" in describe_machine()
