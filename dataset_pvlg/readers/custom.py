"""Your own images: a folder of images, or a CSV, TSV, JSONL or JSON file of images and captions.

Columns (fields); the first existing name is used:

- image (required): `file_name`, `file_path`, `image` or `path`, relative to the folder of the file.
- captions: `captions`, `caption` or `text`; a list, or one text per row. Rows with the same image are joined.
- identity: `person_id` or `id`; a number or a name, for the same person in every split. Names are numbered in sorted
  order. Without it, each image is a person.
- `split`: train, val or test. If no row has one, a tenth of the identities each is held out as validation and test.
- `camera`; in JSON also `regions` (`{bbox: [x, y, w, h], label, sentence: its text}`). A sentence about several regions
  is named by each of them, and a region with two sentences is listed twice.

A folder may hold one such file with any name, or several, one of which is called `metadata`. A folder without such a
file gives rows without captions, which a captioner can write. Its sub-folders `train`, `val` and `test` give the split.
File names like those of Market-1501 and MSMT17 give identity and camera.
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
    MISSING_VALUES,
    SPLIT_NAMES,
    Entries,
    Layout,
    consume,
    hold_out,
    parse_person,
    read_json,
    read_text,
    record_list,
)
from dataset_pvlg.readers.report import ReadReport, SourceError
from modeling_rogle.indexing.image_folder import image_files
from modeling_rogle.inference.untrusted import parse_json

IMAGE_FIELDS = ("file_name", "file_path", "image", "path")
CAPTION_FIELDS = ("captions", "caption", "text")
PERSON_FIELDS = ("person_id", "id")
TABLES = (".json", ".jsonl", ".csv", ".tsv")
OTHER_FIELDS = ("split", "camera", "regions")
HELD_OUT = 0.1
SYSTEM_FILES = {".DS_Store", "Thumbs.db", "desktop.ini"}
# <person>_c<camera>s<sequence>_<frame>_<box>, <person>_<k>_<camera>_<date and time of day>_<frame>_<n>
_MARKET = re.compile(r"(?P<person>-?\d+)_c(?P<camera>\d)s\d+_\d+_\d+\.")
_MSMT17 = re.compile(r"(?P<person>\d+)_\d+_(?P<camera>\d+)_\d{4}(?:morning|noon|afternoon)_\d+_\d+")


def camera(name: str) -> str | None:
    """The camera in a file name like those of Market-1501 and MSMT17; None for other names."""
    file = name.rsplit("/", 1)[-1]
    match = _MARKET.match(file) or _MSMT17.match(file)
    return f"c{int(match['camera'])}" if match else None


def find_file(folder: Path) -> Path:
    """The annotation file of a folder, or the folder itself if it has none.

    Raises:
        SourceError: there are several such files.
    """
    tables = _tables(folder)
    metadata = [path for path in tables if path.stem.lower() == "metadata"]
    candidates = metadata or tables
    if len(candidates) > 1:
        names = ", ".join(path.name for path in candidates[:5])
        raise SourceError(f"{folder}: {len(candidates)} annotation files; name one of {names} as the source")
    return candidates[0] if candidates else folder


def _tables(folder: Path) -> list[Path]:
    """The annotation files of a folder without hidden ones, as macOS writes `._captions.csv` beside `captions.csv`."""
    tables = (path for path in folder.iterdir() if path.suffix.lower() in TABLES and path.name[0] != ".")
    return sorted(path for path in tables if path.is_file())


def load(file: Path, report: ReadReport) -> Iterator[tuple[str, Any]]:
    """Read records in any of the forms, with the field names of the public layouts.

    Args:
        file (`Path`): an annotation file, or a folder of images.
        report (`ReadReport`): counts what is left out and changed.

    Returns:
        `Iterator[tuple[str, Any]]`: the location of each record for messages, and the record.

    Raises:
        SourceError: the source is empty, its header has no image column, it cannot be parsed, or a folder of images has
            annotation files in a sub-folder.
    """
    if file.is_dir():
        entries = _read_folder(file, report)
    elif file.suffix.lower() in (".csv", ".tsv"):
        entries = _read_table(file, report)
    elif file.suffix.lower() == ".jsonl":
        entries = _read_json_lines(file, report)
    elif file.suffix.lower() == ".json":
        entries = record_list(read_json(file, report), file)
    else:
        raise SourceError(f"{file}: a folder of images, or .csv, .tsv, .jsonl or .json is expected")
    if not entries:
        raise SourceError(f"{file}: no {'image' if file.is_dir() else 'row'} in it")
    entries = _joined_by_image([(location, _with_public_names(entry)) for location, entry in entries], report)
    if file.stem.lower() == "metadata" and len(tables := _tables(file.parent)) > 1:
        others = ", ".join(path.name for path in tables if path != file)
        report.warn(f"{file.name} was read; {others} beside it was not")
    _number_people(entries, report)
    _assign_splits([entry for _, entry in entries if isinstance(entry, dict)], report)
    return consume(entries)


def _read_folder(folder: Path, report: ReadReport) -> Entries:
    root = folder.resolve()
    names, refused, other = image_files(root)
    for refusal in refused:
        report.drop("file left out of the folder", f"{refusal.path}: {refusal.reason}")
    # Captions in a sub-folder must not be ignored silently. Folders without images are not searched.
    parents = {str(Path(name).parent) for name in names} | {"annotations"}
    deeper = [path for parent in sorted(parents) if (root / parent).is_dir() for path in _tables(root / parent)]
    if deeper:
        raise SourceError(
            f"{folder}: annotations are read from the folder itself, but {deeper[0].relative_to(root).as_posix()} is "
            f"in a sub-folder ({len(deeper)} such files); name the file as the source, or move it away to read images "
            "without captions"
        )
    system_files = sum(path.name in SYSTEM_FILES for path in root.rglob("*"))
    if system_files:
        report.drop("system file in the folder", ", ".join(sorted(SYSTEM_FILES)), system_files)
    if other - system_files > 0:
        report.drop("file without the suffix of an image", folder.name, other - system_files)
    in_splits = any(name.split("/")[0].lower() in SPLIT_NAMES for name in names if "/" in name)
    matches = [_MARKET.match(name.rsplit("/", 1)[-1]) or _MSMT17.match(name.rsplit("/", 1)[-1]) for name in names]
    all_match = all(matches)  # otherwise a number in a name may mean anything
    entries: Entries = []
    for name, match in zip(names, matches, strict=True):
        split = SPLIT_NAMES.get(name.split("/")[0].lower()) if in_splits and "/" in name else None
        person = _person_of_name(name, match) if all_match and match else None
        entries.append((f"{folder.name}/{name}", {"file_path": name, "split": split, "person_id": person}))
    if all_match and names:
        report.note("identity taken from the file name", names[0], len(names))
    return entries


def _person_of_name(name: str, match: re.Match[str]) -> int | str:
    number, parent = int(match["person"]), name.rpartition("/")[0]
    if match.re is _MARKET:
        return number or -1  # 0000 marks distractors, -1 junk
    return f"{parent}/{number}" if parent else number  # MSMT17 counts from 0 in train and again in test


def _read_table(file: Path, report: ReadReport) -> Entries:
    text, _ = read_text(file, report, other_encodings=True)
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)  # Excel writes semicolons in locales with a decimal comma
    entries: Entries = []
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = [(name or "").strip().lower() for name in reader.fieldnames or ()]
        if not set(names) & set(IMAGE_FIELDS):
            raise SourceError(f"{file}: line 1: no column {', '.join(IMAGE_FIELDS)} in the header {names[:8]}")
        if repeated := {name for name in names if name and names.count(name) > 1}:
            raise SourceError(f"{file}: line 1: column {sorted(repeated)[0]!r} occurs twice in the header")
        reader.fieldnames = names
        for row in reader:
            location = f"{file.name}: line {reader.line_num}"
            if None in row or any(value is None for value in row.values()):
                entries.append((location, "a row with more or fewer cells than the header"))
                continue
            entries.append((location, {name: value for name, value in row.items() if value.strip()}))
    except csv.Error as error:
        raise SourceError(f"{file}: line {reader.reader.line_num}: not readable as CSV ({error})") from error
    return entries


def _read_json_lines(file: Path, report: ReadReport) -> Entries:
    entries: Entries = []
    text, _ = read_text(file, report)
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        location = f"{file.name}: line {number}"
        try:
            entries.append((location, parse_json(line)))
        except (ValueError, RecursionError) as error:
            entries.append((location, f"not JSON ({str(error)[:60]})"))
    return entries


def _with_public_names(entry: Any) -> Any:
    """The record with the field names of the public layouts."""
    if not isinstance(entry, dict):
        return entry

    def first_value(names: tuple[str, ...]) -> Any:
        return next((entry[name] for name in names if entry.get(name) is not None), None)

    others = {name: entry[name] for name in OTHER_FIELDS if entry.get(name) is not None}
    captions = first_value(CAPTION_FIELDS)
    if isinstance(captions, str):  # one text per row is valid in this layout
        captions = [captions] if captions.strip() else []
    return {"file_path": first_value(IMAGE_FIELDS), "captions": captions, "id": first_value(PERSON_FIELDS), **others}


def _joined_by_image(entries: Entries, report: ReadReport) -> Entries:
    """Join rows that differ only in the caption, as in tables with one row per caption."""
    joined: Entries = []
    first_entries: dict[str, dict[str, Any]] = {}
    for location, entry in entries:
        if isinstance(entry, dict) and isinstance(entry["captions"], list) and isinstance(entry["file_path"], str):
            key = json.dumps({name: value for name, value in entry.items() if name != "captions"}, default=str)
            if key in first_entries:
                first_entries[key]["captions"] += entry["captions"]
                report.note("caption joined to the image that it describes", location)
                continue
            first_entries[key] = entry
        joined.append((location, entry))
    return joined


def _number_people(entries: Entries, report: ReadReport) -> None:
    """Number the identities that are names, and the images without identity. Numbers below 10^6 stay as they are."""
    records = [entry for _, entry in entries if isinstance(entry, dict)]
    names = {key for entry in records if (key := _person_key(entry["id"])) is not None}
    junk = {name: int(name) for name in names if _is_junk(name)}  # negative ids are skipped later
    names -= junk.keys()
    if any(parse_person(name) is None for name in names):
        numbers = {name: number for number, name in enumerate(sorted(names))}
        example = next(iter(numbers))
        report.note(
            "identity given as a name, numbered in sorted order", f"{example!r}: {numbers[example]}", len(names)
        )
    else:
        numbers = {name: int(name) for name in names}
    # Numbered by image and not by row, so that the numbers do not depend on the order of rows.
    without_identity = sorted({str(entry["file_path"]) for entry in records if _person_key(entry["id"]) is None})
    if len(numbers) + len(without_identity) > MAX_SOURCE_ID:
        raise SourceError(f"{report.file}: more than {MAX_SOURCE_ID} identities")
    used = set(numbers.values())
    first_free = max(used, default=-1) + 1
    if first_free + len(without_identity) > MAX_SOURCE_ID:  # the ids of the file are high and have gaps
        first_free = 0
    free = (number for number in range(first_free, MAX_SOURCE_ID) if number not in used)
    by_image = dict(zip(without_identity, free, strict=False))
    numbers |= junk
    if without_identity:
        report.note("image without identity, read as a person of its own", without_identity[0], len(without_identity))
    for entry in records:
        key = _person_key(entry["id"])
        entry["id"] = numbers[key] if key is not None else by_image[str(entry["file_path"])]


def _assign_splits(records: list[dict[str, Any]], report: ReadReport) -> None:
    if any(record.get("split") is not None for record in records):
        return
    people = {record["id"] for record in records if record["id"] >= 0}
    moved = hold_out(people, "own", ("validation", "test"), HELD_OUT)
    for record in records:
        record["split"] = moved.get(record["id"], "train")
    if moved:
        report.warn(
            f"no row names a split: of {len(people)} identities {len(moved)} are held out as validation and test, "
            "chosen by a hash of the id"
        )


def _person_key(value: Any) -> str | None:
    """An identity as text, `7.0` of a spreadsheet as `7`; None if there is none."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, float):
        value = int(value) if value == value and abs(value) < MAX_SOURCE_ID and value == int(value) else value
    text = str(value).strip()
    if text.casefold() in MISSING_VALUES:
        return None
    return str(int(float(text))) if re.fullmatch(r"-?[0-9]{1,9}(\.0*)?", text) else text


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
    find_file=find_file,
    ids_span_splits=True,
    first_folder_optional=False,
)
