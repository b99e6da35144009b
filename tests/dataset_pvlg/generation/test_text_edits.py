"""Approximate text: synonyms, deletion and crops keep sentence offsets and negations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_pvlg.generation.text_edits import METHODS, SYNONYMS, approximate
from dataset_pvlg.loading import load_rows
from modeling_rogle.sentences import split_sentences

CAPTION = "A man wears a purple sweater.He has no bag.  His grey pants are long, and he is walking down a street."


def split(caption: str) -> list[dict]:
    return [{"text": text, "start": start, "end": end} for text, start, end in split_sentences(caption)]


@settings(deadline=None, max_examples=80)
@given(seed=st.integers(0, 10**6), method=st.sampled_from(METHODS), rate=st.floats(0, 1))
def test_offsets_stay_correct(seed: int, method: str, rate: float) -> None:
    old = split(CAPTION)
    assert len(old) == 3  # the first two have no blank between them
    caption, sentences, origins = approximate(CAPTION, old, np.random.default_rng(seed), rate, method)
    assert caption and caption == caption.strip()
    assert len(sentences) == len(origins) and origins == sorted(set(origins))
    for sentence, origin in zip(sentences, origins, strict=True):
        assert caption[sentence["start"] : sentence["end"]] == sentence["text"] != ""
        if method != "synonyms":  # a subsequence of the old words
            left = iter(old[origin]["text"].split())
            assert all(word in left for word in sentence["text"].split())
    ends = [sentence["end"] for sentence in sentences]
    assert all(before <= after["start"] for before, after in zip(ends, sentences[1:], strict=False))


def test_a_rate_of_zero_changes_nothing() -> None:
    for method in METHODS:
        result = approximate(CAPTION, split(CAPTION), np.random.default_rng(0), 0.0, method)
        assert result == (CAPTION, split(CAPTION), [0, 1, 2])


def test_the_rate_applies_to_words() -> None:
    words = len(CAPTION.split())
    dropped = [
        words - len(approximate(CAPTION, [], np.random.default_rng(seed), 0.2, "deletion")[0].split())
        for seed in range(300)
    ]
    assert 0.15 < np.mean(dropped) / words < 0.22  # slightly lower, because "no" is never dropped
    cropped = [len(approximate(CAPTION, [], np.random.default_rng(s), 0.2, "crop")[0].split()) for s in range(20)]
    assert set(cropped) == {round(words * 0.8)}


def test_a_crop_is_contiguous_and_negations_are_kept() -> None:
    for seed in range(30):
        caption, _, _ = approximate(CAPTION, [], np.random.default_rng(seed), 0.5, "crop")
        assert caption in CAPTION
        caption, _, _ = approximate(CAPTION, [], np.random.default_rng(seed), 0.9, "deletion")
        assert "no" in caption.split()


WITHOUT = "Without a hat, a man in a blue coat walks to the left."


@pytest.mark.parametrize("rate", [0.2, 0.6, 1.0])
def test_negated_words_are_neither_dropped_nor_moved(rate: float) -> None:
    glued = "He isn't tall, and he has neither a red bag nor a hat.She walks, no coat on"
    for sentences, seed in ((sentences, seed) for sentences in ([], split(WITHOUT)) for seed in range(10)):
        for method in ("deletion", "crop"):
            caption = approximate(WITHOUT, sentences, np.random.default_rng(seed), rate, method)[0]
            assert caption.startswith("Without a hat,")
    for seed in range(20):
        caption = approximate(glued, split(glued), np.random.default_rng(seed), rate, "deletion")[0]
        for part in ("isn't tall,", "neither a red bag nor a hat.", "no coat on"):
            assert part in caption
        caption = approximate(glued, split(glued), np.random.default_rng(seed), rate, "crop")[0]
        assert caption in glued and caption.split()[0] in ("He", "isn't", "She", "walks,", "no")
        assert caption.split()[-1] not in ("isn't", "neither", "a", "red", "bag", "nor", "no", "coat")


def test_synonyms_never_name_another_colour_or_garment() -> None:
    caption, _, _ = approximate(CAPTION, [], np.random.default_rng(3), 1.0, "synonyms")
    assert caption != CAPTION and "violet pullover" in caption and "gray trousers are long, and" in caption
    assert caption.startswith(("A male has on", "A gentleman has on"))
    colours = {"black", "white", "red", "blue", "green", "yellow", "pink", "brown", "orange", "khaki"}
    assert not colours & SYNONYMS.keys()
    assert not colours & {other for others in SYNONYMS.values() for other in others}


def test_rows_of_the_benchmark_keep_their_sentences() -> None:
    rows = load_rows("synthetic-tiny")[0]["train"].select(range(12)).remove_columns("image")
    changed = []
    for n, row in enumerate(rows):
        caption, sentences, origins = approximate(row["caption"], row["sentences"], np.random.default_rng(n))
        assert all(caption[s["start"] : s["end"]] == s["text"] for s in sentences)
        assert len(sentences) >= len(row["sentences"]) - 4 and max(origins) < len(row["sentences"])
        changed.append(caption != row["caption"])
    assert sum(changed) >= 9  # some captions have no word with a synonym


def test_wrong_arguments_are_named() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="method must be one of .*'swap'"):
        approximate("a man", [], rng, method="swap")
    with pytest.raises(ValueError, match="rate must lie in"):
        approximate("a man", [], rng, rate=1.5)
    with pytest.raises(ValueError, match=r"sentences\[0\]"):
        approximate("a man", [{"text": "man", "start": 0, "end": 3}], rng)
    assert approximate("  ", [], rng) == ("  ", [], [])
