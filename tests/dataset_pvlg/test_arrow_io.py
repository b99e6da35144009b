"""Rows become Arrow as they arrive; the rows and bytes in memory are bounded."""

import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_pvlg import arrow_io
from dataset_pvlg.arrow_io import cut_by_bytes, pack_rows, to_table
from dataset_pvlg.features import FEATURES, SPLITS

EMPTY = dict.fromkeys(FEATURES) | {"captions": [], "sentences": [], "regions": []}

_text = st.none() | st.text(max_size=8)
_number = st.integers(-(2**31), 2**31 - 1)
_share = st.floats(0, 1, width=32)
_image = st.one_of(
    st.none(),
    st.text(max_size=8),
    st.fixed_dictionaries({"bytes": st.binary(max_size=8), "path": _text}),
    st.fixed_dictionaries({"bytes": st.none(), "path": st.text(max_size=8)}),
    st.fixed_dictionaries({"bytes": st.binary(max_size=8)}),
)
_sentence = st.fixed_dictionaries({"text": _text, "start": _number, "end": _number})
_region = st.fixed_dictionaries(
    {"bbox": st.lists(_share, min_size=4, max_size=4), "label": _text, "sentence": _number, "score": _share}
    | {"reliability": st.none() | _share, "origin": _text}
)
_row = st.fixed_dictionaries(
    {
        "image": _image,
        "path": _text,
        "image_id": _text,
        "width": st.none() | _number,
        "person_id": st.integers(0, 2**60),
    }
    | {"captions": st.lists(_text, max_size=3), "sentences": st.none() | st.lists(_sentence, max_size=2)}
    | {"regions": st.lists(_region, max_size=2)},
    optional={"caption": _text, "of_no_feature": _text},
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(SPLITS), _row), max_size=5))
def test_rows_are_stored_as_datasets_stores_them(rows):
    packed = pack_rows(rows)
    assert list(packed) == [split for split in SPLITS if split in {split for split, _ in rows}]
    for split, part in packed.items():
        encoded = [FEATURES.encode_example(row) for of, row in rows if of == split]
        expected = Dataset.from_list(encoded, features=FEATURES)
        assert part.features == FEATURES
        assert part.with_format("arrow")[:].to_pylist() == expected.with_format("arrow")[:].to_pylist()


def test_bytes_stay_where_a_file_of_that_name_lies_in_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0.png").write_bytes(b"another image")
    image = {"bytes": b"x", "path": "0.png"}
    assert (
        pack_rows([("train", EMPTY | {"image": image})])["train"].with_format("arrow")[0]["image"][0].as_py() == image
    )


def test_image_without_bytes_and_path_is_refused():
    with pytest.raises(ValueError, match="image: has neither bytes nor path"):
        to_table([EMPTY | {"image": {"bytes": None, "path": None}}])


def test_files_hold_their_features_and_replace_others(tmp_path):
    (tmp_path / "test.arrow").write_bytes(b"of another time")
    rows = [(split, EMPTY | {"image_id": f"{split}/{n}"}) for n in range(3) for split in ("test", "train")]
    packed = pack_rows(rows, tmp_path)
    assert list(packed) == ["train", "test"]
    for split, part in packed.items():
        assert part.features == FEATURES
        assert part["image_id"][:] == [f"{split}/{n}" for n in range(3)]
        assert part.cache_files[0]["filename"] == str(tmp_path / f"{split}.arrow")


def test_lists_end_where_their_images_reach_the_bound():
    rows = [{"image": {"bytes": b"x" * size, "path": None} if size else None} for size in (3, 3, 0, 9, 1)]
    assert [[row["image"] and len(row["image"]["bytes"]) for row in cut] for cut in cut_by_bytes(rows, 6)] == [
        [3, 3],
        [None, 9],
        [1],
    ]
    assert list(cut_by_bytes([], 6)) == []


def test_rows_with_large_images_are_written_before_there_are_many(tmp_path, monkeypatch):
    rows = [("train", EMPTY | {"image_id": str(n), "image": {"bytes": b"x" * 10, "path": None}}) for n in range(6)]
    monkeypatch.setattr(arrow_io, "BYTES_AT_ONCE", 20)
    packed = pack_rows(rows, tmp_path)["train"]
    assert packed["image_id"][:] == [row["image_id"] for _, row in rows]
    with pa.ipc.open_stream(tmp_path / "train.arrow") as file:
        assert [len(batch) for batch in file] == [2, 2, 2]
