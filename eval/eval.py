"""python eval/eval.py --model DIR --dataset synthetic --split test [--data-root DIR] [--out DIR] [--cache DIR]

Scores a Rogle checkpoint, or any CLIP one, on one split by the protocols of eval/pvlg/README.md. Prints a markdown
table with bootstrap intervals; --out also writes results.json, .csv and .md, every query's rank, and an image of the
worst.

Several processes share the encoding and give the same figures to the last bit, on the same number of threads each:
`accelerate launch --num_processes N eval/eval.py ...`; on CPUs, where that command would quietly run one process,
`ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N eval/eval.py ...`.
"""

import argparse
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # a script started by path: the root, not its own folder, is where packages are found
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
from eval.outputs import dropped_lines, query_table, scores_table, texts_of_queries, write_outputs
from eval.provenance import checkpoint_sha256, code_version, data_fingerprint, model_code_sha256
from modeling_rogle.evaluation.fusion import fit_local_weight
from modeling_rogle.evaluation.protocols import PROTOCOLS, RankedQueries, ranked_queries
from modeling_rogle.evaluation.split_embeddings import SplitEmbeddings, without_images
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.inference.loading import load_model
from modeling_rogle.metrics.ranks import TIES

IMAGE, MAX_FAILURES = "failures.webp", 30  # WebP is 16,383 pixels tall at most
NO_POSITIVE = {
    "long": "have no image of their identity in the gallery",
    "short": "have no image of their identity in the gallery",
    "image": "have no caption of their identity in the gallery",
    "sentence": "are paired with no region",
    "mixed": "are sentences paired with no region, or captions of nobody in the gallery",
}


def read_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="eval/eval.py", description=__doc__.split("\n\n")[1])
    parser.add_argument("--model", required=True, help="Rogle or CLIP checkpoint: folder or Hub name")
    parser.add_argument("--dataset", default="synthetic", choices=DATASET_NAMES)
    parser.add_argument("--data-root", help="folder of the data set; not for the synthetic ones")
    parser.add_argument("--image-root", help="folder that image paths start from, where not the set's usual one")
    parser.add_argument("--split", default="test", help="train, validation or test (default)")
    parser.add_argument(
        "--protocols", type=_protocols, default=PROTOCOLS, help="of global, local, joint, by commas; default: all three"
    )
    parser.add_argument(
        "--local-weight",
        type=_weight,
        help="w of late interaction in [0, 1], or auto: fitted on the validation split; default: the checkpoint's",
    )
    parser.add_argument("--ties", choices=TIES, default=TIES[0], help="default: against the query")
    parser.add_argument("--batch-size", type=_count, default=64, help="images a forward")
    parser.add_argument("--threads", type=_count, help="CPU threads a process; default: torch's own choice")
    parser.add_argument("--device", help="a torch device; default: the accelerator if there is one")
    parser.add_argument("--cache", type=Path, help="folder that embeddings are kept in and read from; default: none")
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--bootstrap", type=_count_or_none, default=1000, help="draws of the intervals, 0 for none")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--failures", type=_few, default=8, help="worst queries to draw, 0 for none")
    parser.add_argument("--card", type=Path, help="model card, or its folder, to write the scores into")
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


def _few(text: str) -> int:
    if _count_or_none(text) > MAX_FAILURES:
        raise argparse.ArgumentTypeError(f"must be at most {MAX_FAILURES}: no format holds a taller image")
    return int(text)


def _count(text: str) -> int:
    if _count_or_none(text) == 0:
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def _check_places(arguments: argparse.Namespace) -> None:
    """What would fail at the end must fail before an hour of work."""
    for name in ("out", "cache"):
        path = getattr(arguments, name)
        if path is None:
            continue
        if path.exists() and not path.is_dir():
            raise ValueError(f"--{name} {path} is a file; it must be a folder")
        there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise ValueError(f"--{name} {path}: nothing can be written in {there}")
    if arguments.card is not None:
        read_card(card_path(arguments.card), "")
    try:
        if arguments.device is not None:
            torch.empty(1, device=arguments.device).cpu()  # there, and no "meta", which holds nothing
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"--device {arguments.device!r}: {str(error).splitlines()[0]}") from error


def _load_data(arguments: argparse.Namespace) -> tuple[DatasetDict, Any]:
    data, report = load_rows(arguments.dataset, arguments.data_root, arguments.image_root, images=True)
    fitted = ["validation"] if arguments.local_weight == "auto" else []
    for split in [arguments.split, *fitted]:
        if split not in data:
            raise ValueError(f"dataset {arguments.dataset!r} has no split {split!r}; it has {', '.join(data)}")
        if len(data[split]) == 0:
            raise ValueError(f"dataset {arguments.dataset!r}: split {split!r} is empty")
    if fitted and arguments.split != "validation":
        shared = set(data["validation"]["person_id"]) & set(data[arguments.split]["person_id"])
        if shared:
            raise ValueError(
                f"dataset {arguments.dataset!r}: validation and {arguments.split} share {len(shared)} identities "
                f"(person_id {min(shared)}): a weight fitted on the one is chosen on the other"
            )
    return data, report


def _load_checkpoint(name: str) -> tuple[Any, Any]:
    if not Path(name).exists() and (name.startswith((".", "/", "~")) or name.count("/") != 1):
        raise ValueError(f"--model {name} cannot be read: there is no such folder")
    if Path(name).exists() and not (Path(name) / "config.json").is_file():
        raise ValueError(f"--model {name} cannot be read: it is no checkpoint folder, there is no config.json in it")
    try:
        return load_model(name)
    except GalleryError as error:
        raise ValueError(f"--model {error}") from error
    except (OSError, ValueError) as error:  # the Hub's own message does not say which argument it is about
        raise ValueError(f"--model {name} cannot be read: {str(error).strip().splitlines()[0]}") from error


@dataclass(frozen=True)
class Evaluation:
    """What results.json holds, and what images and tables of single queries are made of."""

    found: dict[str, Any]
    lines: dict[str, RankedQueries]
    embeddings: SplitEmbeddings
    rows: Dataset


def evaluate_checkpoint(arguments: argparse.Namespace, state: PartialState) -> Evaluation | None:
    """Encodes what the arguments name, in all processes, and scores it in the main one.

    Returns:
        None in all but the main process.

    Raises:
        ValueError, OSError: bad arguments; data, rows or a checkpoint that cannot be read. One line.
    """
    _check_places(arguments)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    data, report = _load_data(arguments)  # in every process: what is wrong with it ends them all with the same line
    if report is not None and state.is_main_process:
        print(report, file=sys.stderr)
    model, processor = _load_checkpoint(arguments.model)
    device = str(arguments.device or (state.device if state.num_processes > 1 else model.device))
    model = model.to(device)
    checkpoint = checkpoint_sha256(arguments.model) if state.is_main_process else None
    if state.is_main_process and arguments.cache is not None and checkpoint is None:
        raise ValueError(f"--cache: the weight files of {arguments.model} are not at hand, so nothing can name them")
    fingerprints: dict[str, str] = {}

    def key(split: str) -> dict[str, Any]:
        """All that the bits of the embeddings depend on."""
        fingerprints[split] = data_fingerprint(data[split])
        return {
            "checkpoint": checkpoint,
            "data": fingerprints[split],
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

    def encode(split: str) -> Encoded | None:
        rows, size, cache = data[split], arguments.batch_size, arguments.cache
        return cached_split(model, processor, rows, lambda: key(split), cache, state, size, split=split)

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
    rows, embeddings = data[arguments.split], encoded.embeddings
    lines = ranked_queries(embeddings, weight, arguments.protocols, arguments.ties)
    drawn = bool(arguments.bootstrap)
    intervals = {
        name: bootstrap(line.ranking, line.person_ids, arguments.bootstrap, arguments.seed)
        for name, line in (lines if drawn else {}).items()
    }
    # Joint asks the same captions and sentences again: their groups are told once.
    apart = {name: line for name, line in lines.items() if not name.startswith("joint")}
    found = {
        "model": arguments.model,
        "checkpoint_sha256": checkpoint,
        "dataset": arguments.dataset,
        "dataset_fingerprint": fingerprints[arguments.split],
        "split": arguments.split,
        "rows": len(rows),
        "identities": len(embeddings.image_person_ids.unique()),
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
        "read_report": report.as_dict() if report is not None else None,
        "dropped": _dropped(lines),
        "results": {f"{name}/{k}": value for name, line in lines.items() for k, value in line.scores().items()},
        "bootstrap": {"draws": arguments.bootstrap, "seed": arguments.seed, "over": "identities of the queries"},
        "intervals": intervals,
        "breakdown": breakdown(apart, groups_of_queries(without_images(rows))),
    }
    return Evaluation(found, lines, embeddings, rows)


def _dropped(lines: Mapping[str, RankedQueries]) -> dict[str, dict[str, Any]]:
    counts = {name: int((line.ranking.n_positives == 0).sum()) for name, line in lines.items()}
    return {name: {"queries": count, "why": NO_POSITIVE[lines[name].kind]} for name, count in counts.items() if count}


def _write(arguments: argparse.Namespace, evaluation: Evaluation) -> None:
    """The folder of --out and the card, as far as they are asked for."""
    found, lines, rows = evaluation.found, evaluation.lines, evaluation.rows
    if arguments.out is not None:
        texts = texts_of_queries(without_images(rows))
        (arguments.out / IMAGE).unlink(missing_ok=True)  # an earlier run's would be taken for this one's
        _draw(arguments, evaluation, texts)
        write_outputs(arguments.out, found, query_table(lines, rows["image_id"], texts))
    if arguments.card is not None:
        print(f"scores written into {write_entries(arguments.card, found)}", file=sys.stderr)


def _draw(arguments: argparse.Namespace, evaluation: Evaluation, texts: Mapping[str, Sequence[str]]) -> None:
    found, lines = evaluation.found, evaluation.lines
    name = next((name for name in ("global+local/long", "global/long", "global/short") if name in lines), None)
    if not arguments.failures or name is None:
        return
    ranked, weight = lines[name], found["local_weight"] if name.startswith("global+local") else 0.0
    failures = worst_queries(evaluation.embeddings, ranked, texts[ranked.kind], arguments.failures, weight)
    title = f"Worst {len(failures)} of {found['results'][f'{name}/queries']} queries of {name}: "
    title += f"{Path(found['model']).name}, {found['dataset']}, split {found['split']}"
    if failures:
        draw_failures(failures, evaluation.rows, arguments.out / IMAGE, title)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = read_arguments(argv)
    # Left to itself it would not see the processes of a machine without a GPU, and each would do all the work.
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())
    try:
        evaluation = evaluate_checkpoint(arguments, state)
        if evaluation is None:
            return 0
        launch = f"accelerate launch --num_processes {state.num_processes}" if state.num_processes > 1 else "python"
        if state.num_processes > 1 and state.device.type == "cpu":
            launch = launch.replace("accelerate launch", "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu")
        command = f"{launch} eval/eval.py {shlex.join(sys.argv[1:] if argv is None else argv)}"
        found = {"command": command} | evaluation.found
        print(f"{found['model']}, {found['dataset']}, split {found['split']}, local weight {found['local_weight']}")
        print(scores_table(found))
        for line in dropped_lines(found):
            print(line)
        _write(arguments, replace(evaluation, found=found))
    except (ValueError, OSError) as error:
        print(f"eval.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
