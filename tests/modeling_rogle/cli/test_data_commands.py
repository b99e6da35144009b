"""`rogle mine`, `rogle join` and `rogle push`: what they leave behind, and one line for whatever is wrong."""

import shutil
from pathlib import Path

import pytest

from dataset_pvlg.build.build import Options, Source, build
from dataset_pvlg.loading import load_rows
from modeling_rogle.cli import data_commands as cli_data
from modeling_rogle.cli.main import main
from tests.helpers.processes import fresh
from tests.helpers.source_layouts import write_source

ROOT = Path(__file__).parents[3]


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    codes: list[int] = []
    fresh(lambda: codes.append(main([str(argument) for argument in arguments])))
    captured = capsys.readouterr()
    return codes[0], captured.out, captured.err


def test_mine_then_the_data_have_mined_regions(tiny_checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    command = ("mine", "synthetic-tiny", "--model", tiny_checkpoint, "--out", out, "--split", "train", "--ignore-pairs")
    code, told, _ = run(capsys, *command, "--sample", "6", "--threshold", "0.1", "--rule", "one_to_one")
    assert code == 0
    first, last = told.splitlines()
    counts = {name: int(number) for number, name in (part.split() for part in first.partition(": ")[2].split(", "))}
    assert first.startswith("train: ") and counts["images"] == 48 and counts["kept"] == 0 and last == str(out)
    regions = [region for row in load_rows("pvlg", out)[0]["train"]["regions"] for region in row]
    assert len(regions) == counts["assigned"] and {region["origin"] for region in regions} <= {"rsm"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]

    code, told, error = run(capsys, *command)
    assert (code, told) == (2, "")
    assert error == f"rogle mine: {out}: exists and is not an empty folder; choose another --out\n"


def test_bad_input_of_mine_is_one_line_before_the_model_is_read(tiny_checkpoint, tmp_path, capsys):
    gone, model = tmp_path / "gone", ("--model", tiny_checkpoint)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    for arguments, message in (
        (("synthetic-tiny", "--model", gone), f"--model {gone}: no such folder"),
        ((gone, *model), f"pvlg: data_dir {gone} is not a folder"),
        (("synthetic-tiny", "--model", tmp_path / "broken", "--split", "x"), "--split x: synthetic-tiny has train, "),
        (("synthetic-tiny", *model, "--sample", "0"), "--sample must be at least 1, not 0"),
        (("synthetic-tiny", *model, "--proposer", "x"), "--proposer x: proposer 'x' is not known"),
    ):
        code, out, error = run(capsys, "mine", *arguments, "--out", tmp_path / "out")
        assert (code, out) == (2, "") and error.startswith(f"rogle mine: {message}") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_join_puts_images_back(tmp_path, capsys):
    write_source(tmp_path / "set", "cuhk_pedes", people=3)
    build([Source("cuhk_pedes", str(tmp_path / "set"))], tmp_path / "notes", Options(curation=None, images=False))
    command = ("join", tmp_path / "notes", "--out", tmp_path / "out", "--images")
    code, out, _ = run(capsys, *command, f"cuhk_pedes={tmp_path / 'set' / 'imgs'}")
    rows = [row for split in load_rows("pvlg", tmp_path / "out")[0].values() for row in split]
    assert code == 0 and out.splitlines() == [
        f"{len(rows)} of {len(rows)} rows have their image again",
        str(tmp_path / "out"),
    ]
    assert all(row["image"].size == (row["width"], row["height"]) for row in rows)
    code, out, error = run(capsys, *command, "cuhk_pedes")
    assert (code, out) == (2, "")
    assert error == "rogle join: --images cuhk_pedes: SOURCE=FOLDER is expected, each source once\n"


def test_push_is_the_release_of_the_repository(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["push", str(tmp_path / "gone"), "me/rogle", "--parts", "nothing"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "--parts: 'nothing' is not known" in error and error.count("\n") == 1


def test_push_without_the_repository_is_of_the_model_alone(tmp_path, tiny_checkpoint, monkeypatch, capsys):
    monkeypatch.setattr(cli_data, "__file__", str(tmp_path / "modeling_rogle" / "cli" / "data_commands.py"))
    model = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    (model / "README.md").write_text("---\nlicense: apache-2.0\n---\nfrom_pretrained('PATH_OR_NAME')\n")
    code, out, error = run(capsys, "push", model, "me/rogle", "--dry-run")
    assert code == 0 and out.splitlines()[-1].endswith("files would be pushed to me/rogle")
    assert error.startswith("rogle push: the model alone; data, metric and demo are pushed from a checkout of the repo")


def test_push_without_the_repository_names_what_needs_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli_data, "__file__", str(tmp_path / "modeling_rogle" / "cli" / "data_commands.py"))
    assert run(capsys, "push", "model", "me/rogle", "--parts", "data") == (
        2,
        "",
        "rogle push: --parts: only in a checkout of the repository, as hub/release.py is not installed\n",
    )
