"""faiss beside the shards: an inverted file (IVF) or a graph (HNSW) of the global embeddings, in one file of the index.

The inverted file holds 8 bits a number, a quarter of the bytes to read: the shards score what it finds again.
The file is written under another name and renamed: `faiss.write_index` in place leaves half a file when it is killed.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from modeling_rogle.index.manifest import new_name
from modeling_rogle.inference.errors import GalleryError

HNSW_LINKS = 32
HNSW_BUILD = 200  # efConstruction
CELLS = 2  # times the root of the vectors; with fewer cells, or fewer vectors a cell for k-means, clusters of the data
TRAINED_ON = 128  # are torn between cells, and ten times as many must be looked into for the same recall


class FaissStore:
    """A [`VectorStore`] of faiss. `faiss` and `faiss-ivf` forget single vectors and map the file; `faiss-hnsw` is
    faster at high recall, takes longer to build, lives in memory, and forgets nothing but all.

    Args:
        path: the index folder; uri: which of the two; dimension: of the vectors.
        expected: how many vectors there will be, which decides the number of cells.
        known: the manifest's `store`, None if there is none yet.

    Raises:
        GalleryError: faiss is not installed, or its file is missing, damaged or of another kind.
    """

    def __init__(self, path: Path, uri: str, dimension: int, expected: int, known: dict[str, Any] | None):
        try:
            import faiss
        except ImportError as error:
            raise GalleryError(f"store {uri}: faiss is not installed; pip install faiss-cpu") from error
        self._faiss = faiss
        self.path, self.dimension, self.expected = path, dimension, max(expected, 1)
        self.graph = uri == "faiss-hnsw"
        self.forgets = not self.graph
        self.file = (known or {}).get("file")
        self.index: Any = None
        self.cells = 1
        if self.file is not None:
            try:
                # A graph is read at random, all of it; of an inverted file only the cells that are probed.
                self.index = faiss.read_index(str(path / self.file), 0 if self.graph else faiss.IO_FLAG_MMAP)
            except RuntimeError as error:
                raise GalleryError(f"{path / self.file}: missing or damaged; fill the store again") from error
            if not self._is_as_made():
                raise GalleryError(f"{path / self.file}: not an index of {uri}; fill the store again")
            if self.index.d != dimension:
                raise GalleryError(f"{path / self.file}: {self.index.d} numbers a vector, the index has {dimension}")
            self.cells = 1 if self.graph else self.index.nlist
        self.effort = (known or {}).get("effort") or (64 if self.graph else 2)

    def _is_as_made(self) -> bool:
        faiss = self._faiss
        if not self.graph:
            return isinstance(self.index, faiss.IndexIVF)
        return isinstance(self.index, faiss.IndexIDMap2) and isinstance(
            faiss.downcast_index(self.index.index), faiss.IndexHNSW
        )

    @property
    def max_effort(self) -> int:
        return 2048 if self.graph else self.cells

    def __len__(self) -> int:
        return 0 if self.index is None else self.index.ntotal

    def _in_memory(self) -> None:
        # Mapped files cannot be written to.
        if self.index is not None and not self.graph and self.file is not None:
            self.index = self._faiss.read_index(str(self.path / self.file))

    def add(self, ids: np.ndarray, embeds: np.ndarray) -> None:
        """See [`VectorStore`]; the first vectors given train the cells, so they should be many and mixed."""
        embeds = np.ascontiguousarray(embeds, dtype=np.float32)
        faiss = self._faiss
        if self.index is None and self.graph:
            graph = faiss.IndexHNSWFlat(self.dimension, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
            graph.hnsw.efConstruction = HNSW_BUILD
            self.index = faiss.IndexIDMap2(graph)
        elif self.index is None:
            # Near sqrt(n) looking at the cells costs what looking into a few does; more are slower to make (n cells D),
            # and never so many that k-means would have too little to go on.
            self.cells = max(1, min(int(CELLS * self.expected**0.5), len(embeds) // 39))
            self.index = faiss.IndexIVFScalarQuantizer(
                faiss.IndexFlatIP(self.dimension),
                self.dimension,
                self.cells,
                faiss.ScalarQuantizer.QT_8bit,
                faiss.METRIC_INNER_PRODUCT,
            )
            self.index.cp.max_points_per_centroid = TRAINED_ON
            self.index.cp.min_points_per_centroid = 1  # no warning on stderr: so few vectors are one cell
            self.index.cp.seed = 0
            self.index.train(embeds)
        else:
            self._in_memory()
            if not self.graph:
                self.index.remove_ids(np.ascontiguousarray(ids, dtype=np.int64))
        self.file = None
        self.index.add_with_ids(embeds, np.ascontiguousarray(ids, dtype=np.int64))

    def delete(self, ids: np.ndarray) -> None:
        if self.graph:
            raise GalleryError("store faiss-hnsw: cannot forget single images; clear it")
        if self.index is not None:
            self._in_memory()
            self.file = None
            self.index.remove_ids(np.ascontiguousarray(ids, dtype=np.int64))

    def clear(self) -> None:
        self.index, self.file = None, None

    def search(self, query: np.ndarray, count: int) -> np.ndarray:
        if self.index is None:
            return np.zeros(0, dtype=np.int64)
        faiss, count = self._faiss, min(count, self.index.ntotal)
        query = np.ascontiguousarray(query, dtype=np.float32)[None]
        if self.graph:
            how = faiss.SearchParametersHNSW(efSearch=max(self.effort, 2 * count))
            ids = self.index.search(query, count, params=how)[1][0]
            return ids[ids >= 0]
        # One probes more cells for more results: their neighbours lie farther apart.
        probed = max(self.effort, self.effort * count // 400)
        while True:
            how = faiss.SearchParametersIVF(nprobe=min(self.cells, probed))
            ids = self.index.search(query, count, params=how)[1][0]
            if ids[-1] >= 0 or probed >= self.cells:
                return ids[ids >= 0]
            probed *= 2  # so few cells do not hold so many

    def saved(self) -> dict[str, Any]:
        if self.file is None and self.index is not None:
            name = new_name("faiss", ".index")
            unfinished = self.path / f".{name.removesuffix('.index')}.new"
            self._faiss.write_index(self.index, str(unfinished))
            os.replace(unfinished, self.path / name)
            self.file = name
        return {"file": self.file, "effort": self.effort}

    def close(self) -> None:
        self.index = None


__all__ = ["FaissStore"]
