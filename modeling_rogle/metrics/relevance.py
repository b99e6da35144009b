"""Which regions a sentence is true of, as sparse pairs with grades. No matrix of queries x gallery is stored.

Protocol 2 decides by *facts*. A region has facts, such as `kind=jacket` and `color=red`. A sentence makes claims: one
group of facts for each region that it describes. A worked example, with the two regions of one image:

    facts of region 0: kind=jacket, color=red       facts of region 1: kind=trousers, color=red
    "A jacket."              [{kind=jacket}]                      true of region 0
    "Something red."         [{color=red}]                        true of regions 0 and 1
    "Red jacket, trousers."  [{kind=jacket}, {kind=trousers}]     true of regions 0 and 1
    "Two jackets."           [{kind=jacket}, {kind=jacket}]       true of none: two groups need two regions

Where facts are unknown, as on real data, labels decide (`label_relevance`).
"""

from collections.abc import Collection, Sequence
from itertools import combinations

import numpy as np

from .pairs import (
    graded,
    joint_codes,
    last_block_kept,
    listed_pairs,
    others,
    pairs_of_entries,
    selected,
    to_owners,
    union,
)
from .ranks import PairsOf, same_id

OWN, OWN_IDENTITY, TRUE, IGNORED = 3, 2, 1, 0  # grades
MAX_GROUPS = 8  # groups of one sentence; 2 ** groups subsets of them are counted
CACHE_BYTES = 32 << 20


class FactIndex:
    """The regions of which sentences are true, by an inverted index from facts to regions.

    A region satisfies a group if it has all facts of the group. A sentence is true of region r of image I if every
    group is satisfied by a region of I, different groups by different regions, and r satisfies at least one group.

    Args:
        region_facts: int64 `[M, 2]` region and fact.
        region_image: int64 `[R]` image of each region, from 0.
    """

    def __init__(self, region_facts: np.ndarray, region_image: np.ndarray) -> None:
        pairs = np.unique(np.asarray(region_facts, dtype=np.int64).reshape(-1, 2)[:, ::-1], axis=0)
        facts, first = np.unique(pairs[:, 0], return_index=True)
        regions = np.split(pairs[:, 1].astype(np.int32), first[1:])
        self._regions = dict(zip(facts.tolist(), regions, strict=True)) if len(facts) else {}
        self._image = np.asarray(region_image, dtype=np.int64)
        self._known: dict[tuple[tuple[int, ...], ...], np.ndarray] = {}
        self._known_bytes = 0

    def regions(self, groups: Sequence[Collection[int]]) -> np.ndarray:
        """The regions of which a sentence with these groups of facts is true.

        Args:
            groups: facts by group; none for a sentence that claims nothing of a region, which is true of no region.

        Returns:
            int32 `[n]`, ascending.

        Raises:
            ValueError: more than 8 groups, or a group without facts.
        """
        key = tuple(sorted(tuple(sorted(set(group))) for group in groups))
        if key in self._known:
            return self._known[key]
        if len(key) > MAX_GROUPS or () in key:
            wrong = "a group is empty" if () in key else f"{len(key)} groups, at most {MAX_GROUPS} are supported"
            raise ValueError(f"claims of a sentence: {wrong}")
        found = self._true_regions([self._with_all(group) for group in key])
        if self._known_bytes < CACHE_BYTES:  # many sentences say the same
            self._known[key] = found
            self._known_bytes += found.nbytes + 200
        return found

    def _with_all(self, facts: Sequence[int]) -> np.ndarray:
        """The regions that have all of these facts."""
        none = np.empty(0, dtype=np.int32)
        parts = sorted((self._regions.get(fact, none) for fact in facts), key=len)
        found = parts[0]
        for part in parts[1:]:
            found = found[part[np.minimum(np.searchsorted(part, found), len(part) - 1)] == found]
        return found

    def _true_regions(self, groups: Sequence[np.ndarray]) -> np.ndarray:
        """The regions of `groups` that lie in an image in which the groups can have different regions each."""
        if len(groups) < 2:
            return groups[0] if groups else np.empty(0, dtype=np.int32)
        # Hall's theorem: that is possible if any n groups together have at least n regions in the image.
        images = np.arange(int(self._image.max(initial=-1)) + 1)
        for n in range(1, len(groups) + 1):
            for some in combinations(groups, n):
                regions = some[0] if n == 1 else np.unique(np.concatenate(some))
                of_image, counts = np.unique(self._image[regions], return_counts=True)
                images = np.intersect1d(images, of_image[counts >= n], assume_unique=True)
        return regions[np.isin(self._image[regions], images)]


def fact_pairs(index: FactIndex, claims: np.ndarray, n_sentences: int) -> PairsOf:
    """Pairs of a sentence and a region of which it is true.

    Args:
        index: the regions.
        claims: int64 `[N, 3]` sentence, group and fact, in any order.
        n_sentences: number of sentences.

    Returns:
        A function (start, stop) -> rows, counted from start, and regions.
    """
    claims = claims[np.lexsort((claims[:, 1], claims[:, 0]))]
    first = np.searchsorted(claims[:, 0], np.arange(n_sentences + 1))

    def pairs(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        found = []
        for sentence in range(start, stop):
            groups: dict[int, list[int]] = {}
            for _, group, fact in claims[first[sentence] : first[sentence + 1]].tolist():
                groups.setdefault(group, []).append(fact)
            found.append(index.regions(list(groups.values())))
        rows = np.repeat(np.arange(stop - start), [len(regions) for regions in found])
        return rows, np.concatenate(found).astype(np.int64) if found else rows

    return pairs


def claim_relevance(
    claims: np.ndarray,
    region_facts: np.ndarray,
    region_image: np.ndarray,
    own: np.ndarray,
    sentence_person: np.ndarray,
    region_person: np.ndarray,
) -> PairsOf:
    """Relevance by facts: every region of which a sentence is true is a positive.

    Args:
        claims: int64 `[N, 3]` sentence, group and fact, see [`FactIndex`].
        region_facts: int64 `[M, 2]` region and fact.
        region_image: int64 `[R]` image of each region, from 0.
        own: int64 `[P, 2]` sentence and region of every pair of the data set.
        sentence_person: int64 `[S]` identities.
        region_person: int64 `[R]` identities.

    Returns:
        A function (start, stop) -> rows, regions and grades: 3 for the sentence's own region, 2 for another region of
        its identity, 1 for a region of another identity.
    """
    index = FactIndex(region_facts, region_image)
    true = fact_pairs(index, claims, len(sentence_person))
    return _graded(true, own, sentence_person, region_person)


def label_relevance(
    own: np.ndarray,
    region_labels: np.ndarray,
    sentence_text: np.ndarray,
    region_texts: np.ndarray,
    sentence_person: np.ndarray,
    region_person: np.ndarray,
    claims: np.ndarray,
    region_facts: np.ndarray,
) -> PairsOf:
    """Relevance by labels, for data without facts.

    Positives are a sentence's own regions (grade 3), regions of its identity that are annotated with the same text, and
    regions of its identity with the part label of an own region (grade 2). Ignored are other regions that may show the
    same: those annotated with the same text, and those whose sentence names the query's colours and garments.

    Args:
        own: int64 `[P, 2]` sentence and region of every pair of the data set.
        region_labels: int64 `[R]`; -1 for a region without a part label.
        sentence_text: int64 `[S]`; equal ids mean equal texts.
        region_texts: int64 `[T, 2]` region and text id of every sentence that describes a region.
        sentence_person: int64 `[S]` identities.
        region_person: int64 `[R]` identities.
        claims: int64 `[N, 3]` sentence, group (one for each sentence) and fact, the colours and garments that the
            sentence names; nothing for a sentence that does not name both.
        region_facts: int64 `[M, 2]` region and fact, of all sentences that describe the region.

    Returns:
        A function (start, stop) -> rows, regions and grades; grade 0 means ignored.
    """
    own = own[np.argsort(own[:, 0], kind="stable")]
    n_sentences = len(sentence_person)
    own_codes = (sentence_person[own[:, 0]], region_person), (region_labels[own[:, 1]], region_labels)
    same_label = pairs_of_entries(own[:, 0], n_sentences, same_id(*joint_codes(*own_codes)))
    paired = np.zeros(n_sentences, dtype=bool)
    paired[own[:, 0]] = True
    same_text = to_owners(same_id(np.where(paired, sentence_text, -1), region_texts[:, 1]), region_texts[:, 0])
    annotated = selected(same_text, lambda sentence, region: sentence_person[sentence] == region_person[region])
    positives = last_block_kept(_graded(union(same_label, annotated), own, sentence_person, region_person))
    index = FactIndex(region_facts, np.zeros(len(region_person), dtype=np.int64))
    similar = union(same_text, fact_pairs(index, claims, n_sentences))
    return union(positives, graded(others(similar, positives), IGNORED))


def _graded(true: PairsOf, own: np.ndarray, sentence_person: np.ndarray, region_person: np.ndarray) -> PairsOf:
    """True pairs and own pairs, each once, with their grades."""
    n_regions = len(region_person)
    own_pairs = listed_pairs(own[:, :2], len(sentence_person))

    def block(start: int, stop: int) -> tuple[np.ndarray, ...]:
        own_rows, own_columns = own_pairs(start, stop)
        own_keys = own_rows * n_regions + own_columns
        rows, columns = true(start, stop)[:2]
        keys = np.union1d(rows * n_regions + columns, own_keys)
        rows, columns = np.divmod(keys, n_regions)
        grades = TRUE + (sentence_person[start + rows] == region_person[columns]).astype(np.int64)
        grades[np.isin(keys, own_keys)] = OWN
        return rows, columns, grades

    return block


__all__ = ["IGNORED", "OWN", "OWN_IDENTITY", "TRUE", "FactIndex", "claim_relevance", "fact_pairs", "label_relevance"]
