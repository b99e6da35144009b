"""Image files named by an annotation: found without leaving their root, and decoded to the last pixel."""

import hashlib
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath, PureWindowsPath

import PIL.Image
import PIL.ImageOps


class RefusedPathError(ValueError):
    """A path that leads out of the image root."""


@dataclass(frozen=True)
class ImageFile:
    """`width` and `height` are of the picture as `datasets.Image` decodes it, that is after EXIF rotation."""

    sha256: str  # of the file's bytes
    width: int
    height: int
    mode: str


def find_image(root: Path, name: str) -> tuple[Path, str] | None:
    """The file that `name` names under `root`.

    A name that does not resolve as written is tried without its first folder (UFine's `images/`).

    Args:
        root: the image root, already resolved.
        name: relative path with forward slashes.

    Returns:
        The absolute path and the name under which it was found, or None if there is no such file.

    Raises:
        RefusedPathError: the name is absolute, climbs out of the root, or a symbolic link leads out of it.
    """
    if "\0" in name or PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor:
        raise RefusedPathError(name)
    depth = 0
    for part in PurePosixPath(name).parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            raise RefusedPathError(name)
    shorter = PurePosixPath(*PurePosixPath(name).parts[1:]).as_posix()
    for candidate in (name, shorter):
        if candidate in ("", "."):
            continue
        try:
            path = (root / candidate).resolve()
            if not path.is_relative_to(root):
                raise RefusedPathError(name)
            if path.is_file():
                return path, PurePosixPath(candidate).as_posix()
        except (OSError, RuntimeError):  # a name too long for the file system, a ring of links
            continue
    return None


def check_image(path: Path) -> ImageFile:
    """Reads and decodes every pixel of an image file.

    Raises:
        ValueError: the file does not decode; the message is the decoder's reason without the path.
    """
    try:
        content = path.read_bytes()
        with warnings.catch_warnings():
            # Half of the size that counts as a decompression bomb is no person crop either.
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            image = PIL.Image.open(BytesIO(content))
            image.load()
        if image.getexif().get(PIL.Image.ExifTags.Base.Orientation) is not None:
            image = PIL.ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow's plugins raise anything on broken bytes: OSError, SyntaxError, struct.error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "cannot identify image file" in reason:
            reason = "not an image"
        raise ValueError(reason) from error
    return ImageFile(hashlib.sha256(content).hexdigest(), image.width, image.height, image.mode)
