"""Thumbnails show the whole image, and no file outside the gallery."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from modeling_rogle.display.thumbnails import data_uri, is_inside, thumbnail
from modeling_rogle.inference.loading import load_model
from modeling_rogle.search.gallery import Gallery

QUERY = "A man wears a red jacket. His shoes are white."


@pytest.fixture
def gallery(tiny_checkpoint, tmp_path) -> Gallery:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (20, 60), "red").save(folder / "red.png")
    return Gallery.build(folder, *load_model(tiny_checkpoint), tmp_path / "index", progress=False)


def test_a_thumbnail_is_the_whole_image(gallery):
    match = gallery.search(QUERY, 1)[0]
    for size in ((30, 900), (2000, 300), (700, 2100)):
        Image.new("RGB", size, "red").save(match.file)
        drawn = thumbnail(gallery, replace(match, width=size[0], height=size[1]))
        assert drawn.width / drawn.height == pytest.approx(size[0] / size[1], rel=0.05)
        assert drawn.width <= 472 and drawn.height <= 744
        assert np.asarray(drawn).reshape(-1, 3).std(axis=0).max() < 3
        assert data_uri(drawn).startswith("data:image/jpeg;base64,/9j/")


def test_a_link_out_of_the_gallery_is_not_followed(gallery, tmp_path):
    match = gallery.search(QUERY, 1)[0]
    Image.new("RGB", (20, 60), "white").save(tmp_path / "secret.png")
    match.file.unlink()
    match.file.symlink_to(tmp_path / "secret.png")
    assert not is_inside(gallery, match) and thumbnail(gallery, match) is None
    match.file.unlink()
    assert is_inside(gallery, match) and thumbnail(gallery, match) is None  # gone
