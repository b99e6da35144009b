import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dataset_pvlg.readers.record_store import RecordFile, text_key
from dataset_pvlg.readers.records import Record


def record(number: int, **given) -> Record:
    fields = {
        "location": f"a.json: record {number}",
        "split": "train",
        "person": number // 2,
        "path_field": "file_path",
    }
    return Record(**fields | {"name": f"imgs/{number}.jpg", "captions": [f"Image {number}.", "A man."]} | given)


ODD = [
    record(0, captions=[]),
    record(1, split="test", camera="c1", origin="a set", path=Path("/images/1.jpg")),
    record(2, regions=[{"bbox": [1, 2.5, 3, 4], "label": "hat", "sentence": None}, "no object"]),
    record(
        3,
        location="\udcff.json: record 3",
        path=Path("/images/\udcff.jpg"),
        captions=["Ein Mädchen", "一个男人"],
        split="validation",
    ),
]


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    there = RecordFile(tmp_path / "records", iter(ODD), "file_path")
    assert list(there) == ODD and len(there) == 4
    assert there.people.tolist() == [0, 0, 1, 1] and there.splits.tolist() == [0, 2, 0, 1]
    assert there.names[0] == text_key("imgs/0.jpg") != there.names[1]


def test_removed_and_moved_records_show_in_later_passes(tmp_path: Path) -> None:
    there = RecordFile(tmp_path / "records", (record(number) for number in range(1700)), "file_path")
    there.remaining[[0, 600, 1699]] = False
    there.splits[1] = 2
    names = [each.name for each in there]
    assert len(there) == len(names) == 1697 and "imgs/600.jpg" not in names and names[-1] == "imgs/1698.jpg"
    assert next(iter(there)).split == "test"
    assert [each.name for each in there.select(~there.remaining)] == ["imgs/0.jpg", "imgs/600.jpg", "imgs/1699.jpg"]
    assert all(each == other for each, other in zip(there, there, strict=True))  # two passes at once


def test_no_record_at_all(tmp_path: Path) -> None:
    there = RecordFile(tmp_path / "records", iter(()), "file_path")
    assert list(there) == [] and len(there) == 0


@pytest.mark.parametrize("count", [4_000, 16_000])
def test_text_does_not_stay_in_memory(tmp_path: Path, count: int) -> None:
    def records() -> Iterator[Record]:
        for number in range(count):
            yield record(number, captions=["A long caption. " * 20 + str(number)])

    tracemalloc.start()
    try:
        there = RecordFile(tmp_path / "records", records(), "file_path")
        assert sum(len(each.captions[0]) for each in there) > 320 * count
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2.5e6 + 60 * count  # the text of one piece, and two copies of the numbers of each record
    assert there.people.dtype == np.int32
