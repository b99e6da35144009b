"""Filters for training data: broken and odd images, duplicates, leaked identities, and faulty captions.

Every filter has a switch in [`CurationOptions`] and counts in [`CurationReport`]. Published results use all rows of
validation and test, so these rows are removed only if their image does not decode. For a leak between splits, the
training row is removed.
"""

import math
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from tqdm import tqdm

from dataset_pvlg.arrow_io import ROWS_AT_ONCE, pack_tables, to_table
from dataset_pvlg.curation.image_checks import MODE, ORIENTATION, ImageChecks, check_images, reencode
from dataset_pvlg.curation.near_duplicates import duplicate_groups
from dataset_pvlg.curation.origins import origin
from dataset_pvlg.curation.report import DIGEST, MAX_EXAMPLES, CurationReport, CurationRows, concatenated, digests
from dataset_pvlg.features import FEATURES, SPLITS
from dataset_pvlg.jobs.workers import worker_pool
from dataset_pvlg.text_cleaning import clean_row

_BYTES_AT_ONCE = 16 * 2**20  # bytes of images in a piece; each process has several pieces in progress


def _option(default: bool | int | float, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class CurationOptions:
    """Switches and bounds of the filters. `fields(CurationOptions)` gives the help text of each as `metadata["help"]`.

    VIPeR's images are 48 pixels wide and Market-1501's 64; the smallest image of CUHK-PEDES has 13 x 34 pixels. The
    aspect ratio of person crops is 2 to 3, and about 1 for riders.

    Raises:
        ValueError: a bound is out of range; the message names it.
    """

    decode: bool = _option(True, "remove rows whose image does not decode completely, in every split")
    rgb: bool = _option(True, "store images of another mode (palette, grey, CMYK, alpha) as RGB")
    upright: bool = _option(True, "apply the EXIF orientation to the stored images")
    min_width: int = _option(8, "smallest width of an image, pixels")
    min_height: int = _option(16, "smallest height of an image, pixels")
    min_aspect: float = _option(0.5, "smallest height / width of an image")
    max_aspect: float = _option(8.0, "largest height / width of an image")
    train_only: bool = _option(True, "remove rows for size or aspect from train only, and count them in other splits")
    exact_duplicates: bool = _option(True, "remove train rows whose file (sha256) is also in validation or test")
    near_duplicates: bool = _option(True, "remove train rows whose image looks the same as one of validation or test")
    near_distance: int = _option(3, "bits of 64, 0 to 8, in which the difference hashes of near duplicates may differ")
    near_correlation: float = _option(0.97, "smallest correlation of the 12 x 24 grey images of near duplicates")
    shared_identities: bool = _option(True, "remove train rows of a person in validation or test of another source")
    max_people_per_caption: int = _option(
        0, "remove train rows whose captions all occur for more than N people; 0 removes none"
    )
    clean_captions: bool = _option(True, "correct faults of `caption`; `captions` stay as the source has them")

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
    def checks_images(self) -> bool:
        """Whether a filter needs the decoded images."""
        return self.decode or self.rgb or self.upright or self.near_duplicates


def curate(
    rows_by_split: Mapping[str, Dataset],
    options: CurationOptions | None = None,
    progress: bool = True,
    num_proc: int = 1,
    work_dir: str | Path | None = None,
) -> tuple[dict[str, Dataset], CurationReport]:
    """Apply the filters to the rows of all sources together.

    A row costs about 200 bytes of memory, and 300 more on the disk of `work_dir`. Images are held in memory only if
    they are re-encoded.

    Args:
        rows_by_split (`Mapping[str, Dataset]`): P-VLG rows by split, from any number of sources; images as paths or
            bytes, or null.
        options (`CurationOptions`, *optional*): the filters; None for the defaults.
        progress (`bool`): whether to show progress bars.
        num_proc (`int`): processes that decode images and clean captions; the result does not depend on it.
        work_dir (`str` or `Path`, *optional*): folder for the curated rows as Arrow files, which are memory-mapped. It
            must exist as long as the rows are used. By default, all rows stay in memory.

    Returns:
        `tuple[dict[str, Dataset], CurationReport]`: the remaining rows in their order, and the report. A split without
        rows is absent. `sha256` stays that of the source's file, even if the stored image is re-encoded.
    """
    options = options or CurationOptions()
    report = CurationReport(asdict(options))
    splits = [split for split in SPLITS if split in rows_by_split]
    if not splits:
        return {}, report
    report.before = {split: len(rows_by_split[split]) for split in splits}
    rows = CurationRows(splits, [rows_by_split[split] for split in splits], report)

    checks = None
    if options.checks_images:
        checks = check_images(rows.parts, num_proc, progress, work_dir)
        _drop_undecodable(rows, checks, options)
    if options.min_width or options.min_height or options.min_aspect or options.max_aspect < math.inf:
        _drop_by_size(rows, checks, options)
    if options.shared_identities:
        _drop_shared_identities(rows)
    if options.max_people_per_caption:
        _drop_common_captions(rows, options.max_people_per_caption)
    if options.exact_duplicates:
        _drop_exact_duplicates(rows)
    if options.near_duplicates and checks is not None:
        _drop_near_duplicates(rows, checks, options)
    rows.count_removed()

    curated = pack_tables(_remaining_tables(rows, checks, options, num_proc, progress), work_dir)
    report.after = {split: len(curated[split]) if split in curated else 0 for split in splits}
    return dict(curated), report


def _drop_undecodable(rows: CurationRows, checks: ImageChecks, options: CurationOptions) -> None:
    reason, broken = "image does not decode", np.array(list(checks.errors), int)
    for number in broken[:MAX_EXAMPLES].tolist():
        rows.report.example(reason, f"{rows.image_id(number)}: {checks.errors[number]}")
    if options.decode:
        rows.drop(broken, reason, evaluation=True)
    elif len(broken):
        rows.report.noted[reason] += len(broken)


def _drop_by_size(rows: CurationRows, checks: ImageChecks | None, options: CurationOptions) -> None:
    width, height = rows.numbers("width"), rows.numbers("height")
    if checks is not None:  # the decoded size is right where the row disagrees
        decoded = checks.sizes.any(1)
        width[decoded], height[decoded] = checks.sizes[decoded].T
    aspect = height / np.maximum(width, 1)
    findings = {
        f"image under {options.min_width} x {options.min_height} pixels": (width < options.min_width)
        | (height < options.min_height),
        f"height / width under {options.min_aspect:g}": aspect < options.min_aspect,
        f"height / width over {options.max_aspect:g}": aspect > options.max_aspect,
    }
    has_size = (width > 0) & (height > 0)
    for reason, is_outside in findings.items():
        rows.drop(np.flatnonzero(is_outside & has_size), reason, evaluation=not options.train_only)


def _drop_shared_identities(rows: CurationRows) -> None:
    """Drop training rows of people who are in validation or test of another source, by the origin of their image."""
    source_numbers: dict[str, int] = {}
    sources, origins = [], []
    for piece in rows.pieces("path", "source"):
        paths, names = piece["path"].to_pylist(), piece["source"].to_pylist()
        sources.append(np.array([source_numbers.setdefault(name, len(source_numbers)) for name in names], np.int32))
        people = [origin(path or "", name) for path, name in zip(paths, names, strict=True)]
        origins.append(digests("\n".join(person) if person else None for person in people))
    source, origin_digest = concatenated(sources, np.int32), concatenated(origins, DIGEST)
    with_origin = np.flatnonzero(origin_digest != b"")
    person = np.unique(origin_digest[with_origin], return_inverse=True)[1]
    person_in_source = person * len(source_numbers) + source[with_origin]
    train = rows.split_index[with_origin] == 0
    evaluated = np.unique(person_in_source[~train])
    evaluated_here = np.isin(person_in_source, evaluated)  # in validation or test of the row's own source
    sources_of_person = np.bincount(evaluated // max(1, len(source_numbers)), minlength=len(with_origin))
    evaluated_elsewhere = sources_of_person[person] - evaluated_here
    # Only noted: this is the authors' own split, and a change would make another benchmark.
    within = with_origin[train & evaluated_here & (evaluated_elsewhere == 0)]
    rows.note(within, "identity of train in an evaluation split of the same source")
    person_ids = rows.numbers("person_id")
    leaked = np.isin(person_ids, person_ids[with_origin[train & (evaluated_elsewhere > 0)]])
    reason = "identity in validation or test of another source"
    rows.drop(np.flatnonzero(leaked & (rows.split_index == 0)), reason)


def _drop_common_captions(rows: CurationRows, max_people: int) -> None:
    key_pieces, count_pieces = [], []
    for piece in rows.pieces("captions"):
        captions = piece["captions"].to_pylist()
        count_pieces.append(np.array([len(texts) for texts in captions], np.int32))
        key_pieces.append(digests(" ".join(text.casefold().split()) for texts in captions for text in texts))
    counts, keys = concatenated(count_pieces, np.int32), concatenated(key_pieces, DIGEST)
    caption = np.unique(keys, return_inverse=True)[1]
    people, person = np.unique(rows.numbers("person_id"), return_inverse=True)
    row = np.repeat(np.arange(len(rows)), counts)
    caption_of_person = np.unique(caption * len(people) + person[row])
    is_rare = np.bincount(caption_of_person // max(1, len(people)), minlength=len(keys)) <= max_people
    has_rare = np.zeros(len(rows), bool)
    has_rare[row[is_rare[caption]]] = True
    rows.drop(np.flatnonzero((counts > 0) & ~has_rare), f"all captions describe more than {max_people} people")


def _drop_exact_duplicates(rows: CurationRows) -> None:
    files = concatenated([digests(piece["sha256"].to_pylist()) for piece in rows.pieces("sha256")], DIGEST)
    groups = np.arange(len(rows))
    with_file = np.flatnonzero(files != b"")
    _, first, inverse = np.unique(files[with_file], return_index=True, return_inverse=True)
    groups[with_file] = with_file[first[inverse]]
    _drop_copies(rows, groups, np.empty((0, 2), np.int64), "file")


def _drop_near_duplicates(rows: CurationRows, checks: ImageChecks, options: CurationOptions) -> None:
    groups, pairs = duplicate_groups(checks.hashes, checks.thumbnails, options.near_distance, options.near_correlation)
    _drop_copies(rows, groups, pairs, "image")


def _drop_copies(rows: CurationRows, groups: np.ndarray, pairs: np.ndarray, kind: str) -> None:
    """Drop training rows that have a copy in another split, and note other copies.

    Rows that are removed for another reason count neither as copies nor as originals.

    Args:
        groups: int64 [N], index of the first copy of each row.
        pairs: int64 [M, 2], groups that are copies of each other.
        kind: what is the same, for the report.
    """
    split, remains = rows.split_index, rows.reason_index == 0
    last_split = np.full(len(groups), -1, np.int8)  # of the rows in a group
    np.maximum.at(last_split, groups, np.where(remains, split, np.int8(-1)))
    with_neighbours = last_split.copy()
    np.maximum.at(with_neighbours, pairs[:, 0], last_split[pairs[:, 1]])
    np.maximum.at(with_neighbours, pairs[:, 1], last_split[pairs[:, 0]])
    leaked = remains & (split == 0) & (with_neighbours[groups] > 0)
    crossing = remains & (split == 1) & (with_neighbours[groups] == 2)
    rows.note(np.flatnonzero(crossing), f"same {kind} in validation and test")

    # Within a split: later copies of a row that stays.
    staying = np.flatnonzero(remains & ~leaked)
    first = np.full((len(groups), len(SPLITS)), len(groups))  # first row of a group in a split
    np.minimum.at(first, (groups[staying], split[staying]), staying)
    original = first[groups[staying], split[staying]]
    is_copy = original != staying
    left, right = first[pairs].transpose(1, 0, 2).reshape(2, -1)
    both = np.maximum(left, right) < len(groups)
    earlier = np.concatenate([original[is_copy], np.minimum(left, right)[both]])
    later = np.concatenate([staying[is_copy], np.maximum(left, right)[both]])
    people = rows.numbers("person_id")
    same_person = people[earlier] == people[later]
    rows.note(np.unique(later[same_person]), f"same {kind} twice of one person in a split")
    rows.note(np.unique(later[~same_person]), f"same {kind} of two people in a split")
    rows.drop(np.flatnonzero(leaked), f"same {kind} in validation or test")


# remaining rows -------------------------------------------------------------------------------------------------------


@dataclass
class _Piece:
    """Some remaining rows, and the storage faults of their images ("" for an upright RGB image)."""

    split: str
    rows: pa.Table
    faults: list[str]
    options: CurationOptions


def _remaining_tables(
    rows: CurationRows, checks: ImageChecks | None, options: CurationOptions, num_proc: int, progress: bool
) -> Iterator[tuple[str, pa.Table]]:
    total = int((rows.reason_index == 0).sum())
    with tqdm(total=total, desc="curated rows", unit="row", disable=None if progress else True) as bar:
        for split, table, report in _finish_in_order(_remaining_pieces(rows, checks, options), num_proc):
            bar.update(len(table))
            rows.report.add(report)
            yield split, table


def _remaining_pieces(rows: CurationRows, checks: ImageChecks | None, options: CurationOptions) -> Iterator[_Piece]:
    """Pieces of at most `ROWS_AT_ONCE` rows and about `_BYTES_AT_ONCE` bytes of images."""
    offset = 0
    for split, part in zip(rows.splits, rows.parts, strict=True):
        for start in range(0, len(part), ROWS_AT_ONCE):
            table = part[start : start + ROWS_AT_ONCE].select(list(FEATURES))
            numbers = slice(offset + start, offset + start + len(table))
            staying = np.flatnonzero(rows.reason_index[numbers] == 0)
            size = pc.binary_length(pc.struct_field(table["image"], "bytes")).fill_null(0).to_numpy().astype(np.int64)
            faults = np.zeros(len(table), np.uint8)
            if checks is not None:  # a re-encoded image (PNG) is at most as large as its pixels
                faults = checks.faults[numbers]
                size = np.maximum(size, (faults > 0) * 3 * checks.sizes[numbers].astype(np.int64).prod(1))
            cuts = np.flatnonzero(np.diff(size[staying].cumsum() // _BYTES_AT_ONCE)) + 1
            for chosen in np.split(staying, cuts):
                if len(chosen):  # copied, because a slice would send the whole table to the worker
                    names = [checks.fault_names[fault] if checks else "" for fault in faults[chosen]]
                    yield _Piece(split, table.take(pa.array(chosen)), names, options)
        offset += len(part)


def _finish_in_order(pieces: Iterator[_Piece], workers: int) -> Iterator[tuple[str, pa.Table, CurationReport]]:
    """`_finish_piece` of each piece, in order. Several workers have at most two pieces each in progress."""
    if workers <= 1:
        yield from map(_finish_piece, pieces)
        return
    with worker_pool(workers, [__name__]) as pool:
        pending: deque[Future] = deque()
        for piece in pieces:
            if len(pending) == 2 * workers:
                yield pending.popleft().result()
            pending.append(pool.submit(_finish_piece, piece))
        while pending:
            yield pending.popleft().result()


def _finish_piece(piece: _Piece) -> tuple[str, pa.Table, CurationReport]:
    """The split, the rows with re-encoded images and cleaned captions, and a report of these changes."""
    rows, report = piece.rows.to_pylist(), CurationReport({})
    for row, faults in zip(rows, piece.faults, strict=True):
        if faults:
            _fix_storage(row, faults, piece.options, report)
        if piece.options.clean_captions:
            for fault in clean_row(row):
                report.cleaned[fault] += 1
                report.example(fault, row["image_id"])
    return piece.split, to_table(rows), report


def _fix_storage(row: dict[str, Any], faults: str, options: CurationOptions, report: CurationReport) -> None:
    if (options.rgb and MODE in faults) or (options.upright and ORIENTATION in faults):
        reencode(row)
        report.changed[faults] += 1
        report.example(faults, row["image_id"])
    else:
        report.noted[f"image stored with {faults}"] += 1
