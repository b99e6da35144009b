"""A vector store of faiss that compares a query with 8-bit codes of all vectors: a quarter of the bytes of float32.

The codes are signed integers. No training is needed, and there is no effort to set. The shards score the candidates
again, so rounding can only lose a result that lies close to the last candidate. The codes are mapped into memory, and a
search reads all of them once.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from modeling_rogle.index.manifest import new_name
from modeling_rogle.inference.errors import GalleryError

_MAX_CODE = 127
_BLOCK_ROWS = 16_384  # vectors that are converted to codes at once
_WIDE_SHARE = 0.25  # of the vectors, from which a filter is applied to more results instead of to each code
_OVERSAMPLING = 1.5  # factor on the number of results that such a filter requires on average


class FlatStore:
    """A [`VectorStore`] of 8-bit codes in one file of the index.

    Args:
        path: the index folder.
        dimension: length of a vector.
        stored: the manifest's `store`, None for a new store.

    Raises:
        GalleryError: faiss is not installed, or its file is missing, damaged, of another kind or another dimension.
    """

    can_delete = True
    max_filter = 2**62  # any number of ids

    def __init__(self, path: Path, dimension: int, stored: dict[str, Any] | None):
        try:
            import faiss
        except ImportError as error:
            raise GalleryError("store faiss-flat: faiss is not installed; pip install faiss-cpu") from error
        self._faiss, self.path, self.dimension = faiss, path, dimension
        self.effort = self.max_effort = 1
        self.file = (stored or {}).get("file")  # of the index as it is in memory; None if it has changed since
        self.scale = (stored or {}).get("scale")  # code of a number x: x * scale, rounded. Codes end at 127.
        self.index: Any = None
        self._ids = np.zeros(0, dtype=np.int64)  # of the codes, in their order
        if self.file is not None:
            self._read(faiss.IO_FLAG_MMAP_IFC)

    def _read(self, flags: int) -> None:
        faiss, file = self._faiss, self.path / str(self.file)
        try:
            index = faiss.read_index(str(file), flags)
        except RuntimeError as error:
            raise GalleryError(f"{file}: missing or damaged; fill the store again") from error
        codes = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap) else None
        if not isinstance(codes, faiss.IndexScalarQuantizer) or not self.scale or self.scale < 0:
            raise GalleryError(f"{file}: not an index of faiss-flat; fill the store again")
        if index.d != self.dimension:
            raise GalleryError(f"{file}: vectors of {index.d} numbers, the index has {self.dimension}")
        self.index, self._ids = index, faiss.vector_to_array(index.id_map)

    def __len__(self) -> int:
        return len(self._ids)

    def _change(self) -> None:
        """Prepares the index for a change: a mapped file cannot be written to."""
        if self.index is not None and self.file is not None:
            self._read(0)
        self.file = None

    def add(self, ids: np.ndarray, embeds: np.ndarray) -> None:
        """See [`VectorStore`]. The largest number of the first vectors determines the step between two codes."""
        faiss, ids = self._faiss, np.ascontiguousarray(ids, dtype=np.int64)
        self._change()
        if self.index is None:
            largest = float(np.abs(embeds).max(initial=0))
            self.scale = _MAX_CODE / largest if largest else float(_MAX_CODE)
            kind = faiss.ScalarQuantizer.QT_8bit_direct_signed
            self.index = faiss.IndexIDMap(faiss.IndexScalarQuantizer(self.dimension, kind, faiss.METRIC_INNER_PRODUCT))
        elif np.isin(ids, self._ids).any():
            self.index.remove_ids(ids)
        for start in range(0, len(ids), _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            numbers = np.rint(np.asarray(embeds[part], dtype=np.float32) * np.float32(self.scale))
            self.index.add_with_ids(np.clip(numbers, -_MAX_CODE, _MAX_CODE), ids[part])
        self._ids = faiss.vector_to_array(self.index.id_map)

    def finish(self, progress: bool) -> None:
        """See [`VectorStore`]. There is nothing to wait for."""

    def built(self) -> None:
        """See [`VectorStore`]."""

    def delete(self, ids: np.ndarray) -> None:
        """See [`VectorStore`]."""
        if self.index is not None:
            self._change()
            self.index.remove_ids(np.ascontiguousarray(ids, dtype=np.int64))
            self._ids = self._faiss.vector_to_array(self.index.id_map)

    def clear(self) -> None:
        """See [`VectorStore`]. The file is removed once the manifest does not name it any more."""
        self.index, self.file, self._ids = None, None, self._ids[:0]

    def search(self, query: np.ndarray, count: int, ids: np.ndarray | None = None) -> np.ndarray:
        """See [`VectorStore`]."""
        faiss = self._faiss
        if not len(self):
            return np.zeros(0, dtype=np.int64)
        # faiss rounds the query to integers too. The length of a query does not change the order of the results.
        query = query / max(float(np.abs(query).max(initial=0)), 1e-30) * _MAX_CODE
        query = np.ascontiguousarray(np.rint(query), dtype=np.float32)[None]
        if ids is None:
            return self._ids[self._nearest(query, count)]
        passes = np.zeros(int(max(self._ids.max(), ids[-1] if len(ids) else 0)) + 1, dtype=bool)
        passes[ids] = True
        if len(ids) > _WIDE_SHARE * len(self):  # a filter takes time for each code, so wide ones are applied afterwards
            found = self._ids[self._nearest(query, int(_OVERSAMPLING * count * len(self) / len(ids)))]
            found = found[passes[found]]
            if len(found) >= count:
                return found[:count]
        bitmap = np.packbits(passes[self._ids], bitorder="little")
        parameters = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bitmap))
        return self._ids[self._nearest(query, count, parameters)]

    def _nearest(self, query: np.ndarray, count: int, parameters: Any = None) -> np.ndarray:
        """Positions of the codes nearest to a query `[1, D]`, best first."""
        # The codes are searched without the table of ids: faiss would look up the id of each code for a filter.
        positions: np.ndarray = self.index.index.search(query, min(count, len(self)), params=parameters)[1][0]
        return positions[positions >= 0]

    def saved(self) -> dict[str, Any]:
        """See [`VectorStore`]."""
        if self.file is None and self.index is not None:
            name = new_name("faiss", ".index")
            unfinished = self.path / f".{name.removesuffix('.index')}.new"
            self._faiss.write_index(self.index, str(unfinished))
            os.replace(unfinished, self.path / name)
            self.file = name
        return {"file": self.file, "scale": self.scale}

    def close(self) -> None:
        """See [`VectorStore`]."""
        self.clear()


__all__ = ["FlatStore"]
