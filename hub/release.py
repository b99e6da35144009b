"""python hub/release.py MODEL_DIR user/name [--dry-run | --push] [--out DIR]

Assembles what a stranger needs to load a Rogle model with nothing of ours installed: safetensors weights, processor,
card, endpoint handler and the code itself. By default it only prints what would be pushed.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import StrictDataclassError
from huggingface_hub.utils import httpx, validate_repo_id
from safetensors import SafetensorError

import modeling_rogle
from modeling_rogle import RogleModel, RogleProcessor

PACKAGE = Path(modeling_rogle.__file__).parent
# The starred files of the package: flat, saying only `from .x import y`. A test compares them with what they import.
CODE_FILES = (
    "activations.py",
    "configuration_rogle.py",
    "dense.py",
    "losses.py",
    "modeling_rogle.py",
    "packing.py",
    "pipeline_rogle.py",
    "positions.py",
    "processing_rogle.py",
    "regions.py",
    "reliability.py",
    "sentences.py",
)
LEFTOVERS = "__pycache__"
ENDPOINT_FILES = ("handler.py", "requirements.txt")
MODEL_MAP = {
    "AutoConfig": "configuration_rogle.RogleConfig",
    "AutoModel": "modeling_rogle.RogleModel",
    "AutoModelForZeroShotImageClassification": "modeling_rogle.RogleModel",
}
PIPELINES = {
    "text-based-person-search": {
        "impl": "pipeline_rogle.TextBasedPersonSearchPipeline",
        "pt": ["AutoModel"],
        "type": "multimodal",
    }
}
# Formats that are, or may hold, pickles.
CODE_IN_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy", ".npz", ".h5", ".msgpack", ".joblib")


class ReleaseError(ValueError):
    """A folder or name that cannot be released; one line that says what to change."""


@dataclass(frozen=True)
class ReleaseFile:
    """A file of the release: its path in the repository, size in bytes, sha256."""

    path: str
    size: int
    sha256: str


def save_for_hub(model: RogleModel, processor: RogleProcessor, folder: str | Path) -> None:
    """Saves weights, processor, code and endpoint handler so that `AutoModel.from_pretrained(folder,
    trust_remote_code=True)`, `AutoProcessor` and `pipeline` work without this package.

    `auto_map` is written into the saved files, not registered on the classes: `register_for_auto_class` would last for
    the process, and add the code to every later `save_pretrained`.

    Args:
        folder: new, or overwritten file by file.
    """
    folder = Path(folder)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    _edit(folder / "config.json", auto_map=MODEL_MAP, custom_pipelines=PIPELINES)
    _edit(folder / "processor_config.json", auto_map={"AutoProcessor": "processing_rogle.RogleProcessor"})
    # transformers notes how the tokenizer happened to be loaded here; a release does not depend on that.
    _edit(folder / "tokenizer_config.json", is_local=None, local_files_only=None)
    for name in CODE_FILES:
        shutil.copyfile(PACKAGE / name, folder / name)
    for name in ENDPOINT_FILES:
        shutil.copyfile(PACKAGE / "release" / name, folder / name)


def assemble(model_dir: str | Path, repo_id: str, folder: str | Path) -> list[ReleaseFile]:
    """Puts the release of a saved model together in a new or empty folder.

    Args:
        model_dir: Rogle folder with its processor and its card (README.md).
        repo_id: `user/name`; takes the place of PATH_OR_NAME in the card.

    Returns:
        Every file of it, by path.

    Raises:
        ReleaseError: no Rogle folder, a configuration out of range, no card, weights that are damaged or not
            safetensors, a bad name, or `folder` is not empty.
        OSError: the model or its processor cannot be read.
    """
    model_dir, folder = Path(model_dir), Path(folder)
    check_name(repo_id)
    card = check_model_folder(model_dir)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ReleaseError(f"{folder}: not an empty folder; nothing is overwritten")
    try:
        model = RogleModel.from_pretrained(model_dir)
    except (StrictDataclassError, SafetensorError) as error:
        raise ReleaseError(f"{model_dir}: {str(error.__cause__ or error).splitlines()[0]}") from error
    save_for_hub(model, RogleProcessor.from_pretrained(model_dir), folder)
    (folder / "README.md").write_text(card.replace("PATH_OR_NAME", repo_id), encoding="utf-8")
    return manifest(folder)


def check_name(repo_id: str) -> None:
    """Raises ReleaseError unless `repo_id` is `user/name` as the Hub takes it."""
    try:
        validate_repo_id(repo_id)
    except ValueError as error:
        raise ReleaseError(f"{repo_id}: {str(error).splitlines()[0]}") from error
    if "/" not in repo_id:
        raise ReleaseError(f"{repo_id}: must be user/name")


def check_model_folder(model_dir: Path) -> str:
    """The card of a folder that may be released.

    Raises:
        ReleaseError: see [`assemble`].
    """
    config = model_dir / "config.json"
    if not config.is_file():
        raise ReleaseError(f"{model_dir}: no config.json there, so it is not a model's folder")
    try:
        kind = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise ReleaseError(f"{config}: not a JSON object") from error
    if kind != "rogle":
        raise ReleaseError(f"{config}: model_type is {kind!r}, only 'rogle' is released")
    for file in sorted(model_dir.rglob("*")):
        if file.suffix.lower() in CODE_IN_WEIGHTS:
            raise ReleaseError(f"{file}: only safetensors weights are released; this format may hold code")
    if not any(model_dir.glob("*.safetensors")):
        raise ReleaseError(f"{model_dir}: no safetensors weights there")
    card = model_dir / "README.md"
    if not card.is_file():
        raise ReleaseError(f"{card}: no model card; train/train.py writes one from the measured results")
    return card.read_text(encoding="utf-8")


def manifest(folder: Path) -> list[ReleaseFile]:
    """Every file under `folder` that is released, by path: what Python leaves behind when it loads the code is not."""
    files = []
    for file in sorted(folder.rglob("*")):
        if file.is_file() and LEFTOVERS not in file.parts:
            with file.open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
            files.append(ReleaseFile(file.relative_to(folder).as_posix(), file.stat().st_size, digest))
    return files


def push(folder: Path, repo_id: str, private: bool = False) -> str:
    """Creates the repository if it is not there, and uploads the folder in one commit.

    The token is huggingface_hub's own (HF_TOKEN or `hf auth login`); it is never printed.

    Returns:
        The commit's address.

    Raises:
        ReleaseError: the Hub cannot be reached, or refuses.
    """
    api = HfApi()
    try:
        api.create_repo(repo_id, exist_ok=True, private=private)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message="Release of Rogle",
            ignore_patterns=[f"{LEFTOVERS}/*", f"**/{LEFTOVERS}/*"],
        )
    except (httpx.HTTPError, OSError) as error:  # the Hub's own errors are either
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ReleaseError(f"{repo_id}: not pushed: {reason}") from error
    return str(commit.commit_url)


def _edit(path: Path, **fields: object) -> None:
    """Sets fields of a JSON file; None removes one."""
    content = json.loads(path.read_text(encoding="utf-8")) | fields
    content = {name: value for name, value in content.items() if name not in fields or value is not None}
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0; 2 after bad input or a failed upload, which is told in one line on stderr."""
    parser = argparse.ArgumentParser(prog="hub/release.py", description="Assembles and pushes the release of a model.")
    parser.add_argument("model", metavar="MODEL_DIR", help="saved Rogle model with its processor and card")
    parser.add_argument("repo_id", metavar="user/name", help="repository on the Hub")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--dry-run", action="store_true", help="only print what would be pushed (the default)")
    mode.add_argument("--push", action="store_true", help="upload it")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--out", metavar="DIR", help="assemble in this new folder and keep it")
    args = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(args.out or scratch)
            files = assemble(args.model, args.repo_id, folder)
            width = max(len(file.path) for file in files)
            for file in files:
                print(f"{file.path:<{width}}  {file.size:>12,}  {file.sha256}")
            total = f"{len(files)} files, {sum(file.size for file in files):,} bytes"
            if args.push:
                print(f"pushed {total}: {push(folder, args.repo_id, args.private)}")
            else:
                print(f"dry run: {total} would be pushed to {args.repo_id}; --push uploads them")
    except (ValueError, OSError) as error:
        print(f"hub/release.py: {(str(error).splitlines() or [type(error).__name__])[0]}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
