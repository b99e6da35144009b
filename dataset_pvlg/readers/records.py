"""Annotation files of the public layouts: found, parsed, and checked field by field. Every fault is counted.

The layouts differ in file names, in one key, and in what they leave out. Each file of this package describes its own
differences with a [`Layout`].
"""

import codecs
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from dataset_pvlg.readers.report import ReadReport, SourceError
from modeling_rogle.indexing.metadata_tables import MISSING, decode_text
from modeling_rogle.inference.untrusted import parse_json
from modeling_rogle.sentences import split_sentences

MAX_SOURCE_ID = 1_000_000  # exclusive limit of the ids in an annotation file
MISSING_VALUES = {"", *(value.casefold() for value in MISSING)}  # how tables of other programs write no value
MAX_LIST_TEXT = 100_000  # characters of a caption that is read as the text of a list
_QUOTED = re.compile(r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)\"""")
SPLIT_NAMES = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
_NUMBER = re.compile(r"\s*[0-9]{1,9}\s*")
_JSON_WHITESPACE = re.compile(r"[ \t\n\r]*")

Entries = list[tuple[str, Any]]  # ("file.json: record 17", the record as parsed)
_CHARACTERS_AT_ONCE = 2**20  # characters of a JSON list that are parsed together
_DECODER = json.JSONDecoder()


def load_records(file: Path, report: ReadReport) -> Iterator[tuple[str, Any]]:
    """Read the records of a JSON list one after the other, so that the list is never in memory as a whole.

    Args:
        file (`Path`): the JSON file.
        report (`ReadReport`): counts a byte order mark.

    Yields:
        `tuple[str, Any]`: the location of the record for messages, and the record.

    Raises:
        SourceError: see [`read_json`] and [`record_list`].
    """
    count, is_complete = 0, False
    try:
        with open(file, encoding="utf-8") as text:
            for entry in _list_elements(text):
                yield f"{file.name}: record {count}", entry
                count += 1
        is_complete = count > 0
    except (OSError, ValueError, RecursionError):
        pass
    if not is_complete:  # a byte order mark, no list, an empty list, or a fault that parsing the whole file locates
        yield from consume(record_list(read_json(file, report), file)[count:])


def _list_elements(text: TextIO) -> Iterator[Any]:
    """The elements of a JSON list. Raises ValueError at a fault, after the elements before it."""
    buffer = text.read(_CHARACTERS_AT_ONCE)
    position = _skip_whitespace(buffer, 0)
    if not buffer.startswith("[", position):
        raise ValueError("not a list")
    position, may_end = position + 1, True
    while True:
        start = _skip_whitespace(buffer, position)
        if may_end and buffer.startswith("]", start):
            rest = buffer[start + 1 :] + text.read()
            if _skip_whitespace(rest, 0) < len(rest):
                raise ValueError("text after the list")
            return
        try:
            entry, end = _DECODER.raw_decode(buffer, start)
            end = _skip_whitespace(buffer, end)
            mark = buffer[end : end + 1]
            if mark not in (",", "]"):  # a number may continue in the unread text
                raise ValueError("no end of an element")
        except ValueError:
            # At least doubles the buffer, so that a long element is not parsed many times.
            more = text.read(max(_CHARACTERS_AT_ONCE, len(buffer) - position))
            if not more:
                raise
            buffer, position = buffer[position:] + more, 0
            continue
        yield entry
        position, may_end = end + (mark == ","), mark == "]"


def _skip_whitespace(text: str, start: int) -> int:
    match = _JSON_WHITESPACE.match(text, start)
    return match.end() if match else start


def consume(entries: Entries) -> Iterator[tuple[str, Any]]:
    """The entries of a list. Each is released when the next is requested, because parsed JSON is large."""
    for index in range(len(entries)):
        entry, entries[index] = entries[index], ("", None)
        yield entry


@dataclass(frozen=True)
class Layout:
    """How one data set is laid out on disk.

    Args:
        source (`str`): name of the source.
        folders (`tuple[str, ...]`): names of the data set's folder inside a root.
        files (`tuple[str, ...]`): annotation files in order of preference. A pattern must match exactly one file.
        camera (`Callable`): relative path of an image -> name of the camera, or None.
        path_field (`str`): field with the path of the image.
        load (`Callable`): annotation file and report -> locations and records.
        held_out_splits (`tuple[str, ...]`): splits that the source lacks, held out of train by identity.
        image_folders (`tuple[str, ...]`): folders beside the annotation file that image paths may be relative to.
        needs_captions (`bool`): whether a record without captions is skipped.
        find_file (`Callable`, *optional*): folder -> annotation file, if `files` cannot describe it.
        foreign_files (`Mapping[str, str]`): annotation files that are refused -> their source.
        ids_span_splits (`bool`): whether an id means the same person in every split. The public sets may number each
            split from 0.
        first_folder_optional (`bool`): whether a path may begin with a folder that the image root does not have.
        check (`Callable`, *optional*): checks of all records, which may be iterated several times.
    """

    source: str
    folders: tuple[str, ...]
    files: tuple[str, ...]
    camera: Callable[[str], str | None]
    path_field: str = "file_path"
    load: Callable[[Path, ReadReport], Iterable[tuple[str, Any]]] = load_records
    held_out_splits: tuple[str, ...] = ()
    image_folders: tuple[str, ...] = ("imgs",)
    needs_captions: bool = True
    find_file: Callable[[Path], Path] | None = None
    foreign_files: Mapping[str, str] = field(default_factory=dict)
    ids_span_splits: bool = False
    first_folder_optional: bool = True
    check: Callable[[Iterable["Record"], ReadReport], None] | None = None


@dataclass(slots=True)
class Record:
    """One checked annotation.

    Args:
        location (`str`): the location for messages, as "file.json: record 17".
        split (`str`): one of `SPLITS`.
        person (`int`): the source's id of the identity.
        path_field (`str`): field with the path of the image.
        name (`str`): path of the image as written, later as it exists.
        captions (`list[str]`): the captions of the source.
        camera (`str`, *optional*): the camera, if the record has a field for it.
        origin (`str`, *optional*): the set that a record of UFine3C was taken from.
        regions (`list[dict[str, Any]]`): human regions.
        path (`Path`, *optional*): the image file, once it was found.
    """

    location: str
    split: str
    person: int
    path_field: str
    name: str
    captions: list[str]
    camera: str | None = None
    origin: str | None = None
    regions: list[dict[str, Any]] = field(default_factory=list)
    path: Path | None = None

    @property
    def image_location(self) -> str:
        """The location with the field and name of the image, for messages."""
        return f"{self.location}: field {self.path_field!r}: {self.name!r}"


def find_annotations(layout: Layout, root: Path) -> Path:
    """The annotation file of a source.

    Args:
        layout (`Layout`): the source.
        root (`Path`): the annotation file itself, or the folder that is searched.

    Raises:
        SourceError: there is no such file, there are several, or it belongs to another layout. The message lists the
            names that were tried.
    """
    if root.is_file():
        if root.name in layout.foreign_files:
            raise SourceError(f"{root}: is a file of {layout.foreign_files[root.name]}, not of {layout.source}")
        return root
    if not root.is_dir():
        raise SourceError(f"{root}: no such file or folder (source {layout.source})")
    if layout.find_file:
        return layout.find_file(root)
    refused: list[Path] = []
    several: list[str] = []
    above = [root.parent] if root.name == "annotations" else []  # "annotations/train.json" is relative to the parent
    for folder in (root, *(root / name for name in layout.folders), *above):
        for pattern in layout.files:
            matches = sorted(path for path in folder.glob(pattern) if path.is_file())
            refused += [path for path in matches if path.name in layout.foreign_files]
            matches = [path for path in matches if path.name not in layout.foreign_files]
            if len(matches) == 1:
                return matches[0]
            several = several or [path.name for path in matches]
    hint = f"; {refused[0].name} is a file of {layout.foreign_files[refused[0].name]}" if refused else ""
    hint += f"; name one of {', '.join(several[:5])} as the source" if several else ""
    raise SourceError(f"{root}: no annotation file of {layout.source} (looked for {', '.join(layout.files)}){hint}")


def read_json(file: Path, report: ReadReport) -> Any:
    """The content of a JSON file. A byte order mark is accepted and counted.

    Raises:
        SourceError: the file is not UTF-8 or not JSON; the message names line and byte.
    """
    text, size = read_text(file, report)
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        cut_off = error.msg.startswith("Unterminated") or error.pos >= len(text.rstrip())
        byte = len(text[: error.pos].encode())
        raise SourceError(
            f"{file}: not valid JSON at line {error.lineno}, byte {byte} of {size} ({error.msg})"
            + ("; the file looks cut off" if cut_off else "")
        ) from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number with thousands of digits
        raise SourceError(f"{file}: not readable JSON ({error})") from error


def read_text(file: Path, report: ReadReport, other_encodings: bool = False) -> tuple[str, int]:
    """The text of a UTF-8 file and its size in bytes. A byte order mark is removed and counted.

    Args:
        file (`Path`): the file.
        report (`ReadReport`): counts a byte order mark or another encoding.
        other_encodings (`bool`): whether UTF-16 and cp1252, in which spreadsheets write tables, are read too.

    Raises:
        SourceError: the file cannot be read or is not UTF-8.
    """
    try:
        content = file.read_bytes()
        if other_encodings:
            text, encoding = decode_text(content)
            if encoding != "UTF-8":
                report.repair(f"file read as {encoding}, because it is not UTF-8", file.name)
        else:
            text = content.decode("utf-8-sig")
    except OSError as error:
        raise SourceError(f"{file}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise SourceError(f"{file}: not UTF-8 text at byte {error.start}") from error
    if content.startswith(codecs.BOM_UTF8):
        report.repair("byte order mark at the start of the file", file.name)
    return text, len(content)


def record_list(content: Any, file: Path) -> Entries:
    """The records of a parsed file with their locations.

    Raises:
        SourceError: `content` is not a list, or is empty.
    """
    if not isinstance(content, list):
        keys = f" with keys {sorted(content)[:5]}" if isinstance(content, dict) else ""
        raise SourceError(f"{file}: a list of records is expected, this is a {type(content).__name__}{keys}")
    if not content:
        raise SourceError(f"{file}: the list of records is empty")
    return [(f"{file.name}: record {index}", entry) for index, entry in enumerate(content)]


def parse_record(location: str, entry: Any, layout: Layout, report: ReadReport) -> Record | None:
    """Check the fields of one record.

    Args:
        location (`str`): the location for messages.
        entry: the record as parsed.
        layout (`Layout`): the source.
        report (`ReadReport`): counts what is skipped, dropped and repaired.

    Returns:
        `Record`, *optional*: None, and a count, if a field cannot be repaired.
    """
    if not isinstance(entry, dict):
        report.skip("record is not an object", f"{location}: {type(entry).__name__}")
        return None
    for name in ("split", "id", layout.path_field, *(["captions"] if layout.needs_captions else [])):
        if entry.get(name) is None:
            report.skip(f"field '{name}' missing", f"{location}: field {name!r} missing")
            return None
    split = SPLIT_NAMES.get(entry["split"].strip().lower()) if isinstance(entry["split"], str) else None
    if split is None:
        report.skip("field 'split' names no split", f"{location}: field 'split': {entry['split']!r}")
        return None
    person = parse_person(entry["id"])
    if isinstance(entry["id"], str) and person is not None:
        report.repair("id given as a string", f"{location}: field 'id': {entry['id']!r}")
    if isinstance(entry["id"], int | float) and entry["id"] < 0:
        report.skip("field 'id' marks junk or a distractor", f"{location}: field 'id': {entry['id']!r}")
        return None
    if person is None:
        report.skip("field 'id' is not a number of a person", f"{location}: field 'id': {entry['id']!r}")
        return None
    name = entry[layout.path_field]
    if not isinstance(name, str) or not name.strip() or encodable(name) != name:
        report.skip(f"field '{layout.path_field}' is not a path", f"{location}: field {layout.path_field!r}: {name!r}")
        return None
    captions = _parse_captions(entry.get("captions") or [], location, report)
    if not captions and layout.needs_captions:
        report.skip("no caption left", f"{location}: field 'captions': {str(entry['captions'])[:60]!r}")
        return None
    regions = entry.get("regions") or []
    if not isinstance(regions, list):
        report.drop("field 'regions' is not a list", f"{location}: field 'regions': {type(regions).__name__}")
        regions = []
    return Record(
        location=location,
        split=split,
        person=person,
        path_field=layout.path_field,
        name=name,
        captions=captions,
        camera=_short_text(entry.get("camera")),
        origin=_short_text(entry.get("source")),
        regions=regions,
    )


def parse_person(value: Any) -> int | None:
    """The identity in a field `id`, or None. Negative numbers mark junk and distractors, and give None too."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():  # pandas writes a column with gaps as floats
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_SOURCE_ID:
        return None
    return value


def hold_out(people: Collection[int], source: str, splits: Sequence[str], share: float) -> dict[int, str]:
    """Choose training identities for splits that a source lacks, by a hash of their id. The choice is deterministic.

    Args:
        people (`Collection[int]`): the training identities.
        source (`str`): name of the source, which is part of the hash.
        splits (`Sequence[str]`): the splits to fill.
        share (`float`): share of the identities for each split; at least one identity.

    Returns:
        `dict[int, str]`: held-out identity -> split. It is empty if no training identity would remain.
    """
    count = max(1, round(share * len(people)))
    order = sorted(people, key=lambda person: hashlib.sha256(f"{source}/{person}".encode()).hexdigest())
    if len(people) <= count * len(splits):
        return {}
    return {person: split for n, split in enumerate(splits) for person in order[n * count : (n + 1) * count]}


def _short_text(value: Any) -> str | None:
    """A short text of a record, such as its camera, as a string; None if there is none."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return encodable(str(value)).strip()[:64] or None


def _parse_captions(value: Any, location: str, report: ReadReport) -> list[str]:
    if isinstance(value, str):
        report.repair("captions given as a string", f"{location}: field 'captions' is a string, not a list")
        value = [value]
    captions: list[str] = []
    for caption in _listed_captions(value if isinstance(value, list) else [value], location, report):
        if isinstance(caption, str) and caption.strip() and caption.strip().casefold() in MISSING_VALUES:
            report.drop("caption is the name of a missing value", f"{location}: field 'captions': {caption[:40]!r}")
        elif not isinstance(caption, str):
            report.drop("caption is not text", f"{location}: field 'captions': {type(caption).__name__}")
        elif not split_sentences(caption):
            report.drop("caption is empty", f"{location}: field 'captions': {caption[:40]!r}")
        else:
            clean = encodable(caption)
            if clean != caption:
                report.repair("caption contains a lone surrogate", f"{location}: field 'captions'")
            captions.append(clean)
    return captions


def _listed_captions(captions: list[Any], location: str, report: ReadReport) -> Iterator[Any]:
    """The captions; one that is the text of a list, as pandas writes it to CSV, becomes the captions of the list."""
    for caption in captions:
        text = caption.strip() if isinstance(caption, str) else ""
        if not (text.startswith("[") and text.endswith("]") and len(text) <= MAX_LIST_TEXT):
            yield caption
            continue
        rest = _QUOTED.sub("", text[1:-1])
        if rest.strip(", \n"):  # something besides quoted texts: a caption in brackets
            yield caption
            continue
        report.repair("caption is the text of a list", f"{location}: field 'captions': {text[:40]!r}")
        for quoted in _QUOTED.finditer(text):
            yield re.sub(r"\\(.)", r"\1", quoted[1] if quoted[1] is not None else quoted[2])


def encodable(text: str) -> str:
    """The text with lone surrogates replaced, which JSON may contain but UTF-8 columns cannot store."""
    return text.encode("utf-8", "replace").decode("utf-8")
