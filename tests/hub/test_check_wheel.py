"""The wheel is reproducible, contains the two packages only, and runs after installation."""

import importlib.util
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from hub import check_wheel
from hub.check_wheel import ROOT, WheelError, build, check_content, install, sbom, tracked

pytestmark = pytest.mark.skipif(
    not (ROOT / ".git").exists() or importlib.util.find_spec("build") is None, reason="needs a git checkout and build"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("needs setuptools: the network may not be there")
    return build(tmp_path_factory.mktemp("dist"), isolated=False)


def test_the_wheel_contains_only_the_packages(built: list[Path]):
    wheel, archive = built
    assert check_content(wheel) > 60
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"modeling_rogle", "dataset_pvlg", "rogle"}
    assert "modeling_rogle/release/handler.py" in names and "modeling_rogle/py.typed" in names
    with tarfile.open(archive) as tar:
        assert {member.mtime for member in tar.getmembers()} == {check_wheel.epoch()}


def test_a_second_build_has_the_same_bytes(built: list[Path], tmp_path: Path):
    again = build(tmp_path, isolated=False)
    assert [path.name for path in again] == [path.name for path in built]
    for first, second in zip(built, again, strict=True):
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tests/test_x.py", "must not be in a wheel"),
        ("train/train.py", "must not be in a wheel"),
        ("modeling_rogle/test_x.py", "is a test"),
        ("modeling_rogle/__pycache__/x.pyc", "temporary file"),
    ],
)
def test_a_file_that_must_not_be_in_a_wheel_is_named(built: list[Path], tmp_path: Path, name: str, reason: str):
    wheel = Path(shutil.copy(built[0], tmp_path))
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr(name, "")
    with pytest.raises(WheelError, match=reason):
        check_content(wheel)


def test_a_missing_file_is_named(built: list[Path], tmp_path: Path):
    wheel = tmp_path / built[0].name
    with zipfile.ZipFile(built[0]) as old, zipfile.ZipFile(wheel, "w") as new:
        for name in old.namelist():
            if name != "modeling_rogle/release/handler.py":
                new.writestr(name, old.read(name))
    with pytest.raises(WheelError, match="is missing"):
        check_content(wheel)


def test_only_tracked_files_are_built():
    assert "pyproject.toml" in tracked() and not any("__pycache__" in name for name in tracked())


def test_the_wheel_runs_in_a_new_environment(built: list[Path], tmp_path: Path):
    # The dependencies come from this environment; downloading them takes minutes (check_wheel.py --install does).
    libraries = Path(importlib.util.find_spec("torch").origin).parents[1]
    path = install(built[0], tmp_path / "environment", libraries)
    assert Path(path).is_relative_to(tmp_path / "environment")


def test_packages_are_listed(tmp_path: Path):
    pytest.importorskip("cyclonedx_py")
    listed = json.loads(sbom(tmp_path).read_text())
    assert listed["bomFormat"] == "CycloneDX" and listed["metadata"]["component"]["name"] == "rogle"
    assert {"torch", "transformers", "numpy"} <= {part["name"] for part in listed["components"]}


def test_an_audit_without_look_ups_is_not_reported_as_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    skipped = [{"name": "numpy", "skip_reason": "Dependency not found on PyPI and could not be audited"}]
    looked_up = [{"name": "torch", "version": "2.13.0", "vulns": [{"id": "PYSEC-1"}]}]
    assert check_wheel.read_audit(skipped).startswith("not measured: none of 1 packages could be looked up")
    assert check_wheel.read_audit(skipped + looked_up) == "1 of 2 packages looked up, known: torch PYSEC-1"
    assert (
        check_wheel.read_audit([{"name": "torch", "version": "2", "vulns": []}])
        == "1 of 1 packages looked up, none known"
    )


def test_a_failed_build_is_one_line(tmp_path: Path):
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 3\n")
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=x", "-c", "user.email=x@y", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    (tmp_path / "dist").mkdir()
    with pytest.raises(WheelError, match="build") as caught:
        build(tmp_path / "dist", tmp_path, isolated=False)
    assert "\n" not in str(caught.value) and sys.executable in str(caught.value)
