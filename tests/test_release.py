"""What hub/release.py assembles loads for a stranger who has nothing of ours, and what it refuses or pushes."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import release
import torch
from hub_stand_in import hub_stand_in
from PIL import Image
from transformers.dynamic_module_utils import get_relative_import_files

from modeling_rogle import RogleModel, RogleProcessor

TEXTS = ["A man wears a red jacket and black pants.", "The woman has long brown hair. She carries a blue bag."]
ROOT = Path(__file__).parents[1]
# The package may be installed in this environment too: whoever imports it is told that it is not there.
STRANGER = """
import importlib.util, json, sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("modeling_rogle", "dataset_pvlg"):
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Nothing())
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor, pipeline
folder, picture = sys.argv[1:3]
texts = json.loads(sys.argv[3])
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
image = Image.open(picture)
pixels = processor(images=[image], return_tensors="pt")["pixel_values"]
boxes = torch.from_numpy(processor.normalize_boxes([[1, 2, 10, 20]], *image.size))
images, regions = model.encode_images(pixels, boxes, torch.zeros(1, dtype=torch.long))
encoded = model.encode_texts(**processor(text=texts, return_tensors="pt"))
search = pipeline("text-based-person-search", model=folder, trust_remote_code=True)
labels = pipeline("zero-shot-image-classification", model=folder, trust_remote_code=True)
# As the endpoint's toolkit does it: the folder on the path, handler.py as a module of its own.
sys.path.insert(0, folder)
spec = importlib.util.spec_from_file_location("handler", f"{folder}/handler.py")
handler = importlib.util.module_from_spec(spec)
spec.loader.exec_module(handler)
found = {
    "endpoint": handler.EndpointHandler(folder)({"inputs": {"text": texts}})["text_embeds"],
    "images": images.tolist(),
    "regions": regions.tolist(),
    "texts": encoded.tolist(),
    "search": search(texts[0], candidates=[picture])[0]["global_score"],
    "labels": {item["label"]: item["score"] for item in labels(picture, texts, hypothesis_template="{}")},
}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def model_dir(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release") / "best"
    shutil.copytree(tiny_checkpoint, folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nfrom_pretrained('PATH_OR_NAME')\n")
    return folder


@pytest.fixture(scope="module")
def released(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("released") / "rogle-tiny"
    release.assemble(model_dir, "me/rogle-tiny", folder)
    return folder


def stranger(code: str, cwd: Path, *arguments: str) -> dict:
    """Runs code from an empty folder, with caches of its own."""
    home = {"HF_HOME": str(cwd / "home"), "HF_MODULES_CACHE": str(cwd / "modules")}
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | home
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_loads_without_the_package_and_gives_equal_outputs(released: Path, model_dir: Path, tmp_path: Path):
    picture = tmp_path / "person.png"
    Image.effect_noise((20, 44), 80).convert("RGB").save(picture)
    found = stranger(STRANGER, tmp_path, str(released), str(picture), json.dumps(TEXTS))

    model, processor = RogleModel.from_pretrained(model_dir), RogleProcessor.from_pretrained(model_dir)
    image = Image.open(picture)
    boxes = torch.from_numpy(processor.normalize_boxes([[1, 2, 10, 20]], *image.size))
    pixels = processor(images=[image], return_tensors="pt")["pixel_values"]
    images, regions = model.encode_images(pixels, boxes, torch.zeros(1, dtype=torch.long))
    texts = model.encode_texts(**processor(text=TEXTS, return_tensors="pt"))
    assert torch.equal(torch.tensor(found["images"]), images)
    assert torch.equal(torch.tensor(found["regions"]), regions)
    assert torch.equal(torch.tensor(found["texts"]), texts)
    torch.testing.assert_close(torch.tensor(found["endpoint"]), texts)
    assert found["search"] == pytest.approx(float(images[0] @ texts[0]), abs=1e-5)
    shares = (model.logit_scale.exp() * images @ texts.T).softmax(-1)[0].tolist()
    assert [found["labels"][text] for text in TEXTS] == pytest.approx(shares, abs=1e-4)


def test_code_files_are_the_flat_ones_and_all_that_they_import(released: Path):
    assert sorted(file.name for file in released.glob("*.py")) == [
        "activations.py",
        "configuration_rogle.py",
        "dense.py",
        "handler.py",
        "losses.py",
        "modeling_rogle.py",
        "packing.py",
        "pipeline_rogle.py",
        "positions.py",
        "processing_rogle.py",
        "regions.py",
        "reliability.py",
        "sentences.py",
    ]
    for name in release.CODE_FILES:
        needed = {Path(file).name for file in get_relative_import_files(released / name)}
        assert needed <= set(release.CODE_FILES), f"{name} imports what does not travel"
        text = (released / name).read_text()
        assert not re.search(r"^\s*(from|import)\s+(modeling_rogle|dataset_pvlg|\.+\w*\.)", text, re.MULTILINE), name
        assert text == (release.PACKAGE / name).read_text()


def test_with_the_package_no_trust_is_needed_and_nothing_is_registered(released: Path, tmp_path: Path):
    model, processor = RogleModel.from_pretrained(released), RogleProcessor.from_pretrained(released)
    model.save_pretrained(tmp_path / "again")
    processor.save_pretrained(tmp_path / "again")
    assert RogleModel._auto_class is None and not list((tmp_path / "again").glob("*.py"))
    assert torch.equal(
        RogleModel.from_pretrained(tmp_path / "again").region_head.logit_scale, model.region_head.logit_scale
    )


def test_dry_run_prints_sizes_and_hashes_and_is_the_default(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "kept"
    assert release.main([str(model_dir), "me/rogle-tiny", "--out", str(out)]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    listed = {name: (int(size.replace(",", "")), digest) for name, size, digest in (line.split() for line in lines)}
    assert sorted(listed) == sorted(os.listdir(out))
    assert {"README.md", "config.json", "model.safetensors", "requirements.txt", "tokenizer.json"} <= set(listed)
    for name, (size, digest) in listed.items():
        content = (out / name).read_bytes()
        assert (size, digest) == (len(content), hashlib.sha256(content).hexdigest())
    assert last.startswith(f"dry run: {len(lines)} files") and "me/rogle-tiny" in last
    assert "from_pretrained('me/rogle-tiny')" in (out / "README.md").read_text()


def _bad_weights(folder: Path) -> None:
    torch.save({}, folder / "pytorch_model.bin")


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _no_card(folder: Path) -> None:
    (folder / "README.md").unlink()


def _plain_clip(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "clip"}')


def _broken_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type"')


def _weight_out_of_range(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text()) | {"local_weight": 5.0}
    (folder / "config.json").write_text(json.dumps(config))


def _cut_weights(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 5000)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_bad_weights, "pytorch_model.bin: only safetensors weights"),
        (_no_weights, "no safetensors weights there"),
        (_no_card, "README.md: no model card"),
        (_plain_clip, "config.json: model_type is 'clip'"),
        (_broken_config, "config.json: not a JSON object"),
        (_weight_out_of_range, "local_weight must lie in [0, 1], not 5.0"),
        (_cut_weights, "model: "),
    ],
)
def test_what_may_not_be_released_is_named_in_one_line(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil, message: str
):
    shutil.copytree(model_dir, tmp_path / "model")
    spoil(tmp_path / "model")
    assert release.main([str(tmp_path / "model"), "me/rogle", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["rogle", "me/rogle/tiny", "me/ro gle"])
def test_a_name_that_the_hub_does_not_take(model_dir: Path, capsys: pytest.CaptureFixture[str], name: str):
    assert release.main([str(model_dir), name]) == 2
    assert capsys.readouterr().err.startswith(f"hub/release.py: {name}: ")


def test_a_folder_with_something_in_it_is_not_overwritten(model_dir: Path, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(release.ReleaseError, match="nothing is overwritten"):
        release.assemble(model_dir, "me/rogle", tmp_path)
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_push_uploads_what_the_dry_run_printed(model_dir: Path, released: Path, tmp_path: Path):
    with hub_stand_in() as hub:
        settings = {
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": "hf_stand_in_token",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / "home"),
        }
        command = [sys.executable, str(ROOT / "hub" / "release.py"), str(model_dir), "me/rogle-tiny", "--push"]
        environment = os.environ | settings | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [*command, "--private"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert hub.private == {"me/rogle-tiny": True} and "Bearer hf_stand_in_token" in hub.tokens
        pushed = {path: content for path, content in hub.repos["me/rogle-tiny"].items() if path != ".gitattributes"}
        assert pushed == {file.name: file.read_bytes() for file in released.iterdir() if file.is_file()}
        assert "hf_stand_in_token" not in done.stdout + done.stderr
        assert hub.url in done.stdout.splitlines()[-1]


def test_a_hub_out_of_reach_is_one_line(model_dir: Path, capsys: pytest.CaptureFixture[str]):
    assert release.main([str(model_dir), "me/rogle-tiny", "--push"]) == 2  # the tests run with HF_HUB_OFFLINE=1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("hub/release.py: me/rogle-tiny: not pushed: ") and "offline mode" in error


def test_what_python_leaves_behind_is_not_released(tmp_path: Path):
    (tmp_path / "code.py").write_text("")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "code.pyc").write_bytes(b"")
    assert [file.path for file in release.manifest(tmp_path)] == ["code.py"]
