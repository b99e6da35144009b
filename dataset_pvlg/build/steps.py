"""The steps of a build for a source or a shard: read, curate, caption, match, write.

Each step is a task of [`dataset_pvlg.jobs.stages.Stages.run`]: equal inputs give equal bytes. Every step that makes or
changes a caption also splits it into sentences, so that the offsets of sentences always match their caption.
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

from dataset_pvlg.arrow_io import ROWS_PER_GROUP, SCHEMA, cut_by_bytes, read_arrow, row_tables, write_arrow
from dataset_pvlg.build.card import Histograms, count_parts
from dataset_pvlg.curation.curate import CurationOptions, curate
from dataset_pvlg.features import SPLITS
from dataset_pvlg.mining.mine_rows import fit_matching, mine_rows, parse_proposer
from dataset_pvlg.readers.custom import TABLES
from dataset_pvlg.readers.read import find_source, read_source
from dataset_pvlg.readers.report import SourceError
from dataset_pvlg.synthetic.dataset import SyntheticConfig
from dataset_pvlg.synthetic.dataset import rows as synthetic_rows
from modeling_rogle.matching.mining import SAMPLE, spread
from modeling_rogle.matching.region_matcher import RegionMatcher

ROWS_FILE = "rows.arrow"
MATCHER_FILE = "region_matcher.safetensors"
REPORT_FILE = "build_report.json"  # in the folder of a finished build


@dataclass(frozen=True)
class Source:
    """One source of a build.

    Args:
        name (`str`): `synthetic`, or a name that [`dataset_pvlg.readers.read.read_source`] knows.
        root (`str`): the folder of the set; for `synthetic` the size, see [`synthetic_size`].
        image_root (`str`, *optional*): the folder that image paths are relative to.
    """

    name: str
    root: str
    image_root: str | None = None


# read -----------------------------------------------------------------------------------------------------------------


def read_layout(folder: Path, source: Source, num_proc: int) -> dict[str, Any]:
    """Read a public layout into `SPLIT.arrow`. Returns the reader's report without paths of this machine."""
    _, report = read_source(source.name, source.root, source.image_root, num_proc=num_proc, work_dir=folder)
    report.file, report.image_root = Path(report.file).name, Path(report.image_root).name
    return {"report": report.as_dict(), "text": str(report)}


def synthetic_size(text: str) -> SyntheticConfig:
    """Parse the size of a synthetic source.

    Args:
        text (`str`): `IDENTITIES`, or `IDENTITIESxIMAGES` (default: 4 images per identity). A tenth of the identities
            are validation, and a tenth are test.

    Raises:
        ValueError: another form, or fewer than 3 identities.
    """
    people, _, images = text.partition("x")
    if not people.isdecimal() or int(people) < 3 or not (images or "4").isdecimal() or images == "0":
        raise ValueError(f"--source synthetic={text}: a number of identities is expected, at least 3, as 500 or 500x4")
    held_out = max(1, int(people) // 10)
    return SyntheticConfig(int(people) - 2 * held_out, held_out, held_out, int(images or 4))


def draw_identities(folder: Path, split: str, start: int, stop: int, config: SyntheticConfig) -> dict[str, Any]:
    """Draw the synthetic identities `start` to `stop` - 1 of a split into `SPLIT.arrow` and image files beside it."""
    finished = folder.with_suffix("")  # the final name of the folder

    def rows() -> Iterator[dict]:
        for row in synthetic_rows(split, start, stop, config):
            image = row["image_id"].replace("/", "_") + ".jpg"
            (folder / image).write_bytes(row["image"]["bytes"])
            yield row | {"image": {"bytes": None, "path": str(finished / image)}}

    table = pa.Table.from_pylist(list(rows()), schema=SCHEMA)
    return {"rows": write_arrow([table], folder / f"{split}.arrow")}


# curate ---------------------------------------------------------------------------------------------------------------


def curate_sources(
    folder: Path, parts: Sequence[Path], options: CurationOptions | None, shard_rows: int, num_proc: int
) -> dict[str, Any]:
    """Join the rows of all sources, curate them, and write shards `SPLIT-00000.arrow`, ...

    Duplicates and leaked identities can only be found among all rows, so this is one unit.

    Args:
        folder (`Path`): where the shards go.
        parts (`Sequence[Path]`): folders that hold `SPLIT.arrow`.
        options (`CurationOptions`, *optional*): the filters; None applies none.
        shard_rows (`int`): rows in a shard.
        num_proc (`int`): number of processes.

    Returns:
        `dict[str, Any]`: `shards`, their number by split; `curation`, the report (None without options); and `text`,
        the report as text.
    """
    splits: dict[str, Dataset] = {}
    for split in SPLITS:
        rows = [read_arrow(part / f"{split}.arrow") for part in parts if (part / f"{split}.arrow").exists()]
        if rows:
            splits[split] = concatenate_datasets(rows)
    report, scratch = None, folder / "curated"
    if options is not None:
        splits, report = curate(splits, options, num_proc=num_proc, work_dir=scratch)
    counts = {}
    for split, rows in splits.items():
        starts = range(0, len(rows), shard_rows)
        for number, start in enumerate(starts):
            tables = row_tables(rows, start, min(start + shard_rows, len(rows)))
            write_arrow(tables, folder / f"{split}-{number:05d}.arrow")
        counts[split] = len(starts)
    shutil.rmtree(scratch, ignore_errors=True)
    return {"shards": counts, "curation": report and report.as_dict(), "text": report and str(report)}


# models ---------------------------------------------------------------------------------------------------------------

_loaded_model: tuple[Any, Any] = (None, None)  # the key and the value of the one model that this process holds


def _load_once(key: Any, load: Callable[[], Any]) -> Any:
    """The result of `load`. It is kept until another key is requested, so that a process holds one model."""
    global _loaded_model
    if _loaded_model[0] != key:
        release_model()
        _loaded_model = key, load()
    return _loaded_model[1]


def release_model() -> None:
    """Drop the model that this process holds."""
    global _loaded_model
    _loaded_model = (None, None)


def load_captioner(name: str) -> Any:
    """The [`dataset_pvlg.captioning.captioner.Captioner`] of that name. Raises ValueError if it cannot be read."""
    from dataset_pvlg.captioning.captioner import Captioner
    from modeling_rogle.inference.loading import best_device

    return _load_once(("captioner", name), lambda: Captioner(name, device=best_device()))


def load_matcher(matcher: str) -> tuple[Any, Any]:
    """Model and processor of a Rogle or CLIP checkpoint.

    Args:
        matcher (`str`): a folder or a name on the Hub.

    Raises:
        ValueError: the checkpoint cannot be read.
    """
    from modeling_rogle.inference.loading import load_model  # imported here: only this step needs the model
    from modeling_rogle.inference.preprocessing import PERSON_SEARCH

    def load() -> tuple[Any, Any]:
        try:
            model, processor = load_model(matcher, PERSON_SEARCH)
            return model.eval(), processor
        except (OSError, ValueError) as error:  # the Hub's own message does not name the argument
            raise ValueError(f"--matcher {matcher} cannot be read: {str(error).strip().splitlines()[0]}") from error

    return _load_once(("matcher", matcher), load)


def caption_shard(folder: Path, shard: Path, captioner: str, batch_size: int) -> dict[str, int]:
    """Write long captions for a shard with a vision-language model, into `rows.arrow`. Returns counts."""
    from dataset_pvlg.captioning.enrich import enrich_rows

    rows, counts = enrich_rows(load_captioner(captioner), read_arrow(shard), batch_size, progress=False)
    write_arrow(row_tables(rows), folder / ROWS_FILE)
    return counts


def fit_matcher(folder: Path, shards: Sequence[Path], matcher: str) -> dict[str, Any]:
    """Fit the region matcher on a sample that is spread over the shards, and save it as `MATCHER_FILE`."""
    rows = concatenate_datasets([read_arrow(shard) for shard in shards])
    region_matcher = fit_matching(*load_matcher(matcher), spread(rows, 4 * SAMPLE["matcher"]))
    region_matcher.save(folder / MATCHER_FILE)
    return {}


def match_shard(
    folder: Path, shard: Path, matcher: str, region_matcher: Path, proposer: str, batch_size: int
) -> dict[str, int]:
    """Find regions for the sentences of a shard, into `rows.arrow`. Returns counts."""
    models, rows, propose = load_matcher(matcher), read_arrow(shard), parse_proposer(proposer)
    rows, counts = mine_rows(*models, rows, batch_size, RegionMatcher.load(region_matcher), propose, progress=False)
    write_arrow(row_tables(rows), folder / ROWS_FILE)
    return counts


# write ----------------------------------------------------------------------------------------------------------------


def write_parquet(folder: Path, shards: Sequence[Path], name: str, images: bool, matcher: str | None) -> dict[str, Any]:
    """Write shards to one Parquet file, with the bytes of the images or with null instead.

    Args:
        folder (`Path`): where the file goes.
        shards (`Sequence[Path]`): Arrow files.
        name (`str`): name of the Parquet file.
        images (`bool`): whether to store the images.
        matcher (`str`, *optional*): checkpoint whose tokenizer counts tokens; None counts only words.

    Returns:
        `dict[str, Any]`: `counts`, `people` (the identities), `histograms`, and the `sha256` of the file.

    Raises:
        ValueError: an image has changed since it was read.
    """
    histograms = Histograms(_load_tokenizer(matcher) if matcher else None)
    counts = count_parts([])
    people: set[int] = set()
    with pq.ParquetWriter(folder / name, SCHEMA) as writer:
        for table in (table for shard in shards for table in row_tables(read_arrow(shard), size=ROWS_PER_GROUP)):
            stored = (row | {"image": stored_image(row) if images else None} for row in table.to_pylist())
            for rows in cut_by_bytes(stored):
                writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
                histograms.add(rows)
                people.update(row["person_id"] for row in rows)
                counts.update(count_parts(rows))
    with open(folder / name, "rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    return {"counts": counts, "people": sorted(people), "histograms": histograms.as_dict(), "sha256": checksum}


def _load_tokenizer(matcher: str) -> Any:
    from modeling_rogle import RogleProcessor

    return RogleProcessor.from_pretrained(matcher).tokenizer


def stored_image(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The image of a row as it is stored: the bytes of its source file, and the file's name without folders.

    Raises:
        ValueError: the file has changed since it was read.
    """
    image = row["image"]
    if image is None or image["bytes"] is not None:
        return image
    content = Path(image["path"]).read_bytes()
    if hashlib.sha256(content).hexdigest() != row["sha256"]:
        raise ValueError(f"{image['path']}: has changed since it was read; remove the work folder and build again")
    return {"bytes": content, "path": os.path.basename(image["path"])}


def source_facts(source: Source) -> dict[str, Any]:
    """What the rows of a source depend on: its paths, and sizes and modification times of annotations and images."""
    if source.name == "synthetic":
        return asdict(source)
    root = Path(source.root).resolve()
    nearby = [*root.glob("*"), *root.glob("*/*")]
    tables = sorted(path for path in nearby if path.suffix.lower() in TABLES and path.is_file())
    annotations = [path for path in tables if not (path.parent / REPORT_FILE).exists()]
    if root.is_file():
        annotations = [root]
    files = {str(path): [path.stat().st_size, path.stat().st_mtime_ns] for path in annotations}
    try:
        images = find_source(source.name, root, source.image_root)[1]
    except SourceError:  # the reader reports it
        return {"name": source.name, "root": str(root), "files": files}
    digest = _folder_digest(images)
    return {"name": source.name, "root": str(root), "image_root": str(images), "files": files, "images": digest}


def _folder_digest(root: Path) -> str:
    """sha256 over path, size and modification time of all files in a folder.

    Hidden files and the folders of finished builds are left out, because a build may write into the folder it reads.
    """
    digest = hashlib.sha256()
    for parent, folders, names in os.walk(root):
        if REPORT_FILE in names:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for name in sorted(name for name in names if name[0] != "."):
            path = os.path.join(parent, name)
            try:
                status = os.stat(path)
            except OSError:  # a broken link
                continue
            entry = f"{os.path.relpath(path, root)}\0{status.st_size}\0{status.st_mtime_ns}\n"
            digest.update(os.fsencode(entry))
    return digest.hexdigest()
