"""OnnxEncoder has the tokens, pixels and embeddings of the model; an invalid folder is refused in one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from modeling_rogle import RogleModel, RogleProcessor  # noqa: E402
from modeling_rogle.box_ops import template_boxes  # noqa: E402
from modeling_rogle.inference.onnx_encoder import OnnxEncoder, OnnxError  # noqa: E402
from tests.helpers.onnx_files import exported_folder  # noqa: E402

TEXTS = [
    "A man wears a red jacket. His shoes are white.",
    "  Ein Mann trägt eine rote Jacke 👟 &amp; 12.5 cm  ",
    "<|endoftext|> is text here",
    "a red jacket and white shoes. " * 30,  # cut after a sentence
    "red " * 200,  # one sentence that is too long
    "",
]


@pytest.fixture(scope="module")
def exported(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_folder(tiny_checkpoint, tmp_path_factory)


def test_token_ids_equal_those_of_the_processor(exported: Path, tiny_checkpoint: Path):
    processor, encoder = RogleProcessor.from_pretrained(tiny_checkpoint), OnnxEncoder(exported)
    end = processor.tokenizer.eos_token_id
    for text in TEXTS:
        expected = processor(text=[text], return_tensors="pt")["input_ids"][0].tolist()
        assert encoder.tokenize([text])[0].tolist() == expected
        assert len(expected) <= 64 and expected[-1] == end
    table = encoder.tokenize(TEXTS)
    assert table.shape == (len(TEXTS), max(len(encoder.tokenize([text])[0]) for text in TEXTS))


@pytest.mark.parametrize("int8", [False, True])
def test_embeddings_equal_those_of_the_model(exported: Path, tiny_checkpoint: Path, int8: bool):
    model, processor = RogleModel.from_pretrained(tiny_checkpoint), RogleProcessor.from_pretrained(tiny_checkpoint)
    encoder, random = OnnxEncoder(exported, int8), np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in ((50, 20), (32, 16))]
    expected = model.encode_texts(processor(text=TEXTS, return_tensors="pt")["input_ids"]).numpy()
    pixels = processor(images=images, return_tensors="pt")["pixel_values"]
    np.testing.assert_allclose(encoder.preprocess(images), pixels.numpy(), atol=1e-5)
    image_embeds, regions = encoder.encode_images(images)
    assert regions.shape == (2, len(template_boxes()), encoder.dimension)
    pairs = (
        (encoder.encode_texts(TEXTS, batch_size=2), expected),
        (image_embeds, model.encode_images(pixels)[0].numpy()),
    )
    for ours, theirs in pairs:
        cosines = (ours * theirs).sum(-1)
        assert cosines.mean() > 0.9 if int8 else np.abs(ours - theirs).max() < 1e-4


def test_no_texts_give_no_rows(exported: Path):
    assert OnnxEncoder(exported).encode_texts([]).shape == (0, 32)


def test_every_fit_gives_the_pixels_of_the_processor(exported: Path, tiny_checkpoint: Path):
    processor, encoder = RogleProcessor.from_pretrained(tiny_checkpoint), OnnxEncoder(exported)
    assert (encoder.fit, encoder.trained_regions) == ("squeeze", True)
    image = Image.effect_noise((90, 70), 80).convert("RGB")
    seen = []
    for fit in ("squeeze", "pad", "crop"):
        processor.fit = encoder.manifest["fit"] = fit
        seen.append(encoder.preprocess([image]))
        expected = processor(images=[image], return_tensors="pt")["pixel_values"].numpy()
        np.testing.assert_allclose(seen[-1], expected, atol=1e-5)
    assert all(np.abs(one - other).max() > 0.1 for one, other in zip(seen, seen[1:], strict=False))


def test_an_invalid_export_is_refused_in_one_line(exported: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nothing: no such folder"):
        OnnxEncoder(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(OnnxError, match="no rogle_onnx.json"):
        OnnxEncoder(tmp_path / "empty")
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    manifest = json.loads((folder / "rogle_onnx.json").read_text())
    for change, reason in (
        ({"version": 99}, "not an export of format rogle-onnx 1"),
        ({"dimension": "32"}, "'dimension' is missing or not a int"),
        ({"image_mean": [0.5]}, "'image_mean' is not 3 numbers"),
        ({"fit": "zoom"}, "'fit' is not one of squeeze, pad, crop"),
        ({"trained_regions": 1}, "'trained_regions' is not true or false"),
    ):
        (folder / "rogle_onnx.json").write_text(json.dumps(manifest | change))
        with pytest.raises(OnnxError, match=reason) as caught:
            OnnxEncoder(folder)
        assert "\n" not in str(caught.value) and "rogle_onnx.json" in str(caught.value)
    (folder / "rogle_onnx.json").write_text("{")
    with pytest.raises(OnnxError, match="damaged"):
        OnnxEncoder(folder)


def test_a_changed_or_missing_file_is_refused(exported: Path, tmp_path: Path):
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    graph = bytearray((folder / "text.onnx").read_bytes())
    graph[-1] ^= 1
    (folder / "text.onnx").write_bytes(graph)
    with pytest.raises(OnnxError, match="text.onnx: differs from its SHA-256"):
        OnnxEncoder(folder).encode_texts(["a man"])
    (folder / "image.onnx").unlink()
    with pytest.raises(OnnxError, match="image.onnx: not in this export"):
        OnnxEncoder(folder).encode_images([Image.new("RGB", (8, 8))])
