"""Scores by group of queries: what a query mentions, and how long it is.

The groups come only from the rows: the labels of the regions, and the colour and garment words of the sentences that
are paired with them. Captions without such words are still grouped by length.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dataset_pvlg.synthetic_v1.caption_words import TYPE_WORDS
from dataset_pvlg.synthetic_v1.card import colours_named
from modeling_rogle.evaluation.protocols import RankedQueries

WORD_STEPS = {"caption": (20, 40, 60, 80, 100, 120, 160), "sentence": (5, 8, 11, 14, 20)}
# Longest phrase first: "tennis shoes" are sneakers, and "hooded sweatshirt" is no shirt.
_GARMENTS = [
    (re.compile(rf"\b{re.escape(word)}\b"), name)
    for word, name in sorted(
        ((word, name) for name, options in TYPE_WORDS.items() for word, _ in options), key=lambda item: -len(item[0])
    )
]

Group = tuple[str, str]  # attribute and value: ("upper body colour", "red")


def garments_named(text: str) -> list[str]:
    """Canonical names of the garments and items that a text mentions, e.g. `pants` for "trousers".

    Args:
        text: a caption or sentence.

    Returns:
        One name for each mention.
    """
    text, names = text.lower(), []
    for pattern, name in _GARMENTS:
        text, count = pattern.subn(" ", text)
        names += [name] * count
    return names


def length_group(text: str, kind: str) -> Group:
    """The length group of a text, e.g. `("caption words", "21-40")`.

    Args:
        text: the text.
        kind: `caption` or `sentence`, which have different steps.
    """
    words, low = len(text.split()), 1
    for high in WORD_STEPS[kind]:
        if words <= high:
            return f"{kind} words", f"{low}-{high}"
        low = high + 1
    return f"{kind} words", f"over {low - 1}"


def groups_of_queries(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[set[Group]]]:
    """The groups of each query of a split.

    Args:
        rows: P-VLG rows; the images are not read.

    Returns:
        For the kinds of queries `long`, `short` and `sentence`, one set of groups per query, in the order of
        `encode_split`.
    """
    groups: dict[str, list[set[Group]]] = {"long": [], "short": [], "sentence": []}
    for row in rows:
        groups["short"] += [{length_group(text, "caption")} | _colours("", text) for text in row["captions"]]
        if not row["caption"]:
            continue
        texts = [sentence["text"] for sentence in row["sentences"]]
        labels: list[set[str]] = [set() for _ in texts]
        for region in row["regions"]:
            if region["sentence"] >= 0 and region["label"]:
                labels[region["sentence"]].add(region["label"])
        of_caption = {length_group(row["caption"], "caption")} | _colours("", row["caption"])
        for text, names in zip(texts, labels, strict=True):
            of_sentence: set[Group] = {("region", label) for label in names}
            if len(names) == 1:  # of several parts it is not known which one a colour belongs to
                (label,) = names
                of_sentence |= _colours(f"{label} ", text)
                of_sentence |= {(f"{label} kind", name) for name in garments_named(text)}
            groups["sentence"].append({length_group(text, "sentence")} | of_sentence)
            of_caption |= of_sentence
        groups["long"].append(of_caption)
    return groups


def _colours(prefix: str, text: str) -> set[Group]:
    return {(f"{prefix}colour", name) for name in colours_named(text)}


def breakdown(lines: Mapping[str, RankedQueries], groups: Mapping[str, Sequence[set[Group]]]) -> list[dict[str, Any]]:
    """R@1 and mAP of each line of the results by group.

    Args:
        lines: see `protocols.ranked_queries`; lines of images are skipped.
        groups: see `groups_of_queries`. A query may be in several groups of one attribute, or in none.

    Returns:
        One `{"protocol", "attribute", "group", "queries", "R@1", "mAP"}` per group, in percent. Length groups are in
        ascending order, other groups of an attribute from the worst to the best. Queries without a positive are left
        out.
    """
    result: list[dict[str, Any]] = []
    for line, ranked in lines.items():
        if ranked.kind not in groups:
            continue
        members: dict[Group, list[int]] = {}
        for row in np.flatnonzero(ranked.ranking.n_positives > 0):
            for group in groups[ranked.kind][ranked.query[row]]:
                members.setdefault(group, []).append(row)
        entries = [
            {
                "protocol": line,
                "attribute": attribute,
                "group": name,
                "queries": len(members_of),
                "R@1": 100 * float((ranked.ranking.first_rank[members_of] == 1).mean()),
                "mAP": 100 * float(ranked.ranking.average_precision[members_of].mean()),
            }
            for (attribute, name), members_of in members.items()
        ]
        result += sorted(entries, key=_order)
    return result


def _order(entry: Mapping[str, Any]) -> tuple:
    numbers = re.findall(r"\d+", entry["group"]) if entry["attribute"].endswith(" words") else []
    position = (int(numbers[0]) + entry["group"].startswith("over"),) if numbers else (entry["R@1"], entry["mAP"])
    return (entry["attribute"], *position, entry["group"])


def breakdown_table(entries: Sequence[Mapping[str, Any]]) -> str:
    """Formats the entries of `breakdown` as a Markdown table, one row per group."""
    lines = ["| protocol | attribute | group | queries | R@1 | mAP |", "|---|---|---|---:|---:|---:|"]
    for entry in entries:
        scores = f"{entry['queries']} | {entry['R@1']:.2f} | {entry['mAP']:.2f}"
        lines.append(f"| {entry['protocol']} | {entry['attribute']} | {entry['group']} | {scores} |")
    return "\n".join(lines)
