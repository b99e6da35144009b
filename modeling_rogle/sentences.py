"""Splitting a caption into sentences, and a sentence into clauses, with character offsets.

Captions of the public sets are glued ("a grey jacket.He is walking"), start in lower case, hold decimals,
abbreviations, stray newlines and, in places, CJK full stops; splitting at every "." or only at ". " breaks them.
Half of the short captions are one sentence that names several parts of a person; what can be paired with one region
there is a clause: "A man wearing a red shirt | black pants | and carrying a bag".
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

# Nouns and the part of a person that they name: what tells one clause from the next.
_PART_NOUNS = {
    "head": """hair haired hairstyle head face beard mustache moustache goatee ponytail bun bangs glasses eyeglasses
        spectacles sunglasses hat hats cap beanie helmet hood headband bandana headphones earphones mask""",
    "upper body": """shirt tshirt tee top blouse polo sweater sweatshirt pullover jumper hoodie jacket coat overcoat
        raincoat blazer cardigan vest suit tie scarf dress gown uniform robe tank sleeves sleeve collar""",
    "lower body": """pants trousers jeans slacks shorts skirt leggings tights stockings capris khakis sweatpants belt
        overalls""",
    "feet": "shoes shoe sneakers sneaker trainers boots boot sandals heels flats slippers loafers flops footwear socks",
    "bag": """bag bags backpack rucksack pack purse handbag tote satchel briefcase suitcase luggage case knapsack
        schoolbag""",
    "carried item": """phone cellphone smartphone umbrella book books folder paper papers magazine newspaper bottle cup
        camera stroller bicycle bike scooter skateboard box tablet laptop""",
}
_PART_OF = {noun: part for part, nouns in _PART_NOUNS.items() for noun in nouns.split()}
_ADJECTIVES = set(
    """black white red blue green yellow brown grey gray pink purple orange beige tan khaki navy cream maroon teal gold
    golden silver violet turquoise olive burgundy dark light bright pale colored coloured multicolored long short loose
    tight baggy plain striped plaid checkered patterned floral printed sleeved sleeveless thin thick heavy slim curly
    straight wavy blonde blond big large small tall young old denim leather knit knitted""".split()
)
# A clause begins with one of these: a verb of wearing or carrying first, else a comma or "and", else a preposition.
_VERBS = set("wearing wears carrying carries holding holds dressed having has sporting pushing pulling riding".split())
_JOINTS = set(", ; and but plus".split())
_PREPOSITIONS = set("with in over under on while along paired atop beneath".split())
_BEFORE_VERB = set(", ; and but while who that is are was also then he she they both".split())
_TOKEN = re.compile(r"[^\W\d_]+|[,;]")

MAX_QUERY_SENTENCES = 64  # descriptions have a few; each sentence costs a cosine with every candidate region


def split_sentences(text: str, clauses: bool = False) -> list[tuple[str, int, int]]:
    """Sentences of `text` in order, each as `(sentence, start, end)` with `text[start:end] == sentence`.

    Offsets count characters (code points). Sentences are stripped, never empty and never overlap; what lies between
    them is white space or lone punctuation. Blank text gives an empty list. A blank line always ends a sentence.

    Args:
        text: a caption.
        clauses: where the text is one sentence alone, give its clauses instead; see [`split_clauses`].
    """
    sentences = _sentences(text)
    if clauses and len(sentences) == 1:
        sentence, offset, _ = sentences[0]
        return [(part, offset + start, offset + end) for part, start, end in split_clauses(sentence)]
    return sentences


def query_sentences(text: str, limit: int = MAX_QUERY_SENTENCES) -> tuple[list[tuple[str, int, int]], int]:
    """Sentences of a search query. A query of one sentence is split into its clauses.

    Args:
        text: a description of a person.
        limit: maximum number of sentences; 64 by default.

    Returns:
        The first `limit` sentences, each as [`split_sentences`] returns it, and the number of sentences left out.
    """
    sentences = split_sentences(text, clauses=True)
    return sentences[:limit], max(len(sentences) - limit, 0)


def split_clauses(sentence: str) -> list[tuple[str, int, int]]:
    """Clauses of one sentence that names several parts of a person, as [`split_sentences`] gives sentences.

    A cut is made only between two named parts (head, upper body, lower body, feet, bag, carried item), at a verb of
    wearing or carrying, a comma or "and", or a preposition. "and" stays with the clause that it opens, so that nothing
    is lost but blanks and commas. A sentence that names one part, or none that is known, is its own only clause.
    """
    matches = list(_TOKEN.finditer(sentence))
    words = [match.group().lower() for match in matches]
    cuts, before = [0], None
    for i, part in _parts(words, matches, sentence):
        if before is not None and part != before[1] and (cut := _cut_between(words, before[0], i)):
            start = matches[cut].start()
            if len(sentence[cuts[-1] : start].split()) > 1:
                cuts.append(start)
        before = i, part
    if len(cuts) > 1 and len(sentence[cuts[-1] :].strip(" ,;").split()) < 2:
        cuts.pop()  # a single word says too little of a region
    clauses = []
    for start, end in zip(cuts, [*cuts[1:], len(sentence)], strict=True):
        while start < end and _is_edge(sentence[start], len(cuts) > 1):
            start += 1
        while end > start and _is_edge(sentence[end - 1], len(cuts) > 1):
            end -= 1
        if start < end:
            clauses.append((sentence[start:end], start, end))
    return clauses


def _is_edge(character: str, commas: bool) -> bool:
    return character.isspace() or (commas and character in ",;")


def _parts(words: list[str], matches: list[re.Match[str]], sentence: str) -> list[tuple[int, str]]:
    """Words that name a part, with it. "dress" in "dress shoes" names none: the last noun of a compound does."""
    found = []
    for i, word in enumerate(words):
        if word not in _PART_OF:
            continue
        if i + 1 < len(words) and words[i + 1] in _PART_OF:
            if sentence[matches[i].end() : matches[i + 1].start()].strip() in ("", "-"):
                continue
        found.append((i, _PART_OF[word]))
    return found


def _cut_between(words: list[str], first: int, second: int) -> int | None:
    """The word that opens the clause of the noun `second`, after the noun `first`."""
    between = range(first + 1, second)
    if verbs := [i for i in between if words[i] in _VERBS]:
        cut = verbs[-1]
        while cut - 1 > first and words[cut - 1] in _BEFORE_VERB:
            cut -= 1
        return cut
    for i in reversed(between):
        if words[i] in _JOINTS and not (words[i - 1] in _ADJECTIVES and words[i + 1] in _ADJECTIVES):
            return i - 1 if words[i - 1] in _JOINTS and i - 1 > first else i  # ", and"
    return next((i for i in reversed(between) if words[i] in _PREPOSITIONS), None)


def _sentences(text: str) -> list[tuple[str, int, int]]:
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
