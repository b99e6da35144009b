"""A gallery with an ONNX encoder: the results of the torch model, in a process without torch and transformers."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from modeling_rogle.cli.main import main  # noqa: E402
from modeling_rogle.inference.errors import GalleryError  # noqa: E402
from modeling_rogle.inference.loading import load_model  # noqa: E402
from modeling_rogle.inference.onnx_encoder import OnnxEncoder  # noqa: E402
from modeling_rogle.search.calibration import Calibration, Logistic  # noqa: E402
from modeling_rogle.search.gallery import Gallery  # noqa: E402
from tests.helpers.image_files import QUERY, make_images  # noqa: E402
from tests.helpers.onnx_files import exported_folder  # noqa: E402

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
# Runs searches from a JSON list of keyword arguments, and the command with each list of arguments.
WITHOUT_TORCH = """
import json, sys
sys.modules["torch"] = sys.modules["transformers"] = None
from dataclasses import asdict
from modeling_rogle import Gallery
from modeling_rogle.cli.main import main
from modeling_rogle.display.result_sheet import draw_results
from modeling_rogle.display.text_output import format_table, to_json_data, verdict
from modeling_rogle.inference.onnx_encoder import OnnxEncoder
index, folder, searches, commands, image = sys.argv[1:]
gallery = Gallery.open(index, encoder=OnnxEncoder(folder))
answers = []
for search in json.loads(searches):
    matches = gallery.search(**search)
    format_table(matches)
    answers.append(to_json_data(matches))
draw_results(matches, image, verdict=verdict(matches))
codes = [main(command) for command in json.loads(commands)]
loaded = [name for name in sys.modules if name.split(".")[0] in ("torch", "transformers") and sys.modules[name]]
print(json.dumps([answers, codes, loaded, gallery.delete(["05.png"]), len(gallery)]))
"""


@pytest.fixture(scope="module")
def exported(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_folder(tiny_checkpoint, tmp_path_factory)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def indexed(request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("onnx-gallery")
    tools = load_model(tiny_checkpoint)
    for part, count in (("images", 12), ("images/more", 11)):  # two shards
        make_images(root / part, count)
        Gallery.build(root / "images", *tools, root / "index", progress=False, precision=request.param)
    return root / "index"


def fitted_to(fingerprint: str) -> Calibration:
    logistic = Logistic(("excess",), (0.0,), (1.0,), (2.0,), 0.0)
    return Calibration(fingerprint, 0.5, logistic, logistic, logistic, 0.999999, 0.1, (10, 40), "a test", None, {})


def test_results_equal_those_of_the_torch_model_without_torch(
    indexed: Path, exported: Path, tiny_checkpoint: Path, tmp_path: Path
):
    index = Path(shutil.copytree(indexed, tmp_path / "index"))
    reference = Gallery.open(index, tiny_checkpoint)
    fitted_to(reference.fingerprint).save(index)
    searches = [
        {"query": QUERY, "top_k": 30, "local_weight": 0.0},
        {"query": QUERY, "top_k": 3, "local_weight": 0.4},
        {"query": QUERY, "top_k": 30, "local_weight": 1.0, "reranked": 4},
        {"query": "a bag", "top_k": 30, "local_weight": 0.4, "reranked": 0},
        {"image": str(reference.folder / "04.png")},
        {"query": QUERY, "image": str(reference.folder / "04.png"), "local_weight": 0.3},
        {"query": QUERY, "top_k": 30, "local_weight": 0.5, "where": "width > 22"},
        {"query": QUERY, "top_k": 30, "local_weight": 0.5},
    ]
    search = ["search", QUERY, "--index", str(index), "--onnx", str(exported)]
    commands = [
        [*search, "--json", "--local-weight", "0.5", "--where", "width > 22"],
        [*search, "--int8", "--image", searches[4]["image"], "--save", str(tmp_path / "command.png")],
    ]
    arguments = [str(index), str(exported), json.dumps(searches), json.dumps(commands), str(tmp_path / "results.png")]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    answers, codes, loaded, deleted, remaining = json.loads(done.stdout.splitlines()[-1])
    assert (codes, loaded, deleted, remaining) == ([0, 0], [], 1, 22)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the calibration was fitted with local weight 0.5 alone
        for search, answer in zip(searches, answers, strict=True):
            check_equal(reference, search, answer)
    assert answers[-1]["no_match"] is True and answers[0]["no_match"] is None
    assert '"no_match": true' in done.stdout
    for name in ("results.png", "command.png"):
        assert min(Image.open(tmp_path / name).size) > 100


def check_equal(reference: Gallery, search: dict, answer: dict) -> None:
    """The scores, probabilities and regions are those of the torch model; only close scores may swap ranks."""
    expected = reference.search(**search)
    results = answer["results"]
    assert answer["no_match"] == expected.no_match and len(results) == len(expected)
    scores = [match.score for match in expected]
    np.testing.assert_allclose([result["score"] for result in results], scores, atol=1e-4)
    by_path = {match.path: match for match in expected}
    for result, same_rank in zip(results, expected, strict=True):
        match = by_path.get(result["path"], same_rank)
        assert abs(match.score - same_rank.score) < 2e-4
        assert abs(result["global_score"] - match.global_score) < 1e-4
        assert (result["probability"] is None) == (same_rank.probability is None)
        if same_rank.probability is not None:
            assert abs(result["probability"] - same_rank.probability) < 1e-2
        for ours, theirs in zip(result["sentences"], match.sentences, strict=True):
            assert ours["sentence"] == theirs.sentence and abs(ours["score"] - theirs.score) < 1e-4
            if ours["label"] == theirs.label:
                assert (ours["box"] and tuple(ours["box"])) == theirs.box


def test_an_export_of_another_model_is_refused(indexed: Path, exported: Path, tmp_path: Path):
    encoder = OnnxEncoder(exported)
    encoder.manifest = encoder.manifest | {"fingerprint": "0" * 64}
    with pytest.raises(GalleryError, match="made by another model"):
        Gallery.open(indexed, encoder=encoder)
    with pytest.raises(FileNotFoundError):
        Gallery.open(tmp_path / "nothing", encoder=encoder)


def test_a_damaged_shard_is_named(indexed: Path, exported: Path, tmp_path: Path):
    index = Path(shutil.copytree(indexed, tmp_path / "index"))
    next(index.glob("shard-*/global.npy")).write_bytes(b"nothing")
    with pytest.raises(GalleryError, match="global.npy: missing or damaged"):
        Gallery.open(index, encoder=OnnxEncoder(exported))


@pytest.mark.parametrize("option", ["--model", "--save-map"])
def test_options_that_need_torch_are_refused(option: str, indexed: Path, exported: Path, capsys: pytest.CaptureFixture):
    assert main(["search", QUERY, "--index", str(indexed), "--onnx", str(exported), option, "map.png"]) == 2
    error = capsys.readouterr().err
    assert option in error and error.count("\n") == 1


def test_queries_are_checked_as_with_torch(indexed: Path, exported: Path):
    gallery = Gallery.open(indexed, encoder=OnnxEncoder(exported, int8=True))
    with pytest.raises(GalleryError, match="no words in it"):
        gallery.search(" . ")
    with pytest.warns(UserWarning, match="without a hat"):
        gallery.search("a man without a hat")
    with pytest.warns(UserWarning, match="tokens, the model reads 64"):
        gallery.search("a man in a red jacket. " * 40)


def test_a_query_image_needs_the_image_encoder(indexed: Path, exported: Path, tmp_path: Path):
    folder = Path(shutil.copytree(exported, tmp_path / "text-only"))
    (folder / "image.onnx").unlink()
    gallery = Gallery.open(indexed, encoder=OnnxEncoder(folder))
    assert len(gallery.search(QUERY, top_k=3)) == 3
    with pytest.raises(GalleryError, match="query image: .*text-only has no image encoder"):
        gallery.search(image=gallery.folder / "04.png")


def test_the_calibration_of_the_model_is_exported(tiny_checkpoint: Path, exported: Path, indexed: Path, tmp_path: Path):
    folder = Path(shutil.copytree(exported, tmp_path / "calibrated"))
    fitted_to(OnnxEncoder(folder).fingerprint).save(folder)
    matches = Gallery.open(indexed, encoder=OnnxEncoder(folder)).search(QUERY, local_weight=0.5)
    assert matches.no_match is True and matches[0].probability is not None
