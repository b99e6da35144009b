"""The metrics in plain loops, and random galleries to compare them on."""

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


def joint_by_loops(world: dict, ties="pessimistic") -> tuple[dict[str, float], list[list[int]]]:
    """The joint protocol in plain loops; also the relevant entries of every query."""
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
        parents = [world["parent_image_ids"][g] for g in target]
        parent = [g for g in entries if world["gallery_kind"][g] == 0 and world["parent_image_ids"][g] in parents]
        relevant.append(target + parent)
        for g in same:
            equal = world["query_text_ids"][q] >= 0 and world["query_text_ids"][q] in world["gallery_text_ids"][g]
            if g not in relevant[-1] and (world["gallery_kind"][g] == 0 or equal):
                ignored.add((q, g))
    query, gallery = (np.asarray(world[name], dtype=np.float64) for name in ("query_embeds", "gallery_embeds"))
    similarity = query @ gallery.T
    n_query = len(query)
    flat = [scores_by_loops(similarity[[q]], [1], [g in relevant[q] for g in range(len(gallery))], ties,
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
    parent_index = rng.integers(0, n_image, n_region)
    n_gallery = n_image + n_region
    order = rng.permutation(n_gallery)
    kind = np.repeat([0, 1], [n_image, n_region])[order]
    parent = np.concatenate([image_ids, image_ids[parent_index]])[order]
    person = np.concatenate([image_person, image_person[parent_index]])[order]
    # Region ids of images are ignored, so any values must do.
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
