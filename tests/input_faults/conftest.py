"""One model for the whole table of entry points and inputs."""

from dataclasses import replace
from pathlib import Path

import pytest

from modeling_rogle import Gallery, RogleModel, RogleProcessor
from modeling_rogle.pipeline_rogle import TextBasedPersonSearchPipeline
from modeling_rogle.release.handler import EndpointHandler
from tests.helpers.image_files import make_images
from tests.helpers.onnx_files import exported_folder
from tests.input_faults.entry_points import World


@pytest.fixture(scope="package")
def shared_world(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    model, processor = RogleModel.from_pretrained(tiny_checkpoint), RogleProcessor.from_pretrained(tiny_checkpoint)
    model.eval()
    pipeline = TextBasedPersonSearchPipeline(model=model, processor=processor, device="cpu")
    Gallery.build(make_images(folder / "images", 4), model, processor, folder / "index", progress=False)
    return World(
        checkpoint=tiny_checkpoint,
        onnx=exported_folder(tiny_checkpoint, tmp_path_factory),
        index=folder / "index",
        model=model,
        processor=processor,
        pipeline=pipeline,
        handler=EndpointHandler(str(tiny_checkpoint)),
        candidates=pipeline.encode_candidates([str(file) for file in sorted((folder / "images").glob("*.png"))]),
    )


@pytest.fixture
def world(shared_world: World, tmp_path: Path) -> World:
    return replace(shared_world, tmp=tmp_path)
