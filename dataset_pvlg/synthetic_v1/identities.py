"""Synthetic identities: tuples of attributes, sampled at the frequencies of real pedestrian captions.

The priors are rounded counts over descriptions of CUHK-PEDES, CUHK-SYSU and PRW. Colours that a camera cast would make
indistinguishable (tan and beige, navy and black) are left out, so that each named colour is recognisable.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

# One identity in this many is a near-duplicate of the one before it: a hard negative.
NEAR_DUPLICATE_EVERY = 6

HAIR_COLOURS = {"black": 58, "brown": 24, "blonde": 10, "grey": 6, "red": 2}
UPPER_COLOURS = {
    "white": 23, "black": 20, "grey": 12, "blue": 11, "red": 8, "green": 6, "yellow": 6, "pink": 6, "purple": 3,
    "brown": 3, "orange": 2,
}  # fmt: skip
LOWER_COLOURS = {
    "black": 36,
    "blue": 18,
    "grey": 15,
    "white": 8,
    "brown": 8,
    "khaki": 6,
    "green": 4,
    "red": 3,
    "pink": 2,
}
SHOE_COLOURS = {"black": 36, "white": 24, "brown": 13, "grey": 9, "red": 6, "blue": 6, "pink": 3, "green": 3}
BAG_COLOURS = {
    "black": 42,
    "red": 13,
    "brown": 11,
    "blue": 9,
    "white": 8,
    "pink": 6,
    "green": 5,
    "yellow": 3,
    "grey": 3,
}
CAP_COLOURS = {"black": 35, "white": 20, "red": 15, "blue": 15, "grey": 8, "green": 7}
UPPER_TYPES = {
    "man": {"t-shirt": 38, "shirt": 20, "jacket": 14, "coat": 5, "sweater": 8, "hoodie": 11, "tank top": 4},
    "woman": {
        "t-shirt": 27,
        "shirt": 17,
        "jacket": 12,
        "coat": 8,
        "sweater": 9,
        "hoodie": 5,
        "tank top": 6,
        "dress": 16,
    },
}
LOWER_TYPES = {
    "man": {"pants": 44, "jeans": 28, "shorts": 28},
    "woman": {"pants": 26, "jeans": 25, "shorts": 19, "skirt": 19, "leggings": 11},
}
SHOE_TYPES = {
    "man": {"shoes": 38, "sneakers": 40, "boots": 10, "sandals": 12},
    "woman": {"shoes": 24, "sneakers": 28, "boots": 15, "sandals": 17, "heels": 16},
}
HAIR_STYLES = {
    "man": {"short": 86, "long": 6, "bald": 8},
    "woman": {"short": 16, "long": 46, "ponytail": 26, "bun": 12},
}
JEANS_COLOURS = {"blue": 62, "black": 22, "grey": 16}
PATTERNS = {"plain": 56, "striped": 18, "plaid": 8, "dotted": 6, "logo": 12}

# Fields that a colour edit may change. The colour of hair is not one of them, because the skin depends on it.
RECOLOURED = {
    "upper_colour": UPPER_COLOURS,
    "inner_colour": UPPER_COLOURS,
    "lower_colour": LOWER_COLOURS,
    "shoe_colour": SHOE_COLOURS,
    "bag_colour": BAG_COLOURS,
    "headwear_colour": CAP_COLOURS,
}


@dataclass(frozen=True)
class Identity:
    """Everything that a caption may name. An empty string means that the person has no such thing."""

    gender: str  # man, woman
    build: str  # slim, average, heavy
    hair_colour: str
    hair_style: str  # short, long, ponytail, bun, bald
    headwear: str  # none, cap, hat, beanie
    headwear_colour: str
    eyewear: str  # none, glasses, sunglasses
    upper_type: str
    upper_colour: str
    upper_pattern: str  # plain, striped, plaid, dotted, logo
    sleeve: str  # short, long, none
    inner_colour: str  # colour of the shirt under an open jacket or coat
    lower_type: str  # empty for a dress
    lower_colour: str
    shoe_type: str
    shoe_colour: str
    bag_type: str  # empty, backpack, shoulder bag, handbag, suitcase
    bag_colour: str
    bag_side: str  # the person's own left or right; empty for a backpack or no bag
    carried: str  # empty, umbrella, phone, bottle, book
    carried_colour: str


def _draw(rng: np.random.Generator, weights: Mapping[str, float], exclude: str = "") -> str:
    """A random name by weight."""
    names = [name for name in weights if name != exclude]
    shares = np.array([weights[name] for name in names], dtype=float)
    return str(rng.choice(names, p=shares / shares.sum()))


def _draw_upper(rng: np.random.Generator, gender: str) -> dict[str, str]:
    kind, colour = _draw(rng, UPPER_TYPES[gender]), _draw(rng, UPPER_COLOURS)
    layered = kind in ("jacket", "coat")
    sleeve = {
        "tank top": "none",
        "t-shirt": "short",
        "sweater": "long",
        "hoodie": "long",
        "jacket": "long",
        "coat": "long",
    }
    pattern = "plain" if layered else _draw(rng, PATTERNS)
    if kind == "dress" and pattern == "logo" or kind == "sweater" and pattern == "plaid":
        pattern = "striped"
    return {
        "upper_type": kind,
        "upper_colour": colour,
        "upper_pattern": pattern,
        "sleeve": sleeve.get(kind) or _draw(rng, {"short": 50, "long": 42, "none": 8 if kind == "dress" else 0}),
        "inner_colour": _draw(rng, UPPER_COLOURS, exclude=colour) if layered and rng.random() < 0.75 else "",
    }


def _draw_lower(rng: np.random.Generator, gender: str, upper_type: str) -> dict[str, str]:
    if upper_type == "dress":
        return {"lower_type": "", "lower_colour": ""}
    kind = _draw(rng, LOWER_TYPES[gender])
    return {"lower_type": kind, "lower_colour": _draw(rng, JEANS_COLOURS if kind == "jeans" else LOWER_COLOURS)}


def _draw_bag(rng: np.random.Generator, gender: str) -> dict[str, str]:
    if rng.random() >= 0.5:
        return {"bag_type": "", "bag_colour": "", "bag_side": ""}
    kinds = {"backpack": 46, "shoulder bag": 32, "suitcase": 7, "handbag": 15 if gender == "man" else 34}
    kind = _draw(rng, kinds)
    side = "" if kind == "backpack" else _draw(rng, {"left": 1, "right": 1})
    return {"bag_type": kind, "bag_colour": _draw(rng, BAG_COLOURS), "bag_side": side}


def _draw_carried(rng: np.random.Generator) -> dict[str, str]:
    if rng.random() >= 0.14:
        return {"carried": "", "carried_colour": ""}
    kind = _draw(rng, {"phone": 34, "bottle": 22, "book": 24, "umbrella": 20})
    return {"carried": kind, "carried_colour": "black" if kind == "phone" else _draw(rng, BAG_COLOURS)}


def draw_identity(rng: np.random.Generator) -> Identity:
    """Samples one identity from the priors."""
    gender = _draw(rng, {"man": 55, "woman": 45})
    headwear = _draw(rng, {"none": 86, "cap": 8, "hat": 3, "beanie": 3})
    upper = _draw_upper(rng, gender)
    return Identity(
        gender=gender,
        build=_draw(rng, {"slim": 25, "average": 55, "heavy": 20}),
        hair_colour=_draw(rng, HAIR_COLOURS),
        hair_style=_draw(rng, HAIR_STYLES[gender]),
        headwear=headwear,
        headwear_colour="" if headwear == "none" else _draw(rng, CAP_COLOURS),
        eyewear=_draw(rng, {"none": 84, "glasses": 11, "sunglasses": 5}),
        **upper,
        **_draw_lower(rng, gender, upper["upper_type"]),
        shoe_type=_draw(rng, SHOE_TYPES[gender]),
        shoe_colour=_draw(rng, SHOE_COLOURS),
        **_draw_bag(rng, gender),
        **_draw_carried(rng),
    )


def near_duplicate(rng: np.random.Generator, identity: Identity) -> Identity:
    """Changes one thing of an identity: shoes, the bag, or the colour of the lower or the upper garment."""
    change = _draw(rng, {"shoes": 30, "lower": 25, "bag": 25, "upper": 20})
    if change == "lower" and identity.lower_type:
        colours = JEANS_COLOURS if identity.lower_type == "jeans" else LOWER_COLOURS
        return replace(identity, lower_colour=_draw(rng, colours, exclude=identity.lower_colour))
    if change == "bag":
        bag = _draw_bag(rng, identity.gender)
        while bag["bag_type"] == identity.bag_type:
            bag = _draw_bag(rng, identity.gender)
        return replace(identity, **bag)
    if change == "upper":
        return replace(identity, upper_colour=_draw(rng, UPPER_COLOURS, exclude=identity.upper_colour))
    return replace(identity, shoe_colour=_draw(rng, SHOE_COLOURS, exclude=identity.shoe_colour))


def recolour(rng: np.random.Generator, identity: Identity, field: str) -> Identity:
    """Changes the colour of one thing of an identity.

    Args:
        rng: random generator of the new colour.
        identity: the person.
        field: a field of `RECOLOURED` that is not empty.

    Returns:
        The edited identity.
    """
    colours = RECOLOURED[field]
    if field == "lower_colour" and identity.lower_type == "jeans":
        colours = JEANS_COLOURS
    other = {"upper_colour": identity.inner_colour, "inner_colour": identity.upper_colour}.get(field)
    colours = {name: weight for name, weight in colours.items() if name != other}
    return replace(identity, **{field: _draw(rng, colours, exclude=getattr(identity, field))})


def sample_identities(seed: int, start: int, count: int) -> list[Identity]:
    """Samples different identities; each sixth is a near-duplicate of the one before it.

    Equal arguments give equal identities. Calls with different `start` may sample the same identity by chance;
    `dataset.split_identities` removes such duplicates.

    Args:
        seed: random seed.
        start: index of the first identity in the seed's infinite sequence.
        count: number of identities.
    """
    identities: list[Identity] = []
    existing: set[Identity] = set()
    for index in range(start, start + count):
        attempt = 0
        while True:
            rng = np.random.default_rng((seed, index, attempt))
            is_duplicate = identities and index % NEAR_DUPLICATE_EVERY == NEAR_DUPLICATE_EVERY - 1
            identity = near_duplicate(rng, identities[-1]) if is_duplicate else draw_identity(rng)
            if identity not in existing:
                break
            attempt += 1
        identities.append(identity)
        existing.add(identity)
    return identities
