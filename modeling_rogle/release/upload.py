"""Uploads folders to Hub repositories, one commit each, without ever printing the token."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.utils import httpx, validate_repo_id

from modeling_rogle.release.checksums import LEFTOVERS

KINDS = ("model", "dataset", "space")
SECRET = re.compile(rb"hf_[A-Za-z0-9]{30,}")
TEXT_BYTES = 4_000_000  # larger files are not searched for tokens


class ReleaseError(ValueError):
    """A folder or name that cannot be released. The message is one line that states what to change."""


@dataclass(frozen=True)
class Pushed:
    """A commit: its URL and its hash."""

    url: str
    sha: str


def check_name(repo_id: str) -> None:
    """Raises ReleaseError unless `repo_id` is a valid `user/name`."""
    try:
        validate_repo_id(repo_id)
    except ValueError as error:
        raise ReleaseError(f"{repo_id}: {str(error).splitlines()[0]}") from error
    if "/" not in repo_id:
        raise ReleaseError(f"{repo_id}: must be user/name")


def check_secrets(folder: Path) -> None:
    """Raises ReleaseError if a file seems to contain a Hub token."""
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.stat().st_size <= TEXT_BYTES and SECRET.search(file.read_bytes()):
            raise ReleaseError(f"{file}: seems to contain a token of the Hub (hf_...); remove and revoke it")


def open_repository(repo_id: str, kind: str = "model", private: bool = False, must_be_private: bool = False) -> None:
    """Creates a repository if it does not exist. No file is uploaded.

    Args:
        repo_id: `user/name`.
        kind: `model` (default), `dataset` or `space`.
        private: create it as a private repository. Default: a public one.
        must_be_private: also refuse an existing public repository. Default: False.

    Raises:
        ReleaseError: the repository is public and must not be; or the Hub refuses or cannot be reached.
    """
    options = {"space_sdk": "gradio"} if kind == "space" else {}
    with _one_line_errors(repo_id):
        api = HfApi()
        api.create_repo(repo_id, repo_type=kind, exist_ok=True, private=private or must_be_private, **options)
    if must_be_private:
        check_private(repo_id, kind)


def check_private(repo_id: str, kind: str) -> None:
    """Raises ReleaseError if the repository exists and is public."""
    with _one_line_errors(repo_id):
        api = HfApi()
        public = api.repo_exists(repo_id, repo_type=kind) and not api.repo_info(repo_id, repo_type=kind).private
    if public:
        raise ReleaseError(
            f"{repo_id}: a public {kind} repository, but its content must stay private; make it private or use another"
        )


def newest_commit(repo_id: str, needed: Sequence[str]) -> str:
    """Finds the newest commit of a model on the Hub.

    Args:
        repo_id: `user/name`.
        needed: files that the repository must contain.

    Returns:
        The hash of the commit.

    Raises:
        ReleaseError: there is no such model, a file is missing, or the Hub cannot be reached.
    """
    with _one_line_errors(repo_id):
        api = HfApi()
        info = api.model_info(repo_id) if api.repo_exists(repo_id) else None
    if info is None:
        raise ReleaseError(f"{repo_id}: no such model on the Hub; push the model first")
    files = {file.rfilename for file in info.siblings or ()}
    if missing := [name for name in needed if name not in files]:
        raise ReleaseError(f"{repo_id}: the model on the Hub has no {missing[0]}; push the model first")
    return str(info.sha)


def push_folder(
    folder: Path,
    repo_id: str,
    kind: str = "model",
    private: bool = False,
    must_be_private: bool = False,
    replaced: Sequence[str] = (),
) -> Pushed:
    """Creates a repository if it does not exist, and uploads a folder in one commit.

    The token is that of huggingface_hub (HF_TOKEN or `hf auth login`). It is never printed, even if the server repeats
    it in an error.

    Args:
        folder: the content of the repository.
        repo_id: `user/name`.
        kind: see [`open_repository`].
        private: see [`open_repository`].
        must_be_private: see [`open_repository`].
        replaced: patterns of files to delete from the repository if the folder does not contain them. Default: none.

    Returns:
        The commit.

    Raises:
        ReleaseError: a file contains a token, or see [`open_repository`].
    """
    check_secrets(folder)
    open_repository(repo_id, kind, private, must_be_private)
    with _one_line_errors(repo_id):
        commit = HfApi().upload_folder(
            repo_id=repo_id,
            repo_type=kind,
            folder_path=folder,
            commit_message="Release of Rogle",
            ignore_patterns=[pattern for name in LEFTOVERS for pattern in (f"{name}/*", f"**/{name}/*")],
            delete_patterns=list(replaced) or None,
        )
    return Pushed(str(commit.commit_url), commit.oid)


@contextmanager
def _one_line_errors(repo_id: str) -> Iterator[None]:
    """Turns an error of the Hub or of the network into one line without the token."""
    try:
        yield
    except (httpx.HTTPError, OSError) as error:  # the Hub's own errors are one of these
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        message = " ".join((getattr(error, "server_message", None) or "").split())
        reason += f" ({message})" if message and message not in reason else ""
        # `from None`: the original error may contain the token, and a traceback would print it.
        raise ReleaseError(without_token(f"{repo_id}: not pushed: {reason}")) from None


def without_token(text: str) -> str:
    """Replaces the token of this machine, and everything that resembles a token, by `hf_***`."""
    token = get_token()
    if token:
        text = text.replace(token, "hf_***")
    return SECRET.sub(b"hf_***", text.encode()).decode()


__all__ = [
    "Pushed",
    "ReleaseError",
    "check_name",
    "check_private",
    "check_secrets",
    "newest_commit",
    "open_repository",
    "push_folder",
    "without_token",
]
