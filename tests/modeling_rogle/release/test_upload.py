"""Uploads: names, one commit, deleted files, private repositories, and a token that is never printed."""

import logging
import traceback
from pathlib import Path

import pytest

from modeling_rogle.release.upload import ReleaseError, check_name, check_secrets, push_folder, without_token
from tests.helpers.hub_server import HubServer, hub_server, in_this_process

TOKEN = "hf_" + "aB3" * 11


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> HubServer:
    with hub_server() as served:
        in_this_process(served, monkeypatch, TOKEN)
        yield served


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "release"
    (root / "data").mkdir(parents=True)
    (root / "README.md").write_text("---\nlicense: apache-2.0\n---\nwords\n")
    (root / "data" / "rows.parquet").write_bytes(b"PAR1" * 100)
    (root / "__pycache__").mkdir()
    (root / "__pycache__" / "x.pyc").write_bytes(b"")
    return root


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_the_repository_contains_the_folder(hub: HubServer, folder: Path, kind: str):
    pushed = push_folder(folder, "me/thing", kind)
    assert hub.files(kind, "me/thing") == {
        "README.md": (folder / "README.md").read_bytes(), "data/rows.parquet": b"PAR1" * 100,
    }  # fmt: skip
    assert pushed.url.startswith(hub.url) and pushed.url.endswith(pushed.sha)
    assert len(hub.repos[kind, "me/thing"]) == 2, "one commit after the creation"
    assert hub.private[kind, "me/thing"] is False and hub.sdk["me/thing"] == ("gradio" if kind == "space" else "")


def test_files_of_an_earlier_release_are_deleted_if_they_would_be_loaded(hub: HubServer, folder: Path):
    (folder / "data" / "old.parquet").write_bytes(b"old")
    (folder / "notes.txt").write_text("mine")
    push_folder(folder, "me/thing", "dataset")
    (folder / "data" / "old.parquet").unlink()
    (folder / "notes.txt").unlink()
    push_folder(folder, "me/thing", "dataset", replaced=["data/*"])
    assert sorted(hub.files("dataset", "me/thing")) == ["README.md", "data/rows.parquet", "notes.txt"]


def test_restricted_content_is_never_public(hub: HubServer, folder: Path):
    push_folder(folder, "me/closed", "dataset", must_be_private=True)
    assert hub.private["dataset", "me/closed"]
    push_folder(folder, "me/closed", "dataset", must_be_private=True)
    push_folder(folder, "me/open", "dataset")
    with pytest.raises(ReleaseError, match="me/open: a public dataset repository"):
        push_folder(folder, "me/open", "dataset", must_be_private=True)
    assert len(hub.repos["dataset", "me/open"]) == 2, "nothing was added"


def test_the_token_is_sent_to_the_hub_and_never_printed(
    hub: HubServer, folder: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
):
    with caplog.at_level(logging.DEBUG):
        push_folder(folder, "me/thing")
        assert f"Bearer {TOKEN}" in hub.tokens
        hub.refuse = f"token {TOKEN} may not do that"  # a server or proxy that repeats the token
        with pytest.raises(ReleaseError) as caught:
            push_folder(folder, "me/thing")
    shown = "".join(traceback.format_exception(caught.value)) + str(capfd.readouterr())
    assert "not pushed" in shown and "hf_***" in shown
    assert TOKEN not in shown and TOKEN not in caplog.text


def test_a_token_in_a_file_stops_the_release(hub: HubServer, folder: Path):
    (folder / "app.py").write_text(f'login("{TOKEN}")\n')
    with pytest.raises(ReleaseError, match=r"app\.py: .*token") as caught:
        check_secrets(folder)
    assert TOKEN not in str(caught.value)
    with pytest.raises(ReleaseError):
        push_folder(folder, "me/thing")
    assert not hub.repos


def test_other_tokens_are_removed_from_messages_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "short")
    assert without_token(f"short and {TOKEN} é") == "hf_*** and hf_*** é"


@pytest.mark.parametrize("name", ["rogle", "me/rogle/tiny", "me/ro gle", "me/-rogle"])
def test_an_invalid_name_is_refused(name: str):
    with pytest.raises(ReleaseError, match=name):
        check_name(name)


def test_an_unreachable_hub_is_one_line(folder: Path):
    with pytest.raises(ReleaseError, match="me/thing: not pushed: .*offline mode"):  # the tests run offline
        push_folder(folder, "me/thing")
