"""Search in a gallery: scores, regions, filters, query images, stores, and invalid queries."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from PIL import Image

from modeling_rogle import RogleConfig, RogleModel
from modeling_rogle.box_ops import TEMPLATE_LABELS, template_boxes
from modeling_rogle.index.shards import Index
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.inference.loading import fingerprint
from modeling_rogle.late_interaction import quantize_regions
from modeling_rogle.search.gallery import Gallery
from tests.helpers.image_files import QUERY, make_images


def brute_force(tools, paths: list[Path], query: str, sentences: list[str], weight: float) -> tuple[list, np.ndarray]:
    """Scores and region cosines of each image, computed one by one from the definition."""
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
    ranked = [match.score for match in matches]
    assert ranked == sorted(ranked, reverse=True)
    for match in matches:
        row = gallery.paths.index(match.path)
        assert match.score == pytest.approx(scores[row], abs=3e-3 if weight else 1e-5)  # regions are stored in int8
        for number, explained in enumerate(match.sentences):
            assert explained.sentence == sentences[number] == QUERY[explained.start : explained.end]
            assert explained.score == pytest.approx(cosines[row, number].max(), abs=5e-3)


def test_the_best_region_of_a_sentence_has_a_box_in_pixels_or_is_the_whole_person(indexed, tools):
    boxes = template_boxes()
    labels = set()
    for match in Gallery.open(indexed, *tools).search(QUERY, top_k=10):
        for explained in match.sentences:
            labels.add(explained.label)
            if explained.box is None:
                assert explained.label == "whole person"
                continue
            x, y, w, h = explained.box
            corners = np.array([x, y, x + w, y + h]) / [match.width, match.height, match.width, match.height]
            nearest = int(np.abs(boxes - corners).sum(1).argmin())
            assert np.abs(boxes[nearest] - corners).max() < 1e-3
            assert TEMPLATE_LABELS[nearest] == explained.label
    assert len(labels) > 1


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


def test_top_k_does_not_affect_the_ranking(indexed, tools):
    gallery = Gallery.open(indexed, *tools)
    by_global = [match.path for match in gallery.search(QUERY, local_weight=0.0)]
    few, many = (gallery.search(QUERY, top_k=k, local_weight=1.0, reranked=4) for k in (4, 10))
    assert many[:4] == few and [match.path for match in many[4:]] == by_global[4:]
    assert all(match.score == match.global_score for match in many[4:])
    none = gallery.search(QUERY, local_weight=1.0, reranked=0)
    assert [match.path for match in none] == by_global and none[0].score == none[0].global_score
    assert none[0].sentences[0].moved == 0 and none[0].sentences[0].label


def test_the_regions_of_many_candidates_are_read_in_blocks(indexed, tools, monkeypatch):
    gallery, read, sizes = Gallery.open(indexed, *tools), Index.region_cosines, []
    at_once = gallery.search(QUERY)
    monkeypatch.setattr("modeling_rogle.search.gallery._ROWS_AT_ONCE", 4)
    monkeypatch.setattr(
        Index, "region_cosines", lambda self, rows, embeds: sizes.append(len(rows)) or read(self, rows, embeds)
    )
    in_blocks = gallery.search(QUERY)
    assert sizes == [4, 4, 2] and [match.path for match in in_blocks] == [match.path for match in at_once]
    assert [match.score for match in in_blocks] == pytest.approx([match.score for match in at_once], abs=1e-6)


def test_the_default_weight_is_the_one_of_the_model(indexed, tools, monkeypatch):
    model, processor = tools
    monkeypatch.setattr(model.config, "local_weight", 0.7)
    gallery = Gallery.open(indexed, model, processor)  # a weight fitted later leaves the index valid
    assert gallery.search(QUERY) == gallery.search(QUERY, local_weight=0.7)
    assert gallery.search(QUERY) != gallery.search(QUERY, local_weight=0.0)


def test_the_model_is_loaded_from_the_folder_that_the_index_names(indexed, tools):
    assert Gallery.open(indexed).search(QUERY, top_k=3) == Gallery.open(indexed, *tools).search(QUERY, top_k=3)


def test_an_index_of_another_model_is_refused(indexed, tools, tiny_config):
    torch.manual_seed(1)
    for width in (tiny_config.projection_dim, 2 * tiny_config.projection_dim):
        other = RogleModel(RogleConfig.from_dict(tiny_config.to_dict() | {"projection_dim": width})).eval()
        with pytest.raises(GalleryError, match="made by another model"):
            Gallery.open(indexed, other, tools[1])
        assert fingerprint(other) != fingerprint(tools[0])


def test_a_model_that_was_moved_must_be_named(copied, tiny_checkpoint):
    header = json.loads((copied / "index.json").read_text())
    header["model"]["path"] = "/nowhere/model"
    (copied / "index.json").write_text(json.dumps(header))
    with pytest.raises(GalleryError, match="model /nowhere/model does not exist"):
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


def test_a_query_that_is_too_long_is_truncated_with_one_warning(indexed, tools):
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


def test_results_have_their_global_rank_and_the_ranks_that_each_sentence_moved(indexed, tools):
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
    assert any(sentence.moved for match in matches for sentence in match.sentences)


def late_scores(gallery: Gallery, embed: np.ndarray, sentence_embeds: np.ndarray, weight: float) -> dict[str, float]:
    """The final score of each image for the query with other sentence embeddings."""
    query = replace(
        gallery.encode_query(QUERY),
        embed=embed,
        sentences=((),) * len(sentence_embeds),
        sentence_embeds=sentence_embeds,
    )
    return dict(zip(gallery.paths, gallery.similarity(query, weight), strict=True))


def test_similarity_returns_the_score_of_every_image(indexed, tools):
    gallery = Gallery.open(indexed, *tools)
    for weight in (0.0, 0.4):
        scores = dict(zip(gallery.paths, gallery.similarity(QUERY, weight), strict=True))
        for match in gallery.search(QUERY, local_weight=weight):
            assert scores[match.path] == pytest.approx(match.score, abs=1e-5)
    some = np.array([7, 2])
    np.testing.assert_allclose(gallery.similarity(QUERY, rows=some), gallery.similarity(QUERY)[some], atol=1e-6)
    assert gallery.encode_gallery().shape == (10, 32)
    np.testing.assert_array_equal(gallery.encode_gallery(some), gallery.encode_gallery()[some])


def test_a_query_image_finds_itself_alone_and_with_a_description(indexed, tools):
    gallery = Gallery.open(indexed, *tools)
    file = gallery.folder / "04.png"
    match = gallery.search(image=file)[0]
    assert (match.path, match.sentences) == ("04.png", ()) and match.score == pytest.approx(1.0, abs=1e-4)
    both = gallery.search(QUERY, image=Image.open(file), local_weight=0.0)
    assert both[0].score < 1.0 and len(both[0].sentences) == 2
    with pytest.raises(GalleryError, match="query image .*gone.png: cannot be read: No such file"):
        gallery.search(image=gallery.folder / "gone.png")


def test_a_filter_does_not_change_the_order(indexed, tools):
    gallery = Gallery.open(indexed, *tools)
    unfiltered = [match.path for match in gallery.search(QUERY, local_weight=0.0)]
    wide = [match.path for match in gallery.search(QUERY, local_weight=0.0, where="width >= 25")]
    assert wide == [path for path in unfiltered if int(path[:2]) >= 5]
    by_expression = gallery.search(QUERY, local_weight=0.0, where=pc.field("width") >= 25)
    assert [match.path for match in by_expression] == wide
    assert list(gallery.search(QUERY, where="width > 1000")) == []
    for where, message in (("width >", "where"), ("colour = 'red'", "colour"), (pc.field("colour") == 1, "where: ")):
        with pytest.raises(GalleryError, match=message) as caught:
            gallery.search(QUERY, where=where)
        assert "\n" not in str(caught.value)


def test_a_search_warns_about_negation_and_unknown_scripts(indexed, tools):
    gallery = Gallery.open(indexed, *tools)
    with pytest.warns(UserWarning, match='"without a hat": the model does not understand negation'):
        gallery.search("A man without a hat.")
    with pytest.warns(UserWarning, match="the tokenizer was not trained on these words"):
        gallery.search("穿红色外套的女人背着黑色的背包")


def test_a_large_jpeg_has_the_embedding_of_the_full_image(tools, tmp_path):
    folder = make_images(tmp_path / "images", 1)
    Image.open(folder / "00.png").resize((640, 1600)).save(folder / "large.jpg")
    (folder / "00.png").unlink()
    gallery = Gallery.build(folder, *tools, tmp_path / "index", progress=False)
    scores, _ = brute_force(tools, [folder / "large.jpg"], QUERY, [QUERY], 0.0)
    assert gallery.search(QUERY, local_weight=0)[0].score == pytest.approx(scores[0], abs=5e-3)
