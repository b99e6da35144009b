import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling_rogle.sentences import split_sentences


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
        ("no full stop", ["no full stop"]),
        ("42", ["42"]),
    ],
)
def test_splits(text, expected):
    assert texts(text) == expected


@pytest.mark.parametrize("text", ["", " ", "\n\n", " . ", "...", "?!", "。"])
def test_blank_text_has_no_sentence(text):
    assert split_sentences(text) == []


@given(st.text(alphabet=st.sampled_from("aAb1 4.,!?。\n\"') …He"), max_size=60))
def test_offsets_cut_the_text_and_lose_no_letter(text):
    sentences = split_sentences(text)
    before = 0
    for sentence, start, end in sentences:
        assert text[start:end] == sentence == sentence.strip() != ""
        assert start >= before
        assert not any(character.isalnum() for character in text[before:start])
        before = end
    assert not any(character.isalnum() for character in text[before:])


def test_long_text_is_split_in_linear_time():
    assert len(split_sentences("He walks.She runs. " * 20_000)) == 40_000
