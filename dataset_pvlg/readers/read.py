"""Read any supported layout: checked records with image files become P-VLG rows."""

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
from dataset_pvlg.jobs.workers import map_in_workers
from dataset_pvlg.readers import cuhk_pedes, custom, icfg_pedes, rstpreid, ufine
from dataset_pvlg.readers.identities import ids_of_several_splits, remove_shared_people, split_off_held_out
from dataset_pvlg.readers.image_files import ImageFile, RefusedPathError, check_image, find_image
from dataset_pvlg.readers.record_store import RecordFile, text_key
from dataset_pvlg.readers.records import MAX_SOURCE_ID, Layout, Record, encodable, find_annotations, parse_record
from dataset_pvlg.readers.report import MAX_EXAMPLES, ReadReport, SourceError
from dataset_pvlg.text_cleaning import clean_text
from modeling_rogle.index.path_spellings import PathSpellings
from modeling_rogle.indexing.image_folder import image_files
from modeling_rogle.sentences import split_sentences

_LAYOUTS = {
    layout.source: layout
    for layout in (
        cuhk_pedes.LAYOUT,
        icfg_pedes.LAYOUT,
        rstpreid.LAYOUT,
        ufine.LAYOUT,
        ufine.LAYOUT_3C,
        custom.LAYOUT,
    )
}
SOURCE_NAMES = tuple(_LAYOUTS)

# person_id = offset of the source + the source's own id, which is unique over sources and still readable.
# Numbers below the first offset belong to the synthetic rows.
PERSON_ID_OFFSETS = {
    "cuhk_pedes": 10_000_000,
    "icfg_pedes": 20_000_000,
    "rstpreid": 30_000_000,
    "ufine": 40_000_000,
    "ufine3c": 50_000_000,
    "own": 60_000_000,
}


def read_source(
    name: str,
    root: str | Path,
    image_root: str | Path | None = None,
    splits: Collection[str] | None = None,
    num_proc: int = 1,
    work_dir: str | Path | None = None,
) -> tuple[DatasetDict, ReadReport]:
    """Read a public data set in the layout of its authors, or your own images.

    Every record of the annotation file either gives a row or is counted as skipped. Every image is decoded completely.

    Args:
        name (`str`): `cuhk_pedes`, `icfg_pedes`, `rstpreid`, `ufine` (UFine6926), `ufine3c` or `own`.
        root (`str` or `Path`): the folder of the set, its parent, or the annotation file.
        image_root (`str` or `Path`, *optional*): folder that image paths are relative to; by default `imgs/` beside
            the annotation file, or the folder of the annotation file.
        splits (`Collection[str]`, *optional*): the splits to read; by default all.
        num_proc (`int`): processes that decode images and split captions; the rows do not depend on it.
        work_dir (`str` or `Path`, *optional*): folder for the rows as Arrow files, which are memory-mapped. It must
            exist as long as the rows are used. By default, the rows stay in memory (without pixels).

    Returns:
        `tuple[DatasetDict, ReadReport]`: rows of `dataset_pvlg.features.FEATURES` by split, and the report. Images are
        paths of the source's files; nothing is copied. A split without rows is absent. A row of `own` without a caption
        has an empty `caption`, no `captions`, and the origin `none`.

    Raises:
        SourceError: (a ValueError) the source cannot be read at all; one line names the file and field. Either the name
            is unknown, there is no valid annotation file, no record has a split, or no record gives a row.
        OSError: a worker process died, or the disk of `work_dir` or of the system's temporary folder is full.
    """
    if unknown := set(splits or ()) - set(SPLITS):
        raise SourceError(f"splits: {sorted(unknown)} are not among {list(SPLITS)}")
    file, images = find_source(name, root, image_root)
    layout = _LAYOUTS[name]
    report = ReadReport(source=layout.source, file=str(file), image_root=str(images))

    if work_dir is not None:
        Path(work_dir).mkdir(parents=True, exist_ok=True)
    # Cleanup errors are ignored, because on Windows a traceback may still hold one of the files open.
    with TemporaryDirectory(prefix="records-", dir=work_dir, ignore_cleanup_errors=True) as scratch:
        records = RecordFile(Path(scratch, "checked"), _checked_records(layout, file, report), layout.path_field)
        if layout.check:
            layout.check(records, report)
        ambiguous_ids = set()
        if layout.ids_span_splits:
            remove_shared_people(records, report)
        else:
            ambiguous_ids = ids_of_several_splits(records, report)
        split_off_held_out(records, layout, report)  # before images are searched, so that the split is the same for all
        _check_captions(records, report, num_proc)
        located = RecordFile(Path(scratch, "found"), _locate_images(records, layout, images, report), layout.path_field)
        _remove_second_owners(located, splits, report)
        dataset = pack_rows(_rows(located, layout, ambiguous_ids, report, num_proc), work_dir)
    if not dataset:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in report.skipped.items())
        first = next((report.examples[reason][0] for reason in report.skipped), "")
        raise SourceError(f"{file}: none of its {report.records} records gave a row ({reasons}), first: {first}")
    for split in splits or ():
        if split not in dataset:
            report.warn(f"split {split!r} was requested and has no rows")
    return dataset, report


def find_source(name: str, root: str | Path, image_root: str | Path | None = None) -> tuple[Path, Path]:
    """The annotation file (or the folder of images without one) and the image root of a source.

    Arguments and errors are those of [`read_source`].
    """
    if name not in _LAYOUTS:
        raise SourceError(f"source {name!r} is not known; known are {', '.join(SOURCE_NAMES)}")
    file = find_annotations(_LAYOUTS[name], Path(root))
    return file, _find_image_root(_LAYOUTS[name], file, image_root)


def _find_image_root(layout: Layout, file: Path, image_root: str | Path | None) -> Path:
    folder = file if file.is_dir() else file.parent
    if folder.name == "annotations":  # in TextReID's form, imgs/ is beside this folder
        folder = folder.parent
    if image_root is not None:
        images = Path(image_root)
    else:
        images = next((path for name in layout.image_folders if (path := folder / name).is_dir()), folder)
    if not images.is_dir():
        raise SourceError(f"{images}: the image root is not a folder")
    return images.resolve()


def _checked_records(layout: Layout, file: Path, report: ReadReport) -> Iterator[Record]:
    has_objects = has_splits = False
    for location, entry in layout.load(file, report):
        report.records += 1
        if isinstance(entry, dict):
            has_objects, has_splits = True, has_splits or entry.get("split") is not None
        if record := parse_record(location, entry, layout, report):
            yield record
    if has_objects and not has_splits:
        raise SourceError(f"{file}: field 'split': no record has one")


def _check_captions(records: RecordFile, report: ReadReport, num_proc: int) -> None:
    """Count faults of captions, which are not changed, and captions that several identities share."""
    keys, people = array("Q"), array("i")
    results = map_in_workers(_caption_faults, (record.captions for record in records), num_proc, [__name__])
    for record, (faults, record_keys) in zip(records, results, strict=True):
        for number, fault in faults:
            report.note_irregular(fault, f"{record.location}: field 'captions': {record.captions[number][:80]!r}")
        keys.extend(record_keys)
        people.extend([record.person] * len(record_keys))
        repeated = len(record_keys) - len(set(record_keys))
        if repeated:
            report.note_irregular("the same caption twice", record.location, repeated)
    _, first, which, uses = np.unique(
        np.array(keys, np.uint64), return_index=True, return_inverse=True, return_counts=True
    )
    person = np.array(people, np.int32)
    shared = np.zeros(len(first), bool)
    shared[which[person != person[first][which]]] = True
    if shared.any():
        most_used = min(np.flatnonzero(shared), key=lambda number: (-uses[number], first[number]))
        texts = (" ".join(text.casefold().split()) for record in records for text in record.captions)
        text = next(islice(texts, int(first[most_used]), None))
        example = f"{text[:80]!r}, {uses[most_used]} times"
        report.note_irregular("the same caption of several identities", example, int(uses[shared].sum()))


def _caption_faults(captions: list[str]) -> tuple[list[tuple[int, str]], list[int]]:
    """Pairs of number and fault for the captions of a record, and a key of each caption."""
    faults = [(number, fault) for number, caption in enumerate(captions) for fault in clean_text(caption)[1]]
    return faults, [text_key(" ".join(caption.casefold().split())) for caption in captions]


def _locate_images(records: RecordFile, layout: Layout, images: Path, report: ReadReport) -> Iterator[Record]:
    """The records whose image file exists, with its path and its existing name."""
    missing_by_folder: Counter[str] = Counter()
    spellings: PathSpellings | None = None
    for record in tqdm(records, desc=f"finding {report.source}", unit="image", total=len(records), disable=None):
        try:
            match = find_image(images, record.name, layout.first_folder_optional)
        except RefusedPathError:
            report.skip("image path leads out of the image root", record.image_location)
            continue
        if match is None:
            spellings = spellings or PathSpellings(image_files(images)[0], layout.first_folder_optional)
            if (found := spellings.find(record.name)) is not None:
                match = images / found, found, "image found by another spelling of its path"
        if match is None:
            report.skip("image missing", record.image_location)
            first, slash, _ = record.name.partition("/")
            missing_by_folder[first if slash else ""] += 1
            continue
        record.path, name, change = match
        if change:
            report.repair(change, record.image_location)
        record.name = name
        yield record
    for folder, count in missing_by_folder.items():  # the most common failure: only some folders were downloaded
        if folder and not (images / folder).is_dir():
            report.warn(f"folder {folder!r} is missing in the image root; {count} records name images of it")


def _remove_second_owners(records: RecordFile, splits: Collection[str] | None, report: ReadReport) -> None:
    """Remove records that use the image of another identity or split, and those of splits that are not requested."""
    owners = np.stack([records.people, records.splits], 1)
    _, first, image = np.unique(records.paths, return_index=True, return_inverse=True)
    is_claimed = (owners != owners[first][image]).any(1)
    is_requested = np.isin(records.splits, [SPLITS.index(split) for split in splits or SPLITS])
    for record in records.select(is_claimed):
        report.skip("image already used by another identity or split", record.image_location)
    for record in records.select(~is_requested & ~is_claimed):
        report.skip("split not requested", f"{record.location}: {record.split}")
    records.remaining &= is_requested & ~is_claimed


def _rows(
    records: RecordFile, layout: Layout, ambiguous_ids: set[int], report: ReadReport, num_proc: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(split, row) of every record whose image decodes. At the end, the counts of the report are complete."""
    names, counts = np.unique(records.names[records.remaining], return_counts=True)
    repeated_names = set(names[counts > 1].tolist())
    uses: Counter[str] = Counter()
    captions: Counter[str] = Counter()
    contents = np.zeros(len(records.remaining), np.uint64)
    inputs = ((record.path, record.captions, _sentences_of_regions(record)) for record in records)
    results = map_in_workers(_read_record, inputs, num_proc, [__name__])
    numbered = zip(np.flatnonzero(records.remaining), records, results, strict=True)
    bar = tqdm(numbered, desc=f"reading {layout.source}", unit="image", total=len(records), disable=None)
    for number, record, (image, caption, caption_origin, sentences) in bar:
        if isinstance(image, str):
            report.skip("image does not decode", f"{record.image_location}: {image}")
            records.remaining[number] = False
            continue
        if image.mode != "RGB":
            report.note(f"image mode {image.mode}", record.image_location)
        if image.metadata_fault:
            report.note("image with metadata that cannot be read", f"{record.image_location}: {image.metadata_fault}")
        contents[number] = text_key(image.sha256)
        suffix = ""
        if int(records.names[number]) in repeated_names:
            uses[record.name] += 1
            if uses[record.name] > 1:
                suffix = f"#{uses[record.name]}"
                report.note("image named by several records", record.image_location)
        if not record.captions:
            report.note("image without caption", record.image_location)
        captions[record.split] += len(record.captions)
        row = {
            "image": str(record.path),
            "path": record.name,
            "sha256": image.sha256,
            "image_id": f"{layout.source}/{record.name}{suffix}",
            "width": image.width,
            "height": image.height,
            "person_id": _person_id(record, layout, ambiguous_ids),
            "source": layout.source,
            "camera": record.camera or layout.camera(record.name),
            "parent": None,
            "captions": record.captions,
            "caption": caption,
            "caption_origin": caption_origin,
            "sentences": sentences,
            "regions": _human_regions(record, sentences, image.width, image.height, report),
        }
        yield record.split, row
    _note_copies(records, contents, report)
    _count_rows(records, captions, report)


def _count_rows(records: RecordFile, captions: Counter[str], report: ReadReport) -> None:
    for number, split in enumerate(SPLITS):
        in_split = records.remaining & (records.splits == number)
        if in_split.any():
            report.rows[split] = int(in_split.sum())
            report.identities[split] = len(np.unique(records.people[in_split]))
            report.captions[split] = captions[split]


def _person_id(record: Record, layout: Layout, ambiguous_ids: set[int]) -> int:
    split_offset = SPLITS.index(record.split) * MAX_SOURCE_ID if record.person in ambiguous_ids else 0
    return PERSON_ID_OFFSETS[layout.source] + record.person + split_offset


def _sentences_of_regions(record: Record) -> list[str]:
    named = (region.get("sentence") for region in record.regions if isinstance(region, dict))
    return [text for text in named if isinstance(text, str)]


def _read_record(inputs: tuple[Path, list[str], list[str]]) -> tuple[ImageFile | str, str, str, list[dict[str, Any]]]:
    """The image, or why it does not decode; the long caption, its origin and its sentences."""
    path, captions, named = inputs
    try:
        image = check_image(path)
    except ValueError as error:
        return str(error), "", "", []
    caption, caption_origin = join_captions(captions)
    parts = split_sentences(caption)
    if not {text for text, _, _ in parts} & set(named):
        # A single sentence may name several parts, each with its region, unless regions are given for it as one.
        parts = split_sentences(caption, clauses=True)
    return image, caption, caption_origin, [{"text": text, "start": start, "end": end} for text, start, end in parts]


def _note_copies(records: RecordFile, contents: np.ndarray, report: ReadReport) -> None:
    """Count images whose bytes equal those of an earlier image of another person or split.

    Args:
        contents: a key of the bytes of each image, uint64 [N].
    """
    remaining = np.flatnonzero(records.remaining)
    _, first, image = np.unique(contents[remaining], return_index=True, return_inverse=True)
    originals = remaining[first][image]
    for kind, numbers in (("splits", records.splits), ("identities", records.people)):
        differ = numbers[remaining] != numbers[originals]
        if kind == "identities":
            differ &= records.splits[remaining] == records.splits[originals]
        pairs = np.stack([remaining[differ], originals[differ]], 1)
        shown = np.zeros(len(contents), bool)
        shown[pairs[:MAX_EXAMPLES].ravel()] = True
        examples = dict(zip(np.flatnonzero(shown).tolist(), records.select(shown), strict=True))
        for number, (copy, original) in enumerate(pairs.tolist()):
            text = f"{examples[copy].image_location} and {examples[original].name!r}" if number < MAX_EXAMPLES else ""
            report.note(f"byte-identical image in two {kind}", text)


def join_captions(captions: list[str]) -> tuple[str, str]:
    """The long caption of a row and its origin.

    A single caption only has its white space normalised. Several captions are joined sentence by sentence, without
    repeated sentences, and each sentence is closed by a full stop.

    Args:
        captions (`list[str]`): the captions of the source.

    Returns:
        `tuple[str, str]`: the caption and `human` or `human_joined`; `("", "none")` without captions.
    """
    captions = [" ".join(caption.split()) for caption in captions]
    if not captions:
        return "", "none"
    if len(captions) == 1:
        return captions[0], "human"
    used, sentences = set(), []
    for caption in captions:
        for text, _, _ in split_sentences(caption):
            key = text.casefold().rstrip(" .")
            if key not in used:
                used.add(key)
                sentences.append(text if not text[-1].isalnum() else text + ".")
    return " ".join(sentences), "human_joined"


def _human_regions(
    record: Record, sentences: list[dict], width: int, height: int, report: ReadReport
) -> list[dict[str, Any]]:
    """The regions of a record, `{bbox: x y w h, label, sentence: its text}`. No public set has any."""
    texts = [sentence["text"] for sentence in sentences]
    regions: list[dict[str, Any]] = []
    for region in record.regions:
        if not isinstance(region, dict):
            report.drop("region is not an object", f"{record.location}: field 'regions'")
            continue
        sentence = region.get("sentence")
        index = texts.index(sentence) if sentence in texts else -1
        if sentence is not None and index < 0:
            report.note("sentence of a region not found", f"{record.location}: field 'regions': {str(sentence)[:60]!r}")
        label = encodable(str(region.get("label") or ""))
        values = {"bbox": region.get("bbox"), "label": label, "sentence": index, "score": 1.0, "reliability": 1.0}
        values |= {"origin": "human"}
        if values in regions:
            report.drop("region listed twice with the same sentence", f"{record.location}: field 'regions'")
            continue
        regions.append(values)
    regions, counts = clip_regions(regions, width, height)
    location = f"{record.location}: field 'regions': image {record.name!r} is {width} x {height}"
    if counts["clipped"]:
        report.repair("box clipped to its image", location, counts["clipped"])
    if counts["dropped"]:
        report.drop("box under one pixel inside its image", location, counts["dropped"])
    return regions
