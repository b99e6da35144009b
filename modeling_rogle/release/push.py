"""Pushes a saved model, or adapters, to the Hub. `hub/release.py` also pushes data, metric and demo."""

import tempfile
from pathlib import Path

from modeling_rogle.release.checksums import NAME, ReleaseFile, write_checksums
from modeling_rogle.release.model_card import finish_card
from modeling_rogle.release.model_files import assemble_adapter, assemble_model, clip_part, is_adapter
from modeling_rogle.release.upload import ReleaseError, check_name, check_secrets, push_folder

REPLACED = ("*.py", "*.safetensors")  # files of an earlier release would still be loaded


def push_model(
    model_dir: str | Path, repo_id: str, private: bool = False, dry_run: bool = False, base: str | None = None
) -> list[str]:
    """Pushes a model (weights, processor, code, endpoint handler, card), or a folder of adapters.

    Args:
        model_dir: see `model_files.assemble_model` and `assemble_adapter`.
        repo_id: `user/name`.
        private: create a private repository if it does not exist. Default: a public one.
        dry_run: upload nothing. Default: False.
        base: Hub name of the base model, for adapters only. Default: the one that the adapters name.

    Returns:
        Lines to print: each file with size and SHA-256, the digest of SHA256SUMS, and the URL of the commit.

    Raises:
        ReleaseError: a file may not be released, or the Hub refuses the upload. The message is one line.
        OSError: the folder cannot be read.
    """
    check_name(repo_id)
    with tempfile.TemporaryDirectory(prefix="rogle-push-") as scratch:
        folder = Path(scratch) / "release"
        if is_adapter(model_dir):
            assemble_adapter(model_dir, repo_id, folder, base)
        elif base is not None:
            raise ReleaseError(f"{model_dir}: contains a model and not only adapters, so --base does not apply")
        else:
            finish_card(folder, repo_id, clip_part(assemble_model(model_dir, repo_id, folder)))
        check_secrets(folder)
        files = write_checksums(folder)
        lines = listing(files)
        if dry_run:
            return [*lines, f"dry run: {len(files)} files would be pushed to {repo_id}"]
        return [*lines, f"pushed: {push_folder(folder, repo_id, private=private, replaced=REPLACED).url}"]


def listing(files: list[ReleaseFile]) -> list[str]:
    """One line per file, and the digest of the list of checksums in the last line."""
    width = max(len(file.path) for file in files)
    lines = [f"{file.path:<{width}}  {file.size:>12,}  {file.sha256}" for file in files]
    digest = next(file.sha256 for file in files if file.path == NAME)
    return [*lines, f"digest of {NAME}: {digest}"]


__all__ = ["listing", "push_model"]
