"""`rogle data enrich DATA_DIR --captioner MODEL --out DIR`: long captions for a folder of P-VLG Parquet.

Any `image-text-to-text` model of transformers writes them. It receives the image and the captions that people wrote. If
its caption is rejected, the row keeps the human caption. If the command is killed, the same command resumes it. Under
`accelerate launch -m modeling_rogle.cli.main data enrich ...` several processes share the work, with the same result.
"""

import argparse
import json
from collections import Counter
from dataclasses import asdict, fields
from pathlib import Path

from datasets import Dataset
from PIL import Image
from tqdm import tqdm

from dataset_pvlg.captioning.caption_filter import clean_caption, reject_reason
from dataset_pvlg.captioning.captioner import DEFAULT_CAPTIONER, Captioner, CaptionOptions
from dataset_pvlg.features import FEATURES
from dataset_pvlg.readers.read import join_captions
from dataset_pvlg.row_groups import FolderRows, Job, add_to_card, check_out, end_processes, processes
from modeling_rogle.image_io import ImageError, decode_stored
from modeling_rogle.inference.row_images import undecoded
from modeling_rogle.sentences import split_sentences

_CHANGED = ["caption", "caption_origin", "sentences", "regions", "claims"]
_JOB_NAME = "enriching"


def enrich_rows(
    captioner: Captioner | None, rows: Dataset, batch_size: int = 8, progress: bool = True
) -> tuple[Dataset, dict[str, int]]:
    """Write long captions for rows, and split them into sentences.

    An accepted caption has the origin `vlm:<name>`. If the caption is rejected, the row keeps its human caption: its
    own caption, or its joined `captions` if a model wrote that one. Rows whose regions are paired with sentences by
    people or by the generator stay as they are. Regions that were mined for a replaced caption are removed.

    Args:
        captioner (`Captioner`, *optional*): None writes no caption and only restores the human captions.
        rows (`Dataset`): P-VLG rows; those without an image keep their caption.
        batch_size (`int`): images in a batch; batches are cut from the rows in order.
        progress (`bool`): whether to show a progress bar.

    Returns:
        `tuple[Dataset, dict[str, int]]`: the rows and counts. `rows` is the sum of `kept` (already paired), `vlm`, and
        `fallback`. There is one count `rejected: <reason>` for each reason of a fallback.
    """
    texts = rows.select_columns(["image_id", "captions", *_CHANGED])
    counts: Counter[str] = Counter(rows=len(rows), kept=0, vlm=0, fallback=0)
    columns: dict[str, list] = {name: [] for name in _CHANGED}
    stored = undecoded(rows.select_columns("image"))
    for start in tqdm(range(0, len(rows), batch_size), desc="captioning", unit="batch", disable=not progress):
        batch = [texts[i] for i in range(start, min(start + batch_size, len(rows)))]
        human = {i: _human_caption(row) for i, row in enumerate(batch) if not _is_paired(row)}
        answers = {} if captioner is None else _checked_answers(captioner, stored, start, batch, human)
        for i, row in enumerate(batch):
            if i not in human:
                counts["kept"] += 1
            else:
                caption, reason = answers.get(i, (None, None))
                counts["fallback" if caption is None else "vlm"] += 1
                if reason:
                    counts[f"rejected: {reason}"] += 1
                text, origin = human[i]
                if captioner is not None and caption is not None:
                    text, origin = caption, f"vlm:{captioner.name}"
                row = _with_caption(row, text, origin)
            for name in _CHANGED:
                columns[name].append(row[name])
    enriched = rows.remove_columns(_CHANGED)
    for name, column in columns.items():
        enriched = enriched.add_column(name, column, feature=FEATURES[name])
    return enriched.select_columns(list(FEATURES)), dict(counts)


def _checked_answers(
    captioner: Captioner, rows: Dataset, start: int, batch: list[dict], human: dict[int, tuple[str, str]]
) -> dict[int, tuple[str | None, str | None]]:
    """Position in the batch -> the accepted caption, or None and the reason of the rejection."""
    answers: dict[int, tuple[str | None, str | None]] = {}
    images: dict[int, Image.Image] = {}
    for i in human:
        try:
            image = rows[start + i]["image"]
            if image is None:
                answers[i] = None, "no image"
            else:
                images[i] = decode_stored(image, batch[i]["image_id"]).image
        except ImageError:
            answers[i] = None, "image cannot be read"
    if images:
        ids = [batch[i]["image_id"] for i in images]
        texts = captioner.describe(list(images.values()), [human[i][0] for i in images], ids)
        for i, (text, ended) in zip(images, texts, strict=True):
            caption, options = clean_caption(text, ended), captioner.options
            reason = reject_reason(caption, human[i][0], options.min_words, options.min_sentences)
            answers[i] = (None, reason) if reason else (caption, None)
    return answers


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
    changed = {"caption": caption, "caption_origin": origin, "sentences": sentences, "regions": regions}
    return row | changed | {"claims": None}  # no one knows what the new sentences state


# a whole folder -------------------------------------------------------------------------------------------------------


def enrich_folder(
    data_dir: str | Path, out: str | Path, captioner: Captioner, batch_size: int = 8, progress: bool = True
) -> dict[str, dict[str, int]]:
    """Write a caption for every row of a P-VLG folder into the folder `out`, with the same files as `data_dir`.

    The processes of Accelerate share the row groups. Finished groups are stored in a hidden folder beside `out` until
    the end. If the call is interrupted, the same call resumes it.

    Args:
        data_dir (`str` or `Path`): a folder of P-VLG Parquet.
        out (`str` or `Path`): a folder that does not exist yet or is empty.
        captioner (`Captioner`): the model.
        batch_size (`int`): images in a batch.
        progress (`bool`): whether to show a progress bar.

    Returns:
        `dict[str, dict[str, int]]`: the counts of [`enrich_rows`] by split.

    Raises:
        ValueError: `data_dir` is not a P-VLG folder, `out` is not empty, or it was begun with other settings.
    """
    rows = FolderRows(data_dir)
    with Job(rows, out, _JOB_NAME, captioner.settings | {"batch_size": batch_size}, _CHANGED) as job:
        if job.counts is not None:
            return job.counts
        splits = list(dict.fromkeys(group.split for group in rows.groups))
        counts = job.process_groups(
            lambda part: enrich_rows(captioner, part, batch_size, progress=False), splits, progress
        )
        job.finish(counts, lambda folder: _write_report(Path(data_dir), folder, counts, captioner))
        return counts


def _write_report(root: Path, folder: Path, counts: dict[str, dict[str, int]], captioner: Captioner) -> None:
    """Write `build_report.json` and the card of the input, each extended by the results of this run."""
    file = root / "build_report.json"
    report = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    report["enrichment"] = captioner.settings | {"splits": counts}
    (folder / file.name).write_text(json.dumps(report, indent=2, ensure_ascii=False), encoding="utf-8")
    total = sum((Counter(count) for count in counts.values()), Counter())
    reasons = [f"{n} x {key.removeprefix('rejected: ')}" for key, n in total.items() if key.startswith("rejected: ")]
    section = f"""## Captions by a model

`{captioner.name}` wrote {total["vlm"]} of {total["rows"]} long captions from the image and its human captions
(`caption_origin` is `vlm:{captioner.name}`). They may describe details that the image does not show. Of the other rows,
{total["fallback"]} keep their human caption ({", ".join(reasons) or "none was rejected"}). {total["kept"]} rows were
already paired with regions and were not changed. The counts of sentences and regions above are from before this step.
"""
    add_to_card(root, folder, section)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rogle data enrich`."""
    parser.add_argument("data_dir", metavar="DATA_DIR", help="folder of P-VLG Parquet, as `rogle data build` writes it")
    parser.add_argument(
        "--captioner",
        default=DEFAULT_CAPTIONER,
        metavar="MODEL",
        help="model that writes captions (default: %(default)s)",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder for the data set")
    parser.add_argument(
        "--prompt",
        metavar="FILE",
        help="prompt for the model, with {facts} where the human captions go (default: prompts/describe.txt)",
    )
    parser.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="images in a batch (default: %(default)s)"
    )
    for option in fields(CaptionOptions):
        parser.add_argument(
            f"--{option.name.replace('_', '-')}",
            type=type(option.default),
            default=option.default,
            metavar="N",
            help=f"{option.metadata['help']} (default: %(default)s)",
        )


def run(args: argparse.Namespace) -> None:
    """Write the captions that the arguments request; print the counts of each split and the folder.

    Raises:
        ValueError: an argument is wrong, or the model or the data cannot be read.
        OSError: writing failed.
    """
    state = processes()
    FolderRows(args.data_dir)  # fail before the model is loaded
    check_out(args.out, _JOB_NAME)
    options = CaptionOptions(**{name: getattr(args, name) for name in asdict(CaptionOptions())})
    captioner = Captioner(args.captioner, args.prompt, options, state.device)
    counts = enrich_folder(args.data_dir, args.out, captioner, args.batch_size)
    end_processes(state, counts, args.out)


__all__ = ["CaptionOptions", "Captioner", "DEFAULT_CAPTIONER", "enrich_folder", "enrich_rows"]
