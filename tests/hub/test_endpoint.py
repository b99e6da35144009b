"""The endpoint handler over HTTP, with the calling convention of the toolkit and of huggingface_hub; its latency."""

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import InferenceClient, constants
from PIL import Image

from hub.endpoint import load_handler, main, measure, respond
from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.release.model_files import save_for_hub

LABELS = ["A man wears a red jacket.", "The woman carries a blue bag.", "Black shoes."]


@pytest.fixture(scope="module")
def released(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("endpoint") / "rogle"
    model, processor = RogleModel.from_pretrained(tiny_checkpoint), RogleProcessor.from_pretrained(tiny_checkpoint)
    save_for_hub(model, processor, folder)
    return folder


@pytest.fixture(scope="module")
def handler(released: Path):
    loaded = load_handler(released)
    assert not list(released.rglob("*.pyc")), "a release that has run here is still what its checksums say"
    return loaded


@pytest.fixture(scope="module")
def image() -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((20, 44), 80).convert("RGB").save(stream, "PNG")
    return stream.getvalue()


def expected(released: Path, image: bytes) -> dict[str, float]:
    model, processor = RogleModel.from_pretrained(released), RogleProcessor.from_pretrained(released)
    images, _ = model.encode_images(**processor(images=[Image.open(io.BytesIO(image))], return_tensors="pt"))
    texts = model.encode_texts(**processor(text=LABELS, return_tensors="pt"))
    shares = (model.logit_scale.exp() * texts @ images[0]).softmax(-1)
    return dict(zip(LABELS, shares.tolist(), strict=True))


def ask(handler, request: object, **options) -> tuple[int, object]:
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    status, answer = respond(handler, body, **options)
    return status, json.loads(answer)


def test_text_image_both_and_a_batch(handler, image: bytes):
    encoded = base64.b64encode(image).decode()
    assert set(ask(handler, {"inputs": {"text": LABELS[0]}})[1]) == {"text_embeds"}
    assert set(ask(handler, {"inputs": {"images": encoded}})[1]) == {"image_embeds"}
    status, both = ask(handler, {"inputs": {"text": LABELS, "images": [encoded] * 5}})
    assert status == 200 and torch.tensor(both["similarity"]).shape == (3, 5)


def test_labels_for_the_client_of_the_hub(handler, released: Path, image: bytes, monkeypatch):
    class Service(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # noqa: N802  name of the base class
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, answer = respond(handler, body, self.headers["Content-Type"])
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    try:
        client = InferenceClient(model=f"http://127.0.0.1:{server.server_port}", token="hf_none")
        labels = client.zero_shot_image_classification(image, candidate_labels=LABELS, hypothesis_template="{}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert {item.label: item.score for item in labels} == pytest.approx(expected(released, image), abs=1e-5)
    assert [item.score for item in labels] == sorted((item.score for item in labels), reverse=True)


def test_an_image_as_the_body_is_decoded_by_the_toolkit(handler, released: Path, image: bytes):
    labels = handler({"inputs": Image.open(io.BytesIO(image)), "parameters": {"candidate_labels": LABELS}})
    assert {item["label"]: item["score"] for item in labels} == pytest.approx(expected(released, image), abs=1e-5)
    status, answer = ask(handler, image, content_type="image/png")
    assert status == 200 and np.array(answer).shape[0] == 1
    query = {"inputs": Image.open(io.BytesIO(image)), "parameters": {"candidate_labels": "Black shoes., A hat"}}
    assert {item["label"] for item in handler(query)} == {"Black shoes.", "A hat"}


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (b"{", "Expecting"),
        ({"text": "a man"}, "Body needs to provide a inputs key"),
        ({"inputs": "", "parameters": {"candidate_labels": ["a"]}}, "inputs: must be one image in base64"),
        ({"inputs": "???", "parameters": {"candidate_labels": ["a"]}}, "inputs: not base64"),
        ({"inputs": "QUJD", "parameters": {"candidate_labels": ["a"]}}, "inputs: not an image"),
        ({"inputs": "QUJD", "parameters": {"candidate_labels": []}}, "parameters.candidate_labels: is empty"),
        (
            {"inputs": "QUJD", "parameters": {"candidate_labels": [3]}},
            "parameters.candidate_labels[0]: must be a string",
        ),
        (
            {"inputs": "QUJD", "parameters": {"candidate_labels": ["a"] * 257}},
            "parameters.candidate_labels: 257 entries",
        ),
        (
            {"inputs": "QUJD", "parameters": {"candidate_labels": ["a"], "hypothesis_template": "no place"}},
            "parameters.hypothesis_template: must be a text",
        ),
    ],
)
def test_errors_are_json_of_one_line(handler, request_, error: str):
    _, answer = ask(handler, request_)
    assert list(answer) == ["error"] and answer["error"].startswith(error) and "\n" not in answer["error"]


def test_latency_of_every_kind_of_request(handler, released: Path, capsys: pytest.CaptureFixture[str]):
    times = measure(handler, 3)
    assert list(times)[:3] == ["one text", "one image", "text and image"]
    assert all(0 < median <= most for median, most in times.values())
    with pytest.raises(ValueError, match="one text: "):
        measure(lambda request: {"error": "out of order"}, 1)
    assert main([str(released), "--requests", "0"]) == 2
    assert main([str(released / "nowhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 2
