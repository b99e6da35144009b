"""The Milvus store in a local file (milvus-lite); a server that does not answer gives a one-line error."""

import numpy as np
import pytest

from modeling_rogle.index.manifest import read_manifest
from modeling_rogle.index.milvus_store import token
from modeling_rogle.index.shards import Index
from modeling_rogle.index.store_sync import delete_from_store, sync_store
from modeling_rogle.index.vector_store import exact_search, nearest, open_store
from modeling_rogle.inference.errors import GalleryError
from tests.helpers.index_files import STORE_DIMENSION as DIMENSION
from tests.helpers.index_files import STORE_ROWS as ROWS
from tests.helpers.index_files import clustered, clustered_index

pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")


def test_a_local_file_is_filled_opened_again_searched_and_cleared(tmp_path):
    index = clustered_index(tmp_path)
    saved = sync_store(tmp_path, "milvus", lambda: clustered(8))
    assert (saved["upto"], saved["uri"]) == (ROWS, "milvus") and saved["recall"] >= 0.95
    header = read_manifest(tmp_path)
    store = open_store("milvus", tmp_path, header)
    query = clustered(1)[0]
    assert nearest(index, query, 10, None, store, ROWS)[0].tolist() == exact_search(index, query, 10)[0].tolist()
    store.close()
    known = delete_from_store(tmp_path, header, np.array([5]))
    assert known["upto"] == 0
    left = b"".join(file.read_bytes() for file in (tmp_path / "milvus.db").rglob("*") if file.is_file())
    assert header["collection"].encode() not in left and index.global_rows([6])[0].tobytes() not in left
    with pytest.raises(GalleryError, match=f"collection {header['collection']} does not exist any more"):
        open_store("milvus", tmp_path, header)


def test_a_server_that_does_not_answer_is_one_line(tmp_path):
    clustered_index(tmp_path)
    with pytest.raises(GalleryError, match="^store http://127.0.0.1:9: .*server unavailable") as caught:
        sync_store(tmp_path, "http://127.0.0.1:9")
    assert "\n" not in str(caught.value)
    assert read_manifest(tmp_path).get("store") is None


def test_a_token_is_sent_only_to_the_uri_that_the_user_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MILVUS_TOKEN", "secret")
    assert token("http://stranger:19530") == token(str(tmp_path / "a.db")) == ""
    monkeypatch.setenv("MILVUS_URI", "http://mine:19530")
    assert token("http://stranger:19530") == "" and token("http://mine:19530") == "secret"
    clustered_index(tmp_path)
    with pytest.raises(GalleryError, match="MILVUS_TOKEN was not sent"):
        sync_store(tmp_path, "http://127.0.0.1:9")


def test_a_missing_collection_is_filled_again(tmp_path):
    index = clustered_index(tmp_path)
    saved = sync_store(tmp_path, "milvus", lambda: clustered(8))
    header = read_manifest(tmp_path)
    store = open_store("milvus", tmp_path, header)
    store.clear()
    store.close()
    assert sync_store(tmp_path, "milvus") == saved
    store = open_store("milvus", tmp_path, read_manifest(tmp_path))
    query = clustered(1)[0]
    assert nearest(index, query, 10, None, store, ROWS)[0].tolist() == exact_search(index, query, 10)[0].tolist()
    store.close()


def test_vectors_of_another_dimension_are_named(tmp_path):
    clustered_index(tmp_path)
    sync_store(tmp_path, "milvus")
    with pytest.raises(GalleryError, match=f"{DIMENSION} numbers, the index has 5"):
        open_store("milvus", tmp_path, {**read_manifest(tmp_path), "dimension": 5})
    assert len(Index(tmp_path)) == ROWS


def test_without_pymilvus_one_line_names_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pymilvus", None)
    with pytest.raises(GalleryError, match="pip install pymilvus milvus-lite"):
        open_store("milvus", tmp_path, {"dimension": 4, "images": 0, "collection": "c"})
