"""Synthetic identities of version 2: what a person wears and owns. The place of each thing is drawn for each image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

NEAR_DUPLICATE_EVERY = 8  # one identity in this many differs from the one before it in two things: a hard negative

COLOURS = {
    "black": 13, "white": 11, "grey": 10, "blue": 11, "red": 11, "green": 9, "yellow": 8, "orange": 7, "pink": 7,
    "purple": 7, "brown": 6,
}  # fmt: skip
HAIR_COLOURS = {"black": 34, "brown": 28, "blonde": 18, "grey": 12, "red": 8}
ANIMAL_COLOURS = {"brown": 30, "black": 30, "white": 25, "grey": 15}
PATTERNS = {"plain": 46, "striped": 22, "checked": 17, "dotted": 15}
# Two colours of a pattern must differ clearly in brightness or hue after a camera's cast.
CONTRASTS: dict[str, tuple[str, ...]] = {
    "black": ("white", "yellow", "pink", "orange"), "white": ("black", "blue", "red", "green", "purple"),
    "grey": ("black", "yellow", "white"), "blue": ("white", "yellow", "pink"), "red": ("white", "black", "yellow"),
    "green": ("white", "yellow", "black"), "yellow": ("black", "blue", "purple", "red"),
    "orange": ("black", "white", "blue"), "pink": ("black", "purple", "blue"),
    "purple": ("white", "yellow", "pink"), "brown": ("white", "yellow"),
}  # fmt: skip

TYPES = {  # what a kind of thing is in general
    "t-shirt": "top", "tank top": "top", "shirt": "top", "sweater": "top", "hoodie": "top", "jacket": "top",
    "coat": "top", "dress": "dress", "trousers": "bottom", "shorts": "bottom", "skirt": "bottom",
    "shoes": "footwear", "boots": "footwear", "backpack": "bag", "shoulder bag": "bag", "handbag": "bag",
    "cap": "hat", "beanie": "hat", "sun hat": "hat", "scarf": "scarf", "umbrella": "umbrella",
    "suitcase": "suitcase", "pushchair": "pushchair", "bicycle": "bicycle", "dog": "dog", "hair": "hair",
}  # fmt: skip
TOPS = {
    "man": {"t-shirt": 26, "tank top": 8, "shirt": 18, "sweater": 14, "hoodie": 12, "jacket": 14, "coat": 8},
    "woman": {
        "t-shirt": 22, "tank top": 9, "shirt": 14, "sweater": 13, "hoodie": 8, "jacket": 12, "coat": 9, "dress": 13,
    },
}  # fmt: skip
BOTTOMS = {"man": {"trousers": 66, "shorts": 34}, "woman": {"trousers": 46, "shorts": 20, "skirt": 34}}
SHOES = {"shoes": 72, "boots": 28}
BAGS = {"backpack": 40, "shoulder bag": 32, "handbag": 28}
HATS = {"cap": 44, "beanie": 30, "sun hat": 26}
# Shares of people who own a thing. At most three of these are kept.
THINGS = {
    "hat": 0.4, "scarf": 0.28, "jacket": 0.24, "umbrella": 0.2, "suitcase": 0.15, "pushchair": 0.1, "bicycle": 0.16,
    "dog": 0.16,
}  # fmt: skip
MAX_THINGS = 3
PLAIN_KINDS = frozenset({"shoes", "boots", "pushchair", "bicycle"})  # too thin for a pattern


@dataclass(frozen=True)
class Thing:
    """A garment or an object.

    Args:
        kind: a key of `TYPES`.
        colour: a key of `COLOURS`.
        pattern: plain, striped, checked or dotted.
        second: the other colour of a pattern; empty for a plain thing.
    """

    kind: str
    colour: str
    pattern: str = "plain"
    second: str = ""


@dataclass(frozen=True)
class Identity:
    """A person with everything that captions may name. `bottom`, `bag` and `inner` may be None."""

    gender: str  # man, woman
    build: str  # slim, average, heavy
    skin: int  # index in the skin colours
    hair_style: str  # short, long, bun, bald
    hair_colour: str
    top: Thing
    inner: Thing | None  # the shirt under an open jacket or coat
    bottom: Thing | None
    shoes: Thing
    bag: Thing | None
    things: tuple[Thing, ...]  # kinds differ


def draw(rng: np.random.Generator, weights: Mapping[str, float], exclude: tuple[str, ...] = ()) -> str:
    """A random name by weight."""
    names = [name for name in weights if name not in exclude]
    left = rng.random() * sum(weights[name] for name in names)
    for name in names:
        left -= weights[name]
        if left < 0:
            return name
    return names[-1]


def _thing(rng: np.random.Generator, kind: str, exclude: tuple[str, ...] = ()) -> Thing:
    if kind == "dog":
        colour = draw(rng, ANIMAL_COLOURS)
        spotted = rng.random() < 0.4
        return (
            Thing(kind, colour, "dotted", "white" if colour != "white" else "black") if spotted else Thing(kind, colour)
        )
    colour = draw(rng, COLOURS, exclude)
    pattern = "plain" if kind in PLAIN_KINDS else draw(rng, PATTERNS)
    if pattern == "plain":
        return Thing(kind, colour)
    options = CONTRASTS[colour]
    return Thing(kind, colour, pattern, options[int(rng.integers(len(options)))])


def draw_identity(rng: np.random.Generator) -> Identity:
    """Samples one identity."""
    gender = draw(rng, {"man": 52, "woman": 48})
    top = _thing(rng, draw(rng, TOPS[gender]))
    inner = None
    if top.kind in ("jacket", "coat"):
        inner = Thing("t-shirt", draw(rng, COLOURS, (top.colour, top.second)))
    kinds = [name for name, share in THINGS.items() if rng.random() < share]
    if top.kind in ("jacket", "coat", "hoodie"):
        kinds = [name for name in kinds if name != "jacket"]
    order = rng.permutation(len(kinds))[:MAX_THINGS]
    things = [draw(rng, HATS) if kinds[n] == "hat" else kinds[n] for n in sorted(order)]
    return Identity(
        gender=gender,
        build=draw(rng, {"slim": 30, "average": 45, "heavy": 25}),
        skin=int(rng.integers(5)),
        hair_style=draw(
            rng, {"short": 80, "bald": 8, "long": 12} if gender == "man" else {"long": 56, "bun": 26, "short": 18}
        ),
        hair_colour=draw(rng, HAIR_COLOURS),
        top=top,
        inner=inner,
        bottom=None if top.kind == "dress" else _thing(rng, draw(rng, BOTTOMS[gender])),
        shoes=_thing(rng, draw(rng, SHOES)),
        bag=_thing(rng, draw(rng, BAGS)) if rng.random() < 0.72 else None,
        things=tuple(_thing(rng, kind) for kind in things),
    )


def things_of(identity: Identity) -> dict[str, Thing]:
    """All garments and things of a person by slot: `top`, `inner`, `bottom`, `shoes`, `bag`, and the kind of others."""
    worn = {name: getattr(identity, name) for name in ("top", "inner", "bottom", "shoes", "bag")}
    return {name: thing for name, thing in worn.items() if thing} | {thing.kind: thing for thing in identity.things}


def with_thing(identity: Identity, slot: str, thing: Thing) -> Identity:
    """The person with another thing in a slot of [`things_of`]."""
    if slot in {field.name for field in fields(Identity)}:
        worn: dict[str, Any] = {slot: thing}
        return replace(identity, **worn)
    return replace(identity, things=tuple(thing if old.kind == slot else old for old in identity.things))


def recolour(rng: np.random.Generator, identity: Identity, slot: str) -> Identity:
    """The person with another base colour of one thing; its pattern stays.

    Args:
        rng: random generator of the colour.
        identity: the person.
        slot: a key of [`things_of`].
    """
    old = things_of(identity)[slot]
    colours = ANIMAL_COLOURS if old.kind == "dog" else COLOURS
    taken: tuple[str, ...] = (old.colour, old.second)
    if slot in ("top", "inner") and identity.inner:
        taken += (identity.inner.colour, identity.top.colour)
    if old.second:  # the two colours must stay distinguishable
        colours = {c: w for c, w in colours.items() if old.second in CONTRASTS[c]} or colours
    left = [c for c in colours if c not in taken]
    if not left:
        return identity
    return with_thing(identity, slot, replace(old, colour=draw(rng, {c: colours[c] for c in left})))


def near_duplicate(rng: np.random.Generator, identity: Identity) -> Identity:
    """The person with two recoloured things, one of them a garment of the body."""
    slots = list(things_of(identity))
    body = [slot for slot in slots if slot in ("top", "bottom")]
    first = body[int(rng.integers(len(body)))]
    second = draw(rng, dict.fromkeys(slots, 1), (first,))
    return recolour(rng, recolour(rng, identity, first), second)


def identity_of(seed: int, split: int, index: int) -> Identity:
    """One identity of a split. It depends on nothing else that is generated.

    Args:
        seed: seed of the data set.
        split: number of the split.
        index: index of the identity in the split.
    """
    rng = np.random.default_rng((2, seed, split, index))
    if index % NEAR_DUPLICATE_EVERY == NEAR_DUPLICATE_EVERY - 1:
        return near_duplicate(rng, identity_of(seed, split, index - 1))
    return draw_identity(rng)
