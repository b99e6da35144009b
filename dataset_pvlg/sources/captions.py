"""Captions of one synthetic picture: two short ones and a long one whose sentences know their region.

Only what the picture shows is said: a phrase exists only where every field it names is visible, a template is used
only where all its phrases exist, and a sentence about a region exists only where that region has a box.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dataset_pvlg.sources import caption_words as w
from dataset_pvlg.sources.identities import Identity
from dataset_pvlg.sources.render import View

PLURAL_LOWER = frozenset({"pants", "jeans", "shorts", "leggings"})
NEUTRAL_SHARE = 0.05  # short captions that say "person"
VERBOSE_SHARE = 0.03  # long captions over 248 CLIP tokens
SIDE_SHARE = 0.17  # of bag sentences that say left or right, so that about 8 % of captions do
MIN_WORDS, MAX_WORDS = (76, 104), 124  # 76 words are about 85 CLIP tokens, 124 about 155
VERBOSE_WORDS = 222  # surely over 248 CLIP tokens

_SLOT = re.compile(r"\{(\w+)\}")
_PRONOUN = re.compile(r"\{(he|his|him)\}")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiou])")
_VOICE = frozenset({"he", "his", "him", "noun"})
_FACETS = frozenset({"build", "gait", "place", "view", "seen", "backdrop"})


@dataclass(frozen=True)
class Captions:
    """What is said about one picture.

    short: two captions of one to four sentences. long: the long caption, `" ".join` of the sentence texts.
    sentences: (text, region label or None for the whole picture) in order. named: for each sentence the identity
    fields it names; short captions may be vaguer ("dark", "bag") and have no such list.
    """

    short: list[str]
    long: str
    sentences: list[tuple[str, str | None]]
    named: list[frozenset[str]]


def _keys(template: str) -> frozenset[str]:
    return frozenset(_SLOT.findall(template)) - _VOICE


_TEMPLATES = {label: [(t, _keys(t)) for t in templates] for label, templates in w.LONG.items()}
_VERBOSE = [(t, _keys(t)) for t in w.VERBOSE_WHOLE]


class _Speaker:
    """Turns fields that can be seen into phrases, and templates into sentences."""

    def __init__(self, identity: Identity, view: View, visible: frozenset[str], rng: np.random.Generator, short: bool):
        self.identity, self.view, self.visible, self.rng, self.short = identity, view, visible, rng, short
        self.types = {**w.TYPE_WORDS, **w.SHORT_TYPE_WORDS} if short else w.TYPE_WORDS
        self.colours: dict[str, str] = {}  # one spelling of a colour per caption
        neutral = not self.sees("gender") or (short and rng.random() < NEUTRAL_SHARE)
        self.gender = "" if neutral else identity.gender
        self.noun = self.pick(w.NOUNS[self.gender])
        self.he, self.his, self.him = {
            "man": ("he", "his", "him"),
            "woman": ("she", "her", "her"),
            "": (f"the {self.noun}", f"the {self.noun}'s", f"the {self.noun}"),
        }[self.gender]
        self.phrases: dict[str, tuple[Callable[[], str], frozenset[str]]] = {}
        self._clothes()
        self._head()
        self._things()
        self._scene()

    # ---- choosing
    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def pick(self, options: Sequence) -> str:
        """One of the options, by weight where they are (option, weight) pairs."""
        if isinstance(options[0], str):
            return options[int(self.rng.random() * len(options))]
        mark = self.rng.random() * sum(weight for _, weight in options)
        for option, weight in options:
            mark -= weight
            if mark < 0:
                return option
        return options[-1][0]

    def sees(self, *fields: str) -> bool:
        return all(f in self.visible and getattr(self.identity, f) not in ("", "none") for f in fields)

    def add(self, key: str, fields: Sequence[str], text: Callable[[], str]) -> None:
        if self.sees(*fields):
            self.phrases[key] = (text, frozenset(fields))

    # ---- words
    def colour(self, field: str, dark: float = 0.0) -> str:
        name = getattr(self.identity, field)
        table = w.HAIR_COLOUR_WORDS if field == "hair_colour" else w.COLOUR_WORDS
        if self.short and name in w.DARK_COLOURS and self.chance(dark):
            return self.pick(["dark", "dark colored"])
        if field not in self.colours:
            self.colours[field] = self.pick(table.get(name, [(name, 1.0)]))
        if self.short and field != "hair_colour" and self.chance(0.025):
            return f"{self.colours[field]} colored"
        return self.colours[field]

    def type(self, field: str) -> str:
        name = getattr(self.identity, field)
        return self.pick(self.types.get(name, [(name, 1.0)]))

    def thing(self, colour: str, kind: str, dark: float = 0.0) -> str:
        return f"{self.colour(colour, dark)} {self.type(kind)}"

    # ---- phrases
    def _upper(self, sleeve: float, pattern: float) -> str:
        i, words, tail = self.identity, [], ""
        if "sleeve" in self.visible and i.upper_type != "tank top" and self.chance(sleeve):
            words.append(w.SLEEVE_WORDS[i.sleeve])
        words.append(self.colour("upper_colour", dark=0.16))
        if self.sees("upper_pattern") and self.chance(pattern):
            if i.upper_pattern == "logo":
                tail = self.pick([" with a logo on the chest", " with a logo on the front", " with a printed logo"])
            else:  # "plain blue", but "blue striped" as often as "striped blue"
                at = len(words) - (i.upper_pattern == "plain" or self.chance(0.3))
                words.insert(at, self.pick(w.PATTERN_WORDS[i.upper_pattern]))
        return " ".join([*words, self.type("upper_type")]) + tail

    def _clothes(self) -> None:
        i = self.identity
        core = ("upper_type", "upper_colour")
        self.add("upper", core, lambda: self.thing("upper_colour", "upper_type", dark=0.16))
        self.add("a_upper", core, lambda: "a " + self.thing("upper_colour", "upper_type", dark=0.16))
        full = [*core, *(f for f in ("sleeve", "upper_pattern") if f in self.visible)]
        # a tank top is sleeveless by its name
        if self.sees(*core):
            self.phrases["a_upper_full"] = (lambda: "a " + self._upper(sleeve=1.0, pattern=1.0), frozenset(full))
        self.add("a_upper_short", core, lambda: "a " + self._upper(0.22, 0.06 if i.upper_pattern == "plain" else 0.7))
        self.add("upper_type", ["upper_type"], lambda: self.type("upper_type"))
        self.add("upper_colour", ["upper_colour"], lambda: self.colour("upper_colour"))
        self.add("pattern", ["upper_pattern"], lambda: self.pick(w.PATTERN_NOUNS[i.upper_pattern]))
        if "sleeve" in self.visible:
            self.phrases["sleeve_word"] = (lambda: w.SLEEVE_WORDS[i.sleeve], frozenset({"sleeve"}))
        if self.sees("sleeve"):
            self.add("sleeves", ["sleeve"], lambda: w.SLEEVE_NOUNS[i.sleeve])
            self.add("sleeve_is", ["sleeve"], lambda: i.sleeve)
        self.add("inner", ["inner_colour"], lambda: f"a {self.colour('inner_colour')} {self.pick(w.INNER)}")
        if i.upper_type == "dress":
            self.add("dress_colour", core, lambda: self.colour("upper_colour"))
        if self.sees("lower_type", "lower_colour"):
            plural = i.lower_type in PLURAL_LOWER
            fields = ("lower_type", "lower_colour")

            def lower(article: str = "") -> str:
                return article + self.thing("lower_colour", "lower_type", dark=0.2)

            self.add("lower", fields, lower)
            self.add("a_lower", fields, lambda: lower(self.pick(["", "", "a pair of "]) if plural else "a "))
            if i.lower_type in w.COVERS_LEGS:
                self.add("a_lower_cover", fields, lambda: lower(self.pick(["", "a pair of "])))
            self.add("lower_type", ["lower_type"], lambda: self.type("lower_type"))
            self.add("lower_colour", ["lower_colour"], lambda: self.colour("lower_colour"))
            self.add("lower_be", ["lower_type"], lambda: "are" if plural else "is")
            self.add("lower_they", ["lower_type"], lambda: "they" if plural else "it")
            self.add("lower_fit", ["lower_type"], lambda: self.pick(w.LOWER_FIT[i.lower_type]))
        fields = ("shoe_type", "shoe_colour")
        self.add("shoes", fields, lambda: self.thing("shoe_colour", "shoe_type", dark=0.1))
        self.add("a_pair_shoes", fields, lambda: "a pair of " + self.thing("shoe_colour", "shoe_type", dark=0.1))
        self.add("shoe_type", ["shoe_type"], lambda: self.type("shoe_type"))
        self.add("shoe_colour", ["shoe_colour"], lambda: self.colour("shoe_colour"))

    def _head(self) -> None:
        i = self.identity
        if i.hair_style == "bald":
            self.add("a_bald", ["hair_style"], lambda: self.pick(["a bald head", "a shaved head"]))
            self.add("bald_is", ["hair_style"], lambda: self.pick(["bald", "shaved"]))
        else:
            fields = ("hair_style", "hair_colour")

            def say(table: dict[str, list[str]]) -> str:
                return self.pick(table[i.hair_style]).format(c=self.colour("hair_colour"))

            self.add("hair", fields, lambda: say(w.HAIR_STYLE_WORDS))
            self.add("hair_is", fields, lambda: say(w.HAIR_IS_WORDS))
            if "hair_style" not in self.visible:
                self.add("hair_only", ["hair_colour"], lambda: f"{self.colour('hair_colour')} hair")
            adjective = self.pick(["{c}", "short {c}"]) if i.hair_style == "short" else "{c}"
            named = fields if adjective.startswith("short") else ["hair_colour"]
            self.add("hair_adj", named, lambda: adjective.format(c=self.colour("hair_colour")))
        fields = ("headwear", "headwear_colour")
        self.add("hat", fields, lambda: self.thing("headwear_colour", "headwear"))
        self.add("a_hat", fields, lambda: "a " + self.thing("headwear_colour", "headwear"))
        self.add("glasses", ["eyewear"], lambda: self.pick(["", "a pair of "]) + self.type("eyewear"))

    def _things(self) -> None:
        i = self.identity
        fields = ("bag_type", "bag_colour")
        self.add("bag", fields, lambda: self.thing("bag_colour", "bag_type"))
        self.add("a_bag", fields, lambda: "a " + self.thing("bag_colour", "bag_type"))
        self.add("bag_type", ["bag_type"], lambda: self.type("bag_type"))
        self.add("bag_colour", ["bag_colour"], lambda: self.colour("bag_colour"))
        if self.sees("bag_type"):
            side = self.sees("bag_side") and i.bag_type in w.BAG_PLACE_SIDE and self.chance(SIDE_SHARE)
            places = (w.BAG_PLACE_SIDE if side else w.BAG_PLACE)[i.bag_type]
            place = [p.format(his=self.his, side=i.bag_side) for p in places]
            self.add("bag_place", ["bag_type", "bag_side"] if side else ["bag_type"], lambda: self.pick(place))
        fields = ("carried", "carried_colour")
        self.add("a_carried", fields, lambda: "a " + self.thing("carried_colour", "carried"))
        self.add("carried_type", ["carried"], lambda: self.type("carried"))
        self.add("carried_colour", ["carried_colour"], lambda: self.colour("carried_colour"))

    def _scene(self) -> None:
        view = self.view
        walking = view.stride > w.WALKING_STRIDE
        gaits = w.WALKING if walking else w.STANDING
        heads = (w.TOWARD if walking else w.TURNED)[view.orientation]
        strolling, staying, backdrop = w.PLACES[view.background]
        place = strolling if walking else staying
        self.add("build", ["build"], lambda: self.pick(w.BUILD_WORDS[self.identity.build]))
        self.add("gait", (), lambda: self.pick(gaits))
        self.add("going", (), lambda: self.pick(gaits).removeprefix("is "))
        self.add("view", (), lambda: self.pick(heads).format(his=self.his))
        self.add("seen", (), lambda: self.pick(w.SEEN[view.orientation]))
        self.add("place", (), lambda: self.pick(place))
        self.add("backdrop", (), lambda: self.pick(backdrop))

    # ---- sentences
    def fill(self, template: str, by_noun: bool = False) -> str:
        """The template with its slots said, no final stop added; `by_noun` says "the man" for the first pronoun."""
        if by_noun and "{noun}" not in template:
            template = _PRONOUN.sub(lambda m: f"the {self.noun}" + ("'s" if m[1] == "his" else ""), template, count=1)

        def say(match: re.Match) -> str:
            key = match[1]
            return getattr(self, key) if key in _VOICE else self.phrases[key][0]()

        text = _ARTICLE.sub(r"\1n ", _SLOT.sub(say, template))
        return text[0].upper() + text[1:]

    def fields(self, keys: frozenset[str]) -> frozenset[str]:
        return frozenset().union(*(self.phrases[k][1] for k in keys))

    def usable(self, templates: list[tuple[str, frozenset[str]]]) -> list[tuple[str, frozenset[str]]]:
        return [(t, keys) for t, keys in templates if keys <= self.phrases.keys()]


@dataclass(frozen=True)
class _Line:
    template: str
    label: str | None
    fields: frozenset[str]


def _region_line(speaker: _Speaker, label: str, before: list[_Line]) -> _Line | None:
    """One more sentence about a region, preferring what has not been said of it; None when all has been said."""
    said = frozenset().union(*(line.fields for line in before))
    used = {line.template for line in before}
    weighted = []
    for template, keys in speaker.usable(_TEMPLATES[label]):
        if template in used or (not before and template in w.SECOND_ONLY):
            continue
        new = len(speaker.fields(keys) - said)
        if new:
            weighted.append(((template, keys), (0.3 + new) ** 3))
    if not weighted:
        return None
    template, keys = speaker.pick(weighted)
    return _Line(template, label, speaker.fields(keys))


def _whole_line(speaker: _Speaker, before: list[_Line]) -> _Line | None:
    told = frozenset().union(*(_keys(line.template) & _FACETS for line in before))
    options = [(t, k) for t, k in speaker.usable(_TEMPLATES["whole"]) if not (k & told) or not before]
    if not options:
        return None
    template, keys = speaker.pick([((t, k), 2.0 if "build" in k else 1.0) for t, k in options])
    return _Line(template, None, speaker.fields(keys))


def _long(speaker: _Speaker, labels: frozenset[str]) -> tuple[list[tuple[str, str | None]], list[frozenset[str]]]:
    regions = [label for label in _TEMPLATES if label in labels]
    groups: dict[str, list[_Line]] = {}
    for label in regions:
        line = _region_line(speaker, label, [])
        if line is not None:
            groups[label] = [line]
    verbose = speaker.chance(VERBOSE_SHARE)
    whole = [line for line in [_whole_line(speaker, [])] if line]
    if verbose or speaker.chance(0.45):
        whole += [line for line in [_whole_line(speaker, whole)] if line]

    def count() -> int:
        return len(whole) + sum(len(lines) for lines in groups.values())

    # What is still unsaid of a region gets a second sentence, the richest regions first.
    second = [label for label in ("upper body", "head", "lower body", "feet", "bag", "carried item") if label in groups]
    for label in second:
        if count() >= 9 and not verbose:
            break
        line = _region_line(speaker, label, groups[label])
        if line is not None:
            groups[label].append(line)
    order = list(groups)
    if speaker.chance(0.5):
        speaker.rng.shuffle(order)
    lines = [line for label in order for line in groups[label]]
    first = whole[:1] if speaker.chance(0.6) else []
    lines = [*first, *lines]
    for line in whole[len(first) :]:
        lines.insert(len(lines) if speaker.chance(0.6) else int(speaker.rng.integers(1, len(lines) + 1)), line)
    texts = [speaker.fill(line.template, by_noun=n == 0 or speaker.chance(0.22)) for n, line in enumerate(lines)]

    def words() -> int:
        return sum(len(text.split()) for text in texts)

    spare = [(t, k) for t, k in speaker.usable(_VERBOSE)]
    speaker.rng.shuffle(spare)
    goal, most = (VERBOSE_WORDS, 40) if verbose else (int(speaker.rng.integers(*MIN_WORDS)), 9)
    repeats = [label for label in groups] * 3
    while words() < goal and len(texts) < most and (spare or repeats):
        if repeats and (not verbose or not spare):  # the same fact in other words
            label = repeats.pop(int(speaker.rng.random() * len(repeats)))
            used = {line.template for line in lines}
            options = [o for o in speaker.usable(_TEMPLATES[label]) if o[0] not in used and o[0] not in w.SECOND_ONLY]
            if not options:
                continue
            template, keys = speaker.pick([(o, 1.0) for o in options])
            at = max(n for n, line in enumerate(lines) if line.label == label) + 1
            lines.insert(at, _Line(template, label, speaker.fields(keys)))
            texts.insert(at, speaker.fill(template))
        else:
            template, keys = spare.pop()
            lines.append(_Line(template, None, speaker.fields(keys)))
            texts.append(speaker.fill(template))
    while words() > MAX_WORDS and len(texts) > 6 and not verbose:
        scenes = [n for n, line in enumerate(lines) if line.label is None]
        seconds = [n for n in range(1, len(lines)) if lines[n].label and lines[n].label == lines[n - 1].label]
        drop = (scenes[1:] or seconds or [len(lines) - 1])[-1]
        lines.pop(drop)
        texts.pop(drop)
    gender = frozenset({"gender"}) if speaker.gender else frozenset()
    pairs = [(text, line.label) for text, line in zip(texts, lines, strict=True)]
    return pairs, [line.fields | gender for line in lines]


def _listed(items: list[str], speaker: _Speaker) -> str:
    if len(items) == 3:
        form = speaker.pick([("{}, {} and {}", 0.55), ("{} with {} and {}", 0.25), ("{}, {}, and {}", 0.2)])
        return form.format(*items)
    if len(items) == 2:
        return speaker.pick([("{} and {}", 0.75), ("{} with {}", 0.25)]).format(*items)
    return ", ".join(items[:-1]) + " and " + items[-1] if len(items) > 3 else items[0]


def _short_once(speaker: _Speaker, avoid: str) -> tuple[str, str]:
    """One short caption and the opener it used, with slots drawn at the rates of human captions."""
    have, chance = speaker.phrases.keys(), speaker.chance
    slots = {slot for slot, key, share in w.SHORT_RATES if key in have and chance(share)}
    wear = [
        f"{{{key}}}"
        for slot, key in (("upper", "a_upper_short"), ("lower", "a_lower"), ("shoes", "shoes"))
        if slot in slots
    ]
    if not wear:
        wear = [f"{{{key}}}" for key in ("a_upper_short", "a_lower", "shoes") if key in have][:2] or ["plain clothes"]
    if "upper" in slots and "inner" in have and chance(0.45):
        wear[0] += " over {inner}"
    openers = []
    for template, weight in w.SHORT_OPENERS:
        keys = _keys(template) - {"wear"}
        wants = {"hair": "hair", "hair_adj": "hair", "gait": "pose"}
        if template != avoid and keys <= have and all(wants[k] in slots for k in keys):
            openers.append((template, weight * (6.0 if keys else 1.0)))
    opener = speaker.pick(openers)
    slots -= {"hair"} if "hair" in opener else set()
    slots -= {"pose"} if "{gait}" in opener else set()
    sentences = 1 + int(np.searchsorted(w.SHORT_SENTENCES, speaker.rng.random()))
    own = [slot for slot in ("hair", "head", "bag", "carried", "pose") if slot in slots]
    speaker.rng.shuffle(own)
    tails: list[str] = []
    if sentences > 1 and len(wear) > 1 and (len(own) < sentences - 1 or chance(0.35)):
        keep = 1 if len(wear) == 2 or chance(0.7) else 2
        lowers = _listed(wear[keep:], speaker)
        wear = wear[:keep]
        tails.append(speaker.pick(w.SHORT_LOWER).replace("{lowers}", lowers))
    apart = own[: max(0, sentences - 1 - len(tails))]
    clauses: list[str] = []
    for slot in w.SHORT_ORDER:
        if slot not in own:
            continue
        if slot in apart:
            tails.append(speaker.pick([t for t in w.SHORT_TAILS[slot] if _keys(t) <= have]))
        elif slot == "head":
            wear.append("{glasses}" if "glasses" in have and ("a_hat" not in have or chance(0.5)) else "{a_hat}")
        else:
            clauses.append(speaker.pick([t for t in w.SHORT_CLAUSES[slot] if _keys(t) <= have]))
    if clauses:
        joined = " and ".join(clauses) if len(clauses) < 3 else ", ".join(clauses[:-1]) + " and " + clauses[-1]
        opening = (
            opener.replace("{wear}", _listed(wear, speaker))
            + speaker.pick([", ", ", ", ", " if "having" in joined else " while "])
            + joined
        )
    else:
        opening = opener.replace("{wear}", _listed(wear, speaker))
    if chance(0.3):
        speaker.rng.shuffle(tails)
    return " ".join(speaker.fill(t) + "." for t in [opening, *tails]), opener


def _short(
    identity: Identity, view: View, visible: frozenset[str], rng: np.random.Generator, avoid: str
) -> tuple[str, str]:
    for _ in range(8):  # 16 to 39 words are the 5th and 95th percentile of human captions
        text, opener = _short_once(_Speaker(identity, view, visible, rng, short=True), avoid)
        if 16 <= len(text.split()) <= 39:
            break
    return text, opener


def write_captions(
    identity: Identity, view: View, visible: frozenset[str], labels: frozenset[str], rng: np.random.Generator
) -> Captions:
    """Two short captions and a long one for a picture of `identity` seen as `view`.

    visible: names of the Identity fields that the picture shows; labels: regions that have a box in it. Nothing else
    is named. The same arguments and generator state give the same captions.
    """
    first, opener = _short(identity, view, visible, rng, avoid="")
    second, _ = _short(identity, view, visible, rng, avoid=opener)
    sentences, named = _long(_Speaker(identity, view, visible, rng, short=False), labels)
    return Captions([first, second], " ".join(text for text, _ in sentences), sentences, named)
