"""Files of queries: text, CSV and JSON lines; a faulty row is named. Answers hold warnings and errors."""

import json

import pytest

from modeling_rogle.inference.loading import load_model
from modeling_rogle.search.gallery import Gallery
from modeling_rogle.search.requests import Request, answer, read_requests
from tests.helpers.image_files import QUERY, make_images


@pytest.fixture(scope="module")
def gallery(tiny_checkpoint, tmp_path_factory) -> Gallery:
    folder = tmp_path_factory.mktemp("requests")
    make_images(folder / "images")
    (folder / "images" / "copy.png").write_bytes((folder / "images" / "03.png").read_bytes())
    return Gallery.build(folder / "images", *load_model(tiny_checkpoint), folder / "index", progress=False)


def test_text_has_a_query_a_line(tmp_path):
    (tmp_path / "q.txt").write_text('\ufeffA man, "old".\n\n  A woman.  \r\n', encoding="utf-8")
    assert read_requests(tmp_path / "q.txt") == [Request('A man, "old".'), Request("A woman.")]


def test_csv_and_json_lines_have_fields(tmp_path):
    rows = [
        {"query": "A man, with a bag.", "image": "", "where": "width > 3"},
        {"query": "Une fille\nà vélo", "image": "", "where": ""},
        {"query": "", "image": "a b.png", "where": ""},
    ]
    expected = [
        Request("A man, with a bag.", None, "width > 3"),
        Request("Une fille\nà vélo"),
        Request("", str(tmp_path / "a b.png")),
    ]
    lines = ["query,image,where,note", '"A man, with a bag.",,width > 3,x', '"Une fille\nà vélo",,,', "", ",a b.png,,"]
    (tmp_path / "q.csv").write_text("\n".join(lines), encoding="utf-8")
    with pytest.warns(UserWarning, match="q.csv: ignored fields note"):
        assert read_requests(tmp_path / "q.csv") == expected
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    assert read_requests(tmp_path / "q.jsonl") == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.txt", b"\n \n", "no queries in this file"),
        ("q.txt", b"A man.\n!!!\n", "line 2: field 'query': no words in it"),
        ("q.txt", b"\xff\xfe", "not UTF-8 text"),
        ("q.csv", b"text\nA man.\n", "no column 'query' or 'image'; it has text"),
        ("q.csv", b"query,query\nA,B\n", "a column occurs twice"),
        ("q.csv", b"query\nA man, old.\n", "line 2: 2 fields, the header has 1"),
        ("q.csv", b"query,where\n,x\n", "line 2: field 'query': empty"),
        ("q.csv", b'query\n"A man\n', "line 2: not CSV"),
        ("q.jsonl", b'{"query": "A man."}\n{"query"\n', "line 2: not JSON"),
        ("q.jsonl", b'["A man."]\n', "line 1: not an object with the fields query, image, where"),
        ("q.jsonl", b'{"query": 3}\n', "line 1: field 'query' is not text"),
        ("q.jsonl", b"[" * 100_000, "line 1: not JSON"),
    ],
)
def test_a_faulty_row_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_requests(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name)) and "\n" not in str(caught.value)


def test_an_answer_is_the_search_with_its_warnings_and_errors(gallery):
    result = answer(gallery, Request(QUERY, where="width > 22"), 4)
    assert (
        result.matches == gallery.search(QUERY, 4, where="width > 22") and result.notes == () and result.error is None
    )
    result = answer(gallery, Request("A man without a hat."), 2)
    assert len(result.matches) == 2 and "negation" in result.notes[0]
    result = answer(gallery, Request(QUERY, image="missing.png"))
    assert result.matches is None and result.error.startswith("query image missing.png: cannot be read")


def test_like_searches_with_a_result_and_leaves_out_its_copies(gallery):
    first = gallery.search(QUERY, 11)
    number, copy = next((match.rank, match) for match in first if match.others)
    assert {copy.path, *copy.others} == {"copy.png", "03.png"}
    result = answer(gallery, Request(QUERY), 20, like=number)
    assert result.like == copy.path and result.error is None
    paths = [match.path for match in result.matches]
    assert sorted(paths) == [f"{n:02d}.png" for n in range(10) if n != 3]
    embeds = gallery.encode_gallery()
    cosines = {path: float(embeds[row] @ embeds[gallery.paths.index("copy.png")])
               for row, path in enumerate(gallery.paths)}  # fmt: skip
    assert paths == sorted(paths, key=lambda path: -cosines[path])
    assert [match.score for match in result.matches] == pytest.approx([cosines[path] for path in paths], abs=1e-6)
    assert all(match.sentences == () and match.probability is None for match in result.matches)
    filtered = answer(gallery, Request(QUERY, where="width > 26"), 20, like=1).matches
    assert filtered and all(match.width > 26 for match in filtered)


def test_like_needs_a_result_with_that_number(gallery):
    assert answer(gallery, Request(QUERY), 3, like=12).error == "no result 12, the search has 10"
    assert answer(gallery, Request(QUERY), 3, like=0).error == "no result 0, the search has 3"
    with pytest.raises(ValueError, match="like: gone.png is not in this index"):
        gallery.search(like="gone.png")
