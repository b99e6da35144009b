"""Splitting a caption into sentences, with character offsets.

Captions of the public sets are glued ("a grey jacket.He is walking"), start in lower case, hold decimals,
abbreviations, stray newlines and, in places, CJK full stops; splitting at every "." or only at ". " breaks them.
"""

import re

# A run of terminators with the quotes or brackets that close right after it.
_STOP = re.compile(r"[.!?…。．｡！？]+[\"'”’)\]》」』]*")
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n\s*")
_WORD_BEFORE = re.compile(r"[^\W_]+(?:\.[^\W_]+)*$")
_WORD_AFTER = re.compile(r"\s*([^\W\d_]+)")
_ACRONYM = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]")  # e.g, U.S, a.m

_CJK = set("。．｡！？")
# Never the last word of a sentence.
_NEVER_LAST = {"mr", "mrs", "ms", "dr", "prof", "st", "vs", "e.g", "eg", "i.e", "cf", "ca", "approx", "fig", "incl"}
# May be the last word: a sentence ends here only if the next word opens one.
_MAY_BE_LAST = {"etc", "jr", "sr", "ft", "al", "inc", "co"}
# Words that open a sentence of a description.
_OPENERS = {"he", "she", "they", "it", "his", "her", "their", "its", "the", "a", "an", "this", "that", "these", "there"}
_OPENERS |= {"one", "in", "on", "with", "both", "behind", "under", "over", "around", "man", "woman"}


def split_sentences(text: str) -> list[tuple[str, int, int]]:
    """Sentences of `text` in order, each as `(sentence, start, end)` with `text[start:end] == sentence`.

    Offsets count characters (code points). Sentences are stripped, never empty and never overlap; what lies between
    them is white space or lone punctuation. Blank text gives an empty list. A blank line always ends a sentence.
    """
    sentences: list[tuple[str, int, int]] = []
    carried: int | None = None  # start of a bare number ("1.") that belongs to the sentence after it
    start = 0
    for end in [*_boundaries(text), len(text)]:
        piece = text[start:end]
        left = start + len(piece) - len(piece.lstrip())
        right = start + len(piece.rstrip())
        start = end
        if not any(character.isalnum() for character in piece):
            continue
        if carried is not None:
            left, carried = carried, None
        if not any(character.isalpha() for character in text[left:right]):
            if end < len(text):
                carried = left
                continue
        sentences.append((text[left:right], left, right))
    if carried is not None:
        right = len(text.rstrip())
        sentences.append((text[carried:right], carried, right))
    return sentences


def _boundaries(text: str) -> list[int]:
    """Offsets just behind every sentence but the last, ascending."""
    cuts = {match.start() for match in _BLANK_LINE.finditer(text)}
    cuts.update(match.end() for match in _STOP.finditer(text) if _ends_sentence(text, match))
    return sorted(cut for cut in cuts if 0 < cut < len(text))


def _ends_sentence(text: str, stop: re.Match[str]) -> bool:
    marks, start, end = stop.group(), stop.start(), stop.end()
    before, after = text[max(0, start - 1) : start], text[end : end + 1]
    if before.isdigit() and after.isdigit():
        return False  # 4.5, also with a full-width stop
    if any(mark in _CJK for mark in marks):
        return True
    word = _WORD_AFTER.match(text, end)
    next_word = word.group(1) if word else ""
    opens = next_word.lower() in _OPENERS
    if "!" in marks or "?" in marks:
        return after.isspace() or not after or after.isupper() or opens
    if marks.startswith(("..", "…")):
        return not next_word or next_word[0].isupper()  # "a ... jacket" goes on
    if not (before.isalnum() or before.isspace() or before in "\"'”’)]%" or not before.isascii()):
        return after.isspace()
    last = _WORD_BEFORE.search(text, max(0, start - 40), start)
    last_word = last.group() if last else ""
    glued = bool(after) and not after.isspace()
    if last_word.lower() in _NEVER_LAST:
        return False
    if last_word.lower() == "no" and text[end : end + 8].lstrip()[:1].isdigit():
        return False  # No. 23
    if last_word.lower() in _MAY_BE_LAST or _ACRONYM.fullmatch(last_word):
        return bool(next_word) and next_word[0].isupper() and opens
    if len(last_word) == 1 and last_word.isupper() and last_word != "I":
        return opens or (not glued and not next_word)  # an initial, unless a sentence plainly starts
    if not glued:
        return True
    if after.isdigit():
        return False  # ".5", "v2.1"
    # Glued: "jacket.He", "jeans.the man"; not "adidas.com".
    return after.isupper() or after in "\"'“‘(" or opens or not after.isascii()
