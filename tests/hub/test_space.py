"""The two Spaces: each runs from its own folder, and captions and queries are shown as text."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from hub.space import assemble_demo, assemble_metric, write_revision
from modeling_rogle import Gallery, RogleModel, RogleProcessor, load_model
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
    """The demo with the model in a local folder instead of the Hub."""
    model = json.loads((demo / "model.json").read_text())
    assert model == {"model": "me/rogle-tiny", "revision": "0" * 40}, "the code of one commit"
    write_revision(tmp_path, str(demo.parent / "model"), None)
    (tmp_path / "gallery").symlink_to(demo / "gallery")
    return app.Search(tmp_path)


def test_the_gallery_is_drawn_and_has_metadata(demo: Path):
    lines = [json.loads(line) for line in (demo / "gallery" / "metadata.jsonl").read_text().splitlines()]
    assert len(lines) == 6 and sum("query" in line for line in lines) == 3
    assert {line["file_name"] for line in lines} == {file.name for file in (demo / "gallery").glob("*.jpg")}
    assert all(line["caption"] for line in lines)
    readme = (demo / "README.md").read_text()
    assert "sdk: gradio" in readme and "app_file: app.py" in readme and "MODEL_NAME" not in readme


def test_a_search_ranks_every_image_and_shows_its_regions(search):
    results = search("A man in a red jacket. He carries a bag.", top_k=20)
    assert len(results) == 6 and [r.score for r in results] == sorted((r.score for r in results), reverse=True)
    assert [sentence for sentence, _, _ in results[0].sentences] == ["A man in a red jacket.", "He carries a bag."]
    image = search.draw(results[0])
    assert isinstance(image, Image.Image) and image.height >= 300
    assert len(search("A man.", top_k=2)) == 2
    for query in ("", "  ", "x" * 3000):
        with pytest.raises(ValueError, match="description"):
            search(query)


@pytest.mark.parametrize("query", ["A man in a red jacket. He carries a bag.", "A man in a red jacket, black pants."])
def test_the_space_gives_the_results_of_the_gallery(demo: Path, app: ModuleType, tmp_path: Path, query: str):
    write_revision(tmp_path, str(demo.parent / "model"), None)
    shutil.copytree(demo / "gallery", tmp_path / "gallery")
    search = app.Search(tmp_path)
    loaded = load_model(demo.parent / "model")
    gallery = Gallery.build(tmp_path / "gallery", *loaded, tmp_path / "index", progress=False)
    expected = {match.path: match for match in gallery.search(query, 20)}
    results = search(query, top_k=20)
    assert len(results) == len(expected) == 6
    for result in results:
        match = expected[result.file]
        assert result.score == pytest.approx(match.score, abs=1e-5)
        assert [text for text, _, _ in result.sentences] == [item.sentence for item in match.sentences]
        cosines = [item.score for item in match.sentences]
        assert [cosine for _, _, cosine in result.sentences] == pytest.approx(cosines, abs=1e-5)
        for (_, box, _), item in zip(result.sentences, match.sentences, strict=True):
            assert box == pytest.approx(item.box or (0, 0, match.width, match.height), abs=0.01)
    scores = [match.score for match in expected.values()]
    assert [result.score for result in results] == pytest.approx(scores, abs=1e-5)  # the same order, except for ties


def test_html_in_captions_and_queries_is_shown_as_text(app: ModuleType):
    result = app.Result(file=f"{HOSTILE}.jpg", caption=HOSTILE, score=0.5, sentences=[(HOSTILE, (0, 0, 9, 9), 0.1)])
    shown = app.explanation(result, 1)
    assert shown.count("&lt;script&gt;alert(2)&lt;/script&gt;") == 3
    assert "<img" not in shown and "<script" not in shown


def test_an_image_outside_the_gallery_is_not_opened(demo: Path, app: ModuleType, tmp_path: Path):
    (tmp_path / "gallery").mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"")
    write_revision(tmp_path, str(demo.parent / "model"), None)
    for name in ("../secret.jpg", "/etc/hostname", "..\\secret.jpg", ".."):
        line = json.dumps({"file_name": name, "caption": "x"})
        (tmp_path / "gallery" / "metadata.jsonl").write_text(line + "\n")
        with pytest.raises(ValueError, match="outside the gallery"):
            app.Search(tmp_path)


def test_the_demo_page_is_built_and_answers(search, app: ModuleType):
    pytest.importorskip("gradio")
    search.rows[0] = search.rows[0] | {"query": HOSTILE}
    page = app.build(search)
    served = json.dumps(page.get_config_file(), default=str)
    assert "A program drew these pedestrians" in served
    ask, explain = (next(f for f in page.fns.values() if f.name == name).fn for name in ("ask", "explain"))
    thumbnails, results, _ = ask("A man in a red jacket.", 3)
    assert len(thumbnails) == len(results) == 3
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
        "local.py",
        "relevance.py",
        "pairs.py",
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
    assert set(app.examples(readme)) == {"global", "local", "local-strict", "joint"}
    with pytest.raises(ReleaseError, match="pvlg"):
        assemble_metric("me/metrics", tmp_path / "other")


@pytest.mark.slow
def test_the_app_of_the_metric_needs_only_its_folder(tmp_path: Path):
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
