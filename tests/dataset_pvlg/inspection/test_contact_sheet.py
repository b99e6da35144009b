"""A contact sheet shows each row's image, regions and text; a region and its sentences have the same colour."""

import numpy as np
import pytest
from PIL import Image

from dataset_pvlg.features import FEATURES
from dataset_pvlg.inspection import contact_sheet
from dataset_pvlg.inspection.contact_sheet import draw_sheet, read_rows, region_colours
from modeling_rogle.display.drawing import COLOURS
from tests.helpers.commands import one_line, run_data_command
from tests.helpers.source_layouts import write_source


def row(**changes) -> dict:
    made = {
        "image": Image.new("RGB", (60, 150), (90, 200, 90)),
        "path": "a.jpg", "sha256": None, "image_id": "own/a", "width": 60, "height": 150, "person_id": 7,
        "source": "own", "camera": None, "parent": None, "captions": ["A man in red."],
        "caption": "He wears a red shirt. He stands.", "caption_origin": "human",
        "sentences": [{"text": "He wears a red shirt.", "start": 0, "end": 21},
                      {"text": "He stands.", "start": 22, "end": 32}],
        "regions": [{"bbox": [10.0, 30.0, 40.0, 50.0], "label": "upper body", "sentence": 0, "score": 1.0,
                     "reliability": 1.0, "origin": "human"}],
        "claims": None,
    }  # fmt: skip
    assert set(made) == set(FEATURES)
    return {**made, **changes}


def pixels_of(path, colour: str) -> int:
    rgb = tuple(int(colour[n : n + 2], 16) for n in (1, 3, 5))
    return int((np.asarray(Image.open(path).convert("RGB")) == rgb).all(-1).sum())


def test_a_sheet_shows_the_image_with_and_without_frames(tmp_path):
    path = draw_sheet([row()], tmp_path / "deep" / "sheet.png")
    colour = region_colours(row()["regions"])[(10.0, 30.0, 40.0, 50.0)]
    framed = pixels_of(path, colour)
    bare = pixels_of(draw_sheet([row(regions=[])], tmp_path / "bare.png"), colour)
    assert framed > 600 and bare == 0  # the frame has over 600 pixels
    green = pixels_of(path, "#5ac85a")
    assert 1.5 * 136 * 340 < green < 2 * 136 * 340


def test_sentences_have_the_colour_of_their_region(tmp_path):
    unpaired = [{**row()["regions"][0], "sentence": -1}]
    colour = region_colours(unpaired)[(10.0, 30.0, 40.0, 50.0)]
    paired = pixels_of(draw_sheet([row()], tmp_path / "paired.png"), colour)
    assert paired > pixels_of(draw_sheet([row(regions=unpaired)], tmp_path / "unpaired.png"), colour) + 50


def test_a_sentence_about_several_regions_has_a_bar_of_their_colours(tmp_path):
    first = row()["regions"][0]
    legs = {**first, "bbox": [10.0, 90.0, 40.0, 50.0], "label": "lower body"}
    colour = region_colours([first, legs])[tuple(legs["bbox"])]
    both = pixels_of(draw_sheet([row(regions=[first, legs])], tmp_path / "both.png"), colour)
    alone = pixels_of(draw_sheet([row(regions=[first, {**legs, "sentence": -1}])], tmp_path / "alone.png"), colour)
    assert 4 * 8 <= both - alone < 200  # half of a bar beside one line, and the legend


def test_boxes_of_one_image_have_different_colours():
    regions = [
        {"bbox": [float(n), 0.0, 5.0, 5.0], "label": label}
        for n, label in enumerate(("head", "bag", "head", "whole image", "left half", "bag"))
    ]
    colours = region_colours([*regions, regions[0]])
    assert len(colours) == len(set(colours.values())) == 6
    assert colours[(0.0, 0.0, 5.0, 5.0)] == COLOURS[0] and colours[(1.0, 0.0, 5.0, 5.0)] == COLOURS[4]
    many = region_colours([{"bbox": [float(n), 0.0, 5.0, 5.0], "label": "part"} for n in range(25)])
    assert len(many) == 25


def test_more_text_makes_a_taller_sheet_and_more_rows_a_wider_or_taller_one(tmp_path):
    def size(rows, columns=2):
        return Image.open(draw_sheet(rows, tmp_path / "s.png", columns)).size

    one = size([row()])
    long = row(sentences=[{"text": "He wears a red shirt. " * 8, "start": 0, "end": 1}] * 9)
    assert size([long])[1] > one[1] + 200
    assert size([row(), row()]) == (2 * one[0] - 40 + 24, one[1])
    assert size([row(), row()], columns=1)[1] > 1.8 * one[1]
    assert size([row(width=300, height=150, image=Image.new("RGB", (300, 150)))])[0] < 1000


def test_row_without_image_and_boxes_is_drawn(tmp_path):
    path = draw_sheet([row(image=None, regions=[], captions=[], sentences=[])], tmp_path / "s.png")
    assert Image.open(path).size[1] > 340


def test_bad_input_leaves_the_old_sheet(tmp_path):
    old = draw_sheet([row()], tmp_path / "s.png").read_bytes()
    with pytest.raises(ValueError, match="no rows"):
        draw_sheet([], tmp_path / "s.png")
    with pytest.raises(ValueError, match="sheet.gif"):
        draw_sheet([row()], tmp_path / "sheet.gif")
    assert (tmp_path / "s.png").read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["s.png"]


def test_rows_start_count_and_every_choose_the_rows():
    every = read_rows("synthetic-tiny", "test", 0, 16)
    assert len(every) == 16 and len(read_rows("synthetic-tiny", "test", 0, 99)) == 16
    ids = [r["image_id"] for r in every]
    assert [r["image_id"] for r in read_rows("synthetic-tiny", "test", 3, 3, every=2)] == ids[3:9:2]
    assert len({r["person_id"] for r in read_rows("synthetic-tiny", "test", 0, 8, every=2)}) == 8


def test_command_writes_a_sheet(tmp_path, capsys):
    out = tmp_path / "sheet.png"
    arguments = ["--out", str(out), "--dataset", "synthetic-tiny", "--count", "3", "--start", "1"]
    assert run_data_command(contact_sheet, arguments) == 0
    assert "3 images" in capsys.readouterr().out
    assert Image.open(out).size[0] > 900 and [p.name for p in tmp_path.iterdir()] == ["sheet.png"]


def test_images_of_a_public_layout_may_be_in_another_folder(tmp_path, capsys):
    write_source(tmp_path / "set", "cuhk_pedes", people=3)
    (tmp_path / "set" / "imgs").rename(tmp_path / "images")
    out = tmp_path / "sheet.png"
    arguments = ["--out", str(out), "--dataset", "cuhk_pedes", "--data-root", str(tmp_path / "set")]
    with pytest.raises(ValueError):
        run_data_command(contact_sheet, arguments)
    assert not out.exists()
    assert run_data_command(contact_sheet, [*arguments, "--image-root", str(tmp_path / "images")]) == 0
    assert "2 images" in capsys.readouterr().out and out.exists()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (["--split", "tst"], "--split tst"),
        (["--start", "16"], "--start 16"),
        (["--start", "-1"], "--start"),
        (["--count", "0"], "--count"),
        (["--count", "9999"], "--count"),
        (["--dataset", "pedes"], "'pedes'"),
        (["--dataset", "pvlg"], "data root"),
        (["--data-root", "."], "data root"),
        (["--image-root", "."], "image root"),
        (["--out", "sheet.txt"], "sheet.txt"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, monkeypatch, wrong, named):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as caught:
        run_data_command(contact_sheet, ["--out", "sheet.png", "--dataset", "synthetic-tiny", *wrong])
    assert named in one_line(caught.value)
    assert not list(tmp_path.iterdir())
