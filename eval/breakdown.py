"""Which queries fail: scores apart by what the query names and by how long it is.

Read from the rows alone: labels of the regions, and colour and garment words of the sentences paired with them.
Captions without such words are still grouped by their length.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dataset_pvlg.synthetic.caption_words import TYPE_WORDS
from dataset_pvlg.synthetic.card import colours_named
from modeling_rogle.evaluation.protocols import RankedQueries

WORD_STEPS = {"caption": (20, 40, 60, 80, 100, 120, 160), "sentence": (5, 8, 11, 14, 20)}
# Longest first: "hooded sweatshirt" is no shirt, "tennis shoes" are sneakers.
_GARMENTS = [
    (re.compile(rf"\b{re.escape(word)}\b"), name)
    for word, name in sorted(
        ((word, name) for name, options in TYPE_WORDS.items() for word, _ in options), key=lambda item: -len(item[0])
    )
]

Group = tuple[str, str]  # attribute and value: ("upper body colour", "red")


def garments_named(text: str) -> list[str]:
    """Canonical names of garments and things in a text, one for each mention: `pants` for "trousers"."""
    text, found = text.lower(), []
    for pattern, name in _GARMENTS:
        text, count = pattern.subn(" ", text)
        found += [name] * count
    return found


def length_group(text: str, kind: str) -> Group:
    """`("caption words", "21-40")`: which of the steps of `kind` (`caption` or `sentence`) its words fall in."""
    words, low = len(text.split()), 1
    for high in WORD_STEPS[kind]:
        if words <= high:
            return f"{kind} words", f"{low}-{high}"
        low = high + 1
    return f"{kind} words", f"over {low - 1}"


def groups_of_queries(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[set[Group]]]:
    """The groups of each query of a split, in the order of `encode_split`.

    Args:
        rows: P-VLG rows; the images are not read.

    Returns:
        By kind of query, `long`, `short` and `sentence`, one set of groups each.
    """
    found: dict[str, list[set[Group]]] = {"long": [], "short": [], "sentence": []}
    for row in rows:
        found["short"] += [{length_group(text, "caption")} | _colours("", text) for text in row["captions"]]
        if not row["caption"]:
            continue
        texts = [sentence["text"] for sentence in row["sentences"]]
        labels: list[set[str]] = [set() for _ in texts]
        for region in row["regions"]:
            if region["sentence"] >= 0 and region["label"]:
                labels[region["sentence"]].add(region["label"])
        whole = {length_group(row["caption"], "caption")} | _colours("", row["caption"])
        for text, about in zip(texts, labels, strict=True):
            named = set()
            for label in about:
                named |= {("region", label)} | _colours(f"{label} ", text)
                named |= {(f"{label} kind", name) for name in garments_named(text)}
            found["sentence"].append({length_group(text, "sentence")} | named)
            whole |= named
        found["long"].append(whole)
    return found


def _colours(of: str, text: str) -> set[Group]:
    return {(f"{of}colour", name) for name in colours_named(text)}


def breakdown(lines: Mapping[str, RankedQueries], groups: Mapping[str, Sequence[set[Group]]]) -> list[dict[str, Any]]:
    """R@1 and mAP of each line of the table by group.

    Args:
        lines: see `protocols.ranked_queries`; those of images and of mixed queries are left out.
        groups: see `groups_of_queries`. A query may stand in several groups of one attribute, or in none.

    Returns:
        One `{"protocol", "attribute", "group", "queries", "R@1", "mAP"}` a group, percent; lengths in order, other
        groups of an attribute from the worst to the best. Queries without a positive are left out.
    """
    found = []
    for line, ranked in lines.items():
        if ranked.kind not in groups:
            continue
        members: dict[Group, list[int]] = {}
        for place in np.flatnonzero(ranked.ranking.n_positives > 0):
            for group in groups[ranked.kind][ranked.query[place]]:
                members.setdefault(group, []).append(place)
        entries = [
            {
                "protocol": line,
                "attribute": attribute,
                "group": name,
                "queries": len(places),
                "R@1": 100 * float((ranked.ranking.first_rank[places] == 1).mean()),
                "mAP": 100 * float(ranked.ranking.average_precision[places].mean()),
            }
            for (attribute, name), places in members.items()
        ]
        found += sorted(entries, key=_order)
    return found


def _order(entry: Mapping[str, Any]) -> tuple:
    numbers = re.findall(r"\d+", entry["group"]) if entry["attribute"].endswith(" words") else []
    place = (int(numbers[0]) + entry["group"].startswith("over"),) if numbers else (entry["R@1"], entry["mAP"])
    return (entry["attribute"], *place, entry["group"])


def breakdown_table(entries: Sequence[Mapping[str, Any]]) -> str:
    """A markdown table, one row a group."""
    lines = ["| protocol | attribute | group | queries | R@1 | mAP |", "|---|---|---|---:|---:|---:|"]
    for entry in entries:
        scores = f"{entry['queries']} | {entry['R@1']:.2f} | {entry['mAP']:.2f}"
        lines.append(f"| {entry['protocol']} | {entry['attribute']} | {entry['group']} | {scores} |")
    return "\n".join(lines)
