"""Boxes of salient regions: Felzenszwalb's segments and the unions of neighbouring segments.

An independent implementation of the idea of selective search (Uijlings et al., IJCV 2013). A fine segmentation
(Felzenszwalb and Huttenlocher, IJCV 2004) is merged pair by pair until one segment is left; each segment on the way
gives a box. Two orders of merging find different regions. One joins similar colours, such as a jacket; the other joins
segments with a small common box, such as a cup of three colours. Needs scikit-image, but no weights.
"""

import heapq
from collections.abc import Callable

import numpy as np
from PIL import Image

from modeling_rogle.image_io import to_rgb

_LONG_SIDE = 200  # pixels of the segmented copy; larger copies find threads, smaller ones lose carried items
_SHORT_SIDE = 8
_SCALE, _SIGMA, _MIN_PIXELS = 50, 0.8, 10  # parameters of Felzenszwalb: about 120 segments of such a copy

# A segment: number of pixels, mean colour L, a, b, and box x0, y0, x1, y1 in pixels.
_Segment = tuple[int, tuple[float, float, float], tuple[int, int, int, int]]


def segment_boxes(image: Image.Image) -> np.ndarray:
    """Boxes of segments and of unions of neighbouring segments, the most salient first.

    Args:
        image: any mode and size. A copy with a long side of 200 pixels is segmented.

    Returns:
        float32 `[N, 4]` x0, y0, x1, y1 as fractions of width and height. N is a few hundred; boxes may repeat. The
        result is deterministic.

    Raises:
        ImportError: scikit-image is not installed.
    """
    try:
        from skimage.color import rgb2lab
        from skimage.segmentation import felzenszwalb
    except ImportError as error:
        raise ImportError(
            "proposer templates+felzenszwalb needs scikit-image: pip install 'rogle[pvlg]', "
            "or use the proposer templates"
        ) from error
    ratio = _LONG_SIDE / max(image.size)
    size = [max(_SHORT_SIDE, round(side * ratio)) for side in image.size]
    pixels = np.asarray(to_rgb(image).resize(size, Image.Resampling.BILINEAR))
    parts = felzenszwalb(pixels, scale=_SCALE, sigma=_SIGMA, min_size=_MIN_PIXELS)
    leaves, neighbours = _measure(parts, rgb2lab(pixels))
    ranked = [
        _ranked(leaves, neighbours, parts.size, _colour_cost, fullness=0.0),
        _ranked(leaves, neighbours, parts.size, _box_cost, fullness=4.0),
    ]
    # The two rankings alternate, so that every prefix holds the best boxes of both.
    boxes = np.stack(ranked, axis=1).reshape(-1, 4)
    return (boxes / [*size, *size]).astype(np.float32)


def _measure(parts: np.ndarray, colours: np.ndarray) -> tuple[list[_Segment], list[tuple[int, int]]]:
    """The segments of a label map `[H, W]` with labels 0 to n-1, and all pairs of touching segments in order."""
    flat = parts.ravel()
    count = int(flat.max()) + 1
    pixels = np.bincount(flat, minlength=count)
    means = [np.bincount(flat, colours[..., channel].ravel(), count) / pixels for channel in range(3)]
    rows, columns = np.divmod(np.arange(flat.size), parts.shape[1])
    low, high = np.full((count, 2), flat.size), np.zeros((count, 2), dtype=np.int64)
    for axis, coordinates in enumerate((columns, rows)):
        np.minimum.at(low[:, axis], flat, coordinates)
        np.maximum.at(high[:, axis], flat, coordinates + 1)
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


def _join(first: _Segment, second: _Segment) -> _Segment:
    (m, first_colour, a), (n, second_colour, b) = first, second
    lightness, red_green, blue_yellow = (
        (m * x + n * y) / (m + n) for x, y in zip(first_colour, second_colour, strict=True)
    )
    return (
        m + n,
        (lightness, red_green, blue_yellow),
        (min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])),
    )


def _colour_distance(first: _Segment, second: _Segment) -> float:
    """Squared distance of the mean colours."""
    return sum((x - y) ** 2 for x, y in zip(first[1], second[1], strict=True))


def _box_pixels(segment: _Segment) -> int:
    x0, y0, x1, y1 = segment[2]
    return (x1 - x0) * (y1 - y0)


def _colour_cost(first: _Segment, second: _Segment, union: _Segment, image_pixels: int) -> float:
    """Ward's cost of joining two colours, with the root of the sizes, and higher if the union fills its box poorly."""
    empty = (_box_pixels(union) - union[0]) / image_pixels
    return (first[0] * second[0] / union[0]) ** 0.5 * (_colour_distance(first, second) + 20) * (1 + 4 * empty)


def _box_cost(first: _Segment, second: _Segment, union: _Segment, image_pixels: int) -> float:
    """The area of the common box, scaled up by the distance of the colours."""
    return _box_pixels(union) * (1 + _colour_distance(first, second) ** 0.5 / 20)


def _ranked(
    leaves: list[_Segment],
    neighbours: list[tuple[int, int]],
    image_pixels: int,
    cost: Callable[[_Segment, _Segment, _Segment, int], float],
    fullness: float,
) -> np.ndarray:
    """Merges the pair of the lowest cost until one segment is left, and ranks all segments on the way.

    Args:
        leaves: the n segments of the segmentation.
        neighbours: pairs of indices of touching leaves.
        image_pixels: number of pixels of the image.
        cost: function of two segments, their union and `image_pixels`.
        fullness: weight of the share of its box that a segment fills, against the logarithm of the cost at which the
            segment is merged into another one.

    Returns:
        int64 `[2 n - 1, 4]` boxes in pixels of the leaves and of all unions, the most salient first.
    """
    segments = list(leaves)
    merge_costs = [0.0] * len(leaves)  # cost at which a segment is merged into another one
    neighbours_of: list[set[int]] = [set() for _ in leaves]
    heap: list[tuple[float, int, int, _Segment]] = []

    def connect(a: int, b: int) -> None:
        neighbours_of[a].add(b)
        neighbours_of[b].add(a)
        union = _join(segments[a], segments[b])
        heapq.heappush(heap, (cost(segments[a], segments[b], union, image_pixels), a, b, union))

    for a, b in neighbours:
        connect(a, b)
    remaining = set(range(len(leaves)))
    while heap:
        merge_cost, a, b, union = heapq.heappop(heap)
        if a not in remaining or b not in remaining:
            continue
        new = len(segments)
        remaining -= {a, b}
        remaining.add(new)
        merge_costs[a] = merge_costs[b] = merge_cost
        segments.append(union)
        merge_costs.append(merge_cost)  # stays for the last segment only, the whole image
        neighbours_of.append(set())
        for other in sorted((neighbours_of[a] | neighbours_of[b]) & remaining - {new}):
            connect(other, new)
    scores = [
        -np.log1p(merge_cost) - fullness * segment[0] / _box_pixels(segment)
        for merge_cost, segment in zip(merge_costs, segments, strict=True)
    ]
    return np.array([segment[2] for segment in segments])[np.argsort(scores, kind="stable")]


__all__ = ["segment_boxes"]
