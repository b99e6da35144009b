"""python -m dataset_pvlg.enrich DATA_DIR --captioner MODEL --out DIR

Long captions for a folder of P-VLG Parquet, written by any `image-text-to-text` model of transformers that is given
the picture and what people wrote of it. Where the model's caption is rejected the row keeps that. Broken off, the same
command goes on; under `accelerate launch` the work is shared by the processes, and the result does not depend on how.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env
from datasets import Dataset
from datasets.table import InMemoryTable
from PIL import Image
from tqdm import tqdm

from dataset_pvlg.builder import parquet_files
from dataset_pvlg.caption_hygiene import clean_caption, reject_reason
from dataset_pvlg.captioner import DEFAULT_CAPTIONER, Captioner, CaptionOptions, first_line
from dataset_pvlg.features import FEATURES
from dataset_pvlg.sources.walk import join_captions
from modeling_rogle.sentences import split_sentences

_CHANGED = ["caption", "caption_origin", "sentences", "regions"]


def enrich_rows(
    captioner: Captioner | None, rows: Dataset, batch_size: int = 8, progress: bool = True
) -> tuple[Dataset, dict[str, int]]:
    """Long captions for rows, with their sentences.

    A caption that is accepted has the origin `vlm:<name>`. A row whose caption is rejected keeps what people wrote:
    its own caption, or its `captions` joined where another model wrote that. Rows whose regions people or the generator
    have paired with sentences stay as they are; regions mined for the sentences of a caption that is replaced go.

    Args:
        captioner: None writes no caption and only puts back what people wrote.
        rows: P-VLG rows; those without a picture keep their caption.
        batch_size: pictures at once; batches are cut from the rows in order.
        progress: show a bar.

    Returns:
        The rows, and counts: `rows` = `kept` (paired before) + `vlm` + `fallback`; of the latter, one
        `rejected: <reason>` for each reason.
    """
    texts = rows.select_columns(["image_id", "captions", *_CHANGED])
    counts: Counter[str] = Counter(rows=len(rows), kept=0, vlm=0, fallback=0)
    columns: dict[str, list] = {name: [] for name in _CHANGED}
    for start in tqdm(range(0, len(rows), batch_size), desc="captioning", unit="batch", disable=not progress):
        batch = [texts[i] for i in range(start, min(start + batch_size, len(rows)))]
        free = [i for i, row in enumerate(batch) if not _is_paired(row)]
        human = {i: _human_caption(batch[i]) for i in free}
        answers = {} if captioner is None else _answers(captioner, rows, start, batch, human)
        for i, row in enumerate(batch):
            if i not in human:
                counts["kept"] += 1
            else:
                caption, reason = answers.get(i, (None, None))
                counts["fallback" if caption is None else "vlm"] += 1
                if reason:
                    counts[f"rejected: {reason}"] += 1
                text, origin = human[i] if caption is None else (caption, f"vlm:{captioner.name}")
                row = _with_caption(row, text, origin)
            for name in _CHANGED:
                columns[name].append(row[name])
    enriched = rows.remove_columns(_CHANGED)
    for name, column in columns.items():
        enriched = enriched.add_column(name, column, feature=FEATURES[name])
    return enriched.select_columns(list(FEATURES)), dict(counts)


def _answers(
    captioner: Captioner, rows: Dataset, start: int, batch: list[dict], human: dict[int, tuple[str, str]]
) -> dict[int, tuple[str | None, str | None]]:
    """Place in the batch -> the caption, or None and why it is rejected."""
    found: dict[int, tuple[str | None, str | None]] = {}
    images: dict[int, Image.Image] = {}
    for i in human:
        try:
            image = rows[start + i]["image"]
            if image is None:
                found[i] = None, "no picture"
            else:
                images[i] = image.convert("RGB")
        except (OSError, ValueError, SyntaxError):  # what Pillow raises for broken files
            found[i] = None, "picture cannot be read"
    if images:
        ids = [batch[i]["image_id"] for i in images]
        answers = captioner.describe(list(images.values()), [human[i][0] for i in images], ids)
        for i, (answer, ended) in zip(images, answers, strict=True):
            caption, options = clean_caption(answer, ended), captioner.options
            reason = reject_reason(caption, human[i][0], options.min_words, options.min_sentences)
            found[i] = (None, reason) if reason else (caption, None)
    return found


def _is_paired(row: dict) -> bool:
    return any(region["sentence"] >= 0 and region["origin"] != "rsm" for region in row["regions"])


def _human_caption(row: dict) -> tuple[str, str]:
    if row["caption_origin"].startswith("vlm:") and row["captions"]:
        return join_captions(row["captions"])
    return row["caption"], row["caption_origin"]


def _with_caption(row: dict, caption: str, origin: str) -> dict:
    if caption == row["caption"]:
        return row | {"caption_origin": origin}
    sentences = [{"text": text, "start": start, "end": end} for text, start, end in split_sentences(caption)]
    regions = [region for region in row["regions"] if region["origin"] != "rsm"]
    return row | {"caption": caption, "caption_origin": origin, "sentences": sentences, "regions": regions}


# ---------------------------------------------------------------------------------------------------- a whole folder
def enrich_folder(
    data_dir: str | Path, out: str | Path, captioner: Captioner, batch_size: int = 8, progress: bool = True
) -> dict[str, dict[str, int]]:
    """Captions every row of a P-VLG folder and writes the folder `out`, file by file as they are in `data_dir`.

    The processes of Accelerate share the row groups. Each finished group stays in a hidden folder beside `out` until
    the end, so that the same call goes on where another was broken off.

    Returns:
        By split, the counts of [`enrich_rows`].

    Raises:
        ValueError: `data_dir` is no P-VLG folder, `out` holds something, or was begun with other settings.
    """
    state = _processes()
    root, out = Path(data_dir), Path(out)
    parts = out.parent / f".{out.name}.enriching"
    plan: list[Any] = [None, None]
    if state.is_main_process:
        try:
            plan[1] = _plan(root, out, parts, captioner.settings | {"batch_size": batch_size})
        except (ValueError, OSError) as error:
            plan[0] = str(error)
    broadcast_object_list(plan)
    if plan[0] is not None:
        raise ValueError(plan[0])
    units = plan[1]
    mine = [unit for unit in units if not _part(parts, unit).exists()]
    state.wait_for_everyone()  # or one could see what another has just finished, and share out differently
    mine = mine[state.process_index :: state.num_processes]
    bar = progress and state.is_main_process
    for unit in tqdm(mine, desc="row groups", disable=not bar):
        _caption_group(root / unit["file"], unit["group"], _part(parts, unit), captioner, batch_size)
    state.wait_for_everyone()
    counts: dict[str, Counter[str]] = {}
    for unit in units:
        saved = json.loads(_part(parts, unit).with_suffix(".json").read_text(encoding="utf-8"))
        counts.setdefault(unit["split"], Counter()).update(saved)
    result = {split: dict(count) for split, count in counts.items()}
    state.wait_for_everyone()  # all have read the counts before they go
    if state.is_main_process:
        _assemble(root, out, parts, units, result, captioner)
    state.wait_for_everyone()
    return result


def _processes() -> PartialState:
    # By itself it does not see the processes of a machine without a GPU. They end hours apart.
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=cpu, timeout=timedelta(days=7))


def _files(root: Path, out: Path) -> dict[str, list[str]]:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: exists and is not an empty folder; choose another --out")
    return parquet_files(str(root))


def _plan(root: Path, out: Path, parts: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    units, files = [], {}
    for split, names in _files(root, out).items():
        for name in names:
            file = str(Path(name).relative_to(root))
            files[file] = [os.path.getsize(name), os.stat(name).st_mtime_ns]
            try:
                with pq.ParquetFile(name) as parquet:
                    missing = [c for c in FEATURES if c not in parquet.schema_arrow.names and c != "image"]
                    units += [{"split": split, "file": file, "group": n} for n in range(parquet.num_row_groups)]
            except pa.ArrowException as error:
                raise ValueError(f"{name}: is not readable as Parquet: {first_line(error)}") from error
            if missing:
                raise ValueError(f"{name}: lacks the column(s) {', '.join(missing)}")
    content = json.dumps(settings | {"files": files}, indent=2, sort_keys=True)
    begun = parts / "settings.json"
    if begun.exists():
        if begun.read_text(encoding="utf-8") != content:
            raise ValueError(f"{parts}: was begun with other settings or data; remove it or choose another --out")
    else:
        parts.mkdir(parents=True, exist_ok=True)
        _write_atomically(begun, content)
    return units


def _part(parts: Path, unit: dict[str, Any]) -> Path:
    return parts / f"{Path(unit['file']).stem}-{unit['group']:06d}.parquet"


def _caption_group(file: Path, group: int, part: Path, captioner: Captioner, batch_size: int) -> None:
    rows = Dataset(InMemoryTable(next(_groups(file, [group]))))
    enriched, counts = enrich_rows(captioner, rows, batch_size, progress=False)
    _write_atomically(part.with_suffix(".json"), json.dumps(counts))
    table = enriched.select_columns(_CHANGED).with_format("arrow")[:]
    pq.write_table(table, part.with_suffix(".part"))
    os.replace(part.with_suffix(".part"), part)  # last: a part that is there has its counts


def _groups(file: Path, groups: Sequence[int] | None = None) -> Iterator[pa.Table]:
    """Row groups of a P-VLG file in the schema of P-VLG; pictures are null where the file has none."""
    schema = FEATURES.arrow_schema
    with pq.ParquetFile(file) as parquet:
        columns = [name for name in FEATURES if name in parquet.schema_arrow.names]
        for group in range(parquet.num_row_groups) if groups is None else groups:
            table = parquet.read_row_group(group, columns=columns)
            if "image" not in columns:
                table = table.append_column("image", pa.nulls(len(table), schema.field("image").type))
            yield table.select(list(FEATURES)).cast(schema)


def _assemble(
    root: Path, out: Path, parts: Path, units: list[dict], counts: dict[str, dict[str, int]], captioner: Captioner
) -> None:
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        schema = FEATURES.arrow_schema
        for file in dict.fromkeys(unit["file"] for unit in units):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            with pq.ParquetWriter(folder / file, schema) as writer:
                for group, table in enumerate(_groups(root / file)):
                    new = pq.read_table(_part(parts, {"file": file, "group": group}))
                    for name in _CHANGED:
                        table = table.set_column(table.schema.get_field_index(name), schema.field(name), new[name])
                    writer.write_table(table.cast(schema), row_group_size=len(table))
        _write_report(root, folder, counts, captioner)
        folder.chmod(0o755)  # mkdtemp's folders are closed to everybody else
        os.replace(folder, out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(parts)


def _write_report(root: Path, folder: Path, counts: dict[str, dict[str, int]], captioner: Captioner) -> None:
    """`build_report.json` and the card of the input, each with what was done here."""
    file = root / "build_report.json"
    report = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    report["enrichment"] = captioner.settings | {"splits": counts}
    (folder / file.name).write_text(json.dumps(report, indent=2, ensure_ascii=False), encoding="utf-8")
    card = root / "README.md"
    text = card.read_text(encoding="utf-8").rstrip() + "\n" if card.exists() else "# P-VLG rows\n"
    total = sum((Counter(count) for count in counts.values()), Counter())
    reasons = [f"{n} x {key.removeprefix('rejected: ')}" for key, n in total.items() if key.startswith("rejected: ")]
    text += f"""
## Captions by a model

`{captioner.name}` was shown each picture and the human captions and wrote {total["vlm"]} of {total["rows"]} long
captions (`caption_origin` is `vlm:{captioner.name}`); they may say what the picture does not show. Of the other rows,
{total["fallback"]} keep what people wrote ({", ".join(reasons) or "none was rejected"}), and {total["kept"]} were
paired with regions before and left alone. Counts of sentences and regions above are from before this.
"""
    card = folder / card.name
    card.write_text(text, encoding="utf-8")


def _write_atomically(file: Path, content: str) -> None:
    part = file.with_name(file.name + ".part")
    part.write_text(content, encoding="utf-8")
    os.replace(part, file)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dataset_pvlg.enrich", description=__doc__.split("\n\n")[1])
    parser.add_argument("data_dir", metavar="DATA_DIR", help="a folder of P-VLG Parquet, as dataset_pvlg.build makes")
    parser.add_argument("--captioner", default=DEFAULT_CAPTIONER, metavar="MODEL", help="default: %(default)s")
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument("--prompt", metavar="FILE", help="what is asked, with {facts} for the human captions")
    parser.add_argument("--batch-size", type=int, default=8)
    defaults = CaptionOptions()
    for name, value in asdict(defaults).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help="default: %(default)s")
    args = parser.parse_args(argv)
    state = _processes()
    try:
        _files(Path(args.data_dir), Path(args.out))  # a typo must not cost the loading of a model
        options = CaptionOptions(**{name: getattr(args, name) for name in asdict(defaults)})
        captioner = Captioner(args.captioner, args.prompt, options, state.device)
        counts = enrich_folder(args.data_dir, args.out, captioner, args.batch_size)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if state.num_processes > 1:
        state.destroy_process_group()
    if state.is_main_process:
        for split, count in counts.items():
            print(f"{split}: " + ", ".join(f"{number} {name}" for name, number in count.items()))
        print(args.out)
    return 0


__all__ = ["CaptionOptions", "Captioner", "DEFAULT_CAPTIONER", "enrich_folder", "enrich_rows"]


if __name__ == "__main__":
    sys.exit(main())
