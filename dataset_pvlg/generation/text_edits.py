"""Approximate text: captions with synonyms, deleted words or a crop, and their sentence offsets (arXiv 2311.09084).

This is the text side of proximity data generation: synonyms, deletion or a crop, each at a rate of 0.2. The paper takes
synonyms from WordNet. Here they come from a small table of words of pedestrian captions, so that a colour or a garment
never turns into another one.

Negations keep their meaning. Deletion keeps every word from a negation to the next punctuation mark. A crop never
starts after a negation within its sentence and never ends inside the negated part.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set

import numpy as np

from modeling_rogle.sentences import split_sentences

METHODS = ("synonyms", "deletion", "crop")
RATE = 0.2

# The words of a group are interchangeable in any sentence, also after "a". Multi-word terms only replace, and are never
# replaced.
_GROUPS = (
    ("man", "male", "gentleman"), ("woman", "lady", "female"), ("person", "pedestrian"), ("wears", "has on"),
    ("carries", "is carrying"), ("holds", "is holding"), ("walking", "strolling"), ("picture", "photo"),
    ("pants", "trousers"), ("sneakers", "trainers", "tennis shoes"), ("backpack", "rucksack"), ("handbag", "purse"),
    ("suitcase", "piece of luggage"), ("sweater", "pullover"), ("glasses", "eyeglasses", "spectacles"),
    ("phone", "cell phone", "mobile phone"), ("grey", "gray"), ("striped", "stripy"), ("plaid", "checkered"),
    ("dotted", "polka-dot"), ("purple", "violet"), ("slim", "slender"), ("heavy", "stocky"), ("street", "road"),
    ("toward", "towards"), ("shopping", "retail"), ("scarf", "shawl"), ("cap", "baseball cap"), ("shirt", "top"),
    ("leggings", "tights"), ("heels", "high heels"), ("beanie", "knit hat"), ("large", "big"), ("small", "little"),
)  # fmt: skip
SYNONYMS: dict[str, tuple[str, ...]] = {
    word: tuple(other for other in group if other != word) for group in _GROUPS for word in group if " " not in word
}
del SYNONYMS["top"]  # "the top of the image" is not a shirt
_NEVER_DELETED = frozenset({"left", "right"})
_NEGATION = re.compile(r"\b(?:no|not|without|none|never|neither|nor|cannot)\b|n['\u2019]t\b", re.IGNORECASE)
_MARK = re.compile(r"[.,;:!?](?!\d)")
_WORD = re.compile(r"\S+")
_CORE = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")


def approximate(
    caption: str,
    sentences: Sequence[Mapping],
    rng: np.random.Generator,
    rate: float = RATE,
    method: str | None = None,
) -> tuple[str, list[dict], list[int]]:
    """Changes a caption by one of `METHODS`.

    `synonyms` replaces each known word and `deletion` drops each word with probability `rate`. `crop` keeps a
    contiguous part with a fraction `1 - rate` of the words, or a few more to keep a negation whole. At least one word
    is always kept.

    Args:
        caption: any text.
        sentences: `{text, start, end}` in ascending order, with `caption[start:end] == text`. Empty for a short
            caption.
        rng: random generator.
        rate: in [0, 1]. Default: 0.2.
        method: one of `METHODS`. None: chosen at random.

    Returns:
        The new caption; its sentences with their offsets, without those that lost all words; and the index of each of
        them in `sentences`.

    Raises:
        ValueError: an unknown method, a rate outside [0, 1], or a sentence whose offsets do not match its text.
    """
    if method not in (None, *METHODS):
        raise ValueError(f"approximate: method must be one of {', '.join(METHODS)}, not {method!r}")
    if not 0 <= rate <= 1:
        raise ValueError(f"approximate: rate must lie in [0, 1], not {rate}")
    for n, sentence in enumerate(sentences):
        if caption[sentence["start"] : sentence["end"]] != sentence["text"]:
            raise ValueError(f"approximate: sentences[{n}] is not caption[{sentence['start']}:{sentence['end']}]")
    chosen = METHODS[int(rng.integers(len(METHODS)))] if method is None else method
    spans = _word_spans(caption, {s[side] for s in sentences for side in ("start", "end")})
    if not spans:
        return caption, [dict(sentence) for sentence in sentences], list(range(len(sentences)))
    words = [caption[start:end] for start, end in spans]
    if chosen == "synonyms":
        new_words = [_synonym(word, rng) if rng.random() < rate else word for word in words]
    else:
        choose = _deletion_mask if chosen == "deletion" else _crop_mask
        keep = choose(words, _negations(caption, spans, sentences), rng, rate)
        if not keep.any():
            keep[int(rng.integers(len(words)))] = True
        new_words = [word if kept else "" for word, kept in zip(words, keep, strict=True)]
    return _reassemble(caption, spans, new_words, sentences)


def _deletion_mask(
    words: Sequence[str], negations: Sequence[tuple[int, int, int]], rng: np.random.Generator, rate: float
) -> np.ndarray:
    """Boolean `[words]`: the words that deletion keeps."""
    keep = rng.random(len(words)) >= rate
    keep |= [(core := _CORE.search(word)) is not None and core[0].lower() in _NEVER_DELETED for word in words]
    for first, last, _ in negations:
        keep[first : last + 1] = True
    return keep


def _crop_mask(
    words: Sequence[str], negations: Sequence[tuple[int, int, int]], rng: np.random.Generator, rate: float
) -> np.ndarray:
    """Boolean `[words]`: the words that a crop keeps."""
    length = max(1, round(len(words) * (1 - rate)))
    starts = [
        n for n in range(len(words) - length + 1) if not any(first < n <= end for first, _, end in negations)
    ]  # always holds 0
    start = starts[int(rng.integers(len(starts)))]
    stop = start + length
    stop = max([stop, *[last + 1 for first, last, _ in negations if first < stop <= last]])
    return (np.arange(len(words)) >= start) & (np.arange(len(words)) < stop)


def _reassemble(
    caption: str, spans: Sequence[tuple[int, int]], new_words: Sequence[str], sentences: Sequence[Mapping]
) -> tuple[str, list[dict], list[int]]:
    """Joins the new words (empty: dropped). The text between two words is kept before the second one."""
    pieces: list[str] = []
    new_spans: list[tuple[int, int] | None] = []
    length = 0
    for n, word in enumerate(new_words):
        if not word:
            new_spans.append(None)
            continue
        gap = caption[spans[n - 1][1] : spans[n][0]] if n and pieces else ""
        pieces += [gap, word]
        length += len(gap)
        new_spans.append((length, length + len(word)))
        length += len(word)
    result = "".join(pieces)
    new_sentences, origins = [], []
    for number, sentence in enumerate(sentences):
        inside = [
            new_span
            for new_span, (start, end) in zip(new_spans, spans, strict=True)
            if new_span is not None and start < sentence["end"] and end > sentence["start"]
        ]
        if inside:
            start, end = inside[0][0], inside[-1][1]
            new_sentences.append({"text": result[start:end], "start": start, "end": end})
            origins.append(number)
    return result, new_sentences, origins


def _negations(
    caption: str, spans: Sequence[tuple[int, int]], sentences: Sequence[Mapping]
) -> list[tuple[int, int, int]]:
    """For each negation: its word index, the last word before the next mark, and the last word of its sentence."""
    ends = [sentence["end"] for sentence in sentences] or [end for _, _, end in split_sentences(caption)]
    negations = []
    for number, (start, stop) in enumerate(spans):
        match = _NEGATION.search(caption, start, stop)
        if match is None:
            continue
        sentence_end = min((end for end in ends if end > match.start()), default=len(caption))
        mark = _MARK.search(caption, match.end(), sentence_end)
        clause_end = mark.start() if mark else sentence_end
        last_of_clause, last_of_sentence = (
            max(n for n, span in enumerate(spans) if span[0] < max(end, stop)) for end in (clause_end, sentence_end)
        )
        negations.append((number, last_of_clause, last_of_sentence))
    return negations


def _word_spans(caption: str, cuts: Set[int]) -> list[tuple[int, int]]:
    """Start and end of every word. A word across the end of a sentence ("jacket.He") is split in two."""
    spans: list[tuple[int, int]] = []
    for match in _WORD.finditer(caption):
        ends = [*sorted(cut for cut in cuts if match.start() < cut < match.end()), match.end()]
        spans += zip([match.start(), *ends[:-1]], ends, strict=True)
    return spans


def _synonym(word: str, rng: np.random.Generator) -> str:
    """A synonym with the word's punctuation and capital letter, or the word itself if none is known."""
    core = _CORE.search(word)
    options = SYNONYMS.get(core[0].lower(), ()) if core else ()
    if core is None or not options:
        return word
    synonym = options[int(rng.integers(len(options)))]
    if core[0][0].isupper():
        synonym = synonym[0].upper() + synonym[1:]
    return word[: core.start()] + synonym + word[core.end() :]


__all__ = ["METHODS", "RATE", "SYNONYMS", "approximate"]
