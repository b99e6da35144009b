"""python -m dataset_pvlg.captioning.enrich DATA_DIR --captioner MODEL --out DIR

Long captions for a folder of P-VLG Parquet, written by any `image-text-to-text` model of transformers that is given
the image and what people wrote of it. Where the model's caption is rejected the row keeps that. Broken off, the same
command goes on; under `accelerate launch` the work is shared by the processes, and the result does not depend on how.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from datasets import Dataset
from PIL import Image
from tqdm import tqdm

from dataset_pvlg.captioning.caption_filter import clean_caption, reject_reason
from dataset_pvlg.captioning.captioner import DEFAULT_CAPTIONER, Captioner, CaptionOptions
from dataset_pvlg.features import FEATURES
from dataset_pvlg.readers.read import join_captions
from dataset_pvlg.row_groups import FolderRows, Job, add_to_card, check_out, end_processes, processes
from modeling_rogle.sentences import split_sentences

_CHANGED = ["caption", "caption_origin", "sentences", "regions"]
_WORK = "enriching"


def enrich_rows(
    captioner: Captioner | None, rows: Dataset, batch_size: int = 8, progress: bool = True
) -> tuple[Dataset, dict[str, int]]:
    """Long captions for rows, with their sentences.

    A caption that is accepted has the origin `vlm:<name>`. A row whose caption is rejected keeps what people wrote:
    its own caption, or its `captions` joined where another model wrote that. Rows whose regions people or the generator
    have paired with sentences stay as they are; regions mined for the sentences of a caption that is replaced go.

    Args:
        captioner: None writes no caption and only puts back what people wrote.
        rows: P-VLG rows; those without an image keep their caption.
        batch_size: images at once; batches are cut from the rows in order.
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
                found[i] = None, "no image"
            else:
                images[i] = image.convert("RGB")
        except Exception:  # decoders meet hostile bytes here and raise almost anything
            found[i] = None, "image cannot be read"
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
    parts = split_sentences(caption, clauses=True)
    sentences = [{"text": text, "start": start, "end": end} for text, start, end in parts]
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
    rows = FolderRows(data_dir)
    with Job(rows, out, _WORK, captioner.settings | {"batch_size": batch_size}, _CHANGED) as job:
        if job.counts is not None:
            return job.counts
        splits = list(dict.fromkeys(group.split for group in rows.groups))
        counts = job.each(lambda part: enrich_rows(captioner, part, batch_size, progress=False), splits, progress)
        job.finish(counts, lambda folder: _write_report(rows.root, folder, counts, captioner))
        return counts


def _write_report(root: Path, folder: Path, counts: dict[str, dict[str, int]], captioner: Captioner) -> None:
    """`build_report.json` and the card of the input, each with what was done here."""
    file = root / "build_report.json"
    report = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    report["enrichment"] = captioner.settings | {"splits": counts}
    (folder / file.name).write_text(json.dumps(report, indent=2, ensure_ascii=False), encoding="utf-8")
    total = sum((Counter(count) for count in counts.values()), Counter())
    reasons = [f"{n} x {key.removeprefix('rejected: ')}" for key, n in total.items() if key.startswith("rejected: ")]
    section = f"""## Captions by a model

`{captioner.name}` was shown each image and the human captions and wrote {total["vlm"]} of {total["rows"]} long
captions (`caption_origin` is `vlm:{captioner.name}`); they may say what the image does not show. Of the other rows,
{total["fallback"]} keep what people wrote ({", ".join(reasons) or "none was rejected"}), and {total["kept"]} were
paired with regions before and left alone. Counts of sentences and regions above are from before this.
"""
    add_to_card(root, folder, section)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dataset_pvlg.captioning.enrich", description=__doc__.split("\n\n")[1]
    )
    parser.add_argument(
        "data_dir", metavar="DATA_DIR", help="a folder of P-VLG Parquet, as dataset_pvlg.build.build makes"
    )
    parser.add_argument("--captioner", default=DEFAULT_CAPTIONER, metavar="MODEL", help="default: %(default)s")
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument("--prompt", metavar="FILE", help="what is asked, with {facts} for the human captions")
    parser.add_argument("--batch-size", type=int, default=8)
    defaults = CaptionOptions()
    for name, value in asdict(defaults).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help="default: %(default)s")
    args = parser.parse_args(argv)
    state = processes()
    try:
        FolderRows(args.data_dir)
        check_out(args.out, _WORK)
        options = CaptionOptions(**{name: getattr(args, name) for name in asdict(defaults)})
        captioner = Captioner(args.captioner, args.prompt, options, state.device)
        counts = enrich_folder(args.data_dir, args.out, captioner, args.batch_size)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    end_processes(state, counts, args.out)
    return 0


__all__ = ["CaptionOptions", "Captioner", "DEFAULT_CAPTIONER", "enrich_folder", "enrich_rows"]


if __name__ == "__main__":
    sys.exit(main())
