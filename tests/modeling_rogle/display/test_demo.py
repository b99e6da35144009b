"""The demo shows the results of a search, escapes them and serves no other file; checked in a real browser too."""

import json
import shutil
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from modeling_rogle.display import demo
from modeling_rogle.inference.loading import load_model
from modeling_rogle.search.gallery import Gallery

QUERY = "A man wears a red jacket. His shoes are white."
HOSTILE = "<img src=x onerror=alert(1)>.png"
CHROMIUM = shutil.which("chromium")


@pytest.fixture
def gallery(tiny_checkpoint, tmp_path) -> Gallery:
    folder = tmp_path / "images"
    folder.mkdir()
    for i, name in enumerate(("red.png", "blue.png", HOSTILE)):
        Image.new("RGB", (20 + i, 60), ("red", "blue", "green")[i]).save(folder / name)
    Gallery.build(folder, *load_model(tiny_checkpoint), tmp_path / "index", progress=False)
    return Gallery.open(tmp_path / "index")


def test_an_answer_is_the_result_of_a_search(gallery):
    matches, message = demo.run_search(gallery, QUERY, None, "width > 20", 5)
    assert matches == gallery.search(QUERY, 5, where="width > 20") and len(matches) == 2 and message == ""
    image = str(gallery.folder / "red.png")
    matches, _ = demo.run_search(gallery, "", image, "", 5)
    assert matches[0].path == "red.png" and len(matches) == 3


@pytest.mark.parametrize(
    ("query", "where", "expected"),
    [
        ("", "", "query: no words in it"),
        (QUERY, "colour = 'red'", "no column &#x27;colour&#x27;"),
        (QUERY, "<b>", "&#x27;&lt;&#x27;"),
        (QUERY, "width > 900", "No image passes the filter"),
        ("A man without a <b>hat</b>.", "", "does not understand negation"),
        ("He wears grey shorts. " * 60, "", "the model reads 64"),
    ],
)
def test_messages_are_shown_as_escaped_lines(gallery, query, where, expected):
    _, lines = demo.run_search(gallery, query, None, where, 5)
    assert expected in lines and "<b>" not in lines


def test_no_filter_and_too_many_sentences_are_accepted(gallery):
    matches, message = demo.run_search(gallery, "Red. " * 30_000, None, None, 5)
    assert len(matches) == 3 and "30000 clauses, at most 64 are read" in message


def test_an_upload_that_is_no_image_is_refused_and_the_filter_lists_its_columns(gallery, tmp_path, monkeypatch):
    gr = pytest.importorskip("gradio")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    parts = {block.elem_id: block for block in demo.build(gallery).blocks.values()}
    (tmp_path / "notes.png").write_text("x")
    upload = gr.components.image.ImageData
    with pytest.raises(gr.Error, match="the upload is not an image that can be read") as caught:
        parts["image"].preprocess(upload(path=str(tmp_path / "notes.png"), orig_name="notes.png"))
    assert not caught.value.print_exception
    red = str(gallery.folder / "red.png")
    assert parts["image"].preprocess(upload(path=red, orig_name="red.png")) == red
    assert parts["where"].info == "columns: path, width, height, bytes, mtime, scene"


def test_an_emptied_gallery_is_reported(gallery):
    gallery.delete(["red.png", "blue.png", HOSTILE])
    matches, message = demo.run_search(gallery, QUERY, None, "", 5)
    assert matches is None and "no image is left in this index" in message


def test_names_and_sentences_are_escaped(gallery):
    matches, _ = demo.run_search(gallery, "A man <script>alert(2)</script> wears a red jacket.", None, "", 5)
    for match in matches:
        shown = demo.explanation(match)
        assert "<script" not in shown and "<img" not in shown and "&lt;script&gt;" in shown


def test_shared_json_names_no_folder_of_this_machine(gallery):
    text = demo.search_as_json(QUERY, "", gallery.search(QUERY, 2))
    assert str(gallery.folder) not in text and str(gallery.path) not in text
    shared = json.loads(text)
    assert shared["query"] == QUERY and [item["rank"] for item in shared["results"]] == [1, 2]


def test_without_gradio_the_error_names_the_extra(gallery, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    with pytest.raises(ValueError, match=r"pip install 'rogle\[demo\]'"):
        demo.launch(gallery)


def _status(url: str) -> int:
    try:
        return urllib.request.urlopen(url, timeout=20).status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_in_a_real_browser(gallery, tmp_path, monkeypatch):
    pytest.importorskip("gradio")
    sync_api = pytest.importorskip("playwright.sync_api")
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # restored afterwards
    page = demo.launch(gallery, port=7899, block=False)
    try:
        with sync_api.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            tab = browser.new_page(viewport={"width": 1300, "height": 1000})
            elsewhere, dialogs = [], []
            tab.on("request", lambda sent: elsewhere.append(sent.url))
            tab.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
            tab.goto(page.local_url)
            _drive(tab, tmp_path)
            browser.close()
        local = (page.local_url, "data:", "blob:")
        assert [url for url in elsewhere if not url.startswith(local)] == []  # works without a network
        assert dialogs == []  # nothing that was shown ran
        outside = tmp_path / "secret.txt"
        outside.write_text("x")
        for file in ("/etc/passwd", outside, gallery.folder / "red.png", gallery.path / "index.json", "../etc/passwd"):
            assert _status(f"{page.local_url}gradio_api/file={file}") in (403, 404)
    finally:
        page.close()


def _drive(tab, tmp_path: Path) -> None:
    tab.fill("#query textarea", QUERY + " <script>alert(3)</script> He wears black pants.")
    tab.click("#search")
    tab.wait_for_selector("#results .thumbnail-item >> nth=2", timeout=60_000)
    tab.click("#results .thumbnail-item >> nth=1")
    tab.wait_for_selector("#regions img", timeout=60_000)
    assert "A man wears a red jacket." in tab.inner_text("#why") and "#2" in tab.inner_text("#why")
    tab.fill("#where textarea, #where input", "path = 'blue.png'")
    tab.click("#search")
    tab.wait_for_function("document.querySelectorAll('#results .thumbnail-item').length === 1", timeout=60_000)
    tab.fill("#where textarea, #where input", "path = <b>")
    tab.click("#search")
    tab.wait_for_selector("#message .error", timeout=60_000)
    assert "where, character 8" in tab.inner_text("#message")
    tab.fill("#where textarea, #where input", "")
    tab.fill("#query textarea", "")
    tab.set_input_files("#image input[type=file]", str(tmp_path / "images" / "blue.png"))
    tab.wait_for_selector("#image img", timeout=60_000)
    tab.click("#search")
    tab.wait_for_selector("#results .thumbnail-item >> nth=2", timeout=60_000)
    tab.click("#results .thumbnail-item >> nth=0")
    tab.wait_for_function("document.querySelector('#why').innerText.includes('blue.png')", timeout=60_000)
    assert tab.locator("#message .error").count() == 0
