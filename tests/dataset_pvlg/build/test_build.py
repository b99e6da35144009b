import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import load_dataset
from tests.helpers.hub_server import hub_stand_in, in_this_process
from benchmarks.robustness.kill_build import checksums, finished_units, go_on, kill_when
from tests.helpers.source_layouts import write_records, write_source

import dataset_pvlg.build.build
import dataset_pvlg.build.steps
from dataset_pvlg.build.build import Options, Source, build, main, parse_sources
from dataset_pvlg.curation.curate import CurationOptions
from dataset_pvlg.features import FEATURES
from dataset_pvlg.readers.read import read_source

SOURCES = ("cuhk_pedes", "icfg_pedes", "rstpreid", "ufine")


def test_built_folder_loads_with_the_same_rows_and_embedded_images(tmp_path):
    for name in ("cuhk_pedes", "icfg_pedes"):
        write_source(tmp_path / name, name, people=4)
    out = tmp_path / "out" / "pvlg"
    report = build([Source(n, str(tmp_path / n)) for n in ("cuhk_pedes", "icfg_pedes")], out, Options(curation=None))
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
    report = build(
        [Source("cuhk_pedes", str(tmp_path / "set"))], tmp_path / "out", Options(matcher=str(tiny_checkpoint))
    )
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


def test_matcher_that_is_not_there_is_said_before_anything_is_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(dataset_pvlg.build.steps, "read_source", lambda *_: pytest.fail("the source was read"))
    typo = str(tmp_path / "typo")
    assert main(["--source", "cuhk_pedes=x", "--out", str(tmp_path / "out"), "--matcher", typo]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"error: --matcher {typo} cannot be read: ") and told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_failure_leaves_no_half_folder_and_the_next_run_goes_on(tmp_path, monkeypatch, capfd):
    write_source(tmp_path / "set", "cuhk_pedes", people=3)
    arguments = [Source("cuhk_pedes", str(tmp_path / "set"))], tmp_path / "out"
    with monkeypatch.context() as broken, pytest.raises(ZeroDivisionError):
        broken.setattr(dataset_pvlg.build.build, "card", lambda *_: 1 / 0)
        build(*arguments)
    assert not (tmp_path / "out").exists()
    capfd.readouterr()
    build(*arguments)
    assert "read: 0 made, 1 found finished" in capfd.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "set"]


def test_a_image_that_changed_since_it_was_read_is_named(tmp_path, monkeypatch):
    write_source(tmp_path / "set", "cuhk_pedes", people=3)
    image = next((tmp_path / "set").rglob("*.jpg"))
    arguments = [Source("cuhk_pedes", str(tmp_path / "set"))], tmp_path / "out"
    gather = dataset_pvlg.build.steps.gather

    def change(*args):
        image.write_bytes(image.read_bytes() + b"!")
        return gather(*args)

    monkeypatch.setattr(dataset_pvlg.build.steps, "gather", change)
    with pytest.raises(ValueError, match=f"{image.name}: has changed since it was read"):
        build(*arguments)


def test_a_image_that_validation_has_too_is_taken_from_train(tmp_path):
    file, records = write_source(tmp_path / "set", "cuhk_pedes", people=6)
    train, other = (next(r["file_path"] for r in records if r["split"] == split) for split in ("train", "val"))
    shutil.copy(file.parent / "imgs" / other, file.parent / "imgs" / train)
    for curation, removed in ((CurationOptions(near_duplicates=False), 1), (None, 0)):
        out = tmp_path / f"out{removed}"
        report = build([Source("cuhk_pedes", str(tmp_path / "set"))], out, Options(curation))
        card = (out / "README.md").read_text(encoding="utf-8")
        assert report["splits"]["train"]["rows"] == 8 - removed
        assert ("1 x same file in validation or test" in card) == bool(removed)


def same_rows(*loaded) -> bool:
    """Whether data sets, streamed or not, hold the same rows; images by their pixels."""
    columns = []
    for rows in loaded:
        columns.append([{**row, "image": row["image"] and row["image"].tobytes()} for row in rows])
    return all(rows == columns[0] for rows in columns)


@pytest.mark.parametrize("images", [True, False])
def test_every_way_of_loading_gives_the_same_rows(tmp_path, images):
    out = tmp_path / "pvlg"
    report = build([Source("synthetic", "10x2")], out, Options(images=images, shard_rows=3, file_shards=2))
    assert [name for name in report["files"] if "train" in name] == [
        f"data/train-{n:05d}-of-00003.parquet" for n in range(3)
    ]
    for split, count in (("train", 16), ("validation", 2), ("test", 2)):
        plain = load_dataset(str(out), split=split)
        ours = load_dataset("pvlg", data_dir=str(out), split=split)
        streams = [
            load_dataset(str(out), split=split, streaming=True),
            load_dataset("pvlg", data_dir=str(out), split=split, streaming=True),
        ]
        assert len(plain) == count and plain.features == ours.features == FEATURES
        assert same_rows(plain, ours, *streams)
        assert all((row["image"] is not None) == images for row in plain)


def test_synthetic_rows_are_those_of_the_embedded_set(tmp_path):
    build([Source("synthetic", "10x2")], tmp_path / "out")
    sizes = {"train_identities": 8, "validation_identities": 1, "test_identities": 1, "images_per_identity": 2}
    for split, rows in load_dataset("pvlg", "synthetic", **sizes).items():
        assert same_rows(rows, load_dataset(str(tmp_path / "out"), split=split))


def test_annotations_only_hold_no_image(tmp_path):
    write_source(tmp_path / "set", "cuhk_pedes", people=4)
    build([Source("cuhk_pedes", str(tmp_path / "set"))], tmp_path / "out", Options(images=False))
    start = next((tmp_path / "set").rglob("*.jpg")).read_bytes()[:40]
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or start not in path.read_bytes()
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "python -m dataset_pvlg.build.join THIS_FOLDER --images cuhk_pedes=FOLDER --out DIR" in card


@pytest.fixture(scope="module")
def killed(tmp_path_factory, tiny_checkpoint):
    """What builds the same things into any folder, and the checksums of an undisturbed run."""
    folder = tmp_path_factory.mktemp("killed")
    for name in SOURCES:
        write_source(folder / name, name, people=5)
    sources = [Source(name, str(folder / name)) for name in SOURCES]

    def run(out):
        build(sources, out, Options(matcher=str(tiny_checkpoint), batch_size=4, shard_rows=6, file_shards=2))

    run(folder / "whole")
    return run, checksums(folder / "whole")


@pytest.mark.parametrize("stage", ["read", "curate", "learn", "match", "write", "over"])
def test_a_build_killed_at_any_stage_goes_on_to_the_same_bytes(tmp_path, killed, stage):
    run, whole = killed
    out = tmp_path / "out"
    moment = out.exists if stage == "over" else lambda: finished_units(out).get(stage, 0) > 0
    finished = kill_when(out, moment, lambda: run(out))
    assert stage == "over" or finished[stage] > 0
    kill = go_on(out, stage, finished, lambda: run(out), whole)
    assert kill.same
    if kill.found:  # else all was done but for clearing up
        assert {name: count for name, count in kill.found.items() if count} == finished


def test_images_that_may_not_be_passed_on_are_not_pushed(tmp_path, capsys):
    command = ["--source", "cuhk_pedes=nowhere", "--out", str(tmp_path / "out"), "--push-to-hub", "me/pvlg"]
    assert main(command) == 1
    assert capsys.readouterr().err == (
        "error: --push-to-hub: the images of cuhk_pedes may not be passed on; add --annotations-only\n"
    )
    assert main([*command[:-1], "me/pvlg/x"]) == 1
    assert capsys.readouterr().err.startswith("error: me/pvlg/x: ")


def test_annotations_are_pushed_to_a_private_repository(tmp_path, monkeypatch):
    write_source(tmp_path / "set", "cuhk_pedes", people=4)
    out = tmp_path / "out"
    command = ["--source", f"cuhk_pedes={tmp_path / 'set'}", "--out", str(out), "--annotations-only", "--no-curation"]
    with hub_stand_in() as hub:
        in_this_process(hub, monkeypatch)
        assert main([*command, "--push-to-hub", "me/pvlg"]) == 0
        assert hub.files("dataset", "me/pvlg") == {
            path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()
        }
        assert hub.private["dataset", "me/pvlg"]


def test_a_folder_that_holds_something_is_not_touched(tmp_path, capsys):
    write_source(tmp_path / "set", "cuhk_pedes", people=3)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("dear")
    assert main(["--source", f"cuhk_pedes={tmp_path / 'set'}", "--out", str(tmp_path / "out")]) == 1
    assert "is not an empty folder" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_command_line_with_two_processes_writes_the_same_bytes(tmp_path):
    write_source(tmp_path / "set", "cuhk_pedes", people=3)
    (tmp_path / "set" / "imgs").rename(tmp_path / "images")
    sources = ["--source", f"cuhk_pedes={tmp_path / 'set'}", "--source", "synthetic=4x2"]
    command = [*sources, "--image-root", f"cuhk_pedes={tmp_path / 'images'}", "--no-curation"]
    call = [sys.executable, "-m", "dataset_pvlg.build.build", *command, "--out", str(tmp_path / "two"), "--num-proc", "2"]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "train: 6 rows, 3 identities" in done.stdout
    assert main([*command, "--out", str(tmp_path / "one")]) == 0
    assert checksums(tmp_path / "one") == checksums(tmp_path / "two")


def test_command_line_fails_in_one_line(tmp_path, capsys):
    assert main(["--source", "cuhk_pedes=nowhere", "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.strip() == "error: nowhere: no such file or folder (source cuhk_pedes)"
    assert main(["--source", "mars=x", "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith("error: --source mars=x: NAME=PATH is expected")
    assert not (tmp_path / "out").exists()


def test_options_that_do_nothing_are_one_line(tmp_path, capsys):
    (tmp_path / "own").mkdir()
    command = ["--source", f"own={tmp_path / 'own'}", "--out", str(tmp_path / "out")]
    for more, told in (
        (["--proposer", "grid"], "--proposer: its candidates are for a --matcher, and there is none"),
        (["--no-curation", "--min-width", "9"], "--min-width: of no use with --no-curation"),
        (["--no-rgb", "--no-curation"], "--rgb: of no use with --no-curation"),
        (["--image-root", "own="], "--image-root own=: names no folder"),
    ):
        assert main([*command, *more]) == 1
        assert capsys.readouterr().err == f"error: {told}\n"


@pytest.mark.parametrize("matcher", [False, True])
def test_a_curation_that_leaves_no_row_is_one_line(tmp_path, capsys, tiny_checkpoint, matcher):
    write_source(tmp_path / "set", "cuhk_pedes", people=3)
    command = ["--source", f"cuhk_pedes={tmp_path / 'set'}", "--out", str(tmp_path / "out"), "--min-width", "9999"]
    command += ["--no-train-only", *(["--matcher", str(tiny_checkpoint)] if matcher else [])]
    assert main(command) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: curation left no row; see ") and not (tmp_path / "out").exists()
    told = json.loads(Path(last.rpartition("see ")[2]).read_text())
    assert set(told["shards"].values()) <= {0} and told["curation"]


def test_out_may_be_a_link_or_this_folder_and_no_mount_point(tmp_path, monkeypatch, capsys):
    (tmp_path / "target" / "here").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "target" / "there")
    assert main(["--source", "synthetic=4x1", "--no-curation", "--out", str(tmp_path / "link")]) == 0
    assert (tmp_path / "target" / "there" / "build_report.json").is_file() and (tmp_path / "link").is_symlink()
    monkeypatch.chdir(tmp_path / "target" / "here")
    assert main(["--source", "synthetic=4x1", "--no-curation", "--out", "."]) == 0
    assert (tmp_path / "target" / "here" / "build_report.json").is_file()
    capsys.readouterr()
    for out in ("/", "/proc"):
        assert main(["--source", "synthetic=4x1", "--out", out]) == 1
        assert capsys.readouterr().err.startswith(f"error: {out}: is a mount point, onto which no folder can be moved")


def test_a_mark_of_completion_without_the_folder_is_not_believed(tmp_path):
    out, work = tmp_path / "out", tmp_path / "work"
    work.mkdir()
    (work / dataset_pvlg.build.build.COMPLETE).write_text("command")
    assert not dataset_pvlg.build.build._is_complete(work, out, "command"), "its folder was taken away"
    out.mkdir()
    (out / "build_report.json").write_text("{}")
    assert dataset_pvlg.build.build._is_complete(work, out, "command")


def test_arguments_name_their_source():
    assert parse_sources(["rstpreid=/a=b"], ["/c=d"]) == [Source("rstpreid", "/a=b", "/c=d")]
    two = parse_sources(["rstpreid=a", "ufine=b"], ["ufine=c"])
    assert two == [Source("rstpreid", "a", None), Source("ufine", "b", "c")]
    for sources, roots in [(["a"], []), (["mars=a"], []), (["ufine="], []), (["ufine=a", "ufine=b"], [])]:
        with pytest.raises(ValueError, match="--source"):
            parse_sources(sources, roots)
    with pytest.raises(ValueError, match="--image-root"):
        parse_sources(["rstpreid=a", "ufine=b"], ["c"])


def test_real_images_of_all_four_layouts_by_one_command_twice_the_same_bytes(test_data, tmp_path):
    folder = test_data / "pedestrians"
    command = ["--num-proc", "1", "--no-curation"]
    for name in ("cuhk_pedes", "icfg_pedes", "rstpreid", "ufine"):
        command += ["--source", f"{name}={folder / 'formats' / name}", "--image-root", f"{name}={folder / 'imgs'}"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert main([*command, "--out", str(tmp_path / "again")]) == 0
    assert checksums(tmp_path / "out") == checksums(tmp_path / "again")
    data = load_dataset(str(tmp_path / "out"))
    assert sum(map(len, data.values())) == 4 * 90
    assert len(data["test"]) == 4 * 31
    people = [set(rows["person_id"]) for rows in data.values()]
    assert sum(map(len, people)) == len(set.union(*people)) == 4 * 12


def test_a_folder_built_anew_is_loaded_anew(tmp_path):
    """The cache of `datasets` must not answer with the rows of another folder of the same name."""
    for people in (3, 5):
        write_source(tmp_path / f"set{people}", "cuhk_pedes", people=people)
        arguments = [Source("cuhk_pedes", str(tmp_path / f"set{people}"))], tmp_path / f"{people}" / "pvlg"
        build(*arguments, Options(curation=None))
        assert sum(map(len, load_dataset(str(tmp_path / f"{people}" / "pvlg")).values())) == 2 * people
