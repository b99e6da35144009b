"""The global, strict local and joint protocols against plain loops and examples, and their errors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_rogle.metrics import ranks
from modeling_rogle.metrics.ranks import Ranking, rank, same_id
from modeling_rogle.metrics.retrieval import (
    global_ranking,
    global_scores,
    joint_ranking,
    joint_scores,
    local_strict_scores,
)
from tests.helpers.metrics import joint_by_loops, joint_world, scores_by_loops


def test_rankings_of_parts_of_the_queries_join_to_the_whole() -> None:
    rng = np.random.default_rng(6)
    query, gallery = rng.standard_normal((401, 24)), rng.standard_normal((200, 24))
    ids, gallery_ids = np.arange(401) % 13, np.arange(200) % 11
    whole = global_ranking(query, ids, gallery, gallery_ids)
    parts = [global_ranking(query[part], ids[part], gallery, gallery_ids) for part in (slice(201), slice(201, None))]
    assert Ranking.concatenate(parts).scores() == whole.scores()
    assert all((getattr(Ranking.concatenate(parts), name) == value).all() for name, value in vars(whole).items())
    assert whole.scores()["dropped_queries"] == (~whole.has_positive).sum() > 0
    repeated = whole.take(np.array([3, 3, 12, 100]))
    assert repeated.first_rank.tolist() == whole.first_rank[[3, 3, 12, 100]].tolist()


def test_images_of_the_same_camera_are_ignored_as_in_re_identification() -> None:
    query, gallery = [[0.9, 0.8, 0.5, 0.7]], np.eye(4)
    arguments = (query, [1], gallery, [1, 2, 1, 1])
    assert global_scores(*arguments)["R@1"] == 100
    # Without the first: another person of the same camera (0.8), then 0.7 and 0.5.
    scores = global_scores(*arguments, query_cameras=["a"], gallery_cameras=["a", "a", None, "b"])
    assert (scores["R@1"], scores["median_rank"]) == (0, 2)
    assert scores["mAP"] == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)
    numbers = global_scores(*arguments, query_cameras=np.array([4]), gallery_cameras=torch.tensor([4, 4, -1, 7]))
    assert numbers == scores
    unknown = global_scores(*arguments, query_cameras=[-1], gallery_cameras=[-1, -1, -1, -1])
    assert unknown == global_scores(*arguments)
    alone = global_scores(*arguments, query_cameras=[1], gallery_cameras=[1, 1, 1, 1])
    assert (alone["queries"], alone["dropped_queries"]) == (0, 1)
    with pytest.raises(ValueError, match="go together"):
        global_scores(*arguments, query_cameras=[1])
    with pytest.raises(ValueError, match="gallery_cameras has 1 rows, gallery_embeds has 4"):
        global_scores(*arguments, query_cameras=[1], gallery_cameras=[1])


@pytest.mark.parametrize("n_gallery", [2, 5, 17, 200])
def test_a_collapsed_model_has_r1_of_0(n_gallery: int) -> None:
    rng = np.random.default_rng(0)
    point = rng.standard_normal(24)
    query, gallery = np.tile(point, (40, 1)), np.tile(point, (n_gallery, 1))
    ids = np.arange(n_gallery)
    scores = global_scores(query, np.arange(40) % n_gallery, gallery, ids)
    assert scores["R@1"] == 0
    assert scores["mAP"] == pytest.approx(100 / n_gallery)
    assert global_scores(query, np.arange(40) % n_gallery, gallery, ids, ties="optimistic")["R@1"] == 100


def test_queries_without_a_positive_are_counted_and_left_out() -> None:
    rng = np.random.default_rng(2)
    query, gallery = rng.standard_normal((6, 8)), rng.standard_normal((9, 8))
    with_strangers = global_scores(query, [0, 1, 2, 7, 8, 9], gallery, np.arange(9) % 3)
    without = global_scores(query[:3], [0, 1, 2], gallery, np.arange(9) % 3)
    assert (with_strangers.pop("queries"), with_strangers.pop("dropped_queries")) == (3, 3)
    assert with_strangers == {k: v for k, v in without.items() if k not in ("queries", "dropped_queries")}
    none = global_scores(query, [7] * 6, gallery, np.arange(9) % 3)
    assert (none["queries"], none["dropped_queries"], none["mAP"], none["R@1"]) == (0, 6, 0, 0)


def test_all_positives_and_k_beyond_the_gallery() -> None:
    rng = np.random.default_rng(3)
    scores = global_scores(rng.standard_normal((4, 8)), [1] * 4, rng.standard_normal((3, 8)), [1] * 3)
    assert all(scores[name] == pytest.approx(100) for name in ("R@1", "R@5", "R@10", "mAP", "mINP"))


def test_scale_and_duplicated_queries_change_nothing() -> None:
    rng = np.random.default_rng(4)
    query, gallery = rng.standard_normal((20, 8)), rng.standard_normal((30, 8))
    ids = np.arange(20) % 10, np.arange(30) % 10
    once = global_scores(query, ids[0], gallery, ids[1])
    twice = global_scores(np.tile(query * 7, (2, 1)), np.tile(ids[0], 2), gallery / 3, ids[1])
    assert twice == pytest.approx(once | {"queries": 40})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_similarities_are_refused_and_embeddings_upcast(dtype: torch.dtype) -> None:
    query, gallery = torch.randn(5, 8).to(dtype), torch.randn(6, 8).to(dtype)
    with pytest.raises(ValueError, match="float32"):
        rank(lambda a, b: query[a:b] @ gallery.T, 5, 6, same_id(np.arange(5), np.arange(6)))
    low = global_scores(query, torch.arange(5), gallery, torch.arange(6))
    assert low == global_scores(query.float(), torch.arange(5), gallery.float(), torch.arange(6))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.full((2, 3), np.nan), [0, 1], np.ones((2, 3)), [0, 1]), "query_embeds holds a value that is not finite"),
        ((np.ones((2, 3)), [0, 1], np.full((2, 3), np.inf), [0, 1]), "gallery_embeds holds a value that is not finite"),
        ((np.ones((2, 3)), [0], np.ones((2, 3)), [0, 1]), "query_ids has 1 rows, query_embeds has 2"),
        ((np.ones((2, 3)), [0, 1], np.ones((2, 3)), [0]), "gallery_ids has 1 rows, gallery_embeds has 2"),
        ((np.ones((2, 3)), [0, 1], np.ones((2, 4)), [0, 1]), "query_embeds has 3 dimensions, gallery_embeds has 4"),
        ((np.ones((2, 3)), [0, 1], np.ones((0, 3)), []), "gallery_embeds is empty"),
        ((np.ones((0, 3)), [], np.ones((2, 3)), [0, 1]), "query_embeds is empty"),
        ((np.ones((2, 3)), [0.5, 1], np.ones((2, 3)), [0, 1]), "query_ids must be a list of integers"),
        ((np.ones(3), [0, 1, 2], np.ones((2, 3)), [0, 1]), "query_embeds must have shape"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        global_scores(*arguments)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000))
def test_strict_local_equals_plain_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_query, n_region = int(rng.integers(1, 12)), int(rng.integers(1, 15))
    # One-hot gallery: a query's coordinates are its similarities up to its length, ties included.
    query = rng.integers(0, 4, (n_query, n_region)).astype(np.float32)
    region_ids = rng.permutation(n_region) + 100
    target = np.where(rng.random(n_query) < 0.2, -1, rng.choice(region_ids, n_query))
    query_person, query_text = rng.integers(0, 3, n_query), rng.integers(-1, 3, n_query)
    person = rng.integers(0, 3, n_region)
    texts = [[int(t) for t in rng.integers(-1, 3, rng.integers(0, 3))] for _ in range(n_region)]
    ignored = {
        (q, g)
        for q in range(n_query)
        for g in range(n_region)
        if region_ids[g] != target[q] and person[g] == query_person[q] and query_text[q] >= 0
        if query_text[q] in texts[g]
    }
    found = local_strict_scores(
        query, target, query_person, query_text, np.eye(n_region, dtype=np.float32), region_ids, person, texts
    )
    assert found == pytest.approx(scores_by_loops(query, target, region_ids, ignored=ignored) | {"gallery": n_region})


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 100_000), st.sampled_from(ranks.TIES))
def test_joint_equals_plain_loops(seed: int, ties: str) -> None:
    world = joint_world(seed)
    assert joint_scores(**world, ties=ties) == pytest.approx(joint_by_loops(world, ties), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000), st.randoms(use_true_random=False))
def test_the_order_of_a_joint_gallery_does_not_matter(seed: int, random) -> None:
    world = joint_world(seed)
    order = list(range(len(world["gallery_kind"])))
    random.shuffle(order)
    moved = world | {name: value[order] for name, value in world.items() if name.startswith(("gallery", "parent"))}
    moved["relevance"] = [[q, order.index(g), grade] for q, g, grade in world["relevance"]]
    assert joint_scores(**moved) == pytest.approx(joint_scores(**world), abs=1e-9)


def parent_and_region() -> dict:
    """One sentence; its region is in image 7 of person 1, who is in image 8 too; image 9 of person 2 comes second."""
    return {
        "query_embeds": [[0.5, 0.8, 0.9, 0.6]],
        "query_person_ids": [1],
        "query_kind": [1],
        "gallery_embeds": np.eye(4),
        "gallery_person_ids": [1, 1, 1, 2],
        "gallery_kind": [0, 1, 0, 0],
        "parent_image_ids": [7, 7, 8, 9],
        "relevance": [[0, 1, 3], [0, 2, 0]],
    }


def test_the_parent_image_of_a_sentence_is_found_through_its_region() -> None:
    ranking = joint_ranking(**parent_and_region())
    assert ranking.n_positives.tolist() == [2], "the link from the region to its image is lost"
    assert ranking.average_precision == pytest.approx([(1 / 1 + 2 / 3) / 2])
    # Image 7 is ignored if its region is; image 8 is then the only relevant one, and the most similar.
    elsewhere = joint_ranking(**(parent_and_region() | {"relevance": [[0, 1, 0], [0, 2, 1]]}))
    assert (elsewhere.average_precision, elsewhere.n_candidates) == (pytest.approx([1]), [2])


@pytest.mark.parametrize("lost", [[7, -1, 8, 9], [7, 5, 8, 9], [6, 7, 8, 9]])
def test_a_lost_link_is_an_error(lost: list[int]) -> None:
    with pytest.raises(ValueError, match=r"parent_image_ids\[1\] is .*no image of the gallery"):
        joint_scores(**(parent_and_region() | {"parent_image_ids": lost}))


def test_joint_refuses_image_ids_that_are_not_unique() -> None:
    with pytest.raises(ValueError, match="parent_image_ids of images must be non-negative and each occur once"):
        joint_scores(**(parent_and_region() | {"parent_image_ids": [7, 7, 7, 9]}))


def test_a_collapsed_model_has_r1_of_0_in_a_joint_gallery() -> None:
    world = {**parent_and_region(), "query_embeds": np.ones((1, 4)), "gallery_embeds": np.ones((4, 4))}
    assert joint_scores(**world)["sentence/R@1"] == 0
    assert joint_scores(**world, ties="optimistic")["sentence/R@1"] == 100
    caption = joint_scores(**(world | {"query_kind": [0]}))
    assert (caption["caption/R@1"], caption["caption/R@5"], caption["sentence/queries"]) == (0, 100, 0)


def test_equal_sentences_are_ignored_within_a_person_and_wrong_across_people() -> None:
    query, gallery = [[0.0, 0.5, 0.6]], np.eye(3)
    arguments = {"target_region_ids": [1], "query_person_ids": [7], "query_text_ids": [4]}
    gallery_arguments = {"gallery_embeds": gallery, "gallery_region_ids": [0, 1, 2], "gallery_text_ids": [4, 4, 4]}
    same = local_strict_scores(query, **arguments, **gallery_arguments, gallery_person_ids=[7, 7, 7])
    other = local_strict_scores(query, **arguments, **gallery_arguments, gallery_person_ids=[7, 7, 8])
    assert (same["R@1"], other["R@1"]) == (100, 0)


def test_region_ids_must_be_distinct() -> None:
    with pytest.raises(ValueError, match="gallery_region_ids"):
        local_strict_scores(np.ones((1, 2)), [0], [0], [0], np.ones((2, 2)), [0, 0], [0, 0], [0, 0])


@pytest.mark.parametrize("texts", [[4, [5]], [[4], 5], [[], 3], [[4], [[5, 6]]], [[4], ["a"]], [4, 5, 6]])
def test_text_ids_of_regions_are_named_when_they_are_neither(texts: list) -> None:
    with pytest.raises(ValueError, match="gallery_text_ids"):
        local_strict_scores(np.ones((1, 2)), [0], [0], [0], np.ones((2, 2)), [0, 1], [0, 0], texts)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"gallery_embeds": [[1.0, 0.0], [1.0]]}, "gallery_embeds must be rows of numbers"),
        ({"gallery_embeds": 5}, "gallery_embeds must be rows of numbers, not 5"),
        ({"device": "abacus"}, "device 'abacus': "),
        ({"query_cameras": 5, "gallery_cameras": [1, 2]}, "query_cameras and gallery_cameras must be lists"),
    ],
)
def test_a_wrong_argument_is_named_in_one_line(wrong: dict, message: str) -> None:
    given = {"query_embeds": np.eye(2), "query_ids": [1, 2], "gallery_embeds": np.eye(2), "gallery_ids": [1, 2]}
    with pytest.raises(ValueError, match=message) as error:
        global_ranking(**given | wrong)
    assert "\n" not in str(error.value)
