"""One door to all layouts, and the walk that they share: checked records with image files -> P-VLG rows."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from datasets import DatasetDict
from tqdm import tqdm

from dataset_pvlg.boxes import clip_regions
from dataset_pvlg.build_stages import map_in_workers
from dataset_pvlg.clean_caption import clean_text
from dataset_pvlg.features import SPLITS
from dataset_pvlg.pack import pack_rows
from dataset_pvlg.sources import cuhk_pedes, icfg_pedes, own, rstpreid, ufine
from dataset_pvlg.sources.image_files import ImageFile, RefusedPathError, check_image, find_image
from dataset_pvlg.sources.records import MAX_SOURCE_ID, Layout, Record, find_annotations, held_out, parse_record
from dataset_pvlg.sources.report import ReadReport, SourceError
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
    """Reads a public set as its authors lay it out on disk, or one's own pictures.

    Args:
        name: `cuhk_pedes`, `icfg_pedes`, `rstpreid`, `ufine` (UFine6926), `ufine3c` or `own`.
        root: the set's folder, the folder above it, or the annotation file itself.
        image_root: the folder that image paths are relative to; by default `imgs/` beside the annotation file, or
            the annotation file's folder.
        splits: read only these of `train`, `validation`, `test`; by default all that there are.
        num_proc: processes that decode images; the rows do not depend on it.
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
        OSError: a process that decodes images died.
    """
    if unknown := set(splits or ()) - set(SPLITS):
        raise SourceError(f"splits: {sorted(unknown)} are not among {list(SPLITS)}")
    file, images = find_source(name, root, image_root)
    layout = _LAYOUTS[name]
    report = ReadReport(source=layout.source, file=str(file), image_root=str(images))

    records = _checked_records(layout, file, report)
    if layout.check:
        by_split = defaultdict(list)
        for record in records:
            by_split[record.split].append(record)
        layout.check(by_split, report)
        del by_split
    if layout.one_numbering:
        records, apart = _without_shared_people(records, report), set()
    else:
        apart = _ids_used_by_several_splits(records, report)
    _hold_out(records, layout, report)  # before any image is looked for, or the split would depend on which are there
    _tell_captions(records, report)
    records = _with_files(records, layout, images, report)
    records = _with_one_owner(records, splits, report)

    rows = _rows(records, layout, apart, report, num_proc)
    dataset = pack_rows(rows, work_dir)
    if not dataset:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in report.skipped.items())
        first = next((report.examples[reason][0] for reason in report.skipped), "")
        raise SourceError(f"{file}: none of its {report.records} records gave a row ({reasons}), first: {first}")
    for split in splits or ():
        if split not in dataset:
            report.warn(f"split {split!r} was asked for and has no rows")
    return dataset, report


def find_source(name: str, root: str | Path, image_root: str | Path | None = None) -> tuple[Path, Path]:
    """The annotation file (or the folder of pictures alone) and the image root of a source; arguments and errors are
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


def _checked_records(layout: Layout, file: Path, report: ReadReport) -> list[Record]:
    entries = layout.load(file, report)
    report.records = len(entries)
    objects = [entry for _, entry in entries if isinstance(entry, dict)]
    if objects and all(entry.get("split") is None for entry in objects):
        raise SourceError(f"{file}: field 'split': no record has one")
    del objects
    records = []
    for index, (where, entry) in enumerate(entries):
        entries[index] = None  # parsed JSON is several times as large as what is kept of it
        record = parse_record(where, entry, layout, report)
        if record:
            records.append(record)
    return records


def _ids_used_by_several_splits(records: Iterable[Record], report: ReadReport) -> set[int]:
    """Numbers that stand for one person here and another there: some sets number each split from 0."""
    splits = defaultdict(set)
    for record in records:
        splits[record.person].add(record.split)
    apart = {person for person, names in splits.items() if len(names) > 1}
    if apart:
        report.warn(
            f"{len(apart)} ids occur in more than one split (first: {min(apart)}) and are taken for different people. "
            "If they are the same people, these splits share identities and must not be used"
        )
    return apart


def _without_shared_people(records: list[Record], report: ReadReport) -> list[Record]:
    """Without the training records of people who are in validation or test, and the validation records of those in
    test: a person in two splits would be known from training when searched for."""
    last: dict[int, int] = {}
    for record in records:
        last[record.person] = max(last.get(record.person, 0), SPLITS.index(record.split))
    kept, shared = [], set()
    for record in records:
        later = SPLITS[last[record.person]]
        if record.split == later:
            kept.append(record)
            continue
        shared.add(record.person)
        report.skip(f"person of {record.split} who is in {later} too", record.image_where)
    if shared:
        report.warn(
            f"{len(shared)} people are in more than one split; they stay in test, or else in validation, alone, and "
            f"{len(records) - len(kept)} records of the other splits were left out"
        )
    return kept


def _hold_out(records: list[Record], layout: Layout, report: ReadReport) -> None:
    """Moves some training identities to the splits that the source lacks."""
    there = {record.split for record in records}
    people = {record.person for record in records if record.split == "train"}
    lacking = [split for split in layout.hold_out if split not in there]
    moved = held_out(people, layout.source, lacking, HELD_OUT) if lacking else {}
    for record in records:
        if record.split == "train":
            record.split = moved.get(record.person, "train")
    if moved:
        report.warn(
            f"the source has no {' and no '.join(lacking)} split: {len(moved)} of its {len(people)} training "
            f"identities are held out as {' and '.join(lacking)}, chosen by a hash of the id"
        )


def _tell_captions(records: Iterable[Record], report: ReadReport) -> None:
    """Counts the faults of captions, which stay as they are, and captions that are said of several people."""
    said_of: dict[str, int | None] = {}
    uses: Counter[str] = Counter()
    for record in records:
        keys = [" ".join(caption.casefold().split()) for caption in record.captions]
        for caption, key in zip(record.captions, keys, strict=True):
            for fault in clean_text(caption)[1]:
                report.tell(fault, f"{record.where}: field 'captions': {caption[:80]!r}")
            uses[key] += 1
            if said_of.setdefault(key, record.person) != record.person:
                said_of[key] = None
        if len(set(keys)) < len(keys):
            report.tell("the same caption twice", record.where, len(keys) - len(set(keys)))
    several = [key for key, person in said_of.items() if person is None]
    if several:
        most = max(several, key=lambda key: uses[key])
        example = f"{most[:80]!r}, {uses[most]} times"
        report.tell("the same caption of several identities", example, sum(uses[key] for key in several))


def _with_files(records: list[Record], layout: Layout, images: Path, report: ReadReport) -> list[Record]:
    found, folders = [], Counter()
    for record in tqdm(records, desc=f"finding {report.source}", unit="image", disable=None):
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
        found.append(record)
    for folder, count in folders.items():  # the commonest failure: people get only some of the folders
        if folder and not (images / folder).is_dir():
            report.warn(f"folder {folder!r} is missing in the image root; {count} records name images of it")
    return found


def _with_one_owner(records: list[Record], splits: Collection[str] | None, report: ReadReport) -> list[Record]:
    """Without those that claim an image for a second identity, and those of splits that were not asked for."""
    kept: list[Record] = []
    owners: dict[Path, tuple[str, int]] = {}
    for record in records:
        owner = (record.split, record.person)
        if owners.setdefault(record.path, owner) != owner:
            report.skip("image already used by another identity or split", record.image_where)
        elif splits and record.split not in splits:
            report.skip("split not asked for", f"{record.where}: {record.split}")
        else:
            kept.append(record)
    return kept


def _rows(
    records: list[Record], layout: Layout, apart: set[int], report: ReadReport, num_proc: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(split, row) of every record whose image decodes; fills the report's counts at the end."""
    people: dict[str, set[int]] = defaultdict(set)
    rows, captions, uses = Counter(), Counter(), Counter()
    by_content: dict[str, tuple[str, int, str]] = {}
    checked = zip(records, _checked_images(records, num_proc), strict=True)
    for record, image in tqdm(checked, desc=f"reading {layout.source}", unit="image", total=len(records), disable=None):
        if isinstance(image, str):
            report.skip("image does not decode", f"{record.image_where}: {image}")
            continue
        if image.mode != "RGB":
            report.note(f"image mode {image.mode}", record.image_where)
        owner = (record.split, record.person)
        twin = by_content.setdefault(image.sha256, (*owner, record.name))
        if twin[:2] != owner:
            what = "splits" if twin[0] != record.split else "identities"
            report.note(f"byte-identical image in two {what}", f"{record.image_where} and {twin[2]!r}")
        uses[record.name] += 1
        suffix = ""
        if uses[record.name] > 1:
            suffix = f"#{uses[record.name]}"
            report.note("image named by several records", record.image_where)
        if not record.captions:
            report.note("image without caption", record.image_where)
        caption, origin = join_captions(record.captions)
        parts = split_sentences(caption, clauses=True)  # a sentence alone names several parts, each with its region
        sentences = [{"text": text, "start": start, "end": end} for text, start, end in parts]
        person = PERSON_ID_OFFSETS[layout.source] + record.person
        if record.person in apart:
            person += SPLITS.index(record.split) * MAX_SOURCE_ID
        people[record.split].add(person)
        captions[record.split] += len(record.captions)
        rows[record.split] += 1
        row = {
            "image": str(record.path),
            "path": record.name,
            "sha256": image.sha256,
            "image_id": f"{layout.source}/{record.name}{suffix}",
            "width": image.width,
            "height": image.height,
            "person_id": person,
            "source": layout.source,
            "camera": record.camera or layout.camera(record.name),
            "parent": None,
            "captions": record.captions,
            "caption": caption,
            "caption_origin": origin,
            "sentences": sentences,
            "regions": _own_regions(record, sentences, image.width, image.height, report),
        }
        yield record.split, row
    report.rows = {split: rows[split] for split in SPLITS if split in rows}
    report.identities = {split: len(people[split]) for split in report.rows}
    report.captions = {split: captions[split] for split in report.rows}


def _checked_images(records: list[Record], num_proc: int) -> Iterator[ImageFile | str]:
    """What is known of each record's image, in order, or why it does not decode."""
    return map_in_workers(_checked_image, (record.path for record in records), num_proc, [__name__])


def _checked_image(path: Path) -> ImageFile | str:
    try:
        return check_image(path)
    except ValueError as error:
        return str(error)


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
        label = str(region.get("label") or "")
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
