"""The walk that all public layouts share: checked records with image files -> P-VLG rows, nothing lost unseen."""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from tqdm import tqdm

from dataset_pvlg.boxes import clip_regions
from dataset_pvlg.features import FEATURES, SPLITS
from dataset_pvlg.sources.image_files import RefusedPathError, check_image, find_image
from dataset_pvlg.sources.records import MAX_SOURCE_ID, Layout, Record, find_annotations, load_records, parse_record
from dataset_pvlg.sources.report import ReadReport, SourceError
from modeling_rogle.sentences import split_sentences

# person_id = offset of the source + the source's own id, so that it is unique over sources and still readable.
# Numbers below the first offset belong to the synthetic rows.
PERSON_ID_OFFSETS = {
    "cuhk_pedes": 10_000_000,
    "icfg_pedes": 20_000_000,
    "rstpreid": 30_000_000,
    "ufine": 40_000_000,
}
HELD_OUT = 0.05  # of the training identities, where the source has no validation split


def read_layout(
    layout: Layout, root: str | Path, image_root: str | Path | None = None, splits: Collection[str] | None = None
) -> tuple[DatasetDict, ReadReport]:
    """Reads one source; see [`dataset_pvlg.sources.read.read_source`]."""
    if unknown := set(splits or ()) - set(SPLITS):
        raise SourceError(f"splits: {sorted(unknown)} are not among {list(SPLITS)}")
    file = find_annotations(layout, Path(root))
    images = _find_image_root(file.parent, image_root)
    report = ReadReport(source=layout.source, file=str(file), image_root=str(images))

    entries = load_records(file, report)
    if not any(isinstance(entry, dict) and entry.get("split") is not None for entry in entries):
        raise SourceError(f"{file}: field 'split': no record has one. {layout.without_split}".rstrip())
    parsed = (parse_record(entry, index, layout, file, report) for index, entry in enumerate(entries))
    records = [record for record in parsed if record]
    if layout.check:
        layout.check(_sizes(records), report)
    apart = _ids_used_by_several_splits(records, report)
    if layout.hold_out_validation:  # before any image is looked for, or the split would depend on which are there
        _hold_out(records, layout.source, report)
    records = [record for record in records if _locate(record, images, report)]

    rows = _to_rows(records, layout, images, apart, splits, report)
    if not rows:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in report.skipped.items())
        first = next((report.examples[reason][0] for reason in report.skipped), "")
        raise SourceError(f"{file}: none of its {report.records} records gave a row ({reasons}), first: {first}")
    for split in splits or ():
        if split not in rows:
            report.warn(f"split {split!r} was asked for and has no rows")
    dataset = DatasetDict(
        {split: Dataset.from_list(rows[split], features=FEATURES) for split in SPLITS if split in rows}
    )
    return dataset, report


def _find_image_root(folder: Path, image_root: str | Path | None) -> Path:
    images = Path(image_root) if image_root is not None else folder / "imgs"
    if image_root is None and not images.is_dir():
        images = folder
    if not images.is_dir():
        raise SourceError(f"{images}: the image root is not a folder")
    return images.resolve()


def _sizes(records: Iterable[Record]) -> dict[str, tuple[int, int]]:
    """Identities and images by split, as the source writes them."""
    people, images = defaultdict(set), defaultdict(int)
    for record in records:
        people[record.split].add(record.person)
        images[record.split] += 1
    return {split: (len(people[split]), images[split]) for split in images}


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


def _locate(record: Record, images: Path, report: ReadReport) -> bool:
    try:
        found = find_image(images, record.name)
    except RefusedPathError:
        report.skip("image path leads out of the image root", record.image_where)
        return False
    if found is None:
        report.skip("image missing", record.image_where)
        return False
    record.path, name = found
    if name != record.name:
        if record.name.endswith("/" + name):
            report.repair("image found without the first folder of its path", record.image_where)
        record.name = name
    return True


def _hold_out(records: list[Record], source: str, report: ReadReport) -> None:
    """Moves some training identities to validation, by a hash of their id: the same ones on every machine."""
    people = {record.person for record in records if record.split == "train"}
    if any(record.split == "validation" for record in records) or len(people) < 2:
        return
    count = max(1, round(HELD_OUT * len(people)))
    order = sorted(people, key=lambda person: hashlib.sha256(f"{source}/{person}".encode()).hexdigest())
    held_out = set(order[:count])
    for record in records:
        if record.split == "train" and record.person in held_out:
            record.split = "validation"
    report.warn(
        f"the source has no validation split: {count} of its {len(people)} training identities are held out as "
        "validation, chosen by a hash of the id"
    )


def _to_rows(
    records: list[Record],
    layout: Layout,
    images: Path,
    apart: set[int],
    splits: Collection[str] | None,
    report: ReadReport,
) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    people: dict[str, set[int]] = defaultdict(set)
    seen: dict[Path, tuple[str, int]] = {}
    uses: dict[str, int] = defaultdict(int)
    by_content: dict[str, tuple[str, int, str]] = {}
    for record in tqdm(records, desc=f"reading {layout.source}", unit="image", disable=None):
        owner = (record.split, record.person)
        if seen.setdefault(record.path, owner) != owner:
            report.skip("image already used by another identity or split", record.image_where)
            continue
        if splits and record.split not in splits:
            report.skip("split not asked for", f"{record.where}: {record.split}")
            continue
        try:
            image = check_image(record.path)
        except ValueError as error:
            report.skip("image does not decode", f"{record.image_where}: {error}")
            continue
        if image.mode != "RGB":
            report.note(f"image mode {image.mode}", record.image_where)
        twin = by_content.setdefault(image.sha256, (*owner, record.name))
        if twin[:2] != owner:
            what = "splits" if twin[0] != record.split else "identities"
            report.note(f"byte-identical image in two {what}", f"{record.image_where} and {twin[2]!r}")
        uses[record.name] += 1
        suffix = ""
        if uses[record.name] > 1:
            suffix = f"#{uses[record.name]}"
            report.note("image named by several records", record.image_where)
        caption, origin = join_captions(record.captions)
        sentences = [{"text": text, "start": start, "end": end} for text, start, end in split_sentences(caption)]
        person = PERSON_ID_OFFSETS[layout.source] + record.person
        if record.person in apart:
            person += SPLITS.index(record.split) * MAX_SOURCE_ID
        people[record.split].add(person)
        report.captions[record.split] = report.captions.get(record.split, 0) + len(record.captions)
        rows[record.split].append(
            {
                "image": str(record.path),
                "path": record.name,
                "sha256": image.sha256,
                "image_id": f"{layout.source}/{record.name}{suffix}",
                "width": image.width,
                "height": image.height,
                "person_id": person,
                "source": layout.source,
                "camera": layout.camera(record.name),
                "parent": None,
                "captions": record.captions,
                "caption": caption,
                "caption_origin": origin,
                "sentences": sentences,
                "regions": _own_regions(record, sentences, image.width, image.height, report),
            }
        )
    report.rows = {split: len(rows[split]) for split in SPLITS if split in rows}
    report.identities = {split: len(people[split]) for split in SPLITS if split in rows}
    return dict(rows)


def join_captions(captions: list[str]) -> tuple[str, str]:
    """The long caption of a row and its origin.

    One caption is kept but for its white space (runs become one blank). Several are joined sentence by sentence,
    without the sentences that were said already, each closed by a full stop.
    """
    captions = [" ".join(caption.split()) for caption in captions]
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
