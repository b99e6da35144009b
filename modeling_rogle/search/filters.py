"""Filters of a search, as in "camera = 'c3' and width > 60": text -> a pyarrow expression. Nothing is ever evaluated.

    filter     = all {"or" all}
    all        = one {"and" one}
    one        = "not" one | "(" filter ")" | column | column test
    test       = ("=" | "==" | "!=" | "<>" | "<" | "<=" | ">" | ">=") value
               | ["not"] "in" "(" value {"," value} ")"  |  ["not"] "like" string  |  "is" ["not"] "null"
    value      = 'string' | "string" | number | true | false      a quote inside a string is doubled
    column     = a name, in backticks if it holds more than letters, digits, "_" and "."

Words of the grammar are read in any case. As in SQL a null passes no test but "is null", also behind "not"; `%` in a
pattern of "like" stands for any text, `_` for one character.
"""

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from operator import and_, eq, ge, gt, le, lt, ne, or_
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

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


def parse_where(text: str, schema: pa.Schema) -> pc.Expression:
    """Turns a filter into an expression for `table.filter` or a scanner.

    Args:
        text: a filter, see the grammar above.
        schema: of the table that is filtered. Its strings, numbers, booleans, dates and times can be tested; a date or
            time is written in ISO 8601, and without a zone is read as UTC where the column has one.

    Raises:
        ValueError: not a filter, an unknown column, or a value that does not fit the column; says at which character.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"where: {len(text)} characters, at most {MAX_CHARACTERS} are read")
    return _Parser(text, schema).parse()


class _Parser:
    """Recursive descent over the tokens `(kind, text, start)`; the last one is of kind "end"."""

    def __init__(self, text: str, schema: pa.Schema):
        self.schema = schema
        self.tokens: list[tuple[str, str, int]] = []
        self.next = 0
        end = len(text.rstrip())
        at = 0
        while at < end:
            match = _TOKEN.match(text, at)
            start = at + len(text[at:]) - len(text[at:].lstrip())
            if match is None:
                unfinished = {"'": "the string", '"': "the string", "`": "the name"}.get(text[start])
                self._fail(start, f"{unfinished} has no end" if unfinished else f"{text[start]!r} is not understood")
            kind, found = match.lastgroup, match[match.lastgroup]
            if kind == "word" and found.lower() in _WORDS:
                kind, found = "keyword", found.lower()
            self.tokens.append((kind, found, start))
            at = match.end()
        self.tokens.append(("end", "", end))

    def parse(self) -> pc.Expression:
        if len(self.tokens) == 1:
            raise ValueError(f'where: empty; name a column ({self._columns()}), as in "width > 60"')
        expression = self._any(0)
        self._expect("end", "", "'and', 'or' or the end")
        return expression

    def _any(self, depth: int) -> pc.Expression:
        if depth > MAX_DEPTH:
            self._fail(self.tokens[self.next][2], f"more than {MAX_DEPTH} levels of brackets and 'not'")
        return self._joined("or", or_, lambda: self._joined("and", and_, lambda: self._one(depth)))

    def _joined(self, word: str, join: Callable[[Any, Any], Any], part: Callable[[], pc.Expression]) -> pc.Expression:
        parts = [part()]
        while self._take("keyword", word):
            parts.append(part())
        while len(parts) > 1:  # a balanced tree: thousands of terms in a row must not nest as deep
            parts = [join(*parts[i : i + 2]) if i + 1 < len(parts) else parts[i] for i in range(0, len(parts), 2)]
        return parts[0]

    def _one(self, depth: int) -> pc.Expression:
        if self._take("keyword", "not"):
            if depth >= MAX_DEPTH:
                self._fail(self.tokens[self.next][2], f"more than {MAX_DEPTH} levels of brackets and 'not'")
            return ~self._one(depth + 1)
        if self._take("sign", "("):
            inside = self._any(depth + 1)
            self._expect("sign", ")", "')'")
            return inside
        return self._test()

    def _test(self) -> pc.Expression:
        kind, name, at = self.tokens[self.next]
        if kind not in ("word", "quoted"):
            self._fail(at, f"a column was expected ({self._columns()}), not {self._seen(self.next)}")
        self.next += 1
        if self.schema.get_field_index(name) < 0:
            self._fail(at, f"no column {name!r}; columns are {self._columns()}")
        kind = self.schema.field(name).type
        column = pc.field(name)
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
            column = column.cast(kind)
        if _written_as(kind) is None:
            self._fail(at, f"column {name!r} holds {kind}, which cannot be tested")
        if self._take("keyword", "is"):
            negated = self._take("keyword", "not")
            self._expect("keyword", "null", "'null'")
            return column.is_valid() if negated else column.is_null()
        sign_kind, sign, _ = self.tokens[self.next]
        if sign_kind == "sign" and sign in _COMPARE:
            self.next += 1
            return _COMPARE[sign](column, self._value(name, kind))
        negated = self._take("keyword", "not")
        if self._take("keyword", "in"):
            found = self._among(column, kind, self._values(name, kind))
        elif self._take("keyword", "like"):
            found = self._like(column, name, kind)
        elif pa.types.is_boolean(kind) and not negated:
            return column
        else:
            expected = "'in' or 'like'" if negated else "a comparison (= != < <= > >=), 'in', 'like' or 'is null'"
            self._fail(self.tokens[self.next][2], f"{expected} was expected, not {self._seen(self.next)}")
        return ~found if negated else found

    def _among(self, column: pc.Expression, kind: pa.DataType, values: Sequence[pa.Scalar]) -> pc.Expression:
        listed, listed_as = [value.as_py() for value in values], values[0].type
        if pa.types.is_integer(kind):  # equals no fraction; 61.0 and 61 are one
            listed = [int(value) for value in listed if value == int(value) and abs(value) < 2**63]
            listed_as = pa.int64()
        among = column.isin(pa.array(listed, listed_as))
        return pc.if_else(column.is_valid(), among, pa.scalar(None, pa.bool_()))  # isin() alone says false of a null

    def _like(self, column: pc.Expression, name: str, kind: pa.DataType) -> pc.Expression:
        at = self.tokens[self.next][2]
        if not _is_text(kind):
            self._fail(at, f"'like' is for text, column {name!r} holds {kind}")
        pattern = self._value(name, kind).as_py()
        # Our own regular expression: Arrow's own "like" gives the backslash a meaning.
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
        token, text, at = self.tokens[self.next]
        written, number = _written_as(kind), self.next
        self.next += 1
        is_truth = token == "keyword" and text in ("true", "false")
        if token not in ("string", "number") and not is_truth:
            self._fail(at, f"a value was expected, not {self._seen(number)}; text stands in quotes")
        try:
            if token == "string" and _is_text(kind):
                return pa.scalar(_unquoted(text), kind)
            if token == "string" and pa.types.is_temporal(kind):
                return _moment(_unquoted(text), kind)
            if token == "number" and _is_number(kind):
                return _number(text, kind)
            if is_truth and pa.types.is_boolean(kind):
                return pa.scalar(text == "true")
        except (ValueError, OverflowError, pa.ArrowException) as error:
            self._fail(at, f"column {name!r} ({kind}) cannot be compared with {text}: {str(error).splitlines()[0]}")
        self._fail(at, f"column {name!r} holds {kind}, compare it with {written}, not {text}")

    def _take(self, kind: str, text: str) -> bool:
        found = self.tokens[self.next][:2] == (kind, text)
        self.next += found
        return found

    def _expect(self, kind: str, text: str, wanted: str) -> None:
        if not self._take(kind, text):
            self._fail(self.tokens[self.next][2], f"{wanted} was expected, not {self._seen(self.next)}")

    def _seen(self, number: int) -> str:
        kind, text, _ = self.tokens[number]
        return "the end" if kind == "end" else repr(text) if kind != "string" else text

    def _columns(self) -> str:
        return ", ".join(field.name for field in self.schema) or "none in this table"

    def _fail(self, at: int, reason: str) -> NoReturn:
        raise ValueError(f"where, character {at + 1}: {reason}")


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_number(kind: pa.DataType) -> bool:
    # Not uint64: half of it compares with no signed number.
    return (pa.types.is_integer(kind) and kind != pa.uint64()) or pa.types.is_floating(kind)


def _written_as(kind: pa.DataType) -> str | None:
    """How a value of this type is written; None: the type cannot be tested."""
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
    if pa.types.is_floating(kind):  # as narrow as the column: 0.1 equals what was stored for 0.1
        return pa.scalar(float(text), pa.float64()).cast(kind)
    if re.fullmatch(r"[+-]?\d+", text):
        if abs(int(text)) >= 2**63:
            raise ValueError("it has more than 64 bits")
        return pa.scalar(int(text), pa.int64())
    if not math.isfinite(float(text)):
        raise ValueError("it is not finite")
    return pa.scalar(float(text))


def _moment(text: str, kind: pa.DataType) -> pa.Scalar:
    if pa.types.is_date(kind):
        return pa.scalar(date.fromisoformat(text), pa.date32()).cast(kind)
    moment = datetime.fromisoformat(text)
    if kind.tz is None and moment.tzinfo is not None:
        raise ValueError("the column's times have no zone")
    if kind.tz is not None:
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    return pa.scalar(moment, pa.timestamp("us", kind.tz))


__all__ = ["parse_where"]
