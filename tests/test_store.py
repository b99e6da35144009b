"""The index on disk: what is published is read back, whatever is damaged is named, nothing else is left behind."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modeling_rogle.store import SCHEMA, GalleryError, Store, StoreWriter, dequantise, quantise

ROWS, REGIONS, DIMENSION = 6, 11, 8
HEADER = {
    "folder": "/pictures",
    "model": {"path": "model", "fingerprint": "0" * 64},
    "template_boxes": [[0.0, 0.0, 1.0, 1.0]] * REGIONS,
    "template_labels": ["head"] * REGIONS,
    "ignored": 0,
    "skipped": [],
}


def unit_rows(*shape: int) -> np.ndarray:
    rows = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def metadata(count: int) -> pa.Table:
    """One row a picture, whatever the schema's columns are called."""
    values = {
        field.name: [f"{field.name}-{n}" if pa.types.is_string(field.type) else n + 1 for n in range(count)]
        for field in SCHEMA
    }
    return pa.table(values, schema=SCHEMA)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """A published index of six pictures, written in two parts."""
    with StoreWriter(tmp_path / "index", DIMENSION, REGIONS) as writer:
        images, regions = unit_rows(ROWS, DIMENSION), unit_rows(ROWS, REGIONS, DIMENSION)
        for part in (slice(0, 4), slice(4, ROWS)):
            writer.append(metadata(ROWS)[part], images[part], *quantise(regions[part]))
        writer.publish(HEADER)
    return tmp_path / "index"


def test_what_is_published_is_read_back(index: Path) -> None:
    store = Store(index)
    np.testing.assert_array_equal(store.global_embeds, unit_rows(ROWS, DIMENSION))
    found = dequantise(np.asarray(store.regions), np.asarray(store.scales))
    np.testing.assert_allclose(found, unit_rows(ROWS, REGIONS, DIMENSION), atol=0.01)
    assert list(store.paths) == [f"path-{n}" for n in range(ROWS)]


def test_what_is_not_published_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="half-way"), StoreWriter(tmp_path / "new", DIMENSION, REGIONS) as writer:
        writer.append(metadata(1), unit_rows(1, DIMENSION), *quantise(unit_rows(1, REGIONS, DIMENSION)))
        raise RuntimeError("half-way")
    assert not (tmp_path / "new").exists()


def test_a_store_without_some_rows_is_another_generation(index: Path) -> None:
    (before,) = index.glob("generation-*")
    store = Store(index).without({1, 4})
    assert list(store.paths) == ["path-0", "path-2", "path-3", "path-5"]
    np.testing.assert_array_equal(store.global_embeds, unit_rows(ROWS, DIMENSION)[[0, 2, 3, 5]])
    (after,) = index.glob("generation-*")
    assert after != before


def test_bytes_lose_little():
    rows = np.random.default_rng(0).normal(size=(50, 4, 64)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    back = dequantise(*quantise(rows))
    assert np.linalg.norm(back, axis=-1) == pytest.approx(1.0, abs=1e-5)
    assert (back * rows).sum(-1).min() > 0.9995
    assert np.isfinite(dequantise(*quantise(np.zeros((2, 3), dtype=np.float32)))).all()


@pytest.mark.parametrize("name", ["images.parquet", "global.npy", "regions.npy", "region_scales.npy"])
@pytest.mark.parametrize("harm", ["missing", "cut", "shorter"])
def test_an_index_with_a_damaged_file_names_it(index, name, harm):
    file = next(index.glob(f"generation-*/{name}"))
    if harm == "missing":
        file.unlink()
    elif harm == "cut":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif file.suffix == ".npy":
        np.save(file, np.load(file)[:-1])
    else:
        pq.write_table(pq.read_table(file)[:-1], file)
    with pytest.raises(GalleryError) as caught:
        Store(index)
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "not the header of a Rogle index"),
        ({"version": 99}, "format 99, this program reads 1"),
        ({"images": "ten"}, "field 'images' is missing or not a int"),
        ({"generation": "../elsewhere"}, "not a generation"),
        ({"template_boxes": [[0, 0, 1]] * 11}, "field 'template_boxes' holds .* not four numbers"),
        ({"template_boxes": [[0, 0, 1, "1"]] * 11}, "field 'template_boxes' holds"),
        ({"template_boxes": [[0, 0, 1, float("nan")]] * 11}, "field 'template_boxes' holds"),
        ({"template_boxes": [0, 0, 1, 1] * 11}, "field 'template_boxes' holds 0"),
        ({"template_labels": ["head"]}, "field 'template_labels' is not 11 names"),
        ({"template_labels": [1] * 11}, "field 'template_labels' is not 11 names"),
        ({"skipped": ["a.png"]}, "field 'skipped' holds an entry without a path"),
    ],
)
def test_a_header_that_cannot_be_right_is_refused(index, change, message):
    header = json.loads((index / "index.json").read_text())
    (index / "index.json").write_text(json.dumps({**header, **change}))
    with pytest.raises(GalleryError, match=message) as caught:
        Store(index)
    assert "index.json" in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_index_is_said(tmp_path, index):
    with pytest.raises(FileNotFoundError, match="no such index"):
        Store(tmp_path / "gone")
    with pytest.raises(GalleryError, match="not an index"):
        Store(tmp_path)
    (index / "index.json").write_text('{"format": ')
    with pytest.raises(GalleryError, match="index.json: damaged"):
        Store(index)
