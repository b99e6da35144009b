"""Rows as read -> rows worth training on: broken and odd pictures, duplicates, leaked identities, dirty captions.

Every filter has a switch in [`CurationOptions`] and counts in [`CurationReport`]. Rows of validation and test go only
when their picture does not decode: published numbers are over all of them. Leaks cost the training row.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Image
from tqdm import tqdm

from dataset_pvlg.clean_caption import clean_row
from dataset_pvlg.duplicates import duplicate_groups
from dataset_pvlg.features import SPLITS
from dataset_pvlg.looks import MODE, ORIENTATION, Looks, look, store_anew
from dataset_pvlg.pack import pack_rows
from dataset_pvlg.sources.origins import origin

MAX_EXAMPLES = 5


@dataclass(frozen=True)
class CurationOptions:
    """Switches and bounds of the filters; the defaults drop debris and leaks, not people.

    Raises:
        ValueError: a bound out of range; the message names it.
    """

    decode: bool = True  # drop rows whose picture does not decode to its last pixel, in every split
    rgb: bool = True  # store pictures of another mode (palette, grey, CMYK, alpha) as RGB
    upright: bool = True  # store pictures with an EXIF orientation turned upright
    min_width: int = 8  # pixels; VIPeR has 48, Market-1501 64, the smallest of CUHK-PEDES 13 x 34
    min_height: int = 16
    min_aspect: float = 0.5  # height / width; crops of people have 2 to 3, riders about 1
    max_aspect: float = 8.0
    train_only: bool = True  # size and aspect drop rows of train only; elsewhere they are counted
    exact_duplicates: bool = True  # drop train rows whose file (sha256) is in validation or test too
    near_duplicates: bool = True  # the same for pictures that are copies to the eye
    near_distance: int = 3  # bits of 64 in which the difference hashes of copies may differ, 0 to 8
    near_correlation: float = 0.97  # of their 12 x 24 grey pictures, from which they are copies
    shared_identities: bool = True  # drop train rows of a person who is in another source's validation or test
    max_people_per_caption: int = 0  # drop train rows whose captions all are said of more people; 0: never
    clean_captions: bool = True  # put `caption` right; `captions` stay as the source has them

    def __post_init__(self) -> None:
        for name in ("min_width", "min_height", "min_aspect", "max_people_per_caption"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"curation: {name} is {getattr(self, name)}, not a number from 0")
        if not self.max_aspect > self.min_aspect:
            raise ValueError(f"curation: max_aspect {self.max_aspect} is not above min_aspect {self.min_aspect}")
        if not 0 <= self.near_distance <= 8:
            raise ValueError(f"curation: near_distance is {self.near_distance}, not 0 to 8 bits")
        if not 0 < self.near_correlation <= 1:
            raise ValueError(f"curation: near_correlation is {self.near_correlation}, not in (0, 1]")

    @property
    def looks_at_pictures(self) -> bool:
        return self.decode or self.rgb or self.upright or self.near_duplicates


@dataclass
class CurationReport:
    """What was done, by reason; `before` less all of `removed` is `after`, split by split."""

    options: dict[str, Any]
    before: dict[str, int] = field(default_factory=dict)  # rows, by split
    after: dict[str, int] = field(default_factory=dict)
    removed: dict[str, Counter[str]] = field(default_factory=dict)  # rows, by split and reason
    changed: Counter[str] = field(default_factory=Counter)  # pictures stored anew, by reason
    cleaned: Counter[str] = field(default_factory=Counter)  # rows whose `caption` had the fault, which was put right
    noted: Counter[str] = field(default_factory=Counter)  # rows found and kept, by finding
    examples: dict[str, list[str]] = field(default_factory=dict)  # image_ids

    def example(self, reason: str, text: str) -> None:
        examples = self.examples.setdefault(reason, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(text)

    def as_dict(self) -> dict[str, Any]:
        """Plain dicts and lists, for JSON."""
        return {
            "options": self.options,
            "before": self.before,
            "after": self.after,
            "removed": {split: dict(counts) for split, counts in self.removed.items()},
            "changed": dict(self.changed),
            "cleaned": dict(self.cleaned),
            "noted": dict(self.noted),
            "examples": self.examples,
        }

    def __str__(self) -> str:
        lines = ["curation:"]
        for split, count in self.before.items():
            lines.append(f"  {split}: {count} rows, {self.after[split]} kept")
            lines += [self._line(f"removed from {split}", *each) for each in self.removed.get(split, {}).items()]
        for title, counts in (("changed", self.changed), ("caption cleaned", self.cleaned), ("noted", self.noted)):
            lines += [self._line(title, reason, count) for reason, count in counts.items()]
        return "\n".join(lines)

    def _line(self, title: str, reason: str, count: int) -> str:
        example = self.examples.get(reason, [""])[0]
        return f"  {title}: {count} x {reason}" + (f", as {example}" if example else "")


def curate(
    rows_by_split: Mapping[str, Dataset],
    options: CurationOptions | None = None,
    progress: bool = True,
    num_proc: int = 1,
    work_dir: str | Path | None = None,
) -> tuple[dict[str, Dataset], CurationReport]:
    """Applies the filters to the rows of all sources together.

    Args:
        rows_by_split: P-VLG rows by split, of any number of sources; images as paths or bytes, or null.
        options: the switches; None for the defaults.
        progress: show bars.
        num_proc: processes that decode pictures; the result does not depend on it.
        work_dir: a folder for the curated rows as Arrow files, which are mapped and cost no memory; it must outlive
            them. By default they stay in memory. Pictures are held only where they had to be stored anew.

    Returns:
        The rows that remain, in their order (a split that has lost them all is absent), and the report. `sha256`
        stays that of the source's file, also where the stored picture is another one.
    """
    options = options or CurationOptions()
    report = CurationReport(asdict(options))
    splits = [split for split in SPLITS if split in rows_by_split]
    parts = [rows_by_split[split].cast_column("image", Image(decode=False)) for split in splits]
    if not parts:
        return {}, report
    report.before = {split: len(part) for split, part in zip(splits, parts, strict=True)}
    reasons: list[str | None] = [None] * sum(map(len, parts))  # why a row goes, all splits in one line
    ids = [image_id for part in parts for image_id in part["image_id"]]
    rank = np.concatenate([np.full(len(part), SPLITS.index(s)) for s, part in zip(splits, parts, strict=True)])

    looks = look(parts, num_proc, progress) if options.looks_at_pictures else None
    if looks is not None:
        _drop_by_picture(looks, rank, options, reasons, ids, report)
    if options.min_width or options.min_height or options.min_aspect or options.max_aspect < math.inf:
        _drop_by_size(parts, looks, rank, options, reasons, ids, report)
    if options.shared_identities:
        _drop_by_identity(parts, rank, reasons, ids, report)
    if options.max_people_per_caption:
        _drop_by_caption(parts, rank, options.max_people_per_caption, reasons, ids, report)
    if options.exact_duplicates:
        _drop_exact(parts, rank, reasons, ids, report)
    if options.near_duplicates:
        _drop_near(parts, looks, rank, options, reasons, ids, report)

    for number, reason in enumerate(reasons):
        if reason:
            report.removed.setdefault(SPLITS[rank[number]], Counter())[reason] += 1
            report.example(reason, ids[number])
    del ids
    kept = pack_rows(_kept_rows(splits, parts, reasons, looks, options, report, progress), work_dir)
    report.after = {split: len(kept[split]) if split in kept else 0 for split in splits}
    return dict(kept), report


def _drop_by_picture(
    looks: Looks, rank: np.ndarray, options: CurationOptions, reasons: list, ids: list, report: CurationReport
) -> None:
    for number, problem in looks.problems.items():
        if options.decode:
            reasons[number] = "picture does not decode"
        else:
            report.noted["picture does not decode"] += 1
        report.example("picture does not decode", f"{ids[number]}: {problem}")


def _drop_by_size(
    parts: list[Dataset], looks: Looks | None, rank: np.ndarray, options: CurationOptions, reasons: list, ids: list,
    report: CurationReport,
) -> None:  # fmt: skip
    written = [np.stack([np.asarray(part[name], np.int32) for name in ("width", "height")], 1) for part in parts]
    sizes = np.concatenate(written)
    if looks is not None:  # what was seen is right, where the row says otherwise
        seen = looks.sizes.any(1)
        sizes[seen] = looks.sizes[seen]
    width, height = sizes[:, 0], sizes[:, 1]
    aspect = height / np.maximum(width, 1)
    findings = {
        f"picture under {options.min_width} x {options.min_height} pixels": (width < options.min_width)
        | (height < options.min_height),
        f"height / width under {options.min_aspect:g}": aspect < options.min_aspect,
        f"height / width over {options.max_aspect:g}": aspect > options.max_aspect,
    }
    known = (width > 0) & (height > 0)
    for reason, found in findings.items():
        _drop(np.flatnonzero(found & known), reason, rank, reasons, ids, report, evaluation=not options.train_only)


def _drop(
    found: np.ndarray, reason: str, rank: np.ndarray, reasons: list, ids: list, report: CurationReport,
    evaluation: bool = False,
) -> None:  # fmt: skip
    """Marks rows to go; those of validation and test only if `evaluation`, else they are noted."""
    for number in found:
        if reasons[number] is not None:
            continue
        if rank[number] == 0 or evaluation:
            reasons[number] = reason
        else:
            report.noted[f"{reason}, kept in {SPLITS[rank[number]]}"] += 1
            report.example(f"{reason}, kept in {SPLITS[rank[number]]}", ids[number])


def _drop_by_identity(parts: list[Dataset], rank: np.ndarray, reasons: list, ids: list, report: CurationReport) -> None:
    people = np.concatenate([np.asarray(part["person_id"], np.int64) for part in parts])
    sources = [source for part in parts for source in part["source"]]
    paths = [path or "" for part in parts for path in part["path"]]
    origins = [origin(path, source) for path, source in zip(paths, sources, strict=True)]
    shown: dict[tuple[str, str], set[tuple[str, int]]] = defaultdict(set)  # older set's person -> (source, rank)
    for source, place, split in zip(sources, origins, rank, strict=True):
        if place:
            shown[place].add((source, int(split)))
    leaked, within = set(), 0
    for number in np.flatnonzero(rank == 0):
        place = origins[number]
        if place is None:
            continue
        others = {source for source, split in shown[place] if split > 0}
        if others - {sources[number]}:
            leaked.add(int(people[number]))
        elif others:
            within += 1
            report.example("identity of train in an evaluation split of the same source", ids[number])
    if within:  # the authors' own split; changing it would make another benchmark
        report.noted["identity of train in an evaluation split of the same source"] += within
    found = np.flatnonzero(np.isin(people, list(leaked)) & (rank == 0))
    _drop(found, "identity in validation or test of another source", rank, reasons, ids, report)


def _drop_by_caption(
    parts: list[Dataset], rank: np.ndarray, most: int, reasons: list, ids: list, report: CurationReport
) -> None:
    said_of: dict[str, set[int]] = defaultdict(set)
    for person, keys in _captions(parts):
        for key in keys:
            if len(said_of[key]) <= most:
                said_of[key].add(person)
    found = [n for n, (_, keys) in enumerate(_captions(parts)) if keys and all(len(said_of[k]) > most for k in keys)]
    _drop(np.array(found, int), f"all captions said of more than {most} people", rank, reasons, ids, report)


def _captions(parts: list[Dataset]) -> Iterator[tuple[int, list[str]]]:
    for part in parts:
        arrow = part.select_columns(["person_id", "captions"]).with_format("arrow")
        for start in range(0, len(part), 1000):
            for row in arrow[start : start + 1000].to_pylist():
                yield row["person_id"], [" ".join(caption.casefold().split()) for caption in row["captions"]]


def _drop_exact(parts: list[Dataset], rank: np.ndarray, reasons: list, ids: list, report: CurationReport) -> None:
    hashes = [value for part in parts for value in part["sha256"]]
    groups: dict[str, int] = {}
    group = np.array([groups.setdefault(value, n) if value else n for n, value in enumerate(hashes)], np.int64)
    _drop_copies(group, np.empty((0, 2), np.int64), "file", parts, rank, reasons, ids, report)


def _drop_near(
    parts: list[Dataset], looks: Looks, rank: np.ndarray, options: CurationOptions, reasons: list, ids: list,
    report: CurationReport,
) -> None:  # fmt: skip
    group, pairs = duplicate_groups(looks.hashes, looks.thumbs, options.near_distance, options.near_correlation)
    _drop_copies(group, pairs, "picture", parts, rank, reasons, ids, report)


def _drop_copies(
    group: np.ndarray, pairs: np.ndarray, what: str, parts: list[Dataset], rank: np.ndarray, reasons: list, ids: list,
    report: CurationReport,
) -> None:  # fmt: skip
    """Drops rows of train with a copy in another split, notes other copies. Rows that go for another reason count
    neither as copies nor as originals."""
    alive = np.array([reason is None for reason in reasons])
    rank_of = np.where(alive, rank, -1)
    people = np.concatenate([np.asarray(part["person_id"], np.int64) for part in parts])
    highest = np.full(len(group), -1)  # split that any copy is in, per group and then with its neighbours
    np.maximum.at(highest, group, rank_of)
    around = highest.copy()
    np.maximum.at(around, pairs[:, 0], highest[pairs[:, 1]])
    np.maximum.at(around, pairs[:, 1], highest[pairs[:, 0]])
    leak = alive & (rank == 0) & (around[group] > 0)
    crossing = alive & (rank == 1) & (around[group] == 2)
    _note(np.flatnonzero(crossing), f"same {what} in validation and test", ids, report)

    # Within a split: a second copy of a row that stays.
    stays = alive & ~leak
    first: dict[tuple[int, int], int] = {}
    same, other = [], []
    for number in np.flatnonzero(stays):
        original = first.setdefault((int(group[number]), int(rank[number])), int(number))
        if original != number:
            (same if people[original] == people[number] else other).append(number)
    for left, right in pairs:
        for split in range(len(SPLITS)):
            a, b = first.get((int(left), split)), first.get((int(right), split))
            if a is not None and b is not None:
                (same if people[a] == people[b] else other).append(max(a, b))
    _note(sorted(set(same)), f"same {what} twice of one person in a split", ids, report)
    _note(sorted(set(other)), f"same {what} of two people in a split", ids, report)
    _drop(np.flatnonzero(leak), f"same {what} in validation or test", rank, reasons, ids, report)


def _note(found: Any, reason: str, ids: list, report: CurationReport) -> None:
    for number in found:
        report.noted[reason] += 1
        report.example(reason, ids[number])


def _kept_rows(
    splits: list[str], parts: list[Dataset], reasons: list, looks: Looks | None, options: CurationOptions,
    report: CurationReport, progress: bool,
) -> Iterator[tuple[str, dict[str, Any]]]:  # fmt: skip
    number = -1
    bar = tqdm(total=len(reasons), desc="curated rows", unit="row", disable=None if progress else True)
    with bar:
        for split, part in zip(splits, parts, strict=True):
            arrow = part.with_format("arrow")
            for start in range(0, len(part), 200):
                for row in arrow[start : start + 200].to_pylist():
                    number += 1
                    bar.update()
                    if reasons[number] is not None:
                        continue
                    if looks is not None and number in looks.odd:
                        _store(row, looks.odd[number], options, report)
                    if options.clean_captions:
                        for fault in clean_row(row):
                            report.cleaned[fault] += 1
                            report.example(fault, row["image_id"])
                    yield split, row


def _store(row: dict[str, Any], stored: str, options: CurationOptions, report: CurationReport) -> None:
    if (options.rgb and MODE in stored) or (options.upright and ORIENTATION in stored):
        store_anew(row)
        report.changed[stored] += 1
        report.example(stored, row["image_id"])
    else:
        report.noted[f"picture stored with {stored}"] += 1
