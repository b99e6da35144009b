"""Errors that a user can act on: each message is one line that names the file or field."""


class GalleryError(ValueError):
    """Bad input: a folder, an index, a query or a path. The message is one line that names it."""


__all__ = ["GalleryError"]
