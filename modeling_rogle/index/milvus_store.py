"""Milvus beside the shards: the same calls for a local file (milvus-lite) and for the URI of a cluster.

The collection holds ids and global embeddings, under a name of the index's own; paths, metadata and regions stay in the
index. A cluster's token is read from the environment variable MILVUS_TOKEN and written nowhere; it is sent to the URI
in MILVUS_URI only, since the URI that an index names may be a stranger's.
"""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from modeling_rogle.inference.errors import GalleryError

ROWS_AT_ONCE = 2048  # a request: 4 MB at width 512, of the 64 that a server takes
LINKS = {"M": 32, "efConstruction": 200}
MOST_RESULTS = 16_384  # a search, Milvus' own limit
TIMEOUT = 30.0  # seconds


def token(uri: str) -> str:
    """What to show at `uri`: MILVUS_TOKEN where the user's own MILVUS_URI is that very address, else nothing."""
    return os.environ.get("MILVUS_TOKEN", "") if uri == os.environ.get("MILVUS_URI") else ""


class MilvusStore:
    """A [`VectorStore`] of Milvus.

    A local file keeps deleted vectors until it melts its segments, so it does not forget (`forgets`): it is cleared and
    filled again. A cluster deletes at once for every search and frees the disk in a compaction of its own.

    Args:
        uri: a path that ends in `.db`, or `http://host:19530`; dimension: of the vectors.
        header: the manifest, whose `collection` names the collection; known: its `store`, None if there is none yet.

    Raises:
        GalleryError: pymilvus or milvus-lite is not installed, the server does not answer, another process holds the
            local file, or the collection is not there any more or of another dimension.
    """

    def __init__(self, uri: str, dimension: int, header: dict[str, Any], known: dict[str, Any] | None):
        try:
            from pymilvus import DataType, MilvusClient
        except ImportError as error:
            raise GalleryError(f"store {uri}: pymilvus is not installed; pip install pymilvus milvus-lite") from error
        for name in ("pymilvus", "grpc._server"):  # they log whole stack traces of what they raise
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._types, self.uri, self.dimension = DataType, uri, dimension
        self.local = "://" not in uri
        self.forgets = not self.local
        self.collection = header["collection"]
        self.effort, self.max_effort = (known or {}).get("effort") or 64, 4096
        self.client: Any = self._asked(MilvusClient, uri=uri, token=token(uri), timeout=TIMEOUT)
        exists = self._asked(self.client.has_collection, self.collection)
        if exists and not (known or {}).get("upto"):
            self.clear()  # what a killed fill left
        elif exists:
            fields = self._asked(self.client.describe_collection, self.collection)["fields"]
            found = next(field["params"]["dim"] for field in fields if field["name"] == "embed")
            if int(found) != dimension:
                raise GalleryError(f"store {uri}: {found} numbers a vector, the index has {dimension}")
            self._asked(self.client.load_collection, self.collection)
        elif (known or {}).get("upto"):
            raise GalleryError(f"store {uri}: collection {self.collection} is not there any more; fill it again")

    def _asked(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except Exception as error:  # grpc's, pymilvus' and milvus-lite's own
            reason = " ".join(str(getattr(error, "message", None) or error).split("\n")[0].split())
            if not self.local and os.environ.get("MILVUS_TOKEN") and not token(self.uri):
                reason += "; MILVUS_TOKEN was not sent, MILVUS_URI names another place"
            raise GalleryError(f"store {self.uri}: {reason}") from error

    def _create(self) -> None:
        schema = self.client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", self._types.INT64, is_primary=True)
        schema.add_field("embed", self._types.FLOAT_VECTOR, dim=self.dimension)
        index = self.client.prepare_index_params()
        index.add_index("embed", index_type="HNSW", metric_type="IP", params=LINKS)
        self._asked(
            self.client.create_collection,
            self.collection,
            schema=schema,
            index_params=index,
            consistency_level="Strong",
        )

    def add(self, ids: np.ndarray, embeds: np.ndarray) -> None:
        if not self._asked(self.client.has_collection, self.collection):
            self._create()
        for start in range(0, len(ids), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            rows = [
                {"id": number, "embed": row}
                for number, row in zip(ids[part].tolist(), np.asarray(embeds[part], dtype=np.float32), strict=True)
            ]
            self._asked(self.client.upsert, self.collection, rows)

    def delete(self, ids: np.ndarray) -> None:
        for start in range(0, len(ids), ROWS_AT_ONCE):
            self._asked(self.client.delete, self.collection, ids=ids[start : start + ROWS_AT_ONCE].tolist())
        self._asked(self.client.flush, self.collection)
        self._asked(self.client.compact, self.collection)

    def clear(self) -> None:
        if self._asked(self.client.has_collection, self.collection):
            self._asked(self.client.drop_collection, self.collection)
        if self.local:  # the folder of a collection that was dropped
            shutil.rmtree(Path(self.uri) / "collections" / self.collection, ignore_errors=True)

    def search(self, query: np.ndarray, count: int) -> np.ndarray:
        count = min(count, MOST_RESULTS)
        found = self._asked(
            self.client.search,
            self.collection,
            data=[np.asarray(query, dtype=np.float32)],
            limit=count,
            anns_field="embed",
            search_params={"params": {"ef": max(self.effort, 2 * count)}},
            output_fields=["id"],
        )
        return np.array([hit["id"] for hit in found[0]], dtype=np.int64)

    def saved(self) -> dict[str, Any]:
        if self._asked(self.client.has_collection, self.collection):
            self._asked(self.client.flush, self.collection)
        return {"effort": self.effort}

    def close(self) -> None:
        self.client.close()


__all__ = ["MilvusStore"]
