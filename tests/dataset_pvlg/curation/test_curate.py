"""Each filter: what it removes, what it keeps, its switch and its count."""

import io
import json
import tracemalloc
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets
from PIL import Image

from dataset_pvlg.curation import curate as curation
from dataset_pvlg.curation import report as curation_rows
from dataset_pvlg.curation.curate import CurationOptions, CurationReport, curate
from dataset_pvlg.features import FEATURES
from dataset_pvlg.readers.read import read_source
from tests.helpers.source_layouts import LAYOUTS, draw_person, write_records, write_source

OFF = CurationOptions(
    decode=False, rgb=False, upright=False, min_width=0, min_height=0, min_aspect=0, max_aspect=float("inf"),
    exact_duplicates=False, near_duplicates=False, shared_identities=False, clean_captions=False,
)  # fmt: skip


def run(rows, options: CurationOptions = OFF, **kwargs) -> tuple[dict[str, Dataset], CurationReport]:
    """Curate, and check the invariants that hold for all options."""
    curated, report = curate(rows, options, progress=False, **kwargs)
    for split in rows:
        assert report.before[split] == len(rows[split])
        assert report.after[split] == len(curated.get(split, []))
        assert report.before[split] - sum(report.removed.get(split, {}).values()) == report.after[split]
        originals = {row["image_id"]: row for row in rows[split].remove_columns("image")}
        for row in curated[split].remove_columns("image") if split in curated else ():
            assert row["captions"] == originals[row["image_id"]]["captions"]
            assert row["sha256"] == originals[row["image_id"]]["sha256"]
            assert all(row["caption"][s["start"] : s["end"]] == s["text"] for s in row["sentences"])
    assert all(rows.features == FEATURES for rows in curated.values())
    assert json.loads(json.dumps(report.as_dict(), allow_nan=True))["after"] == report.after
    return curated, report


def paths(rows) -> list[str]:
    return rows["path"][:]


@pytest.fixture
def source(tmp_path: Path) -> tuple[Path, list[dict]]:
    """CUHK-PEDES: four people to train on, two to validate, two to test, two images each; its records."""
    file, records = write_source(tmp_path / "set", "cuhk_pedes", people=6)
    for record in records:
        record["captions"] = [f"A man walks, {record['file_path'][7:20]}."]
        noise = Image.effect_noise((24, 60), 90)  # an image that differs from all others
        noise.convert("RGB").save(file.parent / "imgs" / record["file_path"], quality=95)
    write_records(file, records)
    return file, records


def read(source) -> dict[str, Dataset]:
    return dict(read_source("cuhk_pedes", source[0])[0])


def image_file(source, number: int) -> Path:
    return source[0].parent / "imgs" / source[1][number]["file_path"]


def test_clean_rows_pass_unchanged_through_all_filters(source):
    rows = read(source)
    for options in (OFF, CurationOptions()):
        curated, report = run(rows, options)
        assert {s: part.to_list() for s, part in curated.items()} == {s: part.to_list() for s, part in rows.items()}
        assert not report.removed and not report.changed and not report.cleaned and not report.noted


def test_an_undecodable_image_is_removed_from_every_split(source):
    rows = read(source)
    image_file(source, 0).write_bytes(image_file(source, 0).read_bytes()[:-300])
    image_file(source, 11).unlink()
    curated, report = run(rows, replace(OFF, decode=True))
    assert report.removed == {"train": {"image does not decode": 1}, "test": {"image does not decode": 1}}
    assert "Market/0001_c1s1_000000_00.jpg: " in report.examples["image does not decode"][0]
    assert len(curated["train"]) == 7 and len(curated["test"]) == 1
    curated, report = run(rows, replace(OFF, near_duplicates=True))
    assert len(curated["train"]) == 8 and report.noted["image does not decode"] == 2
    assert not run(rows, OFF)[1].noted


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16"])
def test_other_modes_are_stored_as_rgb(source, mode):
    path = image_file(source, 2).with_suffix(".jpg" if mode == "CMYK" else ".png")
    image = Image.open(image_file(source, 2)).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 256 + 7)
    image.save(path)
    source[1][2]["file_path"] = f"Market/{path.name}"
    write_records(*source)
    rows = read(source)
    curated, report = run(rows, replace(OFF, rgb=True))
    stored = curated["train"][2]["image"]
    assert (stored.mode, stored.size) == ("RGB", (24, 60))
    assert report.changed == {f"mode {mode}": 1}
    expected = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)) if mode == "I;16" else Image.open(path)
    assert stored.tobytes() == expected.convert("RGB").tobytes()
    assert run(rows, replace(OFF, decode=True))[1].noted == {f"image stored with mode {mode}": 1}


def test_exif_orientation_is_stored_upright(source):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(image_file(source, 0)).transpose(Image.Transpose.ROTATE_90)
    image.save(image_file(source, 0), exif=exif, quality=95)
    rows = read(source)
    curated, report = run(rows, replace(OFF, upright=True))
    row = curated["train"][0]
    assert report.changed == {"EXIF orientation": 1}
    assert row["image"].size == (row["width"], row["height"]) == (24, 60)
    assert row["image"].getexif().get(0x0112) is None
    stored = curated["train"].with_format("arrow")[:1]["image"].to_pylist()[0]["bytes"]
    assert Image.open(io.BytesIO(stored)).size == (24, 60)  # as stored, without EXIF
    assert row["image"].tobytes() == rows["train"][0]["image"].tobytes()


@pytest.mark.parametrize(
    ("size", "options", "reason"),
    [
        ((7, 40), {"min_width": 8}, "image under 8 x 0 pixels"),
        ((20, 15), {"min_height": 16}, "image under 0 x 16 pixels"),
        ((60, 24), {"min_aspect": 0.5}, "height / width under 0.5"),
        ((10, 90), {"max_aspect": 8.0}, "height / width over 8"),
    ],
)
def test_size_and_aspect_drop_training_rows_and_note_others(source, size, options, reason):
    for number in (0, 8):  # train and validation
        Image.effect_noise(size, 90).convert("RGB").save(image_file(source, number))
    rows = read(source)
    curated, report = run(rows, replace(OFF, **options))
    assert report.removed["train"] == {reason: 1}
    assert report.noted == {f"{reason}, kept in validation": 1}
    assert "Market/0001_c1s1_000000_00.jpg" not in paths(curated["train"])
    assert run(rows, replace(OFF, train_only=False, **options))[1].removed["validation"] == {reason: 1}
    assert sum(run(rows, CurationOptions())[1].removed["train"].values()) == 1


def test_equal_files_across_splits_are_removed_from_train(source):
    for train, other in ((0, 8), (2, 10), (3, 10)):
        image_file(source, train).write_bytes(image_file(source, other).read_bytes())
    image_file(source, 9).write_bytes(image_file(source, 11).read_bytes())
    image_file(source, 5).write_bytes(image_file(source, 4).read_bytes())  # one person twice
    image_file(source, 6).write_bytes(image_file(source, 4).read_bytes())  # and another person
    rows = read(source)
    curated, report = run(rows, replace(OFF, exact_duplicates=True))
    assert report.removed == {"train": {"same file in validation or test": 3}}
    assert report.noted == {
        "same file in validation and test": 1,
        "same file twice of one person in a split": 1,
        "same file of two people in a split": 1,
    }
    assert len(curated["train"]) == 5 and len(curated["validation"]) == len(curated["test"]) == 2


def test_near_duplicates_across_splits_are_removed_from_train(source):
    original = Image.open(image_file(source, 10)).resize((96, 240), Image.Resampling.BICUBIC)
    original.save(image_file(source, 10), quality=95)
    original.resize((48, 120), Image.Resampling.LANCZOS).save(image_file(source, 1), quality=70)
    original.save(image_file(source, 8), quality=60)
    rows = read(source)
    assert not run(rows, replace(OFF, exact_duplicates=True))[1].removed
    curated, report = run(rows, replace(OFF, near_duplicates=True))
    assert report.removed == {"train": {"same image in validation or test": 1}}
    assert report.noted == {"same image in validation and test": 1}
    assert source[1][1]["file_path"] not in paths(curated["train"])
    assert "same image in validation or test" in str(report)


def test_every_training_copy_of_a_test_image_is_removed(source):
    original = Image.open(image_file(source, 10))
    for number in (0, 2, 11):
        original.save(image_file(source, number), quality=95 - number)
    _, report = run(read(source), replace(OFF, near_duplicates=True))
    assert report.removed == {"train": {"same image in validation or test": 2}}


@pytest.mark.parametrize("own_split", ["train", "test", "validation"])
def test_person_of_an_older_set_is_not_trained_on_in_one_source_and_tested_in_another(source, tmp_path, own_split):
    """Market-1501's person 6 is CUHK-PEDES' test person, its person 1 is trained on there."""
    lines = []
    for n, name in enumerate(("0006_c5s1_000009_00.jpg", "0001_c5s1_000009_00.jpg", "0099_c5s1_000009_00.jpg")):
        (tmp_path / "own").mkdir(exist_ok=True)
        Image.effect_noise((24, 60), 90).convert("RGB").save(tmp_path / "own" / name)
        lines.append({"image": name, "text": "A man.", "id": n, "split": own_split})
    (tmp_path / "own" / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows, own = read(source), read_source("own", tmp_path / "own")[0]
    rows[own_split] = concatenate_datasets([rows[own_split], own[own_split]])
    curated, report = run(rows, replace(OFF, shared_identities=True))
    reason = "identity in validation or test of another source"
    if own_split == "train":
        assert report.removed == {"train": {reason: 1}}
        assert "0006_c5s1_000009_00.jpg" not in paths(curated["train"])
    else:  # both images of CUHK-PEDES' training person 1
        assert report.removed == {"train": {reason: 2}}
        assert not [path for path in paths(curated["train"]) if "/0001_" in path]
    assert not run(rows, OFF)[1].removed


def test_person_in_two_splits_of_one_source_is_noted(source):
    """The split is that of the authors; a change would make another benchmark."""
    name = "Market/0006_c9s1_000000_00.jpg"
    image_file(source, 0).rename(source[0].parent / "imgs" / name)
    source[1][0]["file_path"] = name
    write_records(*source)
    curated, report = run(read(source), replace(OFF, shared_identities=True))
    assert report.noted == {"identity of train in an evaluation split of the same source": 1}
    assert len(curated["train"]) == 8


def test_training_rows_with_only_common_captions_are_removed(source):
    file, records = source
    for number in (0, 2, 4, 10):
        records[number]["captions"] = ["A man with black hair is walking"]
    records[4]["captions"].append("A caption of his own.")
    write_records(file, records)
    rows = read(source)
    curated, report = run(rows, replace(OFF, max_people_per_caption=3))
    assert report.removed == {"train": {"all captions describe more than 3 people": 2}}
    assert report.noted == {"all captions describe more than 3 people, kept in test": 1}
    assert not run(rows, replace(OFF, max_people_per_caption=4))[1].removed


def test_captions_are_cleaned_beside_the_originals(source):
    file, records = source
    records[0]["captions"] = ["A man in  red.He has a bag. "]
    records[0]["regions"] = [{"bbox": [4, 30, 10, 10], "label": "bag", "sentence": "He has a bag."}]
    write_records(file, records)
    rows = read(source)
    curated, report = run(rows, replace(OFF, clean_captions=True))
    row = curated["train"][0]
    assert row["captions"] == ["A man in  red.He has a bag. "]
    assert row["caption"] == "A man in red. He has a bag."
    assert row["sentences"][row["regions"][0]["sentence"]]["text"] == "He has a bag."
    assert report.cleaned == {"sentences glued together": 1}
    assert run(rows)[0]["train"][0]["caption"] == rows["train"][0]["caption"]


def test_result_depends_neither_on_processes_nor_on_the_work_folder(source, tmp_path):
    Image.open(image_file(source, 0)).convert("L").save(image_file(source, 0))
    image_file(source, 1).write_bytes(image_file(source, 10).read_bytes())
    rows = read(source)
    image_file(source, 4).write_bytes(b"x")
    here, report = run(rows, CurationOptions())
    there, other_report = run(rows, CurationOptions(), num_proc=2, work_dir=tmp_path / "work")
    assert other_report.as_dict() == report.as_dict()
    for split, part in here.items():
        assert there[split].to_list() == part.to_list()
        assert there[split].cache_files[0]["filename"] == str(tmp_path / "work" / f"{split}.arrow")
    assert {path.stem for path in (tmp_path / "work").iterdir()} == set(there)  # no temporary file is left


@pytest.mark.parametrize("bound", ["rows", "bytes"])
def test_result_does_not_depend_on_the_size_of_pieces(source, monkeypatch, bound):
    for number in (0, 1, 5, 9):
        Image.open(image_file(source, number)).convert("L").save(image_file(source, number))
    image_file(source, 2).write_bytes(image_file(source, 10).read_bytes())
    rows, options = read(source), CurationOptions(max_people_per_caption=1)
    whole, report = run(rows, options)
    assert report.changed and report.removed
    if bound == "rows":
        monkeypatch.setattr(curation, "ROWS_AT_ONCE", 3)
        monkeypatch.setattr(curation_rows, "ROWS_AT_ONCE", 2)
    else:
        monkeypatch.setattr(curation, "_BYTES_AT_ONCE", 24 * 60 * 3)
    cut, other_report = run(rows, options)
    assert other_report.as_dict() == report.as_dict() and str(other_report) == str(report)
    assert {s: part.to_list() for s, part in cut.items()} == {s: part.to_list() for s, part in whole.items()}


def test_memory_of_a_row_is_bounded(tmp_path, monkeypatch):
    """A list of the names would take over 100 bytes per row."""
    for module in (curation, curation_rows):
        monkeypatch.setattr(module, "ROWS_AT_ONCE", 50)  # so that the memory of a piece is small
    rng, peaks = np.random.default_rng(0), []
    for count in (50, 300, 1500):  # the first run loads modules
        rows = []
        for number in range(count):
            image = io.BytesIO()
            Image.fromarray(rng.integers(0, 255, (16, 8), dtype=np.uint8)).convert("RGB").save(image, "BMP")
            name = f"Market/{number // 4:04d}_c1s1_{number:06d}_00.jpg"
            row = dict.fromkeys(FEATURES) | {"image": {"bytes": image.getvalue(), "path": name}, "path": name}
            row |= {"image_id": f"cuhk_pedes/{name}", "sha256": f"{number // 2:064x}", "person_id": number // 4}
            row |= {"captions": [f"Caption {number}."] * 2, "source": "cuhk_pedes", "width": 8, "height": 16}
            rows.append(row | {"caption": "A man.", "sentences": [{"text": "A man.", "start": 0, "end": 6}]})
        splits = {"train": rows[: count // 2], "test": rows[count // 2 :]}
        splits = {split: Dataset.from_list(part, features=FEATURES) for split, part in splits.items()}
        del rows
        tracemalloc.start()
        curate(splits, CurationOptions(max_people_per_caption=2), progress=False, work_dir=tmp_path / str(count))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[2] - peaks[1]) / 1200 < 80


def test_rows_without_images_and_sets_without_rows_pass(source):
    rows = read(source)
    rows = {split: part.map(lambda row: row | {"image": None}, features=FEATURES) for split, part in rows.items()}
    curated, report = run(rows, CurationOptions())
    assert report.after == report.before
    assert curated["train"][0]["image"] is None
    assert curate({}, CurationOptions())[0] == {}


def test_split_that_loses_all_its_rows_is_absent(source):
    rows = read(source)
    image_file(source, 8).unlink()
    image_file(source, 9).unlink()
    curated, report = run(rows, CurationOptions())
    assert set(curated) == {"train", "test"} and report.after["validation"] == 0


@pytest.mark.parametrize(
    "wrong",
    [{"min_width": -1}, {"min_aspect": float("nan")}, {"max_aspect": 0.4}, {"near_distance": 9},
     {"near_correlation": 0}, {"max_people_per_caption": -2}],
)  # fmt: skip
def test_bound_out_of_range_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=f"curation: {next(iter(wrong))} "):
        CurationOptions(**wrong)


def test_every_option_is_of_a_type_that_a_command_line_takes():
    assert {type(getattr(CurationOptions(), field.name)) for field in fields(CurationOptions)} <= {bool, int, float}


def test_all_layouts_together(tmp_path):
    rows: dict[str, list[Dataset]] = {}
    for name in LAYOUTS:
        write_source(tmp_path / name, name)
        for split, part in read_source(name, tmp_path / name)[0].items():
            rows.setdefault(split, []).append(part)
    for n in range(6):
        draw_person(tmp_path / "own" / f"{n}.png", n, k=3)
    for split, part in read_source("own", tmp_path / "own")[0].items():
        rows.setdefault(split, []).append(part)
    curated, report = run({split: concatenate_datasets(parts) for split, parts in rows.items()}, CurationOptions())
    assert report.removed["train"]["same file in validation or test"] > 0  # all sources have the same drawings
    people = [set(part["person_id"]) for part in curated.values()]
    assert sum(map(len, people)) == len(set.union(*people))


def test_real_images_of_all_four_layouts(test_data):
    """The four layouts hold the same images: what is validation in one is train in another."""
    folder = test_data / "pedestrians"
    rows: dict[str, list[Dataset]] = {}
    for name in ("cuhk_pedes", "icfg_pedes", "rstpreid", "ufine"):
        data, _ = read_source(name, folder / "formats" / name, folder / "imgs")
        for split, part in data.items():
            rows.setdefault(split, []).append(part)
    rows = {split: concatenate_datasets(parts) for split, parts in rows.items()}
    curated, report = run(rows, CurationOptions())
    left = {split: set(part["sha256"]) for split, part in curated.items()}
    assert not left["train"] & left["validation"] and not left["train"] & left["test"]
    assert len(curated["test"]) == 4 * 31
    assert set(report.removed["train"]) <= {"same file in validation or test", "same image in validation or test"}
