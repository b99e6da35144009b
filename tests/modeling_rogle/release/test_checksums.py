"""The list of checksums: its content, and errors that name a changed, added or missing file."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from modeling_rogle.release.checksums import NAME, ChecksumError, list_files, main, verify, write_checksums


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "release"
    (root / "data").mkdir(parents=True)
    (root / "modeling_rogle.py").write_text("GOOD = 1\n")
    (root / "model.safetensors").write_bytes(b"weights")
    (root / "data" / "an image.jpg").write_bytes(b"\xff\xd8")
    write_checksums(root)
    return root


def test_every_file_is_listed_with_the_digest_of_its_bytes(folder: Path):
    files = {file.path: file for file in verify(folder)}
    assert sorted(files) == ["data/an image.jpg", "model.safetensors", "modeling_rogle.py"]
    assert files["model.safetensors"].size == 7
    assert files["model.safetensors"].sha256 == hashlib.sha256(b"weights").hexdigest()
    assert write_checksums(folder) == write_checksums(folder), "the list does not list itself"


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
def test_sha256sum_reads_the_list(folder: Path):
    done = subprocess.run(["sha256sum", "-c", "--strict", NAME], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count(": OK") == 3


def test_a_tampered_code_file_is_named(folder: Path, capsys: pytest.CaptureFixture[str]):
    digest = hashlib.sha256((folder / NAME).read_bytes()).hexdigest()
    assert main([str(folder), "--digest", digest]) == 0
    assert digest in capsys.readouterr().out
    (folder / "modeling_rogle.py").write_text("import os; os.system('true')\n")
    assert main([str(folder), "--digest", digest]) == 2
    error = capsys.readouterr().err
    assert "modeling_rogle.py: changed since the release" in error and error.count("\n") == 1
    # A person who changes the code can also change the list, but not the digest that the release printed.
    write_checksums(folder)
    assert main([str(folder)]) == 0
    assert main([str(folder), "--digest", digest]) == 2
    assert f"{NAME}: its SHA-256 is" in capsys.readouterr().err


def test_added_and_missing_files_are_named(folder: Path):
    (folder / "sitecustomize.py").write_text("")
    with pytest.raises(ChecksumError, match=r"sitecustomize\.py: not in SHA256SUMS"):
        verify(folder)
    (folder / "sitecustomize.py").unlink()
    (folder / "__pycache__").mkdir()
    compiled = folder / "__pycache__" / "modeling_rogle.cpython-311.pyc"  # Python would execute it
    compiled.write_bytes(b"")
    with pytest.raises(ChecksumError, match=r"311\.pyc: not in SHA256SUMS"):
        verify(folder)
    assert len(list_files(folder)) == 4, "it is not released"
    shutil.rmtree(folder / "__pycache__")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "left").touch()
    verify(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ChecksumError, match=r"model\.safetensors: in SHA256SUMS, but missing"):
        verify(folder)


@pytest.mark.parametrize("line", ["nonsense", f"{'0' * 64}  ../outside", f"{'0' * 64}  /etc/passwd", "0" * 64])
def test_a_list_that_names_files_outside_the_folder_is_refused(folder: Path, line: str):
    with (folder / NAME).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ChecksumError, match="line 4"):
        verify(folder)


def test_a_missing_list_is_an_error(tmp_path: Path):
    with pytest.raises(ChecksumError, match="no such file"):
        verify(tmp_path)


def test_files_of_python_and_the_hub_are_not_listed(tmp_path: Path):
    (tmp_path / "code.py").write_text("")
    for name in ("__pycache__", ".cache"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "left").write_bytes(b"")
    (tmp_path / ".gitattributes").write_text("")
    assert [file.path for file in list_files(tmp_path)] == ["code.py"]
