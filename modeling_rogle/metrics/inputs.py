"""Checks and conversions of the arguments of the metrics. Errors are one line that names the argument."""

from typing import Any

import numpy as np


def as_embeddings(values: Any, name: str, columns: int | None = None) -> np.ndarray:
    """Converts embeddings or boxes to NumPy.

    Args:
        values: array, tensor or lists.
        name: the argument's name, for the error message.
        columns: number of columns; any by default.

    Returns:
        float32 `[N, columns]`, contiguous.

    Raises:
        ValueError: another shape, or a value that is not finite.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu().float().numpy()
    try:
        values = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{name} must be rows of numbers, all of one length") from error
    if values.size == 0 and columns:
        values = values.reshape(0, columns)
    if values.ndim != 2 or (columns and values.shape[1] != columns):
        raise ValueError(f"{name} must have shape [N, {columns or 'D'}], not {list(values.shape)}")
    if values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
        raise ValueError(f"{name} holds a value that is not finite (row {int(np.argmin(np.isfinite(values).all(1)))})")
    return np.ascontiguousarray(values)


def as_ids(values: Any, name: str, length: int, length_of: str) -> np.ndarray:
    """Converts ids to NumPy.

    Args:
        values: array, tensor or list of integers.
        name: the argument's name, for the error message.
        length: number of ids.
        length_of: name of the argument that has this length.

    Returns:
        int64 `[length]`.

    Raises:
        ValueError: not integers, or another length.
    """
    given = values
    try:
        values = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    except (ValueError, RecursionError) as error:  # rows of different lengths
        raise ValueError(f"{name} must be a list of integers, not of lists") from error
    if values.dtype.kind == "f" and values.ndim == 1 and isinstance(given, list | tuple):
        values = np.array(given, dtype=object)  # NumPy makes floats of integers near 2^63
    if values.dtype.kind in "USO" and values.ndim == 1 and values.size:
        first = next((value for value in values.tolist() if not isinstance(value, int)), None)
        reason = "integers beyond 2^63" if first is None else f"text or other values, as {str(first)[:40]!r}"
        raise ValueError(f"{name} must be a list of integers, it holds {reason}; number the ids, as by np.unique")
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
        raise ValueError(f"{name} must be a list of integers, not {values.dtype} of shape {list(values.shape)}")
    if values.size and values.dtype.kind == "u" and values.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name} must be a list of integers, it holds integers beyond 2^63; number the ids")
    check_length(len(values), name, length, length_of)
    return values.astype(np.int64)


def embedding_pair(query: Any, gallery: Any, query_name: str, gallery_name: str) -> tuple[np.ndarray, np.ndarray]:
    """Converts queries and gallery to float32 arrays of one dimension; neither may be empty."""
    for values, name in ((gallery, gallery_name), (query, query_name)):
        if not hasattr(values, "__len__"):
            raise ValueError(f"{name} must be rows of numbers, not {values!r}")
        if len(values) == 0:
            raise ValueError(f"{name} is empty")
    query, gallery = as_embeddings(query, query_name), as_embeddings(gallery, gallery_name)
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(f"{query_name} has {query.shape[1]} dimensions, {gallery_name} has {gallery.shape[1]}")
    return query, gallery


def check_length(n: int, name: str, m: int, other: str) -> None:
    """Raises ValueError unless two arguments have equally many rows."""
    if n != m:
        raise ValueError(f"{name} has {n} rows, {other} has {m}")


def device_for(gallery_embeds: Any, device: Any) -> Any:
    """The given device, else the device of a tensor that is not on the CPU, else None, which means NumPy."""
    if device is None and hasattr(gallery_embeds, "device") and getattr(gallery_embeds.device, "type", "cpu") != "cpu":
        return gallery_embeds.device
    if device is not None:
        import torch

        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device {device!r}: {str(error).splitlines()[0]}") from error
    return device


__all__ = ["as_embeddings", "as_ids", "check_length", "device_for", "embedding_pair"]
