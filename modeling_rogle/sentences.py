"""Normalises the characters of captions and queries, and splits them into sentences and clauses with offsets.

Captions of the public data sets lack spaces after sentences ("a grey jacket.He is walking") and start in lower case.
They contain decimals, abbreviations, stray newlines and sometimes CJK full stops. Splitting at every "." or only at
". " fails on them. Half of the short captions are one sentence that names several parts of a person. There a clause
can be paired with one region: "A man wearing a red shirt | black pants | and carrying a bag".
"""

import html
import re
import unicodedata

# Texts that `normalize_text` does not change, which are most.
_SOUND = re.compile(r"[\n\t -%'-~]*")
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_LONG_NUMBER = re.compile(r"&#[xX]?[0-9a-fA-F]{8,};?")  # no character; Python refuses to convert very long numbers
# Terminal escapes, control and format characters, and what stands for a missing character. No model reads them.
_UNREADABLE = re.compile(
    r"\x1b\[[\d;]*[a-zA-Z]|[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffd\U000e0000-\U000e007f\ud800-\udfff]"
)
_LINE_BREAK = re.compile(r"\r\n|[\r\x85\u2028\u2029]")
_BLANK = re.compile(r"[^\S\n\t ]")
# Ligatures, digraphs and full-width forms, which Unicode (NFKC) resolves to the letters of a vocabulary.
_COMPATIBLE = re.compile("[\u0132\u0133\u0149\u01c4-\u01cc\u01f1-\u01f3\u3000\ufb00-\ufb06\uff01-\uffef]")
_QUOTES = str.maketrans(dict.fromkeys("\u02bc\u2018\u2019\u201a\u201b", "'") | dict.fromkeys("“”„\u201f", '"'))

# Terminators, with the quotes or brackets that close directly after them.
_STOP = re.compile(r"[.!?…。．｡！？]+[\"'”’)\]》」』]*")
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n\s*")
_WORD_BEFORE = re.compile(r"[^\W_]+(?:\.[^\W_]+)*$")
_WORD_AFTER = re.compile(r"\s*([^\W\d_]+)")
_ACRONYM = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]")  # e.g, U.S, a.m

_CJK = set("。．｡！？")
# Abbreviations that never end a sentence.
_NEVER_LAST = {"mr", "mrs", "ms", "dr", "prof", "st", "vs", "e.g", "eg", "i.e", "cf", "ca", "approx", "fig", "incl"}
# Abbreviations that may end a sentence: they do if the next word opens one.
_MAY_BE_LAST = {"etc", "jr", "sr", "ft", "al", "inc", "co"}
# Words that open a sentence of a description.
_OPENERS = {"he", "she", "they", "it", "his", "her", "their", "its", "the", "a", "an", "this", "that", "these", "there"}
_OPENERS |= {"one", "in", "on", "with", "both", "behind", "under", "over", "around", "man", "woman"}

# Nouns and the part of a person that they name. Clauses are split between different parts.
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
PART_OF = {noun: part for part, nouns in _PART_NOUNS.items() for noun in nouns.split()}
_ADJECTIVES = set(
    """black white red blue green yellow brown grey gray pink purple orange beige tan khaki navy cream maroon teal gold
    golden silver violet turquoise olive burgundy dark light bright pale colored coloured multicolored long short loose
    tight baggy plain striped plaid checkered patterned floral printed sleeved sleeveless thin thick heavy slim curly
    straight wavy blonde blond big large small tall young old denim leather knit knitted""".split()
)
# A clause begins with one of these, in this order of preference: a verb of wearing or carrying, a comma or "and",
# a preposition.
_VERBS = set("wearing wears carrying carries holding holds dressed having has sporting pushing pulling riding".split())
_JOINTS = set(", ; and but plus".split())
_PREPOSITIONS = set("with in over under on while along paired atop beneath".split())
_BEFORE_VERB = set(", ; and but while who that is are was also then he she they both".split())
_TOKEN = re.compile(r"[^\W\d_]+|[,;]")

MAX_NESTED_ENTITIES = 8  # "&amp;amp;" holds two
MAX_QUERY_SENTENCES = 64  # descriptions have a few; each clause costs a cosine with every candidate region


def normalize_text(text: str) -> str:
    """Cleans the characters of a caption or query, as CLIP does before its tokenizer (ftfy and HTML entities).

    HTML entities become characters. Curly quotes, ligatures and full-width forms become plain letters, Unicode is
    composed (NFC), and line breaks and blanks become newlines and spaces. Control characters, terminal escapes, the
    byte order mark and bytes that are not text are removed. Beyond CLIP, characters of no width and soft hyphens are
    removed. Wrongly decoded text ("donâ€™t") is not repaired. Words, case and white space stay.

    Args:
        text: any string, also one that cannot be encoded in UTF-8.

    Returns:
        The text, which can be encoded in UTF-8. Plain text in ASCII is returned unchanged, as is the result of this
        function.
    """
    if _SOUND.fullmatch(text):
        return text
    text = _PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)
    for _ in range(MAX_NESTED_ENTITIES):
        before, text = text, _COMPATIBLE.sub(lambda letter: unicodedata.normalize("NFKC", letter[0]), text)
        text = html.unescape(_LONG_NUMBER.sub("", _UNREADABLE.sub("", text)))
        if text == before:
            break
    text = _UNREADABLE.sub("", _BLANK.sub(" ", _LINE_BREAK.sub("\n", text)))
    return unicodedata.normalize("NFC", text.translate(_QUOTES))


def bytes_without_text(text: str) -> int:
    """Number of bytes and halves of characters in a string that are not text; [`normalize_text`] removes them."""
    return sum("\ud800" <= character <= "\udfff" for character in _PAIR.sub("", text))


def split_sentences(text: str, clauses: bool = False) -> list[tuple[str, int, int]]:
    """Splits a text into sentences.

    A blank line always ends a sentence.

    Args:
        text: a caption.
        clauses: return the clauses of a text that is one sentence only, see [`split_clauses`]; False by default.

    Returns:
        The sentences in order, each as `(sentence, start, end)` with `text[start:end] == sentence`. Offsets count
        characters (code points). Sentences are stripped, not empty, and do not overlap; between them are only white
        space and punctuation. Blank text gives an empty list.
    """
    sentences = _sentences(text)
    if clauses and len(sentences) == 1:
        sentence, offset, _ = sentences[0]
        return [(part, offset + start, offset + end) for part, start, end in split_clauses(sentence)]
    return sentences


def query_sentences(text: str, limit: int = MAX_QUERY_SENTENCES) -> tuple[list[tuple[str, int, int]], int]:
    """The parts of a search query that are scored apart: its sentences, each split into its clauses.

    A sentence is compared with one region of an image. One about several parts of a person ("a red shirt and black
    pants") fits none of their regions well, so each of its clauses is compared with a region of its own. A sentence
    that names fewer than two parts, or states a relation of two ("a jacket darker than the trousers"), stays whole.

    Args:
        text: a description of a person.
        limit: maximum number of clauses; 64 by default.

    Returns:
        The first `limit` clauses, each as [`split_sentences`] returns a sentence, and the number of clauses left out.
    """
    clauses = [
        (clause, offset + start, offset + end)
        for sentence, offset, _ in split_sentences(text)
        for clause, start, end in split_clauses(sentence)
    ]
    return clauses[:limit], max(len(clauses) - limit, 0)


def split_clauses(sentence: str) -> list[tuple[str, int, int]]:
    """Splits a sentence that names several parts of a person into clauses.

    A cut lies between two named parts (head, upper body, lower body, feet, bag, carried item), at a verb of wearing or
    carrying, a comma or "and", or a preposition. "and" stays with the clause that it opens, so that only white space
    and commas are dropped. A sentence that names fewer than two parts is its own only clause.

    Args:
        sentence: one sentence, with or without its full stop.

    Returns:
        The clauses in order, each as `(clause, start, end)`, as in [`split_sentences`].
    """
    matches = list(_TOKEN.finditer(sentence))
    words = [match.group().lower() for match in matches]
    cuts, previous = [0], None
    for i, part in _named_parts(words, matches, sentence):
        if previous is not None and part != previous[1] and (cut := _cut_between(words, previous[0], i)):
            start = matches[cut].start()
            if len(sentence[cuts[-1] : start].split()) > 1:
                cuts.append(start)
        previous = i, part
    if len(cuts) > 1 and len(sentence[cuts[-1] :].strip(" ,;").split()) < 2:
        cuts.pop()  # a single word does not describe a region
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


def _named_parts(words: list[str], matches: list[re.Match[str]], sentence: str) -> list[tuple[int, str]]:
    """Indices of the words that name a part, and that part. In a compound ("dress shoes") only the last noun counts."""
    named = []
    for i, word in enumerate(words):
        if word not in PART_OF:
            continue
        if i + 1 < len(words) and words[i + 1] in PART_OF:
            if sentence[matches[i].end() : matches[i + 1].start()].strip() in ("", "-"):
                continue
        named.append((i, PART_OF[word]))
    return named


def _cut_between(words: list[str], first: int, second: int) -> int | None:
    """Index of the word that opens the clause of the noun `second`, between the nouns `first` and `second`."""
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
    number: int | None = None  # start of a bare number ("1.") that belongs to the next sentence
    start = 0
    for end in [*_boundaries(text), len(text)]:
        piece = text[start:end]
        left = start + len(piece) - len(piece.lstrip())
        right = start + len(piece.rstrip())
        start = end
        if not any(character.isalnum() for character in piece):
            continue
        if number is not None:
            left, number = number, None
        if not any(character.isalpha() for character in text[left:right]):
            if end < len(text):
                number = left
                continue
        sentences.append((text[left:right], left, right))
    if number is not None:
        right = len(text.rstrip())
        sentences.append((text[number:right], number, right))
    return sentences


def _boundaries(text: str) -> list[int]:
    """Offsets of the ends of all sentences except the last, ascending."""
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
        return not next_word or next_word[0].isupper()  # "a ... jacket" continues
    if not (before.isalnum() or before.isspace() or before in "\"'”’)]%" or not before.isascii()):
        return after.isspace()
    last = _WORD_BEFORE.search(text, max(0, start - 40), start)
    last_word = last.group() if last else ""
    joined = bool(after) and not after.isspace()
    if last_word.lower() in _NEVER_LAST:
        return False
    if last_word.lower() == "no" and text[end : end + 8].lstrip()[:1].isdigit():
        return False  # No. 23
    if last_word.lower() in _MAY_BE_LAST or _ACRONYM.fullmatch(last_word):
        return bool(next_word) and next_word[0].isupper() and opens
    if len(last_word) == 1 and last_word.isupper() and last_word != "I":
        return opens or (not joined and not next_word)  # an initial, unless a sentence starts after it
    if not joined:
        return True
    if after.isdigit():
        return False  # ".5", "v2.1"
    # No space: "jacket.He", "jeans.the man"; not "adidas.com".
    return after.isupper() or after in "\"'“‘(" or opens or not after.isascii()
