"""Clean the captions of a language model, and accept or reject each of them with a reason.

A captioner may refuse, leave parts of its template in the text, stop early, repeat itself, or call a green garment red.
Its caption is compared with the captions that people wrote for the same image, word by word and without grammar. A
caption is rejected only for a gender, garment or colour that cannot both be true.
"""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from modeling_rogle.sentences import split_sentences

MIN_WORDS = 25  # short human captions have 16 to 39 words, long ones 63 to 123
MIN_SENTENCES = 2

REASONS = (
    "empty",
    "refusal",
    "template residue",
    "not text",
    "too short",
    "repeats itself",
    "contradicts the gender",
    "contradicts a garment",
    "contradicts a colour",
)

_PLAIN = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "...", "\u00a0": " "})
_PREAMBLE = re.compile(
    r"""^(?:(?:sure|certainly|of\ course|okay|ok)\b[!,.]?\s*)?
    (?:(?:here\ is|here's|this\ is|below\ is)\ [^.:]{0,80}:|(?:[a-z]+\ )?(?:caption|description|answer)\s*:)\s*""",
    re.IGNORECASE | re.VERBOSE,
)
_MARKS = re.compile(r"(?m)^\s*(?:[-*•]|#{1,6}|\d+[.)])\s+|\*\*|__|`")
_REFUSAL = re.compile(
    r"""\b(?:sorry|apologi[sz]e|unable\ to|as\ an?\ (?:ai|language|artificial|assistant)
    |(?:i|we)\ (?:cannot|can't|can\ not|could\ not|couldn't|am\ not\ able|do\ not\ have|don't\ have|won't)
    |(?:cannot|can't|not\ possible\ to)\ (?:identify|describe|determine|see|provide|assist|help)
    |no\ image\ (?:is|was|has)|language\ model|not\ appropriate)\b""",
    re.IGNORECASE | re.VERBOSE,
)
_RESIDUE = re.compile(
    r"""[<>\[\]{}|\\]|\#\#|https?:|(?:^|\s)(?:user|assistant|system|human|question|answer|instruction|prompt|facts?)\s*:
    |\b(?:the|these|given|provided)\ (?:captions?|facts|instructions?|prompt)\b|\bdescription\]""",
    re.IGNORECASE | re.VERBOSE,
)
_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")


def clean_caption(text: str, complete: bool = True) -> str:
    """Extract the caption from a model's answer: without "Sure, here is ...:", quotes, list marks and line breaks.

    Args:
        text (`str`): the answer.
        complete (`bool`): whether the model ended its answer. Otherwise the unfinished last sentence is removed.
    """
    text = _MARKS.sub("", text.translate(_PLAIN).strip())
    text = " ".join(_PREAMBLE.sub("", text.strip(), count=1).split())
    if len(text) > 1 and text[0] == text[-1] == '"' and text.count('"') == 2:
        text = text[1:-1].strip()
    if not complete:
        sentences = split_sentences(text)
        if sentences and not text.rstrip("\"')").endswith((".", "!", "?", "。")):
            text = text[: sentences[-2][2]] if len(sentences) > 1 else ""
    return text


def reject_reason(
    caption: str, facts: str = "", min_words: int = MIN_WORDS, min_sentences: int = MIN_SENTENCES
) -> str | None:
    """Decide whether a caption must be rejected.

    Args:
        caption (`str`): the cleaned caption, in English.
        facts (`str`): the human captions of the same image; may be empty.
        min_words (`int`): smallest number of words.
        min_sentences (`int`): smallest number of sentences.

    Returns:
        `str`, *optional*: one of `REASONS`, or None if the caption is accepted.
    """
    if not any(character.isalnum() for character in caption):
        return "empty"
    if _REFUSAL.search(caption):
        return "refusal"
    if _RESIDUE.search(caption):
        return "template residue"
    sentences = [tuple(_WORD.findall(sentence.lower())) for sentence, _, _ in split_sentences(caption)]
    words = [word for sentence in sentences for word in sentence]
    if not _is_text(caption, words):
        return "not text"
    if len(words) < min_words or len(sentences) < min_sentences:
        return "too short"
    if _repeats(sentences):
        return "repeats itself"
    return contradiction(caption, facts) if facts.strip() else None


def _is_text(caption: str, words: list[str]) -> bool:
    letters = sum(character.isascii() and (character.isalpha() or character.isspace()) for character in caption)
    if letters < 0.85 * len(caption) or not words:
        return False
    mean = sum(map(len, words)) / len(words)
    with_vowel = sum(bool(re.search("[aeiouy]", word)) for word in words)
    return 2 <= mean <= 12 and max(map(len, words)) <= 30 and with_vowel >= 0.8 * len(words)


def _repeats(sentences: list[tuple[str, ...]]) -> bool:
    """Whether a caption repeats itself.

    A sentence must not occur twice. Within a sentence, three or more words must not be repeated with at most one word
    in between, and no word may occur four times in a row. Six words in a row must not occur three times.
    """
    if len(set(sentences)) < len(sentences):
        return True
    for words in sentences:
        if any(len(set(words[i : i + 4])) == 1 for i in range(len(words) - 3)):
            return True
        for length in range(3, min(20, len(words) // 2) + 1):
            for gap in (0, 1):
                run = 0
                for i in range(len(words) - length - gap):
                    run = run + 1 if words[i] == words[i + length + gap] else 0
                    if run >= length:
                        return True
    text = [word for sentence in sentences for word in sentence]
    phrases = Counter(tuple(text[i : i + 6]) for i in range(len(text) - 5))
    return max(phrases.values(), default=0) >= 3


# attributes of a person in a text -------------------------------------------------------------------------------------

_MALE = set("man men male boy boys guy gentleman he his him himself".split())
_FEMALE = set("woman women female girl girls lady ladies she her hers herself".split())

# A colour word -> the plain colours that it may mean.
_PLAIN_COLOURS = "black white grey blue red pink purple green brown beige yellow orange".split()
_COLOURS: dict[str, frozenset[str]] = {colour: frozenset({colour}) for colour in _PLAIN_COLOURS}
_COLOURS |= {
    word: frozenset(meant.split())
    for word, meant in {
        "gray": "grey", "silver": "grey white", "charcoal": "grey black", "navy": "blue black", "teal": "blue green",
        "turquoise": "blue green", "cyan": "blue green", "aqua": "blue green", "indigo": "blue purple",
        "maroon": "red brown purple", "burgundy": "red brown purple", "crimson": "red", "scarlet": "red",
        "magenta": "pink purple red", "fuchsia": "pink purple red", "rose": "pink red", "violet": "purple",
        "lavender": "purple pink", "lilac": "purple pink", "olive": "green brown", "khaki": "green brown beige",
        "lime": "green yellow", "mint": "green", "tan": "brown beige yellow", "cream": "beige white yellow",
        "ivory": "beige white", "gold": "yellow brown", "golden": "yellow brown", "mustard": "yellow brown",
        "blonde": "yellow brown beige", "blond": "yellow brown beige", "brunette": "brown",
        "ginger": "red orange brown", "auburn": "red brown", "peach": "orange pink beige", "coral": "orange pink red",
        "rust": "orange brown red",
        "bronze": "brown", "camel": "brown beige",
    }.items()
}  # fmt: skip
_ALL = frozenset(_PLAIN_COLOURS)
_DARK = _ALL - {"white", "yellow", "beige", "pink", "orange"}
_LIGHT = _ALL - {"black"}
# Words for several colours, or for an unknown one. They agree with every colour.
_ANY = set("multicolored multicoloured colorful colourful multi plaid checkered checked floral camouflage camo".split())
_ANY |= set("patterned tie-dye striped".split())
_TINTS = {"dark": _DARK, "deep": _DARK, "light": _LIGHT, "pale": _LIGHT, "bright": _LIGHT}

# slot -> kind -> nouns. The kinds of a slot exclude each other, except "", which agrees with every kind.
_GARMENTS: dict[str, dict[str, str]] = {
    "top": {"": "shirt tshirt top blouse polo tee sweater sweatshirt pullover jumper hoodie"},
    "outer": {"": "jacket coat overcoat raincoat blazer cardigan vest parka windbreaker"},
    "lower": {
        "long": "pants trousers jeans slacks leggings tights sweatpants khakis",
        "shorts": "shorts",
        "skirt": "skirt dress gown",
        "": "capris stockings suit",
    },
    "feet": {
        "open": "sandals sandal flops slippers slides",
        "boots": "boots boot",
        "closed": "sneakers sneaker trainers loafers",
        "": "shoes shoe heels flats footwear",
    },
    "bag": {"": "bag backpack rucksack purse handbag tote satchel briefcase suitcase luggage pack"},
    "headwear": {"": "hat cap beanie helmet"},
    "hair": {"": "hair haired ponytail bun"},
    "scarf": {"": "scarf"},
    "umbrella": {"": "umbrella"},
}
_SLOT_OF = {
    noun: (slot, kind) for slot, kinds in _GARMENTS.items() for kind, nouns in kinds.items() for noun in nouns.split()
}
# Words that may stand between a colour and its noun, or between a noun and the colour after it.
_BETWEEN = set(
    """and or , short long loose tight baggy fitted plain printed knit knitted denim leather cotton wool woolen
    jean cropped collared sleeved sleeve sleeveless button up down zip hooded crew neck necked v t tank
    athletic sports running tennis high top low heeled ankle knee length shoulder baseball bucket straw brimmed
    messenger cross body crossbody shopping plastic canvas small large big simple casual formal solid colored coloured
    colour color slightly very mostly straight curly wavy thick thin shiny faded washed wide slim skinny work cargo
    business winter puffy quilted mid flip hand back puffer flat""".split()
)
_DETAILS = set("collar sleeve sleeves pocket pockets strap straps lace laces sole soles hem cuff cuffs".split())
_IS = set("is are was were looks appears in of also a an which that has have quite mostly".split())
_NEGATIONS = set("no without not any never".split())
_TOKEN = re.compile(r"[a-z]+|[,.;:!?]")


@dataclass
class ParsedAttributes:
    """The attributes of a person that a text names.

    Args:
        gender (`tuple[int, int]`): numbers of male and female words.
        first_gender (`str`): `male` or `female`, of the first such word; empty without one.
        kinds (`dict[str, set[str]]`): slot -> kinds of garments.
        colours (`dict[str, frozenset[str]]`): slot -> plain colours that its words may mean.
    """

    gender: tuple[int, int] = (0, 0)
    first_gender: str = ""
    kinds: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    colours: dict[str, frozenset[str]] = field(default_factory=lambda: defaultdict(frozenset))


def read_attributes(text: str) -> ParsedAttributes:
    """The gender, garments and colours that a text names. Negated garments ("no hat") are left out."""
    words = _TOKEN.findall(text.lower())
    attributes = ParsedAttributes()
    genders = ["male" if word in _MALE else "female" for word in words if word in _MALE or word in _FEMALE]
    attributes.gender = genders.count("male"), genders.count("female")
    attributes.first_gender = genders[0] if genders else ""
    for i, word in enumerate(words):
        if word not in _SLOT_OF or (i + 1 < len(words) and words[i + 1] in _SLOT_OF.keys() | _DETAILS):
            continue  # "dress" in "dress shoes", "shirt" in "a blue shirt collar"
        slot, kind = _SLOT_OF[word]
        colours, is_negated = _colours_before(words, i)
        if is_negated:
            continue
        attributes.kinds[slot].add(kind)
        if colours := colours or _colours_after(words, i):
            attributes.colours[slot] |= colours
    return attributes


def _colours_before(words: list[str], noun: int) -> tuple[frozenset[str], bool]:
    """The colours before a noun, and whether the noun is negated."""
    colours: frozenset[str] = frozenset()
    colour_follows = False  # whether the word to the right is a colour
    i = noun - 1
    while i >= 0 and noun - i <= 9:
        word = words[i]
        if word in _COLOURS:
            colours, colour_follows = colours | _COLOURS[word], True
        elif word in _TINTS:
            # "dark blue" may look black, and "light grey" white; without a colour, any dark or light one fits
            colours |= _tint(word, colour_follows)
            colour_follows = False
        elif word in _ANY:
            colours, colour_follows = _ALL, False
        elif word in _BETWEEN or (word in _SLOT_OF and words[i + 1] in _SLOT_OF):
            colour_follows = False
        else:
            break
        i -= 1
    return colours, i >= 0 and words[i] in _NEGATIONS


def _colours_after(words: list[str], noun: int) -> frozenset[str]:
    """The colours after a noun, as in "a shirt in dark blue and grey". One of `_IS` must follow the noun."""
    i = noun + 1
    if i >= len(words) or words[i] not in _IS:
        return frozenset()
    colours: frozenset[str] = frozenset()
    while i < len(words) and i - noun <= 8:
        word = words[i]
        if word in _SLOT_OF:
            return frozenset()  # the colours belong to the next garment
        if word in _COLOURS:
            colours |= _COLOURS[word]
        elif word in _TINTS:
            colours |= _tint(word, i + 1 < len(words) and words[i + 1] in _COLOURS)
        elif word in _ANY:
            colours = _ALL
        elif word not in _BETWEEN and word not in _IS:
            break
        i += 1
    return colours


def _tint(word: str, has_colour: bool) -> frozenset[str]:
    if not has_colour:
        return _TINTS[word]
    return frozenset({"black"}) if _TINTS[word] is _DARK else frozenset({"white", "beige"})


def contradiction(caption: str, facts: str) -> str | None:
    """Decide whether two texts cannot describe the same person.

    Only attributes that both texts name are compared. If `facts` names several colours of one slot, one of them is
    enough.

    Args:
        caption (`str`): the caption of a model.
        facts (`str`): the human captions of the same image.

    Returns:
        `str`, *optional*: one of `REASONS`, or None if the texts agree.
    """
    new, human = read_attributes(caption), read_attributes(facts)
    men, women = human.gender
    if bool(men) != bool(women) and new.first_gender:
        sex = "male" if men else "female"
        same, other = new.gender if men else new.gender[::-1]
        if new.first_gender != sex or other > same:
            return "contradicts the gender"
    for slot in human.kinds.keys() & new.kinds.keys():
        human_kinds, new_kinds = human.kinds[slot], new.kinds[slot]
        if "" not in human_kinds and "" not in new_kinds and not human_kinds & new_kinds:
            return "contradicts a garment"
    pairs = [(slot, slot) for slot in human.colours if slot in new.colours]
    uppers = [[slot for slot in ("top", "outer") if slot in text.kinds] for text in (human, new)]
    if len(uppers[0]) == len(uppers[1]) == 1:  # the same garment may be called a jacket or a shirt
        pairs.append((uppers[0][0], uppers[1][0]))
    for human_slot, new_slot in pairs:
        human_colours, new_colours = human.colours.get(human_slot), new.colours.get(new_slot)
        if human_colours and new_colours and not human_colours & new_colours:
            return "contradicts a colour"
    return None


__all__ = ["REASONS", "clean_caption", "contradiction", "read_attributes", "reject_reason"]
