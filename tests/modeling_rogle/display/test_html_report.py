"""The page shows a search as its JSON does, holds its images and runs nothing."""

from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from modeling_rogle.display.csv_output import CsvOutput
from modeling_rogle.display.html_report import HtmlReport
from modeling_rogle.display.text_output import replacing, to_json_data
from modeling_rogle.inference.loading import load_model
from modeling_rogle.search.gallery import Gallery
from modeling_rogle.search.requests import Request, answer

QUERY = "A man <script>alert(1)</script> wears a red jacket. His shoes are white. He carries a bag."
HOSTILE = "<img src=x onerror=alert(1)>.png"


@pytest.fixture(scope="module")
def gallery(tiny_checkpoint, tmp_path_factory) -> Gallery:
    folder = tmp_path_factory.mktemp("report")
    (folder / "images").mkdir()
    for i, name in enumerate(("red #1.png", "=1+1.png", HOSTILE, "gone.png")):
        image = Image.new("RGB", (20 + i, 60), ("red", "blue", "green", "white")[i])
        image.paste("black", (2, 10 * i, 12, 10 * i + 8))
        image.save(folder / "images" / name)
    table = 'file_name,camera,note\nred #1.png,c1,"<b>bold</b>"\n=1+1.png,@c2,\n'
    (folder / "images" / "metadata.csv").write_text(table)
    gallery = Gallery.build(folder / "images", *load_model(tiny_checkpoint), folder / "index", progress=False)
    (folder / "images" / "gone.png").unlink()
    return gallery


class Page(HTMLParser):
    """The elements of a page, and for each section its links and frames, by result."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.images: list[str] = []
        self.sections: list[list[dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.add(tag)
        self.attributes |= set(values)
        if tag == "section":
            self.sections.append([])
        if tag == "li" and self.sections:
            self.sections[-1].append({"boxes": []})
        if tag == "a" and self.sections:
            self.sections[-1][-1]["link"] = values["href"]
        if tag == "img":
            self.images.append(values["src"])
        if tag == "rect":
            self.sections[-1][-1]["boxes"].append([float(values[name]) for name in ("x", "y", "width", "height")])


def write(gallery: Gallery, requests: list[Request], path: Path, like: int | None = None) -> list:
    answers = [answer(gallery, request, 4, like=like) for request in requests]
    with replacing(path) as file:
        report = HtmlReport(file, gallery, requests)
        for item in answers:
            report.add(item)
        report.finish()
    return answers


def test_order_links_and_boxes_are_those_of_the_json(gallery, tmp_path):
    requests = [Request(QUERY), Request("A woman in a blue coat.", where="width > 20"), Request(QUERY, image="no.png")]
    answers = write(gallery, requests, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.sections) == 3
    for item, section in zip(answers[:2], page.sections[:2], strict=True):
        results = to_json_data(item.matches)["results"]
        assert [result["link"] for result in section] == [Path(result["file"]).as_uri() for result in results]
        for result, shown in zip(results, section, strict=True):
            boxes = [sentence["box"] for sentence in result["sentences"] if sentence["box"] is not None]
            assert shown["boxes"] == (boxes if result["path"] != "gone.png" else [])
    assert any(result["boxes"] for result in page.sections[0])
    assert "width &gt; 20" in text and "query image no.png: cannot be read" in text and page.sections[2] == []


def test_the_page_is_complete_and_escaped(gallery, tmp_path):
    write(gallery, [Request(QUERY)], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.images) == 3 and all(src.startswith("data:image/jpeg;base64,") for src in page.images)
    assert "image not available" in text  # gone.png
    assert not {"script", "link", "iframe", "b onerror"} & page.tags
    assert not any(name.startswith("on") for name in page.attributes)
    assert "default-src 'none'" in text and "&lt;b&gt;bold&lt;/b&gt;" in text and "&lt;script&gt;" in text


def test_an_unfinished_page_does_not_replace_the_old_one(tmp_path):
    (tmp_path / "page.html").write_text("old")
    with pytest.raises(KeyError), replacing(tmp_path / "page.html") as file:
        file.write("new")
        raise KeyError
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
    with pytest.raises(IsADirectoryError), replacing(tmp_path):
        pass


def test_csv_has_a_row_for_each_result(gallery, tmp_path):
    import csv

    requests = [Request(QUERY), Request("=A man.", where="camera is not null")]
    with replacing(tmp_path / "rows.csv") as file:
        output = CsvOutput(file, ["camera", "note"])
        answers = [answer(gallery, request, 3) for request in requests]
        for item in answers:
            output.add(item)
    with open(tmp_path / "rows.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    matches = [match for item in answers for match in item.matches]
    assert [row["query_number"] for row in rows] == ["1", "1", "1", "2", "2"]
    assert [float(row["score"]) for row in rows] == [match.score for match in matches]
    assert {row["query"] for row in rows} == {QUERY, "'=A man."}  # no formula
    shown = [row["path"].removeprefix("'") for row in rows]
    assert shown == [match.path for match in matches] and "'=1+1.png" in {row["path"] for row in rows}
    assert [row["camera"] for row in rows if row["path"] == "'=1+1.png"] in (["'@c2"], ["'@c2"] * 2)
