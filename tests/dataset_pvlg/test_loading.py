"""Rows by name: the embedded sets, a Parquet folder, or a public layout; one line for any other name."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset_pvlg.features import FEATURES
from dataset_pvlg.loading import DATASET_NAMES, SYNTHETIC_NAMES, load_rows


def make_cuhk_pedes(root: Path) -> Path:
    """A CUHK-PEDES layout of six people in three splits, one image of noise each."""
    (root / "imgs/cam").mkdir(parents=True)
    records = []
    for person in range(1, 7):
        pixels = np.random.default_rng(person).integers(0, 255, (48, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"imgs/cam/{person}.png")
        split = ("train", "val", "test")[person % 3]
        captions = [f"A man wears a red jacket. He carries {person} bags.", "A man with white shoes."]
        records.append({"split": split, "captions": captions, "file_path": f"cam/{person}.png", "id": person})
    (root / "reid_raw.json").write_text(json.dumps(records))
    return root


def test_the_embedded_tiny_set_has_three_splits_of_schema_rows() -> None:
    data, report = load_rows("synthetic-tiny")
    assert report is None
    assert {split: len(rows) for split, rows in data.items()} == {"train": 48, "validation": 16, "test": 16}
    assert data["test"].features == FEATURES
    assert data["test"][0]["image"].size == (data["test"][0]["width"], data["test"][0]["height"])


def test_a_folder_of_parquet(tmp_path: Path) -> None:
    rows, _ = load_rows("synthetic-tiny")
    rows["test"].select(range(3)).to_parquet(tmp_path / "test-00000-of-00001.parquet")
    data, report = load_rows("pvlg", tmp_path)
    assert report is None
    assert list(data) == ["test"]
    assert data["test"]["image_id"][:] == rows["test"]["image_id"][:3]


def test_annotations_only_are_refused_where_images_are_needed(tmp_path: Path) -> None:
    rows, _ = load_rows("synthetic-tiny")
    rows["test"].select(range(3)).remove_columns("image").to_parquet(tmp_path / "test-00000-of-00001.parquet")
    assert load_rows("pvlg", tmp_path)[0]["test"]["image"][:] == [None] * 3
    with pytest.raises(ValueError, match="3 rows have no image"):
        load_rows("pvlg", tmp_path, images=True)


def test_a_public_layout_comes_with_its_report(tmp_path: Path) -> None:
    data, report = load_rows("cuhk_pedes", make_cuhk_pedes(tmp_path))
    assert {split: len(rows) for split, rows in data.items()} == {"train": 2, "validation": 2, "test": 2}
    assert report.records == 6
    assert data["test"].features == FEATURES


def test_the_real_layouts(test_data: Path) -> None:
    root = test_data / "pedestrians"
    for name in ("cuhk_pedes", "icfg_pedes", "rstpreid", "ufine"):
        data, report = load_rows(name, root / "formats" / name, root / "imgs")
        assert len(data["test"]) > 0
        assert sum(len(rows) for rows in data.values()) == sum(report.rows.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cuhk",), "dataset 'cuhk' is not known; known are synthetic, "),
        (("synthetic", "somewhere"), "takes no data root"),
        (("pvlg",), "'pvlg' needs a data root"),
        (("cuhk_pedes",), "'cuhk_pedes' needs a data root"),
        (("pvlg", "somewhere", "elsewhere"), "takes no image root"),
    ],
)
def test_wrong_arguments_are_one_line(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        load_rows(*arguments)
    assert "\n" not in str(error.value)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    for name in set(DATASET_NAMES) - set(SYNTHETIC_NAMES):
        with pytest.raises(ValueError, match=tmp_path.name):
            load_rows(name, tmp_path)
