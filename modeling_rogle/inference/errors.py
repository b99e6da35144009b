"""The error that a user can act on."""


class GalleryError(ValueError):
    """Invalid input: a folder, an index, a model or a query. The message is one line that names the file or field."""


__all__ = ["GalleryError"]
