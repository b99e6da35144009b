"""Assembles P-VLG rows as a Hub data set: Parquet shards and a card, with images only if their source allows it."""

import json
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset
from datasets.table import embed_table_storage
from tqdm.auto import tqdm

from dataset_pvlg.build.card import LICENCES
from dataset_pvlg.features import CITATION, FEATURES, PAPER, SPLITS
from dataset_pvlg.loading import SYNTHETIC_NAMES, load_rows
from modeling_rogle.release.model_files import check_empty, read_json
from modeling_rogle.release.upload import ReleaseError

ROWS_PER_BATCH = 100
SHARD_BYTES = 400_000_000
ABSOLUTE = re.compile(r"^(?:[/\\~]|[A-Za-z]:|[A-Za-z][A-Za-z0-9+.-]*://)")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
REPORT = "build_report.json"
CARD = Path(__file__).with_name("data_card.md")


@dataclass(frozen=True)
class Terms:
    """The terms of a source: its licence, and whether its images may be published."""

    licence: str
    images: bool = False


# Only images that a program drew may be published. Your own images may show people who did not agree to that.
TERMS = {name: Terms(licence, images=name == "synthetic") for name, licence in LICENCES.items()}


@dataclass
class DataRelease:
    """The released rows: rows and identities by split, rows and withheld images by source."""

    rows: dict[str, int] = field(default_factory=dict)
    identities: dict[str, int] = field(default_factory=dict)
    sources: Counter = field(default_factory=Counter)
    withheld: Counter = field(default_factory=Counter)

    @property
    def restricted(self) -> list[str]:
        """Sources whose terms do not allow publication."""
        return sorted(name for name in self.sources if not TERMS[name].images)


def assemble_data(source: str | Path, repo_id: str, folder: str | Path, images_of: Collection[str] = ()) -> DataRelease:
    """Writes `data/<split>-*.parquet` and the card of a data set repository.

    Args:
        source: `synthetic`, `synthetic-tiny`, or a folder that `rogle data build` wrote.
        repo_id: `user/name` of the data set.
        folder: a new or empty folder.
        images_of: sources whose images are included although TERMS withholds them. The caller is responsible for the
            permission. Default: none.

    Returns:
        Counts of the written rows.

    Raises:
        ReleaseError: the rows may not be released, because a source is unknown, a path leads out of its folder, or an
            identity is in two splits. Or a source in `images_of` is unknown or has no rows. Or `folder` is not empty.
        ValueError, OSError: the rows cannot be read.
    """
    folder = Path(folder)
    check_empty(folder)
    unknown = sorted(set(images_of) - TERMS.keys())
    if unknown:
        raise ReleaseError(f"--images-of {unknown[0]}: no such source; available: {', '.join(TERMS)}")
    name = str(source)
    data, _ = load_rows(name) if name in SYNTHETIC_NAMES else load_rows("pvlg", source)
    release = DataRelease()
    split_of: dict[int, str] = {}
    for split in (split for split in SPLITS if split in data):
        _check_rows(data[split], split)
        for person in set(data[split].data.column("person_id").to_pylist()):
            if split_of.setdefault(person, split) != split:
                raise ReleaseError(f"{name}: person_id {person} is in {split_of[person]} and in {split}")
        release.rows[split] = len(data[split])
        release.identities[split] = sum(other == split for other in split_of.values())
        release.sources.update(data[split].data.column("source").to_pylist())
        _write_split(data[split], split, folder / "data", set(images_of), release.withheld)
    missing = sorted(set(images_of) - release.sources.keys())
    if missing:
        raise ReleaseError(f"--images-of {missing[0]}: {name} has no rows of this source")
    if name not in SYNTHETIC_NAMES and (Path(source) / REPORT).is_file():
        # `rogle join` reads from it how images were stored; its Parquet files are not the released ones.
        report = read_json(Path(source) / REPORT) | {"files": {}}
        (folder / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(data_card(repo_id, release), encoding="utf-8")
    return release


def unsafe(path: str | None) -> bool:
    """Whether a path leads, on some operating system, out of the folder that it is resolved in."""
    if path is None:
        return False
    parts = re.split(r"[/\\]", path)
    return bool(not path.strip() or ABSOLUTE.search(path) or CONTROL.search(path) or ".." in parts)


def _check_rows(rows: Dataset, split: str) -> None:
    table = rows.data
    columns = {name: table.column(name).to_pylist() for name in ("path", "image_id", "source")}
    for number, (path, image_id, source) in enumerate(zip(*columns.values(), strict=True)):
        row = f"{split}, row {number} (image_id {image_id!r})"
        if source not in TERMS:
            raise ReleaseError(f"{row}: field 'source' is {source!r}, a source without known terms")
        if unsafe(path):
            raise ReleaseError(f"{row}: field 'path' is {path!r}, which leads out of its folder")


def _write_split(rows: Dataset, split: str, folder: Path, images_of: set[str], withheld: Counter) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    schema, arrow = FEATURES.arrow_schema, rows.with_format("arrow")
    parts: list[Path] = []
    writer = None
    try:
        for start in tqdm(range(0, len(rows), ROWS_PER_BATCH), desc=f"data, {split}", disable=None):
            if writer is None:
                parts.append(folder / f"{split}.{len(parts)}.part")
                # The metadata of the schema contain the features, so `load_dataset` returns the same types.
                writer = pq.ParquetWriter(parts[-1], schema)
            table = embed_table_storage(arrow[start : start + ROWS_PER_BATCH].select(schema.names)).cast(schema)
            writer.write_table(_without_images(table, images_of, withheld))
            if parts[-1].stat().st_size >= SHARD_BYTES:
                writer.close()
                writer = None
    finally:
        if writer is not None:
            writer.close()
    for number, part in enumerate(parts):
        part.rename(folder / f"{split}-{number:05d}-of-{len(parts):05d}.parquet")


def _without_images(table: pa.Table, images_of: set[str], withheld: Counter) -> pa.Table:
    """Sets images to null if their source does not allow publication. The rows keep `path` and `sha256`."""
    allowed = pa.array([n for n, terms in TERMS.items() if terms.images or n in images_of], pa.string())
    keep = pc.is_in(table.column("source"), allowed)
    removed = pc.and_(pc.invert(keep), pc.is_valid(table.column("image")))
    withheld.update(table.filter(removed).column("source").to_pylist())
    if pc.all(keep).as_py():
        return table
    order = pc.if_else(keep, pa.array(range(len(table)), pa.int64()), pa.scalar(None, pa.int64()))
    image = table.column("image").combine_chunks().take(order.combine_chunks())
    return table.set_column(table.schema.get_field_index("image"), table.schema.field("image"), image)


def data_card(repo_id: str, release: DataRelease) -> str:
    """Formats the card as Markdown, with the metadata that the viewer and Croissant read."""
    from jinja2 import Template

    total = sum(release.rows.values())
    sizes = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
    return Template(CARD.read_text(encoding="utf-8"), trim_blocks=True, lstrip_blocks=True).render(
        repo_id=repo_id,
        free=not release.restricted,
        size=next((name for limit, name in sizes.items() if total < limit), "1M<n<10M"),
        splits=[(split, release.rows[split], release.identities[split]) for split in release.rows],
        sources=[(name, count, release.withheld[name], TERMS[name]) for name, count in sorted(release.sources.items())],
        withheld=sorted(release.withheld),
        drawn=set(release.sources) == {"synthetic"},
        homepage=f"https://huggingface.co/datasets/{repo_id}",
        paper=PAPER,
        citation=CITATION,
    )


__all__ = ["TERMS", "DataRelease", "Terms", "assemble_data", "data_card", "unsafe"]
