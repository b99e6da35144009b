"""Rows written as they come: what is held at once is bounded by rows and by bytes."""

import pyarrow as pa

from dataset_pvlg import pack
from dataset_pvlg.features import FEATURES
from dataset_pvlg.pack import cut_by_bytes, pack_rows


def test_lists_end_where_their_pictures_reach_the_bound():
    rows = [{"image": {"bytes": b"x" * size, "path": None} if size else None} for size in (3, 3, 0, 9, 1)]
    assert [[row["image"] and len(row["image"]["bytes"]) for row in cut] for cut in cut_by_bytes(rows, 6)] == [
        [3, 3],
        [None, 9],
        [1],
    ]
    assert list(cut_by_bytes([], 6)) == []


def test_rows_with_large_pictures_are_written_before_there_are_many(tmp_path, monkeypatch):
    empty = dict.fromkeys(FEATURES) | {"captions": [], "sentences": [], "regions": []}
    rows = [("train", empty | {"image_id": str(n), "image": {"bytes": b"x" * 10, "path": None}}) for n in range(6)]
    monkeypatch.setattr(pack, "BYTES_AT_ONCE", 20)
    packed = pack_rows(rows, tmp_path)["train"]
    assert packed["image_id"][:] == [row["image_id"] for _, row in rows]
    with pa.ipc.open_stream(tmp_path / "train.arrow") as file:
        assert [len(batch) for batch in file] == [2, 2, 2]
