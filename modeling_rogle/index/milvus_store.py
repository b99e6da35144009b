"""A vector store of Milvus: a local file (milvus-lite) or a server; both use the same calls.

The collection has a name of the index's own and holds ids and global embeddings. Paths, metadata and regions stay in
the index. The token of a server is read from the environment variable MILVUS_TOKEN and never stored. It is sent only to
the URI in MILVUS_URI. User name and password may also stand in the address; they are not stored or shown either.
"""

import logging
import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from modeling_rogle.index.store_address import public_address
from modeling_rogle.inference.errors import GalleryError

REQUEST_ROWS = 2048  # vectors per request: 4 MB at width 512; a server accepts 64 MB
HNSW_PARAMETERS = {"M": 32, "efConstruction": 200}
MAX_RESULTS = 16_384  # per search, a limit of Milvus
TIMEOUT = 30.0  # seconds


def token(uri: str) -> str:
    """Returns the `user:password` of an address, or MILVUS_TOKEN if the environment variable MILVUS_URI is the address.

    Otherwise the token is empty.
    """
    if "://" in uri and "@" in uri:
        return unquote(uri.partition("://")[2].rpartition("@")[0])
    is_own = public_address(uri) == public_address(os.environ.get("MILVUS_URI", ""))
    return os.environ.get("MILVUS_TOKEN", "") if is_own else ""


class MilvusStore:
    """A [`VectorStore`] of Milvus.

    A local file keeps deleted vectors until it merges its segments, so it cannot delete (`can_delete`); it is cleared
    and filled again. A server excludes deleted vectors from searches at once and frees the disk in a later compaction.

    Args:
        uri: a path that ends in `.db`, or `http://host:19530`.
        dimension: length of a vector.
        header: the manifest, whose field `collection` names the collection.
        stored: the manifest's `store`, None for a new store.

    Raises:
        GalleryError: pymilvus or milvus-lite is not installed, the server does not answer, another process has opened
            the local file, or the collection is missing or of another dimension.
    """

    def __init__(self, uri: str, dimension: int, header: dict[str, Any], stored: dict[str, Any] | None):
        try:
            from pymilvus import DataType, MilvusClient
        except ImportError as error:
            raise GalleryError(
                f"store {public_address(uri)}: pymilvus is not installed; pip install pymilvus milvus-lite"
            ) from error
        for name in ("pymilvus", "grpc._server"):  # they log stack traces of the exceptions that they raise
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._types, self.uri, self.dimension, self._token = DataType, public_address(uri), dimension, token(uri)
        self.is_local = "://" not in uri
        self.can_delete = not self.is_local
        self.collection = header["collection"]
        self.effort, self.max_effort = (stored or {}).get("effort") or 64, 4096  # ef of the HNSW graph
        self.client: Any = self._call(MilvusClient, uri=self.uri, token=self._token, timeout=TIMEOUT)
        exists = self._call(self.client.has_collection, self.collection)
        filled = bool((stored or {}).get("upto"))
        if exists and not filled:
            self.clear()  # left by a killed process
        elif exists:
            fields = self._call(self.client.describe_collection, self.collection)["fields"]
            width = next(field["params"]["dim"] for field in fields if field["name"] == "embed")
            if int(width) != dimension:
                raise GalleryError(f"store {self.uri}: vectors of {width} numbers, the index has {dimension}")
            self._call(self.client.load_collection, self.collection)
        elif filled:
            raise GalleryError(f"store {self.uri}: collection {self.collection} does not exist any more; fill it again")

    def _call(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls a method of the client. Raises GalleryError for any exception of it."""
        try:
            return method(*args, **kwargs)
        except Exception as error:  # grpc, pymilvus and milvus-lite have no common class
            reason = " ".join(str(getattr(error, "message", None) or error).split("\n")[0].split())
            if not self.is_local and os.environ.get("MILVUS_TOKEN") and not self._token:
                reason += "; MILVUS_TOKEN was not sent because MILVUS_URI is another URI"
            raise GalleryError(f"store {self.uri}: {reason}") from error

    def _create(self) -> None:
        schema = self.client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", self._types.INT64, is_primary=True)
        schema.add_field("embed", self._types.FLOAT_VECTOR, dim=self.dimension)
        index = self.client.prepare_index_params()
        index.add_index("embed", index_type="HNSW", metric_type="IP", params=HNSW_PARAMETERS)
        self._call(
            self.client.create_collection,
            self.collection,
            schema=schema,
            index_params=index,
            consistency_level="Strong",
        )

    def add(self, ids: np.ndarray, embeds: np.ndarray) -> None:
        """See [`VectorStore`]."""
        if not self._call(self.client.has_collection, self.collection):
            self._create()
        for start in range(0, len(ids), REQUEST_ROWS):
            part = slice(start, start + REQUEST_ROWS)
            rows = [
                {"id": number, "embed": row}
                for number, row in zip(ids[part].tolist(), np.asarray(embeds[part], dtype=np.float32), strict=True)
            ]
            self._call(self.client.upsert, self.collection, rows)

    def delete(self, ids: np.ndarray) -> None:
        """See [`VectorStore`]."""
        for start in range(0, len(ids), REQUEST_ROWS):
            self._call(self.client.delete, self.collection, ids=ids[start : start + REQUEST_ROWS].tolist())
        self._call(self.client.flush, self.collection)
        self._call(self.client.compact, self.collection)

    def clear(self) -> None:
        """See [`VectorStore`]."""
        if self._call(self.client.has_collection, self.collection):
            self._call(self.client.drop_collection, self.collection)
        if self.is_local:  # milvus-lite keeps the folder of a dropped collection
            folder = Path(self.uri, "collections", self.collection)
            if folder.resolve().is_relative_to(Path(self.uri).resolve()):  # a link of someone else may lead out of it
                shutil.rmtree(folder, ignore_errors=True)

    def search(self, query: np.ndarray, count: int) -> np.ndarray:
        """See [`VectorStore`]."""
        count = min(count, MAX_RESULTS)
        hits = self._call(
            self.client.search,
            self.collection,
            data=[np.asarray(query, dtype=np.float32)],
            limit=count,
            anns_field="embed",
            search_params={"params": {"ef": max(self.effort, 2 * count)}},
            output_fields=["id"],
        )
        return np.array([hit["id"] for hit in hits[0]], dtype=np.int64)

    def saved(self) -> dict[str, Any]:
        """See [`VectorStore`]."""
        if self._call(self.client.has_collection, self.collection):
            self._call(self.client.flush, self.collection)
        return {"effort": self.effort}

    def close(self) -> None:
        """See [`VectorStore`]."""
        self.client.close()


__all__ = ["MilvusStore"]
