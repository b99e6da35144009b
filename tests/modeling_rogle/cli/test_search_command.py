"""`rogle search` with many queries, output files and a prompt."""

import csv
import json
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from modeling_rogle.cli.main import main
from tests.helpers.image_files import QUERY, make_images

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def index(tiny_checkpoint, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    make_images(folder / "images")
    arguments = ["index", folder / "images", "--model", tiny_checkpoint, "--out", folder / "index"]
    assert main([str(argument) for argument in arguments]) == 0
    return folder / "index"


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_file_of_queries_gives_the_results_of_single_searches(index, tmp_path, capsys):
    file = tmp_path / "q.csv"
    file.write_text(f'query,where\n"{QUERY}",\nA blue bag.,width > 24\n')
    page, table = tmp_path / "new" / "page.html", tmp_path / "rows.csv"
    code, out, err = run(capsys, "search", "--queries", file, "--index", index, "--top-k", "3", "--json",
                         "--html", page, "--csv", table)  # fmt: skip
    assert code == 0 and err == f"results: {table}\nresults: {page}\n"
    answers = [json.loads(line) for line in out.splitlines()]
    singles = [(QUERY, ()), ("A blue bag.", ("--where", "width > 24"))]
    for answer, (query, options) in zip(answers, singles, strict=True):
        _, single, _ = run(capsys, "search", query, "--index", index, "--top-k", "3", "--json", *options)
        assert answer == json.loads(single)
    with open(table, encoding="utf-8", newline="") as rows:
        paths = [row["path"] for row in csv.DictReader(rows)]
    assert paths == [result["path"] for answer in answers for result in answer["results"]]
    assert page.read_text().count("<section") == 2


def test_tables_of_many_queries_are_numbered(index, tmp_path, capsys):
    (tmp_path / "q.txt").write_text(f"{QUERY}\n{QUERY} Not blue.\n{QUERY} Not red.\n")
    code, out, err = run(capsys, "search", "--queries", tmp_path / "q.txt", "--index", index, "--top-k", "1")
    assert code == 0 and [line.split('"')[0] for line in err.splitlines()] == [
        "warning: query 2: ", "warning: query 3: ",
    ]  # fmt: skip
    assert [line for line in out.splitlines() if line.startswith("query ")] == [
        f"query 1: {QUERY}", f"query 2: {QUERY} Not blue.", f"query 3: {QUERY} Not red.",
    ]  # fmt: skip


def test_a_failed_query_is_counted_and_the_others_are_answered(index, tmp_path, capsys):
    (tmp_path / "q.jsonl").write_text('{"image": "no.png"}\n{"query": "A red coat."}\n')
    code, out, err = run(capsys, "search", "--queries", tmp_path / "q.jsonl", "--index", index, "--json")
    first, second = map(json.loads, out.splitlines())
    assert code == 2 and "no.png: cannot be read" in first["error"] and len(second["results"]) == 10
    assert err.splitlines()[-1] == "rogle search: 1 of 2 queries failed" and err.startswith("query 1: ")


def test_results_are_grouped_by_a_column_and_copies_are_counted(tiny_checkpoint, tmp_path, capsys):
    images = make_images(tmp_path / "images", 4)
    (images / "copy.png").write_bytes((images / "00.png").read_bytes())
    rows = [f"{path.name},{'c1' if n < 3 else 'c2'}" for n, path in enumerate(sorted(images.iterdir()))]
    (images / "metadata.csv").write_text("\n".join(["file_name,camera", *rows]))
    out = tmp_path / "index"
    code, printed, _ = run(capsys, "index", images, "--model", tiny_checkpoint, "--out", out)
    assert code == 0 and "indexed 5 images" in printed and "1 exact copies, encoded once; 0 skipped" in printed
    _, printed, _ = run(capsys, "search", QUERY, "--index", out)
    assert len(printed.splitlines()) == 4 + 4 and printed.count(" (+1) ") == 1
    _, printed, _ = run(capsys, "search", QUERY, "--index", out, "--group-by", "camera", "--json")
    results = json.loads(printed)["results"]
    assert len(results) == 2 and sum(1 + len(result["others"]) for result in results) == 5
    code, _, err = run(capsys, "search", QUERY, "--index", out, "--group-by", "gone")
    assert code == 2 and err.startswith("rogle search: group by: no column 'gone'")


def test_like_searches_with_a_result(index, capsys):
    _, out, _ = run(capsys, "search", QUERY, "--index", index, "--json")
    second = json.loads(out)["results"][1]["path"]
    code, out, err = run(capsys, "search", QUERY, "--index", index, "--like", "2", "--json")
    answer = json.loads(out)
    assert code == 0 and err == "" and answer["like"] == second and len(answer["results"]) == 9
    _, out, _ = run(capsys, "search", QUERY, "--index", index, "--like", "2")
    assert out.startswith(f"images like {second}\n")


def test_wrong_options_are_one_line(index, tmp_path, capsys):
    (tmp_path / "q.csv").write_text("query,where\nA hat.,\nA hat.,widht > 3\n")
    (tmp_path / "q.txt").write_text("A hat.\n")
    for arguments, message in (
        (("--queries", tmp_path / "gone.txt"), f"rogle search: {tmp_path / 'gone.txt'}: No such file"),
        (("--queries", tmp_path / "q.csv"), f"rogle search: {tmp_path / 'q.csv'}, query 2: where, character 1: no col"),
        (("A hat.", "--queries", tmp_path / "q.txt"), "rogle search: --queries: not supported with QUERY"),
        (("--queries", tmp_path / "q.txt", "--save", "a.png"), "rogle search: --queries: not supported with --save"),
        (("A hat.", "--like", "11"), "rogle search: no result 11, the search has 10"),
        (("A hat.", "--like", "1", "--save-map", "a.png"), "rogle search: --save-map: not supported with --like"),
        (("A hat.", "--html", tmp_path), f"rogle search: {tmp_path}: Is a directory"),
    ):
        code, out, err = run(capsys, "search", "--index", index, *arguments)
        assert (code, out) == (2, ""), err
        assert err.startswith(message) and err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q.csv", "q.txt"]


def test_the_prompt_answers_until_an_empty_line(index):
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "modeling_rogle.cli.main", "search", "--index", index, "--top-k", "2"],
        stdin=end, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    with open(terminal, "w", closefd=True) as keyboard:
        keyboard.write("like 1\nA red coat.\nlike 1\n!!!\n\n")
        keyboard.flush()
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0
    assert out.startswith("10 images. Describe a person") and "[1] A red coat." in out and "images like " in out
    assert err.splitlines()[0] == "like: search with a description first" and "no words in it" in err
