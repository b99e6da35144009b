"""python hub/release.py MODEL_DIR user/name [--dry-run | --push] [--eval DIR] [--data DIR] [--out DIR]

Releases everything at once, in order: the model (weights, processor, code, endpoint handler, card), its adapters where
it has some, the data set, the metric and the demo as Spaces. By default it only prints what would be pushed. All of it
is put together and checked before the first byte is uploaded.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # a script started by path: the root, not its own folder, is where packages are found
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from huggingface_hub import ModelCard

from eval.card_entries import write_entries
from eval.provenance import checkpoint_sha256
from hub.data_files import DataRelease, assemble_data
from hub.examples import write_examples
from hub.space import assemble_demo, assemble_metric, check_metric_name, write_revision
from modeling_rogle.release.checksums import ReleaseFile, write_checksums
from modeling_rogle.release.model_card import finish_card, read_evaluation
from modeling_rogle.release.model_files import assemble_adapter, assemble_model, clip_part
from modeling_rogle.release.push import listing
from modeling_rogle.release.upload import (
    ReleaseError,
    check_name,
    check_private,
    check_secrets,
    newest_commit,
    open_repository,
    push_folder,
)

PARTS = ("model", "adapter", "data", "metric", "demo")
KINDS = {"model": "model", "adapter": "model", "data": "dataset", "metric": "space", "demo": "space"}
# Files of an earlier release that would still be read go with it.
REPLACED = {"model": ("*.py", "*.safetensors", "examples/*"), "data": ("data/*",), "demo": ("gallery/*",)}


DEMO_RUNS = ("config.json", "modeling_rogle.py", "processor_config.json")  # of the model's repository


@dataclass(frozen=True)
class Names:
    """The repositories of a release, `user/name` each."""

    model: str
    adapter: str
    data: str
    metric: str
    demo: str


def names_of(repo_id: str, data: str | None = None, metric: str | None = None) -> Names:
    """The repositories beside `user/name`: `user/name-lora`, `user/pvlg` (data set and Space), `user/name-demo`.

    Raises:
        ReleaseError: a name that the Hub, or `evaluate.load`, does not take.
    """
    check_name(repo_id)
    user = repo_id.partition("/")[0]
    names = Names(repo_id, f"{repo_id}-lora", data or f"{user}/pvlg", metric or f"{user}/pvlg", f"{repo_id}-demo")
    for name in (names.adapter, names.data, names.metric, names.demo):
        check_name(name)
    check_metric_name(names.metric)
    return names


def assemble(
    model_dir: str | Path,
    names: Names,
    out: str | Path,
    evaluation: dict[str, Any] | None = None,
    data: str | Path = "synthetic",
    images_of: Sequence[str] = (),
    parts: Sequence[str] = PARTS,
    base: str | None = None,
    people: int = 24,
) -> tuple[dict[str, list[ReleaseFile]], DataRelease | None]:
    """Puts the repositories together in sub-folders of `out` that are called as in PARTS, each with its SHA256SUMS.

    Args:
        evaluation: see `model_card.read_evaluation`; of these very weights.
        data: see `data_files.assemble_data`.
        parts: some of PARTS; `adapter` is left out where the model has none.
        base: see `model_files.assemble_adapter`; only needed where the adapters were trained on a model on disk.
        people: drawn people in the demo's gallery.

    Returns:
        The files of each part, in order, and what the data set holds.

    Raises:
        ReleaseError, ValueError, OSError: something that may not be released; one line.
    """
    model_dir, out, held = Path(model_dir), Path(out), None
    adapters = model_dir / "adapter"
    parts = [part for part in PARTS if part in parts and (part != "adapter" or adapters.is_dir())]
    if not parts:
        raise ReleaseError(f"{adapters}: not there, and no other part is asked for")
    if evaluation is not None and evaluation["checkpoint_sha256"] != checkpoint_sha256(str(model_dir)):
        raise ReleaseError(f"--eval: its checkpoint_sha256 is not that of {model_dir}: other weights were scored")
    if "model" in parts:
        config = assemble_model(model_dir, names.model, out / "model")
        if evaluation is not None:
            write_entries(out / "model", evaluation | {"model": names.model})
        finish_card(
            out / "model",
            names.model,
            clip_part(config),
            evaluation,
            write_examples(out / "model"),
            names.data if "data" in parts else None,
            names.adapter if "adapter" in parts else None,
        )
    if "adapter" in parts:
        licence = ModelCard.load(model_dir / "README.md").data.license or "other"
        assemble_adapter(adapters, names.adapter, out / "adapter", base, licence)
    if "data" in parts:
        held = assemble_data(data, names.data, out / "data", images_of)
    if "metric" in parts:
        assemble_metric(names.metric, out / "metric")
    if "demo" in parts:
        assemble_demo(names.model, None, out / "demo", people)
    for part in parts:
        check_secrets(out / part)
    return {part: write_checksums(out / part) for part in parts}, held


def push(out: Path, names: Names, parts: Sequence[str], held: DataRelease | None, private: bool = False) -> list[str]:
    """Uploads what `assemble` put together, in order; the demo is tied to the model's commit, without the model among
    `parts` to the newest on the Hub.

    Before the first upload all folders are searched for tokens, and all repositories are there and may be written to.

    Returns:
        The commits' addresses.

    Raises:
        ReleaseError: something may not be pushed, and nothing was; or the Hub fails later: what came before is pushed,
            and pushing again changes nothing about it.
    """
    commits: dict[str, Any] = {}
    closed = held is not None and bool(held.restricted)
    for part in parts:
        check_secrets(out / part)
    if "data" in parts and closed:
        check_private(names.data, "dataset")
    if "demo" in parts and "model" not in parts:
        _tie_demo(out, names, newest_commit(names.model, DEMO_RUNS))
    for part in parts:
        open_repository(getattr(names, part), KINDS[part], private, closed and part == "data")
    for part in parts:
        if part == "demo" and "model" in commits:
            _tie_demo(out, names, commits["model"].sha)
        commits[part] = push_folder(
            out / part, getattr(names, part), KINDS[part], private, closed and part == "data", REPLACED.get(part, ())
        )
    return [commit.url for commit in commits.values()]


def _tie_demo(out: Path, names: Names, revision: str) -> None:
    write_revision(out / "demo", names.model, revision)
    write_checksums(out / "demo")


def _print_files(names: Names, files: dict[str, list[ReleaseFile]]) -> None:
    for part, listed in files.items():
        print(f"# {part}: {KINDS[part]} {getattr(names, part)}")
        print("\n".join(listing(listed)))


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0; 2 after bad input or a failed upload, which is told in one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="hub/release.py", description="Assembles and pushes model, data set, metric and demo."
    )
    parser.add_argument("model", metavar="MODEL_DIR", help="saved Rogle model with its processor and card")
    parser.add_argument("repo_id", metavar="user/name", help="the model's repository on the Hub")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--dry-run", action="store_true", help="only print what would be pushed (the default)")
    mode.add_argument("--push", action="store_true", help="upload it")
    parser.add_argument("--eval", metavar="DIR", help="what eval/eval.py --out wrote about this model, for its card")
    parser.add_argument(
        "--data", default="synthetic", metavar="DIR", help="P-VLG Parquet to release (default: the embedded synthetic)"
    )
    parser.add_argument("--base", metavar="user/name", help="of the model that the adapters were trained on")
    parser.add_argument("--data-repo", metavar="user/name", help="of the data set (default: user/pvlg)")
    parser.add_argument("--metric-repo", metavar="user/pvlg", help="of the metric's Space (default: user/pvlg)")
    parser.add_argument(
        "--images-of",
        "--pictures-of",
        action="append",
        default=[],
        metavar="SOURCE",
        help="let the images of this source go along, as its owners allowed you to; the repository stays private",
    )
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {','.join(PARTS)} (default: all)")
    parser.add_argument("--private", action="store_true", help="make new repositories private")
    parser.add_argument("--out", metavar="DIR", help="assemble in this new folder and keep it")
    args = parser.parse_args(argv)
    try:
        parts = args.parts.split(",")
        if unknown := [part for part in parts if part not in PARTS]:
            raise ReleaseError(f"--parts: {unknown[0]!r} is not known; known are {', '.join(PARTS)}")
        names = names_of(args.repo_id, args.data_repo, args.metric_repo)
        evaluation = None if args.eval is None else read_evaluation(args.eval)
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(args.out or scratch)
            files, held = assemble(args.model, names, out, evaluation, args.data, args.images_of, parts, args.base)
            _print_files(names, files)
            if held is not None and held.restricted:
                print(
                    f"# {names.data}: private, since {', '.join(held.restricted)} may not be passed on; "
                    f"{held.withheld.total()} images held back"
                )
            every = [file for listed in files.values() for file in listed]
            total = f"{len(every)} files, {sum(file.size for file in every):,} bytes"
            if args.push:
                for url in push(out, names, list(files), held, args.private):
                    print(f"pushed: {url}")
                print(f"pushed {total}")
            else:
                print(f"dry run: {total} would be pushed for {args.repo_id}; --push uploads them")
    except (ValueError, OSError) as error:
        print(f"hub/release.py: {(str(error).splitlines() or [type(error).__name__])[0]}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
