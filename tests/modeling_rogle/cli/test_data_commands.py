"""`rogle mine`, `rogle join` and `rogle data`: what they write, and one line for every error."""

import pytest

from dataset_pvlg.build.build import Options, Source, build
from dataset_pvlg.loading import load_rows
from modeling_rogle.cli.data_commands import DATA_COMMANDS
from modeling_rogle.cli.main import main
from tests.helpers.processes import fresh
from tests.helpers.source_layouts import write_source


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    codes: list[int] = []
    fresh(lambda: codes.append(main([str(argument) for argument in arguments])))
    captured = capsys.readouterr()
    return codes[0], captured.out, captured.err


@pytest.mark.slow
def test_mine_writes_a_data_set_with_regions(tiny_checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    command = ("mine", "synthetic-tiny", "--model", tiny_checkpoint, "--out", out, "--split", "train", "--ignore-pairs")
    code, out_text, _ = run(capsys, *command, "--sample", "6", "--threshold", "0.1")
    assert code == 0
    first, last = out_text.splitlines()
    counts = {name: int(number) for number, name in (part.split() for part in first.partition(": ")[2].split(", "))}
    assert first.startswith("train: ") and counts["images"] == 48 and counts["kept"] == 0 and last == str(out)
    regions = [region for row in load_rows("pvlg", out)[0]["train"]["regions"] for region in row]
    assert len(regions) == counts["assigned"] and {region["origin"] for region in regions} <= {"rsm"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]

    code, out_text, error = run(capsys, *command)
    assert (code, out_text) == (2, "")
    assert error == f"rogle mine: {out}: exists and is not an empty folder; choose another --out\n"


def test_bad_input_of_mine_is_one_line_before_the_model_is_read(tiny_checkpoint, tmp_path, capsys):
    load_rows("synthetic-tiny")  # fills the cache of `datasets`, so that no progress bar is printed below
    gone, model = tmp_path / "gone", ("--model", tiny_checkpoint)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    for arguments, message in (
        (("synthetic-tiny", "--model", gone), f"--model {gone}: no such folder"),
        ((gone, *model), f"pvlg: data_dir {gone} is not a folder"),
        (("synthetic-tiny", "--model", tmp_path / "broken", "--split", "x"), "--split x: synthetic-tiny has "),
        (("synthetic-tiny", *model, "--sample", "0"), "--sample "),
        (("synthetic-tiny", *model, "--proposer", "x"), "--proposer x: proposer 'x' is not known"),
    ):
        code, out, error = run(capsys, "mine", *arguments, "--out", tmp_path / "out")
        assert (code, out) == (2, "") and error.startswith(f"rogle mine: {message}") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_join_adds_the_images(tmp_path, capsys):
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


@pytest.mark.parametrize("name", DATA_COMMANDS)
def test_every_data_command_has_a_help_text(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["data", name, "--help"])
    assert stopped.value.code == 0
    assert f"usage: rogle data {name}" in capsys.readouterr().out


def test_data_view_and_its_errors(tmp_path, capsys):
    page = tmp_path / "page.html"
    code, _, _ = run(capsys, "data", "view", "synthetic-tiny", "--rows", "2", "--out", page)
    assert code == 0 and page.read_text().startswith("<!DOCTYPE html>")
    code, out, error = run(capsys, "data", "view", tmp_path / "gone", "--out", page)
    assert (
        (code, out) == (2, "") and error.startswith("rogle data view: ") and "gone" in error and error.count("\n") == 1
    )


def test_data_refuses_an_unknown_name_and_a_wrong_flag(capsys):
    for arguments in (["data"], ["data", "no-command"], ["data", "view", "synthetic-tiny", "--wrong"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
