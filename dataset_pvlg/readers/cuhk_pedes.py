"""CUHK-PEDES (Li et al., CVPR 2017): `CUHK-PEDES/imgs/` and annotations in one of three forms.

- `reid_raw.json`: records with `split`, `captions` (mostly two), `file_path`, `processed_tokens` (ignored) and `id`.
  Ids start at 1 and are contiguous over train, val and test.
- `caption_all.json`, as the authors send it: the same without `split`. The official splits are ranges of the ids.
- `annotations/{train,val,test}.json` of TextReID: `{categories, annotations}` with one row per sentence. Ids
  start at 0.

All three give the same `person_id`. The images come from five older sets; four files end in `.jpg.jpg`.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dataset_pvlg.readers.records import (
    SPLIT_NAMES,
    Entries,
    Layout,
    consume,
    hold_out,
    load_records,
    parse_person,
    read_json,
)
from dataset_pvlg.readers.report import ReadReport, SourceError

_MARKET = re.compile(r"^-?\d+_c(\d)s\d")
_VIPER = re.compile(r"(?:^|/)cam_([ab])/")
# Last id of each official split; ids start at 1.
LAST_IDS = {"train": 11_003, "validation": 12_003, "test": 13_003}
HELD_OUT = 1 / 13  # share for each of validation and test if ids do not give the split, as in the official split
TEXTREID_FILES = ("train.json", "val.json", "test.json")


def camera(name: str) -> str | None:
    """The camera of an image: in the file name for images of Market-1501, in the folder for VIPeR, else None."""
    if viper := _VIPER.search(name):
        return f"cam_{viper.group(1)}"
    market = _MARKET.match(name.rsplit("/", 1)[-1])
    return f"c{market.group(1)}" if market else None


def load(file: Path, report: ReadReport) -> Iterable[tuple[str, Any]]:
    """Read annotations in any of the three forms.

    Args:
        file (`Path`): the annotation file.
        report (`ReadReport`): counts what is left out and changed.

    Returns:
        `Iterable[tuple[str, Any]]`: the location of each record for messages, and the record in the form of
        `reid_raw.json`.

    Raises:
        SourceError: the file has none of the three forms.
    """
    scratch = ReadReport(report.source)  # for the first pass; the second pass counts in `report`
    if _is_object(file):
        content = read_json(file, scratch)
        if isinstance(content.get("annotations"), list):
            return _load_textreid(file, report)
    if any(isinstance(entry, dict) and entry.get("split") is not None for _, entry in load_records(file, scratch)):
        return load_records(file, report)
    return _with_splits(file, report)


def _is_object(file: Path) -> bool:
    """Whether a JSON file starts with an object."""
    try:
        with open(file, encoding="utf-8-sig", errors="replace") as text:
            pieces = iter(lambda: text.read(1000), "")  # not line by line, because the file may have only one line
            return next(filter(None, map(str.lstrip, pieces)), "").startswith("{")
    except OSError:
        return False


def _with_splits(file: Path, report: ReadReport) -> Iterator[tuple[str, Any]]:
    """Add `split` to the records: by the official ranges of ids, or with held-out identities if the ids differ."""
    people: set[int] = set()
    records = 0
    for _, entry in load_records(file, ReadReport(report.source)):
        if isinstance(entry, dict):
            records += 1
            person = parse_person(entry.get("id"))
            if person is not None:
                people.add(person)
    total, first = LAST_IDS["test"], 1
    if 0 in people and len(people) == total:  # a complete set whose ids start at 0
        first = 0
        report.repair("id counted from 0", report.file_name, records)
        people = {person + 1 for person in people}
    by_id = {person: _official_split(person) for person in people}
    if set(by_id.values()) == set(LAST_IDS):
        report.warn(
            "no record has a split: the official splits were taken from the ids (train to 11003, validation to 12003, "
            "test to 13003)"
        )
    else:
        moved = hold_out(people, "cuhk_pedes", ("validation", "test"), HELD_OUT)
        by_id = {person: moved.get(person, "train") for person in people}
        report.warn(
            "no record has a split, and the ids do not fill the official ranges (train to 11003, validation to 12003, "
            f"test to 13003): of {len(people)} identities {len(moved)} are held out as validation and test, chosen by "
            "a hash of the id. Results do not compare with the official split"
        )
    for location, entry in load_records(file, report):
        if isinstance(entry, dict):
            person = parse_person(entry.get("id"))
            if person is not None and first == 0:
                entry["id"] = person = person + 1
            # A record with an invalid id is skipped later, whatever its split.
            entry["split"] = "train" if person is None else by_id.get(person, "train")
        yield location, entry


def _official_split(person: int) -> str | None:
    return next((split for split, last in LAST_IDS.items() if 1 <= person <= last), None)


def _load_textreid(file: Path, report: ReadReport) -> Iterator[tuple[str, Any]]:
    """One record for each image, from TextReID's rows of one sentence. Rows without image or id are not joined."""
    if file.name not in TEXTREID_FILES:
        raise SourceError(f"{file}: has the form of TextReID; its files are called {', '.join(TEXTREID_FILES)}")
    entries: Entries = []
    for name in TEXTREID_FILES:
        part = file.with_name(name)
        if not part.is_file():
            report.warn(f"{name} is not beside {file.name}: this split is missing")
            continue
        content = read_json(part, report)
        rows = content.get("annotations") if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise SourceError(f"{part}: field 'annotations': a list of sentences is expected")
        entries += _joined_by_image(rows, part, SPLIT_NAMES[part.stem], report)
    if not entries:
        raise SourceError(f"{file}: field 'annotations': no sentence in any of {', '.join(TEXTREID_FILES)}")
    return consume(entries)


def _joined_by_image(rows: list[Any], part: Path, split: str, report: ReadReport) -> Entries:
    entries: Entries = []
    by_image: dict[tuple[str, int], dict[str, Any]] = {}
    for index, row in enumerate(rows):
        location = f"{part.name}: annotation {index}"
        if not isinstance(row, dict):
            entries.append((location, row))
            continue
        person, path = parse_person(row.get("id")), row.get("file_path")
        if person is None or not isinstance(path, str):
            entries.append((location, {"split": split, "id": row.get("id"), "file_path": path, "captions": []}))
            continue
        if (path, person) in by_image:
            by_image[path, person]["captions"].append(row.get("sentence"))
            report.note("sentence joined to the image that it describes", location)
            continue
        entry = {"split": split, "id": person + 1, "file_path": path, "captions": [row.get("sentence")]}
        by_image[path, person] = entry
        entries.append((location, entry))
    return entries


LAYOUT = Layout(
    source="cuhk_pedes",
    folders=("CUHK-PEDES", "CUHK_PEDES", "cuhkpedes"),
    files=("reid_raw.json", "CUHK-PEDES.json", "caption_all.json", "annotations/train.json", "annotations/test.json"),
    camera=camera,
    load=load,
)
