"""Filters of a search, as in "camera = 'c3' and width > 60": text -> a pyarrow expression. No text is executed.

    filter     = all_of {"or" all_of}
    all_of     = term {"and" term}
    term       = "not" term | "(" filter ")" | column | column test
    test       = ("=" | "==" | "!=" | "<>" | "<" | "<=" | ">" | ">=") value
               | ["not"] "in" "(" value {"," value} ")"  |  ["not"] "like" string  |  "is" ["not"] "null"
    value      = 'string' | "string" | number | true | false      (double a quote inside a string)
    column     = a name, in backticks if it contains more than letters, digits, "_" and "."

Keywords are not case-sensitive. As in SQL, a null passes no test except "is null", also after "not". In a pattern of
"like", `%` matches any text and `_` matches one character.
"""

import math
import re
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from operator import and_, eq, ge, gt, le, lt, ne, or_
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from modeling_rogle.image_io import printable_path
from modeling_rogle.index.path_spellings import PathSpellings
from modeling_rogle.inference.errors import GalleryError

MAX_CHARACTERS = 10_000
MAX_DEPTH = 50
_WORDS = {"and", "or", "not", "in", "is", "null", "like", "true", "false"}
_COMPARE = {"=": eq, "==": eq, "!=": ne, "<>": ne, "<": lt, "<=": le, ">": gt, ">=": ge}
_TOKEN = re.compile(
    r"""\s*(?:(?P<string>'(?:[^']|'')*'|"(?:[^"]|"")*")
    |(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    |(?P<sign>==|!=|<>|<=|>=|[=<>(),])
    |`(?P<quoted>[^`]+)`
    |(?P<word>[^\W\d][\w.]*))""",
    re.VERBOSE,
)


def filter_rows(table: pa.Table, where: str | pc.Expression) -> np.ndarray:
    """Rows of a table that pass a filter.

    Args:
        table: N rows.
        where: a filter, see the grammar above, or a pyarrow expression.

    Returns:
        `[n]` int64 row numbers, ascending.

    Raises:
        GalleryError: the filter is invalid; see [`parse_where`].
    """
    if isinstance(where, str):
        try:
            where = parse_where(where, table.schema, table.column("path") if "path" in table.column_names else None)
        except ValueError as error:
            raise GalleryError(str(error)) from error
    numbered = table.append_column("\0row", pa.array(np.arange(len(table))))
    try:
        return numbered.filter(where).column("\0row").to_numpy()
    except pa.ArrowException as error:
        raise GalleryError(f"where: {str(error).splitlines()[0]}") from error


def parse_where(text: str, schema: pa.Schema, paths: pa.ChunkedArray | None = None) -> pc.Expression:
    """Parses a filter into an expression for `table.filter` or a scanner.

    Args:
        text: a filter, see the grammar above.
        schema: schema of the filtered table. Strings, numbers, booleans, dates and times can be tested. Dates and times
            are in ISO 8601; a time without a zone is in UTC if the column has a zone.
        paths: the column `path`. A value that is compared with it for equality may be another spelling of one of them,
            see [`PathSpellings`]. Default: only the same spelling is equal.

    Raises:
        ValueError: the filter is invalid, names an unknown column, or compares a column with a value of another type.
            The message names the character.

    Warns:
        UserWarning: a value is compared with `path` that is the path of no image.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"where: {len(text)} characters, at most {MAX_CHARACTERS} are allowed")
    return _Parser(text, schema, paths).parse()


class _Parser:
    """Recursive descent parser over the tokens `(kind, text, start)`; the last one is of kind "end"."""

    def __init__(self, text: str, schema: pa.Schema, paths: pa.ChunkedArray | None):
        self.schema, self.paths = schema, paths
        self.spellings: PathSpellings | None = None
        self.tokens: list[tuple[str, str, int]] = []
        self.next = 0
        end = len(text.rstrip())
        position = 0
        while position < end:
            match = _TOKEN.match(text, position)
            start = position + len(text[position:]) - len(text[position:].lstrip())
            if match is None:
                unfinished = {"'": "the string", '"': "the string", "`": "the name"}.get(text[start])
                self._fail(start, f"{unfinished} has no end" if unfinished else f"{text[start]!r} is not understood")
            kind = str(match.lastgroup)
            token = match[kind]
            if kind == "word" and token.lower() in _WORDS:
                kind, token = "keyword", token.lower()
            self.tokens.append((kind, token, start))
            position = match.end()
        self.tokens.append(("end", "", end))

    def parse(self) -> pc.Expression:
        if len(self.tokens) == 1:
            raise ValueError(f'where: empty; name a column ({self._columns()}), as in "width > 60"')
        expression = self._filter(0)
        self._expect("end", "", "'and', 'or' or the end")
        return expression

    def _filter(self, depth: int) -> pc.Expression:
        if depth > MAX_DEPTH:
            self._fail(self.tokens[self.next][2], f"more than {MAX_DEPTH} levels of brackets and 'not'")
        return self._joined("or", or_, lambda: self._joined("and", and_, lambda: self._term(depth)))

    def _joined(self, word: str, join: Callable[[Any, Any], Any], part: Callable[[], pc.Expression]) -> pc.Expression:
        parts = [part()]
        while self._take("keyword", word):
            parts.append(part())
        while len(parts) > 1:  # a balanced tree: an expression of thousands of terms must not nest as deep
            parts = [join(*parts[i : i + 2]) if i + 1 < len(parts) else parts[i] for i in range(0, len(parts), 2)]
        return parts[0]

    def _term(self, depth: int) -> pc.Expression:
        if self._take("keyword", "not"):
            if depth >= MAX_DEPTH:
                self._fail(self.tokens[self.next][2], f"more than {MAX_DEPTH} levels of brackets and 'not'")
            return ~self._term(depth + 1)
        if self._take("sign", "("):
            inside = self._filter(depth + 1)
            self._expect("sign", ")", "')'")
            return inside
        return self._test()

    def _test(self) -> pc.Expression:
        column, name, kind = self._column()
        if self._take("keyword", "is"):
            negated = self._take("keyword", "not")
            self._expect("keyword", "null", "'null'")
            return column.is_valid() if negated else column.is_null()
        sign_kind, sign, _ = self.tokens[self.next]
        if sign_kind == "sign" and sign in _COMPARE:
            self.next += 1
            compare = _COMPARE[sign]
            value = self._value(name, kind)
            return compare(column, self._existing_path(name, value) if compare in (eq, ne) else value)
        negated = self._take("keyword", "not")
        if self._take("keyword", "in"):
            test = self._among(column, kind, [self._existing_path(name, value) for value in self._values(name, kind)])
        elif self._take("keyword", "like"):
            test = self._like(column, name, kind)
        elif pa.types.is_boolean(kind) and not negated:
            return column
        else:
            expected = "'in' or 'like'" if negated else "a comparison (= != < <= > >=), 'in', 'like' or 'is null'"
            self._fail(self.tokens[self.next][2], f"{expected} was expected, not {self._describe(self.next)}")
        return ~test if negated else test

    def _column(self) -> tuple[pc.Expression, str, pa.DataType]:
        """The next token as a column, with its name and the type of its values."""
        token, name, position = self.tokens[self.next]
        if token not in ("word", "quoted"):
            self._fail(position, f"a column was expected ({self._columns()}), not {self._describe(self.next)}")
        self.next += 1
        if self.schema.get_field_index(name) < 0:
            self._fail(position, f"no column {name!r}; columns are {self._columns()}")
        kind = self.schema.field(name).type
        column = pc.field(name)
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
            column = column.cast(kind)
        if _notation(kind) is None:
            self._fail(position, f"column {name!r} holds {kind}, which cannot be tested")
        return column, name, kind

    def _among(self, column: pc.Expression, kind: pa.DataType, values: Sequence[pa.Scalar]) -> pc.Expression:
        listed, value_type = [value.as_py() for value in values], values[0].type
        if pa.types.is_integer(kind):  # an integer equals 61.0 and no other fraction
            listed = [int(value) for value in listed if value == int(value) and abs(value) < 2**63]
            value_type = pa.int64()
        among = column.isin(pa.array(listed, value_type))
        return pc.if_else(column.is_valid(), among, pa.scalar(None, pa.bool_()))  # isin() returns false for a null

    def _like(self, column: pc.Expression, name: str, kind: pa.DataType) -> pc.Expression:
        position = self.tokens[self.next][2]
        if not _is_text(kind):
            self._fail(position, f"'like' is for text, column {name!r} holds {kind}")
        pattern = self._value(name, kind).as_py()
        # A regular expression, because the backslash is special in Arrow's own "like".
        parts = {"%": ".*", "_": "."}
        regex = "".join(parts.get(character) or re.escape(character) for character in pattern)
        return pc.match_substring_regex(column, f"(?s)\\A{regex}\\z")

    def _values(self, name: str, kind: pa.DataType) -> list[pa.Scalar]:
        self._expect("sign", "(", "'('")
        values = [self._value(name, kind)]
        while self._take("sign", ","):
            values.append(self._value(name, kind))
        self._expect("sign", ")", "',' or ')'")
        return values

    def _value(self, name: str, kind: pa.DataType) -> pa.Scalar:
        token, text, position = self.tokens[self.next]
        notation, number = _notation(kind), self.next
        self.next += 1
        is_boolean = token == "keyword" and text in ("true", "false")
        if token not in ("string", "number") and not is_boolean:
            self._fail(position, f"a value was expected, not {self._describe(number)}; write text in quotes")
        try:
            if token == "string" and _is_text(kind):
                return pa.scalar(_unquoted(text), kind)
            if token == "string" and pa.types.is_temporal(kind):
                return _date_or_time(_unquoted(text), kind)
            if token == "number" and _is_number(kind):
                return _number(text, kind)
            if is_boolean and pa.types.is_boolean(kind):
                return pa.scalar(text == "true")
        except (ValueError, OverflowError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            self._fail(position, f"column {name!r} ({kind}) cannot be compared with {text}: {reason}")
        self._fail(position, f"column {name!r} holds {kind}, compare it with {notation}, not {text}")

    def _existing_path(self, name: str, value: pa.Scalar) -> pa.Scalar:
        """The path that a value compared with `path` means; other values as they are."""
        if name != "path" or self.paths is None:
            return value
        self.spellings = self.spellings or PathSpellings(self.paths.to_pylist())
        path = self.spellings.find(value.as_py())
        if path is None:
            warnings.warn(f"where: no image has the path {printable_path(value.as_py())}", stacklevel=2)
        return value if path is None else pa.scalar(path, value.type)

    def _take(self, kind: str, text: str) -> bool:
        """Whether the next token is this one, which is then consumed."""
        matches = self.tokens[self.next][:2] == (kind, text)
        self.next += matches
        return matches

    def _expect(self, kind: str, text: str, expected: str) -> None:
        if not self._take(kind, text):
            self._fail(self.tokens[self.next][2], f"{expected} was expected, not {self._describe(self.next)}")

    def _describe(self, number: int) -> str:
        kind, text, _ = self.tokens[number]
        return "the end" if kind == "end" else repr(text) if kind != "string" else text

    def _columns(self) -> str:
        return ", ".join(field.name for field in self.schema) or "none in this table"

    def _fail(self, position: int, reason: str) -> NoReturn:
        raise ValueError(f"where, character {position + 1}: {reason}")


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_number(kind: pa.DataType) -> bool:
    # Arrow compares uint64 with no signed number.
    return (pa.types.is_integer(kind) and kind != pa.uint64()) or pa.types.is_floating(kind)


def _notation(kind: pa.DataType) -> str | None:
    """How to write a value of this type; None if the type cannot be tested."""
    if _is_text(kind):
        return "text in quotes"
    if _is_number(kind):
        return "a number"
    if pa.types.is_boolean(kind):
        return "true or false"
    if pa.types.is_timestamp(kind):
        return "a time in quotes, as '2024-05-01T09:30'"
    return "a date in quotes, as '2024-05-01'" if pa.types.is_date(kind) else None


def _unquoted(text: str) -> str:
    return text[1:-1].replace(text[0] * 2, text[0])


def _number(text: str, kind: pa.DataType) -> pa.Scalar:
    if pa.types.is_floating(kind):  # 0.1 equals the float32 that was stored for 0.1
        return pa.scalar(float(text), pa.float64()).cast(kind)
    if re.fullmatch(r"[+-]?\d+", text):
        if abs(int(text)) >= 2**63:
            raise ValueError("it has more than 64 bits")
        return pa.scalar(int(text), pa.int64())
    if not math.isfinite(float(text)):
        raise ValueError("it is not finite")
    return pa.scalar(float(text))


def _date_or_time(text: str, kind: pa.DataType) -> pa.Scalar:
    if pa.types.is_date(kind):
        return pa.scalar(date.fromisoformat(text), pa.date32()).cast(kind)
    time = datetime.fromisoformat(text)
    if kind.tz is None and time.tzinfo is not None:
        raise ValueError("the column's times have no zone")
    if kind.tz is not None:
        time = (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    return pa.scalar(time, pa.timestamp("us", kind.tz))


__all__ = ["filter_rows", "parse_where"]
