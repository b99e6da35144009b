"""A build gives a data set that loads, survives kills at any stage, and respects the licences of its sources."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import load_dataset

import dataset_pvlg.build.build
import dataset_pvlg.build.steps
from benchmarks.robustness.kill_build import checksums, finished_units, kill_when, resume
from dataset_pvlg.build.build import Options, Source, build, parse_sources
from dataset_pvlg.curation.curate import CurationOptions
from dataset_pvlg.features import FEATURES
from dataset_pvlg.readers.read import read_source
from modeling_rogle.cli.main import main as rogle
from tests.helpers.hub_server import hub_server, in_this_process
from tests.helpers.source_layouts import write_records, write_source

SOURCES = ("cuhk_pedes", "icfg_pedes", "rstpreid", "ufine")


def run_command(arguments: list[str]) -> int:
    return rogle(["data", "build", *arguments])


def test_built_folder_loads_with_the_same_rows_and_embedded_images(tmp_path):
    for name in ("cuhk_pedes", "icfg_pedes"):
        write_source(tmp_path / name, name, people=4)
    out = tmp_path / "out" / "pvlg"
    report = build([Source(n, str(tmp_path / n)) for n in ("cuhk_pedes", "icfg_pedes")], out, Options(curation=None))
    expected = {name: read_source(name, tmp_path / name)[0] for name in ("cuhk_pedes", "icfg_pedes")}
    for folder in ("cuhk_pedes", "icfg_pedes"):  # the images are inside the Parquet files
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


def test_report_and_card_hold_no_paths_of_the_machine(tmp_path):
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


def test_a_missing_matcher_is_reported_before_anything_is_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(dataset_pvlg.build.steps, "read_source", lambda *_: pytest.fail("the source was read"))
    typo = str(tmp_path / "typo")
    assert run_command(["--source", "cuhk_pedes=x", "--out", str(tmp_path / "out"), "--matcher", typo]) == 2
    message = capsys.readouterr().err
    assert f"--matcher {typo} " in message and message.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_failure_leaves_no_partial_folder_and_the_next_run_resumes(tmp_path, monkeypatch, capfd):
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


def test_an_image_that_changed_since_it_was_read_is_named(tmp_path, monkeypatch):
    write_source(tmp_path / "set", "cuhk_pedes", people=3)
    image = next((tmp_path / "set").rglob("*.jpg"))
    arguments = [Source("cuhk_pedes", str(tmp_path / "set"))], tmp_path / "out"
    curate_sources = dataset_pvlg.build.steps.curate_sources

    def change(*args):
        image.write_bytes(image.read_bytes() + b"!")
        return curate_sources(*args)

    monkeypatch.setattr(dataset_pvlg.build.steps, "curate_sources", change)
    with pytest.raises(ValueError, match=f"{image.name}: has changed since it was read"):
        build(*arguments)


def test_an_image_of_validation_is_removed_from_train(tmp_path):
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
    assert "rogle join THIS_FOLDER --images cuhk_pedes=FOLDER --out DIR" in card


@pytest.fixture(scope="module")
def killed(tmp_path_factory, tiny_checkpoint):
    """A function that builds the same data set into any folder, and the checksums of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("killed")
    for name in SOURCES:
        write_source(folder / name, name, people=5)
    sources = [Source(name, str(folder / name)) for name in SOURCES]

    def run(out):
        build(sources, out, Options(matcher=str(tiny_checkpoint), batch_size=4, shard_rows=6, file_shards=2))

    run(folder / "whole")
    return run, checksums(folder / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["read", "curate", "learn", "match", "write", "over"])
def test_a_build_killed_at_any_stage_resumes_to_the_same_bytes(tmp_path, killed, stage):
    run, whole = killed
    out = tmp_path / "out"
    moment = out.exists if stage == "over" else lambda: finished_units(out).get(stage, 0) > 0
    finished = kill_when(out, moment, lambda: run(out))
    assert stage == "over" or finished[stage] > 0
    kill = resume(out, stage, finished, lambda: run(out), whole)
    assert kill.same
    if kill.reused:  # otherwise only the clean-up was left
        assert {name: count for name, count in kill.reused.items() if count} == finished


def test_restricted_images_are_not_pushed(tmp_path, capsys):
    command = ["--source", "cuhk_pedes=nowhere", "--out", str(tmp_path / "out"), "--push-to-hub", "me/pvlg"]
    assert run_command(command) == 2
    message = capsys.readouterr().err
    assert "--push-to-hub" in message and "cuhk_pedes" in message and message.count("\n") == 1
    assert run_command([*command[:-1], "me/pvlg/x"]) == 2
    assert "me/pvlg/x: " in capsys.readouterr().err


def test_annotations_are_pushed_to_a_private_repository(tmp_path, monkeypatch):
    write_source(tmp_path / "set", "cuhk_pedes", people=4)
    out = tmp_path / "out"
    command = ["--source", f"cuhk_pedes={tmp_path / 'set'}", "--out", str(out), "--annotations-only", "--no-curation"]
    with hub_server() as hub:
        in_this_process(hub, monkeypatch)
        assert run_command([*command, "--push-to-hub", "me/pvlg"]) == 0
        assert hub.files("dataset", "me/pvlg") == {
            path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()
        }
        assert hub.private["dataset", "me/pvlg"]


def test_a_folder_that_is_not_empty_is_not_changed(tmp_path, capsys):
    write_source(tmp_path / "set", "cuhk_pedes", people=3)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("dear")
    assert run_command(["--source", f"cuhk_pedes={tmp_path / 'set'}", "--out", str(tmp_path / "out")]) == 2
    assert str(tmp_path / "out") in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_command_line_with_two_processes_writes_the_same_bytes(tmp_path):
    write_source(tmp_path / "set", "cuhk_pedes", people=3)
    (tmp_path / "set" / "imgs").rename(tmp_path / "images")
    sources = ["--source", f"cuhk_pedes={tmp_path / 'set'}", "--source", "synthetic=4x2"]
    command = [*sources, "--image-root", f"cuhk_pedes={tmp_path / 'images'}", "--no-curation"]
    call = [sys.executable, "-m", "modeling_rogle.cli.main", "data", "build", *command]
    call += ["--out", str(tmp_path / "two"), "--num-proc", "2"]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "train: 6 rows, 3 identities" in done.stdout
    assert run_command([*command, "--out", str(tmp_path / "one")]) == 0
    assert checksums(tmp_path / "one") == checksums(tmp_path / "two")


def test_command_line_fails_in_one_line(tmp_path, capsys):
    assert run_command(["--source", "cuhk_pedes=nowhere", "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert "nowhere: " in message and "cuhk_pedes" in message and message.count("\n") == 1
    assert run_command(["--source", "mars=x", "--out", str(tmp_path / "out")]) == 2
    assert "--source mars=x: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_options_without_effect_are_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "own").mkdir()
    command = ["--source", f"own={tmp_path / 'own'}", "--out", str(tmp_path / "out")]
    for more, flag in (
        (["--proposer", "grid"], "--proposer"),
        (["--no-curation", "--min-width", "9"], "--min-width"),
        (["--no-rgb", "--no-curation"], "--rgb"),
        (["--image-root", "own="], "--image-root own="),
    ):
        assert run_command([*command, *more]) == 2
        message = capsys.readouterr().err
        assert f"{flag}: " in message and message.count("\n") == 1


@pytest.mark.parametrize("matcher", [False, True])
def test_a_curation_that_leaves_no_row_is_one_line(tmp_path, capsys, tiny_checkpoint, matcher):
    write_source(tmp_path / "set", "cuhk_pedes", people=3)
    command = ["--source", f"cuhk_pedes={tmp_path / 'set'}", "--out", str(tmp_path / "out"), "--min-width", "9999"]
    command += ["--no-train-only", *(["--matcher", str(tiny_checkpoint)] if matcher else [])]
    assert run_command(command) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "curation left no row; see " in last and not (tmp_path / "out").exists()
    result = json.loads(Path(last.rpartition("see ")[2]).read_text())
    assert set(result["shards"].values()) <= {0} and result["curation"]


def test_out_may_be_a_link_or_this_folder_and_no_mount_point(tmp_path, monkeypatch, capsys):
    (tmp_path / "target" / "here").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "target" / "there")
    assert run_command(["--source", "synthetic=4x1", "--no-curation", "--out", str(tmp_path / "link")]) == 0
    assert (tmp_path / "target" / "there" / "build_report.json").is_file() and (tmp_path / "link").is_symlink()
    monkeypatch.chdir(tmp_path / "target" / "here")
    assert run_command(["--source", "synthetic=4x1", "--no-curation", "--out", "."]) == 0
    assert (tmp_path / "target" / "here" / "build_report.json").is_file()
    capsys.readouterr()
    for out in ("/", "/proc"):
        assert run_command(["--source", "synthetic=4x1", "--out", out]) == 2
        assert f"{out}: is a mount point" in capsys.readouterr().err


def test_a_completion_mark_without_the_folder_does_not_count(tmp_path):
    out, work = tmp_path / "out", tmp_path / "work"
    work.mkdir()
    (work / dataset_pvlg.build.build.COMPLETE).write_text("command")
    assert not dataset_pvlg.build.build._is_complete(work, out, "command"), "its folder was removed"
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
    assert run_command([*command, "--out", str(tmp_path / "out")]) == 0
    assert run_command([*command, "--out", str(tmp_path / "again")]) == 0
    assert checksums(tmp_path / "out") == checksums(tmp_path / "again")
    data = load_dataset(str(tmp_path / "out"))
    assert sum(map(len, data.values())) == 4 * 90
    assert len(data["test"]) == 4 * 31
    people = [set(rows["person_id"]) for rows in data.values()]
    assert sum(map(len, people)) == len(set.union(*people)) == 4 * 12


def test_a_rebuilt_folder_is_loaded_again(tmp_path):
    """The cache of `datasets` must not answer with the rows of another folder of the same name."""
    for people in (3, 5):
        write_source(tmp_path / f"set{people}", "cuhk_pedes", people=people)
        arguments = [Source("cuhk_pedes", str(tmp_path / f"set{people}"))], tmp_path / f"{people}" / "pvlg"
        build(*arguments, Options(curation=None))
        assert sum(map(len, load_dataset(str(tmp_path / f"{people}" / "pvlg")).values())) == 2 * people
