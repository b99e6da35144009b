"""Cosine similarity of embeddings by blocks of queries, the same bits whatever the block."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .ranks import SimilarityBlock

# Least rows, and least rows x columns, of a product: several times what the libraries of numpy and torch were seen to
# treat in another way (a single row; fewer than about 1,200 results).
PADDED_ROWS, PADDED_PRODUCT = 64, 8192


def cosine(
    query_embeds: np.ndarray, gallery_embeds: np.ndarray, device: Any = None, reuse: bool = False
) -> SimilarityBlock:
    """Cosine similarities of `[Q, D]` and `[G, D]` float32, as `rank` asks for them; a zero vector is 0 to all.

    Equal gallery rows tie exactly: the later ones are given the first one's product. A matrix product need not give
    equal columns equal bits, and a model that maps everything to one point would then be ranked by rounding errors.
    Nor need it give a query the same bits in a block of another height: libraries have kernels of their own for a
    single row and for small products. Blocks are padded past those, so that figures do not depend on how queries are
    shared among blocks and processes.

    Args:
        device: a torch device to multiply on, where the blocks then stay; numpy on the CPU when None.
        reuse: each block is written over the one before (numpy only): a fresh one costs its page faults.
    """
    squares = _squares(gallery_embeds)
    again, first = _equal_rows(gallery_embeds, squares)
    query_norms, gallery_norms = _norms(_squares(query_embeds)), _norms(squares)
    n_gallery = len(gallery_embeds)
    least_rows = max(PADDED_ROWS, -(-PADDED_PRODUCT // n_gallery))
    if device is not None:
        return _cosine_on(device, query_embeds, query_norms, gallery_embeds, gallery_norms, (again, first), least_rows)
    kept = np.empty((0, n_gallery), dtype=np.float32)
    scale = _needs_scaling(gallery_norms)

    def block(start: int, stop: int) -> np.ndarray:
        nonlocal kept
        n_rows = max(stop - start, least_rows)
        query = np.zeros((n_rows, query_embeds.shape[1]), dtype=np.float32)
        np.divide(query_embeds[start:stop], query_norms[start:stop, None], out=query[: stop - start])
        if len(kept) < n_rows or not reuse:
            kept = np.empty((n_rows, n_gallery), dtype=np.float32)
        similarity = np.matmul(query, gallery_embeds.T, out=kept[:n_rows])[: stop - start]
        if scale:
            similarity /= gallery_norms
        if len(again):
            for at in range(0, len(similarity), 64):  # few rows at a time: what is read is copied first
                similarity[at : at + 64, again] = similarity[at : at + 64, first]
        return similarity

    return block


def _cosine_on(
    device: Any,
    query_embeds: np.ndarray,
    query_norms: np.ndarray,
    gallery_embeds: np.ndarray,
    gallery_norms: np.ndarray,
    equal: tuple[np.ndarray, np.ndarray],
    least_rows: int,
) -> SimilarityBlock:
    """`cosine` by torch, in full float32 whatever precision of products the caller trains with."""
    import torch

    gallery, norms = torch.from_numpy(gallery_embeds).to(device), torch.from_numpy(gallery_norms).to(device)
    scale, (again, first) = _needs_scaling(gallery_norms), (torch.from_numpy(part).to(device) for part in equal)

    def block(start: int, stop: int) -> torch.Tensor:
        query = np.zeros((max(stop - start, least_rows), query_embeds.shape[1]), dtype=np.float32)
        np.divide(query_embeds[start:stop], query_norms[start:stop, None], out=query[: stop - start])
        with torch.no_grad(), torch.autocast(norms.device.type, enabled=False), _float32_products():
            similarity = (torch.from_numpy(query).to(device) @ gallery.T)[: stop - start]
        if scale:
            similarity /= norms
        if len(again):
            similarity[:, again] = similarity[:, first]
        return similarity

    return block


@contextmanager
def _float32_products() -> Iterator[None]:
    """No TF32 and no bfloat16 inside float32 products, which some training set-ups allow."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _equal_rows(embeds: np.ndarray, squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows that equal an earlier one, and for each the first that it equals."""
    _, length, counts = np.unique(squares, return_inverse=True, return_counts=True)
    shared = np.flatnonzero((counts > 1)[length.reshape(-1)])  # rows of different lengths are different
    seen: dict[bytes, int] = {}
    names = (hashlib.blake2b(embeds[row].tobytes(), digest_size=16).digest() for row in shared)
    first = np.array([seen.setdefault(name, int(row)) for name, row in zip(names, shared, strict=True)], dtype=np.int64)
    again = first != shared
    return shared[again], first[again]


def _squares(embeds: np.ndarray) -> np.ndarray:
    """Squared lengths of the rows, in float64 (no overflow) and without a copy of `[N, D]`."""
    parts = [np.square(embeds[at : at + 1024], dtype=np.float64).sum(axis=1) for at in range(0, len(embeds), 1024)]
    return np.concatenate(parts)


def _norms(squares: np.ndarray) -> np.ndarray:
    """Lengths of the rows, 1 for a zero vector."""
    return np.where(squares > 0, np.sqrt(squares), 1).astype(np.float32)


def _needs_scaling(norms: np.ndarray) -> bool:
    """Whether these are not yet unit vectors, as far as float32 can say so; a pass over the similarities is saved."""
    return bool((np.abs(norms - 1) > 4 * np.finfo(np.float32).eps).any())


__all__ = ["cosine"]
