"""hub/release.py end to end: a model is trained, released, and loaded by a process without this package."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import pipeline

import dataset_pvlg  # noqa: F401  makes "pvlg" known
from dataset_pvlg.loading import load_rows
from eval.eval import main as evaluate_main
from hub import release
from hub.data_files import DataRelease
from hub.release import PARTS, assemble, names_of, push
from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.pipeline_rogle import TASK
from modeling_rogle.release.checksums import verify, write_checksums
from modeling_rogle.release.push import push_model
from modeling_rogle.release.upload import ReleaseError
from tests.helpers.hub_server import HubServer, as_user, hub_server, in_this_process
from train.lora import load_adapters
from train.train import main as train

pytestmark = pytest.mark.slow

TEXTS = ["A man wears a red jacket and black pants.", "The woman has long brown hair. She carries a blue bag."]
OURS = ("rogle", "modeling_rogle", "dataset_pvlg", "__editable__")
USER_CODE = """
import importlib.util, json, sys
for name in ("modeling_rogle", "dataset_pvlg", "ranking", "train"):
    assert importlib.util.find_spec(name) is None, name
from pathlib import Path
import evaluate, torch
from datasets import load_dataset
from huggingface_hub import snapshot_download
from peft import PeftModel
from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor, pipeline

texts, output = json.loads(sys.argv[1]), {}
assert AutoConfig.from_pretrained("me/rogle-tiny", trust_remote_code=True).model_type == "rogle"
model = AutoModel.from_pretrained("me/rogle-tiny", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("me/rogle-tiny", trust_remote_code=True)
zero = AutoModelForZeroShotImageClassification.from_pretrained("me/rogle-tiny", trust_remote_code=True)
assert type(zero) is type(model) and type(model).__module__.startswith("transformers_modules.")
torch.set_num_threads(1)

rows = load_dataset("me/pvlg", split="test")
output["rows"] = [{**row, "image": [row["image"].size, sum(row["image"].tobytes())]} for row in rows]
output["streamed"] = [row["image_id"] for row in load_dataset("me/pvlg", split="test", streaming=True)]
crops = [row["image"].convert("RGB") for row in rows]
pixels = processor(images=crops, return_tensors="pt")["pixel_values"]
boxes = torch.tensor([[0.1, 0.1, 0.9, 0.5]] * len(rows))
images, regions = model.encode_images(pixels, boxes, torch.arange(len(rows)))
captions = model.encode_texts(**processor(text=rows["caption"][:], return_tensors="pt"))
encoded = model.encode_texts(**processor(text=texts, return_tensors="pt"))
output |= {"images": images.tolist(), "regions": regions.tolist(), "texts": encoded.tolist()}

metric = evaluate.load("me/pvlg", "global")
output["scores"] = metric.compute(predictions=captions.numpy(), references=rows["person_id"][:],
                                 gallery_embeds=images.numpy(), gallery_ids=rows["person_id"][:])

labels = pipeline("zero-shot-image-classification", model="me/rogle-tiny", trust_remote_code=True)
output["labels"] = {i["label"]: i["score"] for i in labels(crops[0], texts, hypothesis_template="{}")}
search = pipeline("text-based-person-search", model="me/rogle-tiny", trust_remote_code=True)
output["search"] = search(texts[0], candidates=crops[:1])[0]["global_score"]

base = AutoModel.from_pretrained("me/base", trust_remote_code=True)
adapted = PeftModel.from_pretrained(base, "me/rogle-tiny-lora").merge_and_unload()
output["adapted"] = adapted.encode_texts(**processor(text=texts, return_tensors="pt")).tolist()

folder = snapshot_download("me/rogle-tiny")
sys.path.insert(0, folder)
spec = importlib.util.spec_from_file_location("handler.EndpointHandler", f"{folder}/handler.py")
handler = importlib.util.module_from_spec(spec)
spec.loader.exec_module(handler)
output["endpoint"] = handler.EndpointHandler(folder)({"inputs": {"text": texts}})["text_embeds"]

space = Path(snapshot_download("me/rogle-tiny-demo", repo_type="space"))
spec = importlib.util.spec_from_file_location("space_app", space / "app.py")
app = importlib.util.module_from_spec(spec)
sys.modules["space_app"] = app
spec.loader.exec_module(app)
output["demo"] = [item.file for item in app.Search(space)(texts[0], 3)]
print(json.dumps(output))
"""


@dataclass
class World:
    """A release on the local server, its sources, and the output of the user's process."""

    hub: HubServer
    best: Path
    base: Path
    evaluation: dict
    printed: str
    output: dict
    home: Path


def public_python(folder: Path) -> Path:
    """The interpreter of a new virtual environment with links to the public libraries of this one.

    Installing the libraries would need a package index. This package is not linked, and neither are .pth files, which
    an editable install adds.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    for origin in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(origin).iterdir():
            if not entry.name.startswith(OURS) and entry.suffix not in (".pth", ".egg-link"):
                (site / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def trained(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A trained model with adapters, the model that it started from, and its evaluation."""
    root = tmp_path_factory.mktemp("trained")
    base = root / "base"
    shutil.copytree(tiny_checkpoint, base)
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\nfrom_pretrained('PATH_OR_NAME')\n")
    train([
        "--dataset", "synthetic-tiny", "--model", str(base), "--out", str(root / "run"), "--epochs", "1",
        "--batch-size", "16", "--threads", "1", "--trackers", "none", "--lora-rank", "2", "--learning-rate", "1e-2",
    ])  # fmt: skip
    best, scored = root / "run" / "best", root / "eval"
    arguments = ["--model", str(best), "--dataset", "synthetic-tiny", "--out", str(scored), "--threads", "1"]
    assert evaluate_main([*arguments, "--bootstrap", "0", "--failures", "0"]) == 0
    return best, base, scored


@pytest.fixture(scope="module")
def world(trained: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory):
    best, base, scored = trained
    home = tmp_path_factory.mktemp("user")
    with hub_server() as hub:
        with pytest.MonkeyPatch.context() as patch, (home / "printed").open("w") as stream:
            in_this_process(hub, patch)
            push_model(base, "me/base")
            patch.setattr(sys, "stdout", stream)
            arguments = [str(best), "me/rogle-tiny", "--push", "--eval", str(scored), "--base", "me/base"]
            assert release.main([*arguments, "--data", "synthetic-tiny"]) == 0
        done = subprocess.run(
            [str(public_python(home / "venv")), "-I", "-c", USER_CODE, json.dumps(TEXTS)],
            cwd=home, env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", **as_user(hub, home, token=None)},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
        output = json.loads(done.stdout.splitlines()[-1])
        evaluation = json.loads((scored / "results.json").read_text())
        yield World(hub, best, base, evaluation, (home / "printed").read_text(), output, home)


def test_a_user_gets_the_embeddings_of_the_model(world: World):
    model, processor = RogleModel.from_pretrained(world.best), RogleProcessor.from_pretrained(world.best)
    rows = load_rows("synthetic-tiny")[0]["test"]
    pixels = processor(images=[image.convert("RGB") for image in rows["image"]], return_tensors="pt")["pixel_values"]
    boxes = torch.tensor([[0.1, 0.1, 0.9, 0.5]] * len(rows))
    images, regions = model.encode_images(pixels, boxes, torch.arange(len(rows)))
    texts = model.encode_texts(**processor(text=TEXTS, return_tensors="pt"))
    assert torch.equal(torch.tensor(world.output["images"]), images)
    assert torch.equal(torch.tensor(world.output["regions"]), regions)
    assert torch.equal(torch.tensor(world.output["texts"]), texts)
    torch.testing.assert_close(torch.tensor(world.output["endpoint"]), texts)
    search = pipeline(TASK, model=str(world.best), device="cpu")
    found = search(TEXTS[0], candidates=[rows[0]["image"].convert("RGB")])[0]["global_score"]
    assert world.output["search"] == pytest.approx(found, abs=1e-5)
    shares = (model.logit_scale.exp() * images @ texts.T).softmax(-1)[0].tolist()
    assert [world.output["labels"][text] for text in TEXTS] == pytest.approx(shares, abs=1e-4)


def test_a_user_gets_the_rows_and_the_scores_of_the_card(world: World):
    rows = load_rows("synthetic-tiny")[0]["test"]
    own = [{**row, "image": [list(row["image"].size), sum(row["image"].tobytes())]} for row in rows]
    assert world.output["rows"] == json.loads(json.dumps(own))
    assert world.output["streamed"] == rows["image_id"][:]
    published = ModelCard(world.hub.files("model", "me/rogle-tiny")["README.md"].decode()).data.eval_results
    on_card = {entry.metric_type: entry.metric_value for entry in published if entry.dataset_config == "synthetic-tiny"}
    for name in ("R@1", "R@5", "mAP", "mINP"):
        measured = world.evaluation["results"][f"global/long/{name}"]
        assert world.output["scores"][name] == pytest.approx(measured, abs=1e-9), name
        assert on_card[f"global/long/{name}"] == round(measured, 2)


def test_the_adapters_give_the_merged_model(world: World):
    merged, processor = RogleModel.from_pretrained(world.best), RogleProcessor.from_pretrained(world.best)
    texts = merged.encode_texts(**processor(text=TEXTS, return_tensors="pt"))
    torch.testing.assert_close(torch.tensor(world.output["adapted"]), texts, atol=1e-5, rtol=0)
    ours = load_adapters(world.base, world.best / "adapter").eval()
    torch.testing.assert_close(
        ours.encode_texts(**processor(text=TEXTS, return_tensors="pt")), texts, atol=1e-5, rtol=0
    )
    started = RogleModel.from_pretrained(world.base).encode_texts(**processor(text=TEXTS, return_tensors="pt"))
    assert not torch.allclose(started, texts, atol=1e-3), "training changed the model"
    assert "model.safetensors" not in world.hub.files("model", "me/rogle-tiny-lora")


def test_the_demo_loads_the_released_commit(world: World):
    commit = world.hub.repos["model", "me/rogle-tiny"][-1][0]
    assert json.loads(world.hub.files("space", "me/rogle-tiny-demo")["model.json"])["revision"] == commit
    gallery = {
        name.partition("/")[2] for name in world.hub.files("space", "me/rogle-tiny-demo") if name.endswith(".jpg")
    }
    assert len(world.output["demo"]) == 3 and set(world.output["demo"]) <= gallery


def test_with_the_package_no_trust_is_needed(world: World, monkeypatch: pytest.MonkeyPatch):
    from transformers import AutoModel, AutoProcessor

    in_this_process(world.hub, monkeypatch)
    model = AutoModel.from_pretrained("me/rogle-tiny", cache_dir=world.home / "ours")
    processor = AutoProcessor.from_pretrained("me/rogle-tiny", cache_dir=world.home / "ours")
    assert type(model) is RogleModel and type(processor) is RogleProcessor
    texts = model.encode_texts(**processor(text=TEXTS, return_tensors="pt"))
    assert torch.equal(torch.tensor(world.output["texts"]), texts)


def test_the_card_reports_the_measurements(world: World):
    files = world.hub.files("model", "me/rogle-tiny")
    card = ModelCard(files["README.md"].decode())
    data = card.data
    assert (data.library_name, data.pipeline_tag, data.language) == (
        "transformers",
        "zero-shot-image-classification",
        "en",
    )
    assert data.license and data.datasets == ["me/pvlg"] and data.model_name == "rogle-tiny"
    for part in ("Training data and licence", "Intended use and limits", "English only", "Scores by attribute"):
        assert part in card.text
    assert str(world.best) not in str(card) and str(world.base) not in str(card)
    for entry in data.widget:
        assert entry["src"].rpartition("/resolve/main/")[2] in files
        assert sum(item["score"] for item in entry["output"]) == pytest.approx(1, abs=1e-3)
    assert ".eval_results/pvlg.yaml" in files
    assert "hf_token_of_a_test" not in world.printed and world.printed.count("pushed: ") == 5
    for kind, name in (("model", "rogle-tiny"), ("dataset", "pvlg"), ("space", "pvlg"), ("space", "rogle-tiny-demo")):
        files, folder = world.hub.files(kind, f"me/{name}"), world.home / "down" / kind / name
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        verify(folder)


def test_dry_run_is_the_default_and_uploads_nothing(trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "kept"
    parts = ["--parts", "model,metric", "--data-repo", "me/other"]
    assert release.main([str(trained[0]), "me/rogle-tiny", "--out", str(out), *parts]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith("dry run: ") and sorted(os.listdir(out)) == ["metric", "model"]
    assert "datasets" not in ModelCard.load(out / "model" / "README.md").data.to_dict(), (
        "no data set was released with it"
    )
    assert release.main([str(trained[0]), "me/rogle-tiny", "--push", *parts]) == 2  # the tests run offline
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("hub/release.py: me/rogle-tiny: not pushed: ") and "offline mode" in error


def test_scores_of_other_weights_are_refused(trained, tmp_path: Path):
    evaluation = json.loads((trained[2] / "results.json").read_text()) | {"checkpoint_sha256": "0" * 64}
    with pytest.raises(ReleaseError, match="checkpoint_sha256"):
        assemble(trained[0], names_of("me/rogle"), tmp_path / "out", evaluation)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rogle"], "rogle: must be user/name"),
        (["me/ro gle"], "me/ro gle: "),
        (["me/rogle", "--parts", "model,weights"], "--parts: 'weights'"),
        (["me/rogle", "--metric-repo", "me/metrics"], "me/metrics: "),
        (["me/rogle", "--eval", "nowhere.json"], "nowhere.json"),
        (["me/rogle", "--parts", "data", "--data", "nowhere"], "nowhere is not a folder"),
    ],
)
def test_bad_input_is_one_line(trained, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str):
    assert release.main([str(trained[0]), *arguments]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("hub/release.py: ") and message in error


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    with hub_server() as served:
        in_this_process(served, monkeypatch)
        yield served


@pytest.fixture
def assembled(tmp_path: Path) -> Path:
    """Folders as `assemble` writes them, with one file each."""
    for part in PARTS:
        (tmp_path / part).mkdir()
        (tmp_path / part / "README.md").write_text(f"---\nlicense: apache-2.0\n---\n{part}\n")
        write_checksums(tmp_path / part)
    return tmp_path


def uploaded(hub: HubServer) -> list[tuple[str, str]]:
    return [repo for repo, commits in hub.repos.items() if commits[-1][1]]


def test_nothing_is_uploaded_if_a_later_repository_is_refused(hub: HubServer, assembled: Path):
    answer = hub.answer

    def refusing(method: str, url: str, body: bytes, token: str | None):
        if url == "/api/repos/create" and json.loads(body).get("type") == "space":
            return 403, {"Content-Type": "application/json"}, b'{"error": "no Spaces for you"}'
        return answer(method, url, body, token)

    hub.answer = refusing
    with pytest.raises(ReleaseError, match="me/pvlg: not pushed: .*no Spaces for you"):
        push(assembled, names_of("me/rogle"), PARTS, None)
    assert hub.repos and not uploaded(hub)


def test_nothing_is_uploaded_if_restricted_data_would_be_public(hub: HubServer, assembled: Path):
    hub.repos["dataset", "me/pvlg"], hub.private["dataset", "me/pvlg"] = [("0" * 40, {})], False
    with pytest.raises(ReleaseError, match="me/pvlg: a public dataset repository"):
        push(assembled, names_of("me/rogle"), PARTS, DataRelease(sources=Counter(cuhk_pedes=1)))
    assert list(hub.repos) == [("dataset", "me/pvlg")] and not uploaded(hub)


def test_nothing_is_uploaded_if_a_later_part_contains_a_token(hub: HubServer, assembled: Path):
    (assembled / "demo" / "app.py").write_text("TOKEN = 'hf_" + "aB3" * 11 + "'\n")
    with pytest.raises(ReleaseError, match="demo/app.py: .*token"):
        push(assembled, names_of("me/rogle"), PARTS, None)
    assert not hub.repos


def test_the_demo_without_the_model_loads_its_newest_commit(hub: HubServer, assembled: Path):
    names = names_of("me/rogle")
    for message in ("no such model on the Hub", "the model on the Hub has no config.json"):
        with pytest.raises(ReleaseError, match=f"^me/rogle: {message}; push the model first$"):
            push(assembled, names, ["demo"], None)
        assert ("space", names.demo) not in hub.repos
        push(assembled, names, ["model"], None)
    for name in release.DEMO_LOADS:
        (assembled / "model" / name).write_text("{}\n")
    push(assembled, names, ["model"], None)
    push(assembled, names, ["demo"], None)
    files, newest = hub.files("space", names.demo), hub.repos["model", "me/rogle"][-1][0]
    assert json.loads(files["model.json"]) == {"model": "me/rogle", "revision": newest}
    assert b"  model.json\n" in files["SHA256SUMS"]


def test_a_model_without_adapters_cannot_release_only_adapters(tiny_checkpoint: Path, tmp_path: Path):
    with pytest.raises(ReleaseError, match="adapter: no such folder"):
        assemble(tiny_checkpoint, names_of("me/rogle"), tmp_path / "out", parts=["adapter"])


def test_images_of_has_a_hidden_alias():
    arguments = ["model", "me/rogle", "--images-of", "ufine", "--pictures-of", "custom"]
    assert release._parser().parse_args(arguments).images_of == ["ufine", "custom"]
    assert "--pictures-of" not in release._parser().format_help()
