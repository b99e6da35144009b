"""Images of a folder: which ones may be read, and how to read one that nobody has checked before."""

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from modeling_rogle.index.manifest import FORMAT, MANIFEST, STAGED_MANIFEST

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm")
METADATA = ("metadata.jsonl", "metadata.csv")  # what is known of the images beside them, see sources.py
MAX_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Skipped:
    """An image left out: its path relative to the folder, and the reason in a few words."""

    path: str
    reason: str


def image_files(root: Path) -> tuple[list[str], list[Skipped], int]:
    """Images under `root` by name, in sorted order.

    Symbolic links are followed to files inside `root` only; those to folders never, since what lies inside `root` is
    found on its own path. Folders that are an index, with its copies of images, are left out.

    Args:
        root: a folder, resolved.

    Returns:
        paths relative to `root`; images and links refused, with reasons; how many other files there were.
    """
    files: list[str] = []
    skipped: list[Skipped] = []
    ignored = 0

    def unreadable(error: OSError) -> None:
        skipped.append(Skipped(os.path.relpath(error.filename, root), f"folder: {error.strerror}"))

    for parent, folders, names in os.walk(root, onerror=unreadable):
        if _is_index(Path(parent)):
            folders.clear()
            continue
        folders.sort()
        for name in sorted(folders):
            path = Path(parent, name)
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                skipped.append(Skipped(path.relative_to(root).as_posix(), "symbolic link out of the folder"))
        for name in sorted(names):
            path = Path(parent, name)
            relative = path.relative_to(root).as_posix()
            if path.suffix.lower() not in SUFFIXES:
                ignored += name not in METADATA
            elif reason := _refusal(path, root):
                skipped.append(Skipped(relative, reason))
            else:
                files.append(relative)
    return files, skipped, ignored


def _is_index(folder: Path) -> bool:
    for name in (MANIFEST, STAGED_MANIFEST):
        try:
            header = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(header, dict) and header.get("format") == FORMAT:
            return True
    return False


def _refusal(path: Path, root: Path) -> str | None:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return "file name is not UTF-8"
    if path.is_symlink() and not path.resolve().is_relative_to(root):
        return "symbolic link out of the folder"
    try:
        found = path.stat()
    except OSError as error:
        return "broken symbolic link" if path.is_symlink() else f"cannot be read: {error.strerror}"
    if not stat.S_ISREG(found.st_mode):
        return "not a regular file"
    if found.st_size == 0:
        return "empty file"
    if found.st_size > MAX_BYTES:
        return f"{found.st_size} bytes, over the limit of {MAX_BYTES}"
    return None


__all__ = ["Skipped", "image_files"]
