"""python eval/eval.py --model DIR --dataset synthetic --split test [--data-root DIR] [--out DIR] [--cache DIR]

Scores a Rogle or CLIP checkpoint on one split by the protocols of eval/pvlg/README.md. Prints a Markdown table with
bootstrap intervals. --out also writes results.json, .csv and .md, the ranks of every query, and an image of the worst
queries.

Several processes share the encoding and give the same figures bit for bit, if each uses the same number of threads:
`accelerate launch --num_processes N eval/eval.py ...`. On CPUs that command would silently run one process; use
`ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N eval/eval.py ...` there.
"""

import argparse
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # started by path: packages are found from the root, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import PIL
import tokenizers
import torch
import transformers
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from datasets import Dataset, DatasetDict

from dataset_pvlg.loading import DATASET_NAMES, load_rows
from eval.breakdown import breakdown, groups_of_queries
from eval.card_entries import card_path, read_card, write_entries
from eval.embedding_cache import Encoded, cached_split
from eval.failures import draw_failures, worst_queries
from eval.intervals import bootstrap
from eval.outputs import dropped_lines, query_table, reference_notes, scores_table, texts_of_queries, write_outputs
from eval.provenance import checkpoint_sha256, code_version, data_fingerprint, model_code_sha256
from modeling_rogle.evaluation.fusion import fit_local_weight
from modeling_rogle.evaluation.protocols import PROTOCOL, PROTOCOLS, RankedQueries, ranked_queries
from modeling_rogle.evaluation.references import REFERENCES, fit_look_up, reference_lines, sentences_of
from modeling_rogle.evaluation.split_embeddings import SplitEmbeddings, without_images
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.inference.loading import load_model
from modeling_rogle.inference.preprocessing import PERSON_SEARCH
from modeling_rogle.metrics.ranks import TIES

FAILURES_FILE, MAX_FAILURES = "failures.webp", 30  # a WebP image is at most 16,383 pixels tall
NO_POSITIVE = {
    "long": "have no image of their identity in the gallery",
    "short": "have no image of their identity in the gallery",
    "image": "have no caption of their identity in the gallery",
    "sentence": "are true of no region",
}


def read_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line; wrong values end the program."""
    parser = argparse.ArgumentParser(prog="eval/eval.py", description=__doc__.split("\n\n")[1])
    parser.add_argument(
        "--model", required=True, metavar="DIR", help="Rogle or CLIP checkpoint, a folder or a Hub name"
    )
    parser.add_argument("--dataset", default="synthetic", choices=DATASET_NAMES, help="data set (default: synthetic)")
    parser.add_argument(
        "--data-root", metavar="DIR", help="folder of the data set (default: none, for a synthetic data set)"
    )
    parser.add_argument(
        "--image-root",
        metavar="DIR",
        help="folder that image paths are relative to (default: the usual one of the data set)",
    )
    parser.add_argument(
        "--split", default="test", metavar="SPLIT", help="split to score: train, validation or test (default: test)"
    )
    parser.add_argument(
        "--protocols",
        metavar="NAMES",
        type=_protocols,
        default=PROTOCOLS,
        help="protocols to score, separated by commas (default: global,local,local-strict,joint)",
    )
    parser.add_argument(
        "--local-weight",
        metavar="W",
        type=_weight,
        help="weight of late interaction in [0, 1], or auto: fitted on validation (default: that of the checkpoint)",
    )
    parser.add_argument(
        "--ties",
        choices=TIES,
        default=TIES[0],
        help="rank of a positive that ties with negatives (default: pessimistic)",
    )
    parser.add_argument(
        "--batch-size", metavar="N", type=_count, default=64, help="images per forward pass (default: 64)"
    )
    parser.add_argument(
        "--threads", metavar="N", type=_count, help="CPU threads per process (default: chosen by torch)"
    )
    parser.add_argument(
        "--device", metavar="DEVICE", help="torch device (default: the accelerator if there is one, else cpu)"
    )
    parser.add_argument(
        "--cache",
        metavar="DIR",
        type=Path,
        help="folder that embeddings are stored in and read from (default: no cache)",
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="folder that the results are written to (default: none)"
    )
    parser.add_argument(
        "--bootstrap",
        metavar="N",
        type=_count_or_none,
        default=1000,
        help="bootstrap draws for the intervals, 0 for no intervals (default: 1000)",
    )
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="seed of the bootstrap (default: 0)")
    parser.add_argument(
        "--failures",
        metavar="N",
        type=_failures,
        default=8,
        help="number of worst queries in the image, 0 for no image (default: 8)",
    )
    parser.add_argument(
        "--card",
        metavar="FILE",
        type=Path,
        help="model card, or its folder, that the scores are written into (default: none)",
    )
    return parser.parse_args(argv)


def _protocols(text: str) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in PROTOCOLS]
    if unknown or not names:
        wrong = ", ".join(unknown) or repr(text)
        raise argparse.ArgumentTypeError(f"protocol {wrong} is not known; known are {', '.join(PROTOCOLS)}")
    return tuple(name for name in PROTOCOLS if name in names)


def _weight(text: str) -> float | str:
    if text == "auto":
        return text
    try:
        weight = float(text)
    except ValueError:
        weight = -1.0
    if not 0.0 <= weight <= 1.0:
        raise argparse.ArgumentTypeError(f"must be a number in [0, 1] or auto, not {text!r}")
    return weight


def _count_or_none(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}")
    return int(text)


def _failures(text: str) -> int:
    if _count_or_none(text) > MAX_FAILURES:
        raise argparse.ArgumentTypeError(f"must be at most {MAX_FAILURES}, the height limit of WebP")
    return int(text)


def _count(text: str) -> int:
    if _count_or_none(text) == 0:
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def _check_paths(arguments: argparse.Namespace) -> None:
    """Checks output paths and the device first, since scoring may take an hour."""
    for name in ("out", "cache"):
        path = getattr(arguments, name)
        if path is None:
            continue
        if path.exists() and not path.is_dir():
            raise ValueError(f"--{name} {path} is a file; it must be a folder")
        existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise ValueError(f"--{name} {path}: nothing can be written in {existing}")
    if arguments.card is not None:
        read_card(card_path(arguments.card), "")
    try:
        if arguments.device is not None:
            torch.empty(1, device=arguments.device).cpu()  # fails for a missing device, and for "meta"
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"--device {arguments.device!r}: {str(error).splitlines()[0]}") from error


def _load_data(arguments: argparse.Namespace) -> tuple[DatasetDict, Any]:
    """The data set and the report of its reader, with the splits checked."""
    data, report = load_rows(arguments.dataset, arguments.data_root, arguments.image_root, images=True)
    fitting = ["validation"] if arguments.local_weight == "auto" else []
    for split in [arguments.split, *fitting]:
        if split not in data:
            raise ValueError(f"dataset {arguments.dataset!r} has no split {split!r}; it has {', '.join(data)}")
        if len(data[split]) == 0:
            raise ValueError(f"dataset {arguments.dataset!r}: split {split!r} is empty")
    if fitting and arguments.split != "validation":
        shared = set(data["validation"]["person_id"]) & set(data[arguments.split]["person_id"])
        if shared:
            raise ValueError(
                f"dataset {arguments.dataset!r}: validation and {arguments.split} share {len(shared)} identities "
                f"(person_id {min(shared)}), so a weight fitted on validation would be chosen on {arguments.split}"
            )
    return data, report


def _load_checkpoint(name: str) -> tuple[Any, Any]:
    if not Path(name).exists() and (name.startswith((".", "/", "~")) or name.count("/") != 1):
        raise ValueError(f"--model {name} cannot be read: there is no such folder")
    if Path(name).exists() and not (Path(name) / "config.json").is_file():
        raise ValueError(f"--model {name} cannot be read: it is no checkpoint folder, config.json is missing")
    try:
        return load_model(name, PERSON_SEARCH)
    except GalleryError as error:
        raise ValueError(f"--model {error}") from error
    except (OSError, ValueError) as error:  # the Hub's message does not name the argument
        raise ValueError(f"--model {name} cannot be read: {str(error).strip().splitlines()[0]}") from error


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        report: the content of results.json.
        lines: the ranked queries by line of the results.
        embeddings: the split.
        rows: the rows of the split.
    """

    report: dict[str, Any]
    lines: dict[str, RankedQueries]
    embeddings: SplitEmbeddings
    rows: Dataset


def evaluate_checkpoint(arguments: argparse.Namespace, state: PartialState) -> Evaluation | None:
    """Encodes the split in all processes and scores it in the main process.

    Args:
        arguments: see `read_arguments`.
        state: the processes.

    Returns:
        The result; None in all processes but the main one.

    Raises:
        ValueError, OSError: bad arguments, or a data set, rows or checkpoint that cannot be read; one line.
    """
    _check_paths(arguments)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    data, read_report = _load_data(arguments)  # in every process, so that an error ends all of them with the same line
    if read_report is not None and state.is_main_process:
        print(read_report, file=sys.stderr)
    model, processor = _load_checkpoint(arguments.model)
    device = str(arguments.device or (state.device if state.num_processes > 1 else model.device))
    model = model.to(device)
    checkpoint = checkpoint_sha256(arguments.model) if state.is_main_process else None
    if state.is_main_process and arguments.cache is not None and checkpoint is None:
        raise ValueError(f"--cache: {arguments.model} has no local weight files, which name the cached embeddings")

    @cache
    def fingerprint(split: str) -> str:
        return data_fingerprint(data[split])

    def encode(split: str) -> Encoded | None:
        def key() -> dict[str, Any]:
            return _cache_key(arguments, checkpoint, fingerprint(split), split, device)

        rows, size, folder = data[split], arguments.batch_size, arguments.cache
        return cached_split(model, processor, rows, key, folder, state, size, split=split)

    weight, weight_from, table = arguments.local_weight, "given", None
    if weight == "auto":
        weight_from = "fitted on validation"
        validation = encode("validation")
        if validation is not None:
            weight, table = fit_local_weight(validation.embeddings)
    elif weight is None:
        weight, weight_from = model.config.local_weight, "the checkpoint's"
    encoded = encode(arguments.split)
    if encoded is None:
        return None
    rows = data[arguments.split]
    lines = ranked_queries(encoded.embeddings, weight, arguments.protocols, arguments.ties)
    look_up = None
    if "local" in arguments.protocols:
        look_up = fit_look_up(data.get("train"))
        lines |= reference_lines(encoded.embeddings, sentences_of(rows), look_up, arguments.ties)
    report = {
        "protocol": PROTOCOL,
        "relevance": "facts" if bool(encoded.embeddings.facts_known) else "labels",
        "look_up": "words and boxes of train" if look_up is not None else "keywords and template boxes",
        "model": arguments.model,
        "checkpoint_sha256": checkpoint,
        "dataset": arguments.dataset,
        "dataset_fingerprint": fingerprint(arguments.split),
        "split": arguments.split,
        "rows": len(rows),
        "identities": len(encoded.embeddings.image_person_ids.unique()),
        "protocols": list(arguments.protocols),
        "local_weight": weight,
        "weight_from": weight_from,
        "local_weight_table": table,
        "ties": arguments.ties,
        "code": code_version(),
        "embeddings": encoded.origin,
        "processes": state.num_processes,
        "images_by_process": encoded.images_by_process,
        "device": device,
        "threads": torch.get_num_threads(),
        "batch_size": arguments.batch_size,
        "read_report": read_report.as_dict() if read_report is not None else None,
    } | _figures(arguments, lines, rows)
    return Evaluation(report, lines, encoded.embeddings, rows)


def _cache_key(
    arguments: argparse.Namespace, checkpoint: str | None, data: str, split: str, device: str
) -> dict[str, Any]:
    """Everything that the bits of the embeddings depend on."""
    return {
        "checkpoint": checkpoint,
        "data": data,
        "split": split,
        "code": model_code_sha256(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "pillow": PIL.__version__,
        "tokenizers": tokenizers.__version__,
        "machine": platform.machine(),
        "batch_size": arguments.batch_size,
        "device": device,
        "threads": torch.get_num_threads() if device.startswith("cpu") else None,
    }


def _figures(arguments: argparse.Namespace, lines: Mapping[str, RankedQueries], rows: Dataset) -> dict[str, Any]:
    """The part of the report that the ranks give."""
    intervals = {}
    if arguments.bootstrap:
        for name, line in lines.items():
            bounds = bootstrap(line.ranking, line.person_ids, arguments.bootstrap, arguments.seed)
            intervals[name] = {metric: bounds[metric] for metric in line.scores() if metric in bounds}
    # The joint protocol has the same captions and sentences as queries, so their groups would be listed twice.
    scored = {name: line for name, line in lines.items() if name not in REFERENCES}
    grouped = {name: line for name, line in scored.items() if not name.startswith("joint")}
    return {
        "dropped": _dropped(scored),
        "results": {f"{name}/{k}": value for name, line in lines.items() for k, value in line.scores().items()},
        "bootstrap": {"draws": arguments.bootstrap, "seed": arguments.seed, "over": "identities of the queries"},
        "intervals": intervals,
        "breakdown": breakdown(grouped, groups_of_queries(without_images(rows))),
    }


def _dropped(lines: Mapping[str, RankedQueries]) -> dict[str, dict[str, Any]]:
    counts = {name: int((line.ranking.n_positives == 0).sum()) for name, line in lines.items()}
    return {name: {"queries": count, "why": NO_POSITIVE[lines[name].kind]} for name, count in counts.items() if count}


def _write(arguments: argparse.Namespace, evaluation: Evaluation) -> None:
    """Writes the folder of --out and the card, if they were requested."""
    report, lines, rows = evaluation.report, evaluation.lines, evaluation.rows
    if arguments.out is not None:
        texts = texts_of_queries(without_images(rows))
        (arguments.out / FAILURES_FILE).unlink(missing_ok=True)  # an image of an earlier run would be misleading
        _draw(arguments, evaluation, texts)
        scored = {name: line for name, line in lines.items() if name not in REFERENCES}
        write_outputs(arguments.out, report, query_table(scored, rows["image_id"], texts))
    if arguments.card is not None:
        print(f"scores written into {write_entries(arguments.card, report)}", file=sys.stderr)


def _draw(arguments: argparse.Namespace, evaluation: Evaluation, texts: Mapping[str, Sequence[str]]) -> None:
    report, lines = evaluation.report, evaluation.lines
    name = next((name for name in ("global+local/long", "global/long", "global/short") if name in lines), None)
    if not arguments.failures or name is None:
        return
    ranked, weight = lines[name], report["local_weight"] if name.startswith("global+local") else 0.0
    failures = worst_queries(evaluation.embeddings, ranked, texts[ranked.kind], arguments.failures, weight)
    title = f"Worst {len(failures)} of {report['results'][f'{name}/queries']} queries of {name}: "
    title += f"{Path(report['model']).name}, {report['dataset']}, split {report['split']}"
    if failures:
        draw_failures(failures, evaluation.rows, arguments.out / FAILURES_FILE, title)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        0, or 1 after an error, which is printed in one line.
    """
    arguments = read_arguments(argv)
    # By default, PartialState ignores the other processes on a machine without a GPU, and each would do all the work.
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())
    try:
        evaluation = evaluate_checkpoint(arguments, state)
        if evaluation is None:
            return 0
        launch = f"accelerate launch --num_processes {state.num_processes}" if state.num_processes > 1 else "python"
        if state.num_processes > 1 and state.device.type == "cpu":
            launch = launch.replace("accelerate launch", "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu")
        command = f"{launch} eval/eval.py {shlex.join(sys.argv[1:] if argv is None else argv)}"
        report = {"command": command} | evaluation.report
        print(f"{report['model']}, {report['dataset']}, split {report['split']}, local weight {report['local_weight']}")
        print(scores_table(report))
        for line in (*reference_notes(report), *dropped_lines(report)):
            print(line)
        _write(arguments, replace(evaluation, report=report))
    except (ValueError, OSError) as error:
        print(f"eval.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
