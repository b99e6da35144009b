"""Indexing that is killed at four moments, and a search while another process appends."""

import os
import time
import warnings

import pytest
import torch

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


def test_a_writer_killed_while_it_replaces_leaves_the_old_index(tools, tiny_model, tiny_processor, tmp_path):
    folder, out = make_images(tmp_path / "images", 4), tmp_path / "index"
    Gallery.build(folder, *tools, out, progress=False)
    with torch.no_grad():
        tiny_model.logit_scale += 1  # another model
    other = tiny_model, tiny_processor
    write_random_images(folder / "more", 40)
    kill_index.index_and_kill(0.3, folder, other, out, tmp_path / "log")
    gallery = Gallery.open(out)
    assert len(gallery) in (4, 44)
    gallery = Gallery.open(out, *(tools if len(gallery) == 4 else other))
    assert len(gallery.search(QUERY, top_k=50)) == len(gallery)
    Gallery.build(folder, *other, out, progress=False)
    assert len(Gallery.open(out, *other)) == 44
    with pytest.raises(GalleryError):
        Gallery.open(folder)
