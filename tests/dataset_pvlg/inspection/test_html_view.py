"""The HTML page of rows: text is escaped, boxes and sentences share colours, bad input is one line."""

import io
import re
from html.parser import HTMLParser

import pytest
from datasets import Dataset
from PIL import EpsImagePlugin, Image

from dataset_pvlg.features import FEATURES
from dataset_pvlg.inspection import html_view
from dataset_pvlg.inspection.html_view import row_html, write_page
from tests.helpers.commands import one_line, run_data_command

EVIL = """<script>alert(1)</script><img src=x onerror="alert(2)">"'</style> & \0 end."""


class Page(HTMLParser):
    """The tags of a page with their attributes, in order, and the text between them."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_data(self, data):
        self.text += data


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
        "claims": None,
        "caption": text,
        "caption_origin": text,
        "sentences": [
            {"text": first, "start": 0, "end": len(first)},
            {"text": "x", "start": len(first), "end": len(text)},
        ],
        "regions": [region | {"sentence": 0}, region | {"bbox": [0.0, 30.0, 5.0, 9.0], "sentence": -1}],
    }


def test_a_sentence_about_several_regions_shows_the_colour_of_each():
    row = make_row()
    row["regions"] += [row["regions"][0] | {"bbox": [9.0, 40.0, 5.0, 9.0]}, row["regions"][0] | {"sentence": 1}]
    page = Page(row_html(row))
    boxes = [attrs for tag, attrs in page.tags if tag == "rect" and "r0" in attrs["class"].split()]
    assert [attrs["class"] for attrs in boxes] == ["r0 r1", "r0"]  # the first box has two sentences
    squares = [attrs["style"] for tag, attrs in page.tags if tag == "i"]
    assert squares == [attrs["style"] for attrs in boxes] and len(set(squares)) == 2


def test_markup_in_any_text_is_shown_and_not_run(tmp_path):
    plain, evil = make_row(), make_row(EVIL)
    for row, name in ((plain, "plain"), (evil, "evil")):
        assert write_page([row], tmp_path / name, row["caption"]) == 1
    pages = [Page((tmp_path / name).read_text(encoding="utf-8")) for name in ("plain", "evil")]
    assert [tag for tag, _ in pages[1].tags] == [tag for tag, _ in pages[0].tags]
    assert not any(tag == "script" or any(key.startswith("on") for key in attrs) for tag, attrs in pages[1].tags)
    assert pages[1].text.count("<script>alert(1)</script>") >= 8
    policy = next(attrs["content"] for tag, attrs in pages[1].tags if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'")


def test_a_box_has_the_colour_and_number_of_its_sentence():
    page = Page(row_html(make_row()))
    boxes = [attrs for tag, attrs in page.tags if tag == "rect"]
    spans = [attrs for tag, attrs in page.tags if tag == "span" and "sentence" in attrs["class"]]
    assert [box["class"] for box in boxes] == ["r0", "unpaired-box"]
    assert spans[0]["class"] == "sentence s0" and spans[1]["class"] == "sentence unpaired s1"
    assert spans[0]["style"] == boxes[0]["style"] != boxes[1]["style"]
    assert [float(boxes[0][side]) for side in ("x", "y", "width", "height")] == [1, 2, 10, 12]
    assert next(attrs for tag, attrs in page.tags if tag == "svg")["viewbox"] == "0 0 20 50"


def test_wrong_offsets_are_shown():
    row = make_row()
    row["sentences"][1] |= {"start": 3, "end": 999}
    text = Page(row_html(row)).text
    assert "[sentence 2: wrong offsets 3-999: x]" in text and "He walks." in text


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_images_are_embedded_in_a_format_that_browsers_show(kind):
    source = next(attrs["src"] for tag, attrs in Page(row_html(make_row(kind=kind))).tags if tag == "img")
    assert re.match(r"data:image/(jpeg|png);base64,", source)


def test_a_missing_and_a_corrupt_image_are_marked():
    row = make_row()
    assert "no image" in row_html(row | {"image": None})
    assert "cannot be decoded" in row_html(row | {"image": {"bytes": b"GIF89a??", "path": "x"}})


def test_the_command_shows_some_rows_of_a_folder(tmp_path, capsys):
    rows = [make_row() | {"image_id": f"image-{n}", "sha256": "0"} for n in range(5)]
    (tmp_path / "data").mkdir()
    Dataset.from_list(rows[:3], features=FEATURES).to_parquet(tmp_path / "data/test-00000-of-00002.parquet")
    Dataset.from_list(rows[3:], features=FEATURES).to_parquet(tmp_path / "data/test-00001-of-00002.parquet")
    page = tmp_path / "pages" / "page.html"
    arguments = [str(tmp_path), "--start", "2", "--rows", "2", "--out", str(page)]
    assert run_data_command(html_view, arguments) == 0
    text = page.read_text(encoding="utf-8")
    assert [f"image-{n}" in text for n in range(5)] == [False, False, True, True, False]
    assert "2 rows in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is not a folder"),
        (["FOLDER", "--split", "train"], "--split train: .* has test"),
        (["FOLDER", "--rows", "0"], "--rows"),
        (["FOLDER", "--start", "99"], "no rows to show"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_page(tmp_path, arguments, message):
    Dataset.from_list([make_row() | {"sha256": "0"}], features=FEATURES).to_parquet(tmp_path / "test.parquet")
    arguments = [str(tmp_path) if each == "FOLDER" else each for each in arguments]
    with pytest.raises(ValueError) as caught:
        run_data_command(html_view, [*arguments, "--out", str(tmp_path / "page.html")])
    assert re.search(message, one_line(caught.value))
    assert [path.name for path in tmp_path.iterdir()] == ["test.parquet"]


def test_an_image_that_needs_another_program_is_not_opened(monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **kwargs: pytest.fail("Ghostscript was started"))
    assert "cannot be decoded" in row_html(make_row(kind="EPS"))
    assert "data:image/png" in row_html(make_row(kind="BMP"))
