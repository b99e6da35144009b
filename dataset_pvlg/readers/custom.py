"""One's own images: a folder of images, or a CSV, TSV, JSONL or JSON file of images and captions.

Columns (fields), the first name that is there:

- image: `file_name`, `file_path`, `image`, `path`; relative to the file's folder. Needed.
- captions: `captions`, `caption`, `text`; a list, or one text a row. Rows that name the same image are joined.
- identity: `person_id`, `id`; a number or a name (names are numbered in sorted order), the same person in every
  split. Without, each image is a person.
- `split`: train, val, test. If no row has one, a tenth of the identities each is held out as validation and test.
- `camera`; in JSON also `regions` (`{bbox: [x, y, w, h], label, sentence: its text}`).

In a folder the file may have any name, if it is the only one; of several, `metadata` with one of the suffixes is meant.
A folder without such a file gives rows without captions, to be written by a captioner. Its sub-folders `train`, `val`
and `test` name the split; names of Market-1501's and MSMT17's grammar tell identity and camera.
"""

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dataset_pvlg.readers.records import (
    MAX_SOURCE_ID,
    SPLIT_NAMES,
    Entries,
    Layout,
    held_out,
    one_by_one,
    person_number,
    read_json,
    read_text,
    record_list,
)
from dataset_pvlg.readers.report import ReadReport, SourceError
from modeling_rogle.indexing.image_folder import image_files

IMAGE_FIELDS = ("file_name", "file_path", "image", "path")
CAPTION_FIELDS = ("captions", "caption", "text")
PERSON_FIELDS = ("person_id", "id")
TABLES = (".json", ".jsonl", ".csv", ".tsv")
OTHER_FIELDS = ("split", "camera", "regions")
HELD_OUT = 0.1
LITTER = {".DS_Store", "Thumbs.db", "desktop.ini"}
# <person>_c<camera>s<sequence>_<frame>_<box>, <person>_<k>_<camera>_<date and time of day>_<frame>_<n>
_MARKET = re.compile(r"(?P<person>-?\d+)_c(?P<camera>\d)s\d+_\d+_\d+\.")
_MSMT17 = re.compile(r"(?P<person>\d+)_\d+_(?P<camera>\d+)_\d{4}(?:morning|noon|afternoon)_\d+_\d+")


def camera(name: str) -> str | None:
    """From names of Market-1501's and MSMT17's grammar; other names do not tell."""
    file = name.rsplit("/", 1)[-1]
    match = _MARKET.match(file) or _MSMT17.match(file)
    return f"c{int(match['camera'])}" if match else None


def find(folder: Path) -> Path:
    """The one annotation file of a folder, or the folder itself if it holds none.

    Raises:
        SourceError: several, of which one is meant.
    """
    tables = _tables(folder)
    named = [path for path in tables if path.stem.lower() == "metadata"]
    found = named or tables
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:5])
        raise SourceError(f"{folder}: {len(found)} annotation files; name one of {names} as the source")
    return found[0] if found else folder


def _tables(folder: Path) -> list[Path]:
    """Files beginning with a dot are the system's: macOS writes `._captions.csv` beside `captions.csv`."""
    found = (path for path in folder.iterdir() if path.suffix.lower() in TABLES and path.name[0] != ".")
    return sorted(path for path in found if path.is_file())


def load(file: Path, report: ReadReport) -> Iterator[tuple[str, Any]]:
    """Records as the public layouts have them, from any of the forms.

    Raises:
        SourceError: nothing in it, a header without an image column, a file that cannot be parsed at all, or a folder
            of images that holds annotation files deeper in it.
    """
    if file.is_dir():
        entries = _folder(file, report)
    elif file.suffix.lower() in (".csv", ".tsv"):
        entries = _table(file, report)
    elif file.suffix.lower() == ".jsonl":
        entries = _lines(file, report)
    elif file.suffix.lower() == ".json":
        entries = record_list(read_json(file, report), file)
    else:
        raise SourceError(f"{file}: a folder of images, or .csv, .tsv, .jsonl or .json is expected")
    if not entries:
        raise SourceError(f"{file}: no {'image' if file.is_dir() else 'row'} in it")
    entries = _by_image([(where, _renamed(entry)) for where, entry in entries], report)
    if file.stem.lower() == "metadata" and len(tables := _tables(file.parent)) > 1:
        others = ", ".join(path.name for path in tables if path != file)
        report.warn(f"{file.name} was read; what {others} beside it may say was not")
    _number_people(entries, report)
    _give_splits([entry for _, entry in entries if isinstance(entry, dict)], report)
    return one_by_one(entries)


def _folder(folder: Path, report: ReadReport) -> Entries:
    root = folder.resolve()
    names, refused, other = image_files(root)
    for each in refused:
        report.drop("file left out of the folder", f"{each.path}: {each.reason}")
    # Captions that lie deeper must not be lost without a word; folders without images are no concern of ours.
    parents = {str(Path(name).parent) for name in names} | {"annotations"}
    deeper = [path for parent in sorted(parents) if (root / parent).is_dir() for path in _tables(root / parent)]
    if deeper:
        raise SourceError(
            f"{folder}: annotations are looked for in the folder itself, and {deeper[0].relative_to(root).as_posix()} "
            f"lies deeper ({len(deeper)} such files); name the file as the source, or move it away to read images "
            "without captions"
        )
    litter = sum(path.name in LITTER for path in root.rglob("*"))
    if litter:
        report.drop("system file in the folder", ", ".join(sorted(LITTER)), litter)
    if other - litter > 0:
        report.drop("file that is no image by its suffix", folder.name, other - litter)
    in_splits = any(name.split("/")[0].lower() in SPLIT_NAMES for name in names if "/" in name)
    known = [_MARKET.match(name.rsplit("/", 1)[-1]) or _MSMT17.match(name.rsplit("/", 1)[-1]) for name in names]
    tell = all(known)  # one foreign name, and a number in another may mean anything
    entries: Entries = []
    for name, match in zip(names, known, strict=True):
        split = SPLIT_NAMES.get(name.split("/")[0].lower()) if in_splits and "/" in name else None
        person = _person(name, match) if tell and match else None
        entries.append((f"{folder.name}/{name}", {"file_path": name, "split": split, "person_id": person}))
    if tell and names:
        report.note("identity told by the file name", names[0], len(names))
    return entries


def _person(name: str, match: re.Match[str]) -> int | str:
    number, parent = int(match["person"]), name.rpartition("/")[0]
    if match.re is _MARKET:
        return number or -1  # 0000 are distractors, -1 is junk
    return f"{parent}/{number}" if parent else number  # MSMT17 counts from 0 in train and in test again


def _table(file: Path, report: ReadReport) -> Entries:
    text, _ = read_text(file, report)
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)  # Excel writes semicolons where the comma is decimal
    entries: Entries = []
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = [(name or "").strip().lower() for name in reader.fieldnames or ()]
        if not set(names) & set(IMAGE_FIELDS):
            raise SourceError(f"{file}: line 1: no column {', '.join(IMAGE_FIELDS)} in the header {names[:8]}")
        if twice := {name for name in names if name and names.count(name) > 1}:
            raise SourceError(f"{file}: line 1: column {sorted(twice)[0]!r} stands in the header twice")
        reader.fieldnames = names
        for row in reader:
            where = f"{file.name}: line {reader.line_num}"
            if None in row or any(value is None for value in row.values()):
                entries.append((where, "a row with more or fewer cells than the header"))
                continue
            entries.append((where, {name: value for name, value in row.items() if value.strip()}))
    except csv.Error as error:
        raise SourceError(f"{file}: line {reader.reader.line_num}: not readable as CSV ({error})") from error
    return entries


def _lines(file: Path, report: ReadReport) -> Entries:
    entries: Entries = []
    text, _ = read_text(file, report)
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{file.name}: line {number}"
        try:
            entries.append((where, json.loads(line)))
        except (ValueError, RecursionError) as error:
            entries.append((where, f"not JSON ({str(error)[:60]})"))
    return entries


def _renamed(entry: Any) -> Any:
    """The record under the names of the public layouts."""
    if not isinstance(entry, dict):
        return entry

    def first(names: tuple[str, ...]) -> Any:
        return next((entry[name] for name in names if entry.get(name) is not None), None)

    kept = {name: entry[name] for name in OTHER_FIELDS if entry.get(name) is not None}
    captions = first(CAPTION_FIELDS)
    if isinstance(captions, str):  # one text a row is this layout's own form, nothing to repair
        captions = [captions] if captions.strip() else []
    return {"file_path": first(IMAGE_FIELDS), "captions": captions, "id": first(PERSON_FIELDS), **kept}


def _by_image(entries: Entries, report: ReadReport) -> Entries:
    """Joins rows that differ in the caption alone, as tables with one row a caption have them."""
    joined: Entries = []
    seen: dict[str, dict[str, Any]] = {}
    for where, entry in entries:
        if isinstance(entry, dict) and isinstance(entry["captions"], list) and isinstance(entry["file_path"], str):
            key = json.dumps({name: value for name, value in entry.items() if name != "captions"}, default=str)
            if key in seen:
                seen[key]["captions"] += entry["captions"]
                report.note("caption joined to the image that it describes", where)
                continue
            seen[key] = entry
        joined.append((where, entry))
    return joined


def _number_people(entries: Entries, report: ReadReport) -> None:
    """Numbers identities that are names, and images that name none; numbers below 10^6 stay as they are."""
    records = [entry for _, entry in entries if isinstance(entry, dict)]
    given = {_key(entry["id"]) for entry in records} - {None}
    junk = {name: int(name) for name in given if _is_junk(name)}  # stays negative and is skipped as such
    given -= junk.keys()
    if any(person_number(name) is None for name in given):
        numbers = {name: number for number, name in enumerate(sorted(given))}
        example = next(iter(numbers))
        report.note(
            "identity given as a name, numbered in sorted order", f"{example!r}: {numbers[example]}", len(given)
        )
    else:
        numbers = {name: int(name) for name in given}
    # By image and not by row, or a changed order would change the numbers.
    alone = sorted({str(entry["file_path"]) for entry in records if _key(entry["id"]) is None})
    if len(numbers) + len(alone) > MAX_SOURCE_ID:
        raise SourceError(f"{report.file}: more than {MAX_SOURCE_ID} identities")
    taken = set(numbers.values())
    following = max(taken, default=-1) + 1
    if following + len(alone) > MAX_SOURCE_ID:  # the numbers given are high, and leave gaps
        following = 0
    free = (number for number in range(following, MAX_SOURCE_ID) if number not in taken)
    by_image = dict(zip(alone, free, strict=False))
    numbers |= junk
    if alone:
        report.note("image without identity, taken for a person of its own", alone[0], len(alone))
    for entry in records:
        key = _key(entry["id"])
        entry["id"] = numbers[key] if key is not None else by_image[str(entry["file_path"])]


def _give_splits(records: list[dict[str, Any]], report: ReadReport) -> None:
    if any(record.get("split") is not None for record in records):
        return
    people = {record["id"] for record in records if record["id"] >= 0}
    moved = held_out(people, "own", ("validation", "test"), HELD_OUT)
    for record in records:
        record["split"] = moved.get(record["id"], "train")
    if moved:
        report.warn(
            f"no row names a split: of {len(people)} identities {len(moved)} are held out as validation and test, "
            "chosen by a hash of the id"
        )


def _key(value: Any) -> str | None:
    """An identity as text; None where there is none."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, float):
        value = int(value) if value == value and abs(value) < MAX_SOURCE_ID and value == int(value) else value
    text = str(value).strip()
    return str(int(text)) if re.fullmatch(r"-?[0-9]{1,9}", text) else text or None


def _is_junk(name: str) -> bool:
    return re.fullmatch(r"-[0-9]{1,9}", name) is not None


LAYOUT = Layout(
    source="own",
    folders=(),
    files=tuple(f"*{suffix}" for suffix in TABLES),
    camera=camera,
    load=load,
    image_folders=(),
    needs_captions=False,
    find=find,
    one_numbering=True,
    first_folder_may_lack=False,
)
