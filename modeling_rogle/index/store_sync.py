"""Keeping the store beside an index in step with it: filled after indexing, forgetting with every deletion."""

import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from modeling_rogle.index.manifest import MANIFEST, read_manifest, remove_unreferenced, write_manifest
from modeling_rogle.index.shards import Index
from modeling_rogle.index.vector_store import EXACT_ROWS, MIN_RECALL, StoreQuality, VectorStore, open_store, tune
from modeling_rogle.inference.errors import GalleryError

PAYS = 0.9  # times as fast as the exact search under which a store is said not to pay; nearer to 1 none can tell
_AT_ONCE = 65_536  # vectors in memory while a store is filled
_TRAINED_AT_ONCE = 262_144  # of the first ones, which train faiss' cells: 512 MB at width 512
# Queries that a store's recall is measured on: texts lie apart from images, so images would measure something else.
# So many, since what a store loses it loses for few queries, and for those all: fifty may tell 0.99 where 0.94 is true.
PROBES = tuple(
    f"A {who} wears a {colour} {what}{more}."
    for who in ("man", "woman")
    for colour in ("red", "black", "white", "blue", "green", "yellow", "grey", "brown", "pink", "purple")
    for what in ("jacket", "dress", "t-shirt", "coat with grey trousers", "backpack and a cap", "sweater and jeans")
    for more in ("", " and carries a bag")
)


def sync_store(
    path: Path, uri: str, queries: Callable[[], np.ndarray] | None = None, progress: bool = False
) -> dict[str, Any] | None:
    """Brings a store up to the index at `path`, whose lock the caller holds, and writes it into the manifest.

    Args:
        uri: see [`open_store`]; `exact` takes the index off any store.
        queries: gives `[q, D]` unit vectors to measure the recall on; without, what was measured before holds.

    Returns:
        the manifest's `store`.

    Warns:
        UserWarning: the recall stays under 0.95, so that searches will be exact, all or those with a filter; or the
            store is no faster than they are.

    Raises:
        GalleryError: the store does not answer, or is no store.
    """
    header = read_manifest(path)
    if uri == "exact" or header.get("store") and header["store"]["uri"] != uri:
        clear_store(path)
        header |= {"store": None}
        write_manifest(path, header)
        remove_unreferenced(path)
    if uri == "exact":
        return None
    index = Index(path)
    store, old = _opened(uri, path, index.header)
    try:
        first = int(np.searchsorted(index.ids, old.get("upto", 0)))
        with tqdm(total=len(index) - first, unit=" images", desc=f"filling {uri}", disable=not progress) as bar:
            start = first
            while start < len(index):
                stop = min(len(index), start + (_AT_ONCE if start else _TRAINED_AT_ONCE))
                rows = np.arange(start, stop)
                if start == 0:  # a sample of all trains the cells, not those that happened to come first
                    rows = _spread(len(index), stop)
                    left = np.setdiff1d(np.arange(len(index)), rows, assume_unique=True)
                elif first == 0:
                    rows = left[start - len(index) + len(left) :][: stop - start]
                store.add(index.ids[rows], index.global_rows(rows))
                bar.update(len(rows))
                start = stop
        tuned = StoreQuality(*(old.get(name, 1.0) for name in ("recall", "filtered", "gain")))
        if queries is not None and len(index) and (first < len(index) or "recall" not in old):
            tuned = tune(store, index, queries())
        upto = int(index.ids[-1]) + 1 if len(index) else 0
        measured = {name: round(value, 4) for name, value in asdict(tuned).items()}
        saved = {"uri": uri, "upto": upto, **measured, **store.saved()}
    finally:
        store.close()
    _say(uri, tuned, len(index))
    write_manifest(path, {**index.header, "store": saved})
    remove_unreferenced(path)
    return saved


def _say(uri: str, tuned: StoreQuality, images: int) -> None:
    line = None
    if tuned.recall < MIN_RECALL:
        line = f"finds {100 * tuned.recall:.1f} % of the best ten; searches will be exact"
    elif tuned.gain < PAYS and images > EXACT_ROWS:  # in a small index neither is felt
        line = f"does not pay here, a search takes {1 / tuned.gain:.1f} times as long as an exact one (--store exact)"
    elif tuned.filtered < MIN_RECALL:
        share = f"{100 * tuned.filtered:.1f} %"
        line = f"finds {share} of the best ten through a filter; searches with one will be exact"
    if line:
        warnings.warn(f"store {uri}: {line}", stacklevel=4)


def _opened(uri: str, path: Path, header: dict[str, Any]) -> tuple[VectorStore, dict[str, Any]]:
    """A store and what is known of it; one whose file or collection is gone or damaged is opened empty (`upto` 0)."""
    known = header.get("store") or {}
    try:
        return open_store(uri, path, header), known
    except GalleryError:
        if not known.get("upto"):
            raise
        known = _emptied(known)
        return open_store(uri, path, {**header, "store": known}), known


def _emptied(known: dict[str, Any]) -> dict[str, Any]:
    return {**known, **({"file": None} if "file" in known else {}), "upto": 0}


def _spread(total: int, count: int) -> np.ndarray:
    return np.sort(np.random.default_rng(0).permutation(total)[:count])


def delete_from_store(path: Path, header: dict[str, Any], ids: np.ndarray) -> dict[str, Any] | None:
    """Takes embeddings out of an index's store, off the disk.

    Returns:
        what the manifest must then say: a store that cannot forget single images is empty (`upto` 0), to be filled
        again.

    Raises:
        GalleryError: the store does not answer; nothing must then be deleted from the index either.
    """
    known = header["store"]
    try:
        store, found = _opened(known["uri"], path, header)
    except GalleryError as error:
        file = known.get("file")
        if file is None:
            raise GalleryError(f"{error}; it holds the embeddings too, so nothing was deleted") from error
        return _emptied(known)  # unreadable here, but a file of ours: the commit removes it
    try:
        if found["upto"] and store.forgets:
            store.delete(ids)
            return {**known, **store.saved()}
        store.clear()
        return _emptied(known)
    finally:
        store.close()


def clear_store(path: Path) -> None:
    """Empties the store of the index that stands at `path`, before another takes its place.

    Warns:
        UserWarning: the store does not answer; its collection is named.
    """
    try:
        header = read_manifest(path, MANIFEST)
    except (GalleryError, FileNotFoundError):
        return
    if not header.get("store"):
        return
    try:
        store = open_store(header["store"]["uri"], path, header)
        store.clear()
        store.close()
    except GalleryError as error:
        if header["store"].get("file") is None:
            warnings.warn(f"{error}; collection {header.get('collection')} may still be there", stacklevel=3)


__all__ = ["PROBES", "clear_store", "sync_store", "delete_from_store"]
