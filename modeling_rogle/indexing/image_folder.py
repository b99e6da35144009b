"""Lists the images of a folder that may be read, and the reasons why other images are skipped."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from modeling_rogle.index.manifest import FORMAT, MANIFEST, STAGED_MANIFEST
from modeling_rogle.indexing.metadata_tables import is_metadata
from modeling_rogle.inference.untrusted import parse_json

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm")
LINK_OUT = "symbolic link out of the folder"
MAX_BYTES = 256 * 2**20  # of an image file


@dataclass(frozen=True)
class Skipped:
    """An image that is not indexed.

    Attributes:
        path: path relative to the folder.
        reason: short reason.
    """

    path: str
    reason: str


def image_files(root: Path) -> tuple[list[str], list[Skipped], int]:
    """Lists the image files under a folder in sorted order.

    Symbolic links to files are followed if the file is under `root`. Links to folders are not followed, because a
    folder under `root` is listed at its own path. Folders that are an index are left out, with their copies of images.

    Args:
        root: a folder, resolved.

    Returns:
        paths relative to `root`; skipped images and links; number of other files.
    """
    files: list[str] = []
    skipped: list[Skipped] = []
    other_files = 0

    def unreadable(error: OSError) -> None:
        skipped.append(Skipped(os.path.relpath(error.filename, root), f"folder: {error.strerror}"))

    for parent, folders, names in os.walk(root, onerror=unreadable):
        if _is_index(Path(parent)):
            folders.clear()
            continue
        folders.sort()
        for name in sorted(folders):
            path = Path(parent, name)
            if path.is_symlink() and not is_inside(path, root):
                skipped.append(Skipped(path.relative_to(root).as_posix(), LINK_OUT))
        for name in sorted(names):
            path = Path(parent, name)
            relative = path.relative_to(root).as_posix()
            if path.suffix.lower() not in SUFFIXES:
                other_files += not is_metadata(name)
            elif reason := _reason_to_skip(path, root):
                skipped.append(Skipped(relative, reason))
            else:
                files.append(relative)
    return files, skipped, other_files


def is_inside(path: Path, root: Path) -> bool:
    """Whether a path is inside a resolved folder after its links are followed; False for links that form a cycle."""
    try:
        return path.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):
        return False


def _is_index(folder: Path) -> bool:
    for name in (MANIFEST, STAGED_MANIFEST):
        try:
            header = parse_json((folder / name).read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(header, dict) and header.get("format") == FORMAT:
            return True
    return False


def _reason_to_skip(path: Path, root: Path) -> str | None:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return "file name is not UTF-8"
    try:
        status = path.stat()
        if path.is_symlink() and not is_inside(path, root):
            return LINK_OUT
    except OSError as error:
        return "broken symbolic link" if path.is_symlink() else f"cannot be read: {error.strerror}"
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    if status.st_size == 0:
        return "empty file"
    if status.st_size > MAX_BYTES:
        return f"{status.st_size} bytes, over the limit of {MAX_BYTES}"
    return None


__all__ = ["LINK_OUT", "MAX_BYTES", "SUFFIXES", "Skipped", "image_files", "is_inside"]
