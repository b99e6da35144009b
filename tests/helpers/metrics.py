"""The metrics in plain loops, and random galleries to compare them on."""

import math
import statistics

import numpy as np


def scores_by_loops(similarity, query_ids, gallery_ids, ties="pessimistic", ignored=frozenset()) -> dict[str, float]:
    """The figures of `rank` in plain loops and Python floats."""
    hits, firsts, precisions, penalties = {1: [], 5: [], 10: []}, [], [], []
    for q, query_id in enumerate(query_ids):
        entries = []
        for g, gallery_id in enumerate(gallery_ids):
            if (q, g) in ignored:
                continue
            good = gallery_id == query_id
            tie_order = {"pessimistic": good, "optimistic": not good, "stable": g}[ties]
            entries.append((-float(similarity[q][g]), tie_order, good))
        entries.sort(key=lambda entry: entry[:2])
        ranks = [rank for rank, entry in enumerate(entries, 1) if entry[2]]
        if not ranks:
            continue
        firsts.append(ranks[0])
        for k, found in hits.items():
            found.append(ranks[0] <= k)
        precisions.append(sum(n / rank for n, rank in enumerate(ranks, 1)) / len(ranks))
        penalties.append(len(ranks) / ranks[-1])
    n = len(precisions)
    firsts = sorted(firsts)
    median = (firsts[(n - 1) // 2] + firsts[n // 2]) / 2 if n else 0.0
    mean = {f"R@{k}": 100 * sum(found) / n if n else 0.0 for k, found in hits.items()}
    mean |= {"mAP": 100 * sum(precisions) / n if n else 0.0, "mINP": 100 * sum(penalties) / n if n else 0.0}
    return mean | {"median_rank": median, "queries": n, "dropped_queries": len(query_ids) - n}


def graded_by_loops(similarity, grades: dict[tuple[int, int], int], ties="pessimistic") -> dict[str, float]:
    """`Ranking.graded_scores` in plain loops; `grades` holds positives (from 1) and ignored items (0)."""
    names = ("R@1", "R@5", "R@10", "R-precision", "mAP", "nDCG@10", "chance")
    sums, positives = dict.fromkeys(names, 0.0), []
    for q, line in enumerate(similarity):
        entries = []
        for g, value in enumerate(line):
            grade = grades.get((q, g), -1)  # -1: wrong
            if grade != 0:
                tie = {"pessimistic": grade, "optimistic": -grade, "stable": g}[ties]
                entries.append((-float(value), tie, grade))
        entries.sort(key=lambda entry: entry[:2])
        in_order = [max(grade, 0) for _, _, grade in entries]
        ranks = [rank for rank, grade in enumerate(in_order, 1) if grade]
        if not ranks:
            continue
        positives.append(len(ranks))
        for k in (1, 5, 10):
            sums[f"R@{k}"] += ranks[0] <= k
        sums["R-precision"] += sum(rank <= len(ranks) for rank in ranks) / len(ranks)
        sums["mAP"] += sum(n / rank for n, rank in enumerate(ranks, 1)) / len(ranks)
        sums["chance"] += len(ranks) / len(in_order)
        gains, best = (
            sum(grade / math.log2(1 + rank) for rank, grade in enumerate(order[:10], 1))
            for order in (in_order, sorted(in_order, reverse=True))
        )
        sums["nDCG@10"] += gains / best
    n = len(positives)
    result = {name: 100 * value / n if n else 0.0 for name, value in sums.items()}
    result["positives"] = statistics.median(positives) if n else 0.0
    return result | {"queries": n, "dropped_queries": len(similarity) - n}


def joint_by_loops(world: dict, ties="pessimistic") -> dict[str, float]:
    """The joint protocol in plain loops."""
    gallery, kinds = range(len(world["gallery_kind"])), world["gallery_kind"]
    parent = world["parent_image_ids"]
    image_of = {parent[g]: g for g in gallery if kinds[g] == 0}
    similarity = np.asarray(world["query_embeds"], dtype=np.float64)
    result = {"gallery": len(gallery)}
    for name, kind in (("caption", 0), ("sentence", 1)):
        queries = [q for q, query_kind in enumerate(world["query_kind"]) if query_kind == kind]
        grades: dict[tuple[int, int], int] = {}
        for row, q in enumerate(queries):
            if kind == 0:
                person = world["query_person_ids"][q]
                grades |= {(row, g): 1 for g in gallery if world["gallery_person_ids"][g] == person}
                continue
            listed = [(int(g), int(grade)) for n, g, grade in world["relevance"] if n == q]
            for g, grade in [*listed, *((image_of[parent[g]], grade) for g, grade in listed)]:
                grades[row, g] = max(grade, grades.get((row, g), 0))
        if kind:
            scores = graded_by_loops(similarity[queries], grades, ties)
        else:
            relevant = [[(row, g) in grades for g in gallery] for row in range(len(queries))]
            scores = binary_by_loops(similarity[queries], relevant, ties)
        result |= {f"{name}/{key}": value for key, value in scores.items()}
    return result


def binary_by_loops(similarity, relevant: list[list[bool]], ties="pessimistic") -> dict[str, float]:
    """`scores_by_loops` for any relevant items."""
    each = [scores_by_loops([line], [True], of_line, ties) for line, of_line in zip(similarity, relevant, strict=True)]
    scored = [scores for scores in each if scores["queries"]]
    n = len(scored)
    result = {
        name: sum(scores[name] for scores in scored) / n if n else 0.0 for name in ("R@1", "R@5", "R@10", "mAP", "mINP")
    }
    result["median_rank"] = statistics.median(scores["median_rank"] for scores in scored) if n else 0.0
    return result | {"queries": n, "dropped_queries": len(each) - n}


def joint_world(seed: int) -> dict:
    """A small joint gallery with ties, several grades, ignored items and sentences without a positive."""
    rng = np.random.default_rng(seed)
    n_image, n_region, n_query = int(rng.integers(1, 6)), int(rng.integers(0, 10)), int(rng.integers(1, 12))
    image_ids, image_person = rng.permutation(n_image) + 50, rng.integers(-1, 2, n_image)
    parent_index = rng.integers(0, n_image, n_region)
    n_gallery = n_image + n_region
    order = rng.permutation(n_gallery)
    return {
        "query_embeds": rng.integers(0, 4, (n_query, n_gallery)).astype(np.float32),
        "query_person_ids": rng.integers(-1, 3, n_query),
        "query_kind": rng.integers(0, 2, n_query),
        "gallery_embeds": np.eye(n_gallery, dtype=np.float32),
        "gallery_person_ids": np.concatenate([image_person, image_person[parent_index]])[order],
        "gallery_kind": np.repeat([0, 1], [n_image, n_region])[order],
        "parent_image_ids": np.concatenate([image_ids, image_ids[parent_index]])[order],
        # Entries of captions do not count. A pair may be listed twice.
        "relevance": [
            [int(rng.integers(n_query)), int(rng.integers(n_gallery)), int(rng.integers(4))]
            for _ in range(int(rng.integers(0, 40)))
        ],
    }
