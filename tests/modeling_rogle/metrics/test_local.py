"""The local protocol with grades and ignored regions against plain loops, its memory, and grounding."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_rogle.metrics import ranks
from modeling_rogle.metrics.local import grounding_scores, local_scores, rank_regions
from modeling_rogle.metrics.relevance import claim_relevance
from tests.helpers.metrics import graded_by_loops


def local_world(seed: int) -> dict:
    """A small gallery with ties, several grades, and ignored regions. With a one-hot gallery, the coordinates of a
    query are its similarities up to its length."""
    rng = np.random.default_rng(seed)
    n_query, n_region, n_image = int(rng.integers(1, 6)), int(rng.integers(1, 40)), int(rng.integers(1, 6))
    grades = {
        (int(rng.integers(n_query)), int(rng.integers(n_region))): int(rng.integers(4))
        for _ in range(int(rng.integers(0, 80)))
    }
    return {
        "sentence_embeds": rng.integers(0, 4, (n_query, n_region)).astype(np.float32),
        "sentence_image_ids": rng.integers(-1, n_image, n_query),
        "gallery_embeds": np.eye(n_region, dtype=np.float32),
        "gallery_image_ids": rng.integers(-1, n_image, n_region),
        "relevance": [[q, g, grade] for (q, g), grade in grades.items()],
    }


def within_by_loops(world: dict, ties: str) -> dict[str, float]:
    grades = {(q, g): grade for q, g, grade in world["relevance"]}
    hits, chances = [], []
    for q, image in enumerate(world["sentence_image_ids"]):
        inside = [g for g, other in enumerate(world["gallery_image_ids"]) if other == image and grades.get((q, g)) != 0]
        relevant = {g for g in inside if grades.get((q, g), 0) > 0}
        if not relevant:
            continue
        entries = []
        for g in inside:
            tie = {"pessimistic": g in relevant, "optimistic": g not in relevant, "stable": g}[ties]
            entries.append((-world["sentence_embeds"][q][g], tie, g))
        hits.append(min(entries)[2] in relevant)
        chances.append(len(relevant) / len(inside))
    n = len(hits)
    values = {"within-R@1": hits, "within-chance": chances}
    return {name: 100 * sum(value) / n if n else 0.0 for name, value in values.items()} | {"within-queries": n}


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 100_000), st.sampled_from(ranks.TIES))
def test_graded_and_ignored_relevance_equals_plain_loops(seed: int, ties: str) -> None:
    world = local_world(seed)
    grades = {(q, g): grade for q, g, grade in world["relevance"]}
    expected = graded_by_loops(world["sentence_embeds"], grades, ties) | within_by_loops(world, ties)
    found = local_scores(**world, ties=ties)
    assert found == pytest.approx(expected | {"gallery": len(world["gallery_embeds"])}, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 100_000), st.integers(1, 3))
def test_blocks_and_tensors_do_not_change_the_figures(seed: int, block_rows: int) -> None:
    world = local_world(seed)
    similarity = torch.from_numpy(world["sentence_embeds"] @ world["gallery_embeds"])
    table = np.array(world["relevance"], dtype=np.int64).reshape(-1, 3)

    def relevance(start: int, stop: int) -> tuple[np.ndarray, ...]:
        part = table[(table[:, 0] >= start) & (table[:, 0] < stop)]
        return part[:, 0] - start, part[:, 1], part[:, 2]

    ids = world["sentence_image_ids"], world["gallery_image_ids"]
    scores = rank_regions(lambda a, b: similarity[a:b], relevance, *ids, block_rows=block_rows).scores()
    assert local_scores(**world) == scores | {"gallery": len(similarity[0])}


def test_the_best_grade_of_a_pair_counts_and_it_is_not_ignored() -> None:
    arguments = {"gallery_embeds": np.eye(2), "gallery_image_ids": [0, 0]}
    query = {"sentence_embeds": [[0.5, 0.9]], "sentence_image_ids": [0]}
    scores = local_scores(**query, **arguments, relevance=[[0, 1, 1], [0, 1, 3], [0, 0, 2]])
    assert (scores["nDCG@10"], scores["positives"]) == (100, 2)
    with_ignored = local_scores(**query, **arguments, relevance=[[0, 0, 0], [0, 1, 1], [0, 0, 3]])
    assert (with_ignored["positives"], with_ignored["within-chance"]) == (2, 100)


@pytest.mark.parametrize(
    ("relevance", "message"),
    [
        ([[0, 1]], "relevance must be rows of three integers"),
        ([[0, 1, 0.5]], "relevance must be rows of three integers"),
        ([[2, 0, 1]], "relevance names a query outside 0..0"),
        ([[0, -1, 1]], "relevance names a gallery row outside 0..1"),
        ([[0, 0, 4]], "relevance names a grade outside 0..3"),
    ],
)
def test_bad_relevance_is_named(relevance: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        local_scores([[1.0, 0.0]], [0], np.eye(2), [0, 1], relevance)


def test_a_collapsed_model_has_r1_of_0_and_no_relevance_drops_every_query() -> None:
    arguments = (np.ones((2, 4)), [0, 1], np.ones((6, 4)), [0, 0, 0, 1, 1, 1])
    scores = local_scores(*arguments, relevance=[[0, 0, 3], [1, 3, 3], [0, 4, 1]])
    assert (scores["R@1"], scores["within-R@1"], scores["chance"]) == (0, 0, 25)
    assert local_scores(*arguments, relevance=[[0, 0, 3]], ties="optimistic")["within-R@1"] == 100
    none = local_scores(*arguments, relevance=[])
    assert (none["queries"], none["dropped_queries"], none["within-queries"], none["R@1"]) == (0, 2, 0, 0)


def test_memory_grows_with_the_pairs_and_not_with_queries_times_gallery() -> None:
    """At 25,000 x 20,000 one bit for each pair of a sentence and a region would be 60 MB, one byte 500 MB."""
    n_query, n_region, n_fact = 25_000, 20_000, 12
    rng = np.random.default_rng(0)
    facts = rng.integers(0, 8, (n_region, n_fact)) + 8 * np.arange(n_fact)
    region_facts = np.stack([np.repeat(np.arange(n_region), n_fact), facts.reshape(-1)], axis=1)
    own = rng.integers(0, n_region, n_query)
    parts = np.stack([rng.permutation(n_fact)[:2] for _ in range(n_query)])
    claims = np.stack([np.repeat(np.arange(n_query), 2), np.zeros(2 * n_query, int),
                       np.take_along_axis(facts[own], parts, 1).reshape(-1)], axis=1)  # fmt: skip
    person, image = np.arange(n_region) // 20, np.arange(n_region) // 5
    pairs = np.stack([np.arange(n_query), own], axis=1)
    tracemalloc.start()
    relevance = claim_relevance(claims, region_facts, image, pairs, person[own], person)
    total = 0
    for start in range(0, n_query, 838):  # the queries of a block of 64 MiB
        rows, _, grades = relevance(start, min(start + 838, n_query))
        assert (np.bincount(rows[grades == 3]) == 1).all()
        total += len(rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total > 250 * n_query, "the claims are too rare to measure anything"
    assert peak < 100 << 20


def test_grounding_by_hand() -> None:
    true = [[10, 10, 20, 20]] * 4
    pred = [[10, 10, 20, 20], [10, 10, 20, 10], [20, 20, 20, 20], [29, 29, 4, 4]]  # IoU 1, 1/2, 1/7, 1/415
    scores = grounding_scores(pred, true)
    assert scores == pytest.approx({"pointing": 75, "IoU@0.5": 50, "grounded": 4})
    clipped = grounding_scores([[-100, 0, 130, 30]], [[0, 0, 30, 60]], image_sizes=[[30, 30]])
    assert (clipped["IoU@0.5"], clipped["pointing"]) == (100, 100)
    assert grounding_scores([], [])["grounded"] == 0


def test_any_of_several_true_boxes_counts_once() -> None:
    pred = [[0, 0, 4, 4], [20, 20, 4, 4]]
    true = [[0, 0, 4, 4], [0, 0, 4, 5], [9, 9, 2, 2], [20, 22, 4, 4]]
    scores = grounding_scores(pred, true, [[30, 30]] * 2, box_queries=[0, 0, 1, 1])
    assert scores == {"pointing": 100, "IoU@0.5": 50, "grounded": 2}  # IoU of the last pair: 1/3


def test_grounding_refuses_bad_boxes() -> None:
    with pytest.raises(ValueError, match=r"true_boxes\[1\] has no area"):
        grounding_scores([[0, 0, 1, 1]] * 2, [[0, 0, 1, 1], [0, 0, 0, 5]])
    with pytest.raises(ValueError, match="pred_boxes has 1 rows, true_boxes has 2"):
        grounding_scores([[0, 0, 1, 1]], [[0, 0, 1, 1]] * 2)
    with pytest.raises(ValueError, match="pred_boxes must have shape"):
        grounding_scores([[0, 0, 1]], [[0, 0, 1, 1]])
    with pytest.raises(ValueError, match="box_queries lacks row 0 of pred_boxes"):
        grounding_scores([[0, 0, 1, 1]] * 2, [[0, 0, 1, 1]], box_queries=[1])
    with pytest.raises(ValueError, match=r"box_queries names a row outside 0\.\.1"):
        grounding_scores([[0, 0, 1, 1]] * 2, [[0, 0, 1, 1]], box_queries=[2])
