"""A loaded tiny model and an index of ten images."""

import shutil
from pathlib import Path

import pytest

from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.inference.loading import load_model
from modeling_rogle.search.gallery import Gallery
from tests.helpers.image_files import make_images


@pytest.fixture(scope="module")
def tools(tiny_checkpoint) -> tuple[RogleModel, RogleProcessor]:
    return load_model(tiny_checkpoint)


@pytest.fixture(scope="module")
def indexed(tools, tmp_path_factory) -> Path:
    """An index of ten images. A test that changes the index uses `copied`."""
    root = tmp_path_factory.mktemp("gallery")
    Gallery.build(make_images(root / "images"), *tools, root / "index", batch_size=3, progress=False)
    return root / "index"


@pytest.fixture
def copied(indexed, tmp_path) -> Path:
    return Path(shutil.copytree(indexed, tmp_path / "index"))
