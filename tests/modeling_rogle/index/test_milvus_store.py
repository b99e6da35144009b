"""The token of a Milvus server: where it comes from, and which server receives it."""

import pytest

from modeling_rogle.index.milvus_store import token
from modeling_rogle.index.store_sync import sync_store
from modeling_rogle.inference.errors import GalleryError
from tests.helpers.index_files import clustered_index


def test_a_token_is_sent_only_to_the_uri_that_the_user_named(tmp_path, monkeypatch):
    pytest.importorskip("pymilvus")
    monkeypatch.setenv("MILVUS_TOKEN", "secret")
    assert token("http://stranger:19530") == "" and token("http://user:p%40ss@host:1") == "user:p@ss"
    monkeypatch.setenv("MILVUS_URI", "http://mine:19530")
    assert token("http://stranger:19530") == "" and token("http://mine:19530") == "secret"
    clustered_index(tmp_path)
    with pytest.raises(GalleryError, match="MILVUS_TOKEN was not sent"):
        sync_store(tmp_path, "http://127.0.0.1:9")
