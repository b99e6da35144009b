"""Captions name visible facts only, are grammatical, and have human lengths."""

import re
from dataclasses import fields, replace

import numpy as np
import pytest

from dataset_pvlg.features import REGION_LABELS
from dataset_pvlg.synthetic_v1 import caption_words as w
from dataset_pvlg.synthetic_v1.captions import write_captions
from dataset_pvlg.synthetic_v1.card import colours_named
from dataset_pvlg.synthetic_v1.identities import Identity, sample_identities
from dataset_pvlg.synthetic_v1.render import sample_view

FIELDS = frozenset(f.name for f in fields(Identity))
REGION_FIELDS = {
    "head": {"hair_colour", "hair_style", "headwear", "headwear_colour", "eyewear"},
    "upper body": {"upper_type", "upper_colour", "upper_pattern", "sleeve", "inner_colour"},
    "lower body": {"lower_type", "lower_colour"},
    "feet": {"shoe_type", "shoe_colour"},
    "bag": {"bag_type", "bag_colour", "bag_side"},
    "carried item": {"carried", "carried_colour"},
}
TYPE_FIELDS = ("upper_type", "lower_type", "shoe_type", "bag_type", "headwear", "eyewear", "carried")
TYPE_OF = {word: name for name, options in w.TYPE_WORDS.items() for word, _ in options}


def types_named(text: str) -> set[str]:
    text, names = text.lower(), set()
    for word in sorted(TYPE_OF, key=len, reverse=True):
        text, count = re.subn(rf"\b{re.escape(word)}\b", " ", text)
        if count:
            names.add(TYPE_OF[word])
    return names


def labels_of(identity: Identity) -> frozenset[str]:
    absent = {"bag"} if not identity.bag_type else set()
    return frozenset(REGION_LABELS) - (absent if identity.carried else absent | {"carried item"})


@pytest.fixture(scope="module")
def written():
    out = []
    for n, identity in enumerate(sample_identities(3, 0, 400)):
        view = sample_view(np.random.default_rng((1, n)))
        labels = labels_of(identity)
        out.append((identity, write_captions(identity, view, FIELDS, labels, np.random.default_rng((2, n)))))
    return out


def test_same_generator_state_gives_same_captions(written):
    identity, captions = written[7]
    view = sample_view(np.random.default_rng((1, 7)))
    assert write_captions(identity, view, FIELDS, labels_of(identity), np.random.default_rng((2, 7))) == captions


def test_long_caption_is_its_sentences(written):
    for _, captions in written:
        assert captions.long == " ".join(text for text, _ in captions.sentences)
        assert len(captions.named) == len(captions.sentences)
        assert {label for _, label in captions.sentences} <= {*REGION_LABELS, None}
        assert any(label is None for _, label in captions.sentences)


def test_long_captions_have_six_to_nine_sentences_and_a_tail_past_248_tokens(written):
    words = np.array([len(c.long.split()) for _, c in written])
    ordinary = words < 150
    # a CLIP token is about 0.89 words of this text: 85 to 155 tokens are about 76 to 138 words
    assert ((words >= 72) & (words <= 138))[ordinary].mean() > 0.97
    assert 0.005 < (~ordinary).mean() < 0.07
    assert (words[~ordinary] > 215).all()
    counts = [len(c.sentences) for _, c in written if len(c.long.split()) < 150]
    assert min(counts) >= 6 and max(counts) <= 9


def test_short_captions_differ_and_have_human_lengths(written):
    texts = [text for _, c in written for text in c.short]
    assert all(len(c.short) == 2 and c.short[0] != c.short[1] for _, c in written)
    words = np.array([len(text.split()) for text in texts])
    assert ((words >= 16) & (words <= 39)).mean() > 0.95 and 21 < words.mean() < 27
    sentences = np.array([len(re.findall(r"\.(?: |$)", text)) for text in texts])
    assert 0.4 < (sentences == 1).mean() < 0.65 and (sentences <= 4).all()


def test_short_captions_follow_measured_frequencies(written):
    texts = [text.lower() for _, c in written for text in c.short]

    def share(pattern: str) -> float:
        return float(np.mean([bool(re.search(pattern, text)) for text in texts]))

    assert 0.7 < share(r"\b(man|woman)\b") < 0.88
    assert share(r"\bgrey\b") > 0.03 and share(r"\bgray\b") > 0.03
    assert 0.01 < share(r"^(he|she) ") < 0.09
    assert share(r"\bshirt\b") > share(r"t-shirt")
    assert 0.5 < share(r"shoes|sneakers|boots|sandals|heels") < 0.8


def test_sentences_agree_with_the_identity(written):
    for identity, captions in written:
        values = {getattr(identity, f) for f in TYPE_FIELDS} | ({"shirt"} if identity.inner_colour else set())
        for text, label in captions.sentences:
            allowed = REGION_FIELDS.get(label, FIELDS) | ({"upper_colour"} if identity.upper_type == "dress" else set())
            colours = {getattr(identity, f) for f in allowed if f.endswith("colour")}
            assert set(colours_named(text)) <= colours, (text, identity)
            assert types_named(text) <= values, (text, identity)


def test_a_region_sentence_names_only_that_region(written):
    for identity, captions in written:
        for (text, label), named in zip(captions.sentences, captions.named, strict=True):
            if label is None:
                continue
            allowed = REGION_FIELDS[label] | {"gender"}
            if identity.upper_type == "dress" and label == "lower body":
                allowed = allowed | {"upper_type", "upper_colour"}
            assert named <= allowed, (text, label, named)


def test_grammar_slips_do_not_occur(written):
    for _, captions in written:
        for text in [*captions.short, captions.long]:
            assert "{" not in text and "  " not in text and " ." not in text and " ," not in text
            assert not re.search(r"\b[Aa] [aeiou]", text) and not re.search(r"\b[Aa]n [^aeiou]", text), text
            assert not re.search(r"\b(pants|jeans|shorts|leggings|shoes|sneakers|boots) is\b", text), text
            singular = r"(?i)(?<!of )\b(the|his|her) ([\w-]+ )?(skirt|shirt|coat|dress|bag) are\b"
            assert not re.search(singular, text), text
            assert not re.search(r"\b(\w+) \1\b", text), text
            assert all(s[0].isupper() for s in re.split(r"(?<=\.) ", text))
            assert text.endswith(".")


@pytest.mark.parametrize("hidden", sorted(FIELDS - {"gender", "build"}))
def test_an_invisible_field_is_not_named(hidden):
    checked = 0
    for n, identity in enumerate(sample_identities(5, 0, 60)):
        value = getattr(identity, hidden)
        if value in ("", "none"):
            continue
        view = sample_view(np.random.default_rng((4, n)))
        rng = np.random.default_rng((5, n))
        captions = write_captions(identity, view, FIELDS - {hidden}, labels_of(identity), rng)
        assert all(hidden not in named for named in captions.named)
        text = " ".join([captions.long, *captions.short])
        if hidden in TYPE_FIELDS:
            others = {getattr(identity, f) for f in TYPE_FIELDS if f != hidden} | {"shirt", "shoes"}
            assert value in others or value not in types_named(text), text
        elif hidden == "bag_side":
            assert not re.search(r"\b(left|right)\b", text.replace("is left open", "")), text
        elif hidden.endswith("colour"):
            others = {getattr(identity, f) for f in FIELDS - {hidden} if f.endswith("colour")}
            assert value in others or value not in colours_named(text), text
        checked += 1
    assert checked


def test_hidden_gender_makes_a_person():
    identity = sample_identities(5, 0, 1)[0]
    view = sample_view(np.random.default_rng(0))
    rng = np.random.default_rng(0)
    captions = write_captions(identity, view, FIELDS - {"gender"}, labels_of(identity), rng)
    text = " ".join([captions.long, *captions.short]).lower()
    assert not re.search(r"\b(man|woman|he|she|his|her|lady|male|female|guy)\b", text)
    assert "person" in text or "pedestrian" in text


def test_a_region_without_a_box_has_no_sentence():
    identity = replace(sample_identities(5, 0, 1)[0])
    view = sample_view(np.random.default_rng(0))
    labels = frozenset({"head", "upper body"})
    captions = write_captions(identity, view, FIELDS, labels, np.random.default_rng(1))
    assert {label for _, label in captions.sentences} <= {"head", "upper body", None}
    assert captions.long
