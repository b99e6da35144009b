"""python -m modeling_rogle.release.checksums FOLDER [--digest SHA256]

Says whether a downloaded release is what was released: every file's sha256 against the folder's SHA256SUMS, and that
list's own against the digest which the release printed. Weights are data; the code in a repository runs, so it is worth
the look. `sha256sum -c SHA256SUMS` compares the files too, but does not see what was added.
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
# What git and the Hub's client leave in a folder, and the Hub in a repository; nobody released it, and none of it runs.
_HARMLESS = (".git", ".cache", ".gitattributes")
LEFTOVERS = ("__pycache__", *_HARMLESS)  # Python's is not released either, but Python runs it in place of the code
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


class ChecksumError(ValueError):
    """A folder that is not what its list says, or a list that cannot be read; one line."""


@dataclass(frozen=True)
class ReleaseFile:
    """A file of the release: its path in the repository, size in bytes, sha256."""

    path: str
    size: int
    sha256: str


def list_files(folder: Path, ignored: Sequence[str] = LEFTOVERS) -> list[ReleaseFile]:
    """Every file under `folder` that is released, by path; what lies in a folder of an ignored name is not."""
    found = []
    for file in sorted(folder.rglob("*")):
        path = file.relative_to(folder)
        if file.is_file() and not any(part in ignored for part in path.parts):
            found.append(ReleaseFile(path.as_posix(), file.stat().st_size, _sha256(file)))
    return found


def write_checksums(folder: Path) -> list[ReleaseFile]:
    """Writes SHA256SUMS over all other files of a folder; returns these and the list itself."""
    files = [file for file in list_files(folder) if file.path != NAME]
    part = folder / f".{NAME}.part"
    part.write_text("".join(f"{file.sha256}  {file.path}\n" for file in files), encoding="utf-8")
    os.replace(part, folder / NAME)
    return sorted([*files, ReleaseFile(NAME, (folder / NAME).stat().st_size, _sha256(folder / NAME))], key=_path)


def verify(folder: Path, digest: str | None = None) -> list[ReleaseFile]:
    """The files of a folder, all of them as listed.

    Args:
        digest: sha256 of SHA256SUMS, from elsewhere than the folder: who changes a file there can change the list.

    Raises:
        ChecksumError: no list, one that cannot be read or has another digest, or the first file that is changed,
            missing or not listed. Compiled code (`__pycache__`) never is: loading the release would run it unread.
    """
    listing = folder / NAME
    if not listing.is_file():
        raise ChecksumError(f"{listing}: no such file, so nothing says what was released")
    if digest is not None and _sha256(listing) != digest.lower():
        raise ChecksumError(f"{listing}: its sha256 is {_sha256(listing)}, not {digest}")
    expected: dict[str, str] = {}
    for number, line in enumerate(listing.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        found = _LINE.fullmatch(line)
        if found is None or found[2].startswith("/") or ".." in Path(found[2]).parts:
            raise ChecksumError(f"{listing}: line {number} is no checksum of a file in this folder")
        expected[found[2]] = found[1]
    there = {file.path: file for file in list_files(folder, _HARMLESS) if file.path != NAME}
    for path in sorted(expected.keys() | there.keys()):
        if path not in there:
            raise ChecksumError(f"{folder / path}: listed, and not there")
        if path not in expected:
            hint = " (or Python left it: delete it, it would run unread)" if path.endswith(".pyc") else ""
            raise ChecksumError(f"{folder / path}: not in {NAME}; somebody added it{hint}")
        if there[path].sha256 != expected[path]:
            raise ChecksumError(f"{folder / path}: changed since the release (sha256 {there[path].sha256})")
    return list(there.values())


def _path(file: ReleaseFile) -> str:
    return file.path


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0; 2 for a folder that is not what was released, said in one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m modeling_rogle.release.checksums", description="Compares a release with its list of checksums."
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a downloaded release")
    parser.add_argument("--digest", metavar="SHA256", help="of SHA256SUMS, as the release printed it")
    args = parser.parse_args(argv)
    try:
        files = verify(args.folder, args.digest)
    except (ValueError, OSError) as error:
        print(f"checksums: {error}", file=sys.stderr)
        return 2
    print(f"{len(files)} files as released; sha256 of {NAME}: {_sha256(args.folder / NAME)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

__all__ = ["NAME", "ChecksumError", "ReleaseFile", "list_files", "verify", "write_checksums"]
