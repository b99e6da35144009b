"""What the commands write on a terminal: escape sequences of someone else's names, and text that is not UTF-8."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from modeling_rogle.cli.common import printable, printable_output
from modeling_rogle.cli.main import main
from tests.helpers.image_files import make_images

ESCAPE = "\x1b]0;title\x07\x1b[2J\x9b31m\u202e"


@pytest.fixture(scope="module")
def index(tiny_checkpoint, tmp_path_factory) -> Path:
    """An index whose folder, images and columns have escape sequences in their names."""
    root = tmp_path_factory.mktemp("terminal")
    folder = make_images(root / f"people{ESCAPE}", 3)
    names = [path.name for path in sorted(folder.glob("*.png"))]
    (folder / names[0]).rename(folder / f"a{ESCAPE}.png")
    (folder / f"broken{ESCAPE}.png").write_bytes(b"x")
    rows = [{"file_name": name, f"camera{ESCAPE}": ESCAPE} for name in names[1:]]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["index", str(folder), "--model", str(tiny_checkpoint), "--out", str(root / f"index{ESCAPE}")]) == 0
    return root / f"index{ESCAPE}"


def test_no_name_in_an_index_reaches_the_terminal_as_an_escape_sequence(index, capsys):
    folder = next(index.parent.glob("people*"))
    for arguments in (
        ["search", f"A man.{ESCAPE}", "--index", index],
        ["search", "A man.", "--index", index, "--json"],
        ["search", "A man.", "--index", index, "--where", "height = 'x'"],
        ["search", "A man.", "--index", index, "--where", "cameras = 'x'"],
        ["delete", f"b{ESCAPE}.png", "--index", index],
        ["index", folder, "--model", folder, "--out", index],
    ):
        main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert out + err and not set(ESCAPE) & set("\x1b\x07\x9b\u202e") & set(out + err), arguments
        if "--json" in arguments:
            results = json.loads(out)["results"]
            assert any(ESCAPE in result["path"] for result in results)
            assert any(result["metadata"].get(f"camera{ESCAPE}") == ESCAPE for result in results)


def test_text_of_every_language_and_progress_bars_stay(monkeypatch):
    text = "Ein Mann, 一个男人, عربي, 👨 1\u00a0000\nnext"
    assert printable(text) == text
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    with printable_output():
        for written in ("\r50%", "\x1b[A", "a\rb\x1b[A"):
            print(written, end="")
    assert stream.getvalue() == "\r50%\x1b[Aa\\rb\\u001b[A"


@pytest.mark.slow
def test_a_query_that_is_not_utf_8_is_searched(index):
    script = "import sys; from modeling_rogle.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "search", b"A man\xe9 \xed\xa0\xbd in red.", "--index", index, "--json"]
    done = subprocess.run(command, capture_output=True, timeout=120)
    assert done.returncode == 0 and b"4 bytes are not text in UTF-8" in done.stderr
    answer = json.loads(done.stdout)
    assert len(answer["results"]) == 3
    assert answer["results"][0]["sentences"][0]["sentence"] == "A man  in red."
