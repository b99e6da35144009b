"""The store of 8-bit codes: exact results, filters, deletion, damaged files."""

import warnings

import numpy as np
import pytest

from modeling_rogle.index.exact_search import exact_search
from modeling_rogle.index.flat_store import FlatStore
from modeling_rogle.index.manifest import read_manifest, write_manifest
from modeling_rogle.index.shards import Index
from modeling_rogle.index.store_sync import delete_from_store, sync_store
from modeling_rogle.index.vector_store import nearest, open_store
from modeling_rogle.inference.errors import GalleryError
from tests.helpers.index_files import STORE_DIMENSION as DIMENSION
from tests.helpers.index_files import STORE_ROWS as ROWS
from tests.helpers.index_files import clustered, clustered_index

faiss = pytest.importorskip("faiss")


def test_searches_with_and_without_a_filter_equal_exact_search(tmp_path):
    clustered_index(tmp_path)
    saved = sync_store(tmp_path, "faiss-flat", lambda: clustered(20))
    assert (saved["recall"], saved["filtered"], saved["upto"]) == (1.0, 1.0, ROWS)
    assert (tmp_path / saved["file"]).stat().st_size < ROWS * (DIMENSION + 8) + 1000
    index = Index(tmp_path)
    store = open_store("faiss-flat", tmp_path, index.header)
    random = np.random.default_rng(0).random(ROWS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for query in clustered(20) + 0.05:
            for rows in (None, *(np.flatnonzero(random < share) for share in (0.01, 0.2, 0.5, 0.9))):
                found = nearest(index, query, 10, rows, store, ROWS)
                expected = exact_search(index, query, 10, rows)
                assert found[0].tolist() == expected[0].tolist()
                np.testing.assert_allclose(found[1], expected[1], atol=1e-6)


def test_a_filter_is_applied_to_ids_that_are_not_in_order(tmp_path):
    vectors, store = clustered(), FlatStore(tmp_path, DIMENSION, None)
    order = np.random.default_rng(1).permutation(ROWS)
    store.add(order + 1000, vectors[order])
    passing = np.arange(1000, 1000 + ROWS, 3)
    expected = passing[np.argsort(-(vectors[passing - 1000] @ vectors[7]), kind="stable")][:5]
    assert set(store.search(vectors[7], 20, passing).tolist()) >= set(expected.tolist())
    assert not set(store.search(vectors[7], 50, passing).tolist()) - set(passing.tolist())


def test_vectors_are_added_replaced_and_deleted_in_a_new_file(tmp_path):
    vectors = clustered()
    store = FlatStore(tmp_path, DIMENSION, None)
    store.add(np.arange(500), vectors[:500])
    first = store.saved()
    store = FlatStore(tmp_path, DIMENSION, first)
    store.add(np.arange(400, ROWS), vectors[400:])
    again = store.saved()
    assert again["file"] != first["file"] and again["scale"] == first["scale"] and len(store) == ROWS
    store = FlatStore(tmp_path, DIMENSION, again)
    assert 599 in store.search(vectors[599], 5)
    store.delete(np.array([599, 10_000]))
    third = store.saved()
    assert 599 not in FlatStore(tmp_path, DIMENSION, third).search(vectors[599], 50) and len(store) == ROWS - 1


def test_the_codes_of_a_deleted_image_leave_the_disk(tmp_path):
    index = clustered_index(tmp_path)
    saved = sync_store(tmp_path, "faiss-flat")
    code = (np.rint(index.global_rows([5])[0] * np.float32(saved["scale"])) + 128).astype(np.uint8).tobytes()
    assert code in (tmp_path / saved["file"]).read_bytes()
    header = read_manifest(tmp_path)
    known = delete_from_store(tmp_path, header, np.array([5]))
    assert code not in (tmp_path / known["file"]).read_bytes() and known["upto"] == ROWS


def test_numbers_above_the_scale_are_clipped_and_equal_zero_vectors_are_possible(tmp_path):
    store = FlatStore(tmp_path, 2, None)
    store.add(np.arange(2), np.zeros((2, 2), np.float32))
    store.add(np.arange(2, 4), np.float32([[9, 0], [0, 1]]))
    assert store.search(np.float32([1, 0]), 1).tolist() == [2]


def test_a_damaged_or_foreign_file_is_named_and_filled_again(tmp_path):
    clustered_index(tmp_path)
    saved = sync_store(tmp_path, "faiss-flat")
    header = read_manifest(tmp_path)
    with pytest.raises(GalleryError, match="16 numbers, the index has 32"):
        open_store("faiss-flat", tmp_path, {**header, "dimension": 32})
    with pytest.raises(GalleryError, match="not an index of faiss-flat"):
        open_store("faiss-flat", tmp_path, {**header, "store": {**saved, "scale": None}})
    file = tmp_path / saved["file"]
    whole = file.read_bytes()
    for count in (20, len(whole) // 2):
        file.write_bytes(whole[:count])
        with pytest.raises(GalleryError, match=f"{saved['file']}: missing or damaged"):
            open_store("faiss-flat", tmp_path, header)
    faiss.write_index(faiss.IndexFlatIP(DIMENSION), str(file))
    with pytest.raises(GalleryError, match=f"{saved['file']}: not an index of faiss-flat"):
        open_store("faiss-flat", tmp_path, header)
    assert sync_store(tmp_path, "faiss-flat")["file"] != saved["file"]
    write_manifest(tmp_path, {**read_manifest(tmp_path), "store": {"uri": "faiss-flat", "upto": 1, "scale": "a"}})
    with pytest.raises(GalleryError, match="field 'store'"):
        read_manifest(tmp_path)
