"""One result for images that show the same: exact copies, near-duplicates, consecutive frames, or a column's value.

Cosines are comparable only within one model, so the distance of two images is measured relative to the gallery:
`(1 - cosine) / (1 - mean cosine of two images of the gallery)`. It is 0 for equal embeddings and 1 on average.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from modeling_rogle.index.shards import Index
from modeling_rogle.inference.errors import GalleryError

# Relative distances, from synthetic validation: no two identities are nearer than 0.01, 1 % of pairs nearer than 0.2.
DUPLICATE = 0.005  # up to which two images are near-duplicates
CONSECUTIVE = 0.2  # up to which two images of one camera are one person, if they were taken shortly after each other
SECONDS = 3.0  # between consecutive images, where the column `time` holds times or numbers of seconds
FRAMES = 90  # between consecutive images, where there is a column `frame`: three seconds at 30 frames a second
MAX_GROUPED = 4_096  # best images of a search among which groups are formed
SAMPLE = 2_000  # images that estimate the mean cosine
MIN_GALLERY = 20  # images; with fewer the mean cosine says little, and only copies are grouped


@dataclass(frozen=True)
class Grouping:
    """What becomes one result.

    Attributes:
        similar: near-duplicates, and consecutive images of one camera.
        column: name of a column; images with the same value are one result, images without a value are not grouped.
    """

    similar: bool = False
    column: str | None = None


COPIES_ONLY = Grouping()


@dataclass(frozen=True)
class Candidates:
    """The best images of a search, without exact copies.

    Attributes:
        rows: `[n]` rows of the index, best first.
        scores: `[n]` their cosines with the query.
        copies: for each of them, the rows of its exact copies.
        complete: whether there are no more images to search.
    """

    rows: np.ndarray
    scores: np.ndarray
    copies: list[list[int]]
    complete: bool

    def with_copies(self, position: int) -> list[int]:
        """The row of a candidate, and those of its copies."""
        return [int(self.rows[position]), *self.copies[position]]


def distinct_candidates(
    index: Index, nearest: Callable[[int], tuple[np.ndarray, np.ndarray]], count: int
) -> Candidates:
    """Finds the best images, with exact copies as one.

    Args:
        index: the index.
        nearest: number k -> the best k rows and their cosines, best first; fewer if fewer are searched.
        count: number of distinct images; fewer are returned only if there are no more.
    """
    wanted = count
    while True:
        rows, scores = nearest(wanted)
        first = _first_copies(index, rows)
        kept = np.flatnonzero(first == np.arange(len(rows)))
        complete = len(rows) < wanted or len(rows) == len(index)
        if complete or len(kept) >= count:
            break
        wanted *= 2
    complete, kept = complete and len(kept) <= count, kept[:count]
    copies: dict[int, list[int]] = {int(n): [] for n in kept}
    for n, owner in enumerate(first.tolist()):
        if owner != n and owner in copies:
            copies[owner].append(int(rows[n]))
    return Candidates(rows[kept], scores[kept], list(copies.values()), complete)


def _first_copies(index: Index, rows: np.ndarray) -> np.ndarray:
    """`[n]` int64: for each of `rows` `[n]`, the position of the first with the same file, and in a scene the same box.

    Rows without the SHA-256 of a file are no copies.
    """
    table = index.table.select(["sha256", "box"]).take(pa.array(rows))
    first: dict[tuple, int] = {}
    digests, boxes = table["sha256"].to_pylist(), table["box"].to_pylist()
    keys = ((digest or n, *(box or ())) for n, (digest, box) in enumerate(zip(digests, boxes, strict=True)))
    return np.array([first.setdefault(key, n) for n, key in enumerate(keys)], dtype=np.int64)


def check_column(index: Index, column: str) -> None:
    """Raises GalleryError if the index has no such column."""
    if column not in index.table.column_names:
        names = ", ".join(index.table.column_names)
        raise GalleryError(f"group by: no column {column!r}; columns are {names}")


class Groups:
    """Groups images of one state of an index.

    Args:
        index: the index.
    """

    def __init__(self, index: Index):
        self.index = index
        self._distance_scale: float | None = None

    def groups(self, rows: np.ndarray, grouping: Grouping) -> list[list[int]]:
        """Positions in `rows` `[n]` of the members of each group, in the order of the groups' first members."""
        members: dict[int, list[int]] = {}
        for n, label in enumerate(self.labels(rows, grouping).tolist()):
            members.setdefault(label, []).append(n)
        return list(members.values())

    def labels(self, rows: np.ndarray, grouping: Grouping) -> np.ndarray:
        """Numbers the groups of images.

        Args:
            rows: `[n]` rows of the index.
            grouping: what becomes one group. Groups are transitive: a sequence of frames is one group.

        Returns:
            `[n]` int64; images with equal numbers are one group.
        """
        labels = np.arange(len(rows))
        if grouping.column is not None:
            values = self.index.table[grouping.column].take(pa.array(rows)).to_pylist()
            first: dict[str, int] = {}
            for n, value in enumerate(values):
                labels[n] = n if value is None else first.setdefault(repr(value), n)
        if grouping.similar and len(self.index) >= MIN_GALLERY:
            labels = _components(labels, self._linked(rows))
        return labels

    def _linked(self, rows: np.ndarray) -> np.ndarray:
        """Bool `[n, n]`: whether two images are near-duplicates or consecutive."""
        embeds = self.index.global_rows(rows)
        distance = (1.0 - embeds @ embeds.T) / self._scale()
        return (distance <= DUPLICATE) | ((distance <= CONSECUTIVE) & self._consecutive(rows))

    def _scale(self) -> float:
        """1 - the mean cosine of two different images of the gallery."""
        if self._distance_scale is None:
            count = min(len(self.index), SAMPLE)
            sample = np.sort(np.random.default_rng(0).choice(len(self.index), count, replace=False))
            total = self.index.global_rows(sample).astype(np.float64).sum(axis=0)
            self._distance_scale = max(1.0 - float(total @ total - count) / (count * (count - 1)), 1e-6)
        return self._distance_scale

    def _consecutive(self, rows: np.ndarray) -> np.ndarray:
        """Bool `[n, n]`: whether two images have the same camera and were taken shortly after each other.

        Without the columns `camera`, and `time` or `frame`, or where a value is missing, no two images are consecutive.
        """
        names = self.index.table.column_names
        close = np.zeros((len(rows), len(rows)), dtype=bool)
        if "camera" not in names:
            return close
        for name, limit in (("time", SECONDS), ("frame", FRAMES)):
            if name in names and (moments := self._moments(name, rows)) is not None:
                close |= np.abs(moments[:, None] - moments[None]) <= limit  # false for NaN
        cameras = self.index.table["camera"].take(pa.array(rows)).to_pylist()
        codes = np.unique([repr(camera) for camera in cameras], return_inverse=True)[1]
        known = np.array([camera is not None for camera in cameras])
        return close & (codes[:, None] == codes[None]) & (known[:, None] & known[None])

    def _moments(self, name: str, rows: np.ndarray) -> np.ndarray | None:
        """Float64 `[n]` seconds or frames, NaN where there is no value; None for a column of another type."""
        column = self.index.table[name]
        if pa.types.is_timestamp(column.type):
            column = pc.divide(column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64()).cast(pa.float64()), 1e6)
        elif pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            column = column.cast(pa.float64(), safe=False)
        else:
            return None
        return column.take(pa.array(rows)).to_numpy(zero_copy_only=False).astype(np.float64)


def _components(labels: np.ndarray, linked: np.ndarray) -> np.ndarray:
    """Numbers of the connected components, where images with equal labels are connected too."""
    linked = linked | (labels[:, None] == labels[None])
    components = np.full(len(labels), -1)
    for start in range(len(labels)):
        if components[start] >= 0:
            continue
        waiting = [start]
        components[start] = start
        while waiting:
            near = np.flatnonzero(linked[waiting.pop()] & (components < 0))
            components[near] = start
            waiting += near.tolist()
    return components


__all__ = ["COPIES_ONLY", "MAX_GROUPED", "Candidates", "Grouping", "Groups", "check_column", "distinct_candidates"]
