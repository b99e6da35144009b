"""The endpoint handler with the calling convention of the toolkit: `EndpointHandler(path)(request)`."""

import base64
import gc
import io
import json
import struct
import tomllib
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import modeling_rogle.release.handler
from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.release.handler import EndpointHandler

TEXTS = ["A man wears a red jacket.", "The woman carries a blue bag. " * 20]


@pytest.fixture(scope="module")
def handler(tiny_checkpoint: Path) -> EndpointHandler:
    return EndpointHandler(str(tiny_checkpoint))


def encoded(image: Image.Image, kind: str = "PNG", **options) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return base64.b64encode(buffer.getvalue()).decode()


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def test_embeddings_are_those_of_the_model(handler: EndpointHandler, tiny_checkpoint: Path):
    sources = [noise(40, 20), noise(64, 32, 1)]
    request = {"inputs": {"text": TEXTS, "images": [encoded(image) for image in sources]}}
    answer = json.loads(json.dumps(handler(json.loads(json.dumps(request)))))
    assert sorted(answer) == ["image_embeds", "similarity", "text_embeds"]

    model, processor = RogleModel.from_pretrained(tiny_checkpoint), RogleProcessor.from_pretrained(tiny_checkpoint)
    texts = model.encode_texts(**processor(text=TEXTS, return_tensors="pt"))
    images, _ = model.encode_images(**processor(images=sources, return_tensors="pt"))
    torch.testing.assert_close(torch.tensor(answer["text_embeds"]), texts)
    torch.testing.assert_close(torch.tensor(answer["image_embeds"]), images)
    torch.testing.assert_close(torch.tensor(answer["similarity"]), texts @ images.T)
    assert torch.tensor(answer["text_embeds"]).norm(dim=-1).tolist() == pytest.approx([1, 1], abs=1e-5)


def test_one_kind_alone_and_a_single_string(handler: EndpointHandler):
    assert sorted(handler({"inputs": {"images": [encoded(noise(30, 20))]}})) == ["image_embeds"]
    assert handler({"inputs": {"text": TEXTS[0]}}) == handler({"inputs": {"text": [TEXTS[0]], "images": []}})


def test_images_of_every_mode_data_urls_and_rotated_photographs(handler: EndpointHandler):
    grey, alpha = noise(30, 20).convert("L"), noise(30, 20).convert("RGBA")
    upright = noise(40, 20)
    note = Image.Exif()
    note[0x0112] = 6  # EXIF: rotate by 90 degrees clockwise
    turned = encoded(upright.rotate(90, expand=True), exif=note)
    images = [encoded(grey), encoded(alpha), "data:image/png;base64," + encoded(upright), turned, encoded(upright)]
    rows = torch.tensor(handler({"inputs": {"images": images}})["image_embeds"])
    assert rows.isfinite().all()
    torch.testing.assert_close(rows[2], rows[4])
    torch.testing.assert_close(rows[3], rows[4])


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (None, "inputs: must be"),
        ({"text": ["a man"]}, "inputs: must be"),
        ({"inputs": [3]}, "inputs[0]: must be a string, not int"),
        ({"inputs": {"text": ["a" * 100_000] * 3}}, "inputs.text: 300000 characters, at most 200000"),
        ({"inputs": {"source_sentence": 1, "sentences": ["a"]}}, "inputs.source_sentence: must be a text"),
        ({"inputs": {"source_sentence": "a", "sentences": []}}, "inputs.sentences: is empty"),
        ({"inputs": {}}, "inputs: "),
        ({"inputs": {"texts": ["a man"]}}, 'inputs: unknown field "texts"'),
        ({"inputs": {"text": 3}}, "inputs.text: must be a list"),
        ({"inputs": {"text": ["a man", 3]}}, "inputs.text[1]: must be a string, not int"),
        ({"inputs": {"text": ["a man", " "]}}, "inputs.text[1]: is empty"),
        ({"inputs": {"text": ["a man"] * 257}}, "inputs.text: 257 entries"),
        ({"inputs": {"images": ["???"]}}, "inputs.images[0]: not base64"),
        ({"inputs": {"images": [base64.b64encode(b"hello").decode()]}}, "inputs.images[0]: not an image"),
        ({"inputs": {"images": [encoded(noise(64, 64))[:400]]}}, "inputs.images[0]: truncated or damaged"),
        (
            {"inputs": {"images": [encoded(Image.new("1", (9000, 9000)))]}},
            "inputs.images[0]: 9000 x 9000 is over the limit",
        ),
    ],
)
def test_a_bad_request_gives_one_line_of_json(handler: EndpointHandler, request_, error: str):
    answer = handler(request_)
    assert list(answer) == ["error"] and answer["error"].startswith(error) and "\n" not in answer["error"]
    json.dumps(answer)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_a_damaged_image_of_any_format_is_named(handler: EndpointHandler, kind: str):
    options = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    whole = base64.b64decode(encoded(noise(64, 48), kind, **options))
    assert "image_embeds" in handler({"inputs": {"images": [base64.b64encode(whole).decode()]}})
    rng, refused = np.random.default_rng(0), 0
    damaged = [whole[: len(whole) // n] for n in (2, 5, 40)]
    for _ in range(40):
        content = bytearray(whole)
        for position in rng.integers(4, min(len(content), 300), 6):
            content[position] = rng.integers(256)
        damaged.append(bytes(content))
    for content in damaged:  # content that can still be decoded gives an answer
        answer = handler({"inputs": {"images": [encoded(noise(8, 4)), base64.b64encode(content).decode()]}})
        if "error" in answer:
            refused += 1
            assert answer["error"].startswith("inputs.images[1]: ") and "\n" not in answer["error"]
        else:
            assert len(answer["image_embeds"]) == 2
    assert refused


@pytest.mark.parametrize("raised", [IndexError, KeyError, struct.error, ZeroDivisionError, EOFError, RuntimeError])
def test_every_error_of_a_decoder_is_named(handler: EndpointHandler, monkeypatch: pytest.MonkeyPatch, raised):
    def fail(*_args, **_options):
        raise raised("deep inside")

    request = {"inputs": {"images": [encoded(noise(8, 4))]}}
    for target in ("PIL.ImageFile.ImageFile.load", "PIL.Image.open"):
        with monkeypatch.context() as patch:
            patch.setattr(target, fail)
            answer = handler(request)
            assert list(answer) == ["error"]
            assert answer["error"].startswith("inputs.images[0]: truncated or damaged: ")


def test_formats_that_start_other_programs_are_refused(handler: EndpointHandler):
    page = encoded(noise(20, 20), "EPS")
    assert handler({"inputs": {"images": [page]}})["error"].startswith("inputs.images[0]: not an image")


@pytest.mark.slow
def test_only_one_image_is_in_memory_at_full_size(handler: EndpointHandler, monkeypatch: pytest.MonkeyPatch):
    held, most = [], []
    decode = handler.processor.read_image

    def watched(content: bytes) -> Image.Image:
        gc.collect()
        most.append(sum(reference() is not None for reference in held))
        image = decode(content)
        held.append(weakref.ref(image))
        return image

    monkeypatch.setattr(handler.processor, "read_image", watched)
    monkeypatch.setattr(modeling_rogle.release.handler, "BATCH_SIZE", 2)
    images = [encoded(noise(200, 100, seed)) for seed in range(5)]
    rows = handler({"inputs": {"images": images}})["image_embeds"]
    assert most == [0] * 5 and len(rows) == 5
    for row, image in zip(rows, images, strict=True):
        assert row == pytest.approx(handler({"inputs": {"images": image}})["image_embeds"][0], abs=1e-5)


def test_code_in_an_untrusted_folder_is_not_executed(tiny_checkpoint: Path, tmp_path: Path):
    for file in tiny_checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "evil.RogleModel", "AutoConfig": "evil.RogleConfig"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass RogleModel: pass\n")
    assert EndpointHandler(str(tmp_path)).model.config.model_type == "rogle"
    assert not (tmp_path / "ran").exists()


def test_requirements_are_those_of_the_package():
    ours = Path(modeling_rogle.release.__file__).with_name("requirements.txt").read_text().split()
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]["dependencies"]
    assert set(ours) <= set(project) and any(line.startswith("torch>") for line in ours)


def test_what_clients_send_for_feature_extraction_and_sentence_similarity(handler: EndpointHandler):
    rows = handler({"inputs": {"text": TEXTS}})["text_embeds"]
    np.testing.assert_allclose(handler({"inputs": TEXTS}), rows, atol=1e-6)
    np.testing.assert_allclose(handler({"inputs": TEXTS[0]}), rows[:1], atol=1e-6)
    cosines = handler({"inputs": {"source_sentence": TEXTS[0], "sentences": [TEXTS[1], TEXTS[0]]}})
    assert cosines == pytest.approx([float(np.dot(*rows)), 1.0], abs=1e-5)
    image = noise(40, 20)
    expected = handler({"inputs": {"images": [encoded(image)]}})["image_embeds"]
    np.testing.assert_allclose(handler({"inputs": image}), expected, atol=1e-6)


def test_a_request_has_a_budget_of_pixels(handler: EndpointHandler, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(modeling_rogle.release.handler, "MAX_REQUEST_PIXELS", 3_000)
    images = [encoded(noise(40, 30, seed)) for seed in range(5)]
    assert len(handler({"inputs": {"images": images[:2]}})["image_embeds"]) == 2
    read = []
    monkeypatch.setattr(handler, "_resized", lambda image: read.append(image) or torch.zeros(1, 3, 32, 16))
    error = handler({"inputs": {"images": images}})["error"]
    assert error.startswith("inputs.images: over ") and len(read) == 2
