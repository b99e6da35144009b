"""Rows as they come -> Arrow, in memory or in a folder: never all of them as Python objects at once."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, concatenate_datasets
from datasets.arrow_writer import ArrowWriter

from dataset_pvlg.features import FEATURES, SPLITS

ROWS_AT_ONCE = 1000
BYTES_AT_ONCE = 64 * 2**20  # of pictures: a thousand that were stored anew may be gigabytes


def pack_rows(rows: Iterable[tuple[str, dict[str, Any]]], work_dir: str | Path | None = None) -> DatasetDict:
    """Rows of `FEATURES` by split, in the order in which they come.

    Args:
        rows: (split, row) one after the other; an image is a path, a dict of bytes and path, or None.
        work_dir: rows are written to `work_dir/<split>.arrow` and mapped, so that they cost no memory; files of these
            names are replaced. None packs them in memory.

    Returns:
        The splits that have rows, in the order of `SPLITS`.
    """
    if work_dir is None:
        return _in_memory(rows)
    folder = Path(work_dir)
    folder.mkdir(parents=True, exist_ok=True)
    writers: dict[str, ArrowWriter] = {}
    held: Counter[str] = Counter()
    with ExitStack() as stack:
        for split, row in rows:
            if split not in writers:
                path = folder / f"{split}.arrow"
                writer = ArrowWriter(features=FEATURES, path=str(path), writer_batch_size=ROWS_AT_ONCE)
                writers[split] = stack.enter_context(writer)
            encoded = FEATURES.encode_example(row)
            writers[split].write(encoded)
            held[split] += image_bytes(encoded)
            if held[split] >= BYTES_AT_ONCE:
                writers[split].write_examples_on_file()
                held[split] = 0
        for writer in writers.values():
            writer.finalize()
    return DatasetDict({s: Dataset.from_file(str(folder / f"{s}.arrow")) for s in SPLITS if s in writers})


def image_bytes(row: Mapping[str, Any]) -> int:
    """Bytes of the picture that a row carries, 0 where it is a path or null."""
    image = row["image"]
    return len(image["bytes"] or b"") if isinstance(image, Mapping) else 0


def cut_by_bytes(rows: Iterable[dict[str, Any]], most: int = BYTES_AT_ONCE) -> Iterator[list[dict[str, Any]]]:
    """Rows in lists that end where their pictures reach `most` bytes: what is written together, and so is held."""
    waiting, held = [], 0
    for row in rows:
        waiting.append(row)
        held += image_bytes(row)
        if held >= most:
            yield waiting
            waiting, held = [], 0
    if waiting:
        yield waiting


def _in_memory(rows: Iterable[tuple[str, dict[str, Any]]]) -> DatasetDict:
    parts: dict[str, list[Dataset]] = defaultdict(list)
    waiting: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for split, row in rows:
        waiting[split].append(row)
        if len(waiting[split]) == ROWS_AT_ONCE:
            parts[split].append(Dataset.from_list(waiting.pop(split), features=FEATURES))
    for split, rest in waiting.items():
        parts[split].append(Dataset.from_list(rest, features=FEATURES))
    return DatasetDict({split: concatenate_datasets(parts[split]) for split in SPLITS if split in parts})
