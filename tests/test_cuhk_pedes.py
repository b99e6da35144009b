import pytest
from source_layouts import write_records, write_source

from dataset_pvlg.features import FEATURES
from dataset_pvlg.sources.cuhk_pedes import camera
from dataset_pvlg.sources.read import read_source
from dataset_pvlg.sources.report import SourceError


def test_reads_rows_of_the_schema_by_split(tmp_path):
    _, records = write_source(tmp_path, "cuhk_pedes")
    data, report = read_source("cuhk_pedes", tmp_path)
    assert {split: len(rows) for split, rows in data.items()} == {"train": 8, "validation": 2, "test": 2}
    assert data["train"].features == FEATURES
    assert report.rows == {"train": 8, "validation": 2, "test": 2}
    assert report.identities == {"train": 4, "validation": 1, "test": 1}
    assert report.captions == {"train": 16, "validation": 4, "test": 4}
    assert (report.records, sum(report.skipped.values())) == (12, 0)
    row = data["train"][3]
    assert row["path"] == records[3]["file_path"] == "Market/0002_c2s1_000001_00.jpg"
    assert row["image_id"] == "cuhk_pedes/Market/0002_c2s1_000001_00.jpg"
    assert (row["person_id"], row["source"], row["camera"], row["parent"]) == (10_000_002, "cuhk_pedes", "c2", None)
    assert row["captions"] == records[3]["captions"]  # untouched, blanks and all
    assert row["caption"] == "A man wears a green shirt and grey pants. Picture 1. He walks."
    assert row["caption_origin"] == "human_joined"
    assert [row["caption"][s["start"] : s["end"]] for s in row["sentences"]] == [
        "A man wears a green shirt and grey pants.",
        "Picture 1.",
        "He walks.",
    ]
    assert row["regions"] == []
    assert row["image"].size == (row["width"], row["height"]) == (24, 60)


@pytest.mark.parametrize("folder", ["CUHK-PEDES", "."])
@pytest.mark.parametrize("as_file", [False, True])
def test_root_may_be_the_set_the_folder_above_or_the_file(tmp_path, folder, as_file):
    file, _ = write_source(tmp_path / folder, "cuhk_pedes", people=3)
    data, _ = read_source("cuhk_pedes", file if as_file else tmp_path)
    assert sum(map(len, data.values())) == 6


def test_file_as_mailed_without_any_split_says_what_to_do(tmp_path):
    file, records = write_source(tmp_path, "cuhk_pedes")
    file.unlink()
    write_records(tmp_path / "caption_all.json", [{k: v for k, v in r.items() if k != "split"} for r in records])
    with pytest.raises(SourceError, match=r"caption_all\.json: field 'split': no record has one.*reid_raw\.json"):
        read_source("cuhk_pedes", tmp_path)


def test_another_form_of_the_set_is_named(tmp_path):
    write_records(tmp_path / "reid_raw.json", {"categories": [], "annotations": []})
    with pytest.raises(SourceError, match=r"reid_raw\.json: a list of records is expected, this is a dict"):
        read_source("cuhk_pedes", tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Market/1488_c3s3_071419_00.jpg.jpg", "c3"),
        ("cam_a/001_45.bmp", "cam_a"),
        ("CUHK01/0258001.png", None),
        ("CUHK03/12_1.jpg", None),
        ("test_query/p2703_s3526.jpg", None),
    ],
)
def test_camera(name, expected):
    assert camera(name) == expected


def test_real_pictures(test_data):
    folder = test_data / "pedestrians"
    data, report = read_source("cuhk_pedes", folder / "formats" / "cuhk_pedes", image_root=folder / "imgs")
    assert {split: len(rows) for split, rows in data.items()} == {"train": 45, "validation": 14, "test": 31}
    assert report.identities == {"train": 6, "validation": 2, "test": 4}
    assert not report.skipped and not report.dropped and not report.repaired
    assert all(row["image"].size == (row["width"], row["height"]) for row in data["test"])
