"""Requests: what a user asks for in one search. Read from a file of many queries, and answered one at a time."""

import csv
import io
import json
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeling_rogle.search.gallery import Gallery
from modeling_rogle.search.grouping import COPIES_ONLY, Grouping
from modeling_rogle.search.results import Matches
from modeling_rogle.sentences import query_sentences

FIELDS = ("query", "image", "where")


@dataclass(frozen=True)
class Request:
    """One search.

    Attributes:
        query: description of a person; may be empty if there is an image.
        image: file of an image of the person, or None.
        where: filter, see `filters.py`, or None.
    """

    query: str = ""
    image: str | None = None
    where: str | None = None


@dataclass(frozen=True)
class Answer:
    """The result of a request.

    Attributes:
        request: the request.
        matches: the results, best first; None if the search failed.
        notes: warnings of the search, one line each.
        error: why the search failed, in one line; None otherwise.
        like: path of the result whose image was searched for instead; None for the request itself.
    """

    request: Request
    matches: Matches | None
    notes: tuple[str, ...] = ()
    error: str | None = None
    like: str | None = None


def read_requests(path: str | Path) -> list[Request]:
    """Reads a file of queries.

    Args:
        path: a CSV file (`.csv`) or JSON lines (`.jsonl`) with the fields `query`, `image` and `where`, of which a row
            needs `query` or `image`; images are relative to the file. Any other file holds one description a line.
            Empty lines are skipped.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file has no queries, is not UTF-8 text, or a row is invalid; file, line and field are named.

    Warns:
        UserWarning: the file has other fields, which are ignored.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    rows: Iterable[tuple[int, dict[str, Any]]]
    if path.suffix.lower() == ".csv":
        rows = _csv_rows(path, text)
    elif path.suffix.lower() in (".jsonl", ".ndjson"):
        rows = _json_rows(path, text)
    else:
        rows = ((number, {"query": line}) for number, line in enumerate(text.splitlines(), 1) if line.strip())
    requests, ignored = [], set()
    for number, row in rows:
        requests.append(_request(path, number, row))
        ignored |= set(row) - set(FIELDS)
    if not requests:
        raise ValueError(f"{path}: no queries in this file")
    if ignored:
        warnings.warn(f"{path}: ignored fields {', '.join(sorted(ignored))}", stacklevel=2)
    return requests


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                if not {"query", "image"} & set(header):
                    raise ValueError(f"{path}: no column 'query' or 'image'; it has {', '.join(header)}")
                if len(set(header)) < len(header):
                    raise ValueError(f"{path}: a column occurs twice in {', '.join(header)}")
            elif len(cells) != len(header):
                line = f"{path}, line {reader.line_num}"
                raise ValueError(f"{line}: {len(cells)} fields, the header has {len(header)}; quote a text with commas")
            else:
                yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not CSV ({error})") from error


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: not an object with the fields {', '.join(FIELDS)}")
        yield number, row


def _request(path: Path, number: int, row: dict[str, Any]) -> Request:
    for name in FIELDS:
        if not isinstance(row.get(name), str | None):
            raise ValueError(f"{path}, line {number}: field {name!r} is not text")
    query, image, where = ((row.get(name) or "").strip() for name in FIELDS)
    if query and not query_sentences(query)[0]:
        raise ValueError(f"{path}, line {number}: field 'query': no words in it")
    if not query and not image:
        raise ValueError(f"{path}, line {number}: field 'query': empty; a row needs a description or an image")
    return Request(query, str(path.parent / image) if image else None, where or None)


def answer(
    gallery: Gallery,
    request: Request,
    top_k: int = 10,
    local_weight: float | None = None,
    like: int | None = None,
    grouping: Grouping = COPIES_ONLY,
) -> Answer:
    """Searches, and collects warnings and errors instead of showing them.

    Args:
        gallery: the gallery.
        request: the request.
        top_k: number of results. Default: 10.
        local_weight: weight of the local score, in [0, 1]. Default: the model's own.
        like: number of a result of the request, from 1, whose image is then searched for; it is no result itself.
            Default: none.
        grouping: what becomes one result. Default: exact copies only.
    """
    source = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            depth = max(top_k, like or 0)
            options: dict[str, Any] = {"local_weight": local_weight, "where": request.where}
            options |= {"group": grouping.similar, "group_by": grouping.column}
            matches = gallery.search(request.query, depth, image=request.image, **options)
            if like is not None:
                if not 1 <= like <= len(matches):
                    raise ValueError(f"no result {like}, the search has {len(matches)}")
                source = matches[like - 1].path
                matches = gallery.search(top_k=top_k, like=source, **options)
        except (ValueError, OSError) as error:
            return Answer(request, None, _lines(caught), _first_line(error), source)
    return Answer(request, matches, _lines(caught), None, source)


def _lines(caught: Iterable[warnings.WarningMessage]) -> tuple[str, ...]:
    lines = (str(item.message) for item in caught if issubclass(item.category, UserWarning))
    return tuple(dict.fromkeys(lines))


def _first_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error).strip().split("\n")[0] or type(error).__name__


__all__ = ["Answer", "Request", "answer", "read_requests"]
