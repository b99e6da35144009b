import pytest

from dataset_pvlg.readers.icfg_pedes import camera
from dataset_pvlg.readers.read import read_source
from tests.helpers.source_layouts import write_records, write_source


@pytest.mark.parametrize("name", ["ICFG-PEDES.json", "ICFG_PEDES.json"])
def test_both_file_names_are_found(tmp_path, name):
    file, _ = write_source(tmp_path, "icfg_pedes")
    file.rename(tmp_path / name)
    data, _ = read_source("icfg_pedes", tmp_path)
    row = data["test"][0]
    assert (row["person_id"], row["camera"], row["caption_origin"]) == (20_000_005, "c5", "human")
    assert row["captions"] == [row["caption"]] == ["A man wears a orange shirt and grey pants."]


def test_validation_is_held_out_of_train_by_identity_with_a_warning(tmp_path):
    write_source(tmp_path, "icfg_pedes", people=31)
    data, report = read_source("icfg_pedes", tmp_path)
    people = {split: set(rows["person_id"]) for split, rows in data.items()}
    assert [len(people[split]) for split in ("train", "validation", "test")] == [28, 2, 1]
    assert not people["train"] & people["validation"]
    assert any("2 of its 30 training identities" in line for line in report.warnings)
    again, _ = read_source("icfg_pedes", tmp_path)
    assert set(again["validation"]["person_id"]) == people["validation"]


def test_held_out_identities_do_not_depend_on_the_order_of_records(tmp_path):
    file, records = write_source(tmp_path, "icfg_pedes")
    first = set(read_source("icfg_pedes", tmp_path)[0]["validation"]["person_id"])
    write_records(file, records[::-1])
    assert set(read_source("icfg_pedes", tmp_path)[0]["validation"]["person_id"]) == first
    assert len(first) == 1


def test_held_out_identities_do_not_depend_on_which_images_are_there(tmp_path):
    write_source(tmp_path, "icfg_pedes", people=31)
    held_out = set(read_source("icfg_pedes", tmp_path)[0]["validation"]["person_id"])
    removed = min(held_out)
    for path in (tmp_path / "imgs").rglob(f"{removed - 20_000_000:04d}_*.jpg"):
        path.unlink()
    data, report = read_source("icfg_pedes", tmp_path)
    assert set(data["validation"]["person_id"]) == held_out - {removed}
    assert report.skipped == {"image missing": 2}
    assert any("2 of its 30 training identities" in line for line in report.warnings)


def test_an_existing_validation_split_stays(tmp_path):
    file, records = write_source(tmp_path, "icfg_pedes")
    for record in records[:2]:
        record["split"] = "VAL"
    write_records(file, records)
    data, report = read_source("icfg_pedes", tmp_path)
    assert set(data["validation"]["person_id"]) == {20_000_000}
    assert not report.warnings


@pytest.mark.parametrize("spelling", [str.upper, str.title, " {} ".format])
def test_splits_may_be_spelt_in_any_case(tmp_path, spelling):
    file, records = write_source(tmp_path, "icfg_pedes")
    expected = {split: rows["path"][:] for split, rows in read_source("icfg_pedes", tmp_path)[0].items()}
    for record in records:
        record["split"] = spelling(record["split"])
    write_records(file, records)
    found = {split: rows["path"][:] for split, rows in read_source("icfg_pedes", tmp_path)[0].items()}
    assert found == expected


def test_folders_of_msmt17_do_not_determine_the_split(tmp_path):
    file, records = write_source(tmp_path, "icfg_pedes")
    assert {record["file_path"].split("/")[0] for record in records} == {"test"}
    assert len(read_source("icfg_pedes", tmp_path)[0]["train"]) == 8


def test_splits_may_be_chosen_and_the_rest_is_counted(tmp_path):
    write_source(tmp_path, "icfg_pedes")
    data, report = read_source("icfg_pedes", tmp_path, splits=["validation"])
    assert list(data) == ["validation"]
    assert report.skipped == {"split not requested": 10}
    assert sum(report.rows.values()) + 10 == report.records == 12


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test/0627/0627_010_05_0303afternoon_1591_0.jpg", "c5"),
        ("train/0001/0001_000_15_0113morning_0025_2_ex.jpg", "c15"),
        ("0001_c1_0080.jpg", None),
    ],
)
def test_camera(name, expected):
    assert camera(name) == expected


def test_real_images(test_data):
    folder = test_data / "pedestrians"
    data, report = read_source("icfg_pedes", folder / "formats" / "icfg_pedes", image_root=folder / "imgs")
    assert sum(map(len, data.values())) == report.records == 90
    assert report.identities == {"train": 7, "validation": 1, "test": 4}
    assert len(data["test"]) == 31
