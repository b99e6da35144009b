"""python hub/check_wheel.py [--out DIR] [--install] [--sbom] [--audit]

Builds the wheel and the source archive twice from the files that git tracks, compares their bytes, and checks the
content of the wheel. On request it installs the wheel into an empty environment, lists the dependencies (CycloneDX) and
looks up known vulnerabilities (pip-audit). Nothing is uploaded.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("modeling_rogle", "dataset_pvlg")
FOREIGN = ("tests", "train", "eval", "hub", "benchmarks", "docs")  # folders that are not installed


class WheelError(ValueError):
    """A package that must not be released. The message is one line."""


def tracked(root: Path = ROOT) -> list[str]:
    """The files that git tracks and that exist."""
    names = _run(["git", "ls-files", "-z"], root).split("\0")
    return sorted(name for name in names if name and (root / name).is_file())


def epoch(root: Path = ROOT) -> int:
    """The time of the last commit in seconds, used as SOURCE_DATE_EPOCH of the build."""
    return int(_run(["git", "log", "-1", "--format=%ct"], root))


def build(out: Path, root: Path = ROOT, isolated: bool = True) -> list[Path]:
    """Builds `rogle-*.whl` and `rogle-*.tar.gz`. The same commit gives the same bytes.

    The build uses a copy of the tracked files, because an old `build` folder would end up in the wheel. The source
    archive is repacked, because setuptools stores the time of the build in it.

    Args:
        out: an existing folder.
        root: the repository. Default: this one.
        isolated: let `build` download setuptools. If False, use the installed one. Default: True.

    Returns:
        The files, sorted by name.

    Raises:
        WheelError: the build failed; the message is its last line.
    """
    timestamp = epoch(root)
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "source"
        for name in tracked(root):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, copy / name)
            (copy / name).chmod(0o644)
            os.utime(copy / name, (timestamp, timestamp))
        command = [sys.executable, "-m", "build", "--outdir", str(out)] + ["--no-isolation"] * (not isolated)
        _run(command, copy, SOURCE_DATE_EPOCH=str(timestamp))
    archives = sorted(path for path in out.iterdir() if path.name.startswith("rogle-"))
    for path in archives:
        if path.name.endswith(".tar.gz"):
            _repack(path, timestamp)
    return archives


def _repack(archive: Path, timestamp: int) -> None:
    """Repacks the files in the order of their names, with one timestamp and without owner."""
    packed = io.BytesIO()
    with tarfile.open(archive) as old, tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new:
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = timestamp, 0, 0, "", ""
            member.mode, member.pax_headers = 0o755 if member.isdir() else 0o644, {}
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    archive.write_bytes(gzip.compress(packed.getvalue(), mtime=timestamp))


def check_content(wheel: Path, root: Path = ROOT) -> int:
    """Compares the content of a wheel with the repository.

    Args:
        wheel: the wheel.
        root: the repository. Default: this one.

    Returns:
        The number of files in the wheel.

    Raises:
        WheelError: a file must not be in the wheel; or a tracked file of a package, the licence or the command is
            missing; or the first heading of CHANGELOG.md has another version.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        info = next((name.split("/")[0] for name in names if name.split("/")[0].endswith(".dist-info")), "")
        commands = archive.read(f"{info}/entry_points.txt").decode() if f"{info}/entry_points.txt" in names else ""
    for name in names:
        first, last = name.split("/")[0], name.split("/")[-1]
        if first not in (*PACKAGES, info) or first in FOREIGN:
            raise WheelError(f"{wheel.name}: {name} must not be in a wheel")
        if last.startswith(("test_", "conftest")) or "__pycache__" in name or last.endswith(".pyc"):
            raise WheelError(f"{wheel.name}: {name} is a test or a temporary file")
    expected = {name for name in tracked(root) if name.split("/")[0] in PACKAGES and not name.endswith("/README.md")}
    missing = sorted(expected - set(names))
    if missing:
        raise WheelError(
            f"{wheel.name}: {missing[0]} is missing ({len(missing)} in total); see packages in pyproject.toml"
        )
    if not any(name.startswith(f"{info}/") and name.endswith("LICENSE") for name in names):
        raise WheelError(f"{wheel.name}: the licence is missing")
    if "rogle = modeling_rogle.cli.main:main" not in commands:
        raise WheelError(f"{wheel.name}: the `rogle` command is missing")
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    changelog = root / "CHANGELOG.md"
    if changelog.is_file():
        heading = next((line for line in changelog.read_text().splitlines() if line.startswith("## ")), "")
        if version not in heading:
            raise WheelError(
                f"CHANGELOG.md: the first heading is {heading!r}, but pyproject.toml has version {version}"
            )
    return len(names)


def install(wheel: Path, folder: Path, libraries: Path | None = None) -> str:
    """Installs a wheel into a new environment and runs `rogle --help` outside the repository.

    Args:
        wheel: the wheel.
        folder: new folder for the environment.
        libraries: site-packages with the dependencies. Default: pip downloads them, which takes minutes.

    Returns:
        The path that the installed package was imported from.

    Raises:
        WheelError: the wheel cannot be installed or does not run.
    """
    venv.EnvBuilder(with_pip=True).create(folder)
    python = folder / "bin" / "python"
    _run([str(python), "-m", "pip", "install", "-q", *(["--no-deps"] if libraries else []), str(wheel)], folder)
    if libraries:
        # After the site-packages of the environment, so that the installed wheel comes first.
        purelib = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
        site_packages = _run([str(python), "-c", purelib], folder).strip()
        Path(site_packages, "libraries.pth").write_text(f"{libraries}\n")
    # Without PYTHONPATH, which could name the repository.
    help_text = _run([str(folder / "bin" / "rogle"), "--help"], folder, PYTHONPATH="")
    if "COMMAND" not in help_text:
        raise WheelError(f"{wheel.name}: `rogle --help` prints {help_text[:80]!r}")
    code = "import modeling_rogle, dataset_pvlg; from modeling_rogle import RogleModel; print(modeling_rogle.__file__)"
    return _run([str(python), "-c", code], folder, PYTHONPATH="").strip().splitlines()[-1]


def sbom(out: Path, python: Path | None = None) -> Path:
    """Writes the packages of an environment in CycloneDX format, reproducibly.

    Args:
        out: folder for `sbom.cdx.json`.
        python: interpreter of the environment. Default: this one.

    Returns:
        The file.
    """
    target = out / "sbom.cdx.json"
    command = [sys.executable, "-m", "cyclonedx_py", "environment", str(python or sys.executable)]
    options = ["--output-reproducible", "--of", "JSON", "-o", str(target), "--pyproject", str(ROOT / "pyproject.toml")]
    _run([*command, *options], ROOT)
    return target


def audit(requirements: Path) -> str:
    """Summarises pip-audit for pinned requirements in one line, or gives the reason why the look-up failed."""
    command = [sys.executable, "-m", "pip_audit", "-r", str(requirements), "--no-deps", "--disable-pip", "-f", "json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        return read_audit(json.loads(done.stdout)["dependencies"])
    except subprocess.TimeoutExpired:
        return "not measured: the vulnerability service did not answer in 300 s"
    except (ValueError, LookupError, TypeError):
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return f"not measured: {lines[-1] if lines else 'pip-audit gave no answer'}"


def read_audit(packages: Sequence[dict[str, Any]]) -> str:
    """Summarises `dependencies` of pip-audit in one line. Skipped packages were not looked up, despite exit code 0."""
    checked = [package for package in packages if "skip_reason" not in package]
    if not checked:
        reason = packages[0]["skip_reason"] if packages else "no packages given"
        return f"not measured: none of {len(packages)} packages could be looked up ({reason})"
    vulnerabilities = [
        f"{package['name']} {vulnerability['id']}" for package in checked for vulnerability in package["vulns"]
    ]
    return f"{len(checked)} of {len(packages)} packages looked up, " + (
        f"known: {', '.join(vulnerabilities)}" if vulnerabilities else "none known"
    )


def _run(command: Sequence[str], cwd: Path, **environment: str) -> str:
    done = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise WheelError(f"{' '.join(command[:4])}: {lines[-1] if lines else f'exit {done.returncode}'}")
    return done.stdout


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=" ".join(__doc__.splitlines()[2:]))
    parser.add_argument("--out", metavar="DIR", help="keep the built files in this folder (default: delete them)")
    parser.add_argument(
        "--no-isolation", action="store_true", help="build with the installed setuptools (default: download it)"
    )
    parser.add_argument(
        "--install",
        action="store_true",
        help="also install the wheel into an empty environment (default: no)",
    )
    parser.add_argument(
        "--libraries",
        metavar="DIR",
        help="site-packages with the dependencies for --install (default: pip downloads them)",
    )
    parser.add_argument(
        "--sbom", action="store_true", help="also write sbom.cdx.json; needs cyclonedx-bom and --out (default: no)"
    )
    parser.add_argument(
        "--audit", action="store_true", help="also look up known vulnerabilities; needs pip-audit (default: no)"
    )
    args = parser.parse_args(argv)
    try:
        if args.sbom and not args.out:
            raise WheelError("--sbom: needs --out DIR")
        with tempfile.TemporaryDirectory() as scratch:
            first, second = Path(scratch) / "first", Path(scratch) / "second"
            for folder in (first, second):
                folder.mkdir()
                build(folder, isolated=not args.no_isolation)
            for path in sorted(first.iterdir()):
                data = path.read_bytes()
                if (second / path.name).read_bytes() != data:
                    raise WheelError(f"{path.name}: the second build has different bytes")
                print(f"{path.name}: {len(data):,} bytes, sha256 {hashlib.sha256(data).hexdigest()}, reproducible")
            wheel = next(first.glob("*.whl"))
            print(f"{wheel.name}: {check_content(wheel)} files, as expected")
            if args.install:
                libraries = Path(args.libraries).resolve() if args.libraries else None
                print(f"installed: {install(wheel, Path(scratch) / 'environment', libraries)}")
            if args.out:
                Path(args.out).mkdir(parents=True, exist_ok=True)
                for path in first.iterdir():
                    shutil.copyfile(path, Path(args.out) / path.name)
            if args.sbom:
                print(f"packages: {sbom(Path(args.out))}")
            if args.audit:
                print(f"vulnerabilities: {audit(ROOT / 'constraints.txt')}")
    except (WheelError, OSError) as error:
        print(f"check_wheel: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
