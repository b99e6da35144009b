"""Bad input gives one line that names file and field, or a skipped record that is counted."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from dataset_pvlg.readers.read import read_source
from dataset_pvlg.readers.report import ReadReport, SourceError
from tests.helpers.source_layouts import draw_person, write_records, write_source


@pytest.fixture
def source(tmp_path: Path) -> tuple[Path, list[dict]]:
    return write_source(tmp_path / "set", "cuhk_pedes", people=4)


def read(file: Path, records: list) -> tuple[dict, ReadReport]:
    """Read, and check the invariant of every read: a record gives a row or is counted."""
    write_records(file, records)
    data, report = read_source("cuhk_pedes", file)
    assert sum(map(len, data.values())) == sum(report.rows.values())
    assert sum(report.rows.values()) + sum(report.skipped.values()) == report.records == len(records)
    assert json.loads(json.dumps(report.as_dict())) == report.as_dict()
    for rows in data.values():
        for row in rows:
            assert all(row["caption"][s["start"] : s["end"]] == s["text"] for s in row["sentences"])
    return data, report


def set_field(name, value):
    return lambda record, images: record.__setitem__(name, value)


def remove_field(name):
    return lambda record, images: record.pop(name)


def remove_image(record, images):
    (images / record["file_path"]).unlink()


def truncate_image(record, images):
    path = images / record["file_path"]
    path.write_bytes(path.read_bytes()[:-200])


def overwrite_image(content):
    return lambda record, images: (images / record["file_path"]).write_bytes(content)


def link_image_out(record, images):
    path = images / record["file_path"]
    draw_person(images.parent.parent / "elsewhere.jpg", 0)
    path.unlink()
    path.symlink_to(images.parent.parent / "elsewhere.jpg")


def climb(record, images):
    draw_person(images.parent.parent / "elsewhere.jpg", 0)
    record["file_path"] = "../../elsewhere.jpg"


def climb_and_return(record, images):
    record["file_path"] = "../imgs/" + record["file_path"]


def absolute(record, images):
    record["file_path"] = str((images / record["file_path"]).absolute())


def same_image_in_test(record, images):
    record["file_path"] = "Market/0004_c1s1_000000_00.jpg"


SKIPPED = {
    "missing image": (remove_image, "image missing", "field 'file_path': 'Market/"),
    "truncated JPEG": (truncate_image, "image does not decode", "truncated"),
    "empty image file": (overwrite_image(b""), "image does not decode", "not an image"),
    "text as image": (overwrite_image(b"hello"), "image does not decode", "not an image"),
    "path climbs": (climb, "image path leads out of the image root", "field 'file_path': '../../elsewhere.jpg'"),
    "path climbs and returns": (climb_and_return, "image path leads out of the image root", "'../imgs/"),
    "absolute path": (absolute, "image path leads out of the image root", "field 'file_path': '/"),
    "drive letter": (set_field("file_path", "C:\\a.jpg"), "image path leads out of the image root", "C:"),
    "nul in path": (set_field("file_path", "a\0.jpg"), "image path leads out of the image root", "a\\x00"),
    "symbolic link": (link_image_out, "image path leads out of the image root", "field 'file_path': 'Market/"),
    "folder as image": (set_field("file_path", "Market"), "image missing", "field 'file_path': 'Market'"),
    "path too long": (set_field("file_path", "a" * 5000), "image missing", "aaa"),
    "no path": (remove_field("file_path"), "field 'file_path' missing", "field 'file_path'"),
    "number as path": (set_field("file_path", 7), "field 'file_path' is not a path", "field 'file_path': 7"),
    "no split": (remove_field("split"), "field 'split' missing", "field 'split'"),
    "unknown split": (set_field("split", "gallery"), "field 'split' names no split", "field 'split': 'gallery'"),
    "no id": (remove_field("id"), "field 'id' missing", "field 'id'"),
    "word as id": (set_field("id", "x"), "field 'id' is not a number of a person", "field 'id': 'x'"),
    "junk id": (set_field("id", -1), "field 'id' marks junk or a distractor", "field 'id': -1"),
    "huge id": (set_field("id", 10**12), "field 'id' is not a number of a person", "field 'id': 1000"),
    "no captions": (remove_field("captions"), "field 'captions' missing", "field 'captions'"),
    "empty list of captions": (set_field("captions", []), "no caption left", "field 'captions'"),
    "only empty captions": (set_field("captions", ["", " \n"]), "no caption left", "field 'captions'"),
    "number as captions": (set_field("captions", 3), "no caption left", "field 'captions'"),
    "same image in test": (
        same_image_in_test,
        "image already used by another identity or split",
        "field 'file_path': 'Market/0004",
    ),
}


@pytest.mark.parametrize("case", SKIPPED)
def test_bad_record_is_skipped_counted_and_named(source, case):
    file, records = source
    spoil, reason, named = SKIPPED[case]
    bad = 7 if case == "same image in test" else 1  # the second record of a pair, after the rightful owner
    if case == "same image in test":
        records.insert(7, dict(records[0]))
    spoil(records[bad], file.parent / "imgs")
    data, report = read(file, records)
    assert report.skipped == {reason: 1}
    line = report.examples[reason][0]
    assert line.startswith(f"reid_raw.json: record {bad}") and named in line
    assert f"skipped: 1 x {reason}" in str(report)


def test_record_that_is_no_object_is_skipped(source):
    file, records = source
    _, report = read(file, [*records, "text", None])
    assert report.skipped == {"record is not an object": 2}


def test_string_where_a_list_belongs_is_repaired_and_counted(source):
    file, records = source
    records[0]["captions"] = "A man in a red coat."
    data, report = read(file, records)
    assert data["train"][0]["captions"] == ["A man in a red coat."]
    assert report.repaired == {"captions given as a string": 1}
    assert "record 0: field 'captions'" in str(report)


def test_an_empty_caption_is_dropped_and_the_rest_stays(source):
    file, records = source
    records[0]["captions"] = ["", "A man in red.", None, " "]
    data, report = read(file, records)
    assert data["train"][0]["captions"] == ["A man in red."]
    assert data["train"][0]["caption_origin"] == "human"
    assert report.dropped == {"caption is empty": 2, "caption is not text": 1}


def test_id_as_a_string_is_repaired(source):
    file, records = source
    records[0]["id"] = " 1"
    data, report = read(file, records)
    assert data["train"][0]["person_id"] == 10_000_001
    assert report.repaired == {"id given as a string": 1}


def test_a_lone_surrogate_does_not_stop_the_read(source):
    file, records = source
    records[0]["captions"] = ["A man \ud83d in red."]
    data, report = read(file, records)
    assert data["train"][0]["captions"] == ["A man ? in red."]
    assert report.repaired == {"caption contains a lone surrogate": 1}


def test_a_byte_order_mark_is_accepted_and_counted(source):
    file, records = source
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(records).encode())
    data, report = read_source("cuhk_pedes", file)
    assert sum(map(len, data.values())) == len(records)
    assert report.repaired == {"byte order mark at the start of the file": 1}


@pytest.mark.parametrize("kept", [0.3, 0.7, 0.99])
def test_truncated_json_names_file_line_and_byte(source, kept):
    file, records = source
    text = json.dumps(records, indent=1)
    file.write_text(text[: int(len(text) * kept)])
    with pytest.raises(SourceError) as error:
        read_source("cuhk_pedes", file)
    line = str(error.value)
    assert str(file) in line and "line" in line and "byte" in line and "cut off" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b"[]", "list of records is empty"),
        (b"{}", "a list of records is expected"),
        (b'"x"', "a list of records is expected"),
        (b"\xff\xfe[\x00]\x00", "not UTF-8 text at byte 0"),
        (b"[" * 100_000, "not readable JSON|not valid JSON"),
        (b"[" + b"9" * 6000 + b"]", "not readable JSON"),
    ],
)
def test_file_that_is_no_list_of_records_is_one_clear_line(source, content, message):
    file, _ = source
    file.write_bytes(content)
    with pytest.raises(SourceError, match=message) as error:
        read_source("cuhk_pedes", file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_source_whose_every_record_fails_is_an_error(source):
    file, records = source
    for path in (file.parent / "imgs").rglob("*.jpg"):
        path.unlink()
    with pytest.raises(SourceError, match="none of its 8 records gave a row .8 x image missing., first: reid_raw"):
        read_source("cuhk_pedes", file)


def test_wrong_folders_and_names_are_one_clear_line(source, tmp_path):
    file, _ = source
    with pytest.raises(SourceError, match="'cuhk' is not known; known are cuhk_pedes"):
        read_source("cuhk", file)
    with pytest.raises(SourceError, match="nowhere: no such file or folder"):
        read_source("cuhk_pedes", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no annotation file of cuhk_pedes .looked for reid_raw.json"):
        read_source("cuhk_pedes", tmp_path / "empty")
    with pytest.raises(SourceError, match="the image root is not a folder"):
        read_source("cuhk_pedes", file, image_root=tmp_path / "nowhere")
    with pytest.raises(SourceError, match="splits: .'val'. are not among"):
        read_source("cuhk_pedes", file, splits=["val"])


def test_box_outside_its_image_is_clipped_or_dropped_and_counted(source):
    file, records = source  # images of 24 x 60
    records[0]["regions"] = [
        {"bbox": [4, 5, 10, 10], "label": "head", "sentence": "Image 0."},
        {"bbox": [-5, -5, 15, 15], "label": "head", "sentence": "not in the caption"},
        {"bbox": [20, 50, 100, 100], "label": "feet"},
        {"bbox": [30, 10, 10, 10], "label": "bag"},
        {"bbox": [23.5, 0, 10, 10], "label": "bag"},
        {"bbox": [0, 0, float("nan"), 10], "label": "bag"},
        {"bbox": [0, 0, 10**400, 10], "label": "bag"},
        {"bbox": "0 0 5 5"},
        {"label": "bag"},
        "bag",
    ]
    data, report = read(file, records)
    regions = data["train"][0]["regions"]
    assert [region["bbox"] for region in regions] == [[4, 5, 10, 10], [0, 0, 10, 10], [20, 50, 4, 10]]
    assert [region["sentence"] for region in regions] == [1, -1, -1]
    assert {region["origin"] for region in regions} == {"human"}
    assert report.repaired == {"box clipped to its image": 2}
    assert report.dropped == {"box under one pixel inside its image": 6, "region is not an object": 1}
    assert "reid_raw.json: record 0: field 'regions'" in str(report)


def test_size_is_of_the_image_as_the_row_decodes_it(source):
    file, records = source
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    image = Image.new("RGB", (60, 24), "red")
    image.save(file.parent / "imgs" / records[0]["file_path"], exif=exif)
    data, _ = read(file, records)
    row = data["train"][0]
    assert row["image"].size == (row["width"], row["height"]) == (24, 60)


def test_modes_and_formats_other_than_rgb_jpeg_are_read_and_noted(source):
    file, records = source
    images = file.parent / "imgs"
    for record, name, mode in zip(records, ("a.png", "b.bmp", "c.jpg"), ("P", "RGB", "CMYK"), strict=False):
        record["file_path"] = name
        Image.new("RGB", (20, 50), "red").convert(mode).save(images / name)
    data, report = read(file, records)
    assert report.noted == {"image mode P": 1, "image mode CMYK": 1}
    assert data["train"][0]["image"].mode == "P"


def test_ids_that_restart_in_each_split_stay_different_people(source):
    file, records = source
    for record in records:
        record["id"] = records.index(record) % 2
        record["split"] = "test" if records.index(record) >= 4 else "train"
    data, report = read(file, records)
    assert not set(data["train"]["person_id"]) & set(data["test"]["person_id"])
    assert "2 ids occur in more than one split" in report.warnings[0]


def test_image_named_twice_for_the_same_person_keeps_both_rows(source):
    file, records = source
    records.insert(1, records[0] | {"captions": ["Another sentence."]})
    data, report = read(file, records)
    image_ids = [image_id for rows in data.values() for image_id in rows["image_id"]]
    assert len(set(image_ids)) == len(records)
    assert report.noted["image named by several records"] == 1


def test_byte_identical_images_of_two_splits_are_noted(source):
    file, records = source
    images = file.parent / "imgs"
    (images / records[-1]["file_path"]).write_bytes((images / records[0]["file_path"]).read_bytes())
    _, report = read(file, records)
    assert report.noted == {"byte-identical image in two splits": 1}


def test_image_root_may_itself_be_a_link(source, tmp_path):
    file, records = source
    os.symlink(file.parent / "imgs", tmp_path / "link")
    _, report = read_source("cuhk_pedes", file, image_root=tmp_path / "link")
    assert sum(report.rows.values()) == len(records)


@pytest.mark.parametrize(
    ("written", "there", "change"),
    [
        ("Market/1_c1s1_000000_00.jpg.jpg", "Market/1_c1s1_000000_00.jpg.jpg", None),
        ("Market/1_c1s1_000000_00.jpg.jpg", "Market/1_c1s1_000000_00.jpg", "doubled or single"),
        ("Market/1_c1s1_000000_00.jpg", "Market/1_c1s1_000000_00.jpg.jpg", "doubled or single"),
        ("Market/a.jpg", "Market/a.JPG", "suffix in the other case"),
        ("Market\\a.jpg", "Market/a.jpg", "blanks or backslashes"),
        (" Market/a.jpg ", "Market/a.jpg", "blanks or backslashes"),
        ("imgs/Market/a.jpg", "Market/a.jpg", "without the first folder"),
        ("imgs/Market/a.jpg", "Market/a.jpg.jpg", "doubled or single"),
    ],
)
def test_names_that_copies_of_the_sets_differ_in_are_found_and_counted(source, written, there, change):
    file, records = source
    images = file.parent / "imgs"
    (images / records[0]["file_path"]).rename(images / there)
    records[0]["file_path"] = written
    data, report = read(file, records)
    assert data["train"][0]["path"] == there
    assert [change in reason for reason in report.repaired] == ([True] if change else [])


def test_a_missing_file_of_a_folder_is_not_taken_from_above_it(source):
    file, records = source
    (file.parent / "imgs" / records[0]["file_path"]).rename(file.parent / "imgs" / "1_c1s1_000000_00.jpg")
    records[0]["file_path"] = "Market/1_c1s1_000000_00.jpg"
    assert read(file, records)[1].skipped == {"image missing": 1}


def test_backslashes_do_not_lead_out_of_the_root_either(source):
    file, records = source
    draw_person(file.parent / "elsewhere.jpg", 0)
    records[0]["file_path"] = "..\\elsewhere.jpg"
    _, report = read(file, records)
    assert report.skipped == {"image path leads out of the image root": 1}


def test_a_missing_folder_is_one_warning_with_its_count(source):
    file, records = source
    for record in records[:3]:
        record["file_path"] = record["file_path"].replace("Market", "CUHK03")
    _, report = read(file, records)
    assert report.skipped == {"image missing": 3}
    assert report.warnings == ["folder 'CUHK03' is missing in the image root; 3 records name images of it"]


def test_system_files_among_the_images_do_no_harm(source):
    file, records = source
    for name in (".DS_Store", "Market/Thumbs.db", "Market/.DS_Store"):
        (file.parent / "imgs" / name).write_bytes(b"\0\0\0\1Bud1")
    records.append(records[0] | {"file_path": "Market/Thumbs.db"})
    _, report = read(file, records)
    assert report.skipped == {"image does not decode": 1}


FAULTS = {
    "stray blanks or newlines": "He  has  short  black hair , and a\nred coat. ",
    "sentences glued together": "A man in a grey jacket.He is walking.",
    "CJK or full-width characters": "A man，in a red 外套 coat.",
    "program code": "A man in red. import os for i in range(10): print(i)",
    "escapes, entities or tags": "A man\\n in a <br> red&nbsp;coat.",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_captions_keep_their_faults_which_are_counted(source, fault):
    file, records = source
    for record in records:
        record["captions"] = [f"Nobody wears {record['file_path']}"]
    records[0]["captions"] = [FAULTS[fault]]
    data, report = read(file, records)
    assert data["train"][0]["captions"] == [FAULTS[fault]]
    assert report.irregular == {fault: 1}
    assert f"irregular: 1 x {fault}, as reid_raw.json: record 0: field 'captions'" in str(report)


def test_captions_of_several_identities_and_repeated_captions_are_counted(source):
    file, records = source
    for n, record in enumerate(records):
        record["captions"] = [f"Number {n} walks."]
    records[0]["captions"] *= 2
    records[0]["captions"][1] += " "
    records[2]["captions"].append("A woman in a white blouse.")
    records[7]["captions"].append("a woman in a white  blouse.")
    data, report = read(file, records)
    assert report.irregular["the same caption twice"] == 1
    assert report.irregular["the same caption of several identities"] == 2
    assert data["train"][0]["captions"] == records[0]["captions"]


@pytest.mark.slow
def test_rows_depend_neither_on_processes_nor_on_where_they_are_kept(source, tmp_path):
    file, records = source
    (file.parent / "imgs" / records[3]["file_path"]).write_bytes(b"no image")
    here, report = read_source("cuhk_pedes", file)
    there, other_report = read_source("cuhk_pedes", file, num_proc=2, work_dir=tmp_path / "work")
    assert other_report.as_dict() == report.as_dict()
    for split, rows in here.items():
        assert there[split].remove_columns("image").to_list() == rows.remove_columns("image").to_list()
        assert [row["image"].tobytes() for row in there[split]] == [row["image"].tobytes() for row in rows]
        assert there[split].cache_files[0]["filename"] == str(tmp_path / "work" / f"{split}.arrow")


def test_examples_are_few_however_many_records_fail(source):
    file, records = source
    _, report = read(file, records + [{}] * 50)
    assert report.skipped == {"field 'split' missing": 50}
    assert len(report.examples["field 'split' missing"]) == 5


def test_invalid_unicode_does_not_end_the_read(tmp_path):
    file = write_source(tmp_path, "cuhk_pedes")[0]
    entries = json.loads(file.read_text())
    entries[0]["regions"] = [{"bbox": [0, 0, 5, 5], "label": "\ud800"}]
    odd = file.with_name("bad\udcff.json")
    odd.write_text(json.dumps(entries))
    data, report = read_source("cuhk_pedes", odd, image_root=file.parent / "imgs")
    assert sum(report.rows.values()) == len(entries) and data["train"][0]["regions"][0]["label"] == "?"
