import json

import pytest

from dataset_pvlg.features import FEATURES
from dataset_pvlg.readers.cuhk_pedes import camera
from dataset_pvlg.readers.read import read_source
from dataset_pvlg.readers.report import SourceError
from tests.helpers.source_layouts import write_records, write_source, write_textreid


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
    assert row["caption"] == "A man wears a green shirt and grey pants. Image 1. He walks."
    assert row["caption_origin"] == "human_joined"
    assert [row["caption"][s["start"] : s["end"]] for s in row["sentences"]] == [
        "A man wears a green shirt and grey pants.",
        "Image 1.",
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


def without_split(records: list[dict]) -> list[dict]:
    return [{name: value for name, value in record.items() if name != "split"} for record in records]


def people(data) -> dict[str, set[int]]:
    return {split: {number - 10_000_000 for number in rows["person_id"]} for split, rows in data.items()}


@pytest.mark.parametrize("name", ["caption_all.json", "CUHK-PEDES.json"])
def test_file_as_sent_gets_the_official_split_from_its_ids(tmp_path, name):
    file, records = write_source(tmp_path, "cuhk_pedes")
    file.unlink()
    for record, person in zip(records[::2], (1, 11003, 11004, 12003, 12004, 13003), strict=True):
        record["id"] = records[records.index(record) + 1]["id"] = person
    write_records(tmp_path / name, without_split(records))
    data, report = read_source("cuhk_pedes", tmp_path)
    assert people(data) == {"train": {1, 11003}, "validation": {11004, 12003}, "test": {12004, 13003}}
    assert ["official splits were taken from the ids" in line for line in report.warnings] == [True]


def test_part_of_the_file_as_sent_is_split_by_identity_with_a_warning(tmp_path):
    file, records = write_source(tmp_path, "cuhk_pedes", people=14)
    file.unlink()
    write_records(tmp_path / "caption_all.json", without_split(records))
    data, report = read_source("cuhk_pedes", tmp_path)
    first = people(data)
    assert [len(first[split]) for split in ("train", "validation", "test")] == [12, 1, 1]
    assert sorted(set.union(*first.values())) == list(range(1, 15))
    assert "do not compare with the official split" in report.warnings[0]
    write_records(tmp_path / "caption_all.json", without_split(records)[::-1])
    assert people(read_source("cuhk_pedes", tmp_path)[0]) == first


def test_reid_raw_is_preferred_to_the_file_without_splits(tmp_path):
    _, records = write_source(tmp_path, "cuhk_pedes")
    write_records(tmp_path / "caption_all.json", without_split(records))
    assert read_source("cuhk_pedes", tmp_path)[1].file_name == "reid_raw.json"


@pytest.fixture
def textreid(tmp_path):
    """The same set in TextReID's form, and as reid_raw.json."""
    file, records = write_source(tmp_path / "set", "cuhk_pedes")
    file.rename(tmp_path / "reid_raw.json")
    write_textreid(tmp_path / "set" / "annotations", records)
    return tmp_path


@pytest.mark.parametrize("root", ["set", "set/annotations", "set/annotations/val.json"])
def test_textreids_form_gives_the_same_rows(textreid, root):
    data, report = read_source("cuhk_pedes", textreid / root)
    expected, _ = read_source("cuhk_pedes", textreid / "reid_raw.json", textreid / "set" / "imgs")
    assert {split: rows.to_list() for split, rows in data.items()} == {
        split: rows.to_list() for split, rows in expected.items()
    }
    assert report.records == sum(report.rows.values()) == 12
    assert report.noted["sentence joined to the image that it describes"] == 12


def test_textreids_form_survives_bad_rows_and_a_missing_split(textreid):
    folder = textreid / "set" / "annotations"
    (folder / "val.json").unlink()
    content = json.loads((folder / "train.json").read_text())
    content["annotations"] += ["text", {"id": 3, "sentence": "A man."}, {"file_path": "a.jpg"}]
    content["annotations"][0]["sentence"] = " "
    write_records(folder / "train.json", content)
    data, report = read_source("cuhk_pedes", folder)
    assert set(data) == {"train", "test"}
    assert len(data["train"][0]["captions"]) == 1
    assert report.dropped == {"caption is empty": 1}
    assert sum(report.skipped.values()) == 3
    assert report.records == sum(report.rows.values()) + 3
    assert "val.json is not beside train.json: this split is missing" in report.warnings


def test_textreids_form_under_another_name_is_one_clear_line(tmp_path):
    write_records(tmp_path / "reid_raw.json", {"categories": [], "annotations": []})
    with pytest.raises(
        SourceError, match=r"reid_raw\.json: has the form of TextReID; its files are called train\.json"
    ):
        read_source("cuhk_pedes", tmp_path)
    write_records(tmp_path / "train.json", {"categories": [], "annotations": []})
    with pytest.raises(SourceError, match=r"train\.json: field 'annotations': no sentence in any"):
        read_source("cuhk_pedes", tmp_path / "train.json")


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


def test_real_images(test_data):
    folder = test_data / "pedestrians"
    data, report = read_source("cuhk_pedes", folder / "formats" / "cuhk_pedes", image_root=folder / "imgs")
    assert {split: len(rows) for split, rows in data.items()} == {"train": 45, "validation": 14, "test": 31}
    assert report.identities == {"train": 6, "validation": 2, "test": 4}
    assert not report.skipped and not report.dropped and not report.repaired
    assert all(row["image"].size == (row["width"], row["height"]) for row in data["test"])
