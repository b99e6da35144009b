"""python eval/eval.py --model DIR --dataset synthetic --split test [--data-root DIR] [--out results.json]

Scores a Rogle checkpoint, or any CLIP folder, on one split by both protocols of eval/pvlg/README.md: prints a markdown
table and, with --out, writes the figures with all that is needed to repeat them.
"""

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataset_pvlg.load import DATASET_NAMES, load_rows
from modeling_rogle.gallery import GalleryError, load_model
from modeling_rogle.protocols import both_protocols, encode_split, fit_local_weight, format_table

ROOT = Path(__file__).resolve().parents[1]


def read_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="eval/eval.py", description=__doc__.split("\n\n")[1])
    parser.add_argument("--model", required=True, help="Rogle or CLIP checkpoint: folder or Hub name")
    parser.add_argument("--dataset", default="synthetic", choices=DATASET_NAMES)
    parser.add_argument("--data-root", help="folder of the data set; not for the synthetic ones")
    parser.add_argument("--image-root", help="folder that image paths start from, where not the set's usual one")
    parser.add_argument("--split", default="test", help="train, validation or test (default)")
    parser.add_argument(
        "--local-weight",
        type=_weight,
        help="w of late interaction in [0, 1], or auto: fitted on the validation split; default: the checkpoint's",
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images a forward")
    parser.add_argument("--device", help="a torch device; default: the accelerator if there is one")
    parser.add_argument("--out", type=Path, help="JSON file of the results")
    return parser.parse_args(argv)


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


def checkpoint_sha256(model: str) -> str | None:
    """sha256 over the weight files of a folder, in order of their names; None for a name that is no folder."""
    files = sorted(p for pattern in ("*.safetensors", "*.bin") for p in Path(model).glob(pattern))
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            for chunk in iter(lambda: stream.read(1 << 20), b""):
                digest.update(chunk)
    return digest.hexdigest() if files else None


def code_commit() -> str | None:
    """The commit of this code, `-dirty` with uncommitted changes; None outside a git checkout."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() or None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)


def evaluate_checkpoint(arguments: argparse.Namespace) -> dict[str, Any]:
    """Encodes and scores what the arguments name.

    Raises:
        ValueError: a split that the data has not; data, rows or a checkpoint that cannot be read.
    """
    data, report = load_rows(arguments.dataset, arguments.data_root, arguments.image_root)
    if report is not None:
        print(report, file=sys.stderr)
    for split in {arguments.split} | ({"validation"} if arguments.local_weight == "auto" else set()):
        if split not in data:
            raise ValueError(f"dataset {arguments.dataset!r} has no split {split!r}; it has {', '.join(data)}")
    try:
        model, processor = load_model(arguments.model)
    except GalleryError as error:
        raise ValueError(f"--model {error}") from error
    except (OSError, ValueError) as error:  # the Hub's own message does not say which argument it is about
        raise ValueError(f"--model {arguments.model} cannot be read: {str(error).strip().splitlines()[0]}") from error

    def encode(split: str):
        return encode_split(model, processor, data[split], arguments.batch_size, device=arguments.device, split=split)

    weight, table = arguments.local_weight, None
    if weight == "auto":
        weight, table = fit_local_weight(encode("validation"))
    elif weight is None:
        weight = model.config.local_weight
    return {
        "model": arguments.model,
        "checkpoint_sha256": checkpoint_sha256(arguments.model),
        "dataset": arguments.dataset,
        "split": arguments.split,
        "rows": len(data[arguments.split]),
        "local_weight": weight,
        "local_weight_table": table,
        "ties": "pessimistic",
        "commit": code_commit(),
        "read_report": report.as_dict() if report is not None else None,
        "results": both_protocols(encode(arguments.split), weight),
    }


def main(argv: Sequence[str] | None = None) -> int:
    arguments = read_arguments(argv)
    try:
        found = evaluate_checkpoint(arguments)
    except (ValueError, OSError) as error:
        print(f"eval.py: {error}", file=sys.stderr)
        return 1
    found = {"command": shlex.join(["python", "eval/eval.py", *(sys.argv[1:] if argv is None else argv)])} | found
    results = found["results"]
    dropped = {key: value for key, value in results.items() if key.endswith("/dropped_queries") and value}
    print(f"{arguments.model}, {arguments.dataset}, split {arguments.split}, local weight {found['local_weight']}")
    print(format_table(results))
    for key, count in dropped.items():
        print(f"{key.rpartition('/')[0]}: {count} queries had no positive and are left out")
    if arguments.out is not None:
        write_json(arguments.out, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
