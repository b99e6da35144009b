"""Warnings about what a CLIP model does not understand in a query: negation, and scripts it was not trained on.

CLIP encodes "no hat" close to "hat" ("Learn 'No' to Say 'Yes' Better", arXiv 2403.20312; NegBench, arXiv 2501.09425).
Negation is found by words, not by grammar: a false warning costs one line, a missed one costs the search.
"""

import re

_AUXILIARY = "is|are|was|were|do|does|did|has|have|had|can|could|would|should|must|ca|wo"
_CUE = re.compile(
    rf"""\b(?:without|not|no|never|neither|nor|none|nothing|cannot|lack(?:s|ed|ing)?|minus|except(?:\s+for)?
    |absence\s+of|instead\s+of|rather\s+than|free\s+of|(?:{_AUXILIARY})n['’]?t)\b""",
    re.IGNORECASE | re.VERBOSE,
)
# No negation: "No. 23" on a shirt, "not only red", "no doubt".
_NO_NEGATION = re.compile(r"(?:\.?\s*\d|\s+(?:only|just|least|doubt)\b)", re.IGNORECASE)
_WORD = re.compile(r"\s+([\w'’-]+)")
_CLAUSE_ENDS = set("and or but with who which that while in on at he she they his her their its is are".split())
_CLAUSE_ENDS |= set("nor without no not".split())
_FUNCTION_WORDS = set("a an any the his her their of for with other visible has have hold holding".split())
_FUNCTION_WORDS |= set("wear wearing carry carrying".split())
_MAX_CONTENT_WORDS = 2  # as in "without a black backpack"

TOKENS_PER_CHARACTER = 0.6  # English has about 0.25; letters that are tokens of their own have 1 or more
_MIN_CHARACTERS = 8


def negated_words(query: str) -> list[str]:
    """Finds the parts of a query that name what is absent.

    A part is a word of negation and the words after it, up to the end of the clause or the second content word.

    Returns:
        The parts as they are written: `["without a hat", "isn't wearing gloves"]`.
    """
    parts: list[str] = []
    end = 0
    for cue in _CUE.finditer(query):
        if cue.start() < end or _NO_NEGATION.match(query, cue.end()):
            continue
        end, content_words = cue.end(), 0
        while content_words < _MAX_CONTENT_WORDS and (word := _WORD.match(query, end)):
            text = word[1].lower()
            if text in _CLAUSE_ENDS and not (text in _FUNCTION_WORDS and not content_words):
                break
            end = word.end()
            content_words += text not in _FUNCTION_WORDS
        parts.append(" ".join(query[cue.start() : end].split()))
    return parts


def query_warnings(query: str, token_count: int) -> list[str]:
    """Warnings about a query, one line each.

    Args:
        query: the text.
        token_count: number of its tokens before truncation, without the start and end tokens. A word of the vocabulary
            has one or two tokens. Other words become single letters or bytes, which mean nothing to the model.
    """
    lines = []
    if negated := negated_words(query):
        quoted = ", ".join(f'"{part}"' for part in negated)
        lines.append(
            f"query: {quoted}: the model does not understand negation and searches for what is named; describe what is "
            "visible"
        )
    characters = len("".join(query.split()))
    if characters >= _MIN_CHARACTERS and token_count >= TOKENS_PER_CHARACTER * characters:
        lines.append(
            f"query: {token_count} tokens for {characters} characters: the tokenizer was not trained on these words, "
            "so the results mean little; describe the person in the language of the model's captions"
        )
    return lines


__all__ = ["negated_words", "query_warnings"]
