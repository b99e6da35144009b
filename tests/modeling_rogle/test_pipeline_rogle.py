"""The transformers pipeline: scores, one query or several, images in any form, errors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from modeling_rogle import Gallery
from modeling_rogle.late_interaction import dequantize_regions, quantize_regions
from modeling_rogle.pipeline_rogle import TASK, TextBasedPersonSearchPipeline, register

QUERY = "A man wears a red jacket."
BOXES = [[[0, 0, 20, 20], [2, 20, 10, 30]], [[5, 5, 10, 10]], [], [[0, 0, 20, 60]]]


@pytest.fixture(scope="module")
def search(tiny_checkpoint) -> TextBasedPersonSearchPipeline:
    register()
    return pipeline(TASK, model=str(tiny_checkpoint), device="cpu")


@pytest.fixture(scope="module")
def candidates() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (60, 20, 3), dtype=np.uint8)) for _ in range(4)]


def test_results_equal_the_definition(search, candidates):
    model, processor = search.model, search.processor
    sentences = ["His jacket is red.", "His shoes are white."]
    texts = model.encode_texts(**processor(text=[QUERY, *sentences], return_tensors="pt"))
    expected = {}
    for index, (candidate, boxes) in enumerate(zip(candidates, BOXES, strict=True)):
        pixels = processor(images=[candidate], return_tensors="pt")["pixel_values"]
        corners = torch.from_numpy(processor.normalize_boxes(boxes, 20, 60))
        image, regions = model.encode_images(pixels, corners, torch.zeros(len(boxes), dtype=torch.long))
        regions = torch.from_numpy(dequantize_regions(*quantize_regions(regions.numpy())))
        overall = float(texts[0] @ image[0])
        local = float((texts[1:] @ regions.T).max(1).values.mean()) if boxes else overall
        expected[index] = (overall, 0.7 * overall + 0.3 * local)
    query = {"text": QUERY, "sentences": sentences}
    ranked = search(query, candidates=candidates, boxes=BOXES, local_weight=0.3, batch_size=3)
    assert sorted(item["index"] for item in ranked) == [0, 1, 2, 3]
    assert [item["score"] for item in ranked] == sorted((item["score"] for item in ranked), reverse=True)
    for item in ranked:
        assert (item["global_score"], item["score"]) == pytest.approx(expected[item["index"]], abs=1e-5)
        assert [found["sentence"] for found in item["sentences"]] == (sentences if BOXES[item["index"]] else [])
        assert all(found["box"] in BOXES[item["index"]] for found in item["sentences"])


@pytest.mark.parametrize("factor", [1, 7])  # images that are much larger than the model's input are reduced
def test_scores_equal_those_of_a_gallery(search, candidates, tmp_path, factor):
    (tmp_path / "images").mkdir()
    candidates = [image.resize((20 * factor, 60 * factor)) for image in candidates]
    for number, image in enumerate(candidates):
        image.save(tmp_path / "images" / f"{number}.png")
    gallery = Gallery.build(tmp_path / "images", search.model, search.processor, tmp_path / "index", progress=False)
    for query in (QUERY, "A man in a red jacket, black pants and carrying a bag", "He walks. His shoes are white. "):
        expected = {int(Path(match.path).stem): match for match in gallery.search(query, local_weight=0.4)}
        encoded = search.encode_candidates(candidates)
        for ranked in (search(query, candidates, local_weight=0.4), search(query, encoded, local_weight=0.4)):
            for item in ranked:
                match = expected[item["index"]]
                assert item["score"] == pytest.approx(match.score, abs=1e-5)
                assert item["global_score"] == pytest.approx(match.global_score, abs=1e-5)
                for mine, theirs in zip(item["sentences"], match.sentences, strict=True):
                    assert mine["sentence"] == theirs.sentence
                    assert mine["score"] == pytest.approx(theirs.score, abs=1e-5)
                    assert mine["box"] == pytest.approx(theirs.box or (0, 0, 20 * factor, 60 * factor), abs=0.01)


def test_image_files_give_the_scores_of_a_gallery(search, candidates, tmp_path):
    paths = [tmp_path / "images" / f"{number}.jpg" for number in range(4)]
    (tmp_path / "images").mkdir()
    for path, image in zip(paths, candidates, strict=True):
        image.resize((400, 900)).save(path)  # decoded at a lower resolution
    gallery = Gallery.build(tmp_path / "images", search.model, search.processor, tmp_path / "index", progress=False)
    expected = {tmp_path / "images" / match.path: match.score for match in gallery.search(QUERY, local_weight=0.4)}
    for item in search(QUERY, [str(path) for path in paths], local_weight=0.4):
        assert item["score"] == pytest.approx(expected[paths[item["index"]]], abs=1e-5)


def test_sentences_over_the_limit_are_ignored_with_a_warning(search, candidates):
    with pytest.warns(UserWarning, match="entry 0 has 70 clauses"):
        ranked = search("He walks. " * 70, candidates=candidates)
    assert len(ranked[0]["sentences"]) == 64


def test_local_weight_of_a_head_is_no_weight_of_late_interaction(tiny_model):
    tiny_model.config.local_weight = 0.7
    assert tiny_model.config.late_interaction_weight == 0.7
    tiny_model.config.head = "acsa"
    assert tiny_model.config.late_interaction_weight == 0.0


def test_several_queries_give_several_lists(search, candidates):
    both = search([QUERY, "A woman."], candidates=candidates)
    assert [len(ranked) for ranked in both] == [4, 4]
    for together, alone in zip(both, (QUERY, "A woman."), strict=True):
        single = search(alone, candidates=candidates)
        assert [item["index"] for item in together] == [item["index"] for item in single]
        assert [item["score"] for item in together] == pytest.approx([item["score"] for item in single], abs=1e-6)
    assert len(search(QUERY, candidates=candidates, top_k=2)) == 2


def test_candidates_may_be_encoded_once(search, candidates):
    query = {"text": QUERY, "sentences": ["His shoes are white."]}
    encoded = search.encode_candidates(candidates, BOXES)
    assert len(encoded) == 4
    assert search(query, candidates=encoded, top_k=3) == search(query, candidates=candidates, boxes=BOXES, top_k=3)


def test_images_may_be_paths_arrays_or_images(search, candidates, tmp_path):
    candidates[0].save(tmp_path / "0.png")
    forms = [str(tmp_path / "0.png"), np.asarray(candidates[1]), *candidates[2:]]
    assert search(QUERY, candidates=forms) == search(QUERY, candidates=candidates)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"queries": QUERY, "candidates": []}, "candidates: pass a list"),
        ({"queries": QUERY, "candidates": "a.jpg"}, "candidates: pass a list"),
        ({"queries": "  "}, "queries: entry 0 is not a description"),
        ({"queries": "?!"}, "queries: entry 0 is not a description"),
        ({"queries": [QUERY, {"sentences": ["x"]}]}, "queries: entry 1 is not a description"),
        ({"queries": {"text": QUERY, "sentences": "one"}}, "'sentences' of entry 0 must be a list"),
        ({"queries": QUERY, "boxes": [[]]}, "boxes: 1 entries for 4 candidates"),
        ({"queries": QUERY, "boxes": [[[1, 2, 3]], [], [], []]}, "boxes: entry 0 of shape"),
        ({"queries": QUERY, "boxes": [[[1, 2, 3], [1, 2]], [], [], []]}, "boxes: entry 0 does not hold rows"),
        ({"queries": QUERY, "boxes": [[], [], [], [[0, 0, 5, 5], [20, 0, 5, 5]]]}, "boxes: entry 3, row 1: .* 20 x 60"),
        ({"queries": QUERY, "boxes": [[], [[0, 0, 5, float("nan")]], [], []]}, "boxes: entry 1, row 0: "),
        ({"queries": QUERY, "boxes": [[], [[float("-inf"), 0, float("inf"), 5]], [], []]}, "boxes: entry 1, row 0: "),
        ({"queries": QUERY, "boxes": [[], [], [[0, 0, 0, 5]], []], "batch_size": 2}, "boxes: entry 2, row 0: "),
        ({"queries": QUERY, "top_k": 0}, "top_k: must be at least 1"),
        ({"queries": QUERY, "local_weight": -1}, "local_weight: must lie in"),
    ],
)
def test_bad_input(search, candidates, arguments, message):
    with pytest.raises(ValueError, match=message):
        search(**{"candidates": candidates, **arguments})


def test_a_saved_pipeline_is_loaded_with_its_code(search, candidates, tmp_path):
    search.save_pretrained(tmp_path)
    assert (tmp_path / "pipeline_rogle.py").is_file()
    again = pipeline(TASK, model=str(tmp_path), trust_remote_code=True, device="cpu")
    assert type(again) is not TextBasedPersonSearchPipeline  # the stored file, not the installed one
    assert again(QUERY, candidates=candidates) == search(QUERY, candidates=candidates)


def test_registering_twice_changes_nothing(search, caplog):
    register()
    assert not caplog.records
