"""Upload of a built data set to the Hub, and the check that its licences allow it."""

import json
from collections.abc import Sequence
from pathlib import Path

from dataset_pvlg.build.card import FREE_SOURCES
from modeling_rogle.release.upload import check_name, push_folder


def push(folder: Path, repo_id: str) -> str:
    """Upload a built folder to the Hub as a data set.

    Args:
        folder (`Path`): the result of [`build`].
        repo_id (`str`): `user/name`; a new repository is private.

    Returns:
        `str`: the address of the commit.

    Raises:
        ReleaseError: (a ValueError) the Hub refuses, or the repository is public and a source restricts its data.
        ValueError: the folder holds images that may not be redistributed.
    """
    report = json.loads((folder / "build_report.json").read_text(encoding="utf-8"))
    names = [source["source"] for source in report["sources"]]
    check_push(names, repo_id, report["pictures"])
    restricted = set(names) != {"synthetic"}  # captions have authors too
    return push_folder(folder, repo_id, "dataset", private=True, must_be_private=restricted, replaced=["data/*"]).url


def check_push(names: Sequence[str], repo_id: str, images: bool) -> None:
    """Check a repository name and the licences of images before a build starts.

    Args:
        names (`Sequence[str]`): names of the sources.
        repo_id (`str`): `user/name` on the Hub.
        images (`bool`): whether the folder will hold images.

    Raises:
        ValueError: the Hub does not accept the name, or images may not be redistributed.
    """
    check_name(repo_id)
    restricted = [name for name in names if name not in FREE_SOURCES]
    if restricted and images:
        raise ValueError(
            f"--push-to-hub: the images of {', '.join(restricted)} may not be redistributed; add --annotations-only"
        )
