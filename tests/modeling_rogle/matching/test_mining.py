import io

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Value
from datasets import Image as DecodedImage
from PIL import Image

from modeling_rogle.matching.anchors import anchor_boxes
from modeling_rogle.matching.mining import encode_rows, fit_matcher, fit_prior, match_rows, propose_anchors, spread

TEXTS = ("A man wears a red jacket.", "His shoes are white.", "She has long hair.", "He is walking.")


def make_rows(count: int, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    rows = []
    for n in range(count):
        texts = TEXTS[n % 2 :]
        rows.append(
            {
                "image": Image.fromarray(rng.integers(0, 255, (120, 50, 3), dtype=np.uint8)).convert("P"),
                "image_id": f"own/{n}",
                "width": 50,
                "height": 120,
                "sentences": [{"text": text, "start": 0, "end": len(text)} for text in texts],
                "regions": [],
            }
        )
    return rows


def pair(sentence: int, anchor: int, reliability: float = 1.0) -> dict:
    x0, y0, x1, y1 = (anchor_boxes()[anchor] * [50, 120, 50, 120]).tolist()
    return {
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "label": "head",
        "sentence": sentence,
        "score": 1.0,
        "reliability": reliability,
        "origin": "human",
    }


def test_each_image_is_encoded_once_and_equal_sentences_are_encoded_once(tiny_model, tiny_processor):
    calls = {"images": 0, "texts": 0}
    encode_images, encode_texts = tiny_model.encode_images, tiny_model.encode_texts

    def count_images(pixels, *rest):
        calls["images"] += len(pixels)
        return encode_images(pixels, *rest)

    def count_texts(ids, *rest):
        calls["texts"] += len(ids)
        return encode_texts(ids, *rest)

    tiny_model.encode_images, tiny_model.encode_texts = count_images, count_texts
    encoded = list(encode_rows(tiny_model, tiny_processor, make_rows(5), batch_size=2))
    assert calls == {"images": 5, "texts": len(TEXTS)}
    assert [len(each.sentence_embeds) for each in encoded] == [4, 3, 4, 3, 4]
    assert all(len(each.region_embeds) == len(anchor_boxes()) + 1 for each in encoded)


def test_crops_are_encoded_as_images_of_their_own(tiny_model, tiny_processor):
    rows = make_rows(2)
    encoded = list(encode_rows(tiny_model, tiny_processor, rows, batch_size=2, crops=True))
    whole = tiny_model.encode_images(
        tiny_processor(images=[rows[1]["image"].convert("RGB")], return_tensors="pt")["pixel_values"]
    )[0]
    assert torch.allclose(encoded[1].region_embeds[-1], whole[0], atol=1e-4)


@pytest.mark.parametrize("with_prior", [False, True])
def test_regions_do_not_depend_on_the_batch_and_every_sentence_is_accounted_for(tiny_model, tiny_processor, with_prior):
    rows = make_rows(6)
    scorer = fit_prior(tiny_model, tiny_processor, rows, progress=False) if with_prior else None
    regions, counts = match_rows(tiny_model, tiny_processor, rows, scorer, batch_size=4, progress=False)
    alone, _ = match_rows(tiny_model, tiny_processor, rows, scorer, batch_size=1, progress=False)
    assert counts["images"] == 6 and counts["sentences"] == 21
    assert counts["assigned"] == sum(map(len, regions)) == 21 - counts["unassigned"]
    assert counts["assigned"] > 0
    for row, regions_of_row, other in zip(rows, regions, alone, strict=True):
        assert [(r["sentence"], r["bbox"]) for r in regions_of_row] == [(r["sentence"], r["bbox"]) for r in other]
        assert len({r["sentence"] for r in regions_of_row}) == len(regions_of_row)
        for region in regions_of_row:
            x, y, w, h = region["bbox"]
            assert 0 <= x and 0 <= y and x + w <= row["width"] + 1e-3 and y + h <= row["height"] + 1e-3
            assert 0 <= region["reliability"] <= 1 and region["origin"] == "rsm"


def test_the_prior_keeps_the_given_share_of_sentences(tiny_model, tiny_processor):
    rows = make_rows(40)
    for keep in (0.3, 0.8):
        scorer = fit_prior(tiny_model, tiny_processor, rows, keep=keep, progress=False)
        _, counts = match_rows(tiny_model, tiny_processor, rows, scorer, progress=False)
        # Sentences of equal words are kept or not together: four kinds, a quarter each or a little more.
        assert abs(counts["assigned"] / counts["sentences"] - keep) <= 0.25


@pytest.mark.slow
def test_a_matcher_finds_the_regions_that_it_was_fitted_on(tiny_model, tiny_processor):
    rows = make_rows(60)
    for n, row in enumerate(rows):
        jacket = 0 if n % 2 == 0 else None
        shoes = 1 if n % 2 == 0 else 0
        row["regions"] = [pair(shoes, 40)] + ([pair(jacket, 12)] if jacket is not None else [])
    scorer = fit_matcher(tiny_model, tiny_processor, rows, progress=False)
    found, counts = match_rows(tiny_model, tiny_processor, make_rows(4, seed=1), scorer, threshold=0.0, progress=False)
    assert counts["unassigned"] == 0
    boxes = [r["bbox"] for r in found[0]]
    assert boxes[0] == pytest.approx(pair(0, 12)["bbox"], abs=1e-3)
    assert boxes[1] == pytest.approx(pair(1, 40)["bbox"], abs=1e-3)
    assert found[0][1]["score"] > 2 * found[0][3]["score"]  # "He is walking." has no region in the sample


def test_only_the_most_reliable_regions_of_a_sentence_are_used(tiny_model, tiny_processor):
    rows = make_rows(40)
    for row in rows:
        row["regions"] = [pair(0, 12, 0.9), pair(0, 40, 0.1)]
    scorer = fit_matcher(tiny_model, tiny_processor, rows, progress=False)
    found, _ = match_rows(tiny_model, tiny_processor, rows[:1], scorer, threshold=0.0, progress=False)
    assert found[0][0]["bbox"] == pytest.approx(pair(0, 12)["bbox"], abs=1e-3)


def test_any_proposer_can_give_the_candidates(tiny_model, tiny_processor):
    def halves(image, sentences):
        found = propose_anchors(image, sentences)
        boxes = np.array([[0, 0, 1, 0.5], [0, 0.5, 1, 1], [0, 0, 1, 1]], dtype=np.float32)
        return type(found)(boxes, ("segment", "feet", "whole person"))

    rows = make_rows(10)
    scorer = fit_prior(tiny_model, tiny_processor, rows, progress=False)
    found, _ = match_rows(tiny_model, tiny_processor, rows, scorer, halves, threshold=0.0, progress=False)
    named = {(r["bbox"][1], r["label"]) for regions in found for r in regions}
    assert named and named <= {(0.0, "upper body"), (60.0, "feet")}  # a segment gets the body part at its position


def test_rows_without_an_image_or_sentences_are_named(tiny_model, tiny_processor):
    rows = make_rows(2)
    rows[1]["image"] = None
    with pytest.raises(ValueError, match="own/1: field 'image'"):
        match_rows(tiny_model, tiny_processor, rows, progress=False)
    silent = [row | {"sentences": []} for row in make_rows(2)]
    with pytest.raises(ValueError, match="sentences"):
        fit_prior(tiny_model, tiny_processor, silent, progress=False)
    with pytest.raises(ValueError, match="sentences"):
        fit_matcher(tiny_model, tiny_processor, silent, progress=False)
    assert match_rows(tiny_model, tiny_processor, silent, progress=False)[0] == [[], []]


def test_a_sample_is_spread_over_the_rows():
    assert spread(list(range(100)), 5) == [0, 25, 50, 74, 99]
    assert spread([1, 2], 5) == [1, 2]


def test_an_image_that_cannot_be_decoded_gets_no_region_and_is_counted(tiny_model, tiny_processor):
    good = io.BytesIO()
    make_rows(1)[0]["image"].convert("RGB").save(good, "PNG")
    sentences = [{"text": text, "start": 0, "end": len(text)} for text in TEXTS]
    features = Features({
        "image": DecodedImage(), "image_id": Value("string"), "width": Value("int32"), "height": Value("int32"),
        "sentences": [{"text": Value("string"), "start": Value("int32"), "end": Value("int32")}],
    })  # fmt: skip
    rows = Dataset.from_list(
        [
            {
                "image": {"bytes": content, "path": None},
                "image_id": f"{n}",
                "width": 50,
                "height": 120,
                "sentences": sentences,
            }
            for n, content in enumerate([good.getvalue(), b"no image", good.getvalue()])
        ],
        features=features,
    )
    scorer = fit_prior(tiny_model, tiny_processor, rows, progress=False)
    regions, counts = match_rows(tiny_model, tiny_processor, rows, scorer, threshold=0.0, progress=False)
    assert [len(found) for found in regions] == [4, 0, 4]
    assert counts["unreadable"] == 1 and counts["unassigned"] == 4
