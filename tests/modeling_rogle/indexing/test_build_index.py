"""Building an index: only new and changed images are encoded, a killed run is continued, crops keep their scenes."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling_rogle.index.manifest import locked, read_manifest
from modeling_rogle.index.shards import Index
from modeling_rogle.indexing import item_encoder
from modeling_rogle.indexing.build_index import IndexWriter
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.inference.loading import load_model
from modeling_rogle.search.gallery import Gallery
from tests.helpers.image_files import QUERY, data_rows, make_images
from tests.helpers.tiny_detector import make_detector


@pytest.fixture(scope="module")
def tools(tiny_checkpoint):
    return load_model(tiny_checkpoint)


@pytest.fixture
def folder(tmp_path) -> Path:
    return make_images(tmp_path / "images", 8)


def build(source, tools, out, **options):
    return Gallery.build(source, *tools, out, batch_size=3, progress=False, **options).report


def test_a_second_run_encodes_nothing_and_later_runs_encode_changes(folder, tools, tmp_path, monkeypatch):
    out = tmp_path / "index"
    assert build(folder, tools, out).added == 8
    embeds = Gallery.open(out).encode_gallery()
    again = build(folder, tools, out)
    assert (again.images, again.added, again.kept, again.removed) == (8, 0, 8, 0)
    os.utime(folder / "02.png")  # a new time, the same bytes
    shutil.copy(folder / "05.png", folder / "01.png")  # changed
    (folder / "03.png").unlink()
    shutil.copy(folder / "05.png", folder / "new.png")
    report = build(folder, tools, out)
    assert (report.images, report.added, report.kept, report.removed) == (8, 2, 6, 2)
    gallery = Gallery.open(out, *tools)
    assert sorted(gallery.paths) == [f"0{n}.png" for n in (0, 1, 2, 4, 5, 6, 7)] + ["new.png"]
    now = dict(zip(gallery.paths, gallery.encode_gallery(), strict=True))
    np.testing.assert_array_equal(now["02.png"], embeds[2])
    np.testing.assert_allclose(now["01.png"], embeds[5], atol=1e-6)
    assert len(set(gallery.table.column("id").to_pylist())) == 8 and gallery.complete


def test_images_of_the_folder_are_appended_and_others_refused(folder, tools, tmp_path):
    out = tmp_path / "index"
    make_images(folder / "b", 3)
    build(f"{folder}/0*.png", tools, out)
    report = build(folder / "b", tools, out, append=True)
    assert (report.images, report.added, report.kept) == (11, 3, 8)
    gallery = Gallery.open(out, *tools)
    assert {"00.png", "b/02.png"} <= set(gallery.paths)
    assert all(match.file.is_file() for match in gallery.search(QUERY, top_k=11))
    with pytest.raises(GalleryError, match="not inside .*/images, the folder of this index"):
        build(make_images(tmp_path / "elsewhere", 1), tools, out, append=True)
    with pytest.raises(FileNotFoundError, match="no such index"):
        build(folder, tools, tmp_path / "none", append=True)


def test_an_interrupted_run_is_continued_and_readers_see_what_is_committed(folder, tools, tmp_path, monkeypatch):
    out, real, calls = tmp_path / "index", item_encoder.encode_pixels, []

    def breaking(*args):
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(item_encoder, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(item_encoder, "encode_pixels", breaking)
    with pytest.raises(KeyboardInterrupt):
        build(folder, tools, out)
    gallery = Gallery.open(out, *tools)
    assert not gallery.complete and len(gallery) == 6
    with pytest.warns(UserWarning, match="indexing is not finished, 6 images are searched"):
        assert len(gallery.search(QUERY, top_k=10)) == 6
    report = build(folder, tools, out)
    assert (report.kept, report.added) == (6, 2)
    assert gallery.refresh() and gallery.complete and len(gallery) == 8 and not gallery.refresh()


def test_an_index_is_replaced_only_by_a_complete_one(folder, tools, tmp_path, monkeypatch):
    out, real, calls = tmp_path / "index", item_encoder.encode_pixels, []
    build(folder, tools, out)
    with monkeypatch.context() as broken:
        broken.setattr(item_encoder, "COMMIT_SECONDS", 0.0)
        broken.setattr(
            item_encoder, "encode_pixels", lambda *args: calls.append(0) or real(*args) if len(calls) < 2 else 1 / 0
        )
        with pytest.raises(ZeroDivisionError):
            build(folder, tools, out, precision="bfloat16")
    assert len(Gallery.open(out)) == 8 and read_manifest(out)["precision"] == "float32"
    assert Gallery.open(out).delete(["00.png"]) == 1  # there too, but that image still lies in its folder
    report = build(folder, tools, out, precision="bfloat16")
    assert (report.images, report.kept, report.added) == (8, 5, 3)
    assert read_manifest(out)["precision"] == "bfloat16"
    assert sorted(name.split("-")[0] for name in os.listdir(out)) == ["index.json", "shard"]


def break_after(batches: int, monkeypatch) -> None:
    """Commits every batch and raises ZeroDivisionError after `batches` of them."""
    real, calls = item_encoder.encode_pixels, []
    monkeypatch.setattr(item_encoder, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(
        item_encoder, "encode_pixels", lambda *args: calls.append(0) or real(*args) if len(calls) < batches else 1 / 0
    )


@pytest.mark.parametrize("mismatch", ["detector", "damage"])
def test_an_index_that_cannot_be_appended_to_is_not_changed(folder, tools, tmp_path, mismatch):
    out, options = tmp_path / "index", {}
    build(folder, tools, out)
    make_images(folder / "b", 3)
    if mismatch == "detector":
        options, reason = {"detector": make_detector(tmp_path / "yolos")}, "detector none, not .*yolos"
    else:
        next(out.glob("shard-*/global.npy")).write_bytes(b"")
        reason = "global.npy: missing or damaged.*"
    before = (out / "index.json").read_bytes()
    with pytest.raises(GalleryError, match=rf"cannot be appended to \(.*{reason}\); .* without --append") as caught:
        build(folder / "b", tools, out, append=True, **options)
    assert "\n" not in str(caught.value) and (out / "index.json").read_bytes() == before


def test_appending_keeps_the_precision_of_the_index(folder, tools, tmp_path):
    out = tmp_path / "index"
    build(folder, tools, out, precision="bfloat16")
    make_images(folder / "b", 3)
    assert build(folder / "b", tools, out, append=True).images == 11
    assert read_manifest(out)["precision"] == "bfloat16"
    make_images(folder / "c", 1)
    with pytest.warns(UserWarning, match="the index keeps its precision bfloat16, not float32"):
        assert build(folder / "c", tools, out, append=True, precision="float32").images == 12
    assert read_manifest(out)["precision"] == "bfloat16"


def test_an_unfinished_index_stays_unfinished_when_a_part_is_appended(folder, tools, tmp_path, monkeypatch):
    out = tmp_path / "index"
    with monkeypatch.context() as broken, pytest.raises(ZeroDivisionError):
        break_after(1, broken)
        build(folder, tools, out)
    make_images(folder / "b", 3)
    assert build(folder / "b", tools, out, append=True).images == 6 and not Gallery.open(out).complete
    assert build(folder, tools, out).images == 11 and Gallery.open(out).complete


def test_an_interrupted_append_is_finished_by_the_same_source(folder, tools, tmp_path, monkeypatch):
    out = tmp_path / "index"
    build(f"{folder}/0*.png", tools, out)
    make_images(folder / "b", 4, first=8)
    make_images(folder / "c", 1, first=12)
    with monkeypatch.context() as broken, pytest.raises(ZeroDivisionError):
        break_after(1, broken)
        build(folder / "b", tools, out, append=True)
    assert not Gallery.open(out).complete
    shutil.copytree(out, tmp_path / "other")
    build(folder / "c", tools, tmp_path / "other", append=True)
    assert not Gallery.open(tmp_path / "other").complete
    assert build(folder / "b", tools, out, append=True).added == 1 and Gallery.open(out).complete


def test_an_interrupted_append_of_rows_is_finished_by_the_same_rows(tools, tmp_path, monkeypatch):
    out, more = tmp_path / "index", data_rows(8)
    build(data_rows(2), tools, out)
    with monkeypatch.context() as broken, pytest.raises(ZeroDivisionError):
        break_after(1, broken)
        build(more, tools, out, append=True)
    assert not Gallery.open(out).complete
    shutil.copytree(out, tmp_path / "other")
    build(data_rows(3), tools, tmp_path / "other", append=True)
    assert not Gallery.open(tmp_path / "other").complete
    assert build(more, tools, out, append=True).images == 8 and Gallery.open(out).complete


def test_copies_of_a_run_killed_before_its_first_commit_are_not_indexed(folder, tools, monkeypatch):
    out = folder / "index"
    (out / "pictures").mkdir(parents=True)  # a killed run leaves crops and no manifest
    shutil.copy(folder / "00.png", out / "pictures" / f"{'0' * 32}.jpg")
    report = build(folder, tools, out)
    assert report.images == 8 and not report.skipped and Gallery.open(out).paths == [f"{n:02}.png" for n in range(8)]
    assert not list(out.glob("pictures/*"))


def test_real_pedestrians_are_indexed_and_searched(test_data, tools, tmp_path):
    people, out = test_data / "pedestrians" / "imgs", tmp_path / "index"
    assert build(people, tools, out).images == len(list(people.glob("*.jpg"))) == 90
    gallery = Gallery.open(out, *tools)
    for name in ("0003_c1_0521.jpg", "0009_c2_0062.jpg"):  # an image is the nearest to itself
        assert gallery.search(image=people / name, top_k=1)[0].path == name
    facts = json.loads((test_data / "pedestrians" / "annotations.json").read_text())
    caption = next(entry["long_caption"] for entry in facts if entry.get("long_caption"))
    matches = gallery.search(caption, top_k=90, where="path != '0003_c1_0521.jpg'")
    assert len(matches) == 89 and matches[0].sentences and "0003_c1_0521.jpg" not in {match.path for match in matches}


def test_real_scenes_are_indexed_by_person(test_data, tools, tmp_path):
    scenes, out = test_data / "pedestrians" / "scenes", tmp_path / "index"
    build(scenes, tools, out, detector=make_detector(tmp_path / "yolos"))
    gallery = Gallery.open(out, *tools)
    matches = gallery.search(QUERY, top_k=100)
    assert len(matches) == len(gallery) >= 8
    for match in matches:
        x, y, width, height = match.scene_box
        scene = Image.open(scenes / match.scene)
        assert 0 <= x < x + width <= scene.width and 0 <= y < y + height <= scene.height and match.file.is_file()


def test_an_index_is_unfinished_while_more_is_encoded(folder, tools, tmp_path, monkeypatch):
    out = tmp_path / "index"
    build(folder, tools, out)
    make_images(folder / "b", 6, first=8)
    with monkeypatch.context() as broken, pytest.raises(ZeroDivisionError):
        break_after(1, broken)
        build(folder, tools, out)
    assert not Gallery.open(out).complete and len(Gallery.open(out)) == 11


def test_an_abandoned_replacement_is_removed(folder, tools, tmp_path, monkeypatch):
    out = tmp_path / "index"
    build(folder, tools, out)
    with monkeypatch.context() as broken, pytest.raises(ZeroDivisionError):
        break_after(1, broken)
        build(folder, tools, out, precision="bfloat16")
    assert (out / "index.json.building").exists()
    build(folder, tools, out)
    assert sorted(name.split("-")[0] for name in os.listdir(out)) == ["index.json", "shard"]
    assert len(list(out.glob("shard-*"))) == len(read_manifest(out)["shards"])


def test_an_unfinished_replacement_keeps_the_copies_of_the_index_in_use(tools, tmp_path, monkeypatch):
    out = tmp_path / "index"
    build(data_rows(), tools, out)
    images = {file: file.read_bytes() for file in (out / "pictures").iterdir()}
    other = [{**row, "image": Image.new("RGB", row["image"].size, "blue")} for row in data_rows()]
    with monkeypatch.context() as broken, pytest.raises(ZeroDivisionError):
        broken.setattr(IndexWriter, "commit", lambda *args, **fields: 1 / 0)  # the copies are written already
        build(other, tools, out, precision="bfloat16")
    assert all(file.read_bytes() == data for file, data in images.items())
    assert build(other, tools, out, precision="bfloat16").images == 3
    held = {out / "pictures" / name for name in Index(out).table.column("picture").to_pylist()}
    assert held == set((out / "pictures").iterdir()) and not held & set(images)


def test_metadata_are_updated_without_encoding(folder, tools, tmp_path):
    out = tmp_path / "index"
    (folder / "metadata.csv").write_text("file_name,camera,count\n00.png,c1,1\n01.png,c2,2\n02.png,c2,3\n")
    build(folder, tools, out)
    gallery = Gallery.open(out, *tools)
    matches = gallery.search(QUERY, where="camera = 'c2' and count > 2")
    assert [(match.path, match.metadata) for match in matches] == [("02.png", {"camera": "c2", "count": 3})]
    (folder / "metadata.csv").write_text("file_name,camera\n05.png,c2\n")
    assert build(folder, tools, out).added == 0 and gallery.refresh()
    assert [match.path for match in gallery.search(QUERY, where="camera = 'c2'")] == ["05.png"]
    gallery.delete(["05.png"])
    content = b"".join(file.read_bytes() for file in out.rglob("*") if file.is_file())
    assert b"05.png" not in content and list(gallery.search(QUERY, where="camera = 'c2'")) == []


def test_persons_of_a_scene_have_its_name_and_are_deleted_with_it(tools, tmp_path):
    scenes, out = make_images(tmp_path / "scenes", 3), tmp_path / "index"
    Image.new("RGB", (300, 200), "red").save(scenes / "00.png")
    (scenes / "metadata.csv").write_text("file_name,camera\n00.png,c1\n")
    detector = make_detector(tmp_path / "yolos")
    report = build(scenes, tools, out, detector=detector)
    gallery = Gallery.open(out, *tools)
    assert report.images == len(gallery) >= 2
    matches = {match.path: match for match in gallery.search(QUERY, top_k=20)}
    first = matches["00.png#0"]
    x, y, width, height = first.scene_box
    assert first.scene == "00.png" and (first.width, first.height) == (width, height)
    assert x >= 0 and y >= 0 and x + width <= 300 and y + height <= 200 and first.metadata == {"camera": "c1"}
    assert first.file.parent == out / "pictures"
    kept = Image.open(first.file)
    assert kept.width >= 32 and kept.width / kept.height == pytest.approx(width / height, rel=0.1)
    assert build(scenes, tools, out, detector=detector).added == 0
    of_scene = [path for path in gallery.paths if path.startswith("00.png#")]
    assert gallery.delete(["00.png"]) == len(of_scene)
    assert not [path for path in gallery.paths if path.startswith("00.png")]
    assert len(os.listdir(out / "pictures")) == len(gallery)
    assert read_manifest(out).get("metadata") and "c1" not in str(gallery.table.column("camera").to_pylist())


def test_rows_of_a_data_set_are_indexed_with_small_copies_of_their_images(tools, tmp_path):
    out = tmp_path / "index"
    assert build(data_rows(), tools, out).images == 3
    gallery = Gallery.open(out, *tools)
    match = gallery.search(QUERY, where="person_id = 2")[0]
    assert match.path == "p/2" and match.metadata == {"person_id": 2, "camera": "c1"}
    assert Image.open(match.file).size == (match.width, match.height) == (8, 12)
    assert build(data_rows(4), tools, out).added == 1
    gallery.refresh()
    assert gallery.delete(["p/2"]) == 1 and not match.file.exists() and len(gallery) == 3


def test_a_faiss_store_follows_its_index(folder, tools, tmp_path):
    pytest.importorskip("faiss")
    out = tmp_path / "index"
    build(folder, tools, out, store="faiss-hnsw")
    exact = [match.path for match in Gallery.open(out, *tools, store="exact").search(QUERY)]
    gallery = Gallery.open(out, *tools)
    assert [match.path for match in gallery.search(QUERY)] == exact
    make_images(folder, 10)
    build(folder, tools, out)
    assert read_manifest(out)["store"]["upto"] == 10 and gallery.refresh()
    assert gallery.delete(["00.png"]) == 1 and read_manifest(out)["store"]["upto"] == 10
    assert "00.png" not in {match.path for match in gallery.search(QUERY)} and len(gallery.search(QUERY)) == 9
    with pytest.raises(GalleryError, match="not in store 'faiss-flat'"):
        Gallery.open(out, store="faiss-flat")
    build(folder, tools, out, store="exact")
    assert not list(out.glob("faiss-*")) and read_manifest(out)["store"] is None
    header = read_manifest(out)
    header["store"] = {"uri": "http://127.0.0.1:9", "upto": 10, "recall": 1.0}
    (out / "index.json").write_text(json.dumps(header))
    with pytest.warns(UserWarning, match=r"^store http://127.0.0.1:9: .*; searched exactly instead$"):
        assert len(Gallery.open(out, *tools).search(QUERY)) == 10
    with pytest.raises(GalleryError, match="nothing was deleted"):
        Gallery.open(out).delete(["01.png"])
    assert len(Gallery.open(out)) == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": -1}, "workers must be at least 0, not -1"),
        ({"precision": "int4"}, "precision must be float32 or bfloat16, not 'int4'"),
        ({"store": "elastic"}, "store 'elastic': not one of exact"),
        ({"store": "http://127.0.0.1:9"}, "store http://127.0.0.1:9: "),
        ({"detector": "/nowhere"}, "detector /nowhere: not an object-detection model"),
    ],
)
def test_bad_options_are_refused_before_any_work(folder, tools, tmp_path, options, message):
    with pytest.raises(GalleryError, match=message) as caught:
        build(folder, tools, tmp_path / "index", **options)
    assert "\n" not in str(caught.value) and not (tmp_path / "index").exists()


def test_a_damaged_index_is_built_again(folder, tools, tmp_path):
    out = tmp_path / "index"
    build(folder, tools, out)
    next(out.glob("shard-*/global.npy")).unlink()
    with pytest.raises(GalleryError, match="global.npy: missing or damaged; build the index again"):
        Gallery.open(out)
    assert build(folder, tools, out).added == 8 and len(Index(out)) == 8


def test_two_writers_at_once_are_refused(folder, tools, tmp_path):
    build(folder, tools, tmp_path / "index")
    with locked(tmp_path / "index"), pytest.raises(GalleryError, match="another process is writing this index"):
        build(folder, tools, tmp_path / "index")


def test_worker_processes_and_bfloat16_on_the_disk_give_the_same_ranks(folder, tools, tmp_path):
    build(folder, tools, tmp_path / "a")
    build(folder, tools, tmp_path / "b", workers=1, precision="bfloat16")
    first, second = (Gallery.open(tmp_path / name, *tools).search(QUERY) for name in "ab")
    assert [match.score for match in first] == pytest.approx([match.score for match in second], abs=5e-3)
