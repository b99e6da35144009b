"""The box of a person is drawn where the detector found it, in the scene's own proportions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling_rogle.display.result_sheet import draw_result
from modeling_rogle.display.scenes import draw_scene
from modeling_rogle.search.results import Match


@pytest.fixture
def match(tmp_path) -> Match:
    Image.new("RGB", (400, 200), "white").save(tmp_path / "scene.png")
    Image.new("RGB", (100, 160), "blue").save(tmp_path / "person.png")
    return Match(
        1, "scene.png#0", tmp_path / "person.png", 0.9, 0.8, 100, 160, (),
        scene="scene.png", scene_file=tmp_path / "scene.png", scene_box=(200.0, 20.0, 100.0, 160.0),
    )  # fmt: skip


def test_the_box_is_where_the_person_is(match):
    drawn = draw_scene(match, 200, 200)
    assert drawn is not None and drawn.size == (200, 100)
    rows, columns = np.nonzero(np.asarray(drawn).min(axis=2) < 128)
    assert (columns.min(), rows.min()) == (100, 10)
    assert abs(columns.max() - 150) <= 1 and abs(rows.max() - 90) <= 1
    assert draw_result(match).height > draw_result(replace(match, scene_file=None)).height


def test_without_a_readable_scene_nothing_is_drawn(match):
    assert draw_scene(replace(match, scene_file=None), 200, 200) is None
    assert draw_scene(replace(match, scene_file=Path("/nowhere.png")), 200, 200) is None
