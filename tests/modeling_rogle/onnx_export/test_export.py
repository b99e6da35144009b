"""The exported graphs equal the model at other input sizes; int8 is close; invalid exports are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from modeling_rogle import RogleConfig, RogleModel, RogleProcessor  # noqa: E402
from modeling_rogle.inference.onnx_encoder import OnnxError, open_session  # noqa: E402
from modeling_rogle.onnx_export.export import TOLERANCE, ImageGraph, TextGraph, check, export_onnx, quantise  # noqa: E402
from tests.helpers.onnx_files import exported_folder  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exported(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_folder(tiny_checkpoint, tmp_path_factory)


def test_graphs_equal_the_encoders_of_the_model(tiny_model: RogleModel):
    ids = torch.randint(0, 50, (4, 12))
    ids[:, 9:] = tiny_model.config.text_config.eos_token_id
    torch.testing.assert_close(TextGraph(tiny_model)(ids), tiny_model.encode_texts(ids), atol=1e-6, rtol=0)
    pixels, boxes = torch.randn(2, 3, 32, 16), torch.rand(2, 3, 4).sort(-1).values[..., [0, 1, 2, 3]]
    owner = torch.tensor([0, 0, 0, 1, 1, 1])
    images, regions = ImageGraph(tiny_model)(pixels, boxes)
    expected = tiny_model.encode_images(pixels, boxes.flatten(0, 1), owner)
    torch.testing.assert_close(images, expected[0])
    torch.testing.assert_close(regions.flatten(0, 1), expected[1])


def test_graphs_equal_the_model_at_other_batch_sizes_lengths_and_boxes(exported: Path, tiny_checkpoint: Path):
    model = RogleModel.from_pretrained(tiny_checkpoint)
    assert max(check(exported, model).values()) <= TOLERANCE == 1e-4
    text, image = open_session(exported / "text.onnx"), open_session(exported / "image.onnx")
    assert [type(side) for side in text.get_inputs()[0].shape] == [str, str]  # both dynamic
    assert [type(side) for side in image.get_inputs()[0].shape] == [str, int, int, int]
    assert image.get_inputs()[0].shape[2:] == [32, 16]  # the input size
    pixels, boxes = torch.randn(7, 3, 32, 16), torch.tensor([[0.1, 0.2, 0.6, 0.9]]).repeat(7, 1, 1)
    images, regions = image.run(None, {"pixel_values": pixels.numpy(), "boxes": boxes.numpy()})
    expected = model.encode_images(pixels, boxes[:, 0], torch.arange(7))
    np.testing.assert_allclose(images, expected[0].numpy(), atol=1e-4)
    np.testing.assert_allclose(regions[:, 0], expected[1].numpy(), atol=1e-4)


def test_a_graph_of_other_weights_is_refused(exported: Path, tiny_checkpoint: Path):
    model = RogleModel.from_pretrained(tiny_checkpoint)
    with torch.no_grad():
        model.text_projection.weight.mul_(-1)
    with pytest.raises(OnnxError, match="text.onnx: differs from the model by"):
        check(exported, model)


def test_int8_is_smaller_and_near(exported: Path, tiny_checkpoint: Path):
    model = RogleModel.from_pretrained(tiny_checkpoint)
    ids = torch.randint(0, 50, (16, 12))
    ids[:, 11] = model.config.text_config.eos_token_id
    expected = model.encode_texts(ids).numpy()
    for suffix, low, high in (("onnx", 0.999999, 1.01), ("int8.onnx", 0.97, 0.999999)):
        got = open_session(exported / f"text.{suffix}").run(None, {"input_ids": ids.numpy()})[0]
        assert low < (got * expected).sum(-1).mean() < high
    pixels, boxes = np.random.default_rng(0).standard_normal((8, 3, 32, 16), dtype=np.float32), [[0.1, 0.2, 0.6, 0.9]]
    inputs = {"pixel_values": pixels, "boxes": np.array([boxes] * 8, dtype=np.float32)}
    full, small = (open_session(exported / f"image.{suffix}").run(None, inputs) for suffix in ("onnx", "int8.onnx"))
    for ours, theirs in zip(full, small, strict=True):  # images and regions share a projection
        assert 0.97 < (ours * theirs).sum(-1).mean() < 0.999999
    for name in ("text", "image"):
        assert (exported / f"{name}.int8.onnx").stat().st_size < (exported / f"{name}.onnx").stat().st_size


def test_the_manifest_lists_every_file(exported: Path, tiny_processor: RogleProcessor):
    manifest = json.loads((exported / "rogle_onnx.json").read_text())
    written = {file.name: file.stat().st_size for file in exported.iterdir() if file.name != "rogle_onnx.json"}
    assert {name: entry["bytes"] for name, entry in manifest["files"].items()} == written
    assert manifest["image_size"] == [32, 16] and manifest["max_tokens"] == 64
    assert manifest["end_token"] == tiny_processor.tokenizer.eos_token_id


def test_a_model_of_crops_and_an_existing_folder_are_refused(
    tiny_checkpoint: Path, tmp_path: Path, tiny_config: RogleConfig
):
    (tmp_path / "there").mkdir()
    with pytest.raises(OnnxError, match="there: already exists"):
        export_onnx(tiny_checkpoint, tmp_path / "there")
    config = RogleConfig.from_dict(tiny_config.to_dict() | {"region_feature": "crop"})
    RogleModel(config).save_pretrained(tmp_path / "crop")
    RogleProcessor.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path / "crop")
    with pytest.raises(OnnxError, match="'crop' needs a forward pass"):
        export_onnx(tmp_path / "crop", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["crop", "there"]


def test_quantising_again_gives_the_same_bytes(exported: Path, tmp_path: Path):
    for name in ("text", "image"):
        (tmp_path / f"{name}.onnx").write_bytes((exported / f"{name}.onnx").read_bytes())
    quantise(tmp_path)
    for name in ("text", "image"):
        file = f"{name}.int8.onnx"
        assert (tmp_path / file).read_bytes() == (exported / file).read_bytes()
