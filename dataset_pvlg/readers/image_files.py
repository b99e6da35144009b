"""Image files named by an annotation: found without leaving their root, and decoded to the last pixel."""

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath, PureWindowsPath

import PIL.Image
import PIL.ImageOps

from modeling_rogle.indexing.image_folder import MAX_BYTES
from modeling_rogle.inference.image_io import FORMATS


class RefusedPathError(ValueError):
    """A path that leads out of the image root."""


@dataclass(frozen=True)
class ImageFile:
    """`width` and `height` are of the image as `datasets.Image` decodes it, that is after EXIF rotation."""

    sha256: str  # of the file's bytes
    width: int
    height: int
    mode: str


def find_image(root: Path, name: str, first_folder_may_lack: bool = True) -> tuple[Path, str, str | None] | None:
    """The file that `name` names under `root`.

    A name that does not resolve as written is tried with what copies of the sets are known to differ in: without its
    first folder (UFine's `images/`) where the root has none of that name, with blanks and backslashes put right, with
    a doubled suffix (`.jpg.jpg`) taken off or put on, with the suffix in the other case.

    Args:
        root: the image root, already resolved.
        name: relative path.
        first_folder_may_lack: False never tries the name without its first folder.

    Returns:
        The absolute path, the name under which it was found and what was changed to find it (None if nothing), or
        None if there is no such file.

    Raises:
        RefusedPathError: the name is absolute, climbs out of the root, or a symbolic link leads out of it.
    """
    if "\0" in name or PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor:
        raise RefusedPathError(name)
    for candidate, change in _candidates(root, name, first_folder_may_lack):
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
        except (OSError, RuntimeError):  # a name too long for the file system, a ring of links
            continue
    return None


def _candidates(root: Path, name: str, first_folder_may_lack: bool) -> Iterator[tuple[str, str | None]]:
    yield name, None
    plain = name.strip().replace("\\", "/")
    if plain != name:
        yield plain, "image found with blanks or backslashes of its path put right"
    paths, parts = [plain], PurePosixPath(plain).parts
    # Of a folder that is there the file is missing: one of the same name above it is another image.
    if first_folder_may_lack and len(parts) > 1 and not _is_folder(root / parts[0]):
        paths.append(PurePosixPath(*parts[1:]).as_posix())
        yield paths[1], "image found without the first folder of its path"
    for path in paths:
        stem, suffix = PurePosixPath(path).stem, PurePosixPath(path).suffix
        if not stem or not suffix:
            continue
        folder = PurePosixPath(path).parent
        once = stem if stem.lower().endswith(suffix.lower()) else stem + 2 * suffix
        yield (folder / once).as_posix(), "image found with its suffix (.jpg.jpg) doubled or single"
        yield (folder / (stem + suffix.swapcase())).as_posix(), "image found with its suffix in the other case"


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name too long for the file system
        return False


def check_image(path: Path) -> ImageFile:
    """Reads and decodes every pixel of an image file.

    Raises:
        ValueError: the file does not decode; the message is the decoder's reason without the path.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"over the limit of {MAX_BYTES} bytes")
        content = path.read_bytes()
        with warnings.catch_warnings():
            # Half of the size that counts as a decompression bomb is no person crop either.
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            image = PIL.Image.open(BytesIO(content), formats=FORMATS)
            image.load()
        if image.getexif().get(PIL.Image.ExifTags.Base.Orientation) is not None:
            image = PIL.ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow's plugins raise anything on broken bytes: OSError, SyntaxError, struct.error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "cannot identify image file" in reason:
            reason = "not an image"
        raise ValueError(reason) from error
    return ImageFile(hashlib.sha256(content).hexdigest(), image.width, image.height, image.mode)
