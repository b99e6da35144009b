"""Baselines of the data card, on cases with known answers."""

import numpy as np
import pytest
from PIL import Image

from dataset_pvlg.synthetic import baselines


def test_overlap_of_boxes():
    a = np.array([[0.0, 0.0, 1.0, 1.0]])
    b = np.array([[0.0, 0.0, 1.0, 1.0], [0.5, 0.0, 1.0, 1.0], [0.0, 0.0, 0.5, 0.5], [2.0, 2.0, 3.0, 3.0]])
    np.testing.assert_allclose(baselines.iou(a, b), [[1.0, 0.5, 0.25, 0.0]])


def test_words_are_read_by_meaning():
    assert baselines.nouns_of("A red rolling suitcase and a messenger bag.") == ["suitcase", "shoulder bag"]
    assert baselines.colours_of("A crimson scarf, a gray hat and fair hair") == ["red", "grey", "blonde"]


def test_look_ups_learn_where_a_word_is():
    hat, shoes = [0.4, 0.0, 0.6, 0.1], [0.3, 0.9, 0.7, 1.0]
    texts, boxes = ["A red cap.", "Blue shoes."] * 20, np.array([hat, shoes] * 20)
    for look_up in (baselines.LookUp(texts, boxes, 1), baselines.LookUp(texts, boxes, 2)):
        assert (
            baselines.recall(look_up, ["A blue cap.", "Red shoes.", "A cap and shoes."], np.array([hat, shoes, hat]))
            == 100
        )
    regression = baselines.WordRegression(texts * 5, np.concatenate([boxes] * 5))
    assert baselines.recall(
        regression, ["A red cap.", "Blue shoes.", "A red cap."], np.array([hat, shoes, shoes])
    ) == pytest.approx(200 / 3)
    assert baselines.recall(baselines.Proportions(), ["Boots.", "Boots."], np.array([[0.2, 0.87, 0.8, 1.0], hat])) == 50


def row(text: str, label: str, box: list[float], facts: list[str]) -> dict:
    region = {"bbox": box, "label": label, "sentence": 0, "attributes": facts}
    return {
        "image_id": text, "person_id": 0, "width": 10, "height": 20, "sentences": [{"text": text}], "caption": text,
        "regions": [region], "claims": [[facts]],
    }  # fmt: skip


def test_colour_rules_and_the_oracle():
    top, low = [0, 0, 10, 10], [0, 10, 10, 10]
    rows = [row("A red shirt.", "upper body", top, ["color=red", "kind=shirt"]),
            row("Red shoes.", "feet", low, ["color=red", "kind=shoes"])]  # fmt: skip
    pixels = np.full((2, 40, 20, 3), (26, 26, 30), np.uint8)
    pixels[0, :20], pixels[1, 20:] = (206, 26, 34), (206, 26, 34)
    maps = np.stack([baselines.colour_map(Image.fromarray(p)) for p in pixels])
    whole, height = baselines.colour_scores(rows, maps)
    ids = np.arange(2)
    assert abs(whole[0, 0] - whole[0, 1]) < 1e-5  # both images are half red
    assert baselines.recall_at_1(baselines.oracle_scores(rows, baselines.fact_table(rows)), ids, ids) == 100
    assert baselines.recall_at_1(np.ones((2, 2)), ids, ids) == 0 and height.shape == (2, 2)


def test_a_region_with_two_sentences_is_one_region():
    one = row("A red shirt.", "upper body", [0, 0, 5, 10], ["color=red"])
    one["regions"] += [
        one["regions"][0] | {"sentence": 1},
        one["regions"][0] | {"bbox": [5, 10, 5, 10], "sentence": -1},
    ]
    boxes, attributes, sentences = baselines.regions_of(one)
    np.testing.assert_allclose(boxes, [[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]])
    assert attributes == [["color=red"]] * 2 and sentences == [[0, 1], []]
