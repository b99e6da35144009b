import html

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling_rogle.sentences import (
    bytes_without_text,
    normalize_text,
    query_sentences,
    split_clauses,
    split_sentences,
)


def texts(text: str) -> list[str]:
    return [sentence for sentence, _, _ in split_sentences(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A man walks. He wears a hat.", ["A man walks.", "He wears a hat."]),
        ("A man in a grey jacket.He is walking.", ["A man in a grey jacket.", "He is walking."]),
        ("blue jeans.the man is slim", ["blue jeans.", "the man is slim"]),
        ("black shirt. he walks . she too", ["black shirt.", "he walks .", "she too"]),
        ("A 4.5 litre bottle. It is 1.90 m.", ["A 4.5 litre bottle.", "It is 1.90 m."]),
        ("Size 4. He is tall.", ["Size 4.", "He is tall."]),
        ("Dr. Lee vs. Mr. Ray, e.g. in white.", ["Dr. Lee vs. Mr. Ray, e.g. in white."]),
        ("Bags, hats etc. He walks.", ["Bags, hats etc.", "He walks."]),
        ("Bags, hats etc. and more.", ["Bags, hats etc. and more."]),
        ("The U.S. flag is on it. She smiles.", ["The U.S. flag is on it.", "She smiles."]),
        ("A shirt with the letter N. He walks.", ["A shirt with the letter N.", "He walks."]),
        ("Shirt No. 23. It is red.", ["Shirt No. 23.", "It is red."]),
        ("From www.shop.com today.", ["From www.shop.com today."]),
        ("Is it him? Yes! It is.", ["Is it him?", "Yes!", "It is."]),
        ("A ... dark coat... She runs.", ["A ... dark coat...", "She runs."]),
        (
            'A shirt says "go." She runs. (He too.) It ends.',
            ['A shirt says "go."', "She runs.", "(He too.)", "It ends."],
        ),
        ("One line\n\nAnother line", ["One line", "Another line"]),
        ("A man in a\nred shirt.", ["A man in a\nred shirt."]),
        ("他穿黑色衣服。他在走路。", ["他穿黑色衣服。", "他在走路。"]),
        ("Black hair。He walks", ["Black hair。", "He walks"]),
        ("1. The head. 2. The feet.", ["1. The head.", "2. The feet."]),
        ("A hat . . He walks.", ["A hat .", "He walks."]),
        ("Black hair．He walks", ["Black hair．", "He walks"]),
        ("他穿黑色衣服！他在走路？是", ["他穿黑色衣服！", "他在走路？", "是"]),
        ("“A hat.” He walks.", ["“A hat.”", "He walks."]),
        ("about 1.75 m tall.she walks", ["about 1.75 m tall.", "she walks"]),
        ("no full stop", ["no full stop"]),
        ("42", ["42"]),
    ],
)
def test_texts_are_split_into_sentences(text, expected):
    assert texts(text) == expected


@pytest.mark.parametrize("text", ["", " ", "\n\n", " . ", "...", "?!", "。"])
def test_blank_text_has_no_sentence(text):
    assert split_sentences(text) == []


@given(st.text(alphabet=st.sampled_from("aAb1 4.,!?。\n\"') …He"), max_size=60))
def test_offsets_cut_the_text_and_lose_no_letter(text):
    assert_places(split_sentences(text), text)


def assert_places(pieces, text):
    before = 0
    for piece, start, end in pieces:
        assert text[start:end] == piece == piece.strip() != ""
        assert start >= before
        assert not any(character.isalnum() for character in text[before:start])
        before = end
    assert not any(character.isalnum() for character in text[before:])


SOUP = st.lists(
    st.sampled_from(
        """A man woman in with and , ; . wearing carrying red black long loose shirt hair jeans pants shoes dress bag
        backpack tank top t - phone his is the over jacket.He Dr. 4.5 e.g. 。 ” ( hat\n\n walks""".split(" ")
    ),
    max_size=16,
).map(" ".join)


@given(SOUP)
def test_a_sentence_is_its_own_only_sentence(text):
    for sentence, _, _ in split_sentences(text):
        assert split_sentences(sentence) == [(sentence, 0, len(sentence))]


@given(SOUP)
def test_clauses_lose_no_letter_and_are_their_own_only_clauses(text):
    clauses = split_clauses(text)
    assert_places(clauses, text)
    assert bool(clauses) == bool(text.strip())
    for clause, _, _ in clauses:
        assert split_clauses(clause) == [(clause, 0, len(clause))]
    with_option = split_sentences(text, clauses=True)
    assert_places(with_option, text)
    if len(split_sentences(text)) > 1:
        assert with_option == split_sentences(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "A man wearing a red shirt, black pants and carrying a bag",
            ["A man wearing a red shirt", "black pants", "and carrying a bag"],
        ),
        (
            "The black haired man is wearing a white and black striped shirt, dark jeans, and white sneakers.",
            ["The black haired man", "is wearing a white and black striped shirt", "dark jeans", "and white sneakers."],
        ),
        (
            "  A woman with short, black hair in a long, loose dress, and holding her purse.",
            ["A woman with short, black hair", "in a long, loose dress", "and holding her purse."],
        ),
        ("She has a red and white shirt with short sleeves.", ["She has a red and white shirt with short sleeves."]),
        ("A pair of dress shoes and a back pack", ["A pair of dress shoes", "and a back pack"]),
        ("She wears a t-shirt tucked into jeans.", ["She wears a t-shirt tucked into jeans."]),
        ("A man walks down a street, in no hurry.", ["A man walks down a street, in no hurry."]),
        ("他穿黑色衣服", ["他穿黑色衣服"]),
        (" ", []),
    ],
)
def test_one_sentence_is_split_where_the_named_part_changes(text, expected):
    clauses = split_sentences(text, clauses=True)
    assert [clause for clause, _, _ in clauses] == expected
    assert_places(clauses, text)


def test_several_sentences_are_not_split_into_clauses():
    text = "A man in a red shirt and black pants. He carries a bag."
    assert split_sentences(text, clauses=True) == split_sentences(text)


def test_long_text_is_split_in_linear_time():
    assert len(split_sentences("He walks.She runs. " * 20_000)) == 40_000
    clauses = split_clauses("a red shirt, black pants, " * 10_000)
    assert len(clauses) == 20_000


def test_a_query_is_split_into_clauses_and_cut_at_the_limit():
    sentences, omitted = query_sentences("A man wearing a red shirt, black pants and carrying a bag")
    assert [sentence for sentence, *_ in sentences] == [
        "A man wearing a red shirt",
        "black pants",
        "and carrying a bag",
    ]
    assert omitted == 0
    text = "He has a red shirt and black pants. His jacket is darker than the trousers.He carries a bag."
    sentences, omitted = query_sentences(text)
    whole = ["His jacket is darker than the trousers.", "He carries a bag."]
    assert [sentence for sentence, *_ in sentences] == ["He has a red shirt", "and black pants.", *whole]
    assert_places(sentences, text)
    sentences, omitted = query_sentences("He walks. " * 70)
    assert (len(sentences), omitted) == (64, 6)
    assert query_sentences("  ") == ([], 0)


# As written, and as CLIP's own cleaning returns it (ftfy.fix_text, then html.unescape twice).
AS_CLIP = [
    ("a man\u2019s \u201cred\u201d coat", 'a man\'s "red" coat'),
    ("\ufeffA man.", "A man."),
    ("a \ufb01ne co\ufb00ee \u0133s", "a fine coffee ijs"),
    ("\uff21\uff42\uff11\uff0cx\u3000y", "Ab1,x y"),
    ("cafe\u0301", "caf\u00e9"),
    ("one\r\ntwo\rthree\u2028four\u2029five", "one\ntwo\nthree\nfour\nfive"),
    ("\x1b[31mred\x1b[0m \x00\x07coat", "red coat"),
    ("\ud83d\ude00 hat", "\U0001f600 hat"),
    ("caf&eacute; &amp;amp; &#39;red&#x27;", "caf\u00e9 & 'red'"),
    ("R&D H&M & Co", "R&D H&M & Co"),
    ("plain, with \ttab", "plain, with \ttab"),
    ("\u4e00\u4e2a\u7537\u4eba\u3002", "\u4e00\u4e2a\u7537\u4eba\u3002"),
    ("\U0001f468 \u2764", "\U0001f468 \u2764"),
]
# Where CLIP leaves characters that no model reads.
BEYOND_CLIP = [
    ("zero\u200bwidth\u200d \u200fmark", "zerowidth mark"),
    ("soft\u00adhyphen", "softhyphen"),
    ("non\u00a0breaking", "non breaking"),
    ("half \ud83d emoji", "half  emoji"),
    ("caf\udce9", "caf"),
    ("replaced \ufffd", "replaced "),
    ("&#xD800;&#0;&zwnj;&shy;red", "red"),
    ("&#" + "9" * 5000 + "; red", " red"),
    ("&amp;#" + "9" * 5000 + ";red", "red"),
    ("&am\u200bp;", "&"),
    ("\uff06amp\uff1b", "&"),
]


@pytest.mark.parametrize(("text", "cleaned"), AS_CLIP + BEYOND_CLIP)
def test_characters_are_cleaned(text, cleaned):
    assert normalize_text(text) == cleaned == normalize_text(cleaned)
    cleaned.encode()


@pytest.mark.parametrize(("text", "cleaned"), AS_CLIP)
def test_cleaning_equals_that_of_clip(text, cleaned):
    ftfy = pytest.importorskip("ftfy")
    assert html.unescape(html.unescape(ftfy.fix_text(text))).strip() == cleaned.strip()


@given(st.text(st.characters(codec=None) | st.sampled_from("&;#x1\u200b\uff06\ud83d\ude00")))
def test_any_string_is_cleaned_once_and_can_be_encoded(text):
    cleaned = normalize_text(text)
    cleaned.encode()
    assert normalize_text(cleaned) == cleaned


def test_bytes_that_are_not_text_are_counted():
    assert bytes_without_text("caf\udce9 \ud83d") == 2 and bytes_without_text("\ud83d\ude00 caf\u00e9") == 0
