"""A vector store on a Milvus server: one collection of ids and global embeddings with an HNSW graph.

Paths, metadata and regions stay in the index. The token of a server is read from the environment variable MILVUS_TOKEN
and never stored. It is sent only to the URI in MILVUS_URI. User name and password may also stand in the address; they
are not stored or shown either.

A search is exact but slow until the server has built its graphs, and finds too little while a collection changes. So
the order of filling is: insert, flush, wait until all rows are in a graph, load, and only then measure. The consistency
level is "Session": a client waits for its own changes only, not for the clock of the server.
"""

import logging
import os
import time
from typing import Any
from urllib.parse import unquote

import numpy as np
from tqdm import tqdm

from modeling_rogle.index.server_store import (
    HNSW_BUILD_EFFORT,
    HNSW_LINKS,
    SEARCH_TIMEOUT,
    TIMEOUT,
    ServerStore,
    one_line,
)
from modeling_rogle.index.store_address import public_address
from modeling_rogle.inference.errors import GalleryError

REQUEST_ROWS = 2048  # vectors per request: 4 MB at width 512; a server accepts 64 MB
MAX_RESULTS = 16_384  # per search, a limit of Milvus
MAX_FILTER = 2_048  # ids in a filter, which the server receives as text and parses for each search
_POLL_SECONDS = 0.5
_RETRIES = 8  # of a request without a limit of time, in 10 seconds
_TAG = "rogle."  # prefix of the index and its folder among the properties of a collection


def token(uri: str) -> str:
    """Returns the `user:password` of an address, or MILVUS_TOKEN if the environment variable MILVUS_URI is the address.

    Otherwise the token is empty.
    """
    if "://" in uri and "@" in uri:
        return unquote(uri.partition("://")[2].rpartition("@")[0])
    is_own = public_address(uri) == public_address(os.environ.get("MILVUS_URI", ""))
    return os.environ.get("MILVUS_TOKEN", "") if is_own else ""


class MilvusStore(ServerStore):
    """A [`VectorStore`] of Milvus; see [`ServerStore`] for its arguments and errors."""

    max_filter = MAX_FILTER
    max_effort = 4096  # ef of the graph

    def _connect(self, uri: str) -> None:
        try:
            from pymilvus import DataType, MilvusClient
        except ImportError as error:
            raise GalleryError(f"store {self.uri}: pymilvus is not installed; pip install pymilvus") from error
        for name in ("pymilvus", "grpc._server"):  # they log stack traces of the exceptions that they raise
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._types, self._token = DataType, token(uri)
        self.client: Any = self._call(MilvusClient, uri=self.uri, token=self._token, timeout=TIMEOUT)

    def close(self) -> None:
        """See [`VectorStore`]."""
        self.client.close()

    def _reason(self, error: Exception) -> str:
        """One line about an error of the client; a refused token is named."""
        reason = one_line(error)
        causes: list[BaseException] = [error]  # pymilvus reports a refused token as a server that does not answer
        while (
            cause := causes[-1].__cause__
        ) is not None and cause not in causes:  # it also raises errors from themselves
            causes.append(cause)
        details = [str(get()) for cause in causes if callable(get := getattr(cause, "details", None))]
        for detail in details:
            if "auth" in detail.lower():
                sent = "the server refused the token" if self._token else "the server asks for a token"
                reason = f"{sent} ({detail}); set MILVUS_URI and MILVUS_TOKEN"
        if os.environ.get("MILVUS_TOKEN") and not self._token:
            reason += "; MILVUS_TOKEN was not sent because MILVUS_URI is another URI"
        return reason

    def _request(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls a method that works on the collection."""
        return self._call(method, self.collection, *args, timeout=TIMEOUT, **kwargs)

    def _wait_for(self, method: Any) -> None:
        """Calls a method that waits for the server as long as it answers."""
        self._call(method, self.collection, retry_times=_RETRIES)

    def _describe(self) -> dict[str, Any]:
        return dict(self._request(self.client.describe_collection))

    def _revisions(self, description: dict[str, Any]) -> list[str]:
        """Revisions in the aliases of the collection. Changed properties would be lost with a restart of Milvus 2.3."""
        prefix = f"{self.collection}_"
        return [alias.removeprefix(prefix) for alias in description.get("aliases") or () if alias.startswith(prefix)]

    def _read_tags(self) -> dict[str, Any] | None:
        if not self._request(self.client.has_collection):
            return None
        description = self._describe()
        properties = description.get("properties") or {}
        tags = {name.removeprefix(_TAG): value for name, value in properties.items() if name.startswith(_TAG)}
        return {**tags, "revision": " ".join(self._revisions(description)) or None}

    def _write_tags(self, tags: dict[str, Any]) -> None:
        old = self._revisions(self._describe())
        self._request(self.client.create_alias, f"{self.collection}_{tags['revision']}")
        self._drop_aliases(old)

    def _drop_aliases(self, revisions: list[str]) -> None:
        for revision in revisions:
            self._call(self.client.drop_alias, f"{self.collection}_{revision}", timeout=TIMEOUT)

    def _width(self) -> int:
        return int(next(field["params"]["dim"] for field in self._describe()["fields"] if field["name"] == "embed"))

    def _load(self) -> None:
        self._wait_for(self.client.load_collection)

    def _create(self, tags: dict[str, Any]) -> None:
        schema = self.client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", self._types.INT64, is_primary=True)
        schema.add_field("embed", self._types.FLOAT_VECTOR, dim=self.dimension)
        self._request(
            self.client.create_collection,
            schema=schema,
            consistency_level="Session",
            properties={_TAG + name: str(value) for name, value in tags.items()},
        )

    def _insert(self, ids: np.ndarray, embeds: np.ndarray) -> None:
        for start in range(0, len(ids), REQUEST_ROWS):
            part = slice(start, start + REQUEST_ROWS)
            rows = [{"id": number, "embed": row} for number, row in zip(ids[part].tolist(), embeds[part], strict=True)]
            self._request(self.client.insert if self._is_new else self.client.upsert, data=rows)

    def finish(self, progress: bool) -> None:
        """See [`VectorStore`]."""
        if not self._has_changed:
            return
        self._flush()
        if not self._request(self.client.list_indexes):
            index = self.client.prepare_index_params()
            parameters = {"M": HNSW_LINKS, "efConstruction": HNSW_BUILD_EFFORT}
            index.add_index("embed", index_type="HNSW", metric_type="IP", params=parameters)
            self._request(self.client.create_index, index_params=index, sync=False)
        with tqdm(unit=" images", desc=f"indexing in {self.uri}", disable=not progress) as bar:
            while True:
                state = self._index_state()
                bar.total, bar.n = state["total_rows"], state["indexed_rows"]
                bar.refresh()
                if state.get("state") == "Failed":
                    raise GalleryError(f"store {self.uri}: the server could not build its index of {self.collection}")
                if state["indexed_rows"] >= state["total_rows"]:  # `state` is "Finished" before that
                    break
                time.sleep(_POLL_SECONDS)
        self._load()
        self._wait_for(self.client.refresh_load)

    def _flush(self) -> None:
        self._wait_for(self.client.flush)  # until the rows are on the server's disk

    def _index_state(self) -> dict[str, Any]:
        return dict(self._request(self.client.describe_index, "embed"))

    def built(self) -> str:
        """See [`VectorStore`]."""
        state = self._index_state()
        return f"{self._describe()['collection_id']} {state['indexed_rows']} of {state['total_rows']}"

    def _delete(self, ids: np.ndarray) -> None:
        for start in range(0, len(ids), REQUEST_ROWS):
            self._request(self.client.delete, ids=ids[start : start + REQUEST_ROWS].tolist())
        self._flush()
        self._request(self.client.compact)

    def _drop(self) -> None:
        self._drop_aliases(self._revisions(self._describe()))
        self._request(self.client.drop_collection)

    def _search(self, query: np.ndarray, count: int, ids: np.ndarray | None) -> np.ndarray:
        count = min(count, MAX_RESULTS)
        hits = self._call(
            self.client.search,
            self.collection,
            data=[np.asarray(query, dtype=np.float32)],
            limit=count,
            anns_field="embed",
            filter="" if ids is None else f"id in {ids.tolist()}",
            search_params={"params": {"ef": max(self.effort, 2 * count)}},
            timeout=SEARCH_TIMEOUT,
        )
        return np.array([hit["id"] for hit in hits[0]], dtype=np.int64)


__all__ = ["MilvusStore"]
