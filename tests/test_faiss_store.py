"""faiss beside the shards: recall, deletion, files written whole."""

import os

import numpy as np
import pytest
from test_store import DIMENSION, ROWS, clustered, made

from modeling_rogle.faiss_store import FaissStore
from modeling_rogle.filling import fill, forget
from modeling_rogle.manifest import GalleryError, read_manifest
from modeling_rogle.shards import Index
from modeling_rogle.store import exact_search, nearest, open_store

pytest.importorskip("faiss")


@pytest.fixture(params=["faiss-ivf", "faiss-hnsw"])
def uri(request) -> str:
    return request.param


def recall(index: Index, store, count: int = 10) -> float:
    hits = 0
    for query in clustered(20) + 0.05:
        found = nearest(index, query, count, None, store, int(index.ids[-1]) + 1)[0]
        hits += len(set(found.tolist()) & set(exact_search(index, query, count)[0].tolist()))
    return hits / (20 * count)


def test_a_filled_store_is_found_again_and_finds(tmp_path, uri):
    made(tmp_path)
    saved = fill(tmp_path, uri, lambda: clustered(30))
    assert saved["upto"] == ROWS and saved["recall"] >= 0.95
    index = Index(tmp_path)
    store = open_store(uri, tmp_path, index.header)
    assert len(store) == ROWS and recall(index, store) >= 0.95
    assert fill(tmp_path, uri) == saved  # nothing new


def test_deleted_vectors_leave_the_file(tmp_path, uri):
    index = made(tmp_path)
    fill(tmp_path, uri)
    (before,) = tmp_path.glob("faiss-*.index")
    gone = index.global_rows([5])[0].tobytes()
    assert gone in before.read_bytes()
    header = read_manifest(tmp_path)
    known = forget(tmp_path, header, np.array([5]))
    if uri == "faiss-hnsw":
        assert (known["upto"], known["file"]) == (0, None)  # to be filled again
    else:
        assert known["upto"] == ROWS
        store = open_store(uri, tmp_path, {**header, "store": known})
        assert len(store) == ROWS - 1 and 5 not in store.search(index.global_rows([5])[0], 50)
        assert gone not in (tmp_path / known["file"]).read_bytes()


def test_vectors_are_added_to_what_stands_there(tmp_path, uri):
    vectors = clustered()
    store = FaissStore(tmp_path, uri, DIMENSION, ROWS, None)
    store.add(np.arange(500), vectors[:500])
    first = store.saved()
    store = FaissStore(tmp_path, uri, DIMENSION, ROWS, first)
    store.add(np.arange(500, ROWS), vectors[500:])
    again = store.saved()
    assert again["file"] != first["file"] and len(store) == ROWS
    assert 599 in FaissStore(tmp_path, uri, DIMENSION, ROWS, again).search(vectors[599], 20)
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".new")]


def test_a_damaged_or_foreign_file_is_named(tmp_path, uri):
    made(tmp_path)
    saved = fill(tmp_path, uri)
    header = read_manifest(tmp_path)
    with pytest.raises(GalleryError, match="16 numbers a vector, the index has 32"):
        open_store(uri, tmp_path, {**header, "dimension": 32})
    file = tmp_path / saved["file"]
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(GalleryError, match=f"{saved['file']}: missing or damaged"):
        open_store(uri, tmp_path, header)


def test_an_index_of_another_kind_is_named(tmp_path, uri):
    import faiss

    made(tmp_path)
    saved = fill(tmp_path, uri)
    faiss.write_index(faiss.IndexIDMap2(faiss.IndexFlatIP(DIMENSION)), str(tmp_path / saved["file"]))
    with pytest.raises(GalleryError, match=f"{saved['file']}: not an index of {uri}; fill the store again"):
        open_store(uri, tmp_path, read_manifest(tmp_path))


@pytest.mark.parametrize("harm", ["gone", "cut"])
def test_a_store_whose_file_is_lost_is_filled_again(tmp_path, uri, harm):
    made(tmp_path)
    saved = fill(tmp_path, uri, lambda: clustered(30))
    file = tmp_path / saved["file"]
    file.unlink() if harm == "gone" else file.write_bytes(file.read_bytes()[:100])
    again = fill(tmp_path, uri)
    assert again["file"] != saved["file"] and {**again, "file": None} == {**saved, "file": None}
    assert len(open_store(uri, tmp_path, read_manifest(tmp_path))) == ROWS and not file.exists()


def test_few_vectors_are_filled_in_silence(tmp_path, capfd):
    store = FaissStore(tmp_path, "faiss", DIMENSION, 8, None)
    store.add(np.arange(8), clustered(8))
    assert len(store) == 8 and capfd.readouterr() == ("", "")


def test_without_faiss_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(GalleryError, match="faiss is not installed; pip install faiss-cpu"):
        open_store("faiss", tmp_path, {"dimension": 4, "images": 0})
