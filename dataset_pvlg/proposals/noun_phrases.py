"""Noun phrases of a sentence, the queries of an open-vocabulary detector.

Sentences are split at function words and not parsed: an extra phrase costs some time of the detector, a missing phrase
costs a region. The word lists cover descriptions of persons in general, not only those of the synthetic generator.
"""

import re

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|[^\w\s]")
# Words that separate noun phrases.
_BREAKS = set(
    """a an the this that these those his her their its my your our he she they it him them who whom whose which what
    and or but nor so as than then also too very quite rather slightly fairly mostly partly both each every all some
    any no not without
    in on at of to from by for with into onto over under above below beneath behind before after beside besides between
    around across along against through up down off out near about toward towards inside outside upon while when where
    is are was were be been being am do does did has have had having can could may might must will would should
    seems appears looks looking look seen see shows showing shown visible
    wearing wears wear worn dressed clad carrying carries carry carried holding holds hold held sporting using uses
    pushing pushes pulling pulls dragging riding rides walking walks walk standing stands stand facing faces turning
    sitting sits leaning leans moving goes going coming hangs hanging reaches reaching covers covering matches matching
    comes appears tied slung paired made featuring features fit fits fitting leave leaves bent bare next
    there here left-hand right-hand one two three other another same""".split()
)
# Words that name no region by themselves: "her hair is long", "the shoes are black", "in the photo".
_NO_NOUNS = set(
    """black white red blue green yellow brown grey gray pink purple orange beige tan khaki navy cream maroon teal gold
    golden silver violet turquoise olive burgundy dark light bright pale colored coloured multicolored long short loose
    tight baggy plain striped plaid checkered patterned floral printed sleeveless thin thick heavy slim slender curly
    straight wavy blonde blond big large small tall young old elderly left right front back side upper lower middle
    top bottom first second open closed casual simple slightly away forward backward ahead straight-ahead
    picture image photo camera frame view background foreground way front-view""".split()
)
# Words for the person, whose region is the whole image.
_PERSONS = set(
    """man woman men women person pedestrian people boy girl lady gentleman guy male female individual someone somebody
    human adult teenager youth subject figure""".split()
)
_MAX_WORDS = 6


def noun_phrases(sentence: str) -> list[str]:
    """The noun phrases of an English sentence.

    Args:
        sentence: any text.

    Returns:
        Each phrase once, in lower case and without article, such as `["loose grey cardigan"]`. Words for persons,
        adjectives without a noun and words of the view ("side", "background") are left out. A long phrase is cut to its
        last six words, which hold the noun.
    """
    phrases: list[str] = []
    run: list[str] = []
    for word in [*(match.group().lower() for match in _WORD.finditer(sentence)), "."]:
        if (word[0].isalpha() and word not in _BREAKS) or (word == "," and run and run[-1] in _NO_NOUNS):
            if word != ",":  # "a long, grey coat" is one phrase
                run.append(word)
            continue
        phrase = _phrase(run)
        if phrase and phrase not in phrases:
            phrases.append(phrase)
        run = []
    return phrases


def _phrase(run: list[str]) -> str | None:
    while run and (run[-1].endswith(("ly", "ed")) or _is_participle(run[-1])):  # words after the noun
        run = run[:-1]
    while len(run) > 1 and _is_participle(run[0]) and run[1] in _NO_NOUNS:  # "displaying white letters"
        run = run[1:]
    if not run or run[-1] in _PERSONS or all(word in _NO_NOUNS for word in run):
        return None
    return " ".join(run[-_MAX_WORDS:])


def _is_participle(word: str) -> bool:
    """Whether a word is a participle in -ing, and not one of the nouns in -ing."""
    return word.endswith("ing") and word not in {
        "clothing",
        "legging",
        "lettering",
        "earring",
        "ring",
        "string",
        "stocking",
    }


__all__ = ["noun_phrases"]
