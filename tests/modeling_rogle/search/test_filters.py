"""Filters: a parsed filter equals a loop over the rows; an invalid one is refused in one line."""

from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modeling_rogle.search.filters import MAX_CHARACTERS, parse_where

SCHEMA = pa.schema(
    [
        ("camera", pa.string()),
        ("width", pa.int32()),
        ("score", pa.float32()),
        ("seen", pa.bool_()),
        ("time", pa.timestamp("us", "UTC")),
        ("taken", pa.timestamp("ms")),
        ("day", pa.date32()),
        ("two words", pa.int64()),
        ("box", pa.list_(pa.float32())),
    ]
)
ROWS = [
    {
        "camera": "c1",
        "width": 40,
        "score": 0.1,
        "seen": True,
        "time": datetime(2024, 4, 30, 23, tzinfo=UTC),
        "taken": datetime(2024, 5, 1, 9, 30),
        "day": date(2024, 5, 1),
        "two words": 1,
        "box": [1.0],
    },
    {
        "camera": "c3",
        "width": 60,
        "score": 0.5,
        "seen": False,
        "time": datetime(2024, 5, 2, tzinfo=UTC),
        "two words": 2,
    },
    {"camera": "it's 100%", "width": 80},
    {"width": None, "score": -2.5e-3, "day": date(2025, 1, 1)},
]
TABLE = pa.Table.from_pylist(ROWS, schema=SCHEMA)


def passing(where: str, table: pa.Table = TABLE) -> list[int]:
    numbered = table.append_column("row", pa.array(range(len(table))))
    return numbered.filter(parse_where(where, table.schema)).column("row").to_pylist()


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("camera = 'c3'", [1]),
        ("width in (1, 60.7)", []),
        ("width in (60.7, 40)", [0]),
        ("width in (40.0, 61, 1e30)", [0]),
        ("width not in (1, 60.7)", [0, 1, 2]),
        ('camera == "c3"', [1]),
        ("camera != 'c3'", [0, 2]),
        ("camera <> 'c3' OR camera IS NULL", [0, 2, 3]),
        ("camera = 'it''s 100%'", [2]),
        ("camera like 'c%'", [0, 1]),
        ("camera like '__'", [0, 1]),
        ("camera not like '%100\\%'", [0, 1, 2]),
        ("camera in ('c1', 'x', 'c3')", [0, 1]),
        ("camera not in ('c1')", [1, 2]),
        ("camera is not null and not camera in ('c1')", [1, 2]),
        ("width >= 60", [1, 2]),
        ("width < 60.5", [0, 1]),
        ("not (width < 60)", [1, 2]),
        ("not not width < 60", [0]),
        ("width in (40, 80.0)", [0, 2]),
        ("width > -1 and width < 61 or score < 0", [0, 1, 3]),
        ("score < 0 or width > -1 and width < 41", [0, 3]),
        ("(score < 0 or width > -1) and day = '2025-01-01'", [3]),
        ("score = 0.1", [0]),
        ("score <= -.25e-2", [3]),
        ("seen", [0]),
        ("not seen", [1]),
        ("seen = false", [1]),
        ("time > '2024-05-01'", [1]),
        ("time > '2024-05-01T01:00:00+02:00'", [1]),
        ("time >= '2024-05-01T01:00:00+02:00'", [0, 1]),
        ("taken = '2024-05-01T09:30'", [0]),
        ("day <= '2024-12-31'", [0]),
        ("`two words` = 2", [1]),
    ],
)
def test_filters_pass_the_expected_rows(where, rows):
    assert passing(where) == rows


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("", r"where: empty; name a column \(camera, width, "),
        ("camra = 'c3'", "character 1: no column 'camra'; columns are camera, width, score, "),
        (
            "width > 3 and camera = 3",
            "character 24: column 'camera' holds string, compare it with text in quotes",
        ),
        ("width > '3'", "character 9: column 'width' holds int32, compare it with a number, not '3'"),
        ("width = 'x", "character 9: the string has no end"),
        ("`width = 3", "character 1: the name has no end"),
        ("width ; 3", "character 7: ';' is not understood"),
        ("width 3", "character 7: a comparison .* was expected, not '3'"),
        ("width", r"character 6: a comparison .* was expected, not the end"),
        ("width not 3", "character 11: 'in' or 'like' was expected, not '3'"),
        ("width >", "character 8: a value was expected, not the end"),
        ("camera = c3", "character 10: a value was expected, not 'c3'; write text in quotes"),
        ("width > 3 )", "character 11: 'and', 'or' or the end was expected"),
        ("(width > 3", r"character 11: '\)' was expected, not the end"),
        ("width in 3", r"character 10: '\(' was expected"),
        ("width in ()", "character 11: a value was expected"),
        ("width like '3'", "character 12: 'like' is for text, column 'width' holds int32"),
        ("width > 1e999", "character 9: .* it is not finite"),
        ("width > 99999999999999999999", "character 9: .* it has more than 64 bits"),
        ("time > '2024-13-01'", "character 8: column 'time' .* cannot be compared with '2024-13-01': month"),
        ("taken > '2024-01-01T00:00Z'", "character 9: .* the column's times have no zone"),
        ("day > '2024-01-01T00:00'", "character 7: column 'day'"),
        (
            "box = 3",
            "character 1: column 'box' holds list<.*> which cannot be tested|character 1: column 'box' holds list",
        ),
        ("3 = width", "character 1: a column was expected"),
        ("__import__('os').system('true')", "character 17: '.' is not understood"),
        ("(" * 300 + "seen" + ")" * 300, "more than 50 levels"),
        ("not " * 300 + "seen", "more than 50 levels"),
        ("seen or " * 2000 + "seen", f"16004 characters, at most {MAX_CHARACTERS}"),
    ],
)
def test_an_invalid_filter_is_one_line_with_its_position(where, message):
    with pytest.raises(ValueError, match=message) as raised:
        parse_where(where, SCHEMA)
    assert str(raised.value).startswith("where") and "\n" not in str(raised.value)


def test_a_thousand_terms_in_a_row_do_not_nest():
    assert passing("seen or " * 1000 + "width = 80") == [0, 2]


_PIECES = (
    "camera width seen time `two words` box 'c1' '2024-05-01' 3 -1.5e3 ( ) , and or not in is null like true".split()
)
_PIECES += ["=", "<>", ">=", "'", "`", "1e400", "\x00", "é", "\\"]


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(_PIECES), max_size=14).map(" ".join)))
@example("camera like '\ud800'")
def test_any_text_parses_or_raises_a_value_error(text):
    try:
        expression = parse_where(text, SCHEMA)
    except ValueError as error:
        assert str(error).startswith("where")
    else:
        assert TABLE.filter(expression).num_rows <= len(ROWS)


# Tables and filters at random: each filter is written as text, and as a function of a row that knows SQL's third value.
_CAMERAS = st.one_of(st.none(), st.sampled_from(["a", "b", "ab", "a'b", "%", ""]))
_NUMBERS = st.one_of(st.none(), st.integers(-3, 3))
_TABLES = st.lists(st.fixed_dictionaries({"camera": _CAMERAS, "width": _NUMBERS, "seen": _NUMBERS}), max_size=6)
_SIGNS = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def _quoted(value: Any) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)


def _comparison(column: str, sign: str, value: Any):
    def holds(row):
        return None if row[column] is None else _SIGNS[sign](row[column], value)

    return f"{column} {sign} {_quoted(value)}", holds


def _member(column: str, values: list[Any], negated: bool):
    def holds(row):
        return None if row[column] is None else (row[column] in values) != negated

    return f"{column} {'not ' * negated}in ({', '.join(map(_quoted, values))})", holds


def _null(column: str, negated: bool):
    return f"{column} is {'not ' * negated}null", lambda row: (row[column] is None) != negated


def _negation(part):
    def holds(row):
        inside = part[1](row)
        return None if inside is None else not inside

    return f"not ({part[0]})", holds


def _joined(left, word: str, right):
    decides = word == "or"

    def holds(row):
        found = left[1](row), right[1](row)
        return decides if decides in found else None if None in found else not decides

    return f"({left[0]}) {word} ({right[0]})", holds


_SIGN = st.sampled_from(sorted(_SIGNS))
_LETTERS = st.lists(st.sampled_from(["a", "b'"]), min_size=1, max_size=2)
_LEAVES = st.one_of(
    st.builds(_comparison, st.just("camera"), _SIGN, _CAMERAS.filter(lambda value: value is not None)),
    st.builds(_comparison, st.sampled_from(["width", "seen"]), _SIGN, st.integers(-3, 3)),
    st.builds(_member, st.just("width"), st.lists(st.integers(-3, 3), min_size=1, max_size=3), st.booleans()),
    st.builds(_member, st.just("camera"), _LETTERS, st.booleans()),
    st.builds(_null, st.sampled_from(["camera", "width", "seen"]), st.booleans()),
)
_FILTERS = st.recursive(
    _LEAVES,
    lambda part: st.one_of(st.builds(_negation, part), st.builds(_joined, part, st.sampled_from(["and", "or"]), part)),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(_TABLES, _FILTERS)
def test_equals_a_loop_over_the_rows(rows, filter_):
    where, holds = filter_
    schema = pa.schema([("camera", pa.string()), ("width", pa.int64()), ("seen", pa.int64())])
    assert passing(where, pa.Table.from_pylist(rows, schema=schema)) == [i for i, row in enumerate(rows) if holds(row)]
