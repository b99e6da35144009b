"""Measurements of the card: correct on cases with known answers, and and the card of version 1."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset_pvlg.synthetic_v1 import card
from dataset_pvlg.synthetic_v1.dataset import SyntheticConfig
from dataset_pvlg.synthetic_v1.identities import sample_identities

SMALL = SyntheticConfig(train_identities=2, validation_identities=1, test_identities=10, images_per_identity=2)


def solid(upper: tuple, lower: tuple) -> Image.Image:
    pixels = np.zeros((96, 32, 3), np.uint8)
    pixels[:50], pixels[50:] = upper, lower
    return Image.fromarray(pixels)


def test_recall_breaks_ties_against_the_query():
    ids = np.array([0, 1])
    assert card.recall_at_1(np.eye(2), ids, ids) == 100
    assert card.recall_at_1(np.ones((2, 2)), ids, ids) == 0
    assert (
        card.recall_at_1(np.array([[9.0, 1, 2], [0, 9, 1], [0, 2, 9]]), np.array([0, 0, 1]), np.array([0, 0, 1]), True)
        == 0
    )


def test_colour_words_are_read_once_each_and_by_meaning():
    assert sorted(card.colours_named("A gray shirt, violet shoes and blond hair.")) == ["blonde", "grey", "purple"]
    assert card.colours_named("a red cap and a red bag") == ["red", "red"]
    assert card.colours_named("the tired man is bored") == []


def test_colour_matcher_finds_what_colours_can_separate():
    red, green, blue = (190, 35, 40), (50, 130, 65), (45, 85, 185)
    images = [solid(red, green), solid(green, blue), solid(blue, red), solid(green, red)]
    texts = [
        [("He wears a red shirt.", "upper body"), ("He wears green pants.", "lower body")],
        [("He wears a green shirt.", "upper body"), ("He wears blue pants.", "lower body")],
        [("He wears a blue shirt.", "upper body"), ("He wears red pants.", "lower body")],
        [("He wears a green shirt.", "upper body"), ("He wears red pants.", "lower body")],
    ]
    whole, banded = card.colour_r1(images, texts, np.arange(4))
    assert banded == 100  # position separates red over green from green over red
    assert whole < 100


def test_image_matcher_leaves_the_image_itself_out():
    images = [solid((200, 0, 0), (0, 0, 0)), solid((200, 0, 0), (0, 0, 0)), solid((0, 0, 200), (9, 9, 9))]
    assert card.image_r1(images, np.array([0, 0, 1])) == pytest.approx(200 / 3)


def test_the_oracle_needs_a_named_attribute_that_differs():
    people = dict(enumerate(sample_identities(0, 0, 6)))
    everything = frozenset(vars(people[0]))
    ids = np.arange(6)
    assert card.oracle_r1([everything] * 6, ids, people) == 100
    assert card.oracle_r1([frozenset()] * 6, ids, people) == 0


@pytest.mark.parametrize(
    ("caption", "flips"),
    [
        ("The jacket is left open in front.", False),
        ("A bag hangs on his left shoulder.", True),
        ("The jacket is left open. A bag is on her right side.", True),
        ("He walks in bright light.", False),
    ],
)
def test_captions_that_a_flip_makes_false(caption, flips):
    row = {"image_id": "a", "caption": caption, "captions": ["A man."], "sentences": [], "width": 10, "height": 20}
    row["regions"] = [{"bbox": [0, 0, 5, 5], "label": "bag", "sentence": -1}]
    numbers = {"rows": [row], "colour": 0.0, "banded": 0.0, "image": 0.0, "oracle": 0.0, "fields": 0.0}
    assert f"flip makes {100.0 * flips:.1f} % of them wrong" in card.format_card(numbers, SMALL)


def test_measured_card_in_the_repository_meets_its_bars():
    text = (Path(card.__file__).parent / "README.md").read_text()
    colour = float(text.split("| colour words of the long caption, histograms of named colours | ")[1].split(" |")[0])
    oracle = float(
        text.split("| attributes that the long caption names, against the true ones of every image | ")[1].split(" |")[
            0
        ]
    )
    assert colour <= card.MAX_COLOUR_R1 and oracle >= card.MIN_ORACLE_R1
