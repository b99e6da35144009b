"""Annotation files of the public layouts: found, parsed and checked field by field, with every fault counted.

The layouts differ in file names, in one key and in what they leave out; each says so in a [`Layout`] of its own file.
"""

import codecs
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from json.decoder import WHITESPACE
from pathlib import Path
from typing import Any, TextIO

from dataset_pvlg.readers.report import ReadReport, SourceError
from modeling_rogle.sentences import split_sentences

MAX_SOURCE_ID = 1_000_000  # exclusive, of the ids in an annotation file
SPLIT_NAMES = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
_NUMBER = re.compile(r"\s*[0-9]{1,9}\s*")

Entries = list[tuple[str, Any]]  # ("file.json: record 17", the record as parsed)
_AT_ONCE = 2**20  # characters of a JSON list that are looked at together
_DECODER = json.JSONDecoder()


def load_records(file: Path, report: ReadReport) -> Iterator[tuple[str, Any]]:
    """The records of a JSON list with their places in it, one after the other: the list is never parsed as a whole.

    Raises:
        SourceError: (while it is read) see [`read_json`] and [`record_list`].
    """
    count, whole = 0, False
    try:
        with open(file, encoding="utf-8") as text:
            for entry in _elements(text):
                yield f"{file.name}: record {count}", entry
                count += 1
        whole = count > 0
    except (OSError, ValueError, RecursionError):
        pass
    if not whole:  # a mark at its start, no list, an empty one, or broken: who reads all of it can say what and where
        yield from one_by_one(record_list(read_json(file, report), file)[count:])


def _elements(text: TextIO) -> Iterator[Any]:
    """The elements of a JSON list. Raises ValueError where this is none, after those before the fault."""
    waiting = text.read(_AT_ONCE)
    at = _after_blanks(waiting, 0)
    if not waiting.startswith("[", at):
        raise ValueError("not a list")
    at, may_end = at + 1, True
    while True:
        start = _after_blanks(waiting, at)
        if may_end and waiting.startswith("]", start):
            rest = waiting[start + 1 :] + text.read()
            if _after_blanks(rest, 0) < len(rest):
                raise ValueError("something after the list")
            return
        try:
            entry, end = _DECODER.raw_decode(waiting, start)
            end = _after_blanks(waiting, end)
            mark = waiting[end : end + 1]
            if mark not in (",", "]"):  # a number may go on in what is not read yet
                raise ValueError("no end of an element")
        except ValueError:
            more = text.read(max(_AT_ONCE, len(waiting) - at))  # a long element must not be parsed a hundred times
            if not more:
                raise
            waiting, at = waiting[at:] + more, 0
            continue
        yield entry
        at, may_end = end + (mark == ","), mark == "]"


def _after_blanks(text: str, start: int) -> int:
    return WHITESPACE.match(text, start).end()


def one_by_one(entries: Entries) -> Iterator[tuple[str, Any]]:
    """A list's entries, each let go when the next is asked for: parsed JSON is several times as large as what is kept
    of it."""
    for index in range(len(entries)):
        entry, entries[index] = entries[index], None
        yield entry


@dataclass(frozen=True)
class Layout:
    """What one public layout does in its own way."""

    source: str
    folders: tuple[str, ...]  # names of the folder that a root may hold it in
    files: tuple[str, ...]  # annotation files in order of preference; a pattern is used if it matches exactly one file
    camera: Callable[[str], str | None]  # from the relative path of an image
    path_field: str = "file_path"
    load: Callable[[Path, ReadReport], Iterable[tuple[str, Any]]] = load_records
    hold_out: tuple[str, ...] = ()  # splits that the source lacks, held out of train by identity
    image_folders: tuple[str, ...] = ("imgs",)  # beside the annotation file, where image paths may start
    needs_captions: bool = True
    find: Callable[[Path], Path] | None = None  # the source in a folder, where names do not tell
    foreign: Mapping[str, str] = field(default_factory=dict)  # annotation files refused here -> whose they are
    one_numbering: bool = False  # an id means the same person in every split; the public sets may number each from 0
    first_folder_may_lack: bool = True  # a path may begin with a folder that the image root does not have
    check: Callable[[Iterable["Record"], ReadReport], None] | None = None  # may go through the records several times


@dataclass(slots=True)
class Record:
    """One checked annotation."""

    where: str  # "file.json: record 17", for messages
    split: str
    person: int
    path_field: str
    name: str  # of the image, as written and later as found
    captions: list[str]
    camera: str | None = None  # where the record itself says so
    origin: str | None = None  # the set that a record of UFine3C was taken from
    regions: list[dict[str, Any]] = field(default_factory=list)
    path: Path | None = None  # of the image file, once found

    @property
    def image_where(self) -> str:
        return f"{self.where}: field {self.path_field!r}: {self.name!r}"


def find_annotations(layout: Layout, root: Path) -> Path:
    """The annotation file: `root` itself if it is a file, else the first of the layout's names in it.

    Raises:
        SourceError: there is none, several of which one is meant, or another layout's; the message lists what was
            looked for.
    """
    if root.is_file():
        if root.name in layout.foreign:
            raise SourceError(f"{root}: is a file of {layout.foreign[root.name]}, not of {layout.source}")
        return root
    if not root.is_dir():
        raise SourceError(f"{root}: no such file or folder (source {layout.source})")
    if layout.find:
        return layout.find(root)
    refused, several = [], []
    above = [root.parent] if root.name == "annotations" else []  # "annotations/train.json" is looked for from above
    for folder in (root, *(root / name for name in layout.folders), *above):
        for pattern in layout.files:
            found = sorted(path for path in folder.glob(pattern) if path.is_file())
            refused += [path for path in found if path.name in layout.foreign]
            found = [path for path in found if path.name not in layout.foreign]
            if len(found) == 1:
                return found[0]
            several = several or [path.name for path in found]
    hint = f"; {refused[0].name} is a file of {layout.foreign[refused[0].name]}" if refused else ""
    hint += f"; name one of {', '.join(several[:5])} as the source" if several else ""
    raise SourceError(f"{root}: no annotation file of {layout.source} (looked for {', '.join(layout.files)}){hint}")


def read_json(file: Path, report: ReadReport) -> Any:
    """What a JSON file holds. A byte order mark is survived and counted.

    Raises:
        SourceError: not UTF-8 or not JSON; the message names line and byte.
    """
    text, size = read_text(file, report)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        cut_off = error.msg.startswith("Unterminated") or error.pos >= len(text.rstrip())
        byte = len(text[: error.pos].encode())
        raise SourceError(
            f"{file}: not valid JSON at line {error.lineno}, byte {byte} of {size} ({error.msg})"
            + ("; the file looks cut off" if cut_off else "")
        ) from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number with thousands of digits
        raise SourceError(f"{file}: not readable JSON ({error})") from error


def read_text(file: Path, report: ReadReport) -> tuple[str, int]:
    """The text of a UTF-8 file and its size in bytes, without a byte order mark (which is counted).

    Raises:
        SourceError: it cannot be read or is not UTF-8.
    """
    try:
        content = file.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise SourceError(f"{file}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise SourceError(f"{file}: not UTF-8 text at byte {error.start}") from error
    if content.startswith(codecs.BOM_UTF8):
        report.repair("byte order mark at the start of the file", file.name)
    return text, len(content)


def record_list(content: Any, file: Path) -> Entries:
    """The records of a parsed file with their places in it.

    Raises:
        SourceError: not a list, or an empty one.
    """
    if not isinstance(content, list):
        keys = f" with keys {sorted(content)[:5]}" if isinstance(content, dict) else ""
        raise SourceError(f"{file}: a list of records is expected, this is a {type(content).__name__}{keys}")
    if not content:
        raise SourceError(f"{file}: the list of records is empty")
    return [(f"{file.name}: record {index}", entry) for index, entry in enumerate(content)]


def parse_record(where: str, entry: Any, layout: Layout, report: ReadReport) -> Record | None:
    """Checks the fields of one record; None and a count if one of them is past repair."""
    if not isinstance(entry, dict):
        report.skip("record is not an object", f"{where}: {type(entry).__name__}")
        return None
    for name in ("split", "id", layout.path_field, *(["captions"] if layout.needs_captions else [])):
        if entry.get(name) is None:
            report.skip(f"field '{name}' missing", f"{where}: field {name!r} missing")
            return None
    split = SPLIT_NAMES.get(entry["split"].strip().lower()) if isinstance(entry["split"], str) else None
    if split is None:
        report.skip("field 'split' names no split", f"{where}: field 'split': {entry['split']!r}")
        return None
    person = person_number(entry["id"])
    if isinstance(entry["id"], str) and person is not None:
        report.repair("id given as a string", f"{where}: field 'id': {entry['id']!r}")
    if isinstance(entry["id"], int) and entry["id"] < 0:
        report.skip("field 'id' marks junk or a distractor", f"{where}: field 'id': {entry['id']!r}")
        return None
    if person is None:
        report.skip("field 'id' is not a number of a person", f"{where}: field 'id': {entry['id']!r}")
        return None
    name = entry[layout.path_field]
    if not isinstance(name, str) or not name.strip() or encodable(name) != name:
        report.skip(f"field '{layout.path_field}' is not a path", f"{where}: field {layout.path_field!r}: {name!r}")
        return None
    captions = _captions(entry.get("captions") or [], where, report)
    if not captions and layout.needs_captions:
        report.skip("no caption left", f"{where}: field 'captions': {str(entry['captions'])[:60]!r}")
        return None
    regions = entry.get("regions") or []
    if not isinstance(regions, list):
        report.drop("field 'regions' is not a list", f"{where}: field 'regions': {type(regions).__name__}")
        regions = []
    return Record(
        where=where,
        split=split,
        person=person,
        path_field=layout.path_field,
        name=name,
        captions=captions,
        camera=_word(entry.get("camera")),
        origin=_word(entry.get("source")),
        regions=regions,
    )


def person_number(value: Any) -> int | None:
    """The identity that a field `id` gives, or None: -1 and the like mark junk and distractors."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_SOURCE_ID:
        return None
    return value


def held_out(people: Collection[int], source: str, splits: Sequence[str], share: float) -> dict[int, str]:
    """Identities taken out of training for splits that a source lacks, by a hash of their id: the same everywhere.

    Args:
        people: the training identities.
        splits: the splits to fill; each gets `share` of the identities, at least one, as long as training keeps one.

    Returns:
        identity -> split, of those held out.
    """
    count = max(1, round(share * len(people)))
    order = sorted(people, key=lambda person: hashlib.sha256(f"{source}/{person}".encode()).hexdigest())
    if len(people) <= count * len(splits):
        return {}
    return {person: split for n, split in enumerate(splits) for person in order[n * count : (n + 1) * count]}


def _word(value: Any) -> str | None:
    """A short text of a record (its camera) as a string, None if it has none."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return encodable(str(value)).strip()[:64] or None


def _captions(value: Any, where: str, report: ReadReport) -> list[str]:
    if isinstance(value, str):
        report.repair("captions given as a string", f"{where}: field 'captions' is a string, not a list")
        value = [value]
    captions = []
    for caption in value if isinstance(value, list) else [value]:
        if not isinstance(caption, str):
            report.drop("caption is not text", f"{where}: field 'captions': {type(caption).__name__}")
        elif not split_sentences(caption):
            report.drop("caption is empty", f"{where}: field 'captions': {caption[:40]!r}")
        else:
            clean = encodable(caption)
            if clean != caption:
                report.repair("caption holds half a character", f"{where}: field 'captions'")
            captions.append(clean)
    return captions


def encodable(text: str) -> str:
    """JSON may hold lone surrogates, which no UTF-8 column takes."""
    return text.encode("utf-8", "replace").decode("utf-8")
