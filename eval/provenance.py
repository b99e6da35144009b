"""Which weights, which data, which code: the names under which figures can be found again."""

import hashlib
import json
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from datasets import Dataset
from huggingface_hub import try_to_load_from_cache

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ("*.safetensors", "*.bin")
# Everything beside the weights that a model and its processor are read from; a model card is no part of a checkpoint.
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
    """The folder of a checkpoint: itself, or the Hub's copy on this machine; None where there is none."""
    if Path(model).is_dir():
        return Path(model)
    try:
        cached = try_to_load_from_cache(model, "config.json")
    except ValueError:  # no name that the Hub could know
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def checkpoint_sha256(model: str) -> str | None:
    """sha256 over names and contents of the weight, configuration and processor files; None without weights."""
    folder = checkpoint_folder(model)
    weights = sorted({path for pattern in WEIGHTS for path in folder.glob(pattern)}) if folder else []
    if not weights:
        return None
    digest = hashlib.sha256()
    for path in [*weights, *(folder / name for name in SETTINGS if (folder / name).is_file())]:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def data_fingerprint(rows: Dataset) -> str:
    """sha256 over all fields of all rows, images by their bytes, wherever they lie: equal data, equal name.

    An image that is a path is known by the row's `sha256` of that file, or else by its path, size and time.
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
                found = path.stat() if path.is_file() else None
                row["image"] = [str(path), found and found.st_size, found and found.st_mtime_ns]
            else:
                row["image"] = bool(image.get("path"))
            digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()


def model_code_sha256() -> str:
    """sha256 over every Python file of modeling_rogle: changed code must not meet embeddings of the old."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "modeling_rogle").glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def code_version() -> str:
    """The commit of this code, `-dirty` with uncommitted changes; outside a git checkout the package's version."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        found = ""
    if found:
        return found
    try:
        return f"rogle {version('rogle')}"
    except PackageNotFoundError:
        return "rogle, not installed and not in a git checkout"
