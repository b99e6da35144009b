"""Captions are corrected without losing a word, and offsets of sentences match the caption."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_pvlg.text_cleaning import BLANKS, CJK, CODE, ESCAPES, GLUED, INVISIBLE, PUNCTUATION, clean_row, clean_text
from modeling_rogle.sentences import split_sentences


@pytest.mark.parametrize(
    ("text", "clean", "faults"),
    [
        ("A man in red.", "A man in red.", []),
        (" He  has  short black hair , and a\nred coat . ", "He has short black hair, and a red coat.", [BLANKS]),
        ("A grey jacket.He is walking.", "A grey jacket.He is walking.", [GLUED]),
        ("She wears 4.5 cm heels, a No. 5 shirt...", "She wears 4.5 cm heels, a No. 5 shirt...", []),
        ("A man，in a red 外套 coat。", "A man, in a red coat.", [CJK]),
        ("A man with\u200b a\u00a0bag\x07.", "A man with a bag.", [INVISIBLE]),
        ("A man in a red\\n <b>coat</b> &amp; a hat.", "A man in a red coat & a hat.", [ESCAPES]),
        ("A coat\\u3002 He walks.", "A coat. He walks.", [ESCAPES, CJK]),
        ("The man wears red,, black;, and white..", "The man wears red, black; and white.", [PUNCTUATION]),
        ("import os A man in red. for i in range(10): He walks.", "A man in red. He walks.", [CODE]),
        ('He walks. print("caption") file_name = "a.jpg"', "He walks.", [CODE]),
        ("A bag os.path.join(root, name) in his hand {x: 1}.", "A bag in his hand.", [CODE]),
        ("def f(x): return None", "", [CODE]),
        ("一个男人穿着红色的外套。他在走路。", "一个男人穿着红色的外套。他在走路。", []),
        ("", "", []),
        (" . ", "", [BLANKS, PUNCTUATION]),
    ],
)
def test_each_fault_is_corrected_and_named(text, clean, faults):
    found, named = clean_text(text)
    assert found == clean
    assert set(named) == set(faults)


@pytest.mark.parametrize(
    "text",
    [
        "A shirt with a print (floral) and a class ring; he lets go of a bag.",
        "She returns from the left, for the most part in white/black, 50% covered.",
        "A boy (about 10) wears a T-shirt that says 'import export' = good.",
        "He's wearing a Levi's jacket & a cap; his shoe-laces are un-tied!",
        "The man is walking... his hands are in his pockets.",
        "A café worker's red-and-white apron, size L/XL.",
    ],
)
def test_plain_english_is_left_alone(text):
    assert clean_text(text) == (text, ())


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.sampled_from("aB. ,;:!?()[]{}<>&\\/=_\"'\n\t1。，外\u200b\u00a0nu003"), max_size=40))
def test_cleaning_twice_changes_nothing_more(text):
    clean, _ = clean_text(text)
    assert clean_text(clean, cjk=False)[0] == clean or clean_text(clean)[0] == clean


WORDS = "a man in red wears the black coat He walks".split()
BETWEEN = [" ", "  ", "\n", ". ", ".", " ,", "，", "。", "\\n "]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(BETWEEN)), min_size=1, max_size=12))
def test_words_are_never_lost_or_changed(pieces):
    text = "".join(word + blank for word, blank in pieces)
    letters = "".join(word for word, _ in pieces)
    assert "".join(character for character in clean_text(text)[0] if character.isalpha()) == letters


def row_of(caption: str, regions: list[int] = ()) -> dict:
    parts = split_sentences(caption, clauses=True)
    sentences = [{"text": text, "start": start, "end": end} for text, start, end in parts]
    return {"caption": caption, "captions": [caption], "sentences": sentences,
            "regions": [{"sentence": number} for number in regions]}  # fmt: skip


def check(row: dict) -> None:
    for sentence in row["sentences"]:
        assert row["caption"][sentence["start"] : sentence["end"]] == sentence["text"]


def test_clauses_keep_their_commas():
    row = row_of("A man wears a red  shirt, black pants and carries a bag.", [1])
    faults = clean_row(row)
    assert row["caption"] == "A man wears a red shirt, black pants and carries a bag."
    assert [sentence["text"] for sentence in row["sentences"]] == [
        "A man wears a red shirt",
        "black pants",
        "and carries a bag.",
    ]
    check(row)
    assert set(faults) == {BLANKS}


def test_row_keeps_its_own_captions_and_true_offsets():
    dirty = "A man in  red .He has a bag.\n\nHis shoes， are white。"
    row = row_of(dirty, [0, 1, 2])
    faults = clean_row(row)
    assert row["caption"] == "A man in red. He has a bag. His shoes, are white."
    assert row["captions"] == [dirty]
    assert [sentence["text"] for sentence in row["sentences"]] == [
        "A man in red.",
        "He has a bag.",
        "His shoes, are white.",
    ]
    check(row)
    assert [region["sentence"] for region in row["regions"]] == [0, 1, 2]
    assert set(faults) == {BLANKS, GLUED, CJK}


def test_a_sentence_that_becomes_empty_is_removed():
    row = row_of("A man in red. 他在走路。 He walks.", [0, 1, 2, -1])
    clean_row(row)
    assert row["caption"] == "A man in red. He walks."
    assert [region["sentence"] for region in row["regions"]] == [0, -1, 1, -1]
    check(row)


@pytest.mark.parametrize(
    "caption", ["", "def f(x): return None", "一个男人穿着红色的外套。他在走路。", "A man. He walks."]
)
def test_row_without_faults_or_without_anything_else_stays_as_it_is(caption):
    row = row_of(caption, [-1])
    before = copy.deepcopy(row)
    assert clean_row(row) == ()
    assert row == before


def test_a_gap_of_several_spaces_is_reported():
    row = row_of("A man in red.   He walks.")
    assert clean_row(row) == (BLANKS,)
    assert row["caption"] == "A man in red. He walks."
    check(row)
