"""What a CLIP model does not understand in a query: "no", "without" and their like, and scripts it never read.

CLIP encodes "no hat" close to "hat" ("Learn 'No' to Say 'Yes' Better", arXiv 2403.20312; NegBench, arXiv 2501.09425),
so a search says so rather than rank by what was to be absent. Found by words, not by grammar: a false alarm costs a
line, a silent miss costs the search.
"""

import re

_AUXILIARY = "is|are|was|were|do|does|did|has|have|had|can|could|would|should|must|ca|wo"
_CUE = re.compile(
    rf"""\b(?:without|not|no|never|neither|nor|none|nothing|cannot|lack(?:s|ed|ing)?|minus|except(?:\s+for)?
    |absence\s+of|instead\s+of|rather\s+than|free\s+of|(?:{_AUXILIARY})n['’]?t)\b""",
    re.IGNORECASE | re.VERBOSE,
)
# What does not deny: "No. 23" on a shirt, "not only red", "no doubt".
_NO_DENIAL = re.compile(r"(?:\.?\s*\d|\s+(?:only|just|least|doubt)\b)", re.IGNORECASE)
_WORD = re.compile(r"\s+([\w'’-]+)")
_CLAUSE_ENDS = set("and or but with who which that while in on at he she they his her their its is are".split())
_CLAUSE_ENDS |= set("nor without no not".split())
_SMALL = set("a an any the his her their of for with other visible has have hold holding".split())
_SMALL |= set("wear wearing carry carrying".split())
_MOST_WORDS = 2  # after the small ones: "without a black backpack"

TOKENS_A_CHARACTER = 0.6  # English has about 0.25; letters that stand alone have 1 or more
_FEWEST_CHARACTERS = 8


def negated_words(query: str) -> list[str]:
    """The parts of a query that say what is absent, each as it is written: `["without a hat", "isn't wearing gloves"]`.

    A part is a word of negation and what follows it, to the end of the clause or the second word that carries meaning.
    """
    found: list[str] = []
    end = 0
    for cue in _CUE.finditer(query):
        if cue.start() < end or _NO_DENIAL.match(query, cue.end()):
            continue
        end, meaning = cue.end(), 0
        while meaning < _MOST_WORDS and (word := _WORD.match(query, end)):
            text = word[1].lower()
            if text in _CLAUSE_ENDS and not (text in _SMALL and not meaning):
                break
            end = word.end()
            meaning += text not in _SMALL
        found.append(" ".join(query[cue.start() : end].split()))
    return found


def negation_warning(words: list[str]) -> str:
    """The line that warns of [`negated_words`]."""
    named = ", ".join(f'"{" ".join(item.split())}"' for item in words)
    return f"query: {named}: the model does not understand negation and looks for what is named; say what is there"


def unread_script(query: str, token_count: int) -> str | None:
    """A line for a query in a language or script that the tokenizer was not trained on, or None.

    Args:
        query: the text.
        token_count: its tokens, without start and end, before anything is cut. Words that the tokenizer knows are one
            or two tokens; others fall apart into single letters or bytes, which mean nothing to the model.
    """
    characters = len("".join(query.split()))
    if characters < _FEWEST_CHARACTERS or token_count < TOKENS_A_CHARACTER * characters:
        return None
    return (
        f"query: {token_count} tokens for {characters} characters: the tokenizer was not trained on these words, "
        "so the results mean little; describe the person in the language of the model's captions"
    )


__all__ = ["negated_words", "negation_warning", "unread_script"]
