"""Your own images: a folder, or a table of images and captions in any common form."""

import csv
import json
from pathlib import Path

import pytest

from dataset_pvlg.features import FEATURES
from dataset_pvlg.readers.custom import camera
from dataset_pvlg.readers.read import read_source
from dataset_pvlg.readers.report import SourceError
from tests.helpers.source_layouts import draw_person


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for n in range(4):
        draw_person(tmp_path / "photos" / f"{n}.jpg", n)
    return tmp_path / "photos"


def write_table(path: Path, header: list[str], rows: list[list], delimiter: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])


def all_rows(data) -> dict[str, dict]:
    return {row["path"]: row | {"split": split} for split, rows in data.items() for row in rows}


def test_a_folder_of_images_gives_one_person_per_image_and_no_captions(folder):
    data, report = read_source("own", folder)
    rows = all_rows(data)
    assert data["train"].features == FEATURES
    assert sorted(rows) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert sorted(row["person_id"] for row in rows.values()) == [60_000_000 + n for n in range(4)]
    assert sorted(row["split"] for row in rows.values()) == ["test", "train", "train", "validation"]
    row = rows["0.jpg"]
    assert (row["captions"], row["caption"], row["caption_origin"], row["sentences"]) == ([], "", "none", [])
    assert report.noted["image without caption"] == 4
    assert "of 4 identities 2 are held out" in report.warnings[0]
    assert report.records == sum(report.rows.values()) == 4


def test_a_single_sentence_is_split_into_clauses_and_several_are_not(folder, tmp_path):
    captions = ["A man wears a red shirt, black pants and white shoes.", "He walks. A red shirt, black pants."]
    write_table(
        tmp_path / "t.csv", ["image", "caption"], [[f"photos/{n}.jpg", text] for n, text in enumerate(captions)]
    )
    rows = all_rows(read_source("own", tmp_path / "t.csv")[0])
    found = {row["caption"]: [sentence["text"] for sentence in row["sentences"]] for row in rows.values()}
    assert found[captions[0]] == ["A man wears a red shirt", "black pants", "and white shoes."]
    assert found[captions[1]] == ["He walks.", "A red shirt, black pants."]


def test_other_files_in_the_folder_are_counted(folder):
    for name in (".DS_Store", "Thumbs.db", "notes.txt"):
        (folder / name).write_text("x")
    (folder / "broken.jpg").write_bytes(b"x")
    (folder / "empty.jpg").write_bytes(b"")
    _, report = read_source("own", folder)
    assert report.dropped == {
        "system file in the folder": 2,
        "file without the suffix of an image": 1,
        "file left out of the folder": 1,
    }
    assert report.skipped == {"image does not decode": 1}


def test_folders_named_after_splits_name_the_split(folder):
    for n, split in enumerate(("train", "val", "test")):
        draw_person(folder / split / "a.jpg", n, k=1)
    data, report = read_source("own", folder)
    assert {path: row["split"] for path, row in all_rows(data).items()} == {
        "train/a.jpg": "train",
        "val/a.jpg": "validation",
        "test/a.jpg": "test",
    }
    assert report.skipped == {"field 'split' missing": 4}


def test_names_of_market_1501_give_identity_and_camera(tmp_path):
    for name in ("0002_c1s1_000451_03.jpg", "0002_c3s1_000551_00.jpg", "0007_c2s3_070952_01.jpg.jpg"):
        draw_person(tmp_path / "bounding_box_train" / name, len(name))
    for name in ("-1_c1s1_000401_03.jpg", "0000_c1s1_000151_01.jpg"):  # junk and distractor
        draw_person(tmp_path / "bounding_box_train" / name, 1)
    data, report = read_source("own", tmp_path)
    rows = all_rows(data)
    assert [rows[name]["person_id"] - 60_000_000 for name in sorted(rows)] == [2, 2, 7]
    assert [rows[name]["camera"] for name in sorted(rows)] == ["c1", "c3", "c2"]
    assert report.skipped == {"field 'id' marks junk or a distractor": 2}


def test_people_of_the_halves_of_msmt17_are_different_people(tmp_path):
    for half in ("mask_train_v2", "mask_test_v2"):
        for k in range(2):
            draw_person(tmp_path / half / "0001" / f"0001_{k:03d}_05_0303afternoon_{k:04d}_0.jpg", k)
    rows = all_rows(read_source("own", tmp_path)[0])
    assert len({row["person_id"] for row in rows.values()}) == 2
    for row in rows.values():
        same = {other["person_id"] for other in rows.values() if other["path"][:8] == row["path"][:8]}
        assert same == {row["person_id"]}


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("csv", ";"), ("tsv", "\t")])
def test_a_table_with_one_caption_per_row(folder, suffix, delimiter):
    header = ["File_Name", "caption", "person_id", "split", "camera", "remark"]
    rows = [
        ["0.jpg", "A man, in red.", "ann", "train", "hall", ""],
        ["0.jpg", 'He carries a "bag";\nit is blue.', "ann", "train", "hall", ""],
        ["1.jpg", "A man in green.", "ann", "train", "", ""],
        ["2.jpg", "A man in blue.", "bob", "TEST", "4", "x"],
        ["3.jpg", "", "cecil", "val", "", ""],
    ]
    write_table(folder / f"people.{suffix}", header, rows, delimiter)
    data, report = read_source("own", folder)
    found = all_rows(data)
    assert found["0.jpg"]["captions"] == ["A man, in red.", 'He carries a "bag";\nit is blue.']
    assert [found[f"{n}.jpg"]["person_id"] - 60_000_000 for n in range(4)] == [0, 0, 1, 2]
    assert [found[f"{n}.jpg"]["split"] for n in range(4)] == ["train", "train", "test", "validation"]
    assert [found[f"{n}.jpg"]["camera"] for n in range(4)] == ["hall", None, "4", None]
    assert report.noted == {
        "caption joined to the image that it describes": 1,
        "identity given as a name, numbered in sorted order": 3,
        "image without caption": 1,
    }
    assert report.repaired == {"byte order mark at the start of the file": 1} and not report.skipped


def test_lines_of_json_with_lists_regions_and_faults(folder):
    lines = [
        json.dumps({"image": "0.jpg", "captions": ["A man in red. He has a bag."], "id": 5, "split": "train",
                    "regions": [{"bbox": [4, 30, 10, 10], "label": "bag", "sentence": "He has a bag."}]}),
        json.dumps({"image": "1.jpg", "text": "A man in green.", "id": "7", "split": "train"}),
        json.dumps({"image": "2.jpg", "text": "A man in blue.", "id": -1, "split": "train"}),
        "{not json",
        "",
        json.dumps(["a list"]),
        json.dumps({"image": "../secret.jpg", "text": "A man.", "split": "test"}),
        json.dumps({"text": "A man.", "split": "test"}),
        json.dumps({"image": "3.jpg", "captions": [None, "A man in white."], "split": "test"}),
    ]  # fmt: skip
    (folder / "people.jsonl").write_text("\r\n".join(lines), encoding="utf-8")
    data, report = read_source("own", folder)
    rows = all_rows(data)
    assert {path: row["person_id"] - 60_000_000 for path, row in rows.items()} == {"0.jpg": 5, "1.jpg": 7, "3.jpg": 9}
    assert rows["0.jpg"]["regions"][0]["sentence"] == 1
    assert rows["3.jpg"]["captions"] == ["A man in white."]
    assert report.skipped == {
        "field 'id' marks junk or a distractor": 1,
        "record is not an object": 2,
        "image path leads out of the image root": 1,
        "field 'file_path' missing": 1,
    }
    assert "people.jsonl: line 4" in report.examples["record is not an object"][0]
    assert report.records == sum(report.rows.values()) + sum(report.skipped.values()) == 8


def test_a_sentence_may_have_several_regions_and_a_region_several_sentences(folder):
    text = "A man wears a red jacket, blue jeans and white shoes."
    jacket, jeans = ({"bbox": [4, top, 10, 10], "label": "clothes", "sentence": text} for top in (10, 30))
    whole = {"image": "0.jpg", "caption": text, "split": "train", "regions": [jacket, jeans, jacket]}
    clauses = {"image": "1.jpg", "caption": text, "split": "train", "regions": [jacket | {"sentence": "blue jeans"}]}
    clauses["regions"].append(jacket | {"sentence": "A man wears a red jacket"})
    (folder / "people.json").write_text(json.dumps([whole, clauses]), encoding="utf-8")
    data, report = read_source("own", folder)
    rows = all_rows(data)
    assert [s["text"] for s in rows["0.jpg"]["sentences"]] == [
        text
    ]  # one sentence: regions are given for it as a whole
    assert [(r["bbox"][1], r["sentence"]) for r in rows["0.jpg"]["regions"]] == [(10, 0), (30, 0)]
    assert len(rows["1.jpg"]["sentences"]) == 3  # clauses
    assert [(r["bbox"][1], r["sentence"]) for r in rows["1.jpg"]["regions"]] == [(10, 1), (10, 0)]
    assert report.dropped == {"region listed twice with the same sentence": 1}
    assert "sentence of a region not found" not in report.noted


def test_split_and_numbers_do_not_depend_on_the_order_of_rows(folder):
    rows = [[f"{n}.jpg", f"Person {n} walks."] for n in range(4)]
    write_table(folder / "a.csv", ["image", "text"], rows)
    first = all_rows(read_source("own", folder)[0])
    write_table(folder / "a.csv", ["image", "text"], rows[::-1])
    second = all_rows(read_source("own", folder)[0])
    for path, row in first.items():
        assert (row["person_id"], row["split"]) == (second[path]["person_id"], second[path]["split"])


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        (
            "a.csv",
            "name,caption\nx,y\n",
            r"a\.csv: line 1: no column file_name, .* in the header \['name', 'caption'\]",
        ),
        ("a.csv", "image,image\nx,y\n", r"a\.csv: line 1: column 'image' occurs twice in the header"),
        ("a.csv", 'image,text\n0.jpg,"open\n', r"a\.csv: line 2: not readable as CSV"),
        ("a.csv", "image,text\n", r"a\.csv: no row in it"),
        ("a.jsonl", "\n", r"a\.jsonl: no row in it"),
        ("a.csv", "image,text\n0.jpg,a,b\n", r"none of its 1 records gave a row .1 x record is not an object"),
    ],
)
def test_table_that_cannot_be_read_is_one_clear_line(folder, name, content, line):
    (folder / name).write_text(content)
    with pytest.raises(SourceError, match=line) as error:
        read_source("own", folder)
    assert "\n" not in str(error.value)


def test_several_tables_are_refused(folder, tmp_path):
    write_table(folder / "a.csv", ["image"], [["0.jpg"]])
    write_table(folder / "b.csv", ["image"], [["1.jpg"]])
    with pytest.raises(SourceError, match=r"name one of a\.csv, b\.csv as the source"):
        read_source("own", folder)
    assert list(all_rows(read_source("own", folder / "b.csv")[0])) == ["1.jpg"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="empty: no image in it"):
        read_source("own", tmp_path / "empty")
    with pytest.raises(SourceError, match=r"0\.jpg: a folder of images, or \.csv"):
        read_source("own", folder / "0.jpg")


@pytest.mark.parametrize("name", ["captions.json", "metadata.json", "People.JSON", "people.CSV"])
def test_captions_of_a_folder_are_read_whatever_their_file_is_called(folder, name):
    record = {"file_name": "0.jpg", "caption": "A man in red.", "person_id": "ann", "split": "train"}
    (folder / "._captions.csv").write_bytes(b"\0\5\26\7")  # macOS
    if name.endswith("CSV"):
        write_table(folder / name, list(record), [list(record.values())])
    else:
        (folder / name).write_text(json.dumps([record]))
    data, report = read_source("own", folder)
    assert data["train"][0]["captions"] == ["A man in red."] and report.file_name == name


def test_captions_are_not_dropped_for_images_alone(folder):
    (folder / "metadata.csv").write_text("image,text,split\n0.jpg,A man.,train\n")
    (folder / "other.json").write_text("[]")
    data, report = read_source("own", folder)
    assert len(data["train"]) == 1 and "other.json beside it" in report.warnings[0]
    (folder / "metadata.json").write_text("[]")
    with pytest.raises(SourceError, match=r"2 annotation files; name one of metadata\.csv, metadata\.json"):
        read_source("own", folder)
    for name in ("metadata.csv", "metadata.json"):
        (folder / name).unlink()
    (folder / "other.json").write_text('{"images": []}')
    with pytest.raises(SourceError, match=r"other\.json: a list of records is expected, this is a dict"):
        read_source("own", folder)
    (folder / "annotations").mkdir()
    (folder / "other.json").rename(folder / "annotations" / "captions.json")
    with pytest.raises(SourceError, match=r"photos: .* annotations/captions\.json is in a sub-folder \(1 such"):
        read_source("own", folder)


def test_junk_beside_names_is_left_out(folder):
    rows = [["0.jpg", "ann", "train"], ["1.jpg", "-1", "train"], ["2.jpg", "-1", "train"], ["3.jpg", "bob", "train"]]
    write_table(folder / "a.csv", ["image", "person_id", "split"], rows)
    data, report = read_source("own", folder)
    assert data["train"]["person_id"][:] == [60_000_000, 60_000_001]
    assert report.skipped == {"field 'id' marks junk or a distractor": 2}


def test_the_highest_id_leaves_ids_for_images_without_identity(folder):
    rows = [["0.jpg", "999999", "train"], ["1.jpg", "0", "train"], ["2.jpg", "", "train"], ["3.jpg", "", "train"]]
    write_table(folder / "a.csv", ["image", "person_id", "split"], rows)
    data, _ = read_source("own", folder)
    assert [person - 60_000_000 for person in data["train"]["person_id"]] == [999_999, 0, 1, 2]


def test_a_person_of_two_splits_stays_in_the_later_one(folder):
    for n in range(4, 6):
        draw_person(folder / f"{n}.jpg", n)
    splits = [
        ("alice", "train"),
        ("alice", "test"),
        ("bob", "val"),
        ("bob", "test"),
        ("cecil", "val"),
        ("dan", "train"),
    ]
    rows = [[f"{n}.jpg", person, split] for n, (person, split) in enumerate(splits)]
    write_table(folder / "a.csv", ["image", "person_id", "split"], rows)
    data, report = read_source("own", folder)
    assert {split: rows["path"][:] for split, rows in data.items()} == {
        "train": ["5.jpg"],
        "validation": ["4.jpg"],
        "test": ["1.jpg", "3.jpg"],
    }
    assert report.skipped == {"person of train who is in test too": 1, "person of validation who is in test too": 1}
    assert "2 people are in more than one split" in report.warnings[0]


@pytest.mark.parametrize("there", [True, False])
def test_a_missing_image_of_a_folder_is_not_taken_from_the_root(folder, there):
    if there:
        draw_person(folder / "alice" / "9.jpg", 1)
    rows = [["alice/1.jpg", "alice", "train"], ["2.jpg", "bob", "train"]]
    write_table(folder / "a.csv", ["image", "person_id", "split"], rows)
    data, report = read_source("own", folder)
    assert data["train"]["path"][:] == ["2.jpg"] and report.skipped == {"image missing": 1}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x/0002_c6s1_000451_03.jpg", "c6"),
        ("0001_000_15_0113morning_0025_2_ex.jpg", "c15"),
        ("0001_c1_0080.jpg", None),
        ("holiday.jpg", None),
    ],
)
def test_camera(name, expected):
    assert camera(name) == expected


def test_real_images(test_data):
    data, report = read_source("own", test_data / "pedestrians" / "imgs")
    assert sum(map(len, data.values())) == report.records == 90
    assert not report.skipped and not report.dropped
