"""`rogle push`: a model, or adapters, in one repository with a list of its files."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from modeling_rogle import RogleModel
from modeling_rogle.release.checksums import NAME, verify
from modeling_rogle.release.push import push_model
from modeling_rogle.release.upload import ReleaseError
from tests.helpers.hub_server import as_user, hub_server, in_this_process

ROOT = Path(__file__).parents[3]


@pytest.fixture
def model_dir(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "best"
    shutil.copytree(tiny_checkpoint, folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nfrom_pretrained('PATH_OR_NAME')\n")
    return folder


def test_a_push_uploads_the_files_of_the_dry_run(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    *files, digest, summary = push_model(model_dir, "me/rogle", dry_run=True)
    assert summary == f"dry run: {len(files)} files would be pushed to me/rogle"
    with hub_server() as hub:
        in_this_process(hub, monkeypatch)
        lines = push_model(model_dir, "me/rogle", private=True)
        pushed = hub.files("model", "me/rogle")
        assert hub.private["model", "me/rogle"] and hub.url in lines[-1]
    assert lines[:-1] == [*files, digest], "the same bytes, every time"
    assert {line.split()[0] for line in files} == set(pushed)
    for name, content in pushed.items():
        (tmp_path / "down" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "down" / name).write_bytes(content)
    assert digest == f"digest of {NAME}: {digest.rpartition(' ')[2]}"
    verify(tmp_path / "down", digest.rpartition(" ")[2])
    assert {"handler.py", "modeling_rogle.py", "model.safetensors", "processor_config.json"} <= set(pushed)
    card = pushed["README.md"].decode()
    assert "from_pretrained('me/rogle')" in card and "## Verifying a download" in card
    config = json.loads(pushed["config.json"])
    assert set(config["auto_map"]) == {"AutoConfig", "AutoModel", "AutoModelForZeroShotImageClassification"}
    one, two = RogleModel.from_pretrained(model_dir), RogleModel.from_pretrained(tmp_path / "down")
    assert all(torch.equal(two.state_dict()[key], value) for key, value in one.state_dict().items())


def test_adapters_are_pushed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file({"a": torch.ones(2)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "best"}')
    with pytest.raises(ReleaseError, match="'best'.* --base user/name"):
        push_model(folder, "me/lora", dry_run=True)
    with hub_server() as hub:
        in_this_process(hub, monkeypatch)
        push_model(folder, "me/lora", base="me/rogle")
        pushed = hub.files("model", "me/lora")
    assert set(pushed) == {"README.md", NAME, "adapter_config.json", "adapter_model.safetensors"}
    assert json.loads(pushed["adapter_config.json"])["base_model_name_or_path"] == "me/rogle"


def test_a_refused_push_is_one_line(model_dir: Path, tmp_path: Path):
    with pytest.raises(ReleaseError, match="rogle: must be user/name"):
        push_model(model_dir, "rogle")
    with pytest.raises(ReleaseError, match="--base"):
        push_model(model_dir, "me/rogle", base="me/base")
    with pytest.raises(ReleaseError, match="nowhere: no config.json in this folder"):
        push_model(tmp_path / "nowhere", "me/rogle")
    with pytest.raises(ReleaseError, match="not pushed: .*offline mode"):  # the tests run offline
        push_model(model_dir, "me/rogle")


OWN_METHOD = """
import sys
from modeling_rogle import RogleModel

model = RogleModel.from_pretrained(sys.argv[1])
model.push_to_hub("me/own")
assert RogleModel._auto_class is None and getattr(model.config, "auto_map", None) is None
"""


@pytest.mark.slow
def test_push_to_hub_of_a_model_includes_its_code(tiny_checkpoint: Path, tmp_path: Path):
    with hub_server() as hub:  # a separate process: libraries read the address of the Hub at import
        command = [sys.executable, "-c", OWN_METHOD, str(tiny_checkpoint)]
        done = subprocess.run(command, env=as_user(hub, tmp_path), cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        pushed = hub.files("model", "me/own")
    assert {"config.json", "model.safetensors", "modeling_rogle.py", "losses.py"} <= set(pushed)
    assert json.loads(pushed["config.json"])["auto_map"]["AutoModel"] == "modeling_rogle.RogleModel"


@pytest.mark.slow
def test_a_dry_run_of_the_command_leaves_no_file(model_dir: Path, tmp_path: Path):
    temporary, current = tmp_path / "temporary", tmp_path / "current"
    temporary.mkdir()
    current.mkdir()
    code = "import sys; sys.argv[0] = 'rogle'; from modeling_rogle.cli.main import main; sys.exit(main())"
    arguments = ["push", str(model_dir), "me/rogle", "--dry-run", "--parts", "model"]
    environment = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    environment |= {"TMPDIR": str(temporary), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=current, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and "dry run: " in done.stdout, done.stderr
    assert not list(temporary.iterdir()) and not list(current.iterdir())
