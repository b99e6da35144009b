"""The ranking engine against plain loops, its edges, and its properties."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_rogle.metrics import ranks as counting
from modeling_rogle.metrics.retrieval import (
    Ranking,
    cosine,
    global_ranking,
    global_scores,
    grounding_scores,
    joint_ranking,
    joint_scores,
    local_scores,
    rank,
    same_id,
)


def slow_scores(similarity, query_ids, gallery_ids, ties="pessimistic", ignored=frozenset()) -> dict[str, float]:
    """The definition, in plain loops and Python floats."""
    hits, firsts, precisions, penalties = {1: [], 5: [], 10: []}, [], [], []
    for q, wanted in enumerate(query_ids):
        entries = []
        for g, offered in enumerate(gallery_ids):
            if (q, g) in ignored:
                continue
            good = offered == wanted
            tie_order = {"pessimistic": good, "optimistic": not good, "stable": g}[ties]
            entries.append((-float(similarity[q][g]), tie_order, good))
        entries.sort(key=lambda entry: entry[:2])
        ranks = [place for place, entry in enumerate(entries, 1) if entry[2]]
        if not ranks:
            continue
        firsts.append(ranks[0])
        for k, found in hits.items():
            found.append(ranks[0] <= k)
        precisions.append(sum(n / place for n, place in enumerate(ranks, 1)) / len(ranks))
        penalties.append(len(ranks) / ranks[-1])
    n = len(precisions)
    firsts = sorted(firsts)
    median = (firsts[(n - 1) // 2] + firsts[n // 2]) / 2 if n else 0.0
    mean = {f"R@{k}": 100 * sum(found) / n if n else 0.0 for k, found in hits.items()}
    mean |= {"mAP": 100 * sum(precisions) / n if n else 0.0, "mINP": 100 * sum(penalties) / n if n else 0.0}
    return mean | {"median_rank": median, "queries": n, "dropped_queries": len(query_ids) - n}


def slow_joint(world: dict, ties="pessimistic") -> tuple[dict[str, float], list[list[int]]]:
    """The joint protocol in plain loops, from what a row says of itself; also the relevant entries of every query."""
    relevant, ignored = [], set()
    for q, kind in enumerate(world["query_kind"]):
        entries = range(len(world["gallery_kind"]))
        person = world["query_person_ids"][q]
        same = [g for g in entries if world["gallery_person_ids"][g] == person]
        if kind == 0:
            images = {world["parent_image_ids"][g] for g in same if world["gallery_kind"][g] == 0}
            relevant.append([g for g in entries if world["parent_image_ids"][g] in images])
            continue
        target = [
            g
            for g in entries
            if world["gallery_kind"][g] == 1 and world["gallery_region_ids"][g] == world["target_region_ids"][q]
        ]
        shown = [world["parent_image_ids"][g] for g in target]
        parent = [g for g in entries if world["gallery_kind"][g] == 0 and world["parent_image_ids"][g] in shown]
        relevant.append(target + parent)
        for g in same:
            equal = world["query_text_ids"][q] >= 0 and world["query_text_ids"][q] in world["gallery_text_ids"][g]
            if g not in relevant[-1] and (world["gallery_kind"][g] == 0 or equal):
                ignored.add((q, g))
    query, gallery = (np.asarray(world[name], dtype=np.float64) for name in ("query_embeds", "gallery_embeds"))
    similarity = query @ gallery.T
    n_query = len(query)
    flat = [slow_scores(similarity[[q]], [1], [g in relevant[q] for g in range(len(gallery))], ties,
                        {(0, g) for r, g in ignored if r == q}) for q in range(n_query)]  # fmt: skip
    result = {}
    for prefix, kinds in (("", (0, 1)), ("caption/", (0,)), ("sentence/", (1,))):
        chosen = [flat[q] for q in range(n_query) if world["query_kind"][q] in kinds]
        scored = [scores for scores in chosen if scores["queries"]]
        for name in ("R@1", "R@5", "R@10", "mAP", "mINP"):
            result[prefix + name] = sum(scores[name] for scores in scored) / len(scored) if scored else 0.0
        ranks = [scores["median_rank"] for scores in scored]
        result[prefix + "median_rank"] = float(np.median(ranks)) if ranks else 0.0
        result |= {prefix + "queries": len(scored), prefix + "dropped_queries": len(chosen) - len(scored)}
    return result | {"gallery": len(gallery)}, relevant


def joint_world(seed: int) -> dict:
    """A small joint gallery with ties, equal sentences, regions without a sentence and sentences without a region."""
    rng = np.random.default_rng(seed)
    n_image, n_region, n_query = int(rng.integers(1, 6)), int(rng.integers(0, 10)), int(rng.integers(1, 12))
    image_ids, image_person = rng.permutation(n_image) + 50, rng.integers(-1, 2, n_image)
    lies_in = rng.integers(0, n_image, n_region)
    n_gallery = n_image + n_region
    order = rng.permutation(n_gallery)
    kind = np.repeat([0, 1], [n_image, n_region])[order]
    parent = np.concatenate([image_ids, image_ids[lies_in]])[order]
    person = np.concatenate([image_person, image_person[lies_in]])[order]
    # Ids of images and captions are not read: whatever stands there must not matter.
    regions = np.concatenate([rng.integers(-1, 3, n_image), rng.permutation(n_region)])[order]
    query_kind = rng.integers(0, 2, n_query)
    return {
        "query_embeds": rng.integers(0, 4, (n_query, n_gallery)).astype(np.float32),
        "target_region_ids": rng.integers(-1, n_region + 1, n_query),
        "query_person_ids": rng.integers(-1, 3, n_query),
        "query_text_ids": rng.integers(-1, 3, n_query),
        "gallery_embeds": np.eye(n_gallery, dtype=np.float32),
        "gallery_region_ids": regions,
        "gallery_person_ids": person,
        "gallery_text_ids": [[int(t) for t in rng.integers(-1, 3, rng.integers(0, 3))] for _ in range(n_gallery)],
        "query_kind": query_kind,
        "gallery_kind": kind,
        "parent_image_ids": parent,
    }


def scores_of(similarity, query_ids, gallery_ids, **options) -> dict[str, float]:
    similarity = np.asarray(similarity, dtype=np.float32)
    pairs = same_id(np.asarray(query_ids, dtype=np.int64), np.asarray(gallery_ids, dtype=np.int64))
    return rank(lambda a, b: similarity[a:b], *similarity.shape, pairs, **options).scores()


@st.composite
def tables(draw):
    """A similarity matrix on a coarse grid (many ties) with ids, some of them without a partner."""
    n_query, n_gallery = draw(st.integers(1, 6)), draw(st.integers(1, 70))
    cells = st.lists(st.integers(-2, 3), min_size=n_query * n_gallery, max_size=n_query * n_gallery)
    similarity = np.array(draw(cells), dtype=np.float32).reshape(n_query, n_gallery) / 4
    ids = st.integers(0, draw(st.integers(0, 5)))
    query_ids = draw(st.lists(ids, min_size=n_query, max_size=n_query))
    return similarity, query_ids, draw(st.lists(ids, min_size=n_gallery, max_size=n_gallery))


# A long gallery of one identity also crosses from counting to sorting.
@settings(max_examples=150, deadline=None)
@given(tables(), st.sampled_from(counting.TIES), st.integers(1, 3))
def test_equals_plain_loops(table, ties, block_rows) -> None:
    similarity, query_ids, gallery_ids = table
    found = scores_of(similarity, query_ids, gallery_ids, ties=ties, block_rows=block_rows)
    assert found == pytest.approx(slow_scores(similarity, query_ids, gallery_ids, ties), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(tables(), st.sampled_from(("pessimistic", "optimistic")))
def test_counting_equals_sorting(table, ties) -> None:
    counted = scores_of(*table, ties=ties)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "COUNT_UP_TO", 0)
        assert scores_of(*table, ties=ties) == counted


@settings(max_examples=60, deadline=None)
@given(tables(), st.sampled_from(counting.TIES), st.booleans())
def test_a_tensor_counted_where_it_is_gives_the_same(table, ties, by_sorting) -> None:
    similarity, query_ids, gallery_ids = table
    pairs = same_id(np.array(query_ids), np.array(gallery_ids))(0, len(query_ids))
    if not len(pairs[0]):
        return
    listed = counting._best_first(similarity, counting._pair_keys(pairs, "positives", similarity.shape))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "COUNT_UP_TO", 0 if by_sorting else 99)
        # What a CUDA block goes through; on the CPU `rank` itself prefers numpy.
        found = counting._count_ahead_on_device(torch.from_numpy(similarity), *listed, ties)
    assert found.tolist() == counting._count_ahead(similarity, *listed, ties, threads=1).tolist()


@pytest.mark.parametrize("ties", counting.TIES)
def test_threads_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, ties: str) -> None:
    rng = np.random.default_rng(5)
    similarity = (rng.integers(0, 50, (37, 400)) / 50).astype(np.float32)
    pairs = same_id(np.arange(37) % 5, np.arange(400) % 6)
    one = rank(lambda a, b: similarity[a:b], 37, 400, pairs, ties=ties, threads=1)
    monkeypatch.setattr(counting, "THREAD_FROM", 1)
    for options in ({"threads": 3}, {"threads": 3, "block_rows": 7}, {"threads": 50}, {"block_bytes": 4 * 400 * 5}):
        other = rank(lambda a, b: similarity[a:b], 37, 400, pairs, ties=ties, **options)
        assert all((getattr(one, name) == getattr(other, name)).all() for name in vars(one))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 500), st.integers(1, 70), st.data())
def test_parts_of_the_queries_give_every_bit_of_the_whole(n_query: int, n_gallery: int, dimension: int, data) -> None:
    rng = np.random.default_rng(n_query * 10_000 + n_gallery * 100 + dimension)
    query, gallery = (rng.standard_normal((n, dimension)).astype(np.float32) for n in (n_query, n_gallery))
    start = data.draw(st.integers(0, n_query - 1))
    stop = data.draw(st.integers(start + 1, n_query))
    whole = cosine(query, gallery)(0, n_query)
    assert (cosine(query, gallery)(start, stop) == whole[start:stop]).all()
    assert (cosine(query[start:stop], gallery)(0, stop - start) == whole[start:stop]).all()


def test_two_processes_that_do_not_divide_equal_one() -> None:
    rng = np.random.default_rng(6)
    query, gallery = rng.standard_normal((401, 24)), rng.standard_normal((200, 24))
    ids, gallery_ids = np.arange(401) % 13, np.arange(200) % 11
    whole = global_ranking(query, ids, gallery, gallery_ids)
    parts = [global_ranking(query[part], ids[part], gallery, gallery_ids) for part in (slice(201), slice(201, None))]
    assert Ranking.concatenate(parts).scores() == whole.scores()
    assert all((getattr(Ranking.concatenate(parts), name) == value).all() for name, value in vars(whole).items())
    assert whole.scores()["dropped_queries"] == (~whole.kept).sum() > 0
    repeated = whole.take(np.array([3, 3, 12, 100]))
    assert repeated.first_rank.tolist() == whole.first_rank[[3, 3, 12, 100]].tolist()


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_products_of_torch_are_full_float32_whatever_the_caller_trains_with(precision: str) -> None:
    rng = np.random.default_rng(7)
    query, gallery = (rng.standard_normal((n, 96)).astype(np.float32) for n in (80, 70))
    gallery[5] = gallery[9] = gallery[40]
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            block = cosine(query, gallery, device="cpu")(0, 80)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision("highest")
    assert block.dtype == torch.float32 and (block[:, 5] == block[:, 40]).all()
    assert block.numpy() == pytest.approx(cosine(query, gallery)(0, 80), abs=1e-6)
    ids = np.arange(80) % 9, np.arange(70) % 9
    expected = global_scores(query, ids[0], gallery, ids[1])
    assert global_scores(query, ids[0], gallery, ids[1], device="cpu") == pytest.approx(expected, abs=1e-4)


def test_images_of_the_same_camera_are_ignored_as_in_re_identification() -> None:
    query, gallery = [[0.9, 0.8, 0.5, 0.7]], np.eye(4)
    arguments = (query, [1], gallery, [1, 2, 1, 1])
    assert global_scores(*arguments)["R@1"] == 100
    # Without the first: a stranger of the same camera (0.8), then 0.7 and 0.5.
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


@settings(max_examples=60, deadline=None)
@given(tables(), st.data())
def test_ignored_items_are_removed(table, data) -> None:
    similarity, query_ids, gallery_ids = table
    cells = st.tuples(st.integers(0, len(query_ids) - 1), st.integers(0, len(gallery_ids) - 1))
    ignored = sorted(data.draw(st.sets(cells, max_size=30)))

    def ignore(start, stop):
        inside = [(q - start, g) for q, g in ignored if start <= q < stop]
        return [q for q, _ in inside], [g for _, g in inside]

    before = similarity.copy()
    found = scores_of(similarity, query_ids, gallery_ids, ignore=ignore, block_rows=2)
    assert found == pytest.approx(slow_scores(similarity, query_ids, gallery_ids, ignored=set(ignored)), abs=1e-9)
    assert (similarity == before).all(), "the caller's matrix was written to"


@settings(max_examples=60, deadline=None)
@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_the_gallery_does_not_matter(table, random) -> None:
    similarity, query_ids, gallery_ids = table
    order = list(range(len(gallery_ids)))
    random.shuffle(order)
    assert scores_of(similarity, query_ids, gallery_ids) == pytest.approx(
        scores_of(similarity[:, order], query_ids, [gallery_ids[g] for g in order]), abs=1e-9
    )


@settings(max_examples=60, deadline=None)
@given(tables())
def test_the_tie_rules_are_ordered(table) -> None:
    bad, middle, good = (scores_of(*table, ties=ties) for ties in ("pessimistic", "stable", "optimistic"))
    for name in ("R@1", "R@5", "R@10", "mAP", "mINP"):
        assert bad[name] <= middle[name] + 1e-9 <= good[name] + 2e-9


def test_the_example_of_the_docstring() -> None:
    similarity = [[0.9, 0.8, 0.3, 0.1], [0.6, 0.5, 0.4, 0.2], [0.7, 0.2, 0.1, 0.7]]
    pairs = same_id(np.array([1, 2, 3]), np.array([1, 2, 1, 3]))
    found = rank(lambda a, b: np.float32(similarity)[a:b], 3, 4, pairs)
    assert found.first_rank.tolist() == [1, 2, 2]
    assert found.n_positives.tolist() == [2, 1, 1]
    assert found.average_precision == pytest.approx([5 / 6, 1 / 2, 1 / 2])
    assert found.inverse_penalty == pytest.approx([2 / 3, 1 / 2, 1 / 2])
    said = {"R@1": 33.33, "R@5": 100, "R@10": 100, "mAP": 61.11, "mINP": 55.56, "median_rank": 2}
    assert found.scores() == pytest.approx(said | {"queries": 3, "dropped_queries": 0}, abs=0.005)


@pytest.mark.parametrize("n_gallery", [2, 5, 17, 200])
def test_a_collapsed_model_finds_nobody(n_gallery: int) -> None:
    rng = np.random.default_rng(0)
    point = rng.standard_normal(24)
    query, gallery = np.tile(point, (40, 1)), np.tile(point, (n_gallery, 1))
    ids = np.arange(n_gallery)
    scores = global_scores(query, np.arange(40) % n_gallery, gallery, ids)
    assert scores["R@1"] == 0
    assert scores["mAP"] == pytest.approx(100 / n_gallery)
    assert global_scores(query, np.arange(40) % n_gallery, gallery, ids, ties="optimistic")["R@1"] == 100


def test_equal_gallery_vectors_tie_whatever_the_product_rounds_to() -> None:
    # A product of 5 equal columns gave unequal bits in torch here; the engine must not depend on it.
    rng = np.random.default_rng(1)
    query, gallery = rng.standard_normal((50, 33)).astype(np.float32), rng.standard_normal((4, 33)).astype(np.float32)
    block = cosine(query, gallery[[0, 1, 2, 1, 3, 1, 0]])(0, 50)
    assert (block[:, [1, 1, 0]] == block[:, [3, 5, 6]]).all()
    unit = query / np.linalg.norm(query, axis=1, keepdims=True)
    assert block[:, :3] == pytest.approx(
        unit @ (gallery[:3] / np.linalg.norm(gallery[:3], axis=1)[:, None]).T, abs=1e-6
    )


def test_a_zero_vector_is_like_nothing() -> None:
    assert (cosine(np.zeros((1, 3), np.float32), np.ones((2, 3), np.float32))(0, 1) == 0).all()


def test_queries_without_a_positive_are_counted_and_left_out() -> None:
    rng = np.random.default_rng(2)
    query, gallery = rng.standard_normal((6, 8)), rng.standard_normal((9, 8))
    with_strangers = global_scores(query, [0, 1, 2, 7, 8, 9], gallery, np.arange(9) % 3)
    without = global_scores(query[:3], [0, 1, 2], gallery, np.arange(9) % 3)
    assert (with_strangers.pop("queries"), with_strangers.pop("dropped_queries")) == (3, 3)
    assert with_strangers == {k: v for k, v in without.items() if k not in ("queries", "dropped_queries")}
    nobody = global_scores(query, [7] * 6, gallery, np.arange(9) % 3)
    assert (nobody["queries"], nobody["dropped_queries"], nobody["mAP"], nobody["R@1"]) == (0, 6, 0, 0)


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


def test_a_bad_block_is_refused() -> None:
    pairs = same_id(np.arange(2), np.arange(2))
    with pytest.raises(ValueError, match="not finite"):
        rank(lambda a, b: np.array([[0, np.nan], [0, 1]], np.float32), 2, 2, pairs)
    with pytest.raises(ValueError, match="shape"):
        rank(lambda a, b: np.zeros((2, 3), np.float32), 2, 2, pairs)
    with pytest.raises(ValueError, match="positives names a column outside 0..1"):
        rank(lambda a, b: np.zeros((2, 2), np.float32), 2, 2, lambda a, b: ([0], [-1]))
    with pytest.raises(ValueError, match="gallery is empty"):
        rank(lambda a, b: np.zeros((2, 0), np.float32), 2, 0, pairs)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000))
def test_local_equals_plain_loops(seed: int) -> None:
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
    found = local_scores(
        query, target, query_person, query_text, np.eye(n_region, dtype=np.float32), region_ids, person, texts
    )
    assert found == pytest.approx(slow_scores(query, target, region_ids, ignored=ignored) | {"gallery": n_region})


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 100_000), st.sampled_from(counting.TIES))
def test_joint_equals_plain_loops(seed: int, ties: str) -> None:
    world = joint_world(seed)
    assert joint_scores(**world, ties=ties) == pytest.approx(slow_joint(world, ties)[0], abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000), st.randoms(use_true_random=False))
def test_the_order_of_a_joint_gallery_does_not_matter(seed: int, random) -> None:
    world = joint_world(seed)
    order = list(range(len(world["gallery_kind"])))
    random.shuffle(order)
    moved = world | {
        name: [value[g] for g in order] if name == "gallery_text_ids" else value[order]
        for name, value in world.items()
        if name.startswith(("gallery", "parent"))
    }
    assert joint_scores(**moved) == pytest.approx(joint_scores(**world), abs=1e-9)


def parent_and_region() -> dict:
    """One sentence; its region is in image 7 of person 1, who is in image 8 too; a stranger's image 9 comes second."""
    return {
        "query_embeds": [[0.5, 0.8, 0.9, 0.6]],
        "target_region_ids": [3],
        "query_person_ids": [1],
        "query_text_ids": [10],
        "gallery_embeds": np.eye(4),
        "gallery_region_ids": [-1, 3, -1, -1],
        "gallery_person_ids": [1, 1, 1, 2],
        "gallery_text_ids": [-1, 10, -1, -1],
        "query_kind": [1],
        "gallery_kind": [0, 1, 0, 0],
        "parent_image_ids": [7, 7, 8, 9],
    }


def test_the_parent_image_of_a_sentence_is_found_through_its_region() -> None:
    ranking = joint_ranking(**parent_and_region())
    assert ranking.n_positives.tolist() == [2], "the link from the region to its image is lost"
    assert ranking.average_precision == pytest.approx([(1 / 1 + 2 / 3) / 2])
    # Through another image the same image is ignored, and that one, the most similar, is relevant.
    elsewhere = joint_ranking(**(parent_and_region() | {"parent_image_ids": [7, 8, 8, 9]}))
    assert elsewhere.average_precision == pytest.approx([1])


@pytest.mark.parametrize("lost", [[7, -1, 8, 9], [7, 5, 8, 9], [6, 7, 8, 9]])
def test_a_lost_link_is_an_error(lost: list[int]) -> None:
    with pytest.raises(ValueError, match=r"parent_image_ids\[1\] is .*no image of the gallery"):
        joint_scores(**(parent_and_region() | {"parent_image_ids": lost}))


def test_joint_refuses_ids_that_say_two_things() -> None:
    with pytest.raises(ValueError, match="parent_image_ids of images must be non-negative and each occur once"):
        joint_scores(**(parent_and_region() | {"parent_image_ids": [7, 7, 7, 9]}))
    with pytest.raises(ValueError, match="gallery_region_ids of regions"):
        joint_scores(**(parent_and_region() | {"gallery_region_ids": [-1, -1, -1, -1]}))


def test_a_collapsed_model_finds_nobody_in_a_joint_gallery() -> None:
    world = {**parent_and_region(), "query_embeds": np.ones((1, 4)), "gallery_embeds": np.ones((4, 4))}
    scores = joint_scores(**world)
    assert scores["R@1"] == scores["sentence/R@1"] == 0
    assert joint_scores(**world, ties="optimistic")["R@1"] == 100
    caption = joint_scores(**(world | {"query_kind": [0]}))
    assert (caption["caption/R@1"], caption["caption/R@5"], caption["sentence/queries"]) == (0, 100, 0)


def test_an_equal_sentence_of_the_same_person_is_ignored_and_of_another_is_wrong() -> None:
    query, gallery = [[0.0, 0.5, 0.6]], np.eye(3)
    arguments = {"target_region_ids": [1], "query_person_ids": [7], "query_text_ids": [4]}
    gallery_arguments = {"gallery_embeds": gallery, "gallery_region_ids": [0, 1, 2], "gallery_text_ids": [4, 4, 4]}
    same = local_scores(query, **arguments, **gallery_arguments, gallery_person_ids=[7, 7, 7])
    other = local_scores(query, **arguments, **gallery_arguments, gallery_person_ids=[7, 7, 8])
    assert (same["R@1"], other["R@1"]) == (100, 0)


def test_region_ids_must_be_distinct() -> None:
    with pytest.raises(ValueError, match="gallery_region_ids"):
        local_scores(np.ones((1, 2)), [0], [0], [0], np.ones((2, 2)), [0, 0], [0, 0], [0, 0])


@pytest.mark.parametrize("texts", [[4, [5]], [[4], 5], [[], 3], [[4], [[5, 6]]], [[4], ["a"]], [4, 5, 6]])
def test_text_ids_of_regions_are_named_when_they_are_neither(texts: list) -> None:
    with pytest.raises(ValueError, match="gallery_text_ids"):
        local_scores(np.ones((1, 2)), [0], [0], [0], np.ones((2, 2)), [0, 1], [0, 0], texts)


def test_grounding_by_hand() -> None:
    true = [[10, 10, 20, 20]] * 4
    pred = [[10, 10, 20, 20], [10, 10, 20, 10], [20, 20, 20, 20], [29, 29, 4, 4]]  # IoU 1, 1/2, 1/7, 1/415
    scores = grounding_scores(pred, true)
    assert scores == pytest.approx({"pointing": 75, "IoU@0.5": 50, "grounded": 4})
    clipped = grounding_scores([[-100, 0, 130, 30]], [[0, 0, 30, 60]], image_sizes=[[30, 30]])
    assert (clipped["IoU@0.5"], clipped["pointing"]) == (100, 100)
    assert grounding_scores([], [])["grounded"] == 0


def test_grounding_refuses_bad_boxes() -> None:
    with pytest.raises(ValueError, match=r"true_boxes\[1\] has no area"):
        grounding_scores([[0, 0, 1, 1]] * 2, [[0, 0, 1, 1], [0, 0, 0, 5]])
    with pytest.raises(ValueError, match="pred_boxes has 1 rows, true_boxes has 2"):
        grounding_scores([[0, 0, 1, 1]], [[0, 0, 1, 1]] * 2)
    with pytest.raises(ValueError, match="pred_boxes must have shape"):
        grounding_scores([[0, 0, 1]], [[0, 0, 1, 1]])


def test_equal_gallery_rows_tie_exactly_and_cost_no_copy_of_the_gallery() -> None:
    rng = np.random.default_rng(11)
    query, gallery = rng.standard_normal((70, 33)), rng.standard_normal((901, 33)).astype(np.float32)
    gallery[[900, 17, 400]] = gallery[3]
    gallery[12] = gallery[11]
    similarity = cosine(query.astype(np.float32), gallery)(0, 70)
    assert (similarity[:, [900, 17, 400]] == similarity[:, [3]]).all() and (
        similarity[:, 12] == similarity[:, 11]
    ).all()
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (query, gallery.astype(np.float64))]
    np.testing.assert_allclose(similarity, unit[0] @ unit[1].T, atol=1e-5)
    tracemalloc.start()
    cosine(query.astype(np.float32), gallery)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    plain = gallery.copy()
    plain[[900, 17, 400, 12]] = rng.standard_normal((4, 33))
    tracemalloc.start()
    cosine(query.astype(np.float32), plain)
    assert peak < tracemalloc.get_traced_memory()[1] + gallery.nbytes / 2
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"gallery_embeds": [[1.0, 0.0], [1.0]]}, "gallery_embeds must be rows of numbers"),
        ({"gallery_embeds": 5}, "gallery_embeds must be rows of numbers, not 5"),
        ({"device": "abacus"}, "device 'abacus': "),
        ({"query_cameras": 5, "gallery_cameras": [1, 2]}, "query_cameras and gallery_cameras must be lists"),
    ],
)
def test_a_wrong_argument_is_named_in_one_line(wrong: dict, said: str) -> None:
    given = {"query_embeds": np.eye(2), "query_ids": [1, 2], "gallery_embeds": np.eye(2), "gallery_ids": [1, 2]}
    with pytest.raises(ValueError, match=said) as error:
        global_ranking(**given | wrong)
    assert "\n" not in str(error.value)
