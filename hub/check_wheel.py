"""python hub/check_wheel.py [--out DIR] [--install] [--sbom] [--audit]

Builds the wheel and the source archive twice from the files that git tracks and compares their bytes, reads what is in
the wheel, and, if asked, installs it into an empty environment, lists what it needs (CycloneDX) and asks for known
vulnerabilities (pip-audit). Nothing is uploaded.
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
FOREIGN = ("tests", "train", "eval", "hub", "benchmarks", "docs")  # rooms of the repository that are not installed


class WheelError(ValueError):
    """What must not be released; one line."""


def tracked(root: Path = ROOT) -> list[str]:
    """The files of the repository, as git knows them and as they stand."""
    names = _run(["git", "ls-files", "-z"], root).split("\0")
    return sorted(name for name in names if name and (root / name).is_file())


def epoch(root: Path = ROOT) -> int:
    """Seconds of the last commit: SOURCE_DATE_EPOCH of what is built."""
    return int(_run(["git", "log", "-1", "--format=%ct"], root))


def build(out: Path, root: Path = ROOT, isolated: bool = True) -> list[Path]:
    """Builds `rogle-*.whl` and `rogle-*.tar.gz` into `out`, the same bytes from the same commit.

    From a copy of what git tracks, since a `build` folder that lies about ends up in a wheel; the source archive is
    packed anew, since setuptools puts the time of the build into it.

    Args:
        out: folder that exists.
        root: the repository.
        isolated: let `build` fetch setuptools for itself; if not, the one installed here is used.

    Raises:
        WheelError: the build failed; its last line.
    """
    when = epoch(root)
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "source"
        for name in tracked(root):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, copy / name)
            (copy / name).chmod(0o644)
            os.utime(copy / name, (when, when))
        command = [sys.executable, "-m", "build", "--outdir", str(out)] + ["--no-isolation"] * (not isolated)
        _run(command, copy, SOURCE_DATE_EPOCH=str(when))
    found = sorted(path for path in out.iterdir() if path.name.startswith("rogle-"))
    for path in found:
        if path.name.endswith(".tar.gz"):
            _pack_anew(path, when)
    return found


def _pack_anew(archive: Path, when: int) -> None:
    """The same files in order of their names, with one time and no owner."""
    packed = io.BytesIO()
    with tarfile.open(archive) as old, tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new:
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = when, 0, 0, "", ""
            member.mode, member.pax_headers = 0o755 if member.isdir() else 0o644, {}
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    archive.write_bytes(gzip.compress(packed.getvalue(), mtime=when))


def check_content(wheel: Path, root: Path = ROOT) -> int:
    """Checks what is in a wheel against the repository.

    Returns:
        the number of files.

    Raises:
        WheelError: something that does not belong there, a tracked file of a package that is missing, no licence, no
            command, or a version that the changelog does not begin with.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        info = next((name.split("/")[0] for name in names if name.split("/")[0].endswith(".dist-info")), "")
        commands = archive.read(f"{info}/entry_points.txt").decode() if f"{info}/entry_points.txt" in names else ""
    for name in names:
        first, last = name.split("/")[0], name.split("/")[-1]
        if first not in (*PACKAGES, info) or first in FOREIGN:
            raise WheelError(f"{wheel.name}: {name} does not belong into a wheel")
        if last.startswith(("test_", "conftest")) or "__pycache__" in name or last.endswith(".pyc"):
            raise WheelError(f"{wheel.name}: {name} is a test or a leftover")
    wanted = {name for name in tracked(root) if name.split("/")[0] in PACKAGES and not name.endswith("/README.md")}
    missing = sorted(wanted - set(names))
    if missing:
        raise WheelError(
            f"{wheel.name}: {missing[0]} is missing ({len(missing)} in all); see packages in pyproject.toml"
        )
    if not any(name.startswith(f"{info}/") and name.endswith("LICENSE") for name in names):
        raise WheelError(f"{wheel.name}: no licence in it")
    if "rogle = modeling_rogle.cli.main:main" not in commands:
        raise WheelError(f"{wheel.name}: no `rogle` command in it")
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    changelog = root / "CHANGELOG.md"
    if changelog.is_file():
        heading = next((line for line in changelog.read_text().splitlines() if line.startswith("## ")), "")
        if version not in heading:
            raise WheelError(f"CHANGELOG.md: begins with {heading!r}, pyproject.toml has version {version}")
    return len(names)


def install(wheel: Path, folder: Path, libraries: Path | None = None) -> str:
    """Installs a wheel into a new environment and asks it for its help, from a folder outside the repository.

    Args:
        folder: of the environment, new.
        libraries: site-packages to take the dependencies from; by default pip fetches them, which takes minutes.

    Returns:
        what the installed package answered: the path it was imported from.

    Raises:
        WheelError: it could not be installed, or does not run.
    """
    venv.EnvBuilder(with_pip=True).create(folder)
    python = folder / "bin" / "python"
    _run([str(python), "-m", "pip", "install", "-q", *(["--no-deps"] if libraries else []), str(wheel)], folder)
    if libraries:
        # After the environment's own: what is installed here comes first.
        own = _run([str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"], folder).strip()
        Path(own, "libraries.pth").write_text(f"{libraries}\n")
    told = _run([str(folder / "bin" / "rogle"), "--help"], folder)
    if "COMMAND" not in told:
        raise WheelError(f"{wheel.name}: `rogle --help` answers {told[:80]!r}")
    asked = "import modeling_rogle, dataset_pvlg; from modeling_rogle import RogleModel; print(modeling_rogle.__file__)"
    return _run([str(python), "-c", asked], folder).strip().splitlines()[-1]


def sbom(out: Path, python: Path | None = None) -> Path:
    """Writes `sbom.cdx.json`, the packages of an environment (this one by default) in CycloneDX; the same bytes each
    time."""
    target = out / "sbom.cdx.json"
    command = [sys.executable, "-m", "cyclonedx_py", "environment", str(python or sys.executable)]
    options = ["--output-reproducible", "--of", "JSON", "-o", str(target), "--pyproject", str(ROOT / "pyproject.toml")]
    _run([*command, *options], ROOT)
    return target


def audit(requirements: Path) -> str:
    """What pip-audit says of pinned requirements, in a line; "not measured" and why where it could look up nothing."""
    command = [sys.executable, "-m", "pip_audit", "-r", str(requirements), "--no-deps", "--disable-pip", "-f", "json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        return read_audit(json.loads(done.stdout)["dependencies"])
    except subprocess.TimeoutExpired:
        return "not measured: the vulnerability service did not answer in 300 s"
    except (ValueError, LookupError, TypeError):
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return f"not measured: {said[-1] if said else 'pip-audit gave no answer'}"


def read_audit(packages: Sequence[dict[str, Any]]) -> str:
    """A line on pip-audit's `dependencies`: what it skipped was not looked up, whatever its exit code says."""
    found = [package for package in packages if "skip_reason" not in package]
    if not found:
        reason = packages[0]["skip_reason"] if packages else "nothing asked"
        return f"not measured: none of {len(packages)} packages could be looked up ({reason})"
    known = [f"{package['name']} {one['id']}" for package in found for one in package["vulns"]]
    return f"{len(found)} of {len(packages)} packages looked up, " + (
        f"known: {', '.join(known)}" if known else "none known"
    )


def _run(command: Sequence[str], cwd: Path, **environment: str) -> str:
    done = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise WheelError(f"{' '.join(command[:4])}: {lines[-1] if lines else f'exit {done.returncode}'}")
    return done.stdout


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[2])
    parser.add_argument("--out", metavar="DIR", help="keep what was built there")
    parser.add_argument("--no-isolation", action="store_true", help="build with the setuptools that is installed")
    parser.add_argument("--install", action="store_true", help="install the wheel into an empty environment")
    parser.add_argument("--libraries", metavar="DIR", help="site-packages for --install (default: pip fetches them)")
    parser.add_argument("--sbom", action="store_true", help="write sbom.cdx.json (needs cyclonedx-bom and --out)")
    parser.add_argument("--audit", action="store_true", help="ask for known vulnerabilities (needs pip-audit)")
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
                    raise WheelError(f"{path.name}: other bytes when it is built again")
                print(f"{path.name}: {len(data):,} bytes, sha256 {hashlib.sha256(data).hexdigest()}, twice the same")
            wheel = next(first.glob("*.whl"))
            print(f"{wheel.name}: {check_content(wheel)} files, all of them in their place")
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
