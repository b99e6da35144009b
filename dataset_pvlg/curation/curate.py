"""Rows as read -> rows worth training on: broken and odd images, duplicates, leaked identities, dirty captions.

Every filter has a switch in [`CurationOptions`] and counts in [`CurationReport`]. Rows of validation and test go only
when their image does not decode: published numbers are over all of them. Leaks cost the training row.
"""

import math
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from tqdm import tqdm

from dataset_pvlg.arrow_io import ROWS_AT_ONCE, pack_tables, to_table
from dataset_pvlg.curation.image_checks import MODE, ORIENTATION, Looks, look, store_anew
from dataset_pvlg.curation.near_duplicates import duplicate_groups
from dataset_pvlg.curation.origins import origin
from dataset_pvlg.curation.report import DIGEST, MAX_EXAMPLES, CurationReport, CurationRows, digests, joined
from dataset_pvlg.features import FEATURES, SPLITS
from dataset_pvlg.jobs.stages import worker_pool
from dataset_pvlg.text_cleaning import clean_row

_BYTES_AT_ONCE = 16 * 2**20  # of the images of a piece: every process has some pieces on their way


@dataclass(frozen=True)
class CurationOptions:
    """Switches and bounds of the filters; the defaults drop debris and leaks, not people.

    Raises:
        ValueError: a bound out of range; the message names it.
    """

    decode: bool = True  # drop rows whose image does not decode to its last pixel, in every split
    rgb: bool = True  # store images of another mode (palette, grey, CMYK, alpha) as RGB
    upright: bool = True  # store images with an EXIF orientation turned upright
    min_width: int = 8  # pixels; VIPeR has 48, Market-1501 64, the smallest of CUHK-PEDES 13 x 34
    min_height: int = 16
    min_aspect: float = 0.5  # height / width; crops of people have 2 to 3, riders about 1
    max_aspect: float = 8.0
    train_only: bool = True  # size and aspect drop rows of train only; elsewhere they are counted
    exact_duplicates: bool = True  # drop train rows whose file (sha256) is in validation or test too
    near_duplicates: bool = True  # the same for images that are copies to the eye
    near_distance: int = 3  # bits of 64 in which the difference hashes of copies may differ, 0 to 8
    near_correlation: float = 0.97  # of their 12 x 24 grey images, from which they are copies
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
    def looks_at_images(self) -> bool:
        return self.decode or self.rgb or self.upright or self.near_duplicates


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
        num_proc: processes that decode images and clean captions; the result does not depend on it.
        work_dir: a folder for the curated rows as Arrow files, which are mapped and cost no memory; it must outlive
            them. What is held of a row meanwhile is about 200 bytes, and 300 more on this folder's disk. By default all
            stays in memory. Images are held only where they had to be stored anew.

    Returns:
        The rows that remain, in their order (a split that has lost them all is absent), and the report. `sha256`
        stays that of the source's file, also where the stored image is another one.
    """
    options = options or CurationOptions()
    report = CurationReport(asdict(options))
    splits = [split for split in SPLITS if split in rows_by_split]
    if not splits:
        return {}, report
    report.before = {split: len(rows_by_split[split]) for split in splits}
    rows = CurationRows(splits, [rows_by_split[split] for split in splits], report)

    looks = None
    if options.looks_at_images:
        looks = look(rows.parts, num_proc, progress, work_dir)
        _drop_by_image(rows, looks, options)
    if options.min_width or options.min_height or options.min_aspect or options.max_aspect < math.inf:
        _drop_by_size(rows, looks, options)
    if options.shared_identities:
        _drop_by_identity(rows)
    if options.max_people_per_caption:
        _drop_by_caption(rows, options.max_people_per_caption)
    if options.exact_duplicates:
        _drop_exact(rows)
    if options.near_duplicates:
        _drop_near(rows, looks, options)
    rows.count_removed()

    kept = pack_tables(_kept(rows, looks, options, num_proc, progress), work_dir)
    report.after = {split: len(kept[split]) if split in kept else 0 for split in splits}
    return dict(kept), report


def _drop_by_image(rows: CurationRows, looks: Looks, options: CurationOptions) -> None:
    reason, found = "image does not decode", np.array(list(looks.problems), int)
    for number in found[:MAX_EXAMPLES].tolist():
        rows.report.example(reason, f"{rows.image_id(number)}: {looks.problems[number]}")
    if options.decode:
        rows.drop(found, reason, evaluation=True)
    elif len(found):
        rows.report.noted[reason] += len(found)


def _drop_by_size(rows: CurationRows, looks: Looks | None, options: CurationOptions) -> None:
    width, height = rows.numbers("width"), rows.numbers("height")
    if looks is not None:  # what was seen is right, where the row says otherwise
        seen = looks.sizes.any(1)
        width[seen], height[seen] = looks.sizes[seen].T
    aspect = height / np.maximum(width, 1)
    findings = {
        f"image under {options.min_width} x {options.min_height} pixels": (width < options.min_width)
        | (height < options.min_height),
        f"height / width under {options.min_aspect:g}": aspect < options.min_aspect,
        f"height / width over {options.max_aspect:g}": aspect > options.max_aspect,
    }
    known = (width > 0) & (height > 0)
    for reason, found in findings.items():
        rows.drop(np.flatnonzero(found & known), reason, evaluation=not options.train_only)


def _drop_by_identity(rows: CurationRows) -> None:
    sources: dict[str, int] = {}
    source, places = [], []  # of a row; a place is an older set's person
    for piece in rows.pieces("path", "source"):
        paths, names = piece["path"].to_pylist(), piece["source"].to_pylist()
        source.append(np.array([sources.setdefault(name, len(sources)) for name in names], np.int32))
        origins = [origin(path or "", name) for path, name in zip(paths, names, strict=True)]
        places.append(digests("\n".join(place) if place else None for place in origins))
    source, places = joined(source, np.int32), joined(places, DIGEST)
    known = np.flatnonzero(places != b"")
    place = np.unique(places[known], return_inverse=True)[1]
    in_source = place * len(sources) + source[known]
    train = rows.rank[known] == 0
    held_out = np.unique(in_source[~train])
    own = np.isin(in_source, held_out)  # the source has the person in validation or test too
    others = np.bincount(held_out // max(1, len(sources)), minlength=len(known))[place] - own
    # The authors' own split; changing it would make another benchmark.
    within = known[train & own & (others == 0)]
    rows.note(within, "identity of train in an evaluation split of the same source")
    people = rows.numbers("person_id")
    leaked = np.isin(people, people[known[train & (others > 0)]])
    rows.drop(np.flatnonzero(leaked & (rows.rank == 0)), "identity in validation or test of another source")


def _drop_by_caption(rows: CurationRows, most: int) -> None:
    keys, counts = [], []
    for piece in rows.pieces("captions"):
        captions = piece["captions"].to_pylist()
        counts.append(np.array([len(texts) for texts in captions], np.int32))
        keys.append(digests(" ".join(text.casefold().split()) for texts in captions for text in texts))
    counts, keys = joined(counts, np.int32), joined(keys, DIGEST)
    caption = np.unique(keys, return_inverse=True)[1]
    people, person = np.unique(rows.numbers("person_id"), return_inverse=True)
    row = np.repeat(np.arange(len(rows)), counts)
    said = np.unique(caption * len(people) + person[row])  # of whom
    rare = np.bincount(said // max(1, len(people)), minlength=len(keys)) <= most
    other = np.zeros(len(rows), bool)
    other[row[rare[caption]]] = True
    rows.drop(np.flatnonzero((counts > 0) & ~other), f"all captions said of more than {most} people")


def _drop_exact(rows: CurationRows) -> None:
    files = joined([digests(piece["sha256"].to_pylist()) for piece in rows.pieces("sha256")], DIGEST)
    group = np.arange(len(rows))
    known = np.flatnonzero(files != b"")
    _, first, inverse = np.unique(files[known], return_index=True, return_inverse=True)
    group[known] = known[first[inverse]]
    _drop_copies(rows, group, np.empty((0, 2), np.int64), "file")


def _drop_near(rows: CurationRows, looks: Looks, options: CurationOptions) -> None:
    group, pairs = duplicate_groups(looks.hashes, looks.thumbs, options.near_distance, options.near_correlation)
    _drop_copies(rows, group, pairs, "image")


def _drop_copies(rows: CurationRows, group: np.ndarray, pairs: np.ndarray, what: str) -> None:
    """Drops rows of train with a copy in another split, notes other copies. Rows that go for another reason count
    neither as copies nor as originals."""
    rank, alive = rows.rank, rows.why == 0
    highest = np.full(len(group), -1, np.int8)  # split that any copy is in, per group and then with its neighbours
    np.maximum.at(highest, group, np.where(alive, rank, np.int8(-1)))
    around = highest.copy()
    np.maximum.at(around, pairs[:, 0], highest[pairs[:, 1]])
    np.maximum.at(around, pairs[:, 1], highest[pairs[:, 0]])
    leak = alive & (rank == 0) & (around[group] > 0)
    crossing = alive & (rank == 1) & (around[group] == 2)
    rows.note(np.flatnonzero(crossing), f"same {what} in validation and test")

    # Within a split: a second copy of a row that stays.
    stays = np.flatnonzero(alive & ~leak)
    first = np.full(len(group) * len(SPLITS), len(group))  # of a group in a split
    np.minimum.at(first, group[stays] * len(SPLITS) + rank[stays], stays)
    first = first.reshape(-1, len(SPLITS))
    original = first[group[stays], rank[stays]]
    second = original != stays
    left, right = first[pairs].transpose(1, 0, 2).reshape(2, -1)
    both = np.maximum(left, right) < len(group)
    earlier = np.concatenate([original[second], np.minimum(left, right)[both]])
    later = np.concatenate([stays[second], np.maximum(left, right)[both]])
    people = rows.numbers("person_id")
    same = people[earlier] == people[later]
    rows.note(np.unique(later[same]), f"same {what} twice of one person in a split")
    rows.note(np.unique(later[~same]), f"same {what} of two people in a split")
    rows.drop(np.flatnonzero(leak), f"same {what} in validation or test")


# rows that stay -------------------------------------------------------------------------------------------------------


@dataclass
class _Piece:
    """Some rows that stay, and how the image of each is stored ("" as it should be)."""

    split: str
    rows: pa.Table
    stored: list[str]
    options: CurationOptions


def _kept(
    rows: CurationRows, looks: Looks | None, options: CurationOptions, num_proc: int, progress: bool
) -> Iterator[tuple[str, pa.Table]]:
    total = int((rows.why == 0).sum())
    with tqdm(total=total, desc="curated rows", unit="row", disable=None if progress else True) as bar:
        for split, table, report in _in_order(_cut(rows, looks, options), num_proc):
            bar.update(len(table))
            rows.report.add(report)
            yield split, table


def _cut(rows: CurationRows, looks: Looks | None, options: CurationOptions) -> Iterator[_Piece]:
    """Pieces of at most `ROWS_AT_ONCE` rows and about `_BYTES_AT_ONCE` bytes of images."""
    begin = 0
    for split, part in zip(rows.splits, rows.parts, strict=True):
        for start in range(0, len(part), ROWS_AT_ONCE):
            table = part[start : start + ROWS_AT_ONCE].select(list(FEATURES))
            numbers = slice(begin + start, begin + start + len(table))
            stays = np.flatnonzero(rows.why[numbers] == 0)
            held = pc.binary_length(pc.struct_field(table["image"], "bytes")).fill_null(0).to_numpy().astype(np.int64)
            stored = np.zeros(len(table), np.uint8)
            if looks is not None:  # a PNG is no larger than its pixels
                stored = looks.stored[numbers]
                held = np.maximum(held, (stored > 0) * 3 * looks.sizes[numbers].astype(np.int64).prod(1))
            cuts = np.flatnonzero(np.diff(held[stays].cumsum() // _BYTES_AT_ONCE)) + 1
            for chosen in np.split(stays, cuts):
                if len(chosen):  # copied: a slice would take the whole table along to the other process
                    ways = [looks.ways[way] if looks else "" for way in stored[chosen]]
                    yield _Piece(split, table.take(pa.array(chosen)), ways, options)
        begin += len(part)


def _in_order(pieces: Iterator[_Piece], workers: int) -> Iterator[tuple[str, pa.Table, CurationReport]]:
    """`_finished` of each, by worker processes where there are several, which have two each ahead at most."""
    if workers <= 1:
        yield from map(_finished, pieces)
        return
    with worker_pool(workers, [__name__]) as pool:
        ahead: deque[Future] = deque()
        for piece in pieces:
            if len(ahead) == 2 * workers:
                yield ahead.popleft().result()
            ahead.append(pool.submit(_finished, piece))
        while ahead:
            yield ahead.popleft().result()


def _finished(piece: _Piece) -> tuple[str, pa.Table, CurationReport]:
    """The split, the rows with their images and captions put right, and what was done to them."""
    rows, report = piece.rows.to_pylist(), CurationReport({})
    for row, stored in zip(rows, piece.stored, strict=True):
        if stored:
            _store(row, stored, piece.options, report)
        if piece.options.clean_captions:
            for fault in clean_row(row):
                report.cleaned[fault] += 1
                report.example(fault, row["image_id"])
    return piece.split, to_table(rows), report


def _store(row: dict[str, Any], stored: str, options: CurationOptions, report: CurationReport) -> None:
    if (options.rgb and MODE in stored) or (options.upright and ORIENTATION in stored):
        store_anew(row)
        report.changed[stored] += 1
        report.example(stored, row["image_id"])
    else:
        report.noted[f"image stored with {stored}"] += 1
