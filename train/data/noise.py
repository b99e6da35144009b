"""Wrong pairs on purpose: how far training survives mismatched captions and mismatched region-sentence pairs."""

import numpy as np

from train.data.pairs import PairDataset


def _chosen(count: int, share: float, rng: np.random.Generator) -> np.ndarray:
    if not 0 <= share <= 1:
        raise ValueError(f"the share of shuffled pairs must lie in [0, 1], not {share}")
    return np.sort(rng.permutation(count)[: round(share * count)])


def shuffle_captions(pairs: PairDataset, share: float, seed: int) -> np.ndarray:
    """Permutes the captions, long and short, of a share of the rows; their region-sentence pairs stay.

    The field's test of robustness to noisy correspondence (RDE, arXiv 2308.09911, section 4).

    Returns:
        `[rows]` bool, whether the row's captions still describe its identity.
    """
    rng = np.random.default_rng((seed, 1))
    rows = _chosen(len(pairs), share, rng)
    pairs.caption_row[rows] = pairs.caption_row[rng.permutation(rows)]
    people = np.array(pairs.person_ids)
    return people[pairs.caption_row] == people


def shuffle_sentences(pairs: PairDataset, share: float, seed: int) -> np.ndarray:
    """Permutes the sentences of a share of the region-sentence pairs; captions stay.

    Returns:
        `[pairs.n_pairs]` bool, whether the pair still has its own words: another image's sentence in the same words
        is as true as before.
    """
    rng = np.random.default_rng((seed, 2))
    places = [(row, slot) for row, found in enumerate(pairs.pairs) for slot in range(len(found))]
    chosen = _chosen(len(places), share, rng)
    sources = [pairs.pairs[places[n][0]][places[n][1]][2:] for n in rng.permutation(chosen)]
    clean = np.ones(pairs.n_pairs, dtype=bool)
    for n, (text_row, sentence) in zip(chosen, sources, strict=True):
        row, slot = places[n]
        number, region, old_row, old_sentence = pairs.pairs[row][slot]
        pairs.pairs[row][slot] = (number, region, text_row, sentence)
        clean[number] = pairs.text_number[text_row][sentence] == pairs.text_number[old_row][old_sentence]
    return clean


__all__ = ["shuffle_captions", "shuffle_sentences"]
