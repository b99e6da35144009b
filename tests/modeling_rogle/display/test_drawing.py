"""Text is wrapped to a width, and a result image is never half-written."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from modeling_rogle.display import drawing
from modeling_rogle.display.drawing import check_image_suffix, fit_size, load_font, save_image, wrap_text

ROOT = Path(__file__).parents[3]


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=200), st.integers(60, 400))
def test_wrapped_lines_fit_and_keep_the_text(text, width):
    font = load_font(19)
    lines = wrap_text(text, font, width, max_lines=10_000)
    assert all(font.getlength(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())
    short = wrap_text(text, font, width, max_lines=2)
    assert len(short) <= 2 and all(font.getlength(line) <= width for line in short)
    assert short == lines or short[-1].endswith("…")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_images_are_saved_in_every_format(tmp_path, suffix):
    path = save_image(Image.new("RGB", (20, 30), "red"), tmp_path / "new" / f"out{suffix}")
    with Image.open(path) as image:
        image.load()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_an_unsupported_suffix_is_refused():
    check_image_suffix("out.JPEG")
    with pytest.raises(ValueError, match="out.tiff"):
        check_image_suffix("out.tiff")


def test_a_failure_while_saving_keeps_the_old_file(tmp_path, monkeypatch):
    out = save_image(Image.new("RGB", (20, 30), "red"), tmp_path / "results" / "out.png")
    before = out.read_bytes()

    def fail(*_args):
        raise OSError("no space left")

    monkeypatch.setattr(drawing.os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        save_image(Image.new("RGB", (20, 30), "blue"), out)
    assert out.read_bytes() == before and len(list(out.parent.iterdir())) == 1


def test_fit_size_keeps_the_aspect_ratio():
    assert fit_size(50, 200, 100, 100) == ((25, 100), 0.5)
    assert fit_size(1, 4000, 100, 100)[0] == (1, 100)


def test_drawing_results_does_not_load_torch():
    code = (
        "import sys; sys.argv = ['rogle']\n"
        "import modeling_rogle.display.result_sheet, modeling_rogle.display.text_output\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
