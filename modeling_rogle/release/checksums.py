"""python -m modeling_rogle.release.checksums FOLDER [--digest SHA256]

Verifies a downloaded release: the SHA-256 of every file against SHA256SUMS in the folder, and the SHA-256 of that list
against the digest that the release printed. A repository contains code that is executed, so check it before you load
it. `sha256sum -c SHA256SUMS` also compares the files, but does not detect added files.
"""

import argparse
import hashlib
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NAME = "SHA256SUMS"
# Files of git and of the Hub's client: not part of a release, and never executed.
_HARMLESS = (".git", ".cache", ".gitattributes")
LEFTOVERS = ("__pycache__", *_HARMLESS)  # __pycache__ is not part of a release either, but Python executes it
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


class ChecksumError(ValueError):
    """A folder that differs from its list, or a list that cannot be read. The message is one line."""


@dataclass(frozen=True)
class ReleaseFile:
    """A file of a release: path in the repository, size in bytes, SHA-256."""

    path: str
    size: int
    sha256: str


def list_files(folder: Path, ignored: Sequence[str] = LEFTOVERS) -> list[ReleaseFile]:
    """Lists the files of a release.

    Args:
        folder: the release.
        ignored: names of files and folders that are skipped, with all their content.

    Returns:
        The files, sorted by path.
    """
    files = []
    for file in sorted(folder.rglob("*")):
        path = file.relative_to(folder)
        if file.is_file() and not any(part in ignored for part in path.parts):
            files.append(ReleaseFile(path.as_posix(), file.stat().st_size, _sha256(file)))
    return files


def write_checksums(folder: Path) -> list[ReleaseFile]:
    """Writes SHA256SUMS for all other files of a folder, and returns all files including the list."""
    files = [file for file in list_files(folder) if file.path != NAME]
    part = folder / f".{NAME}.part"
    part.write_text("".join(f"{file.sha256}  {file.path}\n" for file in files), encoding="utf-8")
    os.replace(part, folder / NAME)
    return sorted([*files, ReleaseFile(NAME, (folder / NAME).stat().st_size, _sha256(folder / NAME))], key=_path)


def verify(folder: Path, digest: str | None = None) -> list[ReleaseFile]:
    """Verifies the files of a release.

    Args:
        folder: the downloaded release.
        digest: SHA-256 of SHA256SUMS. Take it from another source than the folder: a person who can change a file can
            also change the list. Default: the list is not verified.

    Returns:
        The verified files.

    Raises:
        ChecksumError: the list is missing, cannot be read or has another digest; or a file was changed, is missing or
            is not in the list. Compiled code (`__pycache__`) is never in the list: Python would execute it instead of
            the code that you can read.
    """
    listing = folder / NAME
    if not listing.is_file():
        raise ChecksumError(f"{listing}: no such file, so the release cannot be verified")
    if digest is not None and _sha256(listing) != digest.lower():
        raise ChecksumError(f"{listing}: its SHA-256 is {_sha256(listing)}, not {digest}")
    expected: dict[str, str] = {}
    for number, line in enumerate(listing.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        entry = _LINE.fullmatch(line)
        if entry is None or entry[2].startswith("/") or ".." in Path(entry[2]).parts:
            raise ChecksumError(f"{listing}: line {number} is not a checksum of a file in this folder")
        expected[entry[2]] = entry[1]
    actual = {file.path: file for file in list_files(folder, _HARMLESS) if file.path != NAME}
    for path in sorted(expected.keys() | actual.keys()):
        if path not in actual:
            raise ChecksumError(f"{folder / path}: in {NAME}, but missing")
        if path not in expected:
            hint = " (compiled code: delete it, because Python would execute it)" if path.endswith(".pyc") else ""
            raise ChecksumError(f"{folder / path}: not in {NAME}, so it was added{hint}")
        if actual[path].sha256 != expected[path]:
            raise ChecksumError(f"{folder / path}: changed since the release (SHA-256 {actual[path].sha256})")
    return list(actual.values())


def _path(file: ReleaseFile) -> str:
    return file.path


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, or 2 after one line on stderr if the folder differs from the release."""
    parser = argparse.ArgumentParser(
        prog="python -m modeling_rogle.release.checksums",
        description="Verify a downloaded release by its list of checksums.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of a downloaded release")
    parser.add_argument(
        "--digest", metavar="SHA256", help="SHA-256 of SHA256SUMS that the release printed (default: do not check it)"
    )
    args = parser.parse_args(argv)
    try:
        files = verify(args.folder, args.digest)
    except (ValueError, OSError) as error:
        print(f"checksums: {error}", file=sys.stderr)
        return 2
    print(f"{len(files)} files verified; SHA-256 of {NAME}: {_sha256(args.folder / NAME)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

__all__ = ["NAME", "ChecksumError", "ReleaseFile", "list_files", "verify", "write_checksums"]
