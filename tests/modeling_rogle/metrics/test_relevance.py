"""Relevance from facts and from labels against plain loops."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_rogle.metrics import relevance
from modeling_rogle.metrics.relevance import FactIndex, claim_relevance, label_relevance

JACKET, TROUSERS, RED, BLUE = range(4)


def true_regions_by_loops(groups: list[set[int]], facts: list[set[int]], image: list[int]) -> list[int]:
    """The contract in plain words, with every assignment of different regions to the groups tried."""
    found = []
    for r, own_image in enumerate(image):
        inside = [other for other, other_image in enumerate(image) if other_image == own_image]
        possible = any(
            all(group <= facts[region] for group, region in zip(groups, chosen, strict=True))
            for chosen in permutations(inside, len(groups))
        )
        if groups and possible and any(group <= facts[r] for group in groups):
            found.append(r)
    return found


@st.composite
def fact_worlds(draw):
    n_region, n_sentence = draw(st.integers(0, 9)), draw(st.integers(1, 4))
    image = draw(st.lists(st.integers(0, 2), min_size=n_region, max_size=n_region))
    facts = draw(st.lists(st.sets(st.integers(0, 3), max_size=4), min_size=n_region, max_size=n_region))
    group = st.sets(st.integers(0, 4), min_size=1, max_size=2)  # fact 4 is of no region
    claims = draw(st.lists(st.lists(group, max_size=3), min_size=n_sentence, max_size=n_sentence))
    return claims, facts, image


def as_tables(claims, facts) -> tuple[np.ndarray, np.ndarray]:
    triples = [(s, g, f) for s, groups in enumerate(claims) for g, group in enumerate(groups) for f in group]
    pairs = [(r, f) for r, of_region in enumerate(facts) for f in of_region]
    return np.array(triples, dtype=np.int64).reshape(-1, 3), np.array(pairs, dtype=np.int64).reshape(-1, 2)


def graded_pairs(pairs, n_sentence: int, step: int) -> dict[tuple[int, int], int]:
    """All pairs with their highest grade, read in blocks of `step` sentences."""
    found: dict[tuple[int, int], int] = {}
    for start in range(0, n_sentence, step):
        for row, column, grade in zip(*pairs(start, min(start + step, n_sentence)), strict=True):
            key = (start + int(row), int(column))
            found[key] = max(int(grade), found.get(key, 0))
    return found


@settings(max_examples=300, deadline=None)
@given(fact_worlds(), st.randoms(use_true_random=False), st.integers(1, 3))
def test_relevance_by_facts_equals_plain_loops(world, random, step) -> None:
    claims, facts, image = world
    triples, pairs = as_tables(claims, facts)
    order = list(range(len(triples)))
    random.shuffle(order)
    region_person = np.array(image, dtype=np.int64) % 2
    sentence_person = np.array([random.randrange(2) for _ in claims])
    own = [(s, r) for s in range(len(claims)) for r in range(len(image))
           if region_person[r] == sentence_person[s] and random.random() < 0.2]  # fmt: skip
    expected = {}
    for s, groups in enumerate(claims):
        for r in true_regions_by_loops(groups, facts, image):
            expected[s, r] = 2 if region_person[r] == sentence_person[s] else 1
    expected |= dict.fromkeys(own, 3)
    found = claim_relevance(
        triples[order], pairs, np.array(image, dtype=np.int64), np.array(own, dtype=np.int64).reshape(-1, 2),
        sentence_person, region_person,
    )  # fmt: skip
    assert graded_pairs(found, len(claims), step) == expected


def test_the_example_of_the_docstring() -> None:
    index = FactIndex(np.array([[0, JACKET], [0, RED], [1, TROUSERS], [1, RED]]), np.array([0, 0]))
    assert index.regions([{JACKET}]).tolist() == [0]
    assert index.regions([{RED}]).tolist() == [0, 1]
    assert index.regions([{JACKET, RED}, {TROUSERS}]).tolist() == [0, 1]
    assert index.regions([{JACKET}, {JACKET}]).tolist() == []
    assert index.regions([]).tolist() == index.regions([{BLUE}]).tolist() == []


def test_two_groups_need_two_regions_of_one_image() -> None:
    # Image 0 has two red regions, image 1 one, image 2 a red and a blue one.
    pairs = np.array([[0, RED], [1, RED], [2, RED], [3, RED], [4, BLUE]])
    index = FactIndex(pairs, np.array([0, 0, 1, 2, 2]))
    assert index.regions([{RED}, {RED}]).tolist() == [0, 1]
    assert index.regions([{RED}, {BLUE}]).tolist() == [3, 4]
    assert index.regions([{RED}, {RED}, {RED}]).tolist() == []


def test_results_are_the_same_without_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, image = np.array([[0, RED], [1, RED]]), np.array([0, 1])
    cached = FactIndex(pairs, image)
    assert cached.regions([{RED}]) is cached.regions([[RED]])
    monkeypatch.setattr(relevance, "CACHE_BYTES", 0)
    assert FactIndex(pairs, image).regions([{RED}]).tolist() == [0, 1]


@pytest.mark.parametrize(("groups", "message"), [([[]], "a group is empty"), ([[RED]] * 9, "9 groups, at most 8")])
def test_claims_that_cannot_be_decided_are_named(groups: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FactIndex(np.array([[0, RED]]), np.array([0])).regions(groups)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 100_000), st.integers(1, 3))
def test_relevance_by_labels_equals_plain_loops(seed: int, step: int) -> None:
    rng = np.random.default_rng(seed)
    n_region, n_sentence = int(rng.integers(1, 12)), int(rng.integers(1, 6))
    region_person, region_labels = rng.integers(0, 3, n_region), rng.integers(-1, 3, n_region)
    sentence_person, sentence_text = rng.integers(0, 3, n_sentence), rng.integers(0, 4, n_sentence)
    texts = [set(rng.integers(0, 4, rng.integers(0, 3)).tolist()) for _ in range(n_region)]
    facts = [set(rng.integers(0, 4, rng.integers(0, 4)).tolist()) for _ in range(n_region)]
    claims = [[set(rng.integers(0, 4, 2).tolist())] if rng.random() < 0.7 else [] for _ in range(n_sentence)]
    own = [(s, r) for s in range(n_sentence) for r in range(n_region)
           if region_person[r] == sentence_person[s] and rng.random() < 0.2]  # fmt: skip
    expected = {}
    for s in range(n_sentence):
        labels = {region_labels[r] for q, r in own if q == s and region_labels[r] >= 0}
        for r in range(n_region):
            same_person = region_person[r] == sentence_person[s]
            same_text = sentence_text[s] in texts[r] and any(q == s for q, _ in own)
            if (s, r) in own:
                expected[s, r] = 3
            elif same_person and (region_labels[r] in labels or same_text):
                expected[s, r] = 2
            elif same_text or any(group <= facts[r] for group in claims[s]):
                expected[s, r] = 0
    triples, pairs = as_tables(claims, facts)
    region_texts = np.array([(r, t) for r in range(n_region) for t in texts[r]], dtype=np.int64).reshape(-1, 2)
    found = label_relevance(
        np.array(own, dtype=np.int64).reshape(-1, 2), region_labels, sentence_text, region_texts, sentence_person,
        region_person, triples, pairs,
    )  # fmt: skip
    assert graded_pairs(found, n_sentence, step) == expected
