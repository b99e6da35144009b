"""`rogle data generate`: add edited copies of training images (proximity data generation, PDG, arXiv 2311.09084).

In each copy one thing has another colour, both in the image and in the captions. The input is a synthetic set or a
folder of P-VLG Parquet. The output folder holds all rows of the input; the generated rows are
added to the split `train` only.

    --editor renderer    synthetic P-VLG only: the generator draws the same person, pose, camera and scene again, and
                         version 2 writes the captions again
    --editor MODEL       a diffusion model of `diffusers`, by folder or Hub name (`pip install 'rogle[pdg]'`)

A generated row has the source `generated`, the image_id of the original as its `parent`, and a new person_id. Images
of one person with the same edit share that person_id. By default, half of the captions are replaced by approximate
text (`text_edits.py`). The third part of PDG, mix-up, is applied to training batches (`train/data/augment.py`). Neither
PDG nor this module filters what a diffusion model generates. An interrupted run resumes with the same command.
"""

import argparse
import hashlib
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict
from datasets.table import embed_table_storage
from tqdm.auto import tqdm

from dataset_pvlg.builder import GENERATORS, PVLG, pipeline_hash
from dataset_pvlg.features import FEATURES
from dataset_pvlg.generation.image_edits import ImageEditor, choose_edit, swap_colour, swap_row_colour
from dataset_pvlg.generation.text_edits import approximate
from dataset_pvlg.jobs.stages import resolved_out
from dataset_pvlg.loading import SYNTHETIC_NAMES, load_rows
from modeling_rogle.image_io import ImageError, decode_stored
from modeling_rogle.inference.row_images import undecoded

SHARD_SIZE = 64  # parent rows in one file of finished work
ROWS_PER_GROUP = 100  # rows that are decoded together when a Parquet file is read at random
_QUALITY = 92  # JPEG quality of edited images
_SETTINGS_FILE, _PART_FILE = "settings.json", "writing"
# row -> (name of the edit, `kind-colour`; the edited row with the parent's person_id), or the reason for no edit.
Edit = Callable[[Mapping], tuple[str, dict] | str]


@dataclass(frozen=True)
class Options:
    """Options of [`generate`].

    Args:
        editor: `renderer`, or the folder or Hub name of a diffusion model.
        share: fraction of the training images that get a copy, in [0, 1].
        approximate: fraction of the copies' captions that are replaced by approximate text, in [0, 1].
        seed: random seed.
        steps: denoising steps of the diffusion model.

    Raises:
        ValueError: a value is out of range.
    """

    editor: str = "renderer"
    share: float = 1.0
    approximate: float = 0.5
    seed: int = 0
    steps: int = 50

    def __post_init__(self) -> None:
        for name in ("share", "approximate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--{name} must lie in [0, 1], not {getattr(self, name)}")
        if self.steps < 1:
            raise ValueError(f"--steps must be at least 1, not {self.steps}")


def generate(data: str, out: str | Path, options: Options | None = None) -> dict:
    """Writes the folder `out`. Finished shards are kept in `out.part` until the folder is complete.

    Args:
        data: `synthetic`, `synthetic-tiny` or a folder of P-VLG Parquet.
        out: a folder that is absent or empty.
        options: see [`Options`]. None: the defaults.

    Returns:
        The content of `generate_report.json`.

    Raises:
        ValueError: `data` cannot be read, the editor does not support it, `out` is not empty, or `out.part` was
            started with other options.
        ImportError: the editor is a model and diffusers is not installed.
    """
    options, out = options or Options(), resolved_out(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: exists and is not an empty folder; choose another --out")
    rows, _ = load_rows(data) if data in SYNTHETIC_NAMES else load_rows("pvlg", data)
    if not len(rows.get("train", ())):
        raise ValueError(f"{data}: has no rows in split 'train', the only split that is extended")
    train = rows["train"]
    edit = _renderer_edit(data) if options.editor == "renderer" else _diffusion_edit(options)
    parents = np.flatnonzero(np.random.default_rng(options.seed).random(len(train)) < options.share)
    part = out.with_name(f"{out.name}.part")
    ids = crc32("\n".join(train["image_id"][:]).encode())
    _check_settings(part, {"data": data, "image_ids": ids, "code": pipeline_hash()} | asdict(options))

    counts, shards = Counter(parents=len(parents)), []
    with tqdm(total=len(parents), desc="generate", unit="image") as bar:
        for start in range(0, len(parents), SHARD_SIZE):
            shards.append(part / f"shard-{start // SHARD_SIZE:05d}.parquet")
            chosen = parents[start : start + SHARD_SIZE]
            if not shards[-1].exists():
                _write_shard(shards[-1], *_edit_rows(train.select(chosen.tolist()), edit, options))
            counts.update(json.loads(pq.read_schema(shards[-1]).metadata[b"counts"]))
            bar.update(len(chosen))
    # The card and the report may be published, so they name a local model or folder without its path.
    editor = Path(options.editor).name if Path(options.editor).exists() else options.editor
    report = {"data": Path(data).name, "options": asdict(options) | {"editor": editor}, "counts": dict(counts)}
    return _finish(rows, shards, part, out, report)


def _check_settings(part: Path, settings: dict) -> None:
    """Stores the settings of a new run, or compares them with those of the interrupted one."""
    saved = part / _SETTINGS_FILE
    if saved.exists():
        earlier = json.loads(saved.read_text(encoding="utf-8"))
        for name, value in settings.items():
            if earlier.get(name) != value:
                raise ValueError(
                    f"{saved}: {name} is {earlier.get(name)!r}, this command has {value!r}; choose another --out"
                )
    part.mkdir(parents=True, exist_ok=True)
    (part / _PART_FILE).write_text(json.dumps(settings), encoding="utf-8")
    os.replace(part / _PART_FILE, saved)


def _renderer_edit(data: str) -> Edit:
    if data not in SYNTHETIC_NAMES:
        raise ValueError(f"--editor renderer: supports only {' and '.join(SYNTHETIC_NAMES)}, not {data}")
    sizes = next(c for c in PVLG.BUILDER_CONFIGS if c.name == data)
    generator, config = GENERATORS[sizes.generator], sizes.synthetic()

    def edit(row: Mapping) -> tuple[str, dict] | str:
        return generator.edited_row(*generator.parse_image_id(row["image_id"]), config) or "nothing to change"

    return edit


def _diffusion_edit(options: Options) -> Edit:
    editor = ImageEditor(options.editor, options.steps)

    def edit(row: Mapping) -> tuple[str, dict] | str:
        if row["image"] is None:
            return "no image"
        # One generator per person, so that the images of a person get the same edit where their captions allow it.
        rng = np.random.default_rng((options.seed, abs(row["person_id"])))
        chosen = choose_edit([row["caption"], *row["captions"]], rng)
        if chosen is None:
            return "nothing to change"
        named = [n for n, s in enumerate(row["sentences"]) if swap_colour(s["text"], chosen) != s["text"]]
        boxes = [region["bbox"] for region in row["regions"] if region["sentence"] in named]
        image = editor.edit(row["image"], chosen, boxes, crc32(row["image_id"].encode()) ^ options.seed)
        stored = io.BytesIO()
        image.save(stored, "JPEG", quality=_QUALITY)
        image_id = f"generated/{row['image_id']}_{chosen.name}"
        changed = {
            "image": {"bytes": stored.getvalue(), "path": f"{image_id}.jpg"},
            "path": f"{image_id}.jpg",
            "sha256": hashlib.sha256(stored.getvalue()).hexdigest(),
            "image_id": image_id,
            "source": "generated",
            "parent": row["image_id"],
            "claims": None,
            "regions": [region | {"attributes": None} for region in row["regions"]],
        }
        return chosen.name, {**row, **swap_row_colour(row, chosen), **changed}

    return edit


def _edit_rows(rows: Dataset, edit: Edit, options: Options) -> tuple[list[dict], dict[str, int]]:
    """The edited copies of some parent rows, and counts of edits and of the reasons for no edit."""
    generated: list[dict] = []
    counts: Counter[str] = Counter()
    for parent in undecoded(rows):
        try:
            if parent["image"] is not None:
                parent["image"] = decode_stored(parent["image"], parent["image_id"]).image
            result = edit(parent)
        except ImageError:
            result = "broken image"
        if isinstance(result, str):
            counts[result] += 1
            continue
        name, row = result
        counts.update(["generated", f"changed: {name.rpartition('-')[0]}"])
        rng = np.random.default_rng((options.seed, crc32(row["image_id"].encode())))
        generated.append(_with_approximate_text(row, options.approximate, rng, counts))
    return generated, dict(counts)


def _with_approximate_text(row: dict, share: float, rng: np.random.Generator, counts: Counter) -> dict:
    """Replaces this share of the captions. A region whose sentence was dropped becomes unpaired (sentence -1)."""
    row = dict(row)
    if rng.random() < share:
        counts["approximate long captions"] += 1
        row["caption"], row["sentences"], origins = approximate(row["caption"], row["sentences"], rng)
        new_number = {old: new for new, old in enumerate(origins)}
        row["regions"] = [region | {"sentence": new_number.get(region["sentence"], -1)} for region in row["regions"]]
        row["claims"] = None  # a sentence that lost words states less
    row["captions"] = [approximate(text, [], rng)[0] if rng.random() < share else text for text in row["captions"]]
    return row


def _write_shard(file: Path, rows: list[dict], counts: dict[str, int]) -> None:
    table = pa.Table.from_pylist([FEATURES.encode_example(row) for row in rows], FEATURES.arrow_schema)
    part = file.with_name(_PART_FILE)
    pq.write_table(table.replace_schema_metadata({"counts": json.dumps(counts)}), part)
    os.replace(part, file)


def _finish(rows: DatasetDict, shards: Sequence[Path], part: Path, out: Path, report: dict) -> dict:
    """Writes the input rows, the generated rows, the report and the card, then moves the folder to `out`."""
    folder = part / "whole"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "data").mkdir(parents=True)
    for split, content in rows.items():
        files = 2 if split == "train" else 1
        _write_split(content, folder / "data" / f"{split}-00000-of-{files:05d}.parquet", split)
    first_person = max(max(split["person_id"][:]) for split in rows.values() if len(split)) + 1
    identities = _write_generated(shards, folder / "data" / "train-00001-of-00002.parquet", first_person)
    report["counts"]["new identities"] = identities
    report["rows"] = {split: len(content) for split, content in rows.items()}
    report["rows"]["train"] += report["counts"].get("generated", 0)
    (folder / "generate_report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(CARD.format(**report, report=json.dumps(report, indent=1)), encoding="utf-8")
    if out.exists():
        out.rmdir()
    os.replace(folder, out)
    shutil.rmtree(part)
    return report


def _write_split(rows: Dataset, file: Path, split: str) -> None:
    arrow = rows.with_format("arrow")
    with pq.ParquetWriter(file, FEATURES.arrow_schema) as writer:
        for start in tqdm(range(0, len(rows), ROWS_PER_GROUP), desc=f"writing {split}", disable=None):
            table = embed_table_storage(arrow[start : start + ROWS_PER_GROUP])
            writer.write_table(table.select(list(FEATURES)).cast(FEATURES.arrow_schema))


def _write_generated(shards: Sequence[Path], file: Path, first_person: int) -> int:
    """Writes all shards as one file, with new person_ids from `first_person` on; returns the number of new persons."""
    new_ids: dict[tuple[int, str], int] = {}
    with pq.ParquetWriter(file, FEATURES.arrow_schema) as writer:
        for shard in shards:
            table = pq.read_table(shard)
            edits = [name.rpartition("_")[2] for name in table["image_id"].to_pylist()]
            keys = zip(table["person_id"].to_pylist(), edits, strict=True)
            ids = pa.array([new_ids.setdefault(key, first_person + len(new_ids)) for key in keys], pa.int64())
            table = table.set_column(table.schema.get_field_index("person_id"), "person_id", ids)
            writer.write_table(table.cast(FEATURES.arrow_schema))
    return len(new_ids)


CARD = """---
license: other
tags: [person-search, text-based-person-retrieval, synthetic]
---
# {data} with generated copies

Written by `rogle data generate`. Rows whose `source` is `generated` show people who do not exist. Each is an edited
copy of the row that its `parent` names, with one thing in another colour. They are in the split `train` only. The
licence and the restrictions of the original images and captions also apply to the generated ones.

```
{report}
```
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `rogle data generate`."""
    default = Options()
    parser.add_argument("data", metavar="DATA", help=f"{', '.join(SYNTHETIC_NAMES)} or a folder of P-VLG Parquet")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder for the extended data set")
    parser.add_argument(
        "--editor", default=default.editor, metavar="MODEL",
        help="renderer, or the folder or Hub name of a diffusers model (default: renderer)",
    )  # fmt: skip
    parser.add_argument(
        "--share", type=float, default=default.share, metavar="F",
        help="fraction of the training images that get an edited copy (default: 1.0)",
    )  # fmt: skip
    parser.add_argument(
        "--approximate", type=float, default=default.approximate, metavar="F",
        help="fraction of the copies' captions that are replaced by approximate text (default: 0.5)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=default.seed, metavar="N", help="random seed (default: 0)")
    parser.add_argument(
        "--steps", type=int, default=default.steps, metavar="N", help="denoising steps of the model (default: 50)"
    )


def run(args: argparse.Namespace) -> None:
    """Generates the data set and prints its counts.

    Raises:
        ValueError, OSError: bad arguments, unreadable data, or diffusers is not installed.
    """
    options = Options(args.editor, args.share, args.approximate, args.seed, args.steps)
    try:
        report = generate(args.data, args.out, options)
    except ImportError as error:
        raise ValueError(str(error)) from error
    print(", ".join(f"{count} {name}" for name, count in report["counts"].items()))
    print(args.out)


__all__ = ["Options", "add_arguments", "generate", "run"]
