import pytest

from dataset_pvlg.readers.read import read_source
from dataset_pvlg.readers.report import SourceError
from tests.helpers.source_layouts import write_records, write_source


def test_paths_resolve_as_written_where_the_folder_images_is(tmp_path):
    write_source(tmp_path, "ufine")
    data, report = read_source("ufine", tmp_path)
    assert not report.repaired
    assert data["test"]["path"][:] == ["images/60.jpg", "images/61.jpg"]
    assert data["test"]["person_id"][:] == [40_000_006] * 2
    assert report.identities == {"train": 4, "validation": 1, "test": 1}


def test_without_their_first_folder_paths_are_found_and_counted(tmp_path):
    write_source(tmp_path, "ufine")
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    data, report = read_source("ufine", tmp_path, image_root=tmp_path / "elsewhere")
    assert report.repaired == {"image found without the first folder of its path": 12}
    assert data["test"]["path"][:] == ["60.jpg", "61.jpg"]


def test_several_json_files_are_refused(tmp_path):
    file, records = write_source(tmp_path, "ufine")
    write_records(tmp_path / "other.json", records)
    with pytest.raises(SourceError, match="no annotation file of ufine"):
        read_source("ufine", tmp_path)
    assert sum(map(len, read_source("ufine", file)[0].values())) == 12


@pytest.mark.parametrize("source", ["cuhk_pedes", "icfg_pedes", "rstpreid"])
def test_another_sets_file_is_refused(tmp_path, source):
    file, _ = write_source(tmp_path, source)
    for root, line in (
        (tmp_path, f"no annotation file of ufine .*; {file.name} is a file of {source}"),
        (file, f"{file.name}: is a file of {source}, not of ufine"),
    ):
        with pytest.raises(SourceError, match=line) as error:
            read_source("ufine", root)
        assert "\n" not in str(error.value)


def test_a_file_of_another_data_set_in_the_folder_is_ignored(tmp_path):
    file, _ = write_source(tmp_path / "UFine6926", "ufine")
    write_source(tmp_path, "cuhk_pedes")
    assert read_source("ufine", tmp_path)[1].file == str(file)


def test_ufine3c_is_all_test_with_captions_of_varying_number(tmp_path):
    _, records = write_source(tmp_path, "ufine3c")
    data, report = read_source("ufine3c", tmp_path)
    assert set(data) == {"test"} and not report.warnings
    assert {len(captions) for captions in data["test"]["captions"]} == {2, 3, 4, 5, 6, 7}
    assert data["test"]["person_id"][:2] == [50_000_001] * 2
    assert set(data["test"]["source"]) == {"ufine3c"}
    assert report.noted == {"taken from ICFG-PEDES": 6, "taken from UFine6926": 6}


def test_ufine3c_and_ufine6926_are_not_confused(tmp_path):
    write_source(tmp_path / "6926", "ufine")
    write_source(tmp_path / "3c", "ufine3c")
    with pytest.raises(SourceError, match="annotations.json: every record is 'test' .* this is ufine3c, not ufine"):
        read_source("ufine", tmp_path / "3c")
    _, report = read_source("ufine3c", tmp_path / "6926")
    assert "is this UFine6926?" in report.warnings[0]


def test_a_joined_caption_repeats_no_sentence(tmp_path):
    file, records = write_source(tmp_path, "ufine")
    records[0]["captions"] = ["He has a hat. His shoes are red", "His shoes are red. He carries a bag."]
    write_records(file, records)
    data, _ = read_source("ufine", tmp_path)
    rows = {row["path"]: row for split in data.values() for row in split}
    row = rows[records[0]["file_path"]]
    assert row["caption"] == "He has a hat. His shoes are red. He carries a bag."
    assert row["captions"] == records[0]["captions"]
    assert len(row["sentences"]) == 3


def test_real_images(test_data):
    folder = test_data / "pedestrians"
    data, report = read_source("ufine", folder / "formats" / "ufine", image_root=folder / "imgs")
    assert report.repaired == {"image found without the first folder of its path": 90}
    assert sum(report.rows.values()) == 90
    assert report.identities == {"train": 7, "validation": 1, "test": 4}
    assert min(map(len, data["train"]["sentences"])) >= 4
