"""Approximate text: a caption said with other words, fewer words, or in part, its sentences' places kept right.

After the text side of proximity data generation (arXiv 2311.09084): synonyms, deletion or a crop, at a rate of 0.2.
Synonyms there come from WordNet; here from a small table of the words that pedestrian captions are made of, so that a
colour or a garment never turns into another one. What is denied stays denied: deletion keeps all from a word that
denies to the next punctuation mark, and no crop begins behind such a word in its sentence or ends amid what it denies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set

import numpy as np

from modeling_rogle.sentences import split_sentences

WAYS = ("synonyms", "deletion", "crop")
RATE = 0.2

# Each stands for each other in any sentence, after "a" too. What is of several words is put in, never taken out.
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
del SYNONYMS["top"]  # the top of the image is no shirt
_KEPT = frozenset({"left", "right"})
_DENIAL = re.compile(r"\b(?:no|not|without|none|never|neither|nor|cannot)\b|n['\u2019]t\b", re.IGNORECASE)
_MARK = re.compile(r"[.,;:!?](?!\d)")
_WORD = re.compile(r"\S+")
_CORE = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")


def approximate(
    caption: str,
    sentences: Sequence[Mapping],
    rng: np.random.Generator,
    rate: float = RATE,
    way: str | None = None,
) -> tuple[str, list[dict], list[int]]:
    """The caption changed in one of `WAYS`: each known word replaced or each word dropped with probability `rate`, or a
    stretch of `1 - rate` of the words kept (or a few more, see above).

    Args:
        caption: any text.
        sentences: `{text, start, end}` with `caption[start:end] == text`, ascending; none for a short caption.
        rng: of the draws.
        rate: in [0, 1].
        way: one of `WAYS`; None draws it.

    Returns:
        The new caption, its sentences with their places, and which of the old ones each is: those of which no word is
        left are gone. One word of a caption always stays.

    Raises:
        ValueError: another way, a rate outside [0, 1], or sentences that are not where they say.
    """
    if way not in (None, *WAYS):
        raise ValueError(f"approximate: way must be one of {', '.join(WAYS)}, not {way!r}")
    if not 0 <= rate <= 1:
        raise ValueError(f"approximate: rate must lie in [0, 1], not {rate}")
    for n, sentence in enumerate(sentences):
        if caption[sentence["start"] : sentence["end"]] != sentence["text"]:
            raise ValueError(f"approximate: sentences[{n}] is not caption[{sentence['start']}:{sentence['end']}]")
    chosen = WAYS[int(rng.integers(len(WAYS)))] if way is None else way
    words = _words(caption, {s[side] for s in sentences for side in ("start", "end")})
    if not words:
        return caption, [dict(sentence) for sentence in sentences], list(range(len(sentences)))
    texts = [caption[start:end] for start, end in words]
    if chosen == "synonyms":
        new = [_other(text, rng) if rng.random() < rate else text for text in texts]
    else:
        if chosen == "deletion":
            keep = rng.random(len(words)) >= rate
            keep |= [(core := _CORE.search(text)) is not None and core[0].lower() in _KEPT for text in texts]
            for first, last, _ in _denied(caption, words, sentences):
                keep[first : last + 1] = True
        else:
            length = max(1, round(len(words) * (1 - rate)))
            denied = _denied(caption, words, sentences)
            starts = [n for n in range(len(words) - length + 1) if not any(at < n <= end for at, _, end in denied)]
            first = starts[int(rng.integers(len(starts)))]  # 0 is always among them
            stop = first + length
            stop = max([stop, *[last + 1 for at, last, _ in denied if at < stop <= last]])
            keep = (np.arange(len(words)) >= first) & (np.arange(len(words)) < stop)
        if not keep.any():
            keep[int(rng.integers(len(words)))] = True
        new = [text if kept else "" for text, kept in zip(texts, keep, strict=True)]

    # Put together again: what stood between two words stays before the second one, if both stay.
    pieces, at, places = [], 0, []
    for n, text in enumerate(new):
        gap = caption[words[n - 1][1] : words[n][0]] if n and pieces else ""
        if text:
            pieces += [gap, text]
            at += len(gap)
            places.append((at, at + len(text)))
            at += len(text)
        else:
            places.append(None)
    result = "".join(pieces)
    kept_sentences, origins = [], []
    for number, sentence in enumerate(sentences):
        inside = [
            place
            for place, (start, end) in zip(places, words, strict=True)
            if place is not None and start < sentence["end"] and end > sentence["start"]
        ]
        if inside:
            start, end = inside[0][0], inside[-1][1]
            kept_sentences.append({"text": result[start:end], "start": start, "end": end})
            origins.append(number)
    return result, kept_sentences, origins


def _denied(caption: str, words: Sequence[tuple[int, int]], sentences: Sequence[Mapping]) -> list[tuple[int, int, int]]:
    """Of each word that denies: its number, that of the last word before the next mark, of the last in its sentence."""
    ends = [sentence["end"] for sentence in sentences] or [end for _, _, end in split_sentences(caption)]
    found = []
    for number, (start, stop) in enumerate(words):
        match = _DENIAL.search(caption, start, stop)
        if match is None:
            continue
        end = min((end for end in ends if end > match.start()), default=len(caption))
        mark = _MARK.search(caption, match.end(), end)
        until = mark.start() if mark else end
        last, close = (max(n for n, word in enumerate(words) if word[0] < max(at, stop)) for at in (until, end))
        found.append((number, last, close))
    return found


def _words(caption: str, cuts: Set[int]) -> list[tuple[int, int]]:
    """Start and end of every word; one that runs over the end of a sentence ("jacket.He") is two."""
    found = []
    for match in _WORD.finditer(caption):
        ends = [*sorted(cut for cut in cuts if match.start() < cut < match.end()), match.end()]
        found += zip([match.start(), *ends[:-1]], ends, strict=True)
    return found


def _other(word: str, rng: np.random.Generator) -> str:
    """A synonym of a word, its punctuation and capital kept; the word itself where none is known."""
    core = _CORE.search(word)
    options = SYNONYMS.get(core[0].lower(), ()) if core else ()
    if not options:
        return word
    found = options[int(rng.integers(len(options)))]
    if core[0][0].isupper():
        found = found[0].upper() + found[1:]
    return word[: core.start()] + found + word[core.end() :]


__all__ = ["RATE", "SYNONYMS", "WAYS", "approximate"]
