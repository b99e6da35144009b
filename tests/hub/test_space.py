"""The two Spaces: each runs from its own folder; what stands in a caption is text, never a page's code."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from hub.space import assemble_demo, assemble_metric, write_revision
from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.release.model_files import save_for_hub
from modeling_rogle.release.upload import ReleaseError

HOSTILE = '<img src=x onerror="alert(1)"><script>alert(2)</script>'


def module_from(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"app_of_{file.parent.name}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def demo(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("space")
    model, processor = RogleModel.from_pretrained(tiny_checkpoint), RogleProcessor.from_pretrained(tiny_checkpoint)
    save_for_hub(model, processor, folder / "model")
    assemble_demo("me/rogle-tiny", "0" * 40, folder / "demo", people=3, images=2)
    return folder / "demo"


@pytest.fixture(scope="module")
def app(demo: Path) -> ModuleType:
    return module_from(demo / "app.py")


@pytest.fixture
def search(demo: Path, app: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The demo over the model in a folder, which stands where the Hub's copy would."""
    chosen = json.loads((demo / "model.json").read_text())
    assert chosen == {"model": "me/rogle-tiny", "revision": "0" * 40}, "code of one commit, not of whatever comes"
    write_revision(tmp_path, str(demo.parent / "model"), None)
    (tmp_path / "gallery").symlink_to(demo / "gallery")
    return app.Search(tmp_path)


def test_the_gallery_is_drawn_and_named_by_its_metadata(demo: Path):
    lines = [json.loads(line) for line in (demo / "gallery" / "metadata.jsonl").read_text().splitlines()]
    assert len(lines) == 6 and sum("query" in line for line in lines) == 3
    assert {line["file_name"] for line in lines} == {file.name for file in (demo / "gallery").glob("*.jpg")}
    assert all(line["caption"] for line in lines)
    readme = (demo / "README.md").read_text()
    assert "sdk: gradio" in readme and "app_file: app.py" in readme and "MODEL_NAME" not in readme


def test_a_search_ranks_every_image_by_both_branches(search, demo: Path):
    found = search("A man in a red jacket. He carries a bag.", top_k=20)
    assert len(found) == 6 and [item.score for item in found] == sorted((i.score for i in found), reverse=True)
    assert [sentence for sentence, _, _ in found[0].regions] == ["A man in a red jacket.", "He carries a bag."]
    model = search.model
    weight = float(model.config.local_weight)
    first = [row["file_name"] for row in search.rows].index(found[0].file)
    tokens = search.processor(text=["A man in a red jacket. He carries a bag."], return_tensors="pt")["input_ids"]
    whole = float(model.encode_texts(tokens)[0] @ search.images[first])
    local = sum(cosine for _, _, cosine in found[0].regions) / 2
    assert found[0].score == pytest.approx((1 - weight) * whole + weight * local, abs=1e-5)
    image = search.drawn(found[0])
    assert isinstance(image, Image.Image) and image.height >= 300
    assert len(search("A man.", top_k=2)) == 2
    for query in ("", "  ", "x" * 3000):
        with pytest.raises(ValueError, match="give a description"):
            search(query)


def test_html_in_captions_and_queries_is_shown_as_text(app: ModuleType):
    found = app.Found(file=f"{HOSTILE}.jpg", caption=HOSTILE, score=0.5, regions=[(HOSTILE, HOSTILE, 0.1)])
    shown = app.explained(found, 1)
    assert shown.count("&lt;script&gt;alert(2)&lt;/script&gt;") == 4
    assert "<img" not in shown and "<script" not in shown


def test_a_image_outside_the_gallery_is_not_opened(demo: Path, app: ModuleType, tmp_path: Path):
    (tmp_path / "gallery").mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"")
    write_revision(tmp_path, str(demo.parent / "model"), None)
    for name in ("../secret.jpg", "/etc/hostname", "..\\secret.jpg", ".."):
        line = json.dumps({"file_name": name, "caption": "x"})
        (tmp_path / "gallery" / "metadata.jsonl").write_text(line + "\n")
        with pytest.raises(ValueError, match="lies outside the gallery"):
            app.Search(tmp_path)


def test_the_demo_page_is_built_and_answers(search, app: ModuleType):
    pytest.importorskip("gradio")
    search.rows[0] = search.rows[0] | {"query": HOSTILE}
    page = app.build(search)
    served = json.dumps(page.get_config_file(), default=str)
    assert "drawn by a program" in served
    ask, explain = (next(f for f in page.fns.values() if f.name == name).fn for name in ("ask", "explain"))
    thumbs, results, _ = ask("A man in a red jacket.", 3)
    assert len(thumbs) == len(results) == 3
    clicked = type("Clicked", (), {"index": 1})()
    assert "#2" in explain(results, clicked) and explain(None, clicked) == ""


def test_the_metric_is_copied_without_links_and_names_its_space(tmp_path: Path):
    assemble_metric("me/pvlg", tmp_path / "out")
    files = {file.name: file for file in (tmp_path / "out").iterdir()}
    assert {
        "README.md",
        "app.py",
        "pvlg.py",
        "retrieval.py",
        "ranks.py",
        "cosine.py",
        "inputs.py",
        "requirements.txt",
    } == set(files)
    assert not any(file.is_symlink() for file in files.values())
    readme = files["README.md"].read_text()
    assert 'evaluate.load("me/pvlg", "global")' in readme and 'evaluate.load("eval/pvlg"' not in readme
    assert "sdk: gradio" in readme
    app = module_from(files["app.py"])
    assert set(app.examples(readme)) == {"global", "local", "joint"}
    with pytest.raises(ReleaseError, match="pvlg"):
        assemble_metric("me/metrics", tmp_path / "other")


def test_the_metrics_app_computes_from_its_folder_alone(tmp_path: Path):
    assemble_metric("me/pvlg", tmp_path / "space")
    code = (
        "import json, app; from pathlib import Path; text = Path('README.md').read_text()\n"
        "print(json.dumps([app.score('global', json.dumps(app.examples(text)['global'])), app.score('global', '<b>')]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "space", capture_output=True, text=True, timeout=120,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HOME": str(tmp_path / "home")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures, error = json.loads(done.stdout.splitlines()[-1])
    assert figures["R@1"] == pytest.approx(100 / 3) and figures["gallery"] == 4
    assert list(error) == ["error"] and "<b>" not in error["error"]
