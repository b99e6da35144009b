"""Annotation files of the public layouts: found, parsed and checked field by field, with every fault counted.

The layouts differ in file names, in one key and in what they leave out; each says so in a [`Layout`] of its own file.
"""

import codecs
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataset_pvlg.sources.report import ReadReport, SourceError
from modeling_rogle.sentences import split_sentences

MAX_SOURCE_ID = 1_000_000  # exclusive, of the ids in an annotation file
SPLIT_NAMES = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}


@dataclass(frozen=True)
class Layout:
    """What one public layout does in its own way."""

    source: str
    folders: tuple[str, ...]  # names of the folder that a root may hold it in
    files: tuple[str, ...]  # annotation files in order of preference; a pattern is used if it matches exactly one file
    camera: Callable[[str], str | None]  # from the relative path of an image
    path_field: str = "file_path"
    hold_out_validation: bool = False  # the source has no validation split
    without_split: str = ""  # what to do about a file in which no record has a split
    foreign: Mapping[str, str] = field(default_factory=dict)  # annotation files refused here -> whose they are
    check: Callable[[dict[str, tuple[int, int]], ReadReport], None] | None = None  # gets identities, images by split


@dataclass
class Record:
    """One checked annotation."""

    where: str  # "file.json: record 17", for messages
    split: str
    person: int
    path_field: str
    name: str  # of the image, as written and later as found
    captions: list[str]
    regions: list[dict[str, Any]] = field(default_factory=list)
    path: Path | None = None  # of the image file, once found

    @property
    def image_where(self) -> str:
        return f"{self.where}: field {self.path_field!r}: {self.name!r}"


def find_annotations(layout: Layout, root: Path) -> Path:
    """The annotation file: `root` itself if it is a file, else the first of the layout's names in it.

    Raises:
        SourceError: there is none, or another layout's; the message lists what was looked for.
    """
    if root.is_file():
        if root.name in layout.foreign:
            raise SourceError(f"{root}: is a file of {layout.foreign[root.name]}, not of {layout.source}")
        return root
    if not root.is_dir():
        raise SourceError(f"{root}: no such file or folder (source {layout.source})")
    refused = []
    for folder in (root, *(root / name for name in layout.folders)):
        for pattern in layout.files:
            found = sorted(path for path in folder.glob(pattern) if path.is_file())
            refused += [path for path in found if path.name in layout.foreign]
            found = [path for path in found if path.name not in layout.foreign]
            if len(found) == 1:
                return found[0]
    hint = f"; {refused[0].name} is a file of {layout.foreign[refused[0].name]}" if refused else ""
    raise SourceError(f"{root}: no annotation file of {layout.source} (looked for {', '.join(layout.files)}){hint}")


def load_records(file: Path, report: ReadReport) -> list[Any]:
    """The list in a JSON file. A byte order mark is survived and counted.

    Raises:
        SourceError: not UTF-8, not JSON (the message names line and byte), not a list, or an empty one.
    """
    content = file.read_bytes()
    if content.startswith(codecs.BOM_UTF8):
        report.repair("byte order mark at the start of the file", file.name)
    try:
        text = content.decode("utf-8-sig")
        entries = json.loads(text)
    except UnicodeDecodeError as error:
        raise SourceError(f"{file}: not UTF-8 text at byte {error.start}") from error
    except json.JSONDecodeError as error:
        cut_off = error.msg.startswith("Unterminated") or error.pos >= len(text.rstrip())
        byte = len(text[: error.pos].encode())
        raise SourceError(
            f"{file}: not valid JSON at line {error.lineno}, byte {byte} of {len(content)} ({error.msg})"
            + ("; the file looks cut off" if cut_off else "")
        ) from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number with thousands of digits
        raise SourceError(f"{file}: not readable JSON ({error})") from error
    if not isinstance(entries, list):
        keys = f" with keys {sorted(entries)[:5]}" if isinstance(entries, dict) else ""
        raise SourceError(f"{file}: a list of records is expected, this is a {type(entries).__name__}{keys}")
    if not entries:
        raise SourceError(f"{file}: the list of records is empty")
    report.records = len(entries)
    return entries


def parse_record(entry: Any, index: int, layout: Layout, file: Path, report: ReadReport) -> Record | None:
    """Checks the fields of one record; None and a count if one of them is past repair."""
    where = f"{file.name}: record {index}"
    if not isinstance(entry, dict):
        report.skip("record is not an object", f"{where}: {type(entry).__name__}")
        return None
    for name in ("split", "id", layout.path_field, "captions"):
        if entry.get(name) is None:
            report.skip(f"field '{name}' missing", f"{where}: field {name!r} missing")
            return None
    split = SPLIT_NAMES.get(entry["split"].strip().lower()) if isinstance(entry["split"], str) else None
    if split is None:
        report.skip("field 'split' names no split", f"{where}: field 'split': {entry['split']!r}")
        return None
    person = entry["id"]
    if isinstance(person, str) and re.fullmatch(r"\s*[0-9]{1,9}\s*", person):
        person = int(person)
        report.repair("id given as a string", f"{where}: field 'id': {entry['id']!r}")
    if isinstance(person, bool) or not isinstance(person, int) or not 0 <= person < MAX_SOURCE_ID:
        report.skip("field 'id' is not a number of a person", f"{where}: field 'id': {entry['id']!r}")
        return None
    name = entry[layout.path_field]
    if not isinstance(name, str) or not name.strip() or _encodable(name) != name:
        report.skip(f"field '{layout.path_field}' is not a path", f"{where}: field {layout.path_field!r}: {name!r}")
        return None
    captions = _captions(entry["captions"], where, report)
    if not captions:
        report.skip("no caption left", f"{where}: field 'captions': {str(entry['captions'])[:60]!r}")
        return None
    regions = entry.get("regions") or []
    if not isinstance(regions, list):
        report.drop("field 'regions' is not a list", f"{where}: field 'regions': {type(regions).__name__}")
        regions = []
    return Record(where, split, person, layout.path_field, name, captions, regions)


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
            clean = _encodable(caption)
            if clean != caption:
                report.repair("caption holds half a character", f"{where}: field 'captions'")
            captions.append(clean)
    return captions


def _encodable(text: str) -> str:
    """JSON may hold lone surrogates, which no UTF-8 column takes."""
    return text.encode("utf-8", "replace").decode("utf-8")
