"""Which store of an index is contacted, and addresses without credentials in the index, messages and logs."""

import logging

import pytest

from modeling_rogle.index import milvus_store
from modeling_rogle.index.deletion import remove_images
from modeling_rogle.index.manifest import MANIFEST, read_manifest
from modeling_rogle.index.store_address import public_address, require_trusted, trusted_address
from modeling_rogle.index.store_sync import sync_store
from modeling_rogle.inference.errors import GalleryError
from tests.helpers.index_files import STORE_ROWS, clustered_index, name_store

STRANGER, SECRET = "http://stranger.example:19530", "hunter2"


def test_the_users_store_is_updated_and_images_are_deleted_from_it(tmp_path, contacted):
    index, mine = clustered_index(tmp_path), "http://mine:19530"
    sync_store(tmp_path, mine)
    remove_images(tmp_path, {index.paths[3]}, set(), mine)
    assert set(contacted) == {mine} and read_manifest(tmp_path)["images"] == STORE_ROWS - 1


def test_a_store_of_another_address_is_left_without_contact(tmp_path, contacted):
    clustered_index(tmp_path)
    name_store(tmp_path, STRANGER)
    with pytest.warns(UserWarning, match="collection rogle_0000 may still exist there"):
        sync_store(tmp_path, "http://mine:19530")
    assert set(contacted) == {"http://mine:19530"} and read_manifest(tmp_path)["store"]["uri"] == "http://mine:19530"


def test_credentials_are_not_written_to_the_index_or_shown(tmp_path, monkeypatch, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    clustered_index(tmp_path)
    for address in (
        f"http://user:{SECRET}@127.0.0.1:9",
        f"postgresql://user:{SECRET}@127.0.0.1:9/db",
        f"elastic://127.0.0.1:9/?password={SECRET}",
        f"host=127.0.0.1 password={SECRET}",
        f"user:{SECRET}@127.0.0.1",
    ):
        with pytest.raises(GalleryError, match="^store ") as caught:
            sync_store(tmp_path, address, progress=True)
        assert SECRET not in str(caught.value)
    name_store(tmp_path, f"http://user:{SECRET}@mine:19530")  # as an earlier version wrote it
    assert read_manifest(tmp_path)["store"]["uri"] == "http://mine:19530"
    monkeypatch.setattr(milvus_store, "MilvusStore", lambda *_: pytest.fail("contacted"))
    with pytest.warns(UserWarning) as caught:
        sync_store(tmp_path, "exact")
    sync_store(tmp_path, "exact")
    shown = "".join(str(warning.message) for warning in caught) + "".join(capfd.readouterr()) + caplog.text
    assert SECRET not in shown + (tmp_path / MANIFEST).read_text()


def test_only_a_file_of_the_index_is_trusted_without_the_user(monkeypatch):
    for uri in ("faiss-flat", "faiss", "faiss-hnsw"):
        assert trusted_address(uri) == uri
    address = f"postgresql://user:{SECRET}@mine/db"
    for uri in ("own.db", "unix:/tmp/socket", "localhost", "", STRANGER, "postgresql://mine/db"):
        assert trusted_address(uri) is None
    monkeypatch.setenv("ROGLE_POSTGRES_URI", address)
    assert trusted_address("postgresql://mine/db") == address and trusted_address("postgresql://stranger/db") is None


@pytest.mark.parametrize("uri", ["milvus", "/home/me/images.db"])
def test_a_file_of_milvus_lite_is_named_and_can_be_replaced(tmp_path, uri):
    clustered_index(tmp_path)
    name_store(tmp_path, uri)
    (tmp_path / "milvus.db").mkdir()
    with pytest.raises(GalleryError, match=f"^store {uri}: files of milvus-lite are no longer supported; .*--store"):
        require_trusted(uri)
    with pytest.raises(GalleryError, match="no longer supported"):
        sync_store(tmp_path, uri)
    with pytest.warns(UserWarning, match="no longer supported"):
        sync_store(tmp_path, "exact")
    assert read_manifest(tmp_path)["store"] is None and not (tmp_path / "milvus.db").exists()


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("http://host:19530", "http://host:19530"),
        ("HTTP://Host:19530/", "http://host:19530"),
        ("https://user:p%40ss@host:1/db?token=x#y", "https://host:1/db"),
        ("http://user:p@/ss?#@host:1", "http://host:1"),
        ("faiss", "faiss"),
        ("/a/b.db", "/a/b.db"),
        ("host=h password='a b' user=u", "host=h password=... user=u"),
    ],
)
def test_the_public_form_of_an_address(address, public):
    assert public_address(address) == public and public_address(public) == public
