"""CUHK-PEDES (Li et al., CVPR 2017): `CUHK-PEDES/imgs/` and one of three annotations.

- `reid_raw.json`: records with `split`, `captions` (mostly two), `file_path`, `processed_tokens` (ignored) and `id`,
  1-based and contiguous over train, val and test.
- `caption_all.json`, as the authors mail it: the same without `split`. The official splits are ranges of the ids.
- `annotations/{train,val,test}.json` of TextReID: `{categories, annotations}` with one row a sentence, ids 0-based.

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
    held_out,
    load_records,
    one_by_one,
    person_number,
    read_json,
)
from dataset_pvlg.readers.report import ReadReport, SourceError

_MARKET = re.compile(r"^-?\d+_c(\d)s\d")
_VIPER = re.compile(r"(?:^|/)cam_([ab])/")
# Last id of each official split, 1-based.
LAST_IDS = {"train": 11_003, "validation": 12_003, "test": 13_003}
HELD_OUT = 1 / 13  # for each of validation and test where ids do not tell, as in the official split
TEXTREID_FILES = ("train.json", "val.json", "test.json")


def camera(name: str) -> str | None:
    """Market-1501's part names its camera in the file name, VIPeR's in the folder; the other parts do not."""
    if viper := _VIPER.search(name):
        return f"cam_{viper.group(1)}"
    market = _MARKET.match(name.rsplit("/", 1)[-1])
    return f"c{market.group(1)}" if market else None


def load(file: Path, report: ReadReport) -> Iterable[tuple[str, Any]]:
    """The records of any of the three annotations, as `reid_raw.json` would hold them.

    Raises:
        SourceError: none of the three.
    """
    scratch = ReadReport(report.source)  # what reading itself finds is told once, below
    if _is_object(file):
        content = read_json(file, scratch)
        if isinstance(content.get("annotations"), list):
            return _load_textreid(file, report)
    if any(isinstance(entry, dict) and entry.get("split") is not None for _, entry in load_records(file, scratch)):
        return load_records(file, report)
    return _with_splits(file, report)


def _is_object(file: Path) -> bool:
    """Whether a JSON file begins as an object does."""
    try:
        with open(file, encoding="utf-8-sig", errors="replace") as text:
            pieces = iter(lambda: text.read(1000), "")  # not by lines: the whole file may be one
            return next(filter(None, map(str.lstrip, pieces)), "").startswith("{")
    except OSError:
        return False


def _with_splits(file: Path, report: ReadReport) -> Iterator[tuple[str, Any]]:
    """Fills `split` by the ranges of the official ids, or by identities held out where the ids are others."""
    people, records = set(), 0
    for _, entry in load_records(file, ReadReport(report.source)):
        if isinstance(entry, dict):
            records += 1
            people.add(person_number(entry.get("id")))
    people.discard(None)
    total, first = LAST_IDS["test"], 1
    if 0 in people and len(people) == total:  # somebody has counted from 0
        first = 0
        report.repair("id counted from 0", report.file_name, records)
        people = {person + 1 for person in people}
    by_id = {person: _official_split(person) for person in people}
    if set(by_id.values()) == set(LAST_IDS):
        report.warn(
            "no record has a split: the official ones were taken from the ids (train to 11003, validation to 12003, "
            "test to 13003)"
        )
    else:
        moved = held_out(people, "cuhk_pedes", ("validation", "test"), HELD_OUT)
        by_id = {person: moved.get(person, "train") for person in people}
        report.warn(
            "no record has a split, and the ids do not fill the official ranges (train to 11003, validation to 12003, "
            f"test to 13003): of {len(people)} identities {len(moved)} are held out as validation and test, chosen by "
            "a hash of the id. Results do not compare with the official split"
        )
    for where, entry in load_records(file, report):
        if isinstance(entry, dict):
            person = person_number(entry.get("id"))
            if person is not None and first == 0:
                entry["id"] = person = person + 1
            # A record whose id is past repair is skipped for that, whatever its split.
            entry["split"] = by_id.get(person, "train")
        yield where, entry


def _official_split(person: int) -> str | None:
    return next((split for split, last in LAST_IDS.items() if 1 <= person <= last), None)


def _load_textreid(file: Path, report: ReadReport) -> Iterator[tuple[str, Any]]:
    """One record an image out of TextReID's one row a sentence; rows without image or id stay by themselves."""
    if file.name not in TEXTREID_FILES:
        raise SourceError(f"{file}: is of TextReID's form; its files are called {', '.join(TEXTREID_FILES)}")
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
        entries += _by_image(rows, part, SPLIT_NAMES[part.stem], report)
    if not entries:
        raise SourceError(f"{file}: field 'annotations': no sentence in any of {', '.join(TEXTREID_FILES)}")
    return one_by_one(entries)


def _by_image(rows: list[Any], part: Path, split: str, report: ReadReport) -> Entries:
    entries: Entries = []
    by_image: dict[tuple[str, int], dict[str, Any]] = {}
    for index, row in enumerate(rows):
        where = f"{part.name}: annotation {index}"
        if not isinstance(row, dict):
            entries.append((where, row))
            continue
        person, path = person_number(row.get("id")), row.get("file_path")
        if person is None or not isinstance(path, str):
            entries.append((where, {"split": split, "id": row.get("id"), "file_path": path, "captions": []}))
            continue
        if (path, person) in by_image:
            by_image[path, person]["captions"].append(row.get("sentence"))
            report.note("sentence joined to the image that it describes", where)
            continue
        entry = {"split": split, "id": person + 1, "file_path": path, "captions": [row.get("sentence")]}
        by_image[path, person] = entry
        entries.append((where, entry))
    return entries


LAYOUT = Layout(
    source="cuhk_pedes",
    folders=("CUHK-PEDES", "CUHK_PEDES", "cuhkpedes"),
    files=("reid_raw.json", "CUHK-PEDES.json", "caption_all.json", "annotations/train.json", "annotations/test.json"),
    camera=camera,
    load=load,
)
