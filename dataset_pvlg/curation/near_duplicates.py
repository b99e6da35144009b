"""Images that look the same: a 64-bit difference hash finds candidates, and a small grey image confirms them.

The search is not quadratic. Two hashes that differ in at most d of 64 bits agree completely in at least 3 of d + 3
blocks of bits (Manku et al., WWW 2007). Sorting by every choice of 3 blocks therefore brings all such pairs together.
"""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from PIL import Image

THUMBNAIL_SIZE = (12, 24)  # width, height; 288 bytes per image
MIN_CONTRAST = 3.0  # standard deviation in grey levels below which an image has nothing to compare
_BLOCKS = 3


def signature(image: Image.Image) -> tuple[int, np.ndarray]:
    """Difference hash and thumbnail of an upright RGB image.

    The hash has one bit for each of 8 x 8 pairs of neighbours in the image resized to 9 x 8: whether the right pixel is
    brighter (dHash, Krawetz 2013).

    Returns:
        `tuple[int, np.ndarray]`: the hash of 64 bits, and the grey thumbnail, uint8 [288].
    """
    grey = image.convert("L")
    # Bilinear weights overlap between cells. Box weights do not, and 1 in 10 resized copies then differs too much.
    steps = np.asarray(grey.resize((9, 8), Image.Resampling.BILINEAR), np.int16)
    bits = np.packbits(steps[:, 1:] > steps[:, :-1])
    thumbnail = np.asarray(grey.resize(THUMBNAIL_SIZE, Image.Resampling.BILINEAR)).ravel()
    return int.from_bytes(bits.tobytes(), "big"), thumbnail


def duplicate_groups(
    hashes: np.ndarray, thumbnails: np.ndarray, distance: int = 3, correlation: float = 0.97
) -> tuple[np.ndarray, np.ndarray]:
    """Find the images that look the same.

    Args:
        hashes (`np.ndarray`): difference hashes, uint64 [N].
        thumbnails (`np.ndarray`): small grey images, uint8 [N, P].
        distance (`int`): largest number of bits, 0 to 8, in which the hashes of two copies differ.
        correlation (`float`): smallest correlation of the thumbnails of two copies.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: groups, int64 [N], and pairs, int64 [M, 2].

        A group is the index of the first image with the same hash that this image is a copy of. It is the image's own
        index if there is none, or if the image has too little contrast. A pair names two groups that are copies
        although their hashes differ. Each pair occurs once.

    Raises:
        ValueError: `distance` is out of range.
    """
    if not 0 <= distance <= 8:
        raise ValueError(f"distance is {distance}, not in 0 to 8 bits")
    groups = np.arange(len(hashes))
    flat = _contrast(thumbnails) < MIN_CONTRAST
    for run in _equal_hash_runs(hashes, flat):
        groups[run] = _leaders(run, thumbnails, correlation)
    leaders = np.flatnonzero((groups == np.arange(len(groups))) & ~flat)
    copies = []
    for left, right in _near_hashes(hashes[leaders], distance) if distance else ():
        left, right = leaders[left], leaders[right]
        same = _correlation(thumbnails, left, right) >= correlation
        copies.append(np.sort(np.stack([left[same], right[same]], 1), 1))
    pairs = np.unique(np.concatenate(copies), axis=0) if copies else np.empty((0, 2), np.int64)
    return groups, pairs


def _equal_hash_runs(hashes: np.ndarray, flat: np.ndarray) -> Iterator[np.ndarray]:
    """For each hash that several images have: the indices of these images, in order."""
    order = np.argsort(hashes, kind="stable")
    order = order[~flat[order]]
    differ = np.diff(hashes[order], prepend=~hashes[order[:1]], append=~hashes[order[-1:]]) != 0
    edges = np.flatnonzero(differ)  # the start of each run, and the end
    for n in np.flatnonzero(np.diff(edges) > 1):
        yield order[edges[n] : edges[n + 1]]


def _leaders(run: np.ndarray, thumbnails: np.ndarray, correlation: float) -> np.ndarray:
    """For each image of one hash: the first image of its set of copies."""
    leaders: list[int] = []
    leader_of = run.copy()
    for n, index in enumerate(run):
        same = _correlation(thumbnails, np.array(leaders, int), run[n : n + 1]) >= correlation
        if same.any():
            leader_of[n] = leaders[int(same.argmax())]
        else:
            leaders.append(int(index))
    return leader_of


def _near_hashes(hashes: np.ndarray, distance: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of positions whose hashes differ in 1 to `distance` bits, in pieces. A pair may occur more than once."""
    edges = np.linspace(0, 64, distance + _BLOCKS + 1).astype(int)
    blocks = [((1 << int(b)) - 1) ^ ((1 << int(a)) - 1) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    for chosen in combinations(blocks, _BLOCKS):
        keys = hashes & np.uint64(sum(chosen))
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        starts = np.flatnonzero(keys[1:] == keys[:-1])
        for step in range(1, len(order)):  # compare each row with the one `step` further on, while keys are equal
            starts = starts[starts + step < len(order)]
            starts = starts[keys[starts] == keys[starts + step]]
            if not len(starts):
                break
            left, right = order[starts], order[starts + step]
            differ = np.bitwise_count(hashes[left] ^ hashes[right])
            close = (differ > 0) & (differ <= distance)
            if close.any():
                yield left[close], right[close]


def _contrast(thumbnails: np.ndarray) -> np.ndarray:
    """Standard deviation of the grey levels of each thumbnail."""
    if not len(thumbnails):
        return np.zeros(0)
    return np.concatenate([part.astype(np.float32).std(1) for part in _chunks(thumbnails)])


def _correlation(thumbnails: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Correlation of the thumbnails `left` with the thumbnails `right`, pair by pair, whatever their brightness.

    If `right` is a single index, it is compared with all of `left`.
    """

    def unit(rows: np.ndarray) -> np.ndarray:
        centred = thumbnails[rows].astype(np.float32)
        centred -= centred.mean(1, keepdims=True)
        return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6)

    if len(right) == 1:
        reference = unit(right)[0]
        parts = [unit(rows) @ reference for rows in _chunks(left)]
    else:
        parts = [(unit(a) * unit(b)).sum(1) for a, b in zip(_chunks(left), _chunks(right), strict=True)]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _chunks(array: np.ndarray, rows: int = 256) -> Iterator[np.ndarray]:
    for start in range(0, len(array), rows):
        yield array[start : start + rows]
