"""Rows as they come -> Arrow, in memory or in a folder: never all of them as Python objects at once."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, DatasetDict, concatenate_datasets

from dataset_pvlg.features import FEATURES, SPLITS

ROWS_AT_ONCE = 1000
BYTES_AT_ONCE = 64 * 2**20  # of images: a thousand that were stored anew may be gigabytes
_SCHEMA = FEATURES.arrow_schema  # its metadata carry the features, which `Dataset.from_file` reads back


def pack_rows(rows: Iterable[tuple[str, dict[str, Any]]], work_dir: str | Path | None = None) -> DatasetDict:
    """Rows of `FEATURES` by split, in the order in which they come.

    Args:
        rows: (split, row) one after the other; an image is a path, a dict of bytes and path, or None.
        work_dir: see [`pack_tables`].

    Returns:
        The splits that have rows, in the order of `SPLITS`.

    Raises:
        ValueError: the dict of an image has neither bytes nor path.
    """
    return pack_tables(_tables(rows), work_dir)


def pack_tables(tables: Iterable[tuple[str, pa.Table]], work_dir: str | Path | None = None) -> DatasetDict:
    """The same of rows that come as tables, each of them written as it is.

    Args:
        tables: (split, [`to_table`] of some rows) one after the other.
        work_dir: rows are written to `work_dir/<split>.arrow` and mapped, so that they cost no memory; files of these
            names are replaced. None packs them in memory.
    """
    if work_dir is None:
        parts: dict[str, list[pa.Table]] = defaultdict(list)
        for split, table in tables:
            parts[split].append(table)
        return DatasetDict(
            {split: concatenate_datasets(list(map(Dataset, parts[split]))) for split in SPLITS if split in parts}
        )
    folder = Path(work_dir)
    folder.mkdir(parents=True, exist_ok=True)
    writers: dict[str, pa.RecordBatchStreamWriter] = {}
    with ExitStack() as stack:
        for split, table in tables:
            if split not in writers:
                file = stack.enter_context(pa.OSFile(str(folder / f"{split}.arrow"), "wb"))
                writers[split] = stack.enter_context(pa.ipc.new_stream(file, _SCHEMA))
            writers[split].write_table(table)
    return DatasetDict({s: Dataset.from_file(str(folder / f"{s}.arrow")) for s in SPLITS if s in writers})


def to_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows as `FEATURES.encode_example` would store them, but that bytes stay where a file of that path exists too.

    Raises:
        ValueError: as in [`pack_rows`].
    """
    return pa.Table.from_pylist([{**row, "image": _encoded(row.get("image"))} for row in rows], schema=_SCHEMA)


def _encoded(image: Any) -> dict[str, Any] | None:
    if image is None:
        return None
    if isinstance(image, str):
        return {"bytes": None, "path": image}
    if image.get("bytes") is None and image.get("path") is None:
        raise ValueError("image: has neither bytes nor path")
    return image


def _tables(rows: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[tuple[str, pa.Table]]:
    waiting: dict[str, list[dict[str, Any]]] = defaultdict(list)
    held: Counter[str] = Counter()
    for split, row in rows:
        waiting[split].append(row)
        held[split] += image_bytes(row)
        if len(waiting[split]) == ROWS_AT_ONCE or held[split] >= BYTES_AT_ONCE:
            yield split, to_table(waiting.pop(split))
            held[split] = 0
    for split, rest in waiting.items():
        yield split, to_table(rest)


def image_bytes(row: Mapping[str, Any]) -> int:
    """Bytes of the image that a row carries, 0 where it is a path or null."""
    image = row["image"]
    return len(image["bytes"] or b"") if isinstance(image, Mapping) else 0


def cut_by_bytes(rows: Iterable[dict[str, Any]], most: int = BYTES_AT_ONCE) -> Iterator[list[dict[str, Any]]]:
    """Rows in lists that end where their images reach `most` bytes: what is written together, and so is held."""
    waiting, held = [], 0
    for row in rows:
        waiting.append(row)
        held += image_bytes(row)
        if held >= most:
            yield waiting
            waiting, held = [], 0
    if waiting:
        yield waiting
