"""The faiss store: recall, deletion, atomic files, damaged files."""

import os
import warnings
from dataclasses import asdict

import numpy as np
import pytest

from modeling_rogle.index import store_sync
from modeling_rogle.index.exact_search import exact_search
from modeling_rogle.index.faiss_store import FaissStore
from modeling_rogle.index.manifest import read_manifest
from modeling_rogle.index.shards import Index
from modeling_rogle.index.store_quality import StoreQuality
from modeling_rogle.index.store_sync import delete_from_store, sync_store
from modeling_rogle.index.vector_store import nearest, open_store
from modeling_rogle.inference.errors import GalleryError
from tests.helpers.index_files import STORE_DIMENSION as DIMENSION
from tests.helpers.index_files import STORE_ROWS as ROWS
from tests.helpers.index_files import clustered, clustered_index

pytest.importorskip("faiss")


@pytest.fixture(params=["faiss-ivf", "faiss-hnsw"])
def uri(request) -> str:
    return request.param


def recall(index: Index, store, count: int = 10) -> float:
    hits = 0
    for query in clustered(20) + 0.05:
        rows = nearest(index, query, count, None, store, int(index.ids[-1]) + 1)[0]
        hits += len(set(rows.tolist()) & set(exact_search(index, query, count)[0].tolist()))
    return hits / (20 * count)


def stored(file, number: int) -> bytes:
    """The bytes of one vector in an index file."""
    import faiss

    index = faiss.read_index(str(file))
    if not isinstance(index, faiss.IndexIVF):
        return index.reconstruct(number).tobytes()
    for cell in range(index.nlist):
        size, width = index.invlists.list_size(cell), index.code_size
        ids = faiss.rev_swig_ptr(index.invlists.get_ids(cell), size).tolist()
        if number in ids:
            codes = faiss.rev_swig_ptr(index.invlists.get_codes(cell), size * width).reshape(size, width)
            return codes[ids.index(number)].tobytes()
    raise AssertionError(f"{number} is not in {file}")


def test_an_inverted_file_stores_one_byte_per_number_and_probes_more_cells_if_needed(tmp_path):
    clustered_index(tmp_path)
    saved = sync_store(tmp_path, "faiss", lambda: clustered(30))
    assert (tmp_path / saved["file"]).stat().st_size < ROWS * (DIMENSION + 8) + 10_000
    index = Index(tmp_path)
    store = open_store("faiss", tmp_path, {**index.header, "store": {**saved, "effort": 1}})
    assert store.cells > 10 and len(store.search(clustered(1)[0], 200)) == 200


def test_a_store_that_is_slow_or_has_a_low_recall_is_reported(tmp_path, monkeypatch):
    clustered_index(tmp_path)
    monkeypatch.setattr(store_sync, "_NOTICEABLE_ROWS", 100)
    for quality, line in (
        (StoreQuality(1.0, 1.0, 0.5), "is slower than exact search here: a search takes 2.0 times as long"),
        (StoreQuality(1.0, 0.8, 3.0), "finds 80.0 % of the best ten with a filter"),
        (StoreQuality(0.9, 0.9, 3.0), "finds 90.0 % of the best ten"),
    ):
        sync_store(tmp_path, "exact")
        monkeypatch.setattr(store_sync, "tune", lambda *_, quality=quality: quality)
        with pytest.warns(UserWarning, match=f"store faiss: {line}"):
            saved = sync_store(tmp_path, "faiss", lambda: clustered(3))
        assert [saved[name] for name in ("recall", "filtered", "gain")] == list(asdict(quality).values())
    sync_store(tmp_path, "exact")
    monkeypatch.setattr(store_sync, "tune", lambda *_: StoreQuality(1.0, 1.0, 0.95))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sync_store(tmp_path, "faiss", lambda: clustered(3))  # 0.95 is within timing noise of 1


def test_a_filled_store_is_opened_again_and_searched(tmp_path, uri):
    clustered_index(tmp_path)
    saved = sync_store(tmp_path, uri, lambda: clustered(30))
    assert saved["upto"] == ROWS and saved["recall"] >= 0.95
    index = Index(tmp_path)
    store = open_store(uri, tmp_path, index.header)
    assert len(store) == ROWS and recall(index, store) >= 0.95
    assert sync_store(tmp_path, uri) == saved  # nothing new


def test_deleted_vectors_leave_the_file(tmp_path, uri):
    index = clustered_index(tmp_path)
    sync_store(tmp_path, uri)
    (before,) = tmp_path.glob("faiss-*.index")
    gone = stored(before, 5)
    assert gone in before.read_bytes()
    header = read_manifest(tmp_path)
    known = delete_from_store(tmp_path, header, np.array([5]))
    if uri == "faiss-hnsw":
        assert (known["upto"], known["file"]) == (0, None)  # to be filled again
    else:
        assert known["upto"] == ROWS
        store = open_store(uri, tmp_path, {**header, "store": known})
        assert len(store) == ROWS - 1 and 5 not in store.search(index.global_rows([5])[0], 50)
        assert gone not in (tmp_path / known["file"]).read_bytes()


def test_vectors_are_added_to_existing_ones(tmp_path, uri):
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
    clustered_index(tmp_path)
    saved = sync_store(tmp_path, uri)
    header = read_manifest(tmp_path)
    with pytest.raises(GalleryError, match="16 numbers, the index has 32"):
        open_store(uri, tmp_path, {**header, "dimension": 32})
    file = tmp_path / saved["file"]
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(GalleryError, match=f"{saved['file']}: missing or damaged"):
        open_store(uri, tmp_path, header)


def test_an_index_of_another_kind_is_named(tmp_path, uri):
    import faiss

    clustered_index(tmp_path)
    saved = sync_store(tmp_path, uri)
    faiss.write_index(faiss.IndexIDMap2(faiss.IndexFlatIP(DIMENSION)), str(tmp_path / saved["file"]))
    with pytest.raises(GalleryError, match=f"{saved['file']}: not an index of {uri}; fill the store again"):
        open_store(uri, tmp_path, read_manifest(tmp_path))


@pytest.mark.parametrize("harm", ["gone", "cut"])
def test_a_store_whose_file_is_missing_or_damaged_is_filled_again(tmp_path, uri, harm):
    clustered_index(tmp_path)
    saved = sync_store(tmp_path, uri, lambda: clustered(30))
    file = tmp_path / saved["file"]
    file.unlink() if harm == "gone" else file.write_bytes(file.read_bytes()[:100])
    again = sync_store(tmp_path, uri)
    assert again["file"] != saved["file"] and {**again, "file": None} == {**saved, "file": None}
    assert len(open_store(uri, tmp_path, read_manifest(tmp_path))) == ROWS and not file.exists()


def test_few_vectors_are_filled_without_output(tmp_path, capfd):
    store = FaissStore(tmp_path, "faiss", DIMENSION, 8, None)
    store.add(np.arange(8), clustered(8))
    assert len(store) == 8 and capfd.readouterr() == ("", "")


def test_without_faiss_one_line_names_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(GalleryError, match="faiss is not installed; pip install faiss-cpu"):
        open_store("faiss", tmp_path, {"dimension": 4, "images": 0})
