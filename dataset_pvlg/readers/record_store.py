"""Checked records on disk, so that 100,000 records take no more memory for their text than 1,000.

Only numbers stay in memory, about 30 bytes per record. Text is read in pieces, as often as a pass over the records
needs.
"""

import hashlib
import json
import os
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dataset_pvlg.features import SPLITS
from dataset_pvlg.readers.records import Record

RECORDS_AT_ONCE = 500
_TEXT_SCHEMA = pa.schema(
    [("location", pa.binary()), ("name", pa.string()), ("captions", pa.list_(pa.string())), ("camera", pa.string()),
     ("origin", pa.string()), ("regions", pa.string()), ("path", pa.binary())]
)  # fmt: skip


def text_key(text: str | bytes) -> int:
    """A 64-bit digest of a text. Two of 10 million texts have the same one by chance in 1 of 400,000 data sets."""
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


class RecordFile:
    """N records in their original order, some of which may be removed.

    Iteration gives the remaining [`Record`]s with the split that `splits` currently holds. Several iterations may run
    at the same time.

    Args:
        path (`Path`): the file to write; it must exist as long as this object.
        records (`Iterable[Record]`): the records, read once.
        path_field (`str`): the `path_field` of all records.

    Attributes:
        people (`np.ndarray`): identities, int32 [N].
        splits (`np.ndarray`): positions in `SPLITS`, int8 [N]; may be changed.
        names (`np.ndarray`): [`text_key`] of each image name, uint64 [N].
        paths (`np.ndarray`): [`text_key`] of each image file, uint64 [N].
        remaining (`np.ndarray`): False for removed records, bool [N]; may be changed.
    """

    def __init__(self, path: Path, records: Iterable[Record], path_field: str):
        self.path, self.path_field = path, path_field
        people, splits, names, paths = array("i"), array("b"), array("Q"), array("Q")
        pending: list[dict[str, Any]] = []
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, _TEXT_SCHEMA) as writer:
            for record in records:
                pending.append(_text_columns(record))
                people.append(record.person)
                splits.append(SPLITS.index(record.split))
                names.append(text_key(record.name))
                paths.append(text_key(pending[-1]["path"] or b""))
                if len(pending) == RECORDS_AT_ONCE:
                    writer.write_batch(pa.RecordBatch.from_pylist(pending, schema=_TEXT_SCHEMA))
                    pending.clear()
            if pending:
                writer.write_batch(pa.RecordBatch.from_pylist(pending, schema=_TEXT_SCHEMA))
        self.people, self.splits = np.array(people, np.int32), np.array(splits, np.int8)
        self.names, self.paths = np.array(names, np.uint64), np.array(paths, np.uint64)
        self.remaining = np.ones(len(people), bool)

    def __len__(self) -> int:
        """Number of remaining records."""
        return int(self.remaining.sum())

    def __iter__(self) -> Iterator[Record]:
        return self.select(self.remaining.copy())  # a copy, because the loop may remove records

    def select(self, mask: np.ndarray) -> Iterator[Record]:
        """The records where `mask` (bool [N]) is true, removed or not."""
        start = 0
        with pa.OSFile(str(self.path)) as file, pa.ipc.open_stream(file) as reader:
            for batch in reader:
                selected = np.flatnonzero(mask[start : start + len(batch)])
                for offset, columns in zip(selected, batch.take(pa.array(selected)).to_pylist(), strict=True):
                    yield self._record(start + int(offset), columns)
                start += len(batch)

    def _record(self, number: int, columns: dict[str, Any]) -> Record:
        location, path, regions = columns.pop("location"), columns.pop("path"), columns.pop("regions")
        return Record(
            location=os.fsdecode(location),
            split=SPLITS[self.splits[number]],
            person=int(self.people[number]),
            path_field=self.path_field,
            path=None if path is None else Path(os.fsdecode(path)),
            regions=json.loads(regions) if regions else [],
            **columns,
        )


def _text_columns(record: Record) -> dict[str, Any]:
    return {
        "location": os.fsencode(record.location),  # it contains a file name, which may not be valid text
        "name": record.name,
        "captions": record.captions,
        "camera": record.camera,
        "origin": record.origin,
        "regions": json.dumps(record.regions) if record.regions else None,
        "path": None if record.path is None else os.fsencode(record.path),
    }


__all__ = ["RecordFile", "text_key"]
