"""python -m dataset_pvlg.generation.generate DATA --out DIR [--editor renderer|MODEL] [--share 1.0] [--approximate 0.5]

Proximity data generation (PDG, arXiv 2311.09084) as a data stage: for training images of DATA a near copy in which
one thing has another colour, in the image and in every caption. DATA is `synthetic`, `synthetic-tiny` or a folder of
P-VLG Parquet; DIR becomes such a folder, with DATA's rows and, in `train` alone, the generated ones.

    --editor renderer    synthetic P-VLG only: the generator draws the same person, pose, camera and scene again
    --editor MODEL       a model of `diffusers`, by folder or Hub name (`pip install 'rogle[pdg]'`)

Generated rows have source `generated`, their image's image_id as `parent`, and a person_id of their own: images of
one person that were given the same change show one new person. Half of their captions are approximate text
(`approximate_text.py`); the third of PDG's parts, mix-up, belongs into the batch (`train/data/augment.py`). Nobody looks at
what a diffusion model makes, neither there nor here. A run that was stopped goes on with the same command.
"""

import argparse
import hashlib
import io
import json
import os
import shutil
import sys
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

from dataset_pvlg.builder import PVLG, pipeline_hash
from dataset_pvlg.features import FEATURES
from dataset_pvlg.generation.image_edits import ImageEditor, choose_edit, swap_colour, swap_in_row
from dataset_pvlg.generation.text_edits import approximate
from dataset_pvlg.jobs.stages import resolved_out
from dataset_pvlg.loading import SYNTHETIC_NAMES, load_rows
from dataset_pvlg.synthetic.dataset import SyntheticConfig, edited_row, place_of

SHARD = 64  # parents a file of finished work
ROWS_PER_GROUP = 100  # rows decoded together when a Parquet file is read at random
_QUALITY = 92  # of the JPEGs of edited images
# Of a row: what was changed (`kind-colour`) and the edited row, person_id still its parent's; or why there is none.
Edit = Callable[[Mapping], tuple[str, dict] | str]


@dataclass(frozen=True)
class Options:
    """editor: `renderer` or a model. share: of the training images that get a copy. approximate: share of the copies'
    captions that become approximate text. seed: of all draws. steps: of the model's denoising."""

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
    """Writes the folder `out`, which appears whole or not at all; finished work stands in `out.part` until then.

    Returns:
        The content of `generate_report.json`.

    Raises:
        ValueError: DATA cannot be read or cannot be edited that way, `out` holds something, or `out.part` was begun
            with other options.
        ImportError: a model is asked for and diffusers is not installed.
    """
    options, out = options or Options(), resolved_out(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: exists and is not an empty folder; choose another --out")
    rows, _ = load_rows(data) if data in SYNTHETIC_NAMES else load_rows("pvlg", data)
    if not len(rows.get("train", ())):
        raise ValueError(f"{data}: no rows in split 'train', which alone is added to")
    train = rows["train"]
    edit = _renderer(data) if options.editor == "renderer" else _model(options)
    parents = np.flatnonzero(np.random.default_rng(options.seed).random(len(train)) < options.share)
    part = out.with_name(f"{out.name}.part")
    ids = crc32("\n".join(train["image_id"][:]).encode())
    _claim(part, {"data": data, "image_ids": ids, "code": pipeline_hash()} | asdict(options))

    why, shards = Counter(parents=len(parents)), []
    with tqdm(total=len(parents), desc="generate", unit="image") as bar:
        for start in range(0, len(parents), SHARD):
            shards.append(part / f"shard-{start // SHARD:05d}.parquet")
            chosen = parents[start : start + SHARD]
            if not shards[-1].exists():
                made, counts = _shard(train.select(chosen.tolist()), edit, options)
                table = pa.Table.from_pylist([FEATURES.encode_example(row) for row in made], FEATURES.arrow_schema)
                pq.write_table(table.replace_schema_metadata({"why": json.dumps(counts)}), part / "writing")
                os.replace(part / "writing", shards[-1])
            why.update(json.loads(pq.read_schema(shards[-1]).metadata[b"why"]))
            bar.update(len(chosen))
    # The card and the report may be passed on; the paths of this machine are nobody's business.
    named = Path(options.editor).name if Path(options.editor).exists() else options.editor
    told = {"data": Path(data).name, "options": asdict(options) | {"editor": named}, "counts": dict(why)}
    return _finish(rows, shards, part, out, told)


def _claim(part: Path, settings: dict) -> None:
    saved = part / "settings.json"
    if saved.exists():
        theirs = json.loads(saved.read_text(encoding="utf-8"))
        for name, mine in settings.items():
            if theirs.get(name) != mine:
                raise ValueError(f"{saved}: {name} is {theirs.get(name)!r}, this command {mine!r}; name another --out")
    part.mkdir(parents=True, exist_ok=True)
    (part / "writing").write_text(json.dumps(settings), encoding="utf-8")
    os.replace(part / "writing", saved)


def _renderer(data: str) -> Edit:
    if data not in SYNTHETIC_NAMES:
        raise ValueError(f"--editor renderer: only {' and '.join(SYNTHETIC_NAMES)} can be drawn again, not {data}")
    config: SyntheticConfig = next(c for c in PVLG.BUILDER_CONFIGS if c.name == data).synthetic()

    def edit(row: Mapping) -> tuple[str, dict] | str:
        return edited_row(*place_of(row["image_id"]), config) or "nothing to change"

    return edit


def _model(options: Options) -> Edit:
    editor = ImageEditor(options.editor, options.steps)

    def edit(row: Mapping) -> tuple[str, dict] | str:
        if row["image"] is None:
            return "no image"
        # One draw a person: images of a person are changed alike where their captions allow.
        draw = np.random.default_rng((options.seed, abs(row["person_id"])))
        chosen = choose_edit([row["caption"], *row["captions"]], draw)
        if chosen is None:
            return "nothing to change"
        named = [n for n, s in enumerate(row["sentences"]) if swap_colour(s["text"], chosen) != s["text"]]
        boxes = [region["bbox"] for region in row["regions"] if region["sentence"] in named]
        image = editor.edit(row["image"], chosen, boxes, crc32(row["image_id"].encode()) ^ options.seed)
        stored = io.BytesIO()
        image.save(stored, "JPEG", quality=_QUALITY)
        image_id = f"generated/{row['image_id']}_{chosen.what}"
        changed = {
            "image": {"bytes": stored.getvalue(), "path": f"{image_id}.jpg"},
            "path": f"{image_id}.jpg",
            "sha256": hashlib.sha256(stored.getvalue()).hexdigest(),
            "image_id": image_id,
            "source": "generated",
            "parent": row["image_id"],
        }
        return chosen.what, {**row, **swap_in_row(row, chosen), **changed}

    return edit


def _shard(rows: Dataset, edit: Edit, options: Options) -> tuple[list[dict], dict[str, int]]:
    """Generated rows of some parents, and how many of them met which end."""
    made, why = [], Counter()
    for number in range(len(rows)):
        try:
            parent = rows[number]
        except Exception:  # decoders meet hostile bytes here and raise almost anything
            parent = None
        found = "broken image" if parent is None else edit(parent)
        if isinstance(found, str):
            why[found] += 1
            continue
        what, row = found
        why.update(["generated", f"changed: {what.split('-')[0]}"])
        rng = np.random.default_rng((options.seed, crc32(row["image_id"].encode())))
        made.append(_approximated(row, options.approximate, rng, why))
    return made, dict(why)


def _approximated(row: dict, share: float, rng: np.random.Generator, why: Counter) -> dict:
    """The row with that share of its captions said approximately; a region whose sentence is gone has none any more."""
    row = dict(row)
    if rng.random() < share:
        why["approximate long captions"] += 1
        row["caption"], row["sentences"], origins = approximate(row["caption"], row["sentences"], rng)
        place = {old: new for new, old in enumerate(origins)}
        row["regions"] = [region | {"sentence": place.get(region["sentence"], -1)} for region in row["regions"]]
    row["captions"] = [approximate(text, [], rng)[0] if rng.random() < share else text for text in row["captions"]]
    return row


def _finish(rows: DatasetDict, shards: Sequence[Path], part: Path, out: Path, report: dict) -> dict:
    """DATA's rows and the shards -> `out`."""
    people = max(max(split["person_id"][:]) for split in rows.values() if len(split)) + 1
    new: dict[tuple[int, str], int] = {}
    whole = part / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    (whole / "data").mkdir(parents=True)
    for split, content in rows.items():
        files = 2 if split == "train" else 1
        arrow = content.with_format("arrow")
        with pq.ParquetWriter(
            whole / "data" / f"{split}-00000-of-{files:05d}.parquet", FEATURES.arrow_schema
        ) as writer:
            for start in tqdm(range(0, len(content), ROWS_PER_GROUP), desc=f"writing {split}", disable=None):
                table = embed_table_storage(arrow[start : start + ROWS_PER_GROUP])
                writer.write_table(table.select(list(FEATURES)).cast(FEATURES.arrow_schema))
    with pq.ParquetWriter(whole / "data" / "train-00001-of-00002.parquet", FEATURES.arrow_schema) as writer:
        for file in shards:
            table = pq.read_table(file)
            what = [name.rpartition("_")[2] for name in table["image_id"].to_pylist()]
            keys = zip(table["person_id"].to_pylist(), what, strict=True)
            ids = pa.array([new.setdefault(key, people + len(new)) for key in keys], pa.int64())
            table = table.set_column(table.schema.get_field_index("person_id"), "person_id", ids)
            writer.write_table(table.cast(FEATURES.arrow_schema))
    report["counts"]["new identities"] = len(new)
    report["rows"] = {split: len(content) for split, content in rows.items()}
    report["rows"]["train"] += report["counts"].get("generated", 0)
    (whole / "generate_report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (whole / "README.md").write_text(CARD.format(**report, report=json.dumps(report, indent=1)), encoding="utf-8")
    if out.exists():
        out.rmdir()
    os.replace(whole, out)
    shutil.rmtree(part)
    return report


CARD = """---
license: other
tags: [person-search, text-based-person-retrieval, synthetic]
---
# {data} with generated near copies

Made by `python -m dataset_pvlg.generation.generate` of Rogle. Rows whose `source` is `generated` show people that do not exist:
each is an edit of the row that its `parent` names, with one thing in another colour. They stand in `train` alone. What
holds for the images and captions that they were made from, their licence above all, holds for them too.

```
{report}
```
"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", help=f"{', '.join(SYNTHETIC_NAMES)} or a folder of P-VLG Parquet")
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument("--editor", default="renderer", metavar="MODEL", help="renderer, or a model of diffusers")
    parser.add_argument("--share", type=float, default=1.0, help="of the training images that get a copy")
    parser.add_argument(
        "--approximate", type=float, default=0.5, help="share of approximate captions among the copies'"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=50, help="of denoising")
    args = parser.parse_args(argv)
    try:
        options = Options(args.editor, args.share, args.approximate, args.seed, args.steps)
        report = generate(args.data, args.out, options)
    except (ValueError, OSError, ImportError) as error:
        print(f"dataset_pvlg.generation.generate: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(", ".join(f"{count} {name}" for name, count in report["counts"].items()))
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
