"""Folders to repositories: names that the Hub takes, one commit a repository, and a token that nobody gets to read."""

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
TEXT_BYTES = 4_000_000  # files up to here are searched for tokens


class ReleaseError(ValueError):
    """A folder or name that cannot be released; one line that says what to change."""


@dataclass(frozen=True)
class Pushed:
    """A commit: its address and its hash."""

    url: str
    sha: str


def check_name(repo_id: str) -> None:
    """Raises ReleaseError unless `repo_id` is `user/name` as the Hub takes it."""
    try:
        validate_repo_id(repo_id)
    except ValueError as error:
        raise ReleaseError(f"{repo_id}: {str(error).splitlines()[0]}") from error
    if "/" not in repo_id:
        raise ReleaseError(f"{repo_id}: must be user/name")


def check_secrets(folder: Path) -> None:
    """Raises ReleaseError for a file that holds what looks like a Hub token."""
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.stat().st_size <= TEXT_BYTES and SECRET.search(file.read_bytes()):
            raise ReleaseError(f"{file}: holds what looks like a token of the Hub (hf_...); take it out, and revoke it")


def open_repository(repo_id: str, kind: str = "model", private: bool = False, must_be_private: bool = False) -> None:
    """Creates the repository if it is not there; no file is uploaded.

    Args:
        kind: `model`, `dataset` or `space`.
        private: of a repository that is not there yet.
        must_be_private: also refuse one that is there and public.

    Raises:
        ReleaseError: a public repository that must not be one; the Hub cannot be reached, or refuses.
    """
    options = {"space_sdk": "gradio"} if kind == "space" else {}
    with _told(repo_id):
        api = HfApi()
        api.create_repo(repo_id, repo_type=kind, exist_ok=True, private=private or must_be_private, **options)
    if must_be_private:
        check_private(repo_id, kind)


def check_private(repo_id: str, kind: str) -> None:
    """Raises ReleaseError for a repository that is there and public."""
    with _told(repo_id):
        api = HfApi()
        public = api.repo_exists(repo_id, repo_type=kind) and not api.repo_info(repo_id, repo_type=kind).private
    if public:
        raise ReleaseError(
            f"{repo_id}: a public {kind} repository, and this may not be public; make it private, or choose another"
        )


def newest_commit(repo_id: str, needed: Sequence[str]) -> str:
    """The newest commit of a model on the Hub.

    Args:
        needed: files that it must hold.

    Raises:
        ReleaseError: no such model, or one without a file that is needed; the Hub cannot be reached.
    """
    with _told(repo_id):
        api = HfApi()
        found = api.model_info(repo_id) if api.repo_exists(repo_id) else None
    if found is None:
        raise ReleaseError(f"{repo_id}: no such model on the Hub; push the model first")
    held = {file.rfilename for file in found.siblings or ()}
    if missing := [name for name in needed if name not in held]:
        raise ReleaseError(f"{repo_id}: the model on the Hub has no {missing[0]}; push the model first")
    return str(found.sha)


def push_folder(
    folder: Path,
    repo_id: str,
    kind: str = "model",
    private: bool = False,
    must_be_private: bool = False,
    replaced: Sequence[str] = (),
) -> Pushed:
    """Creates the repository if it is not there, and uploads the folder in one commit.

    The token is huggingface_hub's own (HF_TOKEN or `hf auth login`); it is never printed, not even where a server says
    it back in an error.

    Args:
        kind, private, must_be_private: see `open_repository`.
        replaced: patterns of files that go from the repository when they are not in the folder any more.

    Raises:
        ReleaseError: a file with a token in it; see `open_repository`.
    """
    check_secrets(folder)
    open_repository(repo_id, kind, private, must_be_private)
    with _told(repo_id):
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
def _told(repo_id: str) -> Iterator[None]:
    """What the Hub, or the way to it, says against a request, as one line that names no token."""
    try:
        yield
    except (httpx.HTTPError, OSError) as error:  # the Hub's own errors are either
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        said = " ".join((getattr(error, "server_message", None) or "").split())
        reason += f" ({said})" if said and said not in reason else ""
        # `from None`: the error underneath may say the token too, and a traceback prints it.
        raise ReleaseError(without_token(f"{repo_id}: not pushed: {reason}")) from None


def without_token(text: str) -> str:
    """The text with the token of this machine, and whatever looks like one, struck out."""
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
