"""python hub/release.py MODEL_DIR user/name [--dry-run | --push] [--eval DIR] [--data DIR] [--out DIR]

Releases in this order: the model (weights, processor, code, endpoint handler, card), its adapters if it has any, the
data set, and the metric and the demo as Spaces. Everything is assembled and checked before the first upload. By default
nothing is uploaded.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # started by path: import packages from the root of the repository
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
# Files of an earlier release that are deleted, because they would still be loaded.
REPLACED = {"model": ("*.py", "*.safetensors", "examples/*"), "data": ("data/*",), "demo": ("gallery/*",)}

DEMO_LOADS = ("config.json", "modeling_rogle.py", "processor_config.json")  # files of the model that the demo needs


@dataclass(frozen=True)
class Names:
    """The repositories of a release, each as `user/name`."""

    model: str
    adapter: str
    data: str
    metric: str
    demo: str


def names_of(repo_id: str, data: str | None = None, metric: str | None = None) -> Names:
    """Derives the other repositories: `user/name-lora`, `user/pvlg` (data set and Space), `user/name-demo`.

    Args:
        repo_id: `user/name` of the model.
        data: `user/name` of the data set. Default: `user/pvlg`.
        metric: `user/name` of the metric. Default: `user/pvlg`.

    Raises:
        ReleaseError: the Hub or `evaluate.load` does not accept a name.
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
    """Assembles the repositories in sub-folders of `out` with the names in PARTS, each with its SHA256SUMS.

    Args:
        model_dir: folder of the model.
        names: the repositories.
        out: a new or empty folder.
        evaluation: result of `model_card.read_evaluation` for these weights. Default: no scores in the card.
        data: see `data_files.assemble_data`. Default: `synthetic`.
        images_of: see `data_files.assemble_data`. Default: none.
        parts: some of PARTS; `adapter` is skipped if the model has none. Default: all.
        base: see `model_files.assemble_adapter`; needed only if the adapters were trained on a local model.
        people: identities in the gallery of the demo. Default: 24.

    Returns:
        The files of each part, in order, and the counts of the data set (None without it).

    Raises:
        ReleaseError, ValueError, OSError: a file may not be released or cannot be read. The message is one line.
    """
    model_dir, out, data_release = Path(model_dir), Path(out), None
    adapters = model_dir / "adapter"
    parts = [part for part in PARTS if part in parts and (part != "adapter" or adapters.is_dir())]
    if not parts:
        raise ReleaseError(f"{adapters}: no such folder, and no other part was selected")
    if evaluation is not None and evaluation["checkpoint_sha256"] != checkpoint_sha256(str(model_dir)):
        raise ReleaseError(f"--eval: its checkpoint_sha256 is not that of {model_dir}, so it evaluated other weights")
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
        data_release = assemble_data(data, names.data, out / "data", images_of)
    if "metric" in parts:
        assemble_metric(names.metric, out / "metric")
    if "demo" in parts:
        assemble_demo(names.model, None, out / "demo", people)
    for part in parts:
        check_secrets(out / part)
    return {part: write_checksums(out / part) for part in parts}, data_release


def push(
    out: Path, names: Names, parts: Sequence[str], release: DataRelease | None, private: bool = False
) -> list[str]:
    """Uploads the folders that [`assemble`] wrote, in order.

    The demo loads the commit of the model that was just pushed, or the newest one on the Hub if `parts` does not
    contain the model. Before the first upload all folders are searched for tokens and all repositories are created.

    Args:
        out: the folder of [`assemble`].
        names: the repositories.
        parts: the parts to push, in order.
        release: the counts of the data set that [`assemble`] returned.
        private: create private repositories. Default: public ones.

    Returns:
        The URLs of the commits.

    Raises:
        ReleaseError: a part may not be pushed, and nothing was uploaded; or the Hub fails later. Earlier parts are
            then uploaded already, and pushing them again changes nothing.
    """
    commits: dict[str, Any] = {}
    restricted = release is not None and bool(release.restricted)
    for part in parts:
        check_secrets(out / part)
    if "data" in parts and restricted:
        check_private(names.data, "dataset")
    if "demo" in parts and "model" not in parts:
        _pin_demo(out, names, newest_commit(names.model, DEMO_LOADS))
    for part in parts:
        open_repository(getattr(names, part), KINDS[part], private, restricted and part == "data")
    for part in parts:
        if part == "demo" and "model" in commits:
            _pin_demo(out, names, commits["model"].sha)
        commits[part] = push_folder(
            out / part,
            getattr(names, part),
            KINDS[part],
            private,
            restricted and part == "data",
            REPLACED.get(part, ()),
        )
    return [commit.url for commit in commits.values()]


def _pin_demo(out: Path, names: Names, revision: str) -> None:
    write_revision(out / "demo", names.model, revision)
    write_checksums(out / "demo")


def _print_files(names: Names, files: dict[str, list[ReleaseFile]]) -> None:
    for part, listed in files.items():
        print(f"# {part}: {KINDS[part]} {getattr(names, part)}")
        print("\n".join(listing(listed)))


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, or 2 after an error in the input or the upload, with one line on stderr."""
    args = _parser().parse_args(argv)
    try:
        parts = args.parts.split(",")
        if unknown := [part for part in parts if part not in PARTS]:
            raise ReleaseError(f"--parts: {unknown[0]!r} is not a part; parts are {', '.join(PARTS)}")
        names = names_of(args.repo_id, args.data_repo, args.metric_repo)
        evaluation = None if args.eval is None else read_evaluation(args.eval)
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(args.out or scratch)
            files, data = assemble(args.model, names, out, evaluation, args.data, args.images_of, parts, args.base)
            _print_files(names, files)
            if data is not None and data.restricted:
                print(
                    f"# {names.data}: private, because {', '.join(data.restricted)} may not be published; "
                    f"{data.withheld.total()} images withheld"
                )
            all_files = [file for listed in files.values() for file in listed]
            total = f"{len(all_files)} files, {sum(file.size for file in all_files):,} bytes"
            if args.push:
                for url in push(out, names, list(files), data, args.private):
                    print(f"pushed: {url}")
                print(f"pushed {total}")
            else:
                print(f"dry run: {total} would be pushed for {args.repo_id}; --push uploads them")
    except (ValueError, OSError) as error:
        print(f"hub/release.py: {(str(error).splitlines() or [type(error).__name__])[0]}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hub/release.py", description="Assemble and push a model, its data set, metric and demo."
    )
    parser.add_argument("model", metavar="MODEL_DIR", help="folder of a Rogle model with its processor and card")
    parser.add_argument("repo_id", metavar="user/name", help="repository of the model on the Hub")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--dry-run", action="store_true", help="print what would be uploaded (default)")
    mode.add_argument("--push", action="store_true", help="upload everything")
    parser.add_argument(
        "--eval",
        metavar="DIR",
        help="results of `eval/eval.py --out` for this model, for its card (default: none)",
    )
    parser.add_argument(
        "--data",
        default="synthetic",
        metavar="DIR",
        help="folder of P-VLG Parquet files to release (default: synthetic)",
    )
    parser.add_argument(
        "--base",
        metavar="user/name",
        help="model that the adapters were trained on (default: the one that they name)",
    )
    parser.add_argument("--data-repo", metavar="user/name", help="repository of the data set (default: user/pvlg)")
    parser.add_argument("--metric-repo", metavar="user/pvlg", help="repository of the metric (default: user/pvlg)")
    parser.add_argument(
        "--images-of",
        action="append",
        default=[],
        metavar="SOURCE",
        help="include the images of this source, if its owners allowed it; the repository stays private (default: "
        "only drawn images)",
    )
    parser.add_argument("--pictures-of", action="append", dest="images_of", help=argparse.SUPPRESS)
    parser.add_argument(
        "--parts", default=",".join(PARTS), help=f"comma-separated parts to release (default: {','.join(PARTS)})"
    )
    parser.add_argument("--private", action="store_true", help="create private repositories (default: public ones)")
    parser.add_argument(
        "--out", metavar="DIR", help="new folder for the assembled files, which are kept (default: delete them)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
