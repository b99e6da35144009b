"""The images of P-VLG rows, read by the one reader of the project."""

import warnings
from collections.abc import Sequence
from typing import Any


def undecoded(rows: Any) -> Any:
    """Rows whose `image` is as it is stored; `datasets` would decode it and fail on metadata that cannot be read.

    Args:
        rows: a `datasets.Dataset`, or any other sequence of rows, which is returned as it is.
    """
    if not hasattr(rows, "cast_column") or "image" not in rows.column_names:
        return rows
    from datasets import Image as ImageFeature

    return rows.cast_column("image", ImageFeature(decode=False))


def warn_of_metadata(names: Sequence[str], stacklevel: int = 2) -> None:
    """Warns once of images whose metadata were ignored.

    Args:
        names: the images; no warning without any.
        stacklevel: as in `warnings.warn`, seen from the caller.
    """
    if names:
        count = f"{len(names)} image{'s' * (len(names) > 1)}"
        warnings.warn(
            f"{count} with metadata that cannot be read, the first is {names[0]}; the pixels are used",
            stacklevel=stacklevel + 1,
        )


__all__ = ["undecoded", "warn_of_metadata"]
