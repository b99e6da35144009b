"""Names of weights, data and code: they change with what counts and with nothing else."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from eval.provenance import checkpoint_folder, checkpoint_sha256, code_version, data_fingerprint, model_code_sha256


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


def test_a_checkpoint_is_its_weights_configuration_and_processor(folder: Path, tiny_checkpoint: Path) -> None:
    before = checkpoint_sha256(str(folder))
    assert before == checkpoint_sha256(str(tiny_checkpoint)) and len(before) == 64
    (folder / "README.md").write_text("# a card is no part of it")
    (folder / "results.json").write_text("{}")
    assert checkpoint_sha256(str(folder)) == before
    seen = {before}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"local_weight": 0.5}))
    seen.add(checkpoint_sha256(str(folder)))
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + "\n")
    seen.add(checkpoint_sha256(str(folder)))
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    seen.add(checkpoint_sha256(str(folder)))
    assert len(seen) == 4


def test_a_name_without_local_weights_has_no_hash(tmp_path: Path) -> None:
    assert checkpoint_sha256(str(tmp_path)) is None
    assert checkpoint_folder("nobody/nothing") is None
    assert checkpoint_sha256("not a name/at/all") is None


def images(tmp_path: Path, embedded: bool, change: dict | None = None) -> Dataset:
    rows = []
    for n in range(3):
        path = tmp_path / f"{n}.png"
        Image.fromarray(np.full((4, 2, 3), n, dtype=np.uint8)).save(path)
        image = {"bytes": path.read_bytes() if embedded else None, "path": None if embedded else str(path)}
        rows.append({"image": image, "image_id": f"made/{n}", "sha256": f"{n:064x}", "caption": "A man."})
    rows[1] |= change or {}
    return Dataset.from_list(rows).cast_column("image", ImageFeature())


@pytest.mark.parametrize("embedded", [True, False])
def test_equal_data_have_equal_hashes_wherever_they_are_stored(tmp_path: Path, embedded: bool) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = data_fingerprint(images(tmp_path / "a", embedded))
    assert first == data_fingerprint(images(tmp_path / "b", embedded))
    assert first != data_fingerprint(images(tmp_path / "b", embedded, {"caption": "A woman."}))
    assert first != data_fingerprint(images(tmp_path / "b", embedded).select([0, 1]))
    assert first != data_fingerprint(images(tmp_path / "b", embedded).select([1, 0, 2]))


def test_a_changed_image_changes_the_hash(tmp_path: Path) -> None:
    first = data_fingerprint(images(tmp_path, True))
    content = (tmp_path / "2.png").read_bytes()
    assert first != data_fingerprint(images(tmp_path, True, {"image": {"bytes": content, "path": None}}))
    # A path is known by the hash that the reader took of the file.
    paths = data_fingerprint(images(tmp_path, False))
    assert paths != data_fingerprint(images(tmp_path, False, {"sha256": "f" * 64}))
    unknown = data_fingerprint(images(tmp_path, False, {"sha256": None}))
    Image.fromarray(np.full((9, 9, 3), 7, dtype=np.uint8)).save(tmp_path / "1.png")
    Image.fromarray(np.full((9, 9, 3), 7, dtype=np.uint8)).save(tmp_path / "x.png")
    other = images(tmp_path, False, {"sha256": None, "image": {"bytes": None, "path": str(tmp_path / "x.png")}})
    assert unknown != data_fingerprint(other)


def test_the_code_has_a_version() -> None:
    assert code_version()
    assert len(model_code_sha256()) == 64
