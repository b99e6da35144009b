"""Mismatched pairs made on purpose, to measure how well training tolerates them."""

import numpy as np

from train.data.pairs import PairDataset


def shuffle_captions(pairs: PairDataset, share: float, seed: int) -> np.ndarray:
    """Permutes the captions, long and short, of a share of the rows. Their region-sentence pairs do not change.

    This is the field's test of robustness to noisy correspondence (RDE, arXiv 2308.09911, section 4).

    Args:
        pairs: changed in place.
        share: share of the rows, in [0, 1].
        seed: seed of the draw.

    Returns:
        `[rows]` bool, whether the row's captions still describe its identity.
    """
    rng = np.random.default_rng((seed, 1))
    rows = _draw(len(pairs), share, rng)
    pairs.caption_rows[rows] = pairs.caption_rows[rng.permutation(rows)]
    person_ids = np.array(pairs.person_ids)
    return person_ids[pairs.caption_rows] == person_ids


def shuffle_sentences(pairs: PairDataset, share: float, seed: int) -> np.ndarray:
    """Permutes the sentences of a share of the region-sentence pairs. Captions do not change.

    Args:
        pairs: changed in place.
        share: share of the pairs, in [0, 1].
        seed: seed of the draw.

    Returns:
        `[pairs.n_pairs]` bool, whether the pair's sentence still has its original text. An equal sentence of another
        image counts as correct.
    """
    rng = np.random.default_rng((seed, 2))
    slots = [(row, slot) for row, row_pairs in enumerate(pairs.pairs) for slot in range(len(row_pairs))]
    chosen = _draw(len(slots), share, rng)
    sources = [pairs.pairs[slots[n][0]][slots[n][1]] for n in rng.permutation(chosen)]
    clean = np.ones(pairs.n_pairs, dtype=bool)
    for n, source in zip(chosen, sources, strict=True):
        row, slot = slots[n]
        old = pairs.pairs[row][slot]
        new = old._replace(text_row=source.text_row, sentence=source.sentence)
        pairs.pairs[row][slot] = new
        group = pairs.sentence_group
        clean[old.number] = group[new.text_row][new.sentence] == group[old.text_row][old.sentence]
    return clean


def _draw(count: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """A sorted random share of the numbers below `count`."""
    if not 0 <= share <= 1:
        raise ValueError(f"the share of shuffled pairs must lie in [0, 1], not {share}")
    return np.sort(rng.permutation(count)[: round(share * count)])


__all__ = ["shuffle_captions", "shuffle_sentences"]
