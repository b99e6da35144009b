"""Captions of one image. Every phrase states only facts that the image shows, and every sentence knows which."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataset_pvlg.synthetic import words
from dataset_pvlg.synthetic.facts import Region, is_true, name_of, satisfying
from dataset_pvlg.synthetic.identities import Identity, draw
from dataset_pvlg.synthetic.render import Rendering, View

KINDS = {"single": 47, "generic": 20, "many": 15, "relation": 10, "whole": 8}  # sentences by what they state
SENTENCES = (6, 10)  # of a long caption, lowest and highest number
OTHER_VISIBLE = 0.04  # share of the image from which on a second person is mentioned
GENERIC = ("item", "piece", "thing")


@dataclass(frozen=True)
class Sentence:
    """A sentence of a long caption.

    Args:
        text: the sentence.
        groups: for each region that it describes the facts that it states.
        regions: indices of the regions that it describes.
    """

    text: str
    groups: tuple[tuple[str, ...], ...] = ()
    regions: tuple[int, ...] = ()


@dataclass(frozen=True)
class Captions:
    """All captions of one image: the sentences of the long one, and the short ones."""

    sentences: tuple[Sentence, ...]
    short: tuple[str, ...]


@dataclass(frozen=True)
class Phrase:
    """A noun phrase: its text with an article, whether verbs are plural, the stated facts, and `the` + its noun."""

    text: str
    plural: bool
    facts: tuple[str, ...]
    definite: str


class Writer:
    """Writes the captions of one image.

    Args:
        identity: the person.
        view: the view.
        rendering: what is visible.
        grammar: 0, or 1 for the second grammar.
        unseen: rate of words that training captions never use.
        rng: random generator of all choices.
    """

    def __init__(
        self,
        identity: Identity,
        view: View,
        rendering: Rendering,
        grammar: int,
        unseen: float,
        rng: np.random.Generator,
    ) -> None:
        self.identity, self.view, self.rendering = identity, view, rendering
        self.grammar, self.unseen, self.rng = grammar, unseen, rng
        self.regions: Sequence[Region] = rendering.regions
        self.attributes = [region.attributes for region in self.regions]
        self.facts_of = [frozenset(a) for a in self.attributes]
        self.names = [name_of(region) for region in self.regions]
        gendered = rendering.trunk_visible and rng.random() < 0.75
        self.noun, self.he, self.his, self.him = words.PEOPLE[identity.gender if gendered else ""]

    def _pick(self, options: Sequence) -> str:
        return options[int(self.rng.integers(len(options)))]

    def _word(self, options: tuple[tuple[str, ...], tuple[str, ...]]) -> str:
        return self._pick(options[1] if self.rng.random() < self.unseen else options[0])

    def phrase(self, n: int, generic: bool = False) -> Phrase:
        """A noun phrase for region n with some of its facts.

        Args:
            n: index of the region.
            generic: leave the noun out ("a red striped item").
        """
        facts, rng = self.regions[n].facts, self.rng
        if facts["type"] == "hair":
            return self._hair(n)
        stated = []
        if generic:
            noun = self._pick(GENERIC)
        else:
            name = "kind" if "kind" in facts and rng.random() < 0.86 else "type"
            noun = self._word(words.NOUNS[facts[name]])
            stated.append(f"{name}={facts[name]}")
        colour = pattern = tail = ""
        use_pattern = "pattern" in facts and rng.random() < (0.8 if facts["pattern"] != "plain" else 0.25)
        if rng.random() < 0.94 or not use_pattern:
            colour = self._word(words.COLOURS[facts["color"]])
            stated.append(f"color={facts['color']}")
        if use_pattern:
            stated.append(f"pattern={facts['pattern']}")
            second = facts.get("second-color")
            if second and colour and rng.random() < 0.5:
                stated.append(f"second-color={second}")
                word = self._word(words.COLOURS[second])
                if rng.random() < 0.5:
                    tail = f" with {word} {words.PATTERN_NOUNS[facts['pattern']]}"
                else:
                    pattern = self._word(words.PATTERNS[facts["pattern"]])
                    colour = f"{colour} and {word}"
            else:
                pattern = self._word(words.PATTERNS[facts["pattern"]])
        if "sleeves" in facts and not tail and not generic and rng.random() < 0.25:
            stated.append(f"sleeves={facts['sleeves']}")
            tail = f" with {words.SLEEVES[facts['sleeves']]}"
        parts = [pattern, colour] if self.grammar == 0 and rng.random() < 0.5 else [colour, pattern]
        body = " ".join(part for part in (*parts, noun) if part)
        plural = noun in words.PLURAL
        if plural:
            text = body if rng.random() < 0.6 else f"a pair of {body}"
            plural = text == body
        else:
            text = body if noun in words.UNCOUNTED else f"{_article(body)} {body}"
        return Phrase(text + tail, plural, tuple(stated), f"the {noun}")

    def _hair(self, n: int) -> Phrase:
        facts = self.regions[n].facts
        colour, stated = self._word(words.HAIR_COLOURS[facts["color"]]), ["kind=hair", f"color={facts['color']}"]
        style = facts.get("style")
        if style and self.rng.random() < 0.7:
            stated.append(f"style={style}")
            return Phrase(words.HAIR_STYLES[style].format(c=colour), False, tuple(stated), "the hair")
        return Phrase(f"{colour} hair", False, tuple(stated), "the hair")

    def fill(self, template: str, **values: object) -> str:
        """Fills a template. `np` and `a`, `b` are phrases; their verbs agree with them."""
        person_plural = False
        fields: dict[str, str] = {
            "He": self.he,
            "he": self.he.lower() if self.he != "The person" else "the person",
            "His": _upper(self.his),
            "his": self.his,
            "him": self.him,
            "noun": self.noun,
            "s_he": "" if person_plural else "s",
            "is_he": "is",
            "s_have": "s",
            "ies_he": "ies",
        }
        for name, value in values.items():
            if isinstance(value, Phrase):
                end = "" if name == "np" else f"_{name}"
                fields |= {
                    f"np{end}": value.text,
                    f"Np{end}": _upper(value.text),
                    f"the{end}": value.definite,
                    f"The{end}": _upper(value.definite),
                    f"s{end}": "" if value.plural else "s",
                    f"es{end}": "" if value.plural else "es",
                    f"is{end}": "are" if value.plural else "is",
                }
                if end:  # without an end, "has" belongs to the person
                    fields[f"s_have{end}"] = "ve" if value.plural else "s"
            else:
                fields[name] = str(value)
        return _upper(template.format(**fields))

    def single(self, n: int, generic: bool = False) -> Sentence | None:
        """A sentence about region n. A generic one leaves its noun out; None if it would also fit other regions."""
        phrase, facts = self.phrase(n, generic), self.regions[n].facts
        stated = list(phrase.facts)
        topics = ["any"] * 3 + [facts["where"]] * 3 + ([facts["side"]] * 2 if "side" in facts else [])
        if facts["type"] == "hair":
            topics = ["any", "worn"]
        topic = self._pick(topics)
        if topic in ("left", "right"):
            stated.append(f"side={topic}")
        elif topic != "any" and facts["type"] != "hair":
            stated.append(f"where={topic}")
        if topic == "worn" and facts["type"] == "hair":
            topic = "any"
        template = self._pick(words.SINGLE[self.grammar][topic])
        matching = satisfying(stated, self.facts_of)
        if matching != [n]:
            if generic or len(matching) > 2:
                return None
        return Sentence(self.fill(template, np=phrase), (tuple(stated),), tuple(matching))

    def many(self) -> Sentence | None:
        """A sentence about two or three regions."""
        count = 2 if self.rng.random() < 0.65 else 3
        chosen = self._some(count)
        if chosen is None:
            return None
        phrases = [self.phrase(n) for n in chosen]
        groups = tuple(phrase.facts for phrase in phrases)
        regions = [m for group in groups for m in satisfying(group, self.facts_of)]
        if sorted(regions) != sorted(chosen):  # a phrase fits another region too
            return None
        listed = _listed([phrase.text for phrase in phrases])
        text = self.fill(self._pick(words.MANY[self.grammar]), list=listed, List=_upper(listed))
        return Sentence(text, groups, tuple(chosen))

    def _some(self, count: int) -> list[int] | None:
        if len(self.regions) < count:
            return None
        return [int(n) for n in self.rng.permutation(len(self.regions))[:count]]

    def relation(self) -> Sentence | None:
        """A sentence that compares two regions: the same colour, or darker and lighter."""
        unique = [n for n, name in enumerate(self.names) if self.names.count(name) == 1]
        pairs = []
        for n in unique:
            for fact in self.regions[n].relations:
                relation, _, other = fact.partition("=")
                if relation != "lighter-than" and self.names.index(other) in unique:
                    pairs.append((relation, n, self.names.index(other)))
        same = [pair for pair in pairs if pair[0] == "same-color-as"]
        pairs = same if same and self.rng.random() < 0.6 else pairs
        if not pairs:
            return None
        relation, a, b = pairs[int(self.rng.integers(len(pairs)))]
        facts, phrases, groups = [self.regions[n].facts for n in (a, b)], [], []
        for n, m, back in ((a, b, relation), (b, a, relation if relation == "same-color-as" else "lighter-than")):
            own = self.regions[n].facts
            name = "kind" if "kind" in own else "type"
            noun = self._word(words.NOUNS[own[name]])
            plural = noun in words.PLURAL
            phrases.append(Phrase(f"the {noun}", plural, (), f"the {noun}"))
            groups.append([f"{name}={own[name]}", f"{back}={self.names[m]}"])
        values: dict[str, object] = {"a": phrases[0], "b": phrases[1]}
        if relation == "same-color-as":
            template = self._pick(words.SAME[self.grammar])
            if "olour" in template:
                word = self._word(words.COLOURS[facts[0]["color"]])
                values |= {"colour": word, "Colour": _upper(word)}
                for group in groups:
                    group.append(f"color={facts[0]['color']}")
        else:
            template = self._pick(words.DARKER[self.grammar])
            if "{Np_a}" in template:
                color = facts[0]["color"]
                word = self._word(words.COLOURS[color])
                noun = phrases[0].definite.removeprefix("the ")
                text = (
                    f"{word} {noun}"
                    if phrases[0].plural or noun in words.UNCOUNTED
                    else f"{_article(word)} {word} {noun}"
                )
                values["a"] = Phrase(text, phrases[0].plural, (), phrases[0].definite)
                groups[0].append(f"color={color}")
        return Sentence(self.fill(template, **values), (tuple(groups[0]), tuple(groups[1])), (a, b))

    def whole(self) -> Sentence | None:
        """A sentence about no region: pose, view or the second person."""
        topics = [self.view.arrangement.view]
        if self.view.framing == "full" and self.rendering.trunk_visible:
            topics.append(self.view.arrangement.pose)
        if self.rendering.other_visible > OTHER_VISIBLE:
            topics.append("other")
        topic = self._pick(topics)
        if topic != "other" and not self.rendering.trunk_visible:
            return None
        return Sentence(self.fill(self._pick(words.WHOLE[topic][self.grammar])))

    def long(self) -> tuple[Sentence, ...]:
        """The sentences of the long caption. Regions that no sentence describes yet come first."""
        low, high = SENTENCES
        target = min(high, max(low, len(self.regions) + int(self.rng.integers(0, 3))))
        used: dict[int, int] = {}
        sentences: list[Sentence] = []
        has_whole, related = False, []
        for _ in range(6 * target):
            if len(sentences) == target:
                break
            kind = draw(self.rng, KINDS)
            fewest = min((used.get(n, 0) for n in range(len(self.regions))), default=0)
            rare = [n for n in range(len(self.regions)) if used.get(n, 0) == fewest]
            if kind in ("single", "generic"):
                if not rare:
                    continue
                sentence = self.single(rare[int(self.rng.integers(len(rare)))], kind == "generic")
            elif kind == "whole":
                sentence = None if has_whole else self.whole()
                has_whole |= sentence is not None
            else:
                sentence = self.many() if kind == "many" else self.relation()
            if sentence is None or sentence.text in {s.text for s in sentences}:
                continue
            if sentence.groups and any(sentence.groups == other.groups for other in sentences):
                continue
            if kind == "relation":
                if set(sentence.regions) in related:
                    continue
                related.append(set(sentence.regions))
            if not is_true(sentence.groups, self.facts_of):
                raise AssertionError(f"a false sentence: {sentence}")
            for n in sentence.regions:
                used[n] = used.get(n, 0) + 1
            sentences.append(sentence)
        return tuple(sentences)

    def short(self) -> str:
        """A short caption of two to four things."""
        count = min(len(self.regions), 2 + int(self.rng.integers(3)))
        chosen = self._some(count) or []
        listed = _listed([self.phrase(n).text for n in chosen]) or "nothing else in view"
        return self.fill(self._pick(words.SHORT[self.grammar]), list=listed, List=_upper(listed))


def _article(text: str) -> str:
    return "an" if re.match(r"[aeiou]", text) else "a"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + (" and " + items[-1] if items else "")


def write_captions(
    identity: Identity, view: View, rendering: Rendering, grammar: int, unseen: float, rng: np.random.Generator
) -> Captions:
    """The captions of one image.

    Args:
        identity: the person.
        view: the view.
        rendering: what is visible.
        grammar: 0, or 1 for the second grammar.
        unseen: rate of words that training captions never use.
        rng: random generator of all choices.
    """
    writer = Writer(identity, view, rendering, grammar, unseen, rng)
    return Captions(writer.long(), (writer.short(), writer.short()))
