"""A vector store of faiss: an inverted file (IVF) or a graph (HNSW) of the global embeddings, in one file of the index.

The inverted file stores 8 bits per number, a quarter of the bytes of float32, because the shards score its candidates
again. The file is written under a temporary name and renamed: `faiss.write_index` is not atomic.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from modeling_rogle.index.manifest import new_name
from modeling_rogle.inference.errors import GalleryError

HNSW_LINKS = 32  # M
HNSW_BUILD_EFFORT = 200  # efConstruction
# Number of cells of an inverted file, as a factor on the root of the number of vectors. With fewer cells, or fewer
# training vectors per cell, clusters of the data are split between cells, and ten times as many must be probed.
CELLS = 2
TRAINING_VECTORS = 128  # per cell
MIN_TRAINING_VECTORS = 39  # per cell, the lower limit of faiss


class FaissStore:
    """A [`VectorStore`] of faiss.

    `faiss` and `faiss-ivf` can delete single vectors and map the file into memory. `faiss-hnsw` is faster at high
    recall, takes longer to build, is read into memory, and can only be cleared.

    Args:
        path: the index folder.
        uri: `faiss`, `faiss-ivf` or `faiss-hnsw`.
        dimension: length of a vector.
        expected: number of vectors that the store will hold, which determines the number of cells.
        stored: the manifest's `store`, None for a new store.

    Raises:
        GalleryError: faiss is not installed, or its file is missing, damaged, of another kind or another dimension.
    """

    def __init__(self, path: Path, uri: str, dimension: int, expected: int, stored: dict[str, Any] | None):
        try:
            import faiss
        except ImportError as error:
            raise GalleryError(f"store {uri}: faiss is not installed; pip install faiss-cpu") from error
        self._faiss = faiss
        self.path, self.dimension, self.expected = path, dimension, max(expected, 1)
        self.is_graph = uri == "faiss-hnsw"
        self.can_delete, self.max_filter = not self.is_graph, 0
        self.file = (stored or {}).get("file")  # of the index as it is in memory; None if it has changed since
        self.index: Any = None
        self.cells = 1
        if self.file is not None:
            try:
                if hasattr(faiss, "set_deserialization_vector_byte_limit"):  # no vector is larger than its file
                    faiss.set_deserialization_vector_byte_limit(max((path / self.file).stat().st_size, 1 << 20))
                # A graph is read at random and needed as a whole; of an inverted file only the probed cells are read.
                self.index = faiss.read_index(str(path / self.file), 0 if self.is_graph else faiss.IO_FLAG_MMAP)
            except (RuntimeError, OSError, MemoryError) as error:
                raise GalleryError(f"{path / self.file}: missing or damaged; fill the store again") from error
            if not self._has_expected_kind():
                raise GalleryError(f"{path / self.file}: not an index of {uri}; fill the store again")
            if self.index.d != dimension:
                raise GalleryError(f"{path / self.file}: vectors of {self.index.d} numbers, the index has {dimension}")
            self.cells = 1 if self.is_graph else self.index.nlist
        self.effort = (stored or {}).get("effort") or (64 if self.is_graph else 2)  # efSearch, or cells to probe

    def _has_expected_kind(self) -> bool:
        faiss = self._faiss
        if not self.is_graph:
            return isinstance(self.index, faiss.IndexIVF)
        return isinstance(self.index, faiss.IndexIDMap2) and isinstance(
            faiss.downcast_index(self.index.index), faiss.IndexHNSW
        )

    @property
    def max_effort(self) -> int:
        """See [`VectorStore`]."""
        return 2048 if self.is_graph else self.cells

    def __len__(self) -> int:
        return 0 if self.index is None else self.index.ntotal

    def _make_writable(self) -> None:
        """Reads a mapped file into memory, because it cannot be written to."""
        if self.index is not None and not self.is_graph and self.file is not None:
            self.index = self._faiss.read_index(str(self.path / self.file))

    def add(self, ids: np.ndarray, embeds: np.ndarray) -> None:
        """See [`VectorStore`]. The first vectors train the cells, so they should be many and a random sample."""
        ids = np.ascontiguousarray(ids, dtype=np.int64)
        embeds = np.ascontiguousarray(embeds, dtype=np.float32)
        if self.index is None:
            self.index = self._new_graph() if self.is_graph else self._new_inverted_file(embeds)
        else:
            self._make_writable()
            if not self.is_graph:
                self.index.remove_ids(ids)
        self.file = None
        self.index.add_with_ids(embeds, ids)

    def _new_graph(self) -> Any:
        faiss = self._faiss
        graph = faiss.IndexHNSWFlat(self.dimension, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = HNSW_BUILD_EFFORT
        return faiss.IndexIDMap2(graph)

    def _new_inverted_file(self, embeds: np.ndarray) -> Any:
        """Trains an empty inverted file on `[n, D]` vectors."""
        faiss = self._faiss
        # Near sqrt(n) cells, comparing with all cells costs as much as reading the probed ones.
        self.cells = max(1, min(int(CELLS * self.expected**0.5), len(embeds) // MIN_TRAINING_VECTORS))
        index = faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatIP(self.dimension),
            self.dimension,
            self.cells,
            faiss.ScalarQuantizer.QT_8bit,
            faiss.METRIC_INNER_PRODUCT,
        )
        index.cp.max_points_per_centroid = TRAINING_VECTORS
        index.cp.min_points_per_centroid = 1  # silences a warning on stderr: so few vectors are one cell
        index.cp.seed = 0
        index.train(embeds)
        return index

    def finish(self, progress: bool) -> None:
        """See [`VectorStore`]. There is nothing to wait for."""

    def built(self) -> None:
        """See [`VectorStore`]."""

    def delete(self, ids: np.ndarray) -> None:
        """See [`VectorStore`].

        Raises:
            GalleryError: the store is a graph, which cannot delete single vectors.
        """
        if self.is_graph:
            raise GalleryError("store faiss-hnsw: cannot delete single vectors; clear it")
        if self.index is not None:
            self._make_writable()
            self.file = None
            self.index.remove_ids(np.ascontiguousarray(ids, dtype=np.int64))

    def clear(self) -> None:
        """See [`VectorStore`]. The file is removed once the manifest does not name it any more."""
        self.index, self.file = None, None

    def search(self, query: np.ndarray, count: int, ids: np.ndarray | None = None) -> np.ndarray:
        """See [`VectorStore`]. The search cannot be restricted to ids."""
        if self.index is None:
            return np.zeros(0, dtype=np.int64)
        faiss, count = self._faiss, min(count, self.index.ntotal)
        query = np.ascontiguousarray(query, dtype=np.float32)[None]
        if self.is_graph:
            parameters = faiss.SearchParametersHNSW(efSearch=max(self.effort, 2 * count))
            ids = self.index.search(query, count, params=parameters)[1][0]
            return ids[ids >= 0]
        # Many results need more cells: their vectors lie farther apart.
        probes = max(self.effort, self.effort * count // 400)
        while True:
            parameters = faiss.SearchParametersIVF(nprobe=min(self.cells, probes))
            ids = self.index.search(query, count, params=parameters)[1][0]
            if ids[-1] >= 0 or probes >= self.cells:
                return ids[ids >= 0]
            probes *= 2  # the probed cells held fewer than `count` vectors

    def saved(self) -> dict[str, Any]:
        """See [`VectorStore`]."""
        if self.file is None and self.index is not None:
            name = new_name("faiss", ".index")
            unfinished = self.path / f".{name.removesuffix('.index')}.new"
            self._faiss.write_index(self.index, str(unfinished))
            os.replace(unfinished, self.path / name)
            self.file = name
        return {"file": self.file, "effort": self.effort}

    def close(self) -> None:
        """See [`VectorStore`]."""
        self.index = None


__all__ = ["FaissStore"]
