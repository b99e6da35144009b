"""Colours and garments that a sentence names."""

import pytest

from modeling_rogle.evaluation.split_regions import named_facts


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("Grey trousers.", ["gray", "pants"]),
        ("He wears slacks in gray.", ["gray", "pants"]),
        ("A T-shirt, white and RED", ["red", "tshirt", "white"]),
        ("a tee in white and red", ["red", "tshirt", "white"]),
        ("Her hair is blond.", ["blonde", "hair"]),
        ("black boots", ["black", "boots"]),
        ("She is wearing a coat.", []),
        ("Something red.", []),
        ("", []),
    ],
)
def test_colours_and_garments_in_one_spelling(text: str, facts: list[str]) -> None:
    assert named_facts(text) == facts
