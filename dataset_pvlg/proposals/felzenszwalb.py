"""Boxes of whatever stands out in an image: Felzenszwalb's segments and the unions of neighbouring ones.

Independent of, and after, selective search (Uijlings et al., IJCV 2013): a fine segmentation (Felzenszwalb and
Huttenlocher, IJCV 2004) is merged pair by pair until one segment is left, and each segment on the way gives a box. Two
orders of merging see different things: one joins what looks alike (a jacket), one what makes a small box (a cup of
three colours). Needs scikit-image, no weights.
"""

import heapq
from collections.abc import Callable

import numpy as np
from PIL import Image

_LONG_SIDE = 200  # pixels of the copy that is looked at; finer finds threads, coarser loses what hands hold
_SHORT_SIDE = 8
_SCALE, _SIGMA, _LEAST_PIXELS = 50, 0.8, 10  # Felzenszwalb's: about 120 segments for such a copy

# Of a segment: pixels, mean colour L, a, b, and box x0, y0, x1, y1 in pixels.
_Segment = tuple[int, tuple[float, float, float], tuple[int, int, int, int]]


def segment_boxes(image: Image.Image) -> np.ndarray:
    """Boxes of segments and of unions of neighbouring segments, those that stand out first.

    Args:
        image: RGB, of any size; a copy 200 pixels high is looked at.

    Returns:
        float32 `[N, 4]` x0, y0, x1, y1 in [0, 1] of width and height; N is a few hundred, equal boxes among them. The
        same for the same image, always.

    Raises:
        ImportError: no scikit-image; one line.
    """
    try:
        from skimage.color import rgb2lab
        from skimage.segmentation import felzenszwalb
    except ImportError as error:
        raise ImportError(
            "proposer templates+felzenszwalb needs scikit-image: pip install 'rogle[pvlg]', "
            "or choose the proposer templates"
        ) from error
    ratio = _LONG_SIDE / max(image.size)
    size = [max(_SHORT_SIDE, round(side * ratio)) for side in image.size]
    pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BILINEAR))
    parts = felzenszwalb(pixels, scale=_SCALE, sigma=_SIGMA, min_size=_LEAST_PIXELS)
    leaves, neighbours = _measure(parts, rgb2lab(pixels))
    ranked = [
        _ranked(leaves, neighbours, parts.size, _alike, fullness=0.0),
        _ranked(leaves, neighbours, parts.size, _compact, fullness=4.0),
    ]
    # Taken in turn: every prefix holds the best of both.
    boxes = np.stack(ranked, axis=1).reshape(-1, 4)
    return (boxes / [*size, *size]).astype(np.float32)


def _measure(parts: np.ndarray, colours: np.ndarray) -> tuple[list[_Segment], list[tuple[int, int]]]:
    """The segments of a label map `[H, W]` with labels 0..n-1, and the pairs that touch, each once, ascending."""
    flat = parts.ravel()
    count = int(flat.max()) + 1
    pixels = np.bincount(flat, minlength=count)
    means = [np.bincount(flat, colours[..., channel].ravel(), count) / pixels for channel in range(3)]
    rows, columns = np.divmod(np.arange(flat.size), parts.shape[1])
    low, high = np.full((count, 2), flat.size), np.zeros((count, 2), dtype=np.int64)
    for axis, places in enumerate((columns, rows)):
        np.minimum.at(low[:, axis], flat, places)
        np.maximum.at(high[:, axis], flat, places + 1)
    across = np.stack([parts[:, :-1].ravel(), parts[:, 1:].ravel()], axis=1)
    down = np.stack([parts[:-1].ravel(), parts[1:].ravel()], axis=1)
    touching = np.unique(np.sort(np.concatenate([across, down]), axis=1), axis=0)
    segments = zip(
        pixels.tolist(),
        zip(*(mean.tolist() for mean in means), strict=True),
        map(tuple, np.concatenate([low, high], axis=1).tolist()),
        strict=True,
    )
    return list(segments), [(a, b) for a, b in touching.tolist() if a != b]


def _join(one: _Segment, other: _Segment) -> _Segment:
    (m, colour, a), (n, colour_other, b) = one, other
    mixed = tuple((m * x + n * y) / (m + n) for x, y in zip(colour, colour_other, strict=True))
    return m + n, mixed, (min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))


def _away(one: _Segment, other: _Segment) -> float:
    """Squared distance of two mean colours."""
    return sum((x - y) ** 2 for x, y in zip(one[1], other[1], strict=True))


def _box_pixels(segment: _Segment) -> int:
    x0, y0, x1, y1 = segment[2]
    return (x1 - x0) * (y1 - y0)


def _alike(one: _Segment, other: _Segment, both: _Segment, image: int) -> float:
    """Cost of joining by colour: Ward's, softened in size, dearer where the union leaves much of its box empty."""
    hollow = (_box_pixels(both) - both[0]) / image
    return (one[0] * other[0] / both[0]) ** 0.5 * (_away(one, other) + 20) * (1 + 4 * hollow)


def _compact(one: _Segment, other: _Segment, both: _Segment, image: int) -> float:
    """Cost of joining by place: the box of both, up to some times as dear where the colours differ."""
    return _box_pixels(both) * (1 + _away(one, other) ** 0.5 / 20)


def _ranked(
    leaves: list[_Segment],
    neighbours: list[tuple[int, int]],
    image: int,
    cost: Callable[[_Segment, _Segment, _Segment, int], float],
    fullness: float,
) -> np.ndarray:
    """Merges the cheapest pair until one segment is left.

    Args:
        image: pixels of it.
        cost: of joining two segments: one, other, both, `image`.
        fullness: what it counts that a segment fills its box, beside the logarithm of the cost at which it is lost.

    Returns:
        int64 `[2 n - 1, 4]` boxes of the n leaves and of all unions, the most outstanding first.
    """
    segments = list(leaves)
    lost_at = [0.0] * len(leaves)
    around: list[set[int]] = [set() for _ in leaves]
    heap: list[tuple[float, int, int, _Segment]] = []

    def touch(a: int, b: int) -> None:
        around[a].add(b)
        around[b].add(a)
        both = _join(segments[a], segments[b])
        heapq.heappush(heap, (cost(segments[a], segments[b], both, image), a, b, both))

    for a, b in neighbours:
        touch(a, b)
    alive = set(range(len(leaves)))
    while heap:
        price, a, b, both = heapq.heappop(heap)
        if a not in alive or b not in alive:
            continue
        new = len(segments)
        alive -= {a, b}
        alive.add(new)
        lost_at[a] = lost_at[b] = price
        segments.append(both)
        lost_at.append(price)  # of the last, the whole image; the others are lost later
        around.append(set())
        for other in sorted((around[a] | around[b]) & alive - {new}):
            touch(other, new)
    scores = [
        -np.log1p(price) - fullness * segment[0] / _box_pixels(segment)
        for price, segment in zip(lost_at, segments, strict=True)
    ]
    return np.array([segment[2] for segment in segments])[np.argsort(scores, kind="stable")]


__all__ = ["segment_boxes"]
