import json
import subprocess
import sys

import pytest
import torch
from datasets import load_dataset
from source_layouts import write_records, write_source

import dataset_pvlg.build
from dataset_pvlg.build import Source, build, main, parse_sources
from dataset_pvlg.features import FEATURES
from dataset_pvlg.mine import mine_rows
from dataset_pvlg.sources.read import read_source
from modeling_rogle.matching import TEMPLATE_LABELS


def test_built_folder_loads_with_the_same_rows_and_embedded_images(tmp_path):
    for name in ("cuhk_pedes", "icfg_pedes"):
        write_source(tmp_path / name, name, people=4)
    out = tmp_path / "out" / "pvlg"
    report = build([Source(n, str(tmp_path / n)) for n in ("cuhk_pedes", "icfg_pedes")], out)
    expected = {name: read_source(name, tmp_path / name)[0] for name in ("cuhk_pedes", "icfg_pedes")}
    for folder in ("cuhk_pedes", "icfg_pedes"):  # the images are inside now
        (tmp_path / folder).rename(tmp_path / f"{folder}-moved")

    data = load_dataset(str(out))
    assert {split: len(rows) for split, rows in data.items()} == {"train": 8, "validation": 4, "test": 4}
    assert data["train"].features == FEATURES
    for split, rows in data.items():
        read = [row for name in expected for row in expected[name].get(split, []).remove_columns("image")]
        assert rows.remove_columns("image").to_list() == read
        assert report["splits"][split]["rows"] == len(rows)
        assert all(row["image"].size == (row["width"], row["height"]) for row in rows)
    assert len(set(data["train"]["person_id"])) == report["splits"]["train"]["identities"] == 4


def test_report_and_card_tell_all_but_the_paths_of_the_machine(tmp_path):
    file, records = write_source(tmp_path / "set", "cuhk_pedes", people=4)
    del records[0]["split"]
    write_records(file, records)
    report = build([Source("cuhk_pedes", str(tmp_path / "set"))], tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "build_report.json").read_text(encoding="utf-8"))
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert saved == json.loads(json.dumps(report))
    assert saved["sources"][0]["skipped"] == {"field 'split' missing": 1}
    assert "skipped: 1 x field 'split' missing" in card
    assert "independent implementation" in card and "licences of their sources" in card
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or str(tmp_path).encode() not in path.read_bytes(), path


def test_matcher_fills_the_regions(tmp_path, tiny_checkpoint):
    write_source(tmp_path / "set", "cuhk_pedes", people=4)
    report = build([Source("cuhk_pedes", str(tmp_path / "set"))], tmp_path / "out", matcher=tiny_checkpoint)
    data = load_dataset(str(tmp_path / "out"))
    for split, counts in report["matching"].items():
        assert counts["kept"] + counts["assigned"] + counts["unassigned"] == counts["sentences"]
        assert sum(map(len, data[split]["sentences"])) == counts["sentences"]
        assert sum(map(len, data[split]["regions"])) == counts["assigned"]
        for row in data[split]:
            for region in row["regions"]:
                x, y, w, h = region["bbox"]
                assert x >= 0 and y >= 0 and x + w <= row["width"] + 1e-3 and y + h <= row["height"] + 1e-3
                assert region["origin"] == "rsm"
                assert 0 <= region["sentence"] < len(row["sentences"])
    assert sum(counts["assigned"] for counts in report["matching"].values()) > 0


class AlwaysHead:
    """A matcher for which every sentence speaks of the first template."""

    def encode_images(self, pixel_values, boxes, box_image):
        count = len(boxes) // len(pixel_values)
        return pixel_values, torch.eye(count).repeat(len(pixel_values), 1)

    def encode_texts(self, input_ids, attention_mask):
        return torch.eye(len(TEMPLATE_LABELS))[torch.zeros(len(input_ids), dtype=torch.int64)]

    def __call__(self, images=None, text=None, return_tensors=None):
        if images is not None:
            return {"pixel_values": torch.zeros(len(images), 3, 4, 2)}
        return {"input_ids": torch.zeros(len(text), 1), "attention_mask": torch.ones(len(text), 1)}


def test_mining_keeps_what_people_have_paired_and_replaces_what_was_mined(tmp_path):
    file, records = write_source(tmp_path, "cuhk_pedes", people=3)
    records[0]["regions"] = [{"bbox": [1, 1, 5, 5], "label": "bag", "sentence": "Picture 0."}]
    write_records(file, records)
    rows = read_source("cuhk_pedes", file)[0]["train"]
    mined, counts = mine_rows(AlwaysHead(), AlwaysHead(), rows, progress=False)
    assert mined.features == FEATURES
    assert [(r["origin"], r["sentence"]) for r in mined[0]["regions"]] == [("human", 1), ("rsm", 0), ("rsm", 2)]
    assert counts == {"images": 2, "sentences": 6, "kept": 1, "assigned": 5, "unassigned": 0}
    again, counts_again = mine_rows(AlwaysHead(), AlwaysHead(), mined, progress=False)
    assert counts_again == counts
    assert again["regions"][:] == mined["regions"][:]


def test_matcher_that_is_not_there_is_said_before_anything_is_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(dataset_pvlg.build, "read_source", lambda *_: pytest.fail("the source was read"))
    typo = str(tmp_path / "typo")
    assert main(["--source", "cuhk_pedes=x", "--out", str(tmp_path / "out"), "--matcher", typo]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"error: --matcher {typo} cannot be read: ") and told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    write_source(tmp_path / "set", "cuhk_pedes", people=3)
    monkeypatch.setattr(dataset_pvlg.build, "_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build([Source("cuhk_pedes", str(tmp_path / "set"))], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_folder_that_holds_something_is_not_touched(tmp_path, capsys):
    write_source(tmp_path / "set", "cuhk_pedes", people=3)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("dear")
    assert main(["--source", f"cuhk_pedes={tmp_path / 'set'}", "--out", str(tmp_path / "out")]) == 1
    assert "is not an empty folder" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_command_line_reads_and_builds(tmp_path):
    write_source(tmp_path / "set", "cuhk_pedes", people=3)
    (tmp_path / "set" / "imgs").rename(tmp_path / "pictures")
    command = [sys.executable, "-m", "dataset_pvlg.build", "--source", f"cuhk_pedes={tmp_path / 'set'}"]
    command += ["--image-root", str(tmp_path / "pictures"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "train: 2 rows, 1 identities" in done.stdout


def test_command_line_fails_in_one_line(tmp_path, capsys):
    assert main(["--source", "cuhk_pedes=nowhere", "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.strip() == "error: nowhere: no such file or folder (source cuhk_pedes)"
    assert main(["--source", "mars=x", "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith("error: --source mars=x: NAME=PATH is expected")
    assert not (tmp_path / "out").exists()


def test_arguments_name_their_source():
    assert parse_sources(["rstpreid=/a=b"], ["/c=d"]) == [Source("rstpreid", "/a=b", "/c=d")]
    two = parse_sources(["rstpreid=a", "ufine=b"], ["ufine=c"])
    assert two == [Source("rstpreid", "a", None), Source("ufine", "b", "c")]
    for sources, roots in [(["a"], []), (["mars=a"], []), (["ufine="], []), (["ufine=a", "ufine=b"], [])]:
        with pytest.raises(ValueError, match="--source"):
            parse_sources(sources, roots)
    with pytest.raises(ValueError, match="--image-root"):
        parse_sources(["rstpreid=a", "ufine=b"], ["c"])


def test_real_pictures_of_all_four_layouts(test_data, tmp_path, tiny_checkpoint):
    folder = test_data / "pedestrians"
    names = ("cuhk_pedes", "icfg_pedes", "rstpreid", "ufine")
    sources = [Source(name, str(folder / "formats" / name), str(folder / "imgs")) for name in names]
    report = build(sources, tmp_path / "out", matcher=tiny_checkpoint)
    data = load_dataset(str(tmp_path / "out"))
    assert sum(map(len, data.values())) == 4 * 90
    assert report["splits"]["test"]["rows"] == 4 * 31
    people = [set(rows["person_id"]) for rows in data.values()]
    assert sum(map(len, people)) == len(set.union(*people)) == 4 * 12


def test_a_folder_built_anew_is_loaded_anew(tmp_path):
    """The cache of `datasets` must not answer with the rows of another folder of the same name."""
    for people in (3, 5):
        write_source(tmp_path / f"set{people}", "cuhk_pedes", people=people)
        build([Source("cuhk_pedes", str(tmp_path / f"set{people}"))], tmp_path / f"{people}" / "pvlg")
        assert sum(map(len, load_dataset(str(tmp_path / f"{people}" / "pvlg")).values())) == 2 * people
