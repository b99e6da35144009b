"""Reads tables of metadata that people and spreadsheets write: CSV, TSV and JSON lines.

A column gets the type that pyarrow infers, unless that would change a value: identifiers with leading zeros or with
more digits than a number holds stay text. `NULL`, `nan` and similar spellings of a missing value become null.
"""

import codecs
import csv
import io
import json
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json

from modeling_rogle.image_io import printable_path
from modeling_rogle.inference.errors import GalleryError

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.tsv")  # in any case, as `Metadata.CSV`
# Spellings of a missing value in a column of text. `NA` is not one of them, because it is also a country and a name.
MISSING = ("", "NULL", "Null", "null", "None", "none", "NaN", "nan", "N/A", "n/a", "#N/A", "<NA>")
MAX_DEPTH = 20  # levels of lists and objects in a value; a parser of pyarrow crashes on thousands
# Values that a number would change: 003, or as a float 12345678901234567890 and 12e4 (of a hexadecimal code).
_NOT_AN_INTEGER = r"^\s*[+-]?0\d"
_NOT_A_FLOAT = rf"{_NOT_AN_INTEGER}|^\s*[+-]?\d{{16,}}\s*$|^\s*\d+[eE]\d+\s*$"


def is_metadata(name: str) -> bool:
    """Whether a file name is one of `METADATA`, in any case."""
    return name.lower() in METADATA


def decode_text(content: bytes) -> tuple[str, str]:
    """Decodes the text of a table.

    Returns:
        the text without a byte order mark, and the encoding: UTF-8 or UTF-16 by the mark, otherwise UTF-8 if it is
        valid, otherwise cp1252, in which older Windows programs write.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace"), "UTF-16"
    try:
        return content.decode("utf-8-sig"), "UTF-8"
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace"), "cp1252"


def read_table(file: Path) -> pa.Table:
    """Reads a table.

    Args:
        file: a `.csv`, `.tsv` or `.jsonl` file with a column `file_name`.

    Raises:
        GalleryError: the file cannot be read or parsed, a column occurs twice, or there is no column `file_name`. The
            message names the file.

    Warns:
        UserWarning: the text is not UTF-8, or a column without a name is ignored.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise GalleryError(f"{file}: cannot be read ({error.strerror})") from error
    text, encoding = decode_text(content)
    if "\0" in text:
        raise GalleryError(f"{file}: not a text file")
    if encoding == "cp1252":
        warnings.warn(f"{printable_path(file)}: not UTF-8, read as {encoding}", stacklevel=2)
    try:
        table = _read_json_lines(text, file) if file.suffix.lower() == ".jsonl" else _read_csv(text, file)
    except pa.ArrowException as error:
        raise GalleryError(f"{file}: cannot be read ({' '.join(str(error).splitlines()[0].split())})") from error
    if "file_name" not in table.column_names:
        raise GalleryError(f"{file}: no column 'file_name'; it has {', '.join(table.column_names) or 'no columns'}")
    for number, field in enumerate(table.schema):
        if pa.types.is_string(field.type) and field.name != "file_name":
            table = table.set_column(number, field.name, _with_nulls(table.column(number)))
    return table


def _read_csv(text: str, file: Path) -> pa.Table:
    text = text.lstrip("\r\n")
    delimiter = "\t" if file.suffix.lower() == ".tsv" else max(",;\t", key=text.partition("\n")[0].count)
    header = next(csv.reader(io.StringIO(text.partition("\n")[0]), delimiter=delimiter), [])
    names = _names([name.strip() for name in header], file)
    if not text.strip():
        raise GalleryError(f"{file}: empty")
    content = text.encode("utf-8", "replace")
    parse = pyarrow.csv.ParseOptions(delimiter=delimiter)
    read = pyarrow.csv.ReadOptions(column_names=names, skip_rows=1, block_size=max(1 << 20, len(content)))
    as_text = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    typed = pyarrow.csv.ConvertOptions(null_values=[*pyarrow.csv.ConvertOptions().null_values, *MISSING])
    if not text.partition("\n")[2].strip():  # no rows
        return pa.table({name: pa.array([], pa.string()) for name in names if name[0] != "\0"})
    inferred = pyarrow.csv.read_csv(io.BytesIO(content), read, parse, typed)
    written = pyarrow.csv.read_csv(io.BytesIO(content), read, parse, as_text)
    columns = {}
    for name in names:
        column = inferred.column(name)
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            pattern = _NOT_AN_INTEGER if pa.types.is_integer(column.type) else _NOT_A_FLOAT
            changed = pc.match_substring_regex(written.column(name), pattern)
            if pc.any(changed).as_py():
                column = written.column(name)
        elif pa.types.is_string(column.type) or name == "file_name":
            column = written.column(name)
        if not name.startswith("\0"):
            columns[name] = column
    return pa.table(columns)


def _read_json_lines(text: str, file: Path) -> pa.Table:
    rows, large = [], set()
    names: dict[str, None] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=lambda _: None)
        except (ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise GalleryError(f"{file}: line {number}: not JSON ({reason})") from error
        if not isinstance(row, dict):
            raise GalleryError(f"{file}: line {number}: not an object")
        if any(_depth(value, MAX_DEPTH) > MAX_DEPTH for value in row.values()):
            raise GalleryError(f"{file}: line {number}: nested too deeply")
        large |= {name for name, value in row.items() if type(value) is int and not -(2**63) <= value < 2**63}
        names |= dict.fromkeys(row)
        rows.append(row)
    if not rows:
        raise GalleryError(f"{file}: empty")
    renamed = dict(zip(names, _names([name.strip() for name in names], file), strict=True))
    content = io.StringIO()
    for row in rows:
        kept = {
            renamed[name]: str(value) if name in large and type(value) in (int, float) else value
            for name, value in row.items()
            if renamed[name][0] != "\0"
        }
        content.write(json.dumps(kept) + "\n")
    data = content.getvalue().encode("utf-8", "replace")
    return pyarrow.json.read_json(io.BytesIO(data), pyarrow.json.ReadOptions(block_size=max(1 << 20, len(data))))


def _names(names: list[str], file: Path) -> list[str]:
    """The names of columns; one without a name gets a unique name that begins with a NUL character."""
    if repeated := next((name for name in names if name and names.count(name) > 1), None):
        raise GalleryError(f"{file}: column {repeated!r} occurs twice")
    unnamed = names.count("")
    if unnamed:
        columns = "a column" if unnamed == 1 else f"{unnamed} columns"
        warnings.warn(f"{printable_path(file)}: {columns} without a name ignored", stacklevel=4)
    return [name or f"\0{number}" for number, name in enumerate(names)]


def _depth(value: Any, limit: int) -> int:
    """Levels of lists and objects, counted up to one above a limit."""
    if limit < 0 or not isinstance(value, list | dict):
        return 0
    items = value.values() if isinstance(value, dict) else value
    return 1 + max((_depth(item, limit - 1) for item in items), default=0)


def _with_nulls(column: pa.ChunkedArray) -> pa.ChunkedArray:
    missing = pc.is_in(pc.utf8_trim_whitespace(column), pa.array(MISSING))
    return pc.if_else(missing, pa.scalar(None, pa.string()), column)


__all__ = ["METADATA", "MISSING", "decode_text", "is_metadata", "read_table"]
