"""P-VLG rows as Arrow, in memory or in files. The rows are never all Python objects at the same time."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, DatasetDict, concatenate_datasets

from dataset_pvlg.features import FEATURES, SPLITS

SCHEMA = FEATURES.arrow_schema  # its metadata hold the features, so that `datasets` reads back the same types
ROWS_AT_ONCE = 1000
BYTES_AT_ONCE = 64 * 2**20  # bytes of images; a thousand re-encoded images may take gigabytes
ROWS_PER_GROUP = 100  # rows of a Parquet row group, which are decoded together for random access


def pack_rows(rows: Iterable[tuple[str, dict[str, Any]]], work_dir: str | Path | None = None) -> DatasetDict:
    """Collect rows of `FEATURES` by split, in the order in which they arrive.

    Args:
        rows (`Iterable[tuple[str, dict]]`): pairs of split and row. An image is a path, a dict of bytes and path, or
            None.
        work_dir (`str` or `Path`, *optional*): see [`pack_tables`].

    Returns:
        `DatasetDict`: the splits that have rows, in the order of `SPLITS`.

    Raises:
        ValueError: the dict of an image has neither bytes nor path.
    """
    return pack_tables(_tables_by_split(rows), work_dir)


def pack_tables(tables: Iterable[tuple[str, pa.Table]], work_dir: str | Path | None = None) -> DatasetDict:
    """Collect tables of rows by split, see [`pack_rows`].

    Args:
        tables (`Iterable[tuple[str, pa.Table]]`): pairs of split and table, as [`to_table`] makes it.
        work_dir (`str` or `Path`, *optional*): folder for the files `<split>.arrow`, which are memory-mapped. Files
            with these names are replaced. By default, all rows stay in memory.

    Returns:
        `DatasetDict`: the splits that have rows, in the order of `SPLITS`.
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
                writers[split] = stack.enter_context(pa.ipc.new_stream(file, SCHEMA))
            writers[split].write_table(table)
    return DatasetDict({split: read_arrow(folder / f"{split}.arrow") for split in SPLITS if split in writers})


def to_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows as an Arrow table.

    The result equals that of `FEATURES.encode_example`, except that image bytes are kept where a file with the image's
    path exists too.

    Raises:
        ValueError: the dict of an image has neither bytes nor path.
    """
    return pa.Table.from_pylist([{**row, "image": _encoded_image(row.get("image"))} for row in rows], schema=SCHEMA)


def _encoded_image(image: Any) -> dict[str, Any] | None:
    if image is None:
        return None
    if isinstance(image, str):
        return {"bytes": None, "path": image}
    if image.get("bytes") is None and image.get("path") is None:
        raise ValueError("image: has neither bytes nor path")
    return image


def _tables_by_split(rows: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[tuple[str, pa.Table]]:
    pending: dict[str, list[dict[str, Any]]] = defaultdict(list)
    pending_bytes: Counter[str] = Counter()
    for split, row in rows:
        pending[split].append(row)
        pending_bytes[split] += image_bytes(row)
        if len(pending[split]) == ROWS_AT_ONCE or pending_bytes[split] >= BYTES_AT_ONCE:
            yield split, to_table(pending.pop(split))
            pending_bytes[split] = 0
    for split, rest in pending.items():
        yield split, to_table(rest)


def image_bytes(row: Mapping[str, Any]) -> int:
    """Number of image bytes that a row holds; 0 where its image is a path or null."""
    image = row["image"]
    return len(image["bytes"] or b"") if isinstance(image, Mapping) else 0


def cut_by_bytes(rows: Iterable[dict[str, Any]], max_bytes: int = BYTES_AT_ONCE) -> Iterator[list[dict[str, Any]]]:
    """Cut rows into lists, each of which ends where its images reach `max_bytes`. This bounds the memory of a write."""
    pending, pending_bytes = [], 0
    for row in rows:
        pending.append(row)
        pending_bytes += image_bytes(row)
        if pending_bytes >= max_bytes:
            yield pending
            pending, pending_bytes = [], 0
    if pending:
        yield pending


def write_arrow(tables: Iterable[pa.Table], path: Path) -> int:
    """Write tables to an Arrow stream file, which readers memory-map.

    Args:
        tables (`Iterable[pa.Table]`): the rows; they are cast to `SCHEMA`.
        path (`Path`): the file to write.

    Returns:
        `int`: the number of rows.
    """
    count = 0
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, SCHEMA) as writer:
        for table in tables:
            count += len(table)
            writer.write_table(table.cast(SCHEMA))
    return count


def read_arrow(path: Path) -> Dataset:
    """The rows of one Arrow stream file, memory-mapped; images are not decoded."""
    return Dataset.from_file(str(path))


def row_tables(rows: Dataset, start: int = 0, stop: int | None = None, size: int = ROWS_AT_ONCE) -> Iterator[pa.Table]:
    """Rows `start` to `stop` - 1 of a data set as Arrow tables of at most `size` rows."""
    arrow, stop = rows.with_format("arrow"), len(rows) if stop is None else stop
    for first in range(start, stop, size):
        yield arrow[first : min(first + size, stop)].select(list(FEATURES))


__all__ = [
    "BYTES_AT_ONCE",
    "ROWS_AT_ONCE",
    "ROWS_PER_GROUP",
    "SCHEMA",
    "cut_by_bytes",
    "image_bytes",
    "pack_rows",
    "pack_tables",
    "read_arrow",
    "row_tables",
    "to_table",
    "write_arrow",
]
