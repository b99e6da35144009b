"""Embeddings on disk: the same when read again, never another's, and made again when damaged."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import PartialState

from eval.embedding_cache import Encoded, cached_split, read_embeddings, write_embeddings
from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.evaluation.split_embeddings import SplitEmbeddings, encode_split
from tests.helpers.splits import numbered_row, tensors_of


@pytest.fixture(scope="module")
def parts(tiny_checkpoint: Path) -> tuple[RogleModel, RogleProcessor, list[dict]]:
    model, processor = RogleModel.from_pretrained(tiny_checkpoint), RogleProcessor.from_pretrained(tiny_checkpoint)
    return model, processor, [numbered_row(n) for n in range(5)]


@pytest.fixture(scope="module")
def embeddings(parts) -> SplitEmbeddings:
    return encode_split(*parts, batch_size=2, progress=False, split="validation")


def ask(parts, folder: Path | None, key: dict) -> Encoded:
    state = PartialState(cpu=True)
    return cached_split(*parts, lambda: key, folder, state, batch_size=2, split="validation", progress=False)


def same(one: SplitEmbeddings, other: SplitEmbeddings) -> bool:
    others = tensors_of(other)
    return one.split == other.split and all(torch.equal(others[name], value) for name, value in tensors_of(one).items())


def test_written_embeddings_are_read_unchanged(embeddings: SplitEmbeddings, tmp_path: Path) -> None:
    write_embeddings(embeddings, tmp_path / "split.safetensors")
    assert same(embeddings, read_embeddings(tmp_path / "split.safetensors", "validation"))
    assert [path.name for path in tmp_path.iterdir()] == ["split.safetensors"]


def test_empty_sets_survive(embeddings: SplitEmbeddings, tmp_path: Path) -> None:
    bare = replace(embeddings, region_embeds=embeddings.region_embeds[:0], region_image=embeddings.region_image[:0])
    write_embeddings(bare, tmp_path / "split.safetensors")
    assert same(bare, read_embeddings(tmp_path / "split.safetensors", "validation"))


def test_the_second_run_reads_and_another_key_does_not(parts, embeddings, tmp_path: Path) -> None:
    first = ask(parts, tmp_path / "deep/cache", {"checkpoint": "a"})
    again = ask(parts, tmp_path / "deep/cache", {"checkpoint": "a"})
    other = ask(parts, tmp_path / "deep/cache", {"checkpoint": "b"})
    assert (first.origin, first.images_by_process) == ("computed", [5])
    assert again.origin.startswith("cache ") and again.images_by_process == []
    assert other.origin == "computed"
    assert all(same(embeddings, found.embeddings) for found in (first, again, other))
    assert len(list((tmp_path / "deep/cache").iterdir())) == 2


def test_without_a_folder_nothing_is_stored(parts, embeddings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert same(embeddings, ask(parts, None, {}).embeddings)
    assert list(tmp_path.iterdir()) == []


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_bit,
        lambda path: path.write_bytes(path.read_bytes()[:-40]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("no tensors at all"),
    ],
)
def test_a_damaged_file_is_reported_and_computed_again(parts, embeddings, tmp_path: Path, capsys, damage) -> None:
    ask(parts, tmp_path, {})
    (path,) = tmp_path.iterdir()
    damage(path)
    with pytest.raises(ValueError, match="is damaged"):
        read_embeddings(path, "validation")
    found = ask(parts, tmp_path, {})
    assert found.origin == "computed" and same(embeddings, found.embeddings)
    assert f"cache {path} is damaged" in capsys.readouterr().err
    assert ask(parts, tmp_path, {}).origin.startswith("cache ")
