"""What a sentence names: its noun phrases, for detectors that take text.

Cut by function words, not parsed: a phrase too many costs a detector's time, a phrase missed costs a region. Words are
those of any description of a person, not of the synthetic generator.
"""

import re

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|[^\w\s]")
# Words that no noun phrase holds: they end one and open the next.
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
# Alone, these name nothing that has a place: "her hair is long", "the shoes are black", "in the image".
_NO_NOUNS = set(
    """black white red blue green yellow brown grey gray pink purple orange beige tan khaki navy cream maroon teal gold
    golden silver violet turquoise olive burgundy dark light bright pale colored coloured multicolored long short loose
    tight baggy plain striped plaid checkered patterned floral printed sleeveless thin thick heavy slim slender curly
    straight wavy blonde blond big large small tall young old elderly left right front back side upper lower middle
    top bottom first second open closed casual simple slightly away forward backward ahead straight-ahead
    image image photo camera frame view background foreground way front-view""".split()
)
# Who is described: the whole image, a candidate anyway.
_PERSONS = set(
    """man woman men women person pedestrian people boy girl lady gentleman guy male female individual someone somebody
    human adult teenager youth subject figure""".split()
)
_MOST_WORDS = 6


def noun_phrases(sentence: str) -> list[str]:
    """The things that an English sentence names, each once, in lower case, without article: `["loose grey cardigan"]`.

    Persons themselves, lone adjectives and words of the view ("side", "image") are left out. A sentence that names
    nothing gives an empty list; of a long run of words the last six are kept, where the noun is.
    """
    phrases: list[str] = []
    run: list[str] = []
    for word in [*(match.group().lower() for match in _WORD.finditer(sentence)), "."]:
        if (word[0].isalpha() and word not in _BREAKS) or (word == "," and run and run[-1] in _NO_NOUNS):
            if word != ",":  # "a long, grey coat" is one thing
                run.append(word)
            continue
        phrase = _phrase(run)
        if phrase and phrase not in phrases:
            phrases.append(phrase)
        run = []
    return phrases


def _phrase(run: list[str]) -> str | None:
    while run and (run[-1].endswith(("ly", "ed")) or _is_doing(run[-1])):  # what comes after the noun
        run = run[:-1]
    while len(run) > 1 and _is_doing(run[0]) and run[1] in _NO_NOUNS:  # "displaying white letters"
        run = run[1:]
    if not run or run[-1] in _PERSONS or all(word in _NO_NOUNS for word in run):
        return None
    return " ".join(run[-_MOST_WORDS:])


def _is_doing(word: str) -> bool:
    """A verb's -ing; of nouns, those of clothes and prints end so too."""
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
