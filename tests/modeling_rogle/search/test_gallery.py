"""A folder is indexed, searched, explained and thinned; whatever is wrong with it is told in one line."""

import json
import os
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from modeling_rogle import RogleConfig, RogleModel, RogleProcessor
from modeling_rogle.index.shards import Index
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.inference.loading import fingerprint, load_model
from modeling_rogle.late_interaction import quantize_regions
from modeling_rogle.search.calibration import Calibration, Logistic
from modeling_rogle.search.gallery import Gallery
from modeling_rogle.templates import TEMPLATE_LABELS, template_boxes
from tests.helpers.image_files import QUERY, make_images, write_bomb


@pytest.fixture(scope="module")
def tools(tiny_checkpoint) -> tuple[RogleModel, RogleProcessor]:
    return load_model(tiny_checkpoint)


@pytest.fixture(scope="module")
def indexed(tools, tmp_path_factory) -> Path:
    """An index of ten images; tests that change it copy it."""
    root = tmp_path_factory.mktemp("gallery")
    Gallery.build(make_images(root / "pictures"), *tools, root / "index", batch_size=3, progress=False)
    return root / "index"


@pytest.fixture
def copied(indexed, tmp_path) -> Path:
    return Path(shutil.copytree(indexed, tmp_path / "index"))


def brute_force(tools, paths: list[Path], query: str, sentences: list[str], weight: float) -> tuple[list, np.ndarray]:
    """Scores and region cosines of each image by itself, from the definition."""
    model, processor = tools
    boxes = torch.from_numpy(template_boxes())
    texts = model.encode_texts(**processor(text=[query, *sentences], return_tensors="pt"))
    scores, cosines = [], []
    for path in paths:
        pixels = processor(images=[Image.open(path).convert("RGB")], return_tensors="pt")["pixel_values"]
        image, regions = model.encode_images(pixels, boxes, torch.zeros(len(boxes), dtype=torch.long))
        pairs = texts[1:] @ regions.T
        scores.append(float((1 - weight) * texts[0] @ image[0] + weight * pairs.max(1).values.mean()))
        cosines.append(pairs.numpy())
    return scores, np.stack(cosines)


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_search_equals_brute_force(indexed, tools, weight):
    gallery = Gallery.open(indexed, *tools)
    matches = gallery.search(QUERY, top_k=10, local_weight=weight)
    sentences = ["A man wears a red jacket.", "His shoes are white."]
    files = [gallery.folder / path for path in gallery.paths]
    scores, cosines = brute_force(tools, files, QUERY, sentences, weight)
    assert [match.rank for match in matches] == list(range(1, 11))
    assert sorted(match.path for match in matches) == gallery.paths
    found = [match.score for match in matches]
    assert found == sorted(found, reverse=True)
    for match in matches:
        row = gallery.paths.index(match.path)
        assert match.score == pytest.approx(scores[row], abs=3e-3 if weight else 1e-5)  # regions are stored in int8
        for number, explained in enumerate(match.sentences):
            assert explained.sentence == sentences[number] == QUERY[explained.start : explained.end]
            assert explained.score == pytest.approx(cosines[row, number].max(), abs=5e-3)


def test_a_sentence_names_its_best_region_in_pixels_or_the_whole_person(indexed, tools):
    boxes = template_boxes()
    seen = set()
    for match in Gallery.open(indexed, *tools).search(QUERY, top_k=10):
        for explained in match.sentences:
            seen.add(explained.label)
            if explained.box is None:
                assert explained.label == "whole person"
                continue
            x, y, w, h = explained.box
            corners = np.array([x, y, x + w, y + h]) / [match.width, match.height, match.width, match.height]
            nearest = int(np.abs(boxes - corners).sum(1).argmin())
            assert np.abs(boxes[nearest] - corners).max() < 1e-3
            assert TEMPLATE_LABELS[nearest] == explained.label
    assert len(seen) > 1


def test_the_whole_person_wins_when_its_region_fits_best(copied, tools):
    gallery = Gallery.open(copied, *tools)
    model, processor = tools
    sentence = model.encode_texts(**processor(text=["A red jacket."], return_tensors="pt")).numpy()[0]
    (file,) = copied.glob("shard-*/regions.npy")
    regions = np.load(file)
    regions[:, -1], _ = quantize_regions(sentence)
    np.save(file, regions)
    match = Gallery.open(copied, *tools).search("A red jacket.", top_k=1)[0]
    assert (match.sentences[0].label, match.sentences[0].box) == ("whole person", None)
    assert len(gallery) == 10


def test_late_interaction_only_reorders_the_best_global_scores(indexed, tools):
    gallery = Gallery.open(indexed, *tools)
    by_global = {match.path for match in gallery.search(QUERY, top_k=4, local_weight=0.0)}
    by_region = {match.path for match in gallery.search(QUERY, top_k=4, local_weight=1.0, reranked=4)}
    assert by_region == by_global


def test_how_many_are_asked_for_changes_nobody_s_place(indexed, tools):
    gallery = Gallery.open(indexed, *tools)
    by_global = [match.path for match in gallery.search(QUERY, local_weight=0.0)]
    few, all_of_them = (gallery.search(QUERY, top_k=k, local_weight=1.0, reranked=4) for k in (4, 10))
    assert all_of_them[:4] == few and [match.path for match in all_of_them[4:]] == by_global[4:]
    assert all(match.score == match.global_score for match in all_of_them[4:])
    none = gallery.search(QUERY, local_weight=1.0, reranked=0)
    assert [match.path for match in none] == by_global and none[0].score == none[0].global_score
    assert none[0].sentences[0].moved == 0 and none[0].sentences[0].label


def test_the_regions_of_many_candidates_are_read_in_blocks(indexed, tools, monkeypatch):
    gallery, read, sizes = Gallery.open(indexed, *tools), Index.region_cosines, []
    at_once = gallery.search(QUERY)
    monkeypatch.setattr("modeling_rogle.search.gallery._ROWS_AT_ONCE", 4)
    monkeypatch.setattr(
        Index, "region_cosines", lambda self, rows, said: sizes.append(len(rows)) or read(self, rows, said)
    )
    found = gallery.search(QUERY)
    assert sizes == [4, 4, 2] and [match.path for match in found] == [match.path for match in at_once]
    assert [match.score for match in found] == pytest.approx([match.score for match in at_once], abs=1e-6)


def test_the_default_weight_is_the_one_of_the_model(indexed, tools, monkeypatch):
    model, processor = tools
    monkeypatch.setattr(model.config, "local_weight", 0.7)
    gallery = Gallery.open(indexed, model, processor)  # a weight fitted later leaves the index valid
    assert gallery.search(QUERY) == gallery.search(QUERY, local_weight=0.7)
    assert gallery.search(QUERY) != gallery.search(QUERY, local_weight=0.0)


def test_the_model_is_found_through_the_index(indexed, tools):
    assert Gallery.open(indexed).search(QUERY, top_k=3) == Gallery.open(indexed, *tools).search(QUERY, top_k=3)


def test_a_large_jpeg_embeds_as_if_decoded_whole(tools, tmp_path):
    make_images(tmp_path / "small", 1)
    Image.open(tmp_path / "small" / "00.png").resize((640, 1600)).save(make_dir(tmp_path / "large") / "a.jpg")
    Gallery.build(tmp_path / "large", *tools, tmp_path / "index", progress=False)
    scores, _ = brute_force(tools, [tmp_path / "large" / "a.jpg"], QUERY, [QUERY], 0.0)
    assert Gallery.open(tmp_path / "index", *tools).search(QUERY, local_weight=0)[0].score == pytest.approx(
        scores[0], abs=5e-3
    )


def make_dir(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def test_bad_images_are_left_out_and_listed(tools, tmp_path):
    folder = make_images(tmp_path / "pictures", 4)
    (folder / "text.jpg").write_text("no image")
    (folder / "cut.jpg").write_bytes(b"")
    Image.new("RGB", (60, 90), "red").save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:700])
    (folder / "notes.md").write_text("x")
    (folder / "link.png").symlink_to(Path(sys.executable).resolve())
    report = Gallery.build(folder, *tools, tmp_path / "index", batch_size=2, progress=False).report
    assert (report.images, report.ignored) == (4, 1)
    assert {item.path for item in report.skipped} == {"text.jpg", "cut.jpg", "link.png"}
    header = json.loads((tmp_path / "index" / "index.json").read_text())
    assert [item["path"] for item in header["skipped"]] == [item.path for item in report.skipped]
    assert len(Gallery.open(tmp_path / "index", *tools).search(QUERY)) == 4


def test_warnings_of_the_caller_still_work_after_indexing(tools, tmp_path):
    before = list(warnings.filters)
    Gallery.build(make_images(tmp_path / "pictures", 9), *tools, tmp_path / "index", 2, progress=False)
    assert warnings.filters == before  # the decoding threads must not touch them


def test_folders_that_cannot_be_indexed(tools, tmp_path):
    empty = make_dir(tmp_path / "empty")
    others = make_dir(tmp_path / "others")
    (others / "a.txt").write_text("x")
    unreadable = make_dir(tmp_path / "unreadable")
    (unreadable / "a.jpg").write_text("x")
    out = tmp_path / "index"
    for folder, kind, message in (
        (tmp_path / "gone", FileNotFoundError, "gone: no such folder"),
        (others / "a.txt", GalleryError, "a.txt: not a folder"),
        (empty, GalleryError, "empty: no images in this folder"),
        (others, GalleryError, "others: no images in this folder, only 1 other files"),
        (
            unreadable,
            GalleryError,
            "unreadable: none of 1 images can be indexed (a.jpg: not an image that Pillow can read)",
        ),
    ):
        with pytest.raises(kind) as caught:
            Gallery.build(folder, *tools, out, progress=False)
        assert str(caught.value) == f"{folder.parent}/{message}"
        assert not out.exists()


def test_a_folder_with_other_things_in_it_is_never_taken_for_the_index(tools, tmp_path):
    folder = make_images(tmp_path / "pictures", 2)
    for out in (folder, folder / "00.png"):
        with pytest.raises(GalleryError, match="not part of an index|is a file"):
            Gallery.build(folder, *tools, out, progress=False)
    assert sorted(os.listdir(folder)) == ["00.png", "01.png"]


def test_an_index_of_another_folder_replaces_the_old_one_wholly(tools, copied, tmp_path):
    (copied / "shard-00000000").mkdir()  # what a killed build leaves
    (copied / "index.json.new").write_text("half")
    Gallery.build(make_images(tmp_path / "few", 2), *tools, copied, progress=False)
    assert Gallery.open(copied).paths == ["00.png", "01.png"]
    assert len(os.listdir(copied)) == 2


def test_a_build_that_fails_leaves_the_old_index(tools, copied, tmp_path):
    (make_dir(tmp_path / "bad") / "a.jpg").write_text("x")
    before = sorted(path.relative_to(copied) for path in copied.rglob("*"))
    with pytest.raises(GalleryError):
        Gallery.build(tmp_path / "bad", *tools, copied, progress=False)
    assert sorted(path.relative_to(copied) for path in copied.rglob("*")) == before
    assert len(Gallery.open(copied)) == 10


def stored(index: Path) -> tuple[dict[str, list], np.ndarray, np.ndarray]:
    """What lies in the files themselves: metadata, embeddings, int8 regions."""
    (data,) = index.glob("shard-*")
    table = pq.read_table(data / "images.parquet").to_pydict()
    return table, np.load(data / "global.npy"), np.load(data / "regions.npy")


def test_a_deleted_image_is_nowhere_on_the_disk(copied, tools):
    gallery = Gallery.open(copied, *tools)
    before = {match.path: match for match in gallery.search(QUERY)}
    table, *arrays = stored(copied)
    gone = [table["path"].index(name) for name in ("03.png", "07.png")]
    assert gallery.delete(["03.png", gallery.folder / "07.png"]) == 2
    after = {match.path: match for match in gallery.search(QUERY)}
    assert set(before) - set(after) == {"03.png", "07.png"}
    for path in after:
        assert after[path].score == pytest.approx(before[path].score, abs=1e-6)
        assert after[path].file == before[path].file
    assert after == {match.path: match for match in Gallery.open(copied, *tools).search(QUERY)}
    assert len(list(copied.rglob("*"))) == 6  # index.json and one shard of four files
    left, *left_arrays = stored(copied)
    everything = b"".join(file.read_bytes() for file in copied.rglob("*.*"))
    assert len(left["path"]) == 8
    for row in gone:
        for field in ("path", "sha256"):
            assert table[field][row] not in left[field] and table[field][row].encode() not in everything
        for array, less in zip(arrays, left_arrays, strict=True):
            assert not (less == array[row]).all(axis=tuple(range(1, array.ndim))).any()
            assert array[row].tobytes() not in everything
    assert (gallery.folder / "03.png").is_file()


def test_deleting_by_a_path_through_a_link(copied, tools, tmp_path):
    gallery = Gallery.open(copied)
    (tmp_path / "link").symlink_to(gallery.folder)
    assert gallery.delete([tmp_path / "link" / "03.png", "./04.png", gallery.folder / "x" / ".." / "05.png"]) == 3
    assert not {"03.png", "04.png", "05.png"} & set(gallery.paths) and len(gallery) == 7
    with pytest.raises(GalleryError, match="03.png is not in this index"):
        gallery.delete([tmp_path / "03.png"])


def test_the_name_of_a_skipped_image_can_be_deleted(tools, tmp_path):
    folder, index = make_images(tmp_path / "pictures", 2), tmp_path / "index"
    for name in ("anna.jpg", "bert\n.jpg"):
        (folder / name).write_text("no image")
    Gallery.build(folder, *tools, index, progress=False)
    assert "anna" in (index / "index.json").read_text()
    assert Gallery.open(index).delete(["anna.jpg"]) == 1
    (skipped,) = json.loads((index / "index.json").read_text())["skipped"]
    assert skipped["path"] == "bert\\n.jpg"
    assert Gallery.open(index).delete(["00.png", folder / "bert\n.jpg"]) == 2
    assert json.loads((index / "index.json").read_text())["skipped"] == []
    assert Gallery.open(index, *tools).paths == ["01.png"]


def test_deleting_is_all_or_nothing(copied, tools):
    gallery = Gallery.open(copied)
    with pytest.raises(GalleryError, match="11.png is not in this index; nothing was deleted"):
        gallery.delete(["00.png", "11.png"])
    assert len(Gallery.open(copied)) == 10
    assert gallery.delete([]) == 0
    assert gallery.delete(gallery.paths) == 10
    with pytest.raises(GalleryError, match="no image is left in this index"):
        Gallery.open(copied, *tools).search(QUERY)


def test_an_index_of_another_model_is_refused(indexed, tools, tiny_config):
    torch.manual_seed(1)
    for width in (tiny_config.projection_dim, 2 * tiny_config.projection_dim):
        other = RogleModel(RogleConfig.from_dict(tiny_config.to_dict() | {"projection_dim": width})).eval()
        with pytest.raises(GalleryError, match="made by another model"):
            Gallery.open(indexed, other, tools[1])
        assert fingerprint(other) != fingerprint(tools[0])


def test_an_index_whose_model_moved_asks_for_it(copied, tiny_checkpoint):
    header = json.loads((copied / "index.json").read_text())
    header["model"]["path"] = "/nowhere/model"
    (copied / "index.json").write_text(json.dumps(header))
    with pytest.raises(GalleryError, match="model /nowhere/model is not there"):
        Gallery.open(copied).search(QUERY)
    assert len(Gallery.open(copied, tiny_checkpoint).search(QUERY)) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": ""}, "query: no words"),
        ({"query": " \n.!? "}, "query: no words"),
        ({"query": QUERY, "top_k": 0}, "top-k must be at least 1, not 0"),
        ({"query": QUERY, "local_weight": 1.5}, r"local weight must lie in \[0, 1\], not 1.5"),
    ],
)
def test_bad_queries(indexed, tools, arguments, message):
    with pytest.raises(GalleryError, match=message):
        Gallery.open(indexed, *tools).search(**arguments)


def test_a_query_that_is_too_long_is_cut_with_one_warning(indexed, tools):
    gallery = Gallery.open(indexed, *tools)
    long = " ".join(["He wears grey shorts."] * 60)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        matches = gallery.search(long, top_k=3)
    assert len(matches) == 3 and len(matches[0].sentences) == 60
    assert len(caught) == 1
    tokens = len(tools[1].tokenizer(long, verbose=False)["input_ids"])
    assert f"query: {tokens} tokens, the model reads 64: the last {tokens - 64} were cut" in str(caught[0].message)
    assert "60 of 60 sentences are still read in full" in str(caught[0].message)


def test_a_store_s_file_is_found_from_another_folder(tools, tmp_path, monkeypatch):
    pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite")
    for name in ("here", "there"):
        make_dir(tmp_path / name)
    folder, index = make_images(tmp_path / "pictures", 3), tmp_path / "index"
    monkeypatch.chdir(tmp_path / "here")
    Gallery.build(folder, *tools, index, progress=False, store="rel.db")
    assert json.loads((index / "index.json").read_text())["store"]["uri"] == str(tmp_path / "here" / "rel.db")
    for place, name in (("here", "rel.db"), ("there", "../here/rel.db"), ("there", None)):
        monkeypatch.chdir(tmp_path / place)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            gallery = Gallery.open(index, *tools, store=name)
            assert len(gallery.search(QUERY)) == 3
            gallery.close()
    assert not list((tmp_path / "there").iterdir())


def test_models_that_cannot_search(tiny_checkpoint, tmp_path):
    def spoilt(name: str) -> Path:
        return Path(shutil.copytree(tiny_checkpoint, tmp_path / name))

    (spoilt("bert") / "config.json").write_text('{"model_type": "bert"}')
    os.truncate(spoilt("cut") / "model.safetensors", 5000)
    (spoilt("wordless") / "tokenizer.json").unlink()
    config = spoilt("foreign") / "config.json"
    settings = json.loads(config.read_text())
    settings["text_config"]["eos_token_id"] += 3
    config.write_text(json.dumps(settings))
    config = spoilt("heavy") / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"local_weight": 5.0}))
    for name, message in (
        ("bert", "model_type 'bert' in config.json"),
        ("cut", "weights cannot be read"),
        ("foreign", "the tokenizer is not this model's"),
        ("heavy", "config.json: local_weight must lie in \\[0, 1\\], not 5.0"),
    ):
        with pytest.raises(GalleryError, match=message) as caught:
            load_model(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(OSError, match="no vocabulary"):
        load_model(tmp_path / "wordless")


def test_broken_weights_make_no_index_and_answer_no_query(tiny_model, tiny_processor, copied, tmp_path):
    message = "embeddings that are not finite"
    folder = make_images(tmp_path / "pictures", 2)
    Gallery.build(folder, tiny_model, tiny_processor, tmp_path / "whole", progress=False)
    gallery = Gallery.open(tmp_path / "whole", tiny_model, tiny_processor)
    with torch.no_grad():
        tiny_model.text_projection.weight[0, 0] = float("nan")
        tiny_model.visual_projection.weight[0, 0] = float("nan")
    with pytest.raises(GalleryError, match=message):
        gallery.search(QUERY)
    with pytest.raises(GalleryError, match=message):
        Gallery.build(folder, tiny_model, tiny_processor, tmp_path / "broken", progress=False)
    assert not (tmp_path / "broken").exists()


def test_results_say_how_they_rank_by_the_whole_image_and_what_each_sentence_moved(indexed, tools):
    gallery = Gallery.open(indexed, *tools)
    by_global = [match.path for match in gallery.search(QUERY, local_weight=0.0)]
    matches = gallery.search(QUERY, local_weight=0.8)
    first, second = (gallery.encode_query(QUERY).sentences[n][0] for n in (0, 1))
    query = gallery.encode_query(QUERY)
    for number, other in enumerate((second, first)):
        alone = gallery.encode_query(other)
        without = late_scores(gallery, query.embed, alone.sentence_embeds, 0.8)
        for match in matches:
            rank = 1 + sum(score > without[match.path] for score in without.values())
            assert match.sentences[number].moved == rank - match.rank
    for match in matches:
        assert by_global[match.global_rank - 1] == match.path
    assert any(found.moved for match in matches for found in match.sentences)


def late_scores(gallery: Gallery, embed: np.ndarray, said: np.ndarray, weight: float) -> dict[str, float]:
    """The final score of every image, for a query whose sentences are not its own."""
    query = replace(gallery.encode_query(QUERY), embed=embed, sentences=((),) * len(said), sentence_embeds=said)
    return dict(zip(gallery.paths, gallery.similarity(query, weight), strict=True))


def test_similarity_is_the_score_of_every_image(indexed, tools):
    gallery = Gallery.open(indexed, *tools)
    for weight in (0.0, 0.4):
        scores = dict(zip(gallery.paths, gallery.similarity(QUERY, weight), strict=True))
        for match in gallery.search(QUERY, local_weight=weight):
            assert scores[match.path] == pytest.approx(match.score, abs=1e-5)
    some = np.array([7, 2])
    np.testing.assert_allclose(gallery.similarity(QUERY, rows=some), gallery.similarity(QUERY)[some], atol=1e-6)
    assert gallery.encode_gallery().shape == (10, 32)
    np.testing.assert_array_equal(gallery.encode_gallery(some), gallery.encode_gallery()[some])


def test_a_image_finds_itself_alone_and_beside_words(indexed, tools):
    gallery = Gallery.open(indexed, *tools)
    file = gallery.folder / "04.png"
    match = gallery.search(image=file)[0]
    assert (match.path, match.sentences) == ("04.png", ()) and match.score == pytest.approx(1.0, abs=1e-4)
    both = gallery.search(QUERY, image=Image.open(file), local_weight=0.0)
    assert both[0].score < 1.0 and len(both[0].sentences) == 2
    with pytest.raises(GalleryError, match="query image .*gone.png: cannot be read: No such file"):
        gallery.search(image=gallery.folder / "gone.png")


def test_filters_leave_the_order_as_it_is(indexed, tools):
    gallery = Gallery.open(indexed, *tools)
    every = [match.path for match in gallery.search(QUERY, local_weight=0.0)]
    wide = [match.path for match in gallery.search(QUERY, local_weight=0.0, where="width >= 25")]
    assert wide == [path for path in every if int(path[:2]) >= 5]
    by_expression = gallery.search(QUERY, local_weight=0.0, where=pc.field("width") >= 25)
    assert [match.path for match in by_expression] == wide
    assert list(gallery.search(QUERY, where="width > 1000")) == []
    for where, message in (("width >", "where"), ("colour = 'red'", "colour"), (pc.field("colour") == 1, "where: ")):
        with pytest.raises(GalleryError, match=message) as caught:
            gallery.search(QUERY, where=where)
        assert "\n" not in str(caught.value)


def fitted_to(model: RogleModel, **changes) -> Calibration:
    logistic = Logistic(("excess",), (0.0,), (1.0,), (2.0,), 0.0)
    parts = {"best": logistic, "other": logistic, "present": logistic, "threshold": 0.999999}
    about = {"false_alarm_rate": 0.1, "gallery_sizes": (10, 40), "fitted_on": "a test", "report": {}}
    return Calibration(**{"fingerprint": fingerprint(model), "local_weight": 0.5, **parts, **about, **changes})


@pytest.fixture(scope="module")
def indexed_24(tools, tmp_path_factory) -> Path:
    """As `indexed`, and large enough for a calibration."""
    root = tmp_path_factory.mktemp("gallery-24")
    Gallery.build(make_images(root / "pictures", 24), *tools, root / "index", progress=False)
    return root / "index"


def test_probabilities_come_with_a_calibration_of_this_model_and_weight(indexed_24, tools, tmp_path):
    index = Path(shutil.copytree(indexed_24, tmp_path / "index"))
    assert Gallery.open(index, *tools).search(QUERY)[0].probability is None
    fitted = fitted_to(tools[0])
    fitted.save(index)
    gallery = Gallery.open(index, *tools)
    found = gallery.search(QUERY, local_weight=0.5)
    background = gallery.encode_gallery() @ gallery.encode_query(QUERY).embed
    scores = np.array([match.score for match in found])
    assert [match.probability for match in found] == pytest.approx(fitted.probability(scores, background).tolist())
    assert found.no_match is True and found.false_alarm_rate == 0.1
    # A narrow filter leaves the distribution, but fewer images for chance to lift.
    found = gallery.search(QUERY, local_weight=0.5, where="width < 25")
    scores = np.array([match.score for match in found])
    assert [match.probability for match in found] == pytest.approx(fitted.probability(scores, background, 5).tolist())
    with pytest.warns(UserWarning, match="calibration.json: fitted with local weight 0.5, not 0.4; no probabilities"):
        assert gallery.search(QUERY, local_weight=0.4).no_match is None
    with pytest.warns(UserWarning, match="reads the best 10 results, only 3 were reranked; no probabilities"):
        assert gallery.search(QUERY, local_weight=0.5, reranked=3).no_match is None
    found = gallery.search(QUERY, top_k=20, local_weight=0.5, reranked=12)
    assert [match.probability is None for match in found] == [False] * 12 + [True] * 8
    replace(fitted, fingerprint="another").save(index)
    with pytest.warns(UserWarning, match="calibration.json: fitted to another model"):
        assert Gallery.open(index, *tools).search(QUERY, local_weight=0.5)[0].probability is None


def test_a_calibration_speaks_of_nothing_that_it_was_not_fitted_on(indexed_24, copied, tools, tmp_path):
    index = Path(shutil.copytree(indexed_24, tmp_path / "large"))
    fitted_to(tools[0], gallery_sizes=(2000, 3000)).save(index)
    gallery = Gallery.open(index, *tools)
    file = gallery.folder / "04.png"
    for query in ("", QUERY):
        assert gallery.search(query, image=file, local_weight=0.5).no_match is None
    with pytest.warns(UserWarning, match="fitted on galleries of 2000 to 3000 images, 24 are searched"):
        assert gallery.search(QUERY, local_weight=0.5).no_match is not None
    fitted_to(tools[0]).save(copied)  # ten images
    found = Gallery.open(copied, *tools).search(QUERY, local_weight=0.5)
    assert found.no_match is None and found[0].probability is None


def test_words_that_a_model_does_not_understand_are_told(indexed, tools):
    gallery = Gallery.open(indexed, *tools)
    with pytest.warns(UserWarning, match='"without a hat": the model does not understand negation'):
        gallery.search("A man without a hat.")
    with pytest.warns(UserWarning, match="the tokenizer was not trained on these words"):
        gallery.search("穿红色外套的女人背着黑色的背包")


def test_a_image_too_large_to_decode_is_left_out(tools, tmp_path):
    folder = make_images(tmp_path / "pictures", 2)
    write_bomb(folder / "bomb.png", 50_000, 50_000)
    report = Gallery.build(folder, *tools, tmp_path / "index", progress=False).report
    assert [(item.path, item.reason) for item in report.skipped] == [
        ("bomb.png", "over the limit of 80 million pixels")
    ]


def test_real_pedestrians(test_data, tools, tmp_path):
    folder = test_data / "pedestrians" / "imgs"
    report = Gallery.build(folder, *tools, tmp_path / "index", progress=False).report
    assert (report.images, report.skipped) == (90, ())
    matches = Gallery.open(tmp_path / "index").search(QUERY, top_k=10, local_weight=0.5)
    assert len({match.path for match in matches}) == 10
    assert all(match.file.is_file() for match in matches)
