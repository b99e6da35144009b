"""`load_dataset("pvlg", ...)`: the embedded synthetic benchmark, or the Parquet of a folder.

Importing `dataset_pvlg` registers the name. `datasets` no longer runs loading scripts, but it knows its packaged
modules by name, and this module adds one. The module factory is replaced for this name only, because the original
factory would search the current directory for data files.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from importlib.resources import files
from pathlib import Path

import datasets
import datasets.load
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

from dataset_pvlg.boxes import clip_regions
from dataset_pvlg.features import CITATION, FEATURES, OPTIONAL, PAPER, SPLITS
from dataset_pvlg.synthetic import dataset as version_2
from dataset_pvlg.synthetic_v1 import dataset as version_1
from dataset_pvlg.synthetic_v1.noise import Noise
from modeling_rogle.indexing.metadata_tables import MISSING

NAME = "pvlg"
logger = logging.getLogger(__name__)

_SHARD = re.compile(r"-\d{5}-of-(\d{5})\.parquet$")
# Texts that every row must have, and lists with the fields that every entry must have. A null list counts as empty.
NEVER_NULL = {
    "image_id": None,
    "person_id": None,
    "caption": None,
    "caption_origin": None,
    "captions": (),
    "sentences": ("text", "start", "end"),
    "regions": ("score", "reliability"),
}
# Files of modeling_rogle that the content of a built row depends on: splitting, decoding, models, matching, tables.
_MODEL_FILES = (
    "*.py",
    "inference/*.py",
    "matching/*.py",
    "reliability/*.py",
    "indexing/*.py",
    "index/path_spellings.py",
)
GENERATORS = {"v1": version_1, "v2": version_2}
_MISSING_VALUES = {value.casefold() for value in MISSING}
_FOOTER_BYTES = 2**16  # at the end of a Parquet file, with the sizes and checksums of its columns
SHARD_IDENTITIES = 50  # identities that a process generates at a time; more processes than shards would be idle


class LayoutError(ValueError):
    """A data_dir has no P-VLG Parquet, a file cannot be read, or a row contradicts itself. The message is one line."""


@dataclass
class PVLGConfig(datasets.BuilderConfig):
    """Sizes of the synthetic data, as keyword arguments of `load_dataset`. They are ignored if data_dir is given.

    Args:
        train_identities (`int`): identities of train.
        validation_identities (`int`): identities of validation.
        test_identities (`int`): identities of test.
        images_per_identity (`int`): images of each identity.
        generator (`str`): v2, or v1 for the older set.
        seed (`int`): seed of the generator.
        noise (`dict[str, float]`): rates of annotation noise by name, see `synthetic/noise.py`; none by default.
    """

    train_identities: int = 2000
    validation_identities: int = 200
    test_identities: int = 1000
    images_per_identity: int = 4
    generator: str = "v2"
    seed: int = 0
    noise: dict[str, float] = field(default_factory=dict)

    def synthetic(self) -> version_1.SyntheticConfig | version_2.SyntheticConfig:
        """The configuration of the generator. Raises ValueError on a wrong size, an unknown noise or generator."""
        if self.generator not in GENERATORS:
            raise ValueError(f"pvlg: unknown generator {self.generator!r}; known: {', '.join(GENERATORS)}")
        unknown = set(self.noise) - {f.name for f in fields(Noise)}
        if unknown:
            raise ValueError(f"pvlg: unknown noise {sorted(unknown)}; known: {[f.name for f in fields(Noise)]}")
        config = GENERATORS[self.generator].SyntheticConfig
        sizes = {f.name: getattr(self, f.name) for f in fields(config) if f.name != "noise"}
        return config(**sizes, noise=Noise(**self.noise))


class PVLG(datasets.GeneratorBasedBuilder):
    """P-VLG rows (`features.FEATURES`): synthetic by default, or the Parquet files of data_dir."""

    VERSION = datasets.Version("2.0.0")
    BUILDER_CONFIG_CLASS = PVLGConfig
    BUILDER_CONFIGS = [
        PVLGConfig(name="synthetic", version=VERSION, description="3,200 procedural identities, 4 images each"),
        PVLGConfig(
            name="synthetic-tiny",
            version=VERSION,
            description="40 procedural identities, 2 images each, for tests",
            train_identities=24,
            validation_identities=8,
            test_identities=8,
            images_per_identity=2,
        ),
        PVLGConfig(
            name="synthetic-v1",
            version=datasets.Version("1.0.0"),
            description="the older set: 1,850 procedural identities, 4 images each",
            train_identities=1500,
            validation_identities=150,
            test_identities=200,
            generator="v1",
        ),
    ]
    DEFAULT_CONFIG_NAME = "synthetic"

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="P-VLG: pedestrians with long captions and regions paired with sentences.",
            features=FEATURES,
            license="apache-2.0",
            homepage=PAPER,
            citation=CITATION,
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        if self.config.data_dir is not None:
            return [
                datasets.SplitGenerator(name=split, gen_kwargs={"split": split, "config": None, "shards": files})
                for split, files in parquet_files(self.config.data_dir).items()
            ]
        config = self.config.synthetic()
        generators = []
        for split in SPLITS:
            count = config.identities(split)
            step = max(1, min(SHARD_IDENTITIES, math.ceil(count / 8)))
            shards = [(start, min(start + step, count)) for start in range(0, count, step)]
            if shards:  # a list, which `datasets` divides among processes and streaming workers
                kwargs = {"split": split, "config": config, "shards": shards}
                generators.append(datasets.SplitGenerator(name=split, gen_kwargs=kwargs))
        if not generators:
            raise ValueError("pvlg: all three splits have 0 identities")
        return generators

    def _generate_examples(
        self, split: str, config: version_1.SyntheticConfig | version_2.SyntheticConfig | None, shards: list
    ) -> Iterator[tuple[str, dict]]:
        for shard in shards:
            if config is None:
                source = _parquet_rows(shard)
            elif isinstance(config, version_1.SyntheticConfig):
                source = version_1.rows(split, shard[0], shard[1], config)
            else:
                source = version_2.rows(split, shard[0], shard[1], config)
            for row in source:
                yield row["image_id"], row


def parquet_files(data_dir: str | Path) -> dict[str, list[str]]:
    """The Parquet files of a P-VLG folder.

    Args:
        data_dir (`str` or `Path`): a folder with `{split}-*.parquet` or `{split}.parquet`, in itself or in its `data/`.

    Returns:
        `dict[str, list[str]]`: split -> paths.

    Raises:
        LayoutError: there are no such files (the message lists the content of the folder), or a file of a series like
            `{split}-00000-of-00002.parquet` is missing.
    """
    root = Path(data_dir).expanduser()
    if not root.is_dir():
        raise LayoutError(f"pvlg: data_dir {data_dir} is not a folder")
    for folder in (root, root / "data"):
        files_by_split = {
            split: sorted(
                str(p) for pattern in (f"{split}-*.parquet", f"{split}.parquet") for p in folder.glob(pattern)
            )
            for split in SPLITS
        }
        if any(files_by_split.values()):
            for split, files in files_by_split.items():
                _check_complete(folder, split, files)
            return {split: files for split, files in files_by_split.items() if files}
    content = sorted(p.name + ("/" if p.is_dir() else "") for p in root.iterdir())
    listing = ", ".join(content[:8]) if content else "nothing"
    listing += f" and {len(content) - 8} more" if len(content) > 8 else ""
    raise LayoutError(
        f"pvlg: {data_dir} holds no P-VLG Parquet (train-*.parquet, validation-*.parquet or test-*.parquet, "
        f"here or in data/); found: {listing}. Convert a public data set with `rogle data build`."
    )


def _check_complete(folder: Path, split: str, files: list[str]) -> None:
    """Without this check, a missing shard would silently give a smaller data set."""
    totals = {match[1] for match in (_SHARD.search(file) for file in files) if match}
    for total in totals:
        for n in range(int(total)):
            name = f"{split}-{n:05d}-of-{total}.parquet"
            if str(folder / name) not in files:
                raise LayoutError(f"pvlg: {folder} lacks {name}")
    if len(totals) > 1:
        raise LayoutError(
            f"pvlg: {folder} holds files of several builds of {split} (of {', of '.join(sorted(totals))})"
        )


def _parquet_rows(path: str) -> Iterator[dict]:
    """Rows of a file with boxes clipped to their image and without captions such as `nan`. Both are counted in the log.

    Raises LayoutError.
    """
    counts: Counter[str] = Counter()
    try:
        with pq.ParquetFile(path) as file:
            missing = [name for name in FEATURES if name not in file.schema_arrow.names and name not in OPTIONAL]
            if missing:
                raise LayoutError(f"pvlg: {path} lacks the column(s) {', '.join(missing)}")
            columns = [name for name in FEATURES if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=64, columns=columns):
                for row in batch.to_pylist():
                    row |= empty_lists(row, f"pvlg: {path}")
                    captions = [text for text in row["captions"] if text.strip().casefold() not in _MISSING_VALUES]
                    counts["captions"] += len(row["captions"]) - len(captions)
                    row["captions"] = captions
                    yield {**dict.fromkeys(OPTIONAL), **row, "regions": _checked_regions(row, path, counts)}
    except (pa.ArrowException, OSError) as error:
        raise LayoutError(f"pvlg: {path} is not readable as Parquet: {str(error).strip().splitlines()[0]}") from error
    if counts.total():
        logger.warning(
            "pvlg: %s: %d boxes clipped to their image, %d dropped with under one pixel inside it, "
            "%d dropped because the same box with the same sentence came before, "
            "%d captions dropped that name a missing value",
            path, counts["clipped"], counts["dropped"], counts["repeated"], counts["captions"],
        )  # fmt: skip


def empty_lists(row: dict, path: str) -> dict[str, list]:
    """Empty lists for the list columns that a row of an external file has as null.

    Args:
        row (`dict`): columns of a P-VLG row.
        path (`str`): the file of the row, for messages.

    Returns:
        `dict[str, list]`: column -> empty list.

    Raises:
        LayoutError: a value is null that must not be ([`NEVER_NULL`]). It would otherwise cause a TypeError hours
            later. The message names file, row and field.
    """
    lists: dict[str, list] = {}
    for name, parts in NEVER_NULL.items():
        if name not in row:
            continue
        value, null = row[name], None
        if value is None and parts is None:
            null = name
        elif value is None:
            lists[name] = []
        elif isinstance(value, list) and parts is not None:
            for n, item in enumerate(value):
                missing = [part for part in parts if isinstance(item, dict) and item.get(part) is None]
                if item is None or missing:
                    null = f"{name}[{n}]" + "".join(f".{part}" for part in missing[:1])
                    break
        if null is not None:
            raise LayoutError(f"{path}: image_id {row.get('image_id')!r}: field '{null}' is null")
    return lists


def _checked_regions(row: dict, path: str, counts: Counter) -> list[dict]:
    """The regions of a row of an external file. A wrong index or box would otherwise fail in training, or never."""
    sentences, checked = len(row["sentences"] or []), []
    listed: set[tuple] = set()
    for n, region in enumerate(row["regions"] or []):
        where = f"pvlg: {path}: image_id {row['image_id']!r}: field"
        for side in ("width", "height"):
            if not row[side]:
                raise LayoutError(f"{where} '{side}' is {row[side]}, but the row has regions")
        width, height = row["width"], row["height"]
        if not isinstance(region, dict):
            raise LayoutError(f"{where} 'regions' is not a list of objects")
        sentence, box = region.get("sentence"), region.get("bbox") or []
        if not isinstance(sentence, int) or not -1 <= sentence < sentences:
            raise LayoutError(f"{where} 'regions[{n}].sentence' is {sentence}, the row has {sentences} (-1: none)")
        if len(box) != 4 or None in box:
            raise LayoutError(f"{where} 'regions[{n}].bbox' is {box}, not x, y, w, h")
        x, y, w, h = box
        if not (x < width and y < height and x + w > 0 and y + h > 0):  # true for NaN too
            raise LayoutError(f"{where} 'regions[{n}].bbox' {box} lies outside its image of {width} x {height} pixels")
        if (sentence, *box) in listed:  # the same box with another sentence is another entry
            counts["repeated"] += 1
            continue
        listed.add((sentence, *box))
        clipped, changes = clip_regions([region], width, height)
        counts.update(changes)
        if changes["clipped"]:
            checked += clipped
        elif clipped:
            checked.append(region)  # a correct box stays bit for bit
    return [{"attributes": None, **region} for region in checked]


def code_hash() -> str:
    """sha256 over every Python file of the package, so that changed code does not use an old cache."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def pipeline_hash() -> str:
    """[`code_hash`] and the prompts and model code that built rows depend on: the key of unfinished work."""
    digest = hashlib.sha256(code_hash().encode())
    root = Path(__file__).resolve().parent
    model = Path(str(files("modeling_rogle")))
    prompts = ((root, path) for path in sorted((root / "captioning" / "prompts").glob("*.txt")))
    sources = ((model, path) for pattern in _MODEL_FILES for path in sorted(model.glob(pattern)))
    for folder, path in [*prompts, *sources]:
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def file_facts(path: str | Path) -> list[int]:
    """Size, modification time and time of the last change of a file's content or status, in bytes and nanoseconds.

    `cp -p`, `rsync -t` and `tar` set the modification time of new content to that of the original; no program can set
    the third value.
    """
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _content_hash(code: str, paths: list[str]) -> str:
    """A cache key of Parquet files: the hash of the code, and facts and footer of each file."""
    digest = hashlib.sha256(code.encode())
    for path in paths:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _FOOTER_BYTES))
            digest.update(f"{path} {file_facts(path)}".encode() + file.read())
    return digest.hexdigest()


def register() -> None:
    """Register the name "pvlg" with `datasets.load_dataset`. Repeated calls have no effect."""
    _PACKAGED_DATASETS_MODULES[NAME] = (__name__, code_hash())
    original = datasets.load.PackagedDatasetModuleFactory
    if getattr(original, "knows_pvlg", False):
        return

    class Factory(original):  # type: ignore[valid-type, misc]
        knows_pvlg = True

        def get_module(self) -> datasets.load.DatasetModule:
            if self.name != NAME:
                return super().get_module()
            if self.data_files is not None:
                raise ValueError("pvlg: data_files is not supported; pass the folder as data_dir")
            path, digest = _PACKAGED_DATASETS_MODULES[NAME]
            kwargs: dict = {"dataset_name": NAME, "data_files": datasets.data_files.DataFilesDict()}
            if self.data_dir is not None:
                # data_files bring the modification times into the cache key; the builder reads the rows
                root = str(Path(self.data_dir).expanduser().resolve())
                names = parquet_files(root)
                digest = _content_hash(digest, [file for files in names.values() for file in files])
                kwargs["data_dir"] = root
                kwargs["data_files"] = datasets.data_files.DataFilesDict.from_patterns(names, base_path=root)
            return datasets.load.DatasetModule(path, digest, kwargs)

    datasets.load.PackagedDatasetModuleFactory = Factory
