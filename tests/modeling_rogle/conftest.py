"""Fixtures of the index and of the search."""

import pytest

from modeling_rogle.index import milvus_store
from tests.helpers.index_files import RecordedServer


@pytest.fixture
def contacted(monkeypatch) -> list[str]:
    """The addresses that a Milvus store is opened with."""
    addresses: list[str] = []
    monkeypatch.delenv("MILVUS_URI", raising=False)
    monkeypatch.setattr(RecordedServer, "addresses", addresses)
    monkeypatch.setattr(milvus_store, "MilvusStore", RecordedServer)
    return addresses
