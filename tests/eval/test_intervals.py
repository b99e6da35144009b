"""Bootstrap over identities, against a loop that draws identities one by one."""

import numpy as np
import pytest

from eval.intervals import NAMES, bootstrap
from modeling_rogle.metrics.ranks import Ranking


def make(people: int, each: int, seed: int = 0) -> tuple[Ranking, np.ndarray]:
    """Queries that differ between identities and little within one."""
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(people), each)
    first = rng.integers(1, 4, people).repeat(each)
    precision = np.clip(rng.random(people).repeat(each) + 0.01 * rng.standard_normal(len(person)), 0, 1)
    one = np.ones(len(person), dtype=np.int64)
    return Ranking(first, precision, precision / 2, one, precision / 3, precision / 4, 9 * one), person


def test_intervals_equal_resampling_of_whole_identities() -> None:
    ranking, person = make(30, 3)
    intervals = bootstrap(ranking, person, draws=4000)
    rng = np.random.default_rng(7)
    means = []
    for _ in range(4000):
        drawn = rng.integers(0, 30, 30)
        queries = np.concatenate([np.flatnonzero(person == p) for p in drawn])
        scores = ranking.take(queries).scores() | ranking.take(queries).graded_scores()
        means.append([scores[name] for name in NAMES])
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    for k, name in enumerate(NAMES):
        assert intervals[name] == pytest.approx((low[k], high[k]), abs=1.5), name
        whole = ranking.scores() | ranking.graded_scores()
        assert intervals[name][0] <= whole[name] <= intervals[name][1]


def test_more_captions_of_the_same_people_do_not_narrow_the_interval() -> None:
    few, many = bootstrap(*make(20, 1)), bootstrap(*make(20, 40))
    width = {name: few[name][1] - few[name][0] for name in NAMES}
    assert all(many[name][1] - many[name][0] > 0.8 * width[name] for name in NAMES)


def test_the_same_seed_gives_the_same_interval() -> None:
    ranking, person = make(12, 2)
    assert bootstrap(ranking, person, draws=50) == bootstrap(ranking, person, draws=50)
    assert bootstrap(ranking, person, draws=50) != bootstrap(ranking, person, draws=50, seed=1)
    assert bootstrap(ranking, person + 1000, draws=50) == bootstrap(ranking, person, draws=50)


def test_queries_without_a_positive_are_left_out() -> None:
    ranking, person = make(12, 2)
    none = Ranking(*(np.concatenate([values, np.zeros_like(values[:5])]) for values in vars(ranking).values()))
    people = np.concatenate([person, np.full(5, 99)])
    assert bootstrap(none, people, draws=50) == bootstrap(ranking, person, draws=50)
    assert bootstrap(none.take(np.arange(24, 29)), people[24:], draws=50) == {}


def test_one_identity_has_no_width_and_bad_arguments_are_named() -> None:
    ranking, person = make(1, 6)
    low, high = bootstrap(ranking, person, draws=20)["mAP"]
    assert low == pytest.approx(high) == pytest.approx(ranking.scores()["mAP"])
    for arguments in ({"draws": 0}, {"level": 1.0}):
        with pytest.raises(ValueError, match="draws must be at least 1"):
            bootstrap(ranking, person, **arguments)
