import pytest

from dataset_pvlg.readers.read import read_source
from dataset_pvlg.readers.records import Record
from dataset_pvlg.readers.report import ReadReport
from dataset_pvlg.readers.rstpreid import camera, check
from tests.helpers.source_layouts import write_source


def test_reads_paths_from_img_path_and_cameras_from_names(tmp_path):
    write_source(tmp_path, "rstpreid")
    data, report = read_source("rstpreid", tmp_path)
    assert report.rows == {"train": 8, "validation": 2, "test": 2}
    row = data["test"][1]
    assert (row["path"], row["camera"], row["person_id"]) == ("0005_c10_0001.jpg", "c10", 30_000_005)


def test_a_part_of_the_set_is_warned_about(tmp_path):
    write_source(tmp_path, "rstpreid")
    _, report = read_source("rstpreid", tmp_path)
    assert len(report.warnings) == 1
    assert "match neither release" in report.warnings[0]
    assert "train 4/8" in report.warnings[0]


def records(split: str, people: int, images: int) -> list[Record]:
    return [Record("", split, n % people, "img_path", f"{n}.jpg", []) for n in range(images)]


@pytest.mark.parametrize(
    ("sizes", "warning"),
    [
        ({"train": (3701, 18505), "validation": (200, 1000), "test": (200, 1000)}, None),
        ({"train": (3901, 19505), "validation": (100, 500), "test": (100, 500)}, "before 2022-10-17"),
        ({"train": (3701, 18500), "validation": (200, 1000), "test": (200, 1000)}, "some records are missing"),
        ({"train": (3701, 18505), "test": (200, 1000)}, "neither"),
    ],
)
def test_both_releases_are_recognised_by_their_counts(sizes, warning):
    report = ReadReport("rstpreid")
    check([record for split, size in sizes.items() for record in records(split, *size)], report)
    assert [warning in line for line in report.warnings] == ([True] if warning else [])


@pytest.mark.parametrize(
    ("name", "expected"), [("0000_c14_0031.jpg", "c14"), ("a/0000_c1_0031.jpg", "c1"), ("1.jpg", None)]
)
def test_camera(name, expected):
    assert camera(name) == expected


def test_real_images(test_data):
    folder = test_data / "pedestrians"
    data, report = read_source("rstpreid", folder / "formats" / "rstpreid", image_root=folder / "imgs")
    assert {split: len(rows) for split, rows in data.items()} == {"train": 45, "validation": 14, "test": 31}
    assert set(data["train"]["camera"]) == {"c1", "c2", "c3"}
    assert not report.skipped
