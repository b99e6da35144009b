"""The same results as the gallery's own search, in a process where neither torch nor transformers can be imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from modeling_rogle.inference.onnx_encoder import OnnxError, OnnxTowers  # noqa: E402
from modeling_rogle.search.gallery import Gallery, GalleryError, load_model  # noqa: E402
from modeling_rogle.search.onnx_search import Found, OnnxGallery, as_plain, as_table  # noqa: E402
from tests.helpers.onnx_files import exported_folder  # noqa: E402
from tests.modeling_rogle.search.test_gallery import QUERY, make_images  # noqa: E402

# The `rogle` command's package: without its name in argv the package registers itself with transformers.
ALONE = """
import json, sys
sys.modules["torch"] = sys.modules["transformers"] = None
sys.argv[0] = "rogle"
from modeling_rogle.search.onnx_search import OnnxGallery, as_plain
from modeling_rogle.inference.onnx_encoder import OnnxTowers
gallery = OnnxGallery(sys.argv[1], OnnxTowers(sys.argv[2]))
found = [as_plain(gallery.search(*asked)) for asked in json.loads(sys.argv[3])]
loaded = [name for name in sys.modules if name.split(".")[0] in ("torch", "transformers") and sys.modules[name]]
print(json.dumps([found, loaded]))
"""


@pytest.fixture(scope="module")
def exported(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_folder(tiny_checkpoint, tmp_path_factory)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def indexed(request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("onnx-gallery")
    tools = load_model(tiny_checkpoint)
    for part, count in (("pictures", 6), ("pictures/more", 5)):  # two shards
        make_images(root / part, count)
        Gallery.build(root / "pictures", *tools, root / "index", progress=False, precision=request.param)
    return root / "index"


def test_results_equal_the_gallerys_without_torch(indexed: Path, exported: Path, tiny_checkpoint: Path):
    asked = [(QUERY, 20, 0.0), (QUERY, 3, 0.4), (QUERY, 20, 1.0, 4), ("a bag", 20, 0.5, 0)]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, indexed, exported, json.dumps(asked)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert done.returncode == 0, done.stderr
    answers, loaded = json.loads(done.stdout)
    assert not loaded
    gallery = Gallery.open(indexed, tiny_checkpoint)
    for (query, top_k, weight, *reranked), found in zip(asked, answers, strict=True):
        expected = gallery.search(query, top_k, weight, *reranked)
        scores = np.array([match.score for match in expected])
        np.testing.assert_allclose([one["score"] for one in found], scores, atol=1e-4)
        by_path = {match.path: match for match in expected}
        for one, place in zip(found, expected, strict=True):
            same = by_path.get(one["path"], place)
            assert abs(same.score - place.score) < 2e-4  # another order only among equals
            assert abs(one["global_score"] - same.global_score) < 1e-4
            for ours, theirs in zip(one["sentences"], same.sentences, strict=True):
                assert ours["sentence"] == theirs.sentence and abs(ours["score"] - theirs.score) < 1e-4
                if ours["label"] == theirs.label:
                    assert (ours["box"] and tuple(ours["box"])) == theirs.box


def test_refusals(indexed: Path, exported: Path, tmp_path: Path):
    towers = OnnxTowers(exported)
    gallery = OnnxGallery(indexed, towers)
    assert len(gallery) == 11
    with pytest.raises(GalleryError, match="no words in it"):
        gallery.search(" . ")
    with pytest.raises(GalleryError, match="top-k 0"):
        gallery.search("a man", top_k=0)
    with pytest.warns(UserWarning, match="without a hat"):
        gallery.search("a man without a hat")
    with pytest.warns(UserWarning, match="tokens, the model reads 64"):
        gallery.search("a man in a red jacket. " * 40)
    towers.about = towers.about | {"fingerprint": "0" * 64}
    with pytest.raises(OnnxError, match="made by another model"):
        OnnxGallery(indexed, towers)
    with pytest.raises(FileNotFoundError):
        OnnxGallery(tmp_path / "nothing", towers)


def test_a_damaged_shard_is_named(indexed: Path, exported: Path, tmp_path: Path):
    import shutil

    copy = Path(shutil.copytree(indexed, tmp_path / "index"))
    next(copy.glob("shard-*/global.npy")).write_bytes(b"nothing")
    with pytest.raises(GalleryError, match="global.npy: missing or damaged"):
        OnnxGallery(copy, OnnxTowers(exported))


def test_the_table_names_sentences_and_regions(indexed: Path, exported: Path):
    found = OnnxGallery(indexed, OnnxTowers(exported, int8=True)).search(QUERY, 2)
    lines = as_table(found).splitlines()
    assert lines[0] == "[1] A man wears a red jacket." and len(lines) == 6 and found[0].path in lines[4]
    assert json.loads(json.dumps(as_plain(found)))[0]["rank"] == 1


def test_the_table_escapes_what_a_terminal_would_obey():
    evil = Found(1, "a\x1b[2J\nb.jpg", 0.5, 0.5, ())
    lines = as_table([evil]).splitlines()
    assert len(lines) == 3 and r"a\x1b[2J\nb.jpg" in lines[2] and "\x1b" not in lines[2]
