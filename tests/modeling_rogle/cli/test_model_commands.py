"""`rogle push`: from a checkout of the repository and without one."""

import shutil
from pathlib import Path

from modeling_rogle.cli import model_commands
from modeling_rogle.cli.main import main


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_push_runs_the_release_of_the_repository(tmp_path, capsys):
    code, _, error = run(capsys, "push", tmp_path / "gone", "me/rogle", "--parts", "nothing")
    assert code == 2
    assert "--parts: 'nothing'" in error


def test_push_without_the_repository_releases_the_model_only(tmp_path, tiny_checkpoint, monkeypatch, capsys):
    monkeypatch.setattr(model_commands, "__file__", str(tmp_path / "modeling_rogle" / "cli" / "model_commands.py"))
    model = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    (model / "README.md").write_text("---\nlicense: apache-2.0\n---\nfrom_pretrained('PATH_OR_NAME')\n")
    code, out, error = run(capsys, "push", model, "me/rogle", "--dry-run")
    assert code == 0 and out.splitlines()[-1].endswith("files would be pushed to me/rogle")
    assert "model only" in error


def test_push_without_the_repository_refuses_other_options(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(model_commands, "__file__", str(tmp_path / "modeling_rogle" / "cli" / "model_commands.py"))
    code, out, error = run(capsys, "push", "model", "me/rogle", "--parts", "data")
    assert (code, out) == (2, "") and error.startswith("rogle push: --parts: ")
