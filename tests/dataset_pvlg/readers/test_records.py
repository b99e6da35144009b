"""JSON lists are read record by record, with the same result and errors as parsing the whole file."""

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_pvlg.readers import records
from dataset_pvlg.readers.report import ReadReport, SourceError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(VALUES, min_size=1, max_size=12), st.integers(1, 40), st.sampled_from([None, 1]), st.booleans())
def test_a_list_is_read_record_by_record_as_if_it_were_parsed_whole(tmp_path_factory, entries, at_once, indent, plain):
    file = tmp_path_factory.mktemp("list") / "list.json"
    file.write_text(json.dumps(entries, indent=indent, ensure_ascii=plain) + "\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_CHARACTERS_AT_ONCE", at_once)  # so that pieces end at every position
        loaded = list(records.load_records(file, ReadReport("cuhk_pedes")))
    assert [entry for _, entry in loaded] == entries
    assert [location for location, _ in loaded] == [f"list.json: record {number}" for number in range(len(entries))]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "[]",
        "{}",
        "[1, 2",
        "[1, 2,]",
        "[1 2]",
        "[1, 2] 3",
        "[1, {]",
        '[1, "a',
        "[1, 2]]",
        "3",
        "[,1]",
        "[1]\u00a0",
    ],
)
def test_an_invalid_list_gives_the_error_of_the_whole_file(tmp_path, text):
    file = tmp_path / "list.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SourceError, match="list.json: (not valid JSON at line|a list of records|the list of records)"):
        list(records.load_records(file, ReadReport("cuhk_pedes")))


def test_a_list_is_not_in_memory_as_a_whole(tmp_path):
    entry = {"split": "train", "id": 1, "file_path": "a.jpg", "captions": ["A man in a red jacket. " * 10]}
    (tmp_path / "list.json").write_text(json.dumps([entry] * 30_000))  # 9 MB
    tracemalloc.start()
    try:
        assert sum(1 for _ in records.load_records(tmp_path / "list.json", ReadReport("cuhk_pedes"))) == 30_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6e6
