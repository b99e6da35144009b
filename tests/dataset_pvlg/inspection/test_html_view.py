"""The page of rows: nothing in a row is markup, boxes and sentences share colours, bad input is one line."""

import io
import re
from html.parser import HTMLParser

import pytest
from datasets import Dataset
from PIL import EpsImagePlugin, Image

from dataset_pvlg.features import FEATURES
from dataset_pvlg.inspection.html_view import main, row_html, write_page

EVIL = """<script>alert(1)</script><img src=x onerror="alert(2)">"'</style> & \0 end."""


class Page(HTMLParser):
    """Tags with their attributes, in order, and the text between them."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.said = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_data(self, data):
        self.said += data


def make_row(text: str = "He wears a hat. He walks.", kind: str = "JPEG") -> dict:
    stored = io.BytesIO()
    Image.new("RGB", (20, 50), "red").save(stored, kind)
    first = text[: text.index(".") + 1]
    region = {"bbox": [1.0, 2.0, 10.0, 12.0], "label": text, "score": 0.5, "reliability": 0.25, "origin": text}
    return {
        "image": {"bytes": stored.getvalue(), "path": text},
        "path": text,
        "sha256": None,
        "image_id": text,
        "width": 20,
        "height": 50,
        "person_id": 7,
        "source": text,
        "camera": text,
        "parent": text,
        "captions": [text],
        "caption": text,
        "caption_origin": text,
        "sentences": [
            {"text": first, "start": 0, "end": len(first)},
            {"text": "x", "start": len(first), "end": len(text)},
        ],
        "regions": [region | {"sentence": 0}, region | {"bbox": [0.0, 30.0, 5.0, 9.0], "sentence": -1}],
    }


def test_markup_in_any_text_is_shown_and_not_run(tmp_path):
    plain, evil = make_row(), make_row(EVIL)
    for row, name in ((plain, "plain"), (evil, "evil")):
        assert write_page([row], tmp_path / name, row["caption"]) == 1
    pages = [Page((tmp_path / name).read_text(encoding="utf-8")) for name in ("plain", "evil")]
    assert [tag for tag, _ in pages[1].tags] == [tag for tag, _ in pages[0].tags]
    assert not any(tag == "script" or any(key.startswith("on") for key in attrs) for tag, attrs in pages[1].tags)
    assert pages[1].said.count("<script>alert(1)</script>") >= 8
    policy = next(attrs["content"] for tag, attrs in pages[1].tags if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'")


def test_a_box_has_the_colour_and_number_of_its_sentence():
    page = Page(row_html(make_row()))
    boxes = [attrs for tag, attrs in page.tags if tag == "rect"]
    spans = [attrs for tag, attrs in page.tags if tag == "span" and "said" in attrs["class"]]
    assert [box["class"] for box in boxes] == ["r0", "alone"]
    assert spans[0]["class"] == "said s0" and spans[1]["class"] == "said unpaired s1"
    assert spans[0]["style"] == boxes[0]["style"] != boxes[1]["style"]
    assert [float(boxes[0][side]) for side in ("x", "y", "width", "height")] == [1, 2, 10, 12]
    assert next(attrs for tag, attrs in page.tags if tag == "svg")["viewbox"] == "0 0 20 50"


def test_offsets_that_do_not_fit_are_said():
    row = make_row()
    row["sentences"][1] |= {"start": 3, "end": 999}
    said = Page(row_html(row)).said
    assert "[sentence 2: wrong offsets 3-999: x]" in said and "He walks." in said


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_images_are_inside_in_a_form_that_browsers_show(kind):
    source = next(attrs["src"] for tag, attrs in Page(row_html(make_row(kind=kind))).tags if tag == "img")
    assert re.match(r"data:image/(jpeg|png);base64,", source)


def test_a_row_without_a_image_and_a_broken_one_say_so():
    row = make_row()
    assert "no image inside" in row_html(row | {"image": None})
    assert "does not decode" in row_html(row | {"image": {"bytes": b"GIF89a??", "path": "x"}})


def test_command_line_shows_a_folder_from_a_row_on(tmp_path, capsys):
    rows = [make_row() | {"image_id": f"picture-{n}", "sha256": "0"} for n in range(5)]
    (tmp_path / "data").mkdir()
    Dataset.from_list(rows[:3], features=FEATURES).to_parquet(tmp_path / "data/test-00000-of-00002.parquet")
    Dataset.from_list(rows[3:], features=FEATURES).to_parquet(tmp_path / "data/test-00001-of-00002.parquet")
    page = tmp_path / "pages" / "page.html"
    assert main([str(tmp_path), "--start", "2", "--rows", "2", "--out", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert [f"picture-{n}" in text for n in range(5)] == [False, False, True, True, False]
    assert "2 rows in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is not a folder"),
        (["FOLDER", "--split", "train"], "--split train: .* has test"),
        (["FOLDER", "--rows", "0"], "--rows from 1"),
        (["FOLDER", "--start", "99"], "no rows to show"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_page(tmp_path, capsys, arguments, message):
    Dataset.from_list([make_row() | {"sha256": "0"}], features=FEATURES).to_parquet(tmp_path / "test.parquet")
    arguments = [str(tmp_path) if each == "FOLDER" else each for each in arguments]
    capsys.readouterr()
    assert main([*arguments, "--out", str(tmp_path / "page.html")]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and re.search(message, told)
    assert [path.name for path in tmp_path.iterdir()] == ["test.parquet"]


def test_a_image_whose_reading_would_start_another_program_is_not_opened(monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **kwargs: pytest.fail("Ghostscript was started"))
    assert "does not decode" in row_html(make_row(kind="EPS"))
    assert "data:image/png" in row_html(make_row(kind="BMP"))
