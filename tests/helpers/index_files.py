"""Small indexes of random embeddings, written as `rogle index` writes them."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from modeling_rogle.index.index_writer import IndexWriter
from modeling_rogle.index.manifest import FORMAT, MANIFEST, VERSION, read_manifest
from modeling_rogle.index.shards import Index

REGIONS, DIMENSION = 11, 8
STORE_ROWS, STORE_DIMENSION = 600, 16
HEADER = {
    "format": FORMAT,
    "version": VERSION,
    "folder": "/images",
    "images": 3,
    "dimension": DIMENSION,
    "precision": "float32",
    "model": {"path": "model", "fingerprint": "0" * 64},
    "template_boxes": [[0.0, 0.0, 1.0, 1.0]] * REGIONS,
    "template_labels": ["head"] * REGIONS,
    "skipped": [],
    "shards": [{"name": "shard-00000001", "rows": 3}],
    "next_id": 3,
    "complete": True,
}


def unit_rows(*shape: int, seed: int = 0) -> np.ndarray:
    """Random float32 unit vectors."""
    rows = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def image_rows(first: int, count: int) -> list[dict[str, Any]]:
    """Rows of an index for the images `path-<first>` and following."""
    return [
        {"path": f"path-{n}", "sha256": f"hash-{n}", "width": n + 1, "height": 2 * n + 1, "bytes": n}
        for n in range(first, first + count)
    ]


def empty_writer(path: Path, **fields: Any) -> IndexWriter:
    """A writer of a new index with `fields` in its manifest."""
    path.mkdir(exist_ok=True)
    return IndexWriter(path, {**HEADER, "images": 0, "shards": [], "next_id": 0, **fields})


def clustered(rows: int = STORE_ROWS, dimension: int = STORE_DIMENSION) -> np.ndarray:
    """Unit vectors around 20 centres."""
    centres = unit_rows(20, dimension, seed=2)
    vectors = centres[np.arange(rows) % 20] + 0.5 * unit_rows(rows, dimension, seed=3)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def clustered_index(path: Path, precision: str = "float32") -> Index:
    """An index of the STORE_ROWS vectors of `clustered` in three shards."""
    images, regions = clustered(), np.ones((STORE_ROWS, REGIONS, STORE_DIMENSION), np.float32)
    writer = empty_writer(path, dimension=STORE_DIMENSION, precision=precision, collection="rogle_0000")
    for start, stop in ((0, 250), (250, 251), (251, STORE_ROWS)):
        writer.add(image_rows(start, stop - start), images[start:stop], regions[start:stop])
        writer.commit()
    return Index(path)


def filled_index(path: Path, counts: list[int], **fields: Any) -> tuple[np.ndarray, np.ndarray]:
    """Writes an index in commits of `counts` images; returns its global and region embeddings."""
    total = sum(counts)
    images, regions = unit_rows(total, DIMENSION), unit_rows(total, REGIONS, DIMENSION, seed=1)
    writer, start = empty_writer(path, **fields), 0
    for count in counts:
        writer.add(image_rows(start, count), images[start : start + count], regions[start : start + count])
        writer.commit()
        start += count
    return images, regions


class RecordedServer:
    """A Milvus server that records in `addresses` what it is opened with. It answers a search with all ids."""

    addresses: list[str] = []
    can_delete, effort, max_effort, max_filter = True, 64, 4096, 0

    def __init__(self, uri: str, *_: Any):
        self.addresses.append(uri)

    def search(self, _: np.ndarray, count: int) -> np.ndarray:
        return np.arange(count)

    def saved(self) -> dict[str, Any]:
        return {"effort": 64}

    def _nothing(self, *_: Any) -> None:
        return None

    add = delete = clear = close = finish = built = _nothing


def name_store(index: Path, uri: str) -> None:
    """Writes a store into a manifest, as the author of an index can."""
    header = read_manifest(index)
    header |= {"store": {"uri": uri, "upto": header["next_id"], "effort": 64}, "collection": "rogle_0000"}
    (index / MANIFEST).write_text(json.dumps(header))
