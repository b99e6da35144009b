"""Files written by commit 2fbb0e3 (see make_files.py) load, search and score as they did there."""

import json
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

from dataset_pvlg.loading import load_rows
from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.box_ops import template_boxes
from modeling_rogle.index.manifest import VERSION, read_manifest
from modeling_rogle.inference.loading import load_model
from modeling_rogle.search import query as query_module
from modeling_rogle.search.gallery import Gallery
from modeling_rogle.sentences import split_sentences

FILES = Path(__file__).parent / "files"
EXPECTED = json.loads((FILES / "expected.json").read_text(encoding="utf-8"))
QUERY = "A man wears a red jacket and black pants. His shoes are white."
TEXTS = [QUERY, "He carries a blue bag over the left shoulder.", "a woman in a green coat"]


def close(found: torch.Tensor, expected: list) -> None:
    np.testing.assert_allclose(found.numpy(), np.array(expected, dtype=np.float32), atol=1e-6, rtol=0)


def check_embeddings(model: RogleModel, processor: RogleProcessor) -> None:
    images = [Image.open(file).convert("RGB") for file in sorted((FILES / "images").glob("*.png"))[:3]]
    boxes = torch.from_numpy(template_boxes())[[0, 4, 9]]
    pixels = processor(images=images, return_tensors="pt")["pixel_values"]
    whole, regions = model.encode_images(pixels, boxes, torch.arange(3))
    texts = model.encode_texts(**processor(text=TEXTS, return_tensors="pt"))
    for name, embeds in {"images": whole, "regions": regions, "texts": texts}.items():
        close(embeds, EXPECTED["embeddings"][name])


def test_a_checkpoint_gives_the_same_embeddings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # a config with every field at its default needs no warning
        model = RogleModel.from_pretrained(FILES / "checkpoint").eval()
    assert model.config.local_weight == 0.4
    check_embeddings(model, RogleProcessor.from_pretrained(FILES / "checkpoint"))


def test_a_hub_folder_gives_the_same_embeddings() -> None:
    model = AutoModel.from_pretrained(FILES / "hub", trust_remote_code=False).eval()
    assert isinstance(model, RogleModel)
    check_embeddings(model, AutoProcessor.from_pretrained(FILES / "hub", trust_remote_code=False))


def test_an_adapter_gives_the_same_embeddings() -> None:
    peft = pytest.importorskip("peft")
    model = RogleModel.from_pretrained(FILES / "checkpoint").eval()
    adapted = peft.PeftModel.from_pretrained(model, FILES / "adapter").merge_and_unload()
    tokens = RogleProcessor.from_pretrained(FILES / "checkpoint")(text=TEXTS, return_tensors="pt")
    close(adapted.encode_texts(**tokens), EXPECTED["adapted_texts"])


@pytest.mark.parametrize("case", EXPECTED["search"], ids=lambda case: str(case["options"]))
def test_an_index_gives_the_same_results(case: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # These results are of whole sentences. A query is split into clauses now.
    monkeypatch.setattr(query_module, "query_sentences", lambda text: (split_sentences(text), 0))
    index = shutil.copytree(FILES / "index", tmp_path / "index")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the calibration is of another local weight in two cases
        matches = Gallery.open(index, FILES / "checkpoint").search(QUERY, **case["options"])
    assert [match.path for match in matches] == case["paths"]
    assert [[sentence.label for sentence in match.sentences] for match in matches] == case["regions"]
    np.testing.assert_allclose([match.score for match in matches], case["scores"], atol=1e-6, rtol=0)
    for match, expected in zip(matches, case["probabilities"], strict=True):
        assert match.probability == (None if expected is None else pytest.approx(expected, abs=1e-6))


@pytest.fixture
def copied(tmp_path: Path) -> tuple[Path, Path]:
    """A copy of the index of format 2 and of its images."""
    index, images = (shutil.copytree(FILES / name, tmp_path / name) for name in ("index", "images"))
    header = json.loads((index / "index.json").read_text()) | {"folder": str(images.resolve())}
    (index / "index.json").write_text(json.dumps(header))
    return index, images


def test_images_are_added_to_an_index_and_taken_out(copied: tuple[Path, Path]) -> None:
    index, images = copied
    model, processor = (
        RogleModel.from_pretrained(FILES / "checkpoint"),
        RogleProcessor.from_pretrained(FILES / "checkpoint"),
    )
    before = {match.path: match.score for match in Gallery.open(index, model, processor).search(QUERY, top_k=24)}
    shutil.copy(images / "00.png", images / "24.png")
    Gallery.build(images, model, processor, index, progress=False)
    gallery = Gallery.open(index, model, processor)
    assert gallery.delete(["05.png"]) == 1
    after = {path: match.score for match in gallery.search(QUERY, top_k=25) for path in (match.path, *match.others)}
    assert after.keys() == (before.keys() - {"05.png"}) | {"24.png"}
    assert all(after[path] == pytest.approx(before[path], abs=1e-6) for path in before.keys() & after.keys())
    assert after["24.png"] == pytest.approx(after["00.png"], abs=1e-6)


@pytest.mark.parametrize("writer", ["index", "delete", "delete a skipped name"])
def test_an_index_of_format_2_is_upgraded_when_it_is_next_written(copied: tuple[Path, Path], writer: str) -> None:
    index, images = copied
    header = read_manifest(index)
    assert header["version"] == 2 and "id" not in header
    (index / "index.json").write_text(json.dumps(header | {"skipped": [{"path": "x.jpg", "reason": "-"}], "new": 1}))
    model, processor = load_model(FILES / "checkpoint")
    gallery = Gallery.open(index, model, processor)
    before = [(match.path, match.score) for match in gallery.search(QUERY, top_k=24)]
    assert read_manifest(index)["version"] == 2  # reading and searching change nothing
    if writer == "index":
        report = Gallery.build(images, model, processor, index, progress=False).report
        assert (report.kept, report.added, report.removed) == (24, 0, 0)
    else:
        gallery.delete(["05.png" if writer == "delete" else "x.jpg"])
        before = [(path, score) for path, score in before if writer != "delete" or path != "05.png"]
    header = read_manifest(index)
    assert header["version"] == VERSION and re.fullmatch("[0-9a-f]{32}", header["id"]) and header["new"] == 1
    assert (index / "calibration.json").exists()
    after = [(match.path, match.score) for match in Gallery.open(index, model, processor).search(QUERY, top_k=24)]
    assert after == [(path, pytest.approx(score, abs=1e-6)) for path, score in before]
    Gallery.build(images, model, processor, index, progress=False)
    assert read_manifest(index)["id"] == header["id"]


def test_a_built_data_set_gives_the_same_rows() -> None:
    splits = load_rows("pvlg", FILES / "dataset")[0]
    found = {
        split: [
            {name: value for name, value in row.items() if name != "image"} | {"size": list(row["image"].size)}
            for row in splits[split]
        ]
        for split in splits
    }
    for row in (row for rows in found.values() for row in rows):  # columns that this data set does not have yet
        assert row.pop("claims") is None and all(region.pop("attributes") is None for region in row["regions"])
    assert json.loads(json.dumps(found, default=str)) == EXPECTED["dataset"]
