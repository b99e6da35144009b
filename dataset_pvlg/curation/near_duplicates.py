"""Images that are the same to the eye: a 64-bit difference hash finds candidates, a small grey image confirms.

The search is not quadratic: two hashes that differ in at most d of 64 bits agree wholly in at least 3 of d + 3 blocks
of bits (Manku et al., WWW 2007), so that sorting by every choice of 3 blocks brings all such pairs together.
"""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from PIL import Image

THUMB = (12, 24)  # width, height; 288 bytes an image
FLAT = 3.0  # standard deviation in grey levels below which an image has nothing to compare
_BLOCKS = 3


def signature(image: Image.Image) -> tuple[int, np.ndarray]:
    """(difference hash, small grey image) of an upright RGB image.

    The hash has a bit for each of 8 x 8 pairs of neighbours in the image shrunk to 9 x 8: whether the right one is
    brighter (dHash, Krawetz 2013). The grey image is uint8 [288].
    """
    grey = image.convert("L")
    # Bilinear weights overlap between cells; box ones do not, and 1 copy in 10 of another size then differs too much.
    steps = np.asarray(grey.resize((9, 8), Image.Resampling.BILINEAR), np.int16)
    bits = np.packbits(steps[:, 1:] > steps[:, :-1])
    return int.from_bytes(bits.tobytes(), "big"), np.asarray(grey.resize(THUMB, Image.Resampling.BILINEAR)).ravel()


def duplicate_groups(
    hashes: np.ndarray, thumbs: np.ndarray, distance: int = 3, correlation: float = 0.97
) -> tuple[np.ndarray, np.ndarray]:
    """Which images are the same to the eye.

    Args:
        hashes: uint64 [N].
        thumbs: uint8 [N, P], the small grey images.
        distance: bits in which the hashes of two copies may differ, 0 to 8.
        correlation: of the two grey images from which they are copies.

    Returns:
        group: int64 [N], the index of the first image that this one has a common hash with and is a copy of; its
            own index if it is that first one, or flat: an image without contrast is no copy of anything.
        pairs: int64 [M, 2], groups (by their index) whose hashes differ and which are copies, each pair once.

    Raises:
        ValueError: distance out of range.
    """
    if not 0 <= distance <= 8:
        raise ValueError(f"distance is {distance}, not in 0 to 8 bits")
    group = np.arange(len(hashes))
    flat = _spread(thumbs) < FLAT
    for run in _runs(hashes, flat):
        group[run] = _leaders(run, thumbs, correlation)
    leaders = np.flatnonzero((group == np.arange(len(group))) & ~flat)
    found = []
    for left, right in _near(hashes[leaders], distance) if distance else ():
        left, right = leaders[left], leaders[right]
        same = _correlation(thumbs, left, right) >= correlation
        found.append(np.sort(np.stack([left[same], right[same]], 1), 1))
    pairs = np.unique(np.concatenate(found), axis=0) if found else np.empty((0, 2), np.int64)
    return group, pairs


def _runs(hashes: np.ndarray, flat: np.ndarray) -> Iterator[np.ndarray]:
    """Of each hash that several images have: these, in order."""
    order = np.argsort(hashes, kind="stable")
    order = order[~flat[order]]
    differ = np.diff(hashes[order], prepend=~hashes[order[:1]], append=~hashes[order[-1:]]) != 0
    edges = np.flatnonzero(differ)  # where runs begin, and the end
    for at in np.flatnonzero(np.diff(edges) > 1):
        yield order[edges[at] : edges[at + 1]]


def _leaders(run: np.ndarray, thumbs: np.ndarray, correlation: float) -> np.ndarray:
    """For images of one hash: the first of each set of copies."""
    leaders: list[int] = []
    answer = run.copy()
    for n, index in enumerate(run):
        same = _correlation(thumbs, np.array(leaders, int), run[n : n + 1]) >= correlation
        if same.any():
            answer[n] = leaders[int(same.argmax())]
        else:
            leaders.append(int(index))
    return answer


def _near(hashes: np.ndarray, distance: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of positions whose hashes differ in 1 to `distance` bits, in pieces; a pair may come more than once."""
    edges = np.linspace(0, 64, distance + _BLOCKS + 1).astype(int)
    blocks = [((1 << int(b)) - 1) ^ ((1 << int(a)) - 1) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    for chosen in combinations(blocks, _BLOCKS):
        keys = hashes & np.uint64(sum(chosen))
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        starts = np.flatnonzero(keys[1:] == keys[:-1])
        for step in range(1, len(order)):  # every row against the one `step` further on, while keys are equal
            starts = starts[starts + step < len(order)]
            starts = starts[keys[starts] == keys[starts + step]]
            if not len(starts):
                break
            left, right = order[starts], order[starts + step]
            differ = np.bitwise_count(hashes[left] ^ hashes[right])
            close = (differ > 0) & (differ <= distance)
            if close.any():
                yield left[close], right[close]


def _spread(thumbs: np.ndarray) -> np.ndarray:
    return np.concatenate([part.astype(np.float32).std(1) for part in _parts(thumbs)]) if len(thumbs) else np.zeros(0)


def _correlation(thumbs: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Of the grey images of these numbers, one by one, or all of `left` with the only one of `right`: brightness and
    contrast do not matter."""

    def unit(rows: np.ndarray) -> np.ndarray:
        centred = thumbs[rows].astype(np.float32)
        centred -= centred.mean(1, keepdims=True)
        return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6)

    if len(right) == 1:
        one = unit(right)[0]
        parts = [unit(rows) @ one for rows in _parts(left)]
    else:
        parts = [(unit(a) * unit(b)).sum(1) for a, b in zip(_parts(left), _parts(right), strict=True)]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _parts(array: np.ndarray, rows: int = 256) -> Iterator[np.ndarray]:
    for start in range(0, len(array), rows):
        yield array[start : start + rows]
