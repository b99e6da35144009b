"""Every entry point reads every query with a fault as the plain query, and refuses one without a word in one line."""

import pytest

from tests.input_faults.entry_points import Outcome, World
from tests.input_faults.queries import EMPTY, PLAIN, QUERIES
from tests.input_faults.query_entry_points import QUERY_ENTRY_POINTS, Answer


@pytest.fixture(scope="module")
def plain_answers(shared_world: World) -> dict[str, Answer]:
    return {name: entry(shared_world, PLAIN, Outcome()) for name, entry in QUERY_ENTRY_POINTS.items()}


@pytest.mark.parametrize("fault", QUERIES)
@pytest.mark.parametrize("entry", QUERY_ENTRY_POINTS)
def test_the_plain_query_is_read(world: World, plain_answers: dict[str, Answer], entry: str, fault: str):
    written, plain = QUERIES[fault]
    assert plain == PLAIN and plain_answers[entry]
    outcome = Outcome()
    assert QUERY_ENTRY_POINTS[entry](world, written, outcome) == plain_answers[entry]
    assert not outcome.failed


@pytest.mark.parametrize("fault", EMPTY)
@pytest.mark.parametrize("entry", QUERY_ENTRY_POINTS)
def test_a_query_without_a_word_is_refused(world: World, entry: str, fault: str):
    outcome = Outcome()
    assert QUERY_ENTRY_POINTS[entry](world, EMPTY[fault], outcome) == []
    assert outcome.failed and outcome.messages and all("\n" not in message for message in outcome.messages)
