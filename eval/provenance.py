"""Provenance of figures: hashes of the weights and the data, and the version of the code."""

import hashlib
import json
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from datasets import Dataset
from huggingface_hub import try_to_load_from_cache

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ("*.safetensors", "*.bin")
# The other files that a model and its processor are read from. A model card is not part of a checkpoint.
SETTINGS = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "image_processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


def checkpoint_folder(model: str) -> Path | None:
    """The local folder of a checkpoint.

    Args:
        model: a folder, or a name on the Hub.

    Returns:
        The folder itself, or the cached copy of the Hub; None if there is neither.
    """
    if Path(model).is_dir():
        return Path(model)
    try:
        cached = try_to_load_from_cache(model, "config.json")
    except ValueError:  # not a valid name on the Hub
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def checkpoint_sha256(model: str) -> str | None:
    """sha256 of the names and contents of the weight, configuration and processor files.

    Args:
        model: a folder, or a name on the Hub.

    Returns:
        The hash; None if there are no local weights.
    """
    folder = checkpoint_folder(model)
    weights = sorted({path for pattern in WEIGHTS for path in folder.glob(pattern)}) if folder else []
    if folder is None or not weights:
        return None
    digest = hashlib.sha256()
    for path in [*weights, *(folder / name for name in SETTINGS if (folder / name).is_file())]:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def data_fingerprint(rows: Dataset) -> str:
    """sha256 of all fields of all rows; equal data have equal hashes, wherever they are stored.

    Embedded images count by their bytes. An image that is a path counts by the row's `sha256` of that file, or else by
    path, size and modification time.
    """
    digest = hashlib.sha256()
    for batch in rows.with_format("arrow").iter(batch_size=500):
        for row in batch.to_pylist():
            image = row.pop("image", None) or {}
            content = image.get("bytes")
            if content is not None:
                digest.update(hashlib.sha256(content).digest())
            elif image.get("path") and not row.get("sha256"):
                path = Path(image["path"])
                stat = path.stat() if path.is_file() else None
                row["image"] = [str(path), stat and stat.st_size, stat and stat.st_mtime_ns]
            else:
                row["image"] = bool(image.get("path"))
            digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()


def model_code_sha256() -> str:
    """sha256 of all Python files of modeling_rogle, so that changed code never reads embeddings of the old code."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "modeling_rogle").rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def code_version() -> str:
    """The commit of this code, with `-dirty` for uncommitted changes; the package version outside a git checkout."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        commit = ""
    if commit:
        return commit
    try:
        return f"rogle {version('rogle')}"
    except PackageNotFoundError:
        return "rogle, not installed and not in a git checkout"
