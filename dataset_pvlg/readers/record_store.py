"""Checked records on disk: what a set says of 100,000 images is no more memory than what it says of 1,000.

Only numbers stay in memory, about 30 bytes a record; words are read piece by piece, as often as a pass needs them.
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
_WORDS = pa.schema(
    [("where", pa.binary()), ("name", pa.string()), ("captions", pa.list_(pa.string())), ("camera", pa.string()),
     ("origin", pa.string()), ("regions", pa.string()), ("path", pa.binary())]
)  # fmt: skip


def text_key(text: str | bytes) -> int:
    """64 bits that tell texts apart: two of 10 million are the same by chance once in 400,000 sets."""
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


class RecordFile:
    """N records in the order in which they came, some of them struck out.

    Iterating gives the [`Record`]s that are left, with the split that `splits` says now; several may iterate at once.

    Args:
        path: the file to write; it must outlive this.
        records: what goes into it, once.
        path_field: of all records.

    Attributes:
        people: int32 [N]. splits: int8 [N], places in `SPLITS`; may be changed. names, paths: uint64 [N], the
            [`text_key`] of each record's name and image file. left: bool [N]; may be changed.
    """

    def __init__(self, path: Path, records: Iterable[Record], path_field: str):
        self.path, self.path_field = path, path_field
        people, splits, names, paths = array("i"), array("b"), array("Q"), array("Q")
        waiting: list[dict[str, Any]] = []
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, _WORDS) as writer:
            for record in records:
                waiting.append(_words(record))
                people.append(record.person)
                splits.append(SPLITS.index(record.split))
                names.append(text_key(record.name))
                paths.append(text_key(waiting[-1]["path"] or b""))
                if len(waiting) == RECORDS_AT_ONCE:
                    writer.write_batch(pa.RecordBatch.from_pylist(waiting, schema=_WORDS))
                    waiting.clear()
            if waiting:
                writer.write_batch(pa.RecordBatch.from_pylist(waiting, schema=_WORDS))
        self.people, self.splits = np.array(people, np.int32), np.array(splits, np.int8)
        self.names, self.paths = np.array(names, np.uint64), np.array(paths, np.uint64)
        self.left = np.ones(len(people), bool)

    def __len__(self) -> int:
        """Records that are left."""
        return int(self.left.sum())

    def __iter__(self) -> Iterator[Record]:
        return self.those(self.left.copy())  # who goes through them may strike them out

    def those(self, chosen: np.ndarray) -> Iterator[Record]:
        """The records where `chosen` (bool [N]) is true, struck out or not."""
        start = 0
        with pa.OSFile(str(self.path)) as file, pa.ipc.open_stream(file) as reader:
            for batch in reader:
                wanted = np.flatnonzero(chosen[start : start + len(batch)])
                for offset, words in zip(wanted, batch.take(pa.array(wanted)).to_pylist(), strict=True):
                    yield self._record(start + int(offset), words)
                start += len(batch)

    def _record(self, number: int, words: dict[str, Any]) -> Record:
        where, path, regions = words.pop("where"), words.pop("path"), words.pop("regions")
        return Record(
            where=os.fsdecode(where),
            split=SPLITS[self.splits[number]],
            person=int(self.people[number]),
            path_field=self.path_field,
            path=None if path is None else Path(os.fsdecode(path)),
            regions=json.loads(regions) if regions else [],
            **words,
        )


def _words(record: Record) -> dict[str, Any]:
    return {
        "where": os.fsencode(record.where),  # it names a file, and file names may be no text
        "name": record.name,
        "captions": record.captions,
        "camera": record.camera,
        "origin": record.origin,
        "regions": json.dumps(record.regions) if record.regions else None,
        "path": None if record.path is None else os.fsencode(record.path),
    }


__all__ = ["RecordFile", "text_key"]
