"""Indexing that is killed at four moments, and a search while another process appends."""

import os
import time
import warnings

import pytest

from benchmarks.common.random_images import write_random_images
from benchmarks.robustness import kill_index
from modeling_rogle.indexing import item_encoder
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.inference.loading import load_model
from modeling_rogle.search.gallery import Gallery
from tests.helpers.image_files import QUERY, make_images


@pytest.fixture(scope="module")
def tools(tiny_checkpoint):
    return load_model(tiny_checkpoint)


def test_nothing_reported_done_is_lost(tools, tmp_path):
    folder = write_random_images(tmp_path / "images", 28)
    kills = kill_index.run_kills(4, folder, tools, tmp_path)
    assert len(kills) == 4 and any(0 < kill.indexed < 28 for kill in kills)
    assert not any(kill.lost for kill in kills)


def test_one_process_searches_while_another_appends(tools, tmp_path, monkeypatch):
    folder, out = make_images(tmp_path / "images", 4), tmp_path / "index"
    Gallery.build(folder, *tools, out, progress=False)
    write_random_images(folder / "more", 60)
    monkeypatch.setattr(item_encoder, "COMMIT_SECONDS", 0.0)
    child = os.fork()
    if child == 0:
        try:
            Gallery.build(folder, *tools, out, 2, progress=False)
        finally:
            os._exit(0)
    gallery, sizes = Gallery.open(out, *tools), []
    while not os.waitpid(child, os.WNOHANG)[0]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # indexing is not finished
            matches = gallery.search(QUERY, top_k=100)
        assert len(matches) == len(gallery) == len({match.path for match in matches})
        sizes.append(len(gallery))
        gallery.refresh()
        time.sleep(0.01)
    gallery.refresh()
    assert sizes == sorted(sizes) and len(set(sizes)) > 1 and len(gallery) == 64 and gallery.complete


def test_a_writer_killed_while_it_replaces_leaves_the_old_index(tools, tmp_path):
    out = tmp_path / "index"
    Gallery.build(make_images(tmp_path / "images", 4), *tools, out, progress=False)
    other = write_random_images(tmp_path / "other", 40)
    kill_index.index_and_kill(0.3, other, tools, out, tmp_path / "log")
    gallery = Gallery.open(out, *tools)
    assert len(gallery) in (4, 40) and len(gallery.search(QUERY, top_k=50)) == len(gallery)
    Gallery.build(other, *tools, out, progress=False)
    assert len(Gallery.open(out)) == 40
    with pytest.raises(GalleryError):
        Gallery.open(tmp_path / "other")
