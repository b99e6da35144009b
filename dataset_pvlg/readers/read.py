"""One door to all layouts, and the walk that they share: checked records with image files -> P-VLG rows."""

from array import array
from collections import Counter
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from datasets import DatasetDict
from tqdm import tqdm

from dataset_pvlg.arrow_io import pack_rows
from dataset_pvlg.boxes import clip_regions
from dataset_pvlg.features import SPLITS
from dataset_pvlg.jobs.stages import map_in_workers
from dataset_pvlg.readers import cuhk_pedes, icfg_pedes, rstpreid, ufine
from dataset_pvlg.readers import custom as own
from dataset_pvlg.readers.image_files import ImageFile, RefusedPathError, check_image, find_image
from dataset_pvlg.readers.record_store import RecordFile, text_key
from dataset_pvlg.readers.records import (
    MAX_SOURCE_ID,
    Layout,
    Record,
    encodable,
    find_annotations,
    held_out,
    parse_record,
)
from dataset_pvlg.readers.report import MAX_EXAMPLES, ReadReport, SourceError
from dataset_pvlg.text_cleaning import clean_text
from modeling_rogle.sentences import split_sentences

_LAYOUTS = {
    layout.source: layout
    for layout in (
        cuhk_pedes.LAYOUT,
        icfg_pedes.LAYOUT,
        rstpreid.LAYOUT,
        ufine.LAYOUT,
        ufine.LAYOUT_3C,
        own.LAYOUT,
    )
}
SOURCE_NAMES = tuple(_LAYOUTS)

# person_id = offset of the source + the source's own id, so that it is unique over sources and still readable.
# Numbers below the first offset belong to the synthetic rows.
PERSON_ID_OFFSETS = {
    "cuhk_pedes": 10_000_000,
    "icfg_pedes": 20_000_000,
    "rstpreid": 30_000_000,
    "ufine": 40_000_000,
    "ufine3c": 50_000_000,
    "own": 60_000_000,
}
HELD_OUT = 0.05  # of the training identities, where the source has no validation split


def read_source(
    name: str,
    root: str | Path,
    image_root: str | Path | None = None,
    splits: Collection[str] | None = None,
    num_proc: int = 1,
    work_dir: str | Path | None = None,
) -> tuple[DatasetDict, ReadReport]:
    """Reads a public set as its authors lay it out on disk, or one's own images.

    Args:
        name: `cuhk_pedes`, `icfg_pedes`, `rstpreid`, `ufine` (UFine6926), `ufine3c` or `own`.
        root: the set's folder, the folder above it, or the annotation file itself.
        image_root: the folder that image paths are relative to; by default `imgs/` beside the annotation file, or
            the annotation file's folder.
        splits: read only these of `train`, `validation`, `test`; by default all that there are.
        num_proc: processes that decode images and split captions; the rows do not depend on it.
        work_dir: a folder to write the rows to as Arrow files, which are then mapped and cost no memory; it must
            outlive them. By default they stay in memory (without pixels).

    Returns:
        Rows of `dataset_pvlg.features.FEATURES` by split, images as paths of the source's files (nothing is copied),
        and the [`ReadReport`]. Every record of the annotation file either gives a row or is counted as skipped.
        Every image was decoded to its last pixel. A split without rows is absent. A row of `own` without caption has
        an empty `caption`, no `captions` and the origin `none`.

    Raises:
        SourceError: (a ValueError) the source as a whole cannot be read: unknown name, no annotation file, broken
            JSON, no record with a split, or no record that gave a row. One line that names the file and the field.
        OSError: a process died, or the disk is full: of `work_dir`, or of the system's temporary folder.
    """
    if unknown := set(splits or ()) - set(SPLITS):
        raise SourceError(f"splits: {sorted(unknown)} are not among {list(SPLITS)}")
    file, images = find_source(name, root, image_root)
    layout = _LAYOUTS[name]
    report = ReadReport(source=layout.source, file=str(file), image_root=str(images))

    if work_dir is not None:
        Path(work_dir).mkdir(parents=True, exist_ok=True)
    # Errors: on Windows who raises may still hold one of the files open.
    with TemporaryDirectory(prefix="records-", dir=work_dir, ignore_cleanup_errors=True) as scratch:
        records = RecordFile(Path(scratch, "checked"), _checked_records(layout, file, report), layout.path_field)
        if layout.check:
            layout.check(records, report)
        apart = set()
        if layout.one_numbering:
            _strike_shared_people(records, report)
        else:
            apart = _ids_used_by_several_splits(records, report)
        _hold_out(records, layout, report)  # before images are looked for, or the split would depend on which are there
        _tell_captions(records, report, num_proc)
        found = RecordFile(Path(scratch, "found"), _with_files(records, layout, images, report), layout.path_field)
        _strike_second_owners(found, splits, report)
        dataset = pack_rows(_rows(found, layout, apart, report, num_proc), work_dir)
    if not dataset:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in report.skipped.items())
        first = next((report.examples[reason][0] for reason in report.skipped), "")
        raise SourceError(f"{file}: none of its {report.records} records gave a row ({reasons}), first: {first}")
    for split in splits or ():
        if split not in dataset:
            report.warn(f"split {split!r} was asked for and has no rows")
    return dataset, report


def find_source(name: str, root: str | Path, image_root: str | Path | None = None) -> tuple[Path, Path]:
    """The annotation file (or the folder of images alone) and the image root of a source; arguments and errors are
    those of [`read_source`]."""
    if name not in _LAYOUTS:
        raise SourceError(f"source {name!r} is not known; known are {', '.join(SOURCE_NAMES)}")
    file = find_annotations(_LAYOUTS[name], Path(root))
    return file, _find_image_root(_LAYOUTS[name], file, image_root)


def _find_image_root(layout: Layout, file: Path, image_root: str | Path | None) -> Path:
    folder = file if file.is_dir() else file.parent
    if folder.name == "annotations":  # TextReID's form: imgs/ lies beside this folder
        folder = folder.parent
    images = folder
    if image_root is not None:
        images = Path(image_root)
    else:
        images = next((path for name in layout.image_folders if (path := folder / name).is_dir()), folder)
    if not images.is_dir():
        raise SourceError(f"{images}: the image root is not a folder")
    return images.resolve()


def _checked_records(layout: Layout, file: Path, report: ReadReport) -> Iterator[Record]:
    objects = splits = False
    for where, entry in layout.load(file, report):
        report.records += 1
        if isinstance(entry, dict):
            objects, splits = True, splits or entry.get("split") is not None
        if record := parse_record(where, entry, layout, report):
            yield record
    if objects and not splits:
        raise SourceError(f"{file}: field 'split': no record has one")


def _ids_used_by_several_splits(records: RecordFile, report: ReadReport) -> set[int]:
    """Numbers that stand for one person here and another there: some sets number each split from 0."""
    pairs = np.unique(np.stack([records.people, records.splits], 1), axis=0)
    ids, counts = np.unique(pairs[:, 0], return_counts=True)
    apart = set(ids[counts > 1].tolist())
    if apart:
        report.warn(
            f"{len(apart)} ids occur in more than one split (first: {min(apart)}) and are taken for different people. "
            "If they are the same people, these splits share identities and must not be used"
        )
    return apart


def _strike_shared_people(records: RecordFile, report: ReadReport) -> None:
    """Strikes out the training records of people who are in validation or test, and the validation records of those in
    test: a person in two splits would be known from training when searched for."""
    last = np.zeros(MAX_SOURCE_ID, np.int8)
    np.maximum.at(last, records.people, records.splits)
    shared = records.splits != last[records.people]
    for record in records.those(shared):
        report.skip(f"person of {record.split} who is in {SPLITS[last[record.person]]} too", record.image_where)
    records.left &= ~shared
    if shared.any():
        report.warn(
            f"{len(np.unique(records.people[shared]))} people are in more than one split; they stay in test, or else "
            f"in validation, alone, and {shared.sum()} records of the other splits were left out"
        )


def _hold_out(records: RecordFile, layout: Layout, report: ReadReport) -> None:
    """Moves some training identities to the splits that the source lacks."""
    there = {SPLITS[split] for split in np.unique(records.splits[records.left])}
    train = records.left & (records.splits == SPLITS.index("train"))
    people = np.unique(records.people[train]).tolist()
    lacking = [split for split in layout.hold_out if split not in there]
    moved = held_out(people, layout.source, lacking, HELD_OUT) if lacking else {}
    for split in set(moved.values()):
        chosen = [person for person, name in moved.items() if name == split]
        records.splits[train & np.isin(records.people, chosen)] = SPLITS.index(split)
    if moved:
        report.warn(
            f"the source has no {' and no '.join(lacking)} split: {len(moved)} of its {len(people)} training "
            f"identities are held out as {' and '.join(lacking)}, chosen by a hash of the id"
        )


def _tell_captions(records: RecordFile, report: ReadReport, num_proc: int) -> None:
    """Counts the faults of captions, which stay as they are, and captions that are said of several people."""
    keys, people = array("Q"), array("i")
    looked = map_in_workers(_look_at_captions, (record.captions for record in records), num_proc, [__name__])
    for record, (faults, said) in zip(records, looked, strict=True):
        for number, fault in faults:
            report.tell(fault, f"{record.where}: field 'captions': {record.captions[number][:80]!r}")
        keys.extend(said)
        people.extend([record.person] * len(said))
        if len(set(said)) < len(said):
            report.tell("the same caption twice", record.where, len(said) - len(set(said)))
    _, first, which, uses = np.unique(
        np.array(keys, np.uint64), return_index=True, return_inverse=True, return_counts=True
    )
    person = np.array(people, np.int32)
    shared = np.zeros(len(first), bool)
    shared[which[person != person[first][which]]] = True
    if shared.any():
        most = min(np.flatnonzero(shared), key=lambda number: (-uses[number], first[number]))
        texts = (" ".join(text.casefold().split()) for record in records for text in record.captions)
        text = next(islice(texts, int(first[most]), None))
        report.tell(
            "the same caption of several identities", f"{text[:80]!r}, {uses[most]} times", int(uses[shared].sum())
        )


def _look_at_captions(captions: list[str]) -> tuple[list[tuple[int, str]], list[int]]:
    """(number of a caption, its fault) for every fault of a record's captions, and by what each caption is known."""
    faults = [(number, fault) for number, caption in enumerate(captions) for fault in clean_text(caption)[1]]
    return faults, [text_key(" ".join(caption.casefold().split())) for caption in captions]


def _with_files(records: RecordFile, layout: Layout, images: Path, report: ReadReport) -> Iterator[Record]:
    """The records whose image file is there, with its path and the name under which it was found."""
    folders = Counter()
    for record in tqdm(records, desc=f"finding {report.source}", unit="image", total=len(records), disable=None):
        try:
            file = find_image(images, record.name, layout.first_folder_may_lack)
        except RefusedPathError:
            report.skip("image path leads out of the image root", record.image_where)
            continue
        if file is None:
            report.skip("image missing", record.image_where)
            first, slash, _ = record.name.partition("/")
            folders[first if slash else ""] += 1
            continue
        record.path, name, change = file
        if change:
            report.repair(change, record.image_where)
        record.name = name
        yield record
    for folder, count in folders.items():  # the commonest failure: people get only some of the folders
        if folder and not (images / folder).is_dir():
            report.warn(f"folder {folder!r} is missing in the image root; {count} records name images of it")


def _strike_second_owners(records: RecordFile, splits: Collection[str] | None, report: ReadReport) -> None:
    """Strikes out those that claim an image for a second identity, and those of splits that were not asked for."""
    owners = np.stack([records.people, records.splits], 1)
    _, first, image = np.unique(records.paths, return_index=True, return_inverse=True)
    claimed = (owners != owners[first][image]).any(1)
    wanted = np.isin(records.splits, [SPLITS.index(split) for split in splits or SPLITS])
    for record in records.those(claimed):
        report.skip("image already used by another identity or split", record.image_where)
    for record in records.those(~wanted & ~claimed):
        report.skip("split not asked for", f"{record.where}: {record.split}")
    records.left &= wanted & ~claimed


def _rows(
    records: RecordFile, layout: Layout, apart: set[int], report: ReadReport, num_proc: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(split, row) of every record whose image decodes; fills the report's counts at the end."""
    keys, counts = np.unique(records.names[records.left], return_counts=True)
    several, uses = set(keys[counts > 1].tolist()), Counter()
    contents, captions = np.zeros(len(records.left), np.uint64), Counter()
    given = ((record.path, record.captions) for record in records)
    made = map_in_workers(_look_at_record, given, num_proc, [__name__])
    numbered = zip(np.flatnonzero(records.left), records, made, strict=True)
    bar = tqdm(numbered, desc=f"reading {layout.source}", unit="image", total=len(records), disable=None)
    for number, record, (image, caption, caption_origin, sentences) in bar:
        if isinstance(image, str):
            report.skip("image does not decode", f"{record.image_where}: {image}")
            records.left[number] = False
            continue
        if image.mode != "RGB":
            report.note(f"image mode {image.mode}", record.image_where)
        contents[number] = text_key(image.sha256)
        suffix = ""
        if int(records.names[number]) in several:
            uses[record.name] += 1
            if uses[record.name] > 1:
                suffix = f"#{uses[record.name]}"
                report.note("image named by several records", record.image_where)
        if not record.captions:
            report.note("image without caption", record.image_where)
        captions[record.split] += len(record.captions)
        row = {
            "image": str(record.path),
            "path": record.name,
            "sha256": image.sha256,
            "image_id": f"{layout.source}/{record.name}{suffix}",
            "width": image.width,
            "height": image.height,
            "person_id": _person_id(record, layout, apart),
            "source": layout.source,
            "camera": record.camera or layout.camera(record.name),
            "parent": None,
            "captions": record.captions,
            "caption": caption,
            "caption_origin": caption_origin,
            "sentences": sentences,
            "regions": _own_regions(record, sentences, image.width, image.height, report),
        }
        yield record.split, row
    _note_copies(records, contents, report)
    for number, split in enumerate(SPLITS):
        there = records.left & (records.splits == number)
        if there.any():
            report.rows[split] = int(there.sum())
            report.identities[split] = len(np.unique(records.people[there]))
            report.captions[split] = captions[split]


def _person_id(record: Record, layout: Layout, apart: set[int]) -> int:
    own = SPLITS.index(record.split) * MAX_SOURCE_ID if record.person in apart else 0
    return PERSON_ID_OFFSETS[layout.source] + record.person + own


def _look_at_record(given: tuple[Path, list[str]]) -> tuple[ImageFile | str, str, str, list[dict[str, Any]]]:
    """What follows from an image and its captions alone: what is known of the image, or why it does not decode; the
    long caption, its origin and its sentences."""
    path, captions = given
    try:
        image = check_image(path)
    except ValueError as error:
        return str(error), "", "", []
    caption, caption_origin = join_captions(captions)
    parts = split_sentences(caption, clauses=True)  # a sentence alone names several parts, each with its region
    return image, caption, caption_origin, [{"text": text, "start": start, "end": end} for text, start, end in parts]


def _note_copies(records: RecordFile, contents: np.ndarray, report: ReadReport) -> None:
    """Counts images of the same bytes (`contents`, a key for each record) as one of another person or split before."""
    left = np.flatnonzero(records.left)
    _, first, image = np.unique(contents[left], return_index=True, return_inverse=True)
    twins = left[first][image]
    for what, numbers in (("splits", records.splits), ("identities", records.people)):
        differ = numbers[left] != numbers[twins]
        if what == "identities":
            differ &= records.splits[left] == records.splits[twins]
        pairs = np.stack([left[differ], twins[differ]], 1)
        told = np.zeros(len(contents), bool)
        told[pairs[:MAX_EXAMPLES].ravel()] = True
        known = dict(zip(np.flatnonzero(told).tolist(), records.those(told), strict=True))
        for number, (copy, twin) in enumerate(pairs.tolist()):
            example = f"{known[copy].image_where} and {known[twin].name!r}" if number < MAX_EXAMPLES else ""
            report.note(f"byte-identical image in two {what}", example)


def join_captions(captions: list[str]) -> tuple[str, str]:
    """The long caption of a row and its origin.

    One caption is kept but for its white space (runs become one blank). Several are joined sentence by sentence,
    without the sentences that were said already, each closed by a full stop. No caption gives `("", "none")`.
    """
    captions = [" ".join(caption.split()) for caption in captions]
    if not captions:
        return "", "none"
    if len(captions) == 1:
        return captions[0], "human"
    said, parts = set(), []
    for caption in captions:
        for text, _, _ in split_sentences(caption):
            key = text.casefold().rstrip(" .")
            if key not in said:
                said.add(key)
                parts.append(text if not text[-1].isalnum() else text + ".")
    return " ".join(parts), "human_joined"


def _own_regions(
    record: Record, sentences: list[dict], width: int, height: int, report: ReadReport
) -> list[dict[str, Any]]:
    """Human regions of a record (none of the public sets has any): `{bbox: x y w h, label, sentence: its text}`."""
    texts = [sentence["text"] for sentence in sentences]
    regions = []
    for region in record.regions:
        if not isinstance(region, dict):
            report.drop("region is not an object", f"{record.where}: field 'regions'")
            continue
        sentence = region.get("sentence")
        index = texts.index(sentence) if sentence in texts else -1
        if sentence is not None and index < 0:
            report.note("sentence of a region not found", f"{record.where}: field 'regions': {str(sentence)[:60]!r}")
        label = encodable(str(region.get("label") or ""))
        regions.append(
            {"bbox": region.get("bbox"), "label": label, "sentence": index, "score": 1.0, "reliability": 1.0}
        )
        regions[-1]["origin"] = "human"
    regions, counts = clip_regions(regions, width, height)
    where = f"{record.where}: field 'regions': image {record.name!r} is {width} x {height}"
    if counts["clipped"]:
        report.repair("box clipped to its image", where, counts["clipped"])
    if counts["dropped"]:
        report.drop("box under one pixel inside its image", where, counts["dropped"])
    return regions
