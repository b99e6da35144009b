"""The writer of one caption: the phrases for what is visible in an image, and the filling of templates."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dataset_pvlg.synthetic_v1 import caption_words as w
from dataset_pvlg.synthetic_v1.identities import Identity
from dataset_pvlg.synthetic_v1.render import View

PLURAL_LOWER = frozenset({"pants", "jeans", "shorts", "leggings"})
NEUTRAL_SHARE = 0.05  # share of short captions with "person" instead of a gender
# Share of sentences about a bag with a visible side that name left or right; about 8 % of all captions do then.
SIDE_SHARE = 0.32

_SLOT = re.compile(r"\{(\w+)\}")
_PRONOUN = re.compile(r"\{(he|his|him)\}")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiou])")
_PRONOUN_SLOTS = frozenset({"he", "his", "him", "noun"})


def slot_keys(template: str) -> frozenset[str]:
    """The phrases that a template needs, without pronouns and the noun."""
    return frozenset(_SLOT.findall(template)) - _PRONOUN_SLOTS


class CaptionWriter:
    """Turns visible fields into phrases, and templates into sentences.

    Args:
        identity: the person.
        view: how the person is seen.
        visible: names of the visible fields of `identity`.
        rng: random generator of all choices.
        short: whether the caption is a short one, which has vaguer words.
        new_colours: colour field of `identity` -> the colour to name instead. Random choices still follow `identity`,
            so that two captions from the same generator state differ in these colours only. Default: none.

    Attributes:
        phrases: key of a phrase -> (a function that writes it, the fields that it names). A phrase that would need an
            invisible field is missing.
    """

    def __init__(
        self,
        identity: Identity,
        view: View,
        visible: frozenset[str],
        rng: np.random.Generator,
        short: bool,
        new_colours: Mapping[str, str] | None = None,
    ):
        self.new_colours = new_colours or {}
        self.identity, self.view, self.visible, self.rng, self.short = identity, view, visible, rng, short
        self.types = {**w.TYPE_WORDS, **w.SHORT_TYPE_WORDS} if short else w.TYPE_WORDS
        self.colours: dict[str, str] = {}  # one word for each colour field in a caption
        neutral = not self.shows("gender") or (short and rng.random() < NEUTRAL_SHARE)
        self.gender = "" if neutral else identity.gender
        self.noun = self.pick(w.NOUNS[self.gender])
        self.he, self.his, self.him = {
            "man": ("he", "his", "him"),
            "woman": ("she", "her", "her"),
            "": (f"the {self.noun}", f"the {self.noun}'s", f"the {self.noun}"),
        }[self.gender]
        self.phrases: dict[str, tuple[Callable[[], str], frozenset[str]]] = {}
        self._add_clothes()
        self._add_head()
        self._add_things()
        self._add_scene()

    # ---- random choices
    def chance(self, share: float) -> bool:
        """True with this probability."""
        return self.rng.random() < share

    def pick(self, options: Sequence) -> Any:
        """A random option; options are texts of equal weight, or (option, weight) pairs."""
        if isinstance(options[0], str):
            return options[int(self.rng.random() * len(options))]
        mark = self.rng.random() * sum(weight for _, weight in options)
        for option, weight in options:
            mark -= weight
            if mark < 0:
                return option
        return options[-1][0]

    def shows(self, *fields: str) -> bool:
        """Whether the person has all these things and they are visible."""
        return all(f in self.visible and getattr(self.identity, f) not in ("", "none") for f in fields)

    def add(self, key: str, fields: Sequence[str], text: Callable[[], str]) -> None:
        """Adds a phrase if all fields that it names are visible."""
        if self.shows(*fields):
            self.phrases[key] = (text, frozenset(fields))

    # ---- words
    def colour(self, field: str, dark: float = 0.0) -> str:
        """A word for the colour of a field; a dark colour becomes "dark" with probability `dark` in short captions."""
        word = self._own_colour(field, dark)
        if field in self.new_colours:
            return self.new_colours[field] + (" colored" if word.endswith(" colored") else "")
        return word

    def _own_colour(self, field: str, dark: float) -> str:
        name = getattr(self.identity, field)
        table = w.HAIR_COLOUR_WORDS if field == "hair_colour" else w.COLOUR_WORDS
        if self.short and name in w.DARK_COLOURS and self.chance(dark):
            return self.pick([("dark", 0.75), ("dark colored", 0.25)])
        if field not in self.colours:
            self.colours[field] = self.pick(table.get(name, [(name, 1.0)]))
        if self.short and field != "hair_colour" and self.chance(0.025):
            return f"{self.colours[field]} colored"
        return self.colours[field]

    def type(self, field: str) -> str:
        """A word for the type of a garment or thing."""
        name = getattr(self.identity, field)
        return self.pick(self.types.get(name, [(name, 1.0)]))

    def thing(self, colour: str, kind: str, dark: float = 0.0) -> str:
        """Colour and type of a garment or thing."""
        return f"{self.colour(colour, dark)} {self.type(kind)}"

    # ---- phrases
    def _upper(self, sleeve: float, pattern: float) -> str:
        i, words, tail = self.identity, [], ""
        if "sleeve" in self.visible and i.upper_type != "tank top" and self.chance(sleeve):
            words.append(w.SLEEVE_WORDS[i.sleeve])
        words.append(self.colour("upper_colour", dark=0.16))
        if self.shows("upper_pattern") and self.chance(pattern):
            if i.upper_pattern == "logo":
                tail = self.pick([" with a logo on the chest", " with a logo on the front", " with a printed logo"])
            else:  # always "plain blue", but "striped blue" or "blue striped"
                at = len(words) - (i.upper_pattern == "plain" or self.chance(0.3))
                words.insert(at, self.pick(w.PATTERN_WORDS[i.upper_pattern]))
        return " ".join([*words, self.type("upper_type")]) + tail

    def _add_clothes(self) -> None:
        i = self.identity
        core = ("upper_type", "upper_colour")
        self.add("upper", core, lambda: self.thing("upper_colour", "upper_type", dark=0.16))
        self.add("a_upper", core, lambda: "a " + self.thing("upper_colour", "upper_type", dark=0.16))
        full = [*core, *(f for f in ("sleeve", "upper_pattern") if f in self.visible)]
        if self.shows(*core):
            self.phrases["a_upper_full"] = (lambda: "a " + self._upper(sleeve=1.0, pattern=1.0), frozenset(full))
        self.add("a_upper_short", core, lambda: "a " + self._upper(0.22, 0.06 if i.upper_pattern == "plain" else 0.7))
        self.add("upper_type", ["upper_type"], lambda: self.type("upper_type"))
        self.add("upper_colour", ["upper_colour"], lambda: self.colour("upper_colour"))
        self.add("pattern", ["upper_pattern"], lambda: self.pick(w.PATTERN_NOUNS[i.upper_pattern]))
        if "sleeve" in self.visible:
            self.phrases["sleeve_word"] = (lambda: w.SLEEVE_WORDS[i.sleeve], frozenset({"sleeve"}))
        if self.shows("sleeve"):
            self.add("sleeves", ["sleeve"], lambda: w.SLEEVE_NOUNS[i.sleeve])
            self.add("sleeve_is", ["sleeve"], lambda: i.sleeve)
        self.add("inner", ["inner_colour"], lambda: f"a {self.colour('inner_colour')} {self.pick(w.INNER)}")
        if i.upper_type == "dress":
            self.add("dress_colour", core, lambda: self.colour("upper_colour"))
        if self.shows("lower_type", "lower_colour"):
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

    def _add_head(self) -> None:
        i = self.identity
        if i.hair_style == "bald":
            self.add("a_bald", ["hair_style"], lambda: self.pick(["a bald head", "a shaved head"]))
            self.add("bald_is", ["hair_style"], lambda: self.pick(["bald", "shaved"]))
        else:
            fields = ("hair_style", "hair_colour")

            def hair(table: dict[str, list[str]]) -> str:
                return self.pick(table[i.hair_style]).format(c=self.colour("hair_colour"))

            self.add("hair", fields, lambda: hair(w.HAIR_STYLE_WORDS))
            self.add("hair_is", fields, lambda: hair(w.HAIR_IS_WORDS))
            if "hair_style" not in self.visible:
                self.add("hair_only", ["hair_colour"], lambda: f"{self.colour('hair_colour')} hair")
            adjective = self.pick(["{c}", "short {c}"]) if i.hair_style == "short" else "{c}"
            named = fields if adjective.startswith("short") else ["hair_colour"]
            self.add("hair_adj", named, lambda: adjective.format(c=self.colour("hair_colour")))
        fields = ("headwear", "headwear_colour")
        self.add("hat", fields, lambda: self.thing("headwear_colour", "headwear"))
        self.add("a_hat", fields, lambda: "a " + self.thing("headwear_colour", "headwear"))
        self.add("glasses", ["eyewear"], lambda: self.pick(["", "a pair of "]) + self.type("eyewear"))

    def _add_things(self) -> None:
        i = self.identity
        fields = ("bag_type", "bag_colour")
        self.add("bag", fields, lambda: self.thing("bag_colour", "bag_type"))
        self.add("a_bag", fields, lambda: "a " + self.thing("bag_colour", "bag_type"))
        self.add("bag_type", ["bag_type"], lambda: self.type("bag_type"))
        self.add("bag_colour", ["bag_colour"], lambda: self.colour("bag_colour"))
        if self.shows("bag_type"):
            side = self.shows("bag_side") and i.bag_type in w.BAG_POSITIONS_WITH_SIDE and self.chance(SIDE_SHARE)
            templates = (w.BAG_POSITIONS_WITH_SIDE if side else w.BAG_POSITIONS)[i.bag_type]
            positions = [text.format(his=self.his, side=i.bag_side) for text in templates]
            self.add("bag_place", ["bag_type", "bag_side"] if side else ["bag_type"], lambda: self.pick(positions))
        fields = ("carried", "carried_colour")
        self.add("a_carried", fields, lambda: "a " + self.thing("carried_colour", "carried"))
        self.add("carried_type", ["carried"], lambda: self.type("carried"))
        self.add("carried_colour", ["carried_colour"], lambda: self.colour("carried_colour"))

    def _add_scene(self) -> None:
        view = self.view
        walking = view.stride > w.WALKING_STRIDE
        gaits = w.WALKING if walking else w.STANDING
        directions = (w.WALKING_DIRECTIONS if walking else w.STANDING_DIRECTIONS)[view.orientation]
        walking_scenes, standing_scenes, backdrops = w.SCENES[view.background]
        scenes = walking_scenes if walking else standing_scenes
        self.add("build", ["build"], lambda: self.pick(w.BUILD_WORDS[self.identity.build]))
        self.add("gait", (), lambda: self.pick(gaits))
        self.add("going", (), lambda: self.pick(gaits).removeprefix("is "))
        self.add("view", (), lambda: self.pick(directions).format(his=self.his))
        self.add("seen", (), lambda: self.pick(w.VIEWS[view.orientation]))
        self.add("place", (), lambda: self.pick(scenes))
        self.add("backdrop", (), lambda: self.pick(backdrops))

    # ---- sentences
    def fill(self, template: str, by_noun: bool = False) -> str:
        """Fills the slots of a template.

        Args:
            template: text with slots in braces.
            by_noun: replace the first pronoun by the noun, such as "the man". Default: False.

        Returns:
            A text that starts with a capital letter; no full stop is added.
        """
        if by_noun and "{noun}" not in template:
            template = _PRONOUN.sub(lambda m: f"the {self.noun}" + ("'s" if m[1] == "his" else ""), template, count=1)

        def phrase(match: re.Match) -> str:
            key = match[1]
            return getattr(self, key) if key in _PRONOUN_SLOTS else self.phrases[key][0]()

        text = _ARTICLE.sub(r"\1n ", _SLOT.sub(phrase, template))
        return text[0].upper() + text[1:]

    def fields(self, keys: frozenset[str]) -> frozenset[str]:
        """The fields of `Identity` that these phrases name."""
        return frozenset().union(*(self.phrases[k][1] for k in keys))

    def usable(self, templates: list[tuple[str, frozenset[str]]]) -> list[tuple[str, frozenset[str]]]:
        """The (template, keys) pairs whose phrases all exist."""
        return [(t, keys) for t, keys in templates if keys <= self.phrases.keys()]
