"""Keeps a vector store consistent with its index: fills it after indexing and deletes from it with every deletion."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from modeling_rogle.index.manifest import read_manifest, remove_unreferenced, upgraded, write_manifest
from modeling_rogle.index.shards import Index
from modeling_rogle.index.store_address import not_contacted, public_address, require_trusted, trusted_address
from modeling_rogle.index.store_quality import StoreQuality, tune
from modeling_rogle.index.vector_store import MIN_RECALL, VectorStore, open_store
from modeling_rogle.inference.errors import GalleryError

MIN_SPEEDUP = 0.9  # over exact search, below which `rogle index` warns; a value nearer to 1 is within timing noise
_NOTICEABLE_ROWS = 20_000  # images up to which the speed of a store is not noticeable
_BLOCK_ROWS = 65_536  # vectors in memory while a store is filled
_TRAINING_ROWS = 262_144  # vectors of the first block, which train the cells of faiss: 512 MB at width 512
# Queries on which recall is measured. Text embeddings lie apart from image embeddings, so image queries would measure
# something else. The number is large because a store loses all results of a few queries: with fifty queries a recall of
# 0.94 can be measured as 0.99.
PROBES = tuple(
    f"A {person} wears a {colour} {clothing}{suffix}."
    for person in ("man", "woman")
    for colour in ("red", "black", "white", "blue", "green", "yellow", "grey", "brown", "pink", "purple")
    for clothing in ("jacket", "dress", "t-shirt", "coat with grey trousers", "backpack and a cap", "sweater and jeans")
    for suffix in ("", " and carries a bag")
)


def sync_store(
    path: Path, uri: str, queries: Callable[[], np.ndarray] | None = None, progress: bool = False
) -> dict[str, Any] | None:
    """Adds to a store the rows of an index that it does not hold, and records the store in the manifest.

    The caller holds the lock of the index. A store of another URI is cleared first.

    Args:
        path: the index folder.
        uri: see [`open_store`]; `exact` clears the index's store and adds none. The manifest holds the address without
            credentials.
        queries: returns `[q, D]` unit vectors on which quality is measured; it is called only if rows were added,
            nothing was measured yet, or a server has rebuilt what it searches. None keeps the measured quality.
        progress: show a progress bar.

    Returns:
        the manifest's `store`, None for `exact`.

    Raises:
        GalleryError: the URI is unknown, or the store does not answer.

    Warns:
        UserWarning: recall is below 0.95, so that searches (all, or those with a filter) will be exact, or the store is
            slower than exact search.
    """
    header, address = upgraded(read_manifest(path)), public_address(uri)
    if uri == "exact" or header.get("store") and header["store"]["uri"] != address:
        clear_store(path, uri)
        header |= {"store": None}
        write_manifest(path, header)
        remove_unreferenced(path)
    if uri == "exact":
        return None
    index = Index(path)
    store, stored = _open_or_empty(uri, path, header)
    try:
        if not stored.get("upto"):  # the collection of a killed process is found again, so that it can be dropped
            write_manifest(path, {**header, "store": {**stored, "uri": address, "upto": 0, **store.saved()}})
        synced_rows = int(np.searchsorted(index.ids, stored.get("upto", 0)))
        with tqdm(
            total=len(index) - synced_rows, unit=" images", desc=f"filling {address}", disable=not progress
        ) as bar:
            for rows in _blocks(len(index), synced_rows):
                store.add(index.ids[rows], index.global_rows(rows))
                bar.update(len(rows))
        store.finish(progress)
        built = store.built() if len(index) else None
        is_measured = synced_rows == len(index) and "recall" in stored and stored.get("built") == built
        if queries is not None and len(index) and not is_measured:
            quality = tune(store, index, queries())
            stored |= {
                "recall": round(quality.recall, 4),
                "filtered": round(quality.filtered_recall, 4),
                "gain": round(quality.speedup, 4),
                **({} if built is None else {"built": built}),
            }
        upto = int(index.ids[-1]) + 1 if len(index) else 0
        stored |= {"uri": address, "upto": upto, **store.saved()}
    finally:
        store.close()
    _warn(address, StoreQuality(*(stored.get(name, 1.0) for name in ("recall", "filtered", "gain"))), len(index))
    write_manifest(path, {**header, "store": stored})
    remove_unreferenced(path)
    return stored


def _blocks(total: int, synced_rows: int) -> Iterator[np.ndarray]:
    """Yields the row numbers from `synced_rows` on, in blocks.

    The first block of an empty store is a random sample of all rows, because it trains the cells of faiss.
    """
    remaining = np.arange(synced_rows, total)
    if synced_rows == 0 and total:
        sample = np.sort(np.random.default_rng(0).permutation(total)[:_TRAINING_ROWS])
        yield sample
        remaining = np.setdiff1d(remaining, sample, assume_unique=True)
    for start in range(0, len(remaining), _BLOCK_ROWS):
        yield remaining[start : start + _BLOCK_ROWS]


def _warn(uri: str, quality: StoreQuality, images: int) -> None:
    reason = None
    if quality.recall < MIN_RECALL:
        reason = f"finds {100 * quality.recall:.1f} % of the best ten; searches will be exact"
    elif quality.speedup < MIN_SPEEDUP and images > _NOTICEABLE_ROWS:
        factor = f"{1 / quality.speedup:.1f} times as long as exact search"
        reason = f"is slower than exact search here: a search takes {factor} (--store exact removes the store)"
    elif quality.filtered_recall < MIN_RECALL:
        share = f"{100 * quality.filtered_recall:.1f} %"
        reason = f"finds {share} of the best ten with a filter; searches with a filter will be exact"
    if reason:
        warnings.warn(f"store {uri}: {reason}", stacklevel=4)


def _open_or_empty(uri: str, path: Path, header: dict[str, Any]) -> tuple[VectorStore, dict[str, Any]]:
    """Opens a store and returns it with its fields of the manifest.

    A store whose file or collection is missing, damaged or of another index is opened empty, with `upto` 0.
    """
    stored = dict(header.get("store") or {})
    try:
        return open_store(uri, path, header, writing=True), stored
    except GalleryError:
        if not stored.get("upto"):
            raise
        stored = _emptied(stored)
        return open_store(uri, path, {**header, "store": stored}, writing=True), stored


def _emptied(stored: dict[str, Any]) -> dict[str, Any]:
    return {**stored, **({"file": None} if "file" in stored else {}), "upto": 0}


def delete_from_store(
    path: Path, header: dict[str, Any], ids: np.ndarray, given: str | None = None
) -> dict[str, Any] | None:
    """Deletes embeddings from an index's store, also from the disk.

    Args:
        path: the index folder.
        header: the manifest, which has a store.
        ids: ids to delete.
        given: the store that the user named; see [`trusted_address`]. Default: none.

    Returns:
        the new `store` of the manifest. A store that cannot delete single vectors is empty (`upto` 0) and must be
        filled again. None if only the index names the store and the user named another: the index leaves its store.

    Raises:
        GalleryError: the store does not answer, or only the index names it. Nothing may then be deleted from the index
            either.
    """
    stored = header["store"]
    address = trusted_address(stored["uri"], given)
    if address is None and given is not None:
        _warn_of_remains(not_contacted(stored["uri"]), header)
        return None
    try:
        store, opened = _open_or_empty(address or require_trusted(stored["uri"]), path, header)
    except GalleryError as error:
        if stored.get("file") is None:
            raise GalleryError(f"{error}; the store holds these embeddings too, so nothing was deleted") from error
        return _emptied(stored)  # the file cannot be read on this machine; the next commit removes it
    try:
        if opened["upto"] and store.can_delete:
            store.delete(ids)
            return {**stored, **store.saved()}
        store.clear()
        return _emptied(stored)
    finally:
        store.close()


def clear_store(path: Path, given: str | None = None) -> None:
    """Clears the store of an index that is about to be replaced.

    Args:
        path: the index folder. Without a readable manifest or a store nothing happens.
        given: the store that the user named; see [`trusted_address`]. Default: none.

    Warns:
        UserWarning: the store does not answer, or only the index names it. The message names its collection.
    """
    try:
        header = read_manifest(path)
    except (GalleryError, FileNotFoundError):
        return
    if not header.get("store"):
        return
    try:
        store = open_store(require_trusted(header["store"]["uri"], given), path, header)
        store.clear()
        store.close()
    except GalleryError as error:
        if header["store"].get("file") is None:
            _warn_of_remains(str(error), header)


def _warn_of_remains(reason: str, header: dict[str, Any]) -> None:
    collection = (header.get("store") or {}).get("collection") or header.get("collection")
    warnings.warn(f"{reason}; collection {collection} may still exist there", stacklevel=4)


__all__ = ["PROBES", "clear_store", "delete_from_store", "sync_store"]
