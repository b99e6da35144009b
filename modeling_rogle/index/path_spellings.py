"""Finds an image by another spelling of its path, as tables of other programs and other systems write it."""

import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath
from urllib.parse import unquote


class PathSpellings:
    """Finds paths by other spellings.

    A spelling may differ in backslashes, blanks around it, `%20` and similar escapes, Unicode normalisation, case, a
    missing suffix, or leading folders that do not exist. A spelling that fits several paths fits none.

    Args:
        paths: the paths that exist, with slashes, relative to one folder.
        extra_folders: whether leading folders that do not exist may be left out. Default: True.
    """

    def __init__(self, paths: Iterable[str], extra_folders: bool = True):
        self.paths, self.extra_folders = set(paths), extra_folders
        self._by_key: dict[str, str | None] = {}
        self._by_stem: dict[str, str | None] = {}
        self._folders: set[str] = set()
        for path in self.paths:
            key = _key(path)
            self._by_key[key] = None if key in self._by_key else path
            stem = PurePosixPath(key).with_suffix("").as_posix() if PurePosixPath(key).name else key
            self._by_stem[stem] = None if stem in self._by_stem else path
            self._folders.add(key.partition("/")[0] if "/" in key else "")

    def find(self, spelling: str) -> str | None:
        """The path that a spelling means, or None.

        Args:
            spelling: a path as written; an existing path is returned as it is.
        """
        if spelling in self.paths:
            return spelling
        plain = spelling.strip().replace("\\", "/")
        for variant in dict.fromkeys((plain, unquote(plain))):
            key = _key(variant)
            while key:
                if (path := self._by_key.get(key)) is not None or (path := self._by_stem.get(key)) is not None:
                    return path
                first, slash, key = key.partition("/")
                # If the folder exists, the file is missing from it, and one of the same name above it is another image.
                if not slash or first in self._folders or not self.extra_folders:
                    break
        return None


def _key(path: str) -> str:
    parts = PurePosixPath(unicodedata.normalize("NFC", path).casefold()).parts
    return "/".join(part for part in parts if part not in ("/", ".", "//"))


__all__ = ["PathSpellings"]
