"""What the vector stores on a server share: a collection that belongs to one index folder.

A collection carries three tags. `index` is the identifier of the index and `folder` the inode of its folder: a copied
index has another inode. `revision` is a random number that changes with every change of the collection; the manifest
holds it too. So an index reads a collection only if it holds exactly what the index put there, and writes to it or
drops it only if it is not a copy. Otherwise the next `rogle index` fills a collection of its own.
"""

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from modeling_rogle.index.manifest import new_name
from modeling_rogle.index.store_address import public_address
from modeling_rogle.inference.errors import GalleryError

TIMEOUT = 30.0  # seconds of one request
SEARCH_TIMEOUT = 10.0  # seconds, after which a search is exact
_RETRY_SECONDS = 60.0  # in which no search is sent to a server that did not answer
HNSW_LINKS = 16  # M
HNSW_BUILD_EFFORT = 100  # efConstruction


class ServerStore(ABC):
    """Base class of the stores on a server; see [`VectorStore`].

    Args:
        uri: address of the server, with its credentials.
        path: the index folder.
        header: the manifest.
        stored: the manifest's `store`, None for a new store.
        writing: the store will be changed.

    Attributes:
        uri: the address without credentials.
        collection: name of the collection on the server.

    Raises:
        GalleryError: the server does not answer, or the collection is missing, of another index or another dimension.
    """

    can_delete = True
    max_filter: int
    effort: int

    def __init__(
        self, uri: str, path: Path, header: dict[str, Any], stored: dict[str, Any] | None, writing: bool
    ) -> None:
        stored = stored or {}
        self.uri, self.dimension = public_address(uri), header["dimension"]
        self.collection = stored.get("collection") or header["collection"]
        self.effort = stored.get("effort") or 64
        self._index_id, self._inode = header.get("id"), str(path.stat().st_ino) if path.exists() else None
        self._revision, self._is_new, self._has_changed = stored.get("revision"), False, False
        self._failure, self._failed_until = "", 0.0
        self._connect(uri)
        try:
            self._open(bool(stored.get("upto")), writing)
        except BaseException:
            self.close()
            raise

    def _open(self, filled: bool, writing: bool) -> None:
        tags = self._read_tags()
        name = f"store {self.uri}: collection {self.collection}"
        if not filled:
            if tags is not None and not self._owns(tags):
                self.collection = new_name("rogle").replace("-", "_")
            elif tags is not None:
                self._drop()  # left by a killed process
            return
        if tags is None:
            raise GalleryError(f"{name} does not exist any more; run `rogle index` to fill it again")
        if tags.get("index") != self._index_id or tags.get("revision") != self._revision:
            raise GalleryError(f"{name} holds another state or another index; run `rogle index` to fill a new one")
        if writing and not self._owns(tags):
            raise GalleryError(f"{name} belongs to the index from which this one was copied")
        width = self._width()
        if width != self.dimension:
            raise GalleryError(f"store {self.uri}: vectors of {width} numbers, the index has {self.dimension}")
        self._load()

    def _owns(self, tags: dict[str, Any]) -> bool:
        return self._index_id is not None and (tags.get("index"), tags.get("folder")) == (self._index_id, self._inode)

    def add(self, ids: np.ndarray, embeds: np.ndarray) -> None:
        """See [`VectorStore`]."""
        if self._read_tags() is None:
            self._create({"index": self._index_id, "folder": self._inode})
            self._is_new = True
        self._has_changed = True
        self._insert(np.asarray(ids, dtype=np.int64), np.asarray(embeds, dtype=np.float32))

    def delete(self, ids: np.ndarray) -> None:
        """See [`VectorStore`]. The disk is freed in a later compaction of the server."""
        self._has_changed = True
        self._delete(np.asarray(ids, dtype=np.int64))

    def clear(self) -> None:
        """See [`VectorStore`]. A collection of another index, or of the index that was copied, stays."""
        tags = self._read_tags()
        if tags is not None and self._owns(tags):
            self._drop()

    def search(self, query: np.ndarray, count: int, ids: np.ndarray | None = None) -> np.ndarray:
        """See [`VectorStore`]. After a failure, searches fail at once for a minute, so that they do not all wait."""
        if time.monotonic() < self._failed_until:
            raise GalleryError(self._failure)
        try:
            return self._search(query, count, ids)
        except GalleryError as error:
            self._failure, self._failed_until = str(error), time.monotonic() + _RETRY_SECONDS
            raise

    def saved(self) -> dict[str, Any]:
        """See [`VectorStore`]. A changed collection gets a new revision."""
        if self._has_changed:
            self._revision = secrets.token_hex(8)
            self._write_tags({"index": self._index_id, "folder": self._inode, "revision": self._revision})
            self._has_changed = False
        revision = {} if self._revision is None else {"revision": self._revision}
        return {"effort": self.effort, "collection": self.collection, **revision}

    def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls a method of the client. Raises GalleryError, in one line, for any exception of it."""
        try:
            return method(*args, **kwargs)
        except Exception as error:  # the clients have no common class of errors
            raise GalleryError(f"store {self.uri}: {self._reason(error)}") from error

    @abstractmethod
    def _reason(self, error: Exception) -> str:
        """One line about an error of the client, without credentials."""

    @abstractmethod
    def _connect(self, uri: str) -> None: ...

    @abstractmethod
    def _read_tags(self) -> dict[str, Any] | None:
        """Tags of the collection; None if it does not exist."""

    @abstractmethod
    def _write_tags(self, tags: dict[str, Any]) -> None:
        """Replaces the tags. Only `revision` differs from what [`ServerStore._create`] wrote."""

    @abstractmethod
    def _width(self) -> int:
        """Length of the vectors in the collection."""

    @abstractmethod
    def _load(self) -> None:
        """Prepares the filled collection for searches."""

    @abstractmethod
    def _create(self, tags: dict[str, Any]) -> None: ...

    @abstractmethod
    def _insert(self, ids: np.ndarray, embeds: np.ndarray) -> None: ...

    @abstractmethod
    def _delete(self, ids: np.ndarray) -> None: ...

    @abstractmethod
    def _drop(self) -> None: ...

    @property
    @abstractmethod
    def max_effort(self) -> int:
        """See [`VectorStore`]."""

    @abstractmethod
    def finish(self, progress: bool) -> None:
        """See [`VectorStore`]."""

    @abstractmethod
    def built(self) -> str | None:
        """See [`VectorStore`]."""

    @abstractmethod
    def _search(self, query: np.ndarray, count: int, ids: np.ndarray | None) -> np.ndarray: ...

    @abstractmethod
    def close(self) -> None:
        """See [`VectorStore`]."""


def one_line(error: Exception) -> str:
    """The first line of an exception's message, without repeated spaces."""
    lines = str(getattr(error, "message", None) or error).strip().splitlines()
    return " ".join(lines[0].split()) if lines else type(error).__name__


__all__ = ["HNSW_BUILD_EFFORT", "HNSW_LINKS", "SEARCH_TIMEOUT", "TIMEOUT", "ServerStore", "one_line"]
