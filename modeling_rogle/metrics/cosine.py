"""Cosine similarity of embeddings, computed in blocks of queries."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .ranks import SimilarityBlock

# Smallest number of rows, and of rows x columns, of a matrix product. Libraries use other kernels for a single row and
# for small products (under about 1,200 results), which round differently.
PADDED_ROWS, PADDED_PRODUCT = 64, 8192


def cosine(
    query_embeds: np.ndarray, gallery_embeds: np.ndarray, device: Any = None, reuse: bool = False
) -> SimilarityBlock:
    """Cosine similarities of queries and gallery, in the form that `rank` reads.

    A zero vector has similarity 0 to everything. Equal gallery rows get exactly equal similarities: the later ones
    copy the first one. A matrix product alone does not guarantee this, and a model that maps everything to one point
    would be ranked by rounding errors.

    Small blocks are padded with zero rows, so that they use the same kernel as large ones. On most BLAS kernels a query
    then has the same bits in every block. Some kernels, such as OpenBLAS's for Haswell, also round by the position of
    the row in the block; there the last bits depend on the block. So figures are reproducible bit for bit with the same
    blocks, and independent of the blocks up to ties closer than float32 rounding.

    Args:
        query_embeds: `[Q, D]` float32.
        gallery_embeds: `[G, D]` float32.
        device: torch device that multiplies, and where the blocks stay; the default, None, is NumPy on the CPU.
        reuse: write each block over the previous one, which saves allocating memory; off by default, NumPy only.

    Returns:
        A function (start, stop) -> float32 `[stop - start, G]`.
    """
    squares = _squares(gallery_embeds)
    later, first = _equal_rows(gallery_embeds, squares)
    query_norms, gallery_norms = _norms(_squares(query_embeds)), _norms(squares)
    n_gallery = len(gallery_embeds)
    min_rows = max(PADDED_ROWS, -(-PADDED_PRODUCT // n_gallery))
    if device is not None:
        return _cosine_on(device, query_embeds, query_norms, gallery_embeds, gallery_norms, (later, first), min_rows)
    buffer = np.empty((0, n_gallery), dtype=np.float32)
    scale = _needs_scaling(gallery_norms)

    def block(start: int, stop: int) -> np.ndarray:
        nonlocal buffer
        n_rows = max(stop - start, min_rows)
        query = np.zeros((n_rows, query_embeds.shape[1]), dtype=np.float32)
        np.divide(query_embeds[start:stop], query_norms[start:stop, None], out=query[: stop - start])
        if len(buffer) < n_rows or not reuse:
            buffer = np.empty((n_rows, n_gallery), dtype=np.float32)
        similarity = np.matmul(query, gallery_embeds.T, out=buffer[:n_rows])[: stop - start]
        if scale:
            similarity /= gallery_norms
        if len(later):
            for at in range(0, len(similarity), 64):  # a few rows at a time, because indexing makes a copy
                similarity[at : at + 64, later] = similarity[at : at + 64, first]
        return similarity

    return block


def _cosine_on(
    device: Any,
    query_embeds: np.ndarray,
    query_norms: np.ndarray,
    gallery_embeds: np.ndarray,
    gallery_norms: np.ndarray,
    equal: tuple[np.ndarray, np.ndarray],
    min_rows: int,
) -> SimilarityBlock:
    """`cosine` with torch, in full float32 even if the caller trains in lower precision."""
    import torch

    gallery, norms = torch.from_numpy(gallery_embeds).to(device), torch.from_numpy(gallery_norms).to(device)
    scale, (later, first) = _needs_scaling(gallery_norms), (torch.from_numpy(part).to(device) for part in equal)

    def block(start: int, stop: int) -> torch.Tensor:
        query = np.zeros((max(stop - start, min_rows), query_embeds.shape[1]), dtype=np.float32)
        np.divide(query_embeds[start:stop], query_norms[start:stop, None], out=query[: stop - start])
        with torch.no_grad(), torch.autocast(norms.device.type, enabled=False), _float32_products():
            similarity = (torch.from_numpy(query).to(device) @ gallery.T)[: stop - start]
        if scale:
            similarity /= norms
        if len(later):
            similarity[:, later] = similarity[:, first]
        return similarity

    return block


@contextmanager
def _float32_products() -> Iterator[None]:
    """Switches off TF32 and bfloat16 in float32 products, which a training script may have allowed."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _equal_rows(embeds: np.ndarray, squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows that equal an earlier row, and for each of them the first row that it equals."""
    _, group, counts = np.unique(squares, return_inverse=True, return_counts=True)
    shared = np.flatnonzero((counts > 1)[group.reshape(-1)])  # equal rows have equal lengths
    first_of: dict[bytes, int] = {}
    hashes = (hashlib.blake2b(embeds[row].tobytes(), digest_size=16).digest() for row in shared)
    first = np.array(
        [first_of.setdefault(digest, int(row)) for digest, row in zip(hashes, shared, strict=True)], dtype=np.int64
    )
    later = first != shared
    return shared[later], first[later]


def _squares(embeds: np.ndarray) -> np.ndarray:
    """Squared lengths of the rows in float64, which cannot overflow, without a copy of `[N, D]`."""
    parts = [np.square(embeds[at : at + 1024], dtype=np.float64).sum(axis=1) for at in range(0, len(embeds), 1024)]
    return np.concatenate(parts)


def _norms(squares: np.ndarray) -> np.ndarray:
    """Lengths of the rows; 1 for a zero vector."""
    return np.where(squares > 0, np.sqrt(squares), 1).astype(np.float32)


def _needs_scaling(norms: np.ndarray) -> bool:
    """Whether some rows are not unit vectors in float32. If all are, one pass over the similarities is saved."""
    return bool((np.abs(norms - 1) > 4 * np.finfo(np.float32).eps).any())


__all__ = ["cosine"]
