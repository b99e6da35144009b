"""The result image shows whole persons and each sentence's region in its colour."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from modeling_rogle.display import result_sheet
from modeling_rogle.display.drawing import COLOURS, RIGHT, WRONG
from modeling_rogle.display.result_sheet import _title, draw_results
from modeling_rogle.inference.loading import load_model
from modeling_rogle.search.gallery import Gallery
from modeling_rogle.search.results import Match, SentenceMatch

YELLOW, CYAN = (255, 230, 0), (0, 230, 230)


def person(path: Path, size: tuple[int, int] = (40, 160)) -> Path:
    """A grey image with a yellow line at the very top and a cyan one at the very bottom."""
    image = Image.new("RGB", size, (128, 128, 128))
    image.paste(YELLOW, (0, 0, size[0], size[1] // 20 + 1))
    image.paste(CYAN, (0, size[1] - size[1] // 20 - 1, *size))
    image.save(path)
    return path


def match(file: Path, rank: int = 1, boxes: Sequence[tuple | None] = (None,), size: tuple = (40, 160)) -> Match:
    sentences = tuple(
        SentenceMatch(
            f"Sentence number {i + 1} is about a coat.", 0, 1, "whole person" if box is None else "head", box, 0.5
        )
        for i, box in enumerate(boxes)
    )
    return Match(rank, file.name, file, 0.9, 0.8, *size, sentences)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def count(image: np.ndarray, colour: str | tuple[int, int, int]) -> int:
    wanted = ImageColor.getrgb(colour) if isinstance(colour, str) else colour
    return int((np.abs(image - wanted).max(axis=-1) < 12).sum())


@pytest.mark.parametrize("size", [(40, 160), (20, 400), (300, 100), (8, 16), (900, 1800)])
def test_a_person_is_never_cropped(tmp_path, size):
    image = pixels(draw_results([match(person(tmp_path / "p.png", size), size=size)], tmp_path / "out.png"))
    yellow = np.argwhere(np.abs(image - YELLOW).max(-1) < 12)
    cyan = np.argwhere(np.abs(image - CYAN).max(-1) < 12)
    assert len(yellow) and len(cyan)
    assert np.ptp(yellow[:, 1]) == pytest.approx(np.ptp(cyan[:, 1]), abs=2)  # both lines in their full width
    height = cyan[:, 0].max() - yellow[:, 0].min() + 1
    assert height / (np.ptp(yellow[:, 1]) + 1) == pytest.approx(size[1] / size[0], rel=0.1)


def test_each_box_is_framed_in_its_sentence_s_colour(tmp_path):
    file = person(tmp_path / "p.png")
    boxes = ((8.0, 16.0, 24.0, 40.0), (8.0, 80.0, 24.0, 60.0))
    image = pixels(draw_results([match(file, boxes=boxes)], tmp_path / "out.png"))
    top = np.argwhere(np.abs(image - YELLOW).max(-1) < 12)
    y0, x0 = top.min(0)
    scale = (np.ptp(top[:, 1]) + 1) / 40
    for number, (x, y, w, h) in enumerate(boxes):
        inside = image[round(y0 + y * scale) - 3 : round(y0 + (y + h) * scale) + 3]
        inside = inside[:, round(x0 + x * scale) - 3 : round(x0 + (x + w) * scale) + 3]
        around = 2 * (w + h) * scale * 3  # three pixels wide
        assert count(inside, COLOURS[number]) > 0.8 * around
        assert count(inside, COLOURS[1 - number]) == 0


def test_sentences_that_share_a_region_are_all_visible(tmp_path):
    box = (8.0, 40.0, 24.0, 80.0)
    image = pixels(draw_results([match(person(tmp_path / "p.png"), boxes=(box,) * 6)], tmp_path / "out.png"))
    frame_only = pixels(draw_results([match(person(tmp_path / "p.png"), boxes=(None,) * 6)], tmp_path / "out.png"))
    assert image.shape == frame_only.shape
    for number in range(6):
        assert count(image, COLOURS[number]) > count(frame_only, COLOURS[number]) + 100


def test_correct_and_wrong_results_are_framed(tmp_path):
    file = person(tmp_path / "p.png")
    results = [match(file, rank, boxes=()) for rank in (1, 2, 3)]
    plain = pixels(draw_results(results, tmp_path / "a.png"))
    marked = pixels(draw_results(results, tmp_path / "b.png", correct=[True, False, True]))
    assert count(plain, RIGHT) == count(plain, WRONG) == 0
    assert count(marked, RIGHT) > 1.8 * count(marked, WRONG) > 0
    with pytest.raises(ValueError, match="correct has 1 entries for 3 matches"):
        draw_results(results, tmp_path / "c.png", correct=[True])


def test_ten_results_with_eight_long_sentences_fit(tmp_path):
    file = person(tmp_path / "p.png")
    boxes = [(0.0, 16.0 * i, 20.0, 20.0) for i in range(8)]
    results = [match(file, rank, boxes) for rank in range(1, 11)]
    with Image.open(draw_results(results, tmp_path / "out.png")) as image:
        assert 1000 < image.width < 1500 and 1000 < image.height < 2200
    long = [match(file, rank, [None] * 300) for rank in (1, 2)]
    with Image.open(draw_results(long, tmp_path / "long.png")) as image:
        assert image.height < 1500  # the sentences after the twelfth are counted, not drawn


def test_results_after_the_hundredth_are_counted_and_not_drawn(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(result_sheet, "_title", lambda *counts: written.append(_title(*counts)) or written[-1])
    results = [match(tmp_path / "gone.png", rank, boxes=()) for rank in range(1, 124)]
    drawn = {}
    for n in (99, 100, 123):
        with Image.open(draw_results(results[:n], tmp_path / "out.png", [True] * n, columns=10)) as image:
            drawn[n] = image.size
    assert drawn[123] == drawn[100] == drawn[99]
    assert written == ["99 best results for", "100 best results for", "100 best results (and 23 more, not drawn) for"]
    huge = [match(tmp_path / "gone.png", 1, boxes=())] * 100_000
    with Image.open(draw_results(huge, tmp_path / "out.png", columns=10)) as image:
        assert image.size == drawn[100]


def test_a_missing_image_leaves_its_cell_empty(tmp_path):
    results = [match(tmp_path / "gone.png"), match(person(tmp_path / "p.png"), 2)]
    image = pixels(draw_results(results, tmp_path / "out.png"))
    assert count(image, YELLOW) > 0


def test_an_unsupported_suffix_and_no_results_are_refused(tmp_path):
    with pytest.raises(ValueError, match="out.tiff"):
        draw_results([match(tmp_path / "p.png")], tmp_path / "out.tiff")
    with pytest.raises(ValueError, match="no results to draw"):
        draw_results([], tmp_path / "out.png")


def test_real_pedestrians(test_data, tiny_checkpoint, tmp_path):
    model, processor = load_model(tiny_checkpoint)
    Gallery.build(test_data / "pedestrians" / "imgs", model, processor, tmp_path / "index", progress=False)
    query = "A woman with long blond hair. She wears a grey dress. Her shoes are black."
    results = Gallery.open(tmp_path / "index", model, processor).search(query, local_weight=0.5)
    image = pixels(draw_results(results, tmp_path / "out.png"))
    assert all(count(image, COLOURS[number]) > 500 for number in range(3))
