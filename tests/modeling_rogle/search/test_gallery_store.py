"""A search, an update and a deletion contact a store only where the user named it, or where it lies in the index."""

import warnings

import pytest

from modeling_rogle.cli.main import main
from modeling_rogle.index.manifest import read_manifest
from modeling_rogle.index.store_address import public_address
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.search.gallery import Gallery
from tests.helpers.image_files import QUERY
from tests.helpers.index_files import name_store

STRANGER, SECRET = "http://stranger.example:19530", "hunter2"


@pytest.mark.parametrize("uri", [STRANGER, f"http://user:{SECRET}@stranger.example:19530", "/home/other/data.db"])
def test_a_search_does_not_contact_a_store_that_only_the_index_names(copied, tools, contacted, uri):
    exact = [match.path for match in Gallery.open(copied, *tools).search(QUERY)]
    name_store(copied, uri)
    with pytest.warns(UserWarning, match=f"^store {public_address(uri)}: .*--store.*searched exactly"):
        matches = Gallery.open(copied, *tools).search(QUERY)
    assert not contacted and [match.path for match in matches] == exact


@pytest.mark.parametrize("by", ["--store", "MILVUS_URI"])
def test_a_store_that_the_user_names_is_contacted_with_the_users_credentials(copied, tools, contacted, by, monkeypatch):
    name_store(copied, "http://mine:19530")
    address = f"http://user:{SECRET}@mine:19530"
    if by == "MILVUS_URI":
        monkeypatch.setenv(by, address)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Gallery.open(copied, *tools, store=address if by == "--store" else None).search(QUERY)
    assert contacted == [address]


def test_an_update_and_a_deletion_do_not_contact_a_store_that_only_the_index_names(copied, tools, contacted, capsys):
    name_store(copied, STRANGER)
    gallery = Gallery.open(copied, *tools)
    before, path = len(gallery), gallery.paths[0]
    with pytest.raises(GalleryError, match=f"{STRANGER}: not contacted, .*--store {STRANGER}.*--store exact"):
        Gallery.build(gallery.folder, *tools, copied, progress=False)
    assert main(["delete", "--index", str(copied), path]) == 2
    assert "nothing was deleted" in capsys.readouterr().err and not contacted
    assert len(Gallery.open(copied)) == before
    assert main(["delete", "--index", str(copied), "--store", "exact", path]) == 0
    assert "collection rogle_0000 may still exist there" in capsys.readouterr().err and not contacted
    assert len(Gallery.open(copied)) == before - 1 and read_manifest(copied)["store"] is None
