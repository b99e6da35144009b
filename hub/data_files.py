"""P-VLG rows as a Hub data set: Parquet shards, a card, and images only of sources that may be passed on."""

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
from dataset_pvlg.features import FEATURES, SPLITS
from dataset_pvlg.loading import SYNTHETIC_NAMES, load_rows
from modeling_rogle.release.model_files import check_empty, read_json
from modeling_rogle.release.upload import ReleaseError

ROWS_AT_ONCE = 100
SHARD_BYTES = 400_000_000  # of Parquet
ROOT_LIKE = re.compile(r"^(?:[/\\~]|[A-Za-z]:|[A-Za-z][A-Za-z0-9+.-]*://)")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
REPORT = "build_report.json"
CARD = Path(__file__).with_name("data_card.md")


@dataclass(frozen=True)
class Terms:
    """What a source's owners say: a licence, and whether its images may be passed on."""

    licence: str
    images: bool = False


# Public for all: only what a program has drawn. What is one's own may hold people who never agreed to that.
TERMS = {name: Terms(licence, images=name == "synthetic") for name, licence in LICENCES.items()}


@dataclass
class DataRelease:
    """What was written: rows and identities by split, rows and withheld images by source."""

    rows: dict[str, int] = field(default_factory=dict)
    identities: dict[str, int] = field(default_factory=dict)
    sources: Counter = field(default_factory=Counter)
    withheld: Counter = field(default_factory=Counter)

    @property
    def restricted(self) -> list[str]:
        """Sources whose terms do not let them be public."""
        return sorted(name for name in self.sources if not TERMS[name].images)


def assemble_data(source: str | Path, repo_id: str, folder: str | Path, images_of: Collection[str] = ()) -> DataRelease:
    """Writes `data/<split>-*.parquet` and the card of a data set repository into a new or empty folder.

    Args:
        source: `synthetic`, `synthetic-tiny`, or a folder that `python -m dataset_pvlg.build.build` wrote.
        repo_id: `user/name` of the data set.
        images_of: sources whose images go along although TERMS holds them back; whoever names one answers for it.

    Raises:
        ReleaseError: rows that may not be pushed: an unknown source, a path that leads out of its folder, a person in
            two splits; a source in `images_of` that is not known or not there; `folder` is not empty.
        ValueError, OSError: the rows cannot be read.
    """
    folder = Path(folder)
    check_empty(folder)
    unknown = sorted(set(images_of) - TERMS.keys())
    if unknown:
        raise ReleaseError(f"--images-of {unknown[0]}: no such source; known are {', '.join(TERMS)}")
    name = str(source)
    data, _ = load_rows(name) if name in SYNTHETIC_NAMES else load_rows("pvlg", source)
    found, people = DataRelease(), {}
    for split in (split for split in SPLITS if split in data):
        _check_rows(data[split], split)
        for person in set(data[split].data.column("person_id").to_pylist()):
            if people.setdefault(person, split) != split:
                raise ReleaseError(f"{name}: person_id {person} is in {people[person]} and in {split}")
        found.rows[split] = len(data[split])
        found.identities[split] = sum(where == split for where in people.values())
        found.sources.update(data[split].data.column("source").to_pylist())
        _write_split(data[split], split, folder / "data", set(images_of), found.withheld)
    missing = sorted(set(images_of) - found.sources.keys())
    if missing:
        raise ReleaseError(f"--images-of {missing[0]}: no rows of it in {name}")
    if name not in SYNTHETIC_NAMES and (Path(source) / REPORT).is_file():
        # `dataset_pvlg.build.join` reads from it how images were stored; the Parquet files are others now.
        report = read_json(Path(source) / REPORT) | {"files": {}}
        (folder / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(data_card(repo_id, found), encoding="utf-8")
    return found


def unsafe(path: str | None) -> bool:
    """Whether a path names, or might name to somebody's system, a place outside the folder that it is read in."""
    if path is None:
        return False
    parts = re.split(r"[/\\]", path)
    return bool(not path.strip() or ROOT_LIKE.search(path) or CONTROL.search(path) or ".." in parts)


def _check_rows(rows: Dataset, split: str) -> None:
    table = rows.data
    columns = {name: table.column(name).to_pylist() for name in ("path", "image_id", "source")}
    for number, (path, image_id, source) in enumerate(zip(*columns.values(), strict=True)):
        where = f"{split}, row {number} (image_id {image_id!r})"
        if source not in TERMS:
            raise ReleaseError(f"{where}: field 'source' is {source!r}; its terms are not known")
        if unsafe(path):
            raise ReleaseError(f"{where}: field 'path' is {path!r}, which leads out of its folder")


def _write_split(rows: Dataset, split: str, folder: Path, images_of: set[str], withheld: Counter) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    schema, arrow = FEATURES.arrow_schema, rows.with_format("arrow")
    parts: list[Path] = []
    writer = None
    try:
        for start in tqdm(range(0, len(rows), ROWS_AT_ONCE), desc=f"data, {split}", disable=None):
            if writer is None:
                parts.append(folder / f"{split}.{len(parts)}.part")
                # The schema's metadata carry the features, so that `load_dataset` gives the same types back.
                writer = pq.ParquetWriter(parts[-1], schema)
            table = embed_table_storage(arrow[start : start + ROWS_AT_ONCE].select(schema.names)).cast(schema)
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
    """The table, its images null where the source's may not be passed on; the rows keep `path` and `sha256`."""
    shared = pa.array([n for n, terms in TERMS.items() if terms.images or n in images_of], pa.string())
    keep = pc.is_in(table.column("source"), shared)
    held = pc.and_(pc.invert(keep), pc.is_valid(table.column("image")))
    withheld.update(table.filter(held).column("source").to_pylist())
    if pc.all(keep).as_py():
        return table
    order = pc.if_else(keep, pa.array(range(len(table)), pa.int64()), pa.scalar(None, pa.int64()))
    image = table.column("image").combine_chunks().take(order.combine_chunks())
    return table.set_column(table.schema.get_field_index("image"), table.schema.field("image"), image)


def data_card(repo_id: str, found: DataRelease) -> str:
    """The card as Markdown, with the metadata that the viewer and Croissant read."""
    from jinja2 import Template

    total = sum(found.rows.values())
    sizes = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
    return Template(CARD.read_text(encoding="utf-8"), trim_blocks=True, lstrip_blocks=True).render(
        repo_id=repo_id,
        free=not found.restricted,
        size=next((name for limit, name in sizes.items() if total < limit), "1M<n<10M"),
        splits=[(split, found.rows[split], found.identities[split]) for split in found.rows],
        sources=[(name, count, found.withheld[name], TERMS[name]) for name, count in sorted(found.sources.items())],
        withheld=sorted(found.withheld),
        drawn=set(found.sources) == {"synthetic"},
    )


__all__ = ["TERMS", "DataRelease", "Terms", "assemble_data", "data_card", "unsafe"]
