"""Warnings about negation and unknown scripts; other queries give none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling_rogle.search.query_checks import negated_words, query_warnings


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("a man without a hat and a bag", ["without a hat"]),
        ("no backpack", ["no backpack"]),
        ("No hat. Without any visible black backpack on her back", ["No hat", "Without any visible black backpack"]),
        ("She is not wearing a red coat.", ["not wearing a red coat"]),
        ("He isn't carrying a bag", ["isn't carrying a bag"]),
        ("He isn’t carrying a bag", ["isn’t carrying a bag"]),
        ("He doesnt wear shoes", ["doesnt wear shoes"]),
        ("The hood lacks a zip", ["lacks a zip"]),
        ("not wearing glasses nor a hat", ["not wearing glasses", "nor a hat"]),
        ("a dress instead of trousers", ["instead of trousers"]),
        ("nothing in her hands", ["nothing"]),
        ("a coat\nwithout\tbuttons", ["without buttons"]),
        ("He can't be seen", ["can't be seen"]),
    ],
)
def test_negations_are_named_as_written(query, words):
    assert negated_words(query) == words
    (warning,) = query_warnings(query, 1)
    assert "\n" not in warning and all(f'"{part}"' in warning for part in words)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "a woman in a red coat with a black backpack",
        "a jersey with No. 23 on it",
        "a jersey, no 7",
        "a coat that is not only red but also blue",
        "a notebook under a nordic jumper, a cannonball on the wall, wonton soup, a haven",
        "a knot in the scarf; a sleeveless top; he wants none-such shoes".replace("none-such", "other"),
    ],
)
def test_words_without_negation_give_no_warning(query):
    assert negated_words(query) == []


@given(st.text(max_size=80))
def test_named_words_are_part_of_the_query(text):
    for item in negated_words(text):
        assert item in " ".join(text.split())


def test_a_script_that_the_tokenizer_does_not_know_is_named(tiny_processor):
    def tokens(text):
        return len(tiny_processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    for query in ("穿红色夹克和黑色裤子的男人", "Мужчина в красной куртке и чёрных брюках", "zwjkq vxyqj kkzqx"):
        (line,) = query_warnings(query, tokens(query))
        assert "\n" not in line and f"{tokens(query)} tokens" in line
    for query in ("A man wears a red jacket and black pants.", "a blue bag", "XL", ""):
        assert query_warnings(query, tokens(query)) == []
