"""Rows as they come -> Arrow, in memory or in a folder: never all of them as Python objects at once."""

from collections import defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, concatenate_datasets
from datasets.arrow_writer import ArrowWriter

from dataset_pvlg.features import FEATURES, SPLITS

ROWS_AT_ONCE = 1000


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
    with ExitStack() as stack:
        for split, row in rows:
            if split not in writers:
                path = folder / f"{split}.arrow"
                writer = ArrowWriter(features=FEATURES, path=str(path), writer_batch_size=ROWS_AT_ONCE)
                writers[split] = stack.enter_context(writer)
            writers[split].write(FEATURES.encode_example(row))
        for writer in writers.values():
            writer.finalize()
    return DatasetDict({s: Dataset.from_file(str(folder / f"{s}.arrow")) for s in SPLITS if s in writers})


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
