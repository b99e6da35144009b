"""What a build does to a source or a shard: read, curate, caption, match, write. Each step is a task of
[`dataset_pvlg.jobs.stages.Stages.run`]: equal inputs give equal bytes. Reading, curation and captioning each split
the captions that they make or change into sentences, so that offsets are never stale.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, concatenate_datasets

from dataset_pvlg.build.card import Histograms
from dataset_pvlg.curation.curate import CurationOptions, curate
from dataset_pvlg.features import FEATURES, SPLITS
from dataset_pvlg.mining.mine_rows import fit_matching, mine_rows, parse_proposer
from dataset_pvlg.arrow_io import cut_by_bytes
from dataset_pvlg.readers.custom import TABLES
from dataset_pvlg.readers.read import find_source, read_source
from dataset_pvlg.readers.report import SourceError
from dataset_pvlg.synthetic.dataset import SyntheticConfig
from dataset_pvlg.synthetic.dataset import rows as synthetic_rows
from modeling_rogle.matching.mining import SAMPLE, spread
from modeling_rogle.matching.region_matcher import RegionMatcher

SCHEMA = FEATURES.arrow_schema  # its metadata carry the features, so that `load_dataset` gives the same types back
ROWS_PER_GROUP = 100  # rows decoded together when a Parquet file is read at random
ROWS_FILE = "rows.arrow"
JUDGE_FILE = "judge.safetensors"
REPORT_FILE = "build_report.json"  # in the folder of a finished build


@dataclass(frozen=True)
class Source:
    """One source: its name, the folder (for `synthetic` the size, see [`synthetic_size`]), the images' folder."""

    name: str
    root: str
    image_root: str | None = None


def write_arrow(tables: Iterator[pa.Table], path: Path) -> int:
    """Rows -> an Arrow stream file, which is memory-mapped when it is read. Returns how many."""
    count = 0
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, SCHEMA) as writer:
        for table in tables:
            count += len(table)
            writer.write_table(table.cast(SCHEMA))
    return count


def in_pieces(rows: Dataset, start: int = 0, stop: int | None = None, size: int = 1000) -> Iterator[pa.Table]:
    """Rows start..stop-1 as Arrow tables of at most `size`."""
    arrow, stop = rows.with_format("arrow"), len(rows) if stop is None else stop
    for at in range(start, stop, size):
        yield arrow[at : min(at + size, stop)].select(list(FEATURES))


def read_arrow(path: Path) -> Dataset:
    """The rows of one file; images stay where they are."""
    return Dataset.from_file(str(path))


# read -----------------------------------------------------------------------------------------------------------------


def read(folder: Path, source: Source, num_proc: int) -> dict[str, Any]:
    """A public layout -> `SPLIT.arrow`. Returns the reader's report without the paths of this machine."""
    _, report = read_source(source.name, source.root, source.image_root, num_proc=num_proc, work_dir=folder)
    report.file, report.image_root = Path(report.file).name, Path(report.image_root).name
    return {"report": report.as_dict(), "text": str(report)}


def synthetic_size(text: str) -> SyntheticConfig:
    """`IDENTITIES` or `IDENTITIESxIMAGES` (4 images each by default): a tenth of them validation, a tenth test.

    Raises:
        ValueError: another form, or fewer than 3 identities.
    """
    people, _, images = text.partition("x")
    if not people.isdecimal() or int(people) < 3 or not (images or "4").isdecimal() or images == "0":
        raise ValueError(f"--source synthetic={text}: a number of identities is expected, at least 3, as 500 or 500x4")
    held = max(1, int(people) // 10)
    return SyntheticConfig(int(people) - 2 * held, held, held, int(images or 4))


def draw(folder: Path, split: str, start: int, stop: int, config: SyntheticConfig) -> dict[str, Any]:
    """Synthetic identities start..stop-1 of a split -> `SPLIT.arrow`, the images as files beside it."""
    finished = folder.with_suffix("")  # where the folder will lie

    def rows() -> Iterator[dict]:
        for row in synthetic_rows(split, start, stop, config):
            image = row["image_id"].replace("/", "_") + ".jpg"
            (folder / image).write_bytes(row["image"]["bytes"])
            yield row | {"image": {"bytes": None, "path": str(finished / image)}}

    table = pa.Table.from_pylist(list(rows()), schema=SCHEMA)
    return {"rows": write_arrow(iter([table]), folder / f"{split}.arrow")}


# curate ---------------------------------------------------------------------------------------------------------------


def gather(
    folder: Path, parts: Sequence[Path], options: CurationOptions | None, shard_rows: int, num_proc: int
) -> dict[str, Any]:
    """The sources' rows one after the other, curated together -> `SPLIT-00000.arrow`, ... of `shard_rows` rows.

    Duplicates and leaked identities are found only where all rows are looked at, so this is one unit.

    Returns:
        `shards` by split, and `curation`, its report (None without options).
    """
    splits: dict[str, Dataset] = {}
    for split in SPLITS:
        found = [read_arrow(part / f"{split}.arrow") for part in parts if (part / f"{split}.arrow").exists()]
        if found:
            splits[split] = concatenate_datasets(found)
    report, curated = None, folder / "curated"
    if options is not None:
        splits, report = curate(splits, options, num_proc=num_proc, work_dir=curated)
    counts = {}
    for split, rows in splits.items():
        starts = range(0, len(rows), shard_rows)
        for number, start in enumerate(starts):
            pieces = in_pieces(rows, start, min(start + shard_rows, len(rows)))
            write_arrow(pieces, folder / f"{split}-{number:05d}.arrow")
        counts[split] = len(starts)
    shutil.rmtree(curated, ignore_errors=True)
    return {"shards": counts, "curation": report and report.as_dict(), "text": report and str(report)}


# models ---------------------------------------------------------------------------------------------------------------

_held: tuple[Any, Any] = (None, None)  # the one model that this process holds, and what it was asked for by


def _hold(key: Any, load: Callable[[], Any]) -> Any:
    """What `load` gives, loaded once a process and dropped when another is asked for."""
    global _held
    if _held[0] != key:
        let_go()
        _held = key, load()
    return _held[1]


def let_go() -> None:
    """Drops the model that this process holds."""
    global _held
    _held = (None, None)


def load_captioner(name: str) -> Any:
    """The [`dataset_pvlg.captioning.captioner.Captioner`] of that name. Raises ValueError if it cannot be read."""
    from dataset_pvlg.captioning.captioner import Captioner
    from modeling_rogle.inference.loading import best_device

    return _hold(("captioner", name), lambda: Captioner(name, device=best_device()))


def load_matcher(matcher: str) -> tuple[Any, Any]:
    """Model and processor of a Rogle or CLIP checkpoint.

    Raises:
        ValueError: it cannot be read.
    """
    from modeling_rogle.inference.loading import load_model  # the one place where the data needs the model

    def load() -> tuple[Any, Any]:
        try:
            model, processor = load_model(matcher)
            return model.eval(), processor
        except (OSError, ValueError) as error:  # the Hub's own message does not say which argument it is about
            raise ValueError(f"--matcher {matcher} cannot be read: {str(error).strip().splitlines()[0]}") from error

    return _hold(("matcher", matcher), load)


def caption(folder: Path, shard: Path, captioner: str, batch_size: int) -> dict[str, int]:
    """Long captions by a vision-language model for a shard -> `rows.arrow`."""
    from dataset_pvlg.captioning.enrich import enrich_rows

    rows, counts = enrich_rows(load_captioner(captioner), read_arrow(shard), batch_size, progress=False)
    write_arrow(in_pieces(rows), folder / ROWS_FILE)
    return counts


def learn(folder: Path, shards: Sequence[Path], matcher: str) -> dict[str, Any]:
    """The judge of the matches, learnt from a sample spread over these shards -> `judge.safetensors`."""
    rows = concatenate_datasets([read_arrow(shard) for shard in shards])
    judge = fit_matching(*load_matcher(matcher), spread(rows, 4 * SAMPLE["matcher"]))
    judge.save(folder / JUDGE_FILE)
    return {}


def match(folder: Path, shard: Path, matcher: str, judge: Path, proposer: str, batch_size: int) -> dict[str, int]:
    """Regions for the sentences of a shard -> `rows.arrow`."""
    models, rows, propose = load_matcher(matcher), read_arrow(shard), parse_proposer(proposer)
    rows, counts = mine_rows(*models, rows, batch_size, RegionMatcher.load(judge), propose, progress=False)
    write_arrow(in_pieces(rows), folder / ROWS_FILE)
    return counts


# write ----------------------------------------------------------------------------------------------------------------


def write(folder: Path, shards: Sequence[Path], name: str, images: bool, matcher: str | None) -> dict[str, Any]:
    """Shards -> one Parquet file with the bytes of the images inside, or with null in their place.

    Args:
        name: of the file.
        images: whether they go in.
        matcher: its tokenizer counts tokens; None counts words alone.

    Raises:
        ValueError: an image has changed since it was read.
    """
    histograms = Histograms(_tokenizer(matcher) if matcher else None)
    counts = {"rows": 0, "captions": 0, "sentences": 0, "regions": 0}
    people: set[int] = set()
    with pq.ParquetWriter(folder / name, SCHEMA) as writer:
        for table in (piece for shard in shards for piece in in_pieces(read_arrow(shard), size=ROWS_PER_GROUP)):
            stored = (row | {"image": stored_image(row) if images else None} for row in table.to_pylist())
            for rows in cut_by_bytes(stored):
                writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
                histograms.add(rows)
                people.update(row["person_id"] for row in rows)
                counts["rows"] += len(rows)
                for column in ("captions", "sentences", "regions"):
                    counts[column] += sum(len(row[column]) for row in rows)
    with open(folder / name, "rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    return {"counts": counts, "people": sorted(people), "histograms": histograms.as_dict(), "sha256": checksum}


def _tokenizer(matcher: str) -> Any:
    from modeling_rogle import RogleProcessor

    return RogleProcessor.from_pretrained(matcher).tokenizer


def stored_image(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The image of a row as it is stored: the bytes of its source file, and that file's name without folders.

    Raises:
        ValueError: the file has other bytes than when it was read.
    """
    image = row["image"]
    if image is None or image["bytes"] is not None:
        return image
    content = Path(image["path"]).read_bytes()
    if hashlib.sha256(content).hexdigest() != row["sha256"]:
        raise ValueError(f"{image['path']}: has changed since it was read; remove the work folder and build again")
    return {"bytes": content, "path": os.path.basename(image["path"])}


def as_facts(source: Source) -> dict[str, Any]:
    """What the rows of a source follow from: where it lies, and its annotation files and images by size and age."""
    if source.name == "synthetic":
        return asdict(source)
    root = Path(source.root).resolve()
    near = [*root.glob("*"), *root.glob("*/*")]
    tables = sorted(path for path in near if path.suffix.lower() in TABLES and path.is_file())
    files = [path for path in tables if not (path.parent / REPORT_FILE).exists()]
    ages = {str(path): [path.stat().st_size, path.stat().st_mtime_ns] for path in ([root] if root.is_file() else files)}
    try:
        images = find_source(source.name, root, source.image_root)[1]
    except SourceError:  # the reader will say so
        return {"name": source.name, "root": str(root), "files": ages}
    return {"name": source.name, "root": str(root), "image_root": str(images), "files": ages, "images": _ages(images)}


def _ages(root: Path) -> str:
    """sha256 over path, size and age of all files under a folder but hidden ones and those of finished builds: a build
    may work in the folder that it reads."""
    digest = hashlib.sha256()
    for parent, folders, names in os.walk(root):
        if REPORT_FILE in names:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for name in sorted(name for name in names if name[0] != "."):
            path = os.path.join(parent, name)
            try:
                found = os.stat(path)
            except OSError:  # a broken link is no image
                continue
            known = f"{os.path.relpath(path, root)}\0{found.st_size}\0{found.st_mtime_ns}\n"
            digest.update(os.fsencode(known))
    return digest.hexdigest()
