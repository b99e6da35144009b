import json

import pytest

from dataset_pvlg.captioning.caption_filter import REASONS, clean_caption, contradiction, read_attributes, reject_reason
from dataset_pvlg.loading import load_rows

FACTS = "A man with short black hair wears a red t-shirt, blue jeans and white sneakers. He carries a black backpack."
GOOD = (
    "A young man with short black hair walks along a street. He wears a red t-shirt with short sleeves and a small "
    "logo. His blue jeans are slightly faded, and his sneakers are white. A black backpack hangs over both shoulders."
)


def test_a_caption_that_keeps_the_facts_is_accepted():
    assert reject_reason(GOOD, FACTS) is None
    assert reject_reason(GOOD) is None


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        ("", "empty"),
        (" . ", "empty"),
        ("I'm sorry, but I cannot identify people in images. " + GOOD, "refusal"),
        ("As an AI language model I do not describe persons. " + GOOD, "refusal"),
        (GOOD + " [description]", "template residue"),
        (GOOD + " <image>", "template residue"),
        ("User: describe the person. Assistant: " + GOOD, "template residue"),
        ("Based on the given captions, " + GOOD, "template residue"),
        ("这个男人穿着红色的衣服和蓝色的牛仔裤。" * 4 + GOOD[:60], "not text"),
        ("def f(x): return x + 1; " * 12, "not text"),
        ("xkcd qwrt zzzz bcdf ghjk. " * 6, "not text"),
        ("A man in a red t-shirt.", "too short"),
        (GOOD.replace(". ", ", "), "too short"),  # one sentence
        (GOOD + " He is walking." * 5, "repeats itself"),
        (GOOD + " He stands with his hands on his hips and his hands on his hips.", "repeats itself"),
        (GOOD + " It is very very very very nice.", "repeats itself"),
        (GOOD.replace("young man", "young woman").replace("He", "She").replace("His", "Her"), "contradicts the gender"),
        (GOOD.replace("blue jeans are", "blue shorts are"), "contradicts a garment"),
        (GOOD.replace("red t-shirt", "green t-shirt"), "contradicts a colour"),
        (GOOD.replace("sneakers are white", "sneakers are brown"), "contradicts a colour"),
        (GOOD.replace("black backpack", "pink handbag"), "contradicts a colour"),
    ],
)
def test_captions_are_rejected_by_reason(caption, reason):
    assert reason in REASONS
    assert reject_reason(caption, FACTS) == reason


def test_minima_are_settable():
    assert reject_reason("A man in a red t-shirt.", FACTS, min_words=3, min_sentences=1) is None
    assert reject_reason(GOOD, FACTS, min_words=200) == "too short"


@pytest.mark.parametrize(
    ("caption", "facts"),
    [
        ("He wears a black jacket over a white shirt.", "A man in a white shirt."),
        ("Her trousers are dark.", "A woman in black pants."),
        ("His dark blue jeans are tight.", "A man in black jeans."),
        ("She wears a light gray top.", "A woman in a white shirt."),
        ("The plaid shirt is red and black.", "A man in a patterned green shirt."),
        ("A person walks by.", "The woman wears a green skirt."),
        ("A woman in a green skirt. A man walks behind her.", "The woman wears a green skirt."),
        ("She is in a pink dress.", "A woman in a pink skirt."),
        ("He wears a black jacket. A blue shirt collar shows.", "A man in a white shirt and a black jacket."),
        ("He wears grey shorts and black shoes.", "A man or a woman in black shoes and gray shorts."),
        ("His shoes are white, his bag red.", "A man with a red bag, black socks and white shoes."),
    ],
)
def test_compatible_texts_are_no_contradiction(caption, facts):
    assert contradiction(caption, facts) is None


def test_attributes_are_read_on_both_sides_of_a_noun_unless_negated():
    attributes = read_attributes("He has no hat. His long, loose coat is dark green, and he wears black dress shoes.")
    assert attributes.gender == (3, 0)
    assert dict(attributes.kinds) == {"outer": {""}, "feet": {""}}
    assert attributes.colours["outer"] == {"green", "black"}
    assert attributes.colours["feet"] == {"black"}


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ("Sure, here is a detailed description of the man: A man walks.", "A man walks."),
        ('"A man walks."', "A man walks."),
        ("Caption: A man walks.\n\n- He is tall.\n- **He** smiles.", "A man walks. He is tall. He smiles."),
        ("A man\u2019s  hat is\nred.", "A man's hat is red."),
    ],
)
def test_text_around_the_caption_is_removed(answer, caption):
    assert clean_caption(answer) == caption
    assert clean_caption(caption) == caption


def test_an_unfinished_sentence_is_removed():
    assert clean_caption("A man walks. He wears a gre", complete=False) == "A man walks."
    assert clean_caption("A man walks. He smiles.", complete=False) == "A man walks. He smiles."
    assert clean_caption("A man wal", complete=False) == ""
    assert clean_caption("A man walks. He wears a gre") == "A man walks. He wears a gre"


def test_long_synthetic_captions_agree_with_the_short_ones_of_their_image_and_not_of_others():
    rows = [row for split in load_rows("synthetic-tiny")[0].values() for row in split.remove_columns("image")]
    short = [" ".join(row["captions"]) for row in rows]
    rejected = [reject_reason(row["caption"], facts) for row, facts in zip(rows, short, strict=True)]
    assert sum(reason is not None for reason in rejected) <= 0.05 * len(rows)
    pairs = [
        (row["caption"], facts)
        for row in rows
        for facts, other in zip(short, rows, strict=True)
        if other["person_id"] != row["person_id"]
    ][:: len(rows) // 4]
    contradictions = sum(contradiction(caption, facts) is not None for caption, facts in pairs)
    assert contradictions >= 0.8 * len(pairs)


def test_captions_of_real_people_agree_with_each_other_and_not_with_those_of_others(test_data):
    people = {row["id"]: row for row in json.loads((test_data / "pedestrians" / "annotations.json").read_text())}
    texts = [(row["long_caption"], " ".join(row["captions"])) for row in people.values()]
    assert [reject_reason(long, short) for long, short in texts] == [None] * len(texts)
    others = [contradiction(a, b) for i, (a, _) in enumerate(texts) for j, (_, b) in enumerate(texts) if i != j]
    assert sum(reason is not None for reason in others) >= 0.8 * len(others)
