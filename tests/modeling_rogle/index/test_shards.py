"""Shards: committed rows are read in order, and a damaged file is named."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modeling_rogle.index import shards
from modeling_rogle.index.index_writer import IndexWriter, write_table
from modeling_rogle.index.shards import Index
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.late_interaction import dequantize_regions, quantize_regions
from tests.helpers.index_files import DIMENSION, REGIONS, empty_writer, filled_index, image_rows, unit_rows

COPY = "0123456789abcdef" * 2 + ".jpg"


def test_committed_rows_are_read_in_order(tmp_path):
    images, regions = filled_index(tmp_path, [4, 1, 7])
    index = Index(tmp_path)
    assert len(index.shards) == 3 and len(index) == 12
    assert index.paths == [f"path-{n}" for n in range(12)] and index.ids.tolist() == list(range(12))
    sizes = index.table.select(["width", "height"]).to_pydict()
    assert sizes == {"width": list(range(1, 13)), "height": list(range(1, 25, 2))}
    np.testing.assert_array_equal(index.global_rows(), images)
    some = np.array([11, 0, 4, 4, 5])
    np.testing.assert_array_equal(index.global_rows(some), images[some])
    np.testing.assert_allclose(index.region_rows(some), regions[some], atol=0.02)
    cosines = np.einsum("sd,ntd->nst", images[:3], index.region_rows(some))
    np.testing.assert_allclose(index.region_cosines(some, images[:3]), cosines, atol=1e-6)
    assert index.region_cosines(some, images[:0]).shape == (5, 0, REGIONS)


def test_bfloat16_halves_the_file_and_rounds_little(tmp_path):
    images, _ = filled_index(tmp_path, [9], precision="bfloat16")
    index = Index(tmp_path)
    np.testing.assert_allclose(index.global_rows(), images, atol=4e-3)
    assert index.shards[0].global_embeds.nbytes == images.nbytes // 2


def test_a_reader_opens_again_when_a_writer_replaced_the_manifest(tmp_path, monkeypatch):
    filled_index(tmp_path, [3])
    old = shards.read_manifest(tmp_path)
    writer = IndexWriter(tmp_path, old)
    writer.remove([0])
    writer.commit()  # its shard is not the one that the old manifest names
    answers = iter([old])
    real = shards.read_manifest
    monkeypatch.setattr(shards, "read_manifest", lambda *args: next(answers, None) or real(*args))
    assert Index(tmp_path).paths == ["path-1", "path-2"]


def test_the_users_columns_are_joined_by_path_and_by_scene(tmp_path):
    writer = empty_writer(tmp_path)
    rows = [*image_rows(0, 2), {**image_rows(2, 1)[0], "path": "scene#0", "scene": "scene"}]
    writer.add(rows, unit_rows(3, DIMENSION), unit_rows(3, REGIONS, DIMENSION))
    table = pa.table({"path": ["scene", "path-1", "unknown"], "camera": ["c1", "c2", "c3"], "n": [1, None, 3]})
    write_table(table, tmp_path / "metadata-00000001.parquet")
    writer.commit(metadata="metadata-00000001.parquet")
    assert Index(tmp_path).table.select(["camera", "n"]).to_pydict() == {
        "camera": [None, "c2", "c1"],
        "n": [None, None, 1],
    }


def test_int8_regions_keep_their_direction():
    rows = unit_rows(50, 4, 64)
    back = dequantize_regions(*quantize_regions(rows))
    assert np.linalg.norm(back, axis=-1) == pytest.approx(1.0, abs=1e-5)
    assert (back * rows).sum(-1).min() > 0.9995
    assert np.isfinite(dequantize_regions(*quantize_regions(np.zeros((2, 3), dtype=np.float32)))).all()


@pytest.mark.parametrize("name", ["images.parquet", "global.npy", "regions.npy", "region_scales.npy"])
@pytest.mark.parametrize("harm", ["missing", "cut", "shorter"])
def test_an_index_with_a_damaged_file_names_it(tmp_path, name, harm):
    filled_index(tmp_path, [6])
    file = next(tmp_path.glob(f"shard-*/{name}"))
    if harm == "missing":
        file.unlink()
    elif harm == "cut":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif file.suffix == ".npy":
        np.save(file, np.load(file)[:-1])
    else:
        pq.write_table(pq.read_table(file)[:-1], file)
    with pytest.raises(GalleryError) as caught:
        Index(tmp_path)
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["/tmp/victim.txt", "../" + COPY, COPY + "\n", "../" * 9 + "victim.jpg"])
def test_an_invalid_name_of_a_copy_is_refused_before_anything_is_removed(tmp_path, name):
    filled_index(tmp_path, [3])
    (file,) = tmp_path.glob("shard-*/images.parquet")
    table = pq.read_table(file)
    position = table.schema.get_field_index("picture")
    write_table(table.set_column(position, "picture", pa.array([COPY, None, name])), file)
    with pytest.raises(
        GalleryError, match="images.parquet: field 'picture' holds .*, which is not the name of a copy"
    ) as caught:
        Index(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_empty_index_opens(tmp_path):
    empty_writer(tmp_path).commit()
    index = Index(tmp_path)
    assert len(index) == 0 and index.global_rows().shape == (0, DIMENSION)
