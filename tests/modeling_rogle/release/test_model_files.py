"""The repository of a model: its code, what CLIP's classes can read, and files that may not be released."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPTextModelWithProjection
from transformers.dynamic_module_utils import get_relative_import_files

from modeling_rogle import RogleConfig, RogleModel, RogleProcessor
from modeling_rogle.release.model_files import (
    PACKAGE,
    ReleaseError,
    assemble_adapter,
    assemble_model,
    clip_part,
    code_files,
    is_adapter,
    save_for_hub,
)
from tests.helpers.image_files import write_noise

PUBLIC = {"torch", "transformers", "numpy", "PIL", "huggingface_hub"}
ROOMS_AT_HOME = {"gallery.py", "cli.py", "convert.py", "matching.py", "demo.py", "indexing.py", "manifest.py"}


@pytest.fixture(scope="module")
def model_dir(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release") / "best"
    shutil.copytree(tiny_checkpoint, folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nfrom_pretrained('PATH_OR_NAME')\n")
    return folder


@pytest.fixture(scope="module")
def released(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("released") / "rogle-tiny"
    assemble_model(model_dir, "me/rogle-tiny", folder)
    return folder


def test_the_code_is_flat_and_complete(released: Path):
    names = code_files()
    assert {"configuration_rogle.py", "modeling_rogle.py", "processing_rogle.py", "pipeline_rogle.py"} <= set(names)
    assert not ROOMS_AT_HOME & set(names), "what searches and converts stays at home"
    assert sorted(file.name for file in released.glob("*.py")) == sorted([*names, "handler.py"])
    for name in names:
        text = (released / name).read_text()
        assert text == (PACKAGE / name).read_text()
        assert {Path(file).name for file in get_relative_import_files(released / name)} <= set(names), name
        assert not re.search(r"^\s*(from|import)\s+(modeling_rogle|dataset_pvlg|\.+\w*\.)", text, re.MULTILINE), name


def test_the_code_needs_public_libraries_that_requirements_name(released: Path):
    needed = set()
    for name in (*code_files(), "handler.py"):
        for node in ast.parse((released / name).read_text()).body:
            if isinstance(node, ast.Import):
                needed |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                needed.add(node.module.partition(".")[0])
    foreign = needed - set(__import__("sys").stdlib_module_names)
    assert foreign <= PUBLIC
    listed = re.findall(r"^[a-z_-]+", (released / "requirements.txt").read_text(), re.MULTILINE)
    assert {{"PIL": "pillow"}.get(name, name) for name in foreign} <= set(listed)


def test_with_the_package_no_trust_is_needed(released: Path, tmp_path: Path):
    model, processor = RogleModel.from_pretrained(released), RogleProcessor.from_pretrained(released)
    model.save_pretrained(tmp_path / "again")
    processor.save_pretrained(tmp_path / "again")
    assert RogleModel._auto_class is None and not list((tmp_path / "again").glob("*.py"))
    again = RogleModel.from_pretrained(tmp_path / "again")
    assert torch.equal(again.region_head.logit_scale, model.region_head.logit_scale)


def test_clip_model_reads_a_square_model_without_custom_code(
    tiny_config: RogleConfig, tiny_processor: RogleProcessor, tmp_path: Path
):
    fields = tiny_config.to_dict() | {"image_size": [32, 32]}
    fields["vision_config"]["image_size"] = 64  # that of the original CLIP
    torch.manual_seed(0)
    model = RogleModel(RogleConfig.from_dict(fields)).eval()
    save_for_hub(model, tiny_processor, tmp_path)
    clip, info = CLIPModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    assert set(info["unexpected_keys"]) == {"region_head.logit_scale"}
    tokens = tiny_processor(text=["A man wears a red jacket.", "Black shoes."], return_tensors="pt")
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    ours, theirs = model(pixel_values=pixels, **tokens), clip.eval()(pixel_values=pixels, **tokens)
    torch.testing.assert_close(ours.image_embeds, theirs.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.text_embeds, theirs.text_embeds, atol=1e-5, rtol=0)
    assert "gives the same global embeddings" in clip_part(model.config)
    assert torch.equal(RogleModel.from_pretrained(tmp_path).encode_images(pixels)[0], model.encode_images(pixels)[0])


def test_clip_reads_only_the_text_encoder_of_a_rectangular_model(released: Path):
    model, processor = RogleModel.from_pretrained(released), RogleProcessor.from_pretrained(released)
    assert "cannot read these weights" in clip_part(model.config)
    with pytest.raises(RuntimeError, match="mismatched"):
        CLIPModel.from_pretrained(released)
    text = CLIPTextModelWithProjection.from_pretrained(released).eval()
    tokens = processor(text=["A man wears a red jacket.", "Black shoes."], return_tensors="pt")
    theirs = torch.nn.functional.normalize(text(**tokens).text_embeds, dim=-1)
    torch.testing.assert_close(model.encode_texts(**tokens), theirs, atol=1e-5, rtol=0)


def _bad_weights(folder: Path) -> None:
    torch.save({}, folder / "pytorch_model.bin")


def _hidden_pickle(folder: Path) -> None:
    torch.save({"weight": torch.ones(1)}, folder / "model.safetensors")


def _pickle_of_adapters(folder: Path) -> None:
    (folder / "adapter").mkdir()
    torch.save({}, folder / "adapter" / "adapter_model.bin")


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
        (_hidden_pickle, "model: "),
        (_pickle_of_adapters, "adapter_model.bin: only safetensors weights"),
        (_no_weights, "no safetensors weights"),
        (_no_card, "README.md: no model card"),
        (_plain_clip, "config.json: model_type is 'clip'"),
        (_broken_config, "config.json: not a JSON object"),
        (_weight_out_of_range, "local_weight must lie in [0, 1], not 5.0"),
        (_cut_weights, "model: "),
    ],
)
def test_a_file_that_may_not_be_released_is_named(model_dir: Path, tmp_path: Path, spoil, message: str):
    shutil.copytree(model_dir, tmp_path / "model")
    spoil(tmp_path / "model")
    with pytest.raises(ReleaseError) as caught:
        assemble_model(tmp_path / "model", "me/rogle", tmp_path / "out")
    assert message in str(caught.value) and "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_other_code_in_the_model_folder_is_not_released(model_dir: Path, tmp_path: Path):
    shutil.copytree(model_dir, tmp_path / "model")
    (tmp_path / "model" / "modeling_rogle.py").write_text("raise SystemExit\n")
    (tmp_path / "model" / "evil.py").write_text("")
    assemble_model(tmp_path / "model", "me/rogle", tmp_path / "out")
    assert not (tmp_path / "out" / "evil.py").exists()
    assert (tmp_path / "out" / "modeling_rogle.py").read_text() == (PACKAGE / "modeling_rogle.py").read_text()


def test_a_folder_that_is_not_empty_is_not_overwritten(model_dir: Path, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ReleaseError, match="not an empty folder"):
        assemble_model(model_dir, "me/rogle", tmp_path)
    assert os.listdir(tmp_path) == ["mine.txt"]


@pytest.fixture
def adapter_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file({"base_model.model.a": torch.ones(2)}, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "base_model_name_or_path": "someone/clip"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / "README.md").write_text("[More Information Needed]")
    return folder


def test_adapters_are_released_alone_and_name_their_base(adapter_dir: Path, tmp_path: Path):
    assert is_adapter(adapter_dir)
    assert assemble_adapter(adapter_dir, "me/lora", tmp_path / "a") == "someone/clip"
    assert assemble_adapter(adapter_dir, "me/lora", tmp_path / "b", base="me/rogle", licence="mit") == "me/rogle"
    assert sorted(os.listdir(tmp_path / "b")) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert load_file(tmp_path / "b" / "adapter_model.safetensors")["base_model.model.a"].tolist() == [1, 1]
    assert json.loads((tmp_path / "b" / "adapter_config.json").read_text())["base_model_name_or_path"] == "me/rogle"
    card = (tmp_path / "b" / "README.md").read_text()
    assert "base_model: me/rogle\nlicense: mit" in card and 'PeftModel.from_pretrained(base, "me/lora")' in card
    assert "More Information Needed" not in card


@pytest.mark.parametrize("base", ["runs/small/best/more", "/home/me/model", "rogle", None])
def test_a_local_base_is_refused(adapter_dir: Path, tmp_path: Path, base: str | None):
    settings = {"peft_type": "LORA", "base_model_name_or_path": base}
    (adapter_dir / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(ReleaseError, match="--base user/name"):
        assemble_adapter(adapter_dir, "me/lora", tmp_path / "out")


USER_CODE = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("modeling_rogle", "dataset_pvlg"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NotInstalled())
from transformers import AutoModel, AutoProcessor, pipeline
released, saved = sys.argv[1:]
AutoModel.from_pretrained(released, trust_remote_code=True).save_pretrained(saved)
AutoProcessor.from_pretrained(released, trust_remote_code=True).save_pretrained(saved)
search = pipeline("text-based-person-search", model=saved, trust_remote_code=True)
print(search("a man", [sys.argv[1] + "/x.png"])[0]["index"])
"""


@pytest.mark.slow
def test_a_model_that_a_stranger_saves_again_keeps_its_pipeline(tiny_checkpoint: Path, tmp_path: Path):
    released = tmp_path / "released"
    save_for_hub(RogleModel.from_pretrained(tiny_checkpoint), RogleProcessor.from_pretrained(tiny_checkpoint), released)
    write_noise(released / "x.png")
    environment = os.environ | {"HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", USER_CODE, released, tmp_path / "saved"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0"] and (tmp_path / "saved" / "pipeline_rogle.py").is_file()


def test_sentence_transformers_finds_the_methods_that_it_calls(
    tiny_checkpoint: Path, tiny_processor: RogleProcessor, tmp_path: Path
):
    """The embeddings themselves were compared once with sentence-transformers 6.2, which the tests do not install."""
    model = RogleModel.from_pretrained(tiny_checkpoint).eval()
    save_for_hub(model, tiny_processor, tmp_path)
    assert [module["type"].rpartition(".")[2] for module in json.loads((tmp_path / "modules.json").read_text())] == [
        "Transformer",
        "Normalize",
    ]
    methods = json.loads((tmp_path / "sentence_bert_config.json").read_text())["modality_config"]
    inputs = tiny_processor(text=["A man."], images=Image.new("RGB", (16, 32), "red"), return_tensors="pt")
    texts = getattr(model, methods["text"]["method"])(inputs["input_ids"], inputs["attention_mask"])
    images = getattr(model, methods["image"]["method"])(inputs["pixel_values"])
    for output, method, expected in (
        (texts, methods["text"], model.encode_texts(inputs["input_ids"])),
        (images, methods["image"], model.encode_images(inputs["pixel_values"])[0]),
    ):
        embeds = getattr(output, method["method_output_name"])
        torch.testing.assert_close(torch.nn.functional.normalize(embeds, dim=-1), expected)
