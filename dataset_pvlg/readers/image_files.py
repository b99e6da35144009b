"""Image files that annotations name: found without leaving the image root, and decoded completely."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from modeling_rogle.image_io import ImageError, read_image
from modeling_rogle.indexing.image_folder import MAX_BYTES


class RefusedPathError(ValueError):
    """A path that leads out of the image root."""


@dataclass(frozen=True)
class ImageFile:
    """A decoded image file.

    Args:
        sha256 (`str`): of the bytes of the file.
        width (`int`): pixels, after EXIF rotation, as `datasets.Image` decodes it.
        height (`int`): pixels, after EXIF rotation.
        mode (`str`): mode of Pillow, for example `RGB`.
        metadata_fault (`str`, *optional*): why metadata of the file cannot be read; its pixels are sound.
    """

    sha256: str
    width: int
    height: int
    mode: str
    metadata_fault: str | None = None


def find_image(root: Path, name: str, first_folder_optional: bool = True) -> tuple[Path, str, str | None] | None:
    """Find the file with a given name under the image root.

    If the name does not exist as written, known differences between copies of the data sets are tried in this order:

    - without surrounding spaces, and with slashes instead of backslashes;
    - without its first folder (UFine's `images/`), if the root has no such folder;
    - with a doubled or single suffix (`.jpg.jpg`), and with the suffix in the other case.

    Args:
        root (`Path`): the resolved image root.
        name (`str`): relative path.
        first_folder_optional (`bool`): whether the name may be tried without its first folder.

    Returns:
        `tuple[Path, str, str | None]`, *optional*: the absolute path, the name that exists, and what was changed to
        find it (None if nothing); or None if there is no such file.

    Raises:
        RefusedPathError: the name is absolute, leaves the root, or is a symbolic link out of it.
    """
    if "\0" in name or PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor:
        raise RefusedPathError(name)
    for candidate, change in _candidates(root, name, first_folder_optional):
        depth = 0
        for part in PurePosixPath(candidate).parts:
            depth += -1 if part == ".." else 1
            if depth < 0:
                raise RefusedPathError(name)
        try:
            path = (root / candidate).resolve()
            if not path.is_relative_to(root):
                raise RefusedPathError(name)
            if path.is_file():
                return path, PurePosixPath(candidate).as_posix(), change
        except (OSError, RuntimeError):  # the name is too long for the file system, or links form a cycle
            continue
    return None


def _candidates(root: Path, name: str, first_folder_optional: bool) -> Iterator[tuple[str, str | None]]:
    yield name, None
    plain = name.strip().replace("\\", "/")
    if plain != name:
        yield plain, "image found after correcting blanks or backslashes in its path"
    paths, parts = [plain], PurePosixPath(plain).parts
    # If the first folder exists, the file is missing from it, and a file with the same name above it is another image.
    if first_folder_optional and len(parts) > 1 and not _is_folder(root / parts[0]):
        paths.append(PurePosixPath(*parts[1:]).as_posix())
        yield paths[1], "image found without the first folder of its path"
    for path in paths:
        stem, suffix = PurePosixPath(path).stem, PurePosixPath(path).suffix
        if not stem or not suffix:
            continue
        folder = PurePosixPath(path).parent
        other = stem if stem.lower().endswith(suffix.lower()) else stem + 2 * suffix
        yield (folder / other).as_posix(), "image found with its suffix (.jpg.jpg) doubled or single"
        yield (folder / (stem + suffix.swapcase())).as_posix(), "image found with its suffix in the other case"


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # the name is too long for the file system
        return False


def check_image(path: Path) -> ImageFile:
    """Read an image file and decode all its pixels.

    Args:
        path (`Path`): the file.

    Raises:
        ValueError: the file does not decode; the message is the decoder's reason without the path.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"over the limit of {MAX_BYTES} bytes")
        image = read_image(path, path.name)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    except ImageError as error:
        raise ValueError(" ".join(str(error).split())) from error
    return ImageFile(image.sha256, image.width, image.height, image.mode, image.metadata_fault)
