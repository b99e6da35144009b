"""The facts that an image shows of its regions, and whether a claim is true of an image."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dataset_pvlg.synthetic.canvas import RGB
from dataset_pvlg.synthetic.draw_person import SLEEVES
from dataset_pvlg.synthetic.identities import TYPES, Identity, Thing, things_of
from dataset_pvlg.synthetic.placing import Arrangement

LABELS = {
    "top": "upper body", "dress": "upper body", "bottom": "lower body", "footwear": "feet", "bag": "bag",
    "hair": "head", "hat": "head", "scarf": "upper body",
}  # fmt: skip
_FROM_BEHIND = frozenset({"t-shirt", "tank top", "hoodie", "coat", "dress"})  # tops that a back view shows to differ
MIN_PATTERN_SIDE, MIN_PATTERN_PIXELS = 11, 170  # a smaller region does not show its pattern
DARKER = 70  # difference of luma between two colours that is stated


@dataclass(frozen=True)
class Region:
    """A visible region of the person.

    Args:
        slot: see `identities.things_of`, or hair.
        number: in `Rendering.ids`.
        label: one of `features.REGION_LABELS`.
        box: x, y, w, h in pixels.
        share: visible share of the region, in [0, 1].
        facts: name -> value; as attributes they read `name=value`.
        relations: attributes that relate it to another region, as `darker-than=shoes`.
    """

    slot: str
    number: int
    label: str
    box: tuple[float, float, float, float]
    share: float
    facts: Mapping[str, str]
    relations: tuple[str, ...] = ()

    @property
    def attributes(self) -> list[str]:
        """All facts as `name=value`."""
        return [f"{name}={value}" for name, value in self.facts.items()] + list(self.relations)


def luma(colour: str) -> float:
    """Brightness of a named colour, from 0 to 255."""
    red, green, blue = RGB[colour]
    return 0.299 * red + 0.587 * green + 0.114 * blue


def facts_of_regions(
    identity: Identity, arrangement: Arrangement, boxes: Mapping[str, tuple], pixels: Mapping[str, float],
    shares: Mapping[str, float], parts: Mapping[str, int], centre: float, scale: float,
) -> tuple[Region, ...]:  # fmt: skip
    """The regions of an image with all facts that it shows.

    Args:
        identity: the person.
        arrangement: places of the things.
        boxes: slot -> x, y, w, h of the visible part, in pixels.
        pixels: slot -> visible pixels.
        shares: slot -> visible share.
        parts: slot -> region number.
        centre: x of the person's trunk in pixels.
        scale: height of the standing person in pixels.
    """
    things = things_of(identity)
    regions = []
    for slot, box in boxes.items():
        if slot == "hair":
            facts = {"kind": "hair", "type": "hair", "color": identity.hair_colour, "style": identity.hair_style}
            facts["where"] = "worn"
            if arrangement.places and shares[slot] < 0.45:
                facts.pop("style")
        else:
            facts = _facts(slot, things[slot], arrangement, box, pixels[slot], shares[slot])
            x = box[0] + box[2] / 2 - centre
            if facts["where"] not in ("worn", "neck", "waist", "back", "chest", "ridden") and abs(x) > 0.07 * scale:
                facts["side"] = "left" if x < 0 else "right"
        facts["visible"] = "whole" if shares[slot] > 0.75 else "part"
        label = LABELS.get(facts["type"], "carried item")
        if facts["type"] == "hat" and facts["where"] != "worn" or slot == "jacket":
            label = "carried item"
        regions.append(Region(slot, parts[slot], label, box, float(shares[slot]), facts))
    return _with_relations(regions, things)


def _facts(slot: str, thing: Thing, arrangement: Arrangement, box, pixels: float, share: float) -> dict[str, str]:
    facts = {"kind": thing.kind, "type": TYPES[thing.kind]}
    if slot == "inner" or (slot == "top" and arrangement.view == "back" and thing.kind not in _FROM_BEHIND):
        facts.pop("kind")
    if slot == "top" and thing.kind == "coat" and share < 0.5:
        facts.pop("kind", None)
    if slot == "inner":
        facts["layer"] = "under"
    facts["color"] = thing.colour
    shows = min(box[2], box[3]) >= MIN_PATTERN_SIDE and pixels >= MIN_PATTERN_PIXELS
    if shows or thing.pattern == "plain" and pixels >= 120:
        facts["pattern"] = thing.pattern
        if thing.second:
            facts["second-color"] = thing.second
    facts["where"] = arrangement.places[slot].where
    if slot == "top":
        if share > 0.5:
            facts["sleeves"] = SLEEVES.get(thing.kind, "long")
    return facts


def name_of(region: Region) -> str:
    """The name of a region in a relation: its kind, or its type where the image does not show the kind."""
    return region.facts.get("kind", region.facts["type"])


def _with_relations(regions: Sequence[Region], things: Mapping[str, Thing]) -> tuple[Region, ...]:
    """Adds `same-color-as`, `darker-than` and `lighter-than` between regions whose names are unique in the image."""
    names = [name_of(region) for region in regions]
    result = []
    for n, region in enumerate(regions):
        relations = []
        for m, other in enumerate(regions):
            if n == m or "hair" in (region.slot, other.slot) or names.count(names[m]) > 1:
                continue
            mine, its = things[region.slot], things[other.slot]
            if mine.colour == its.colour:
                relations.append(f"same-color-as={names[m]}")
            if mine.pattern == its.pattern == "plain" and abs(luma(mine.colour) - luma(its.colour)) > DARKER:
                word = "darker" if luma(mine.colour) < luma(its.colour) else "lighter"
                relations.append(f"{word}-than={names[m]}")
        result.append(
            Region(region.slot, region.number, region.label, region.box, region.share, region.facts, tuple(relations))
        )
    return tuple(result)


def satisfying(group: Collection[str], attributes: Sequence[Collection[str]]) -> list[int]:
    """Indices of the regions that have all facts of a group.

    Args:
        group: facts of a claim.
        attributes: the attributes of each region of an image.
    """
    return [n for n, has in enumerate(attributes) if set(group) <= set(has)]


def is_true(groups: Sequence[Collection[str]], attributes: Sequence[Collection[str]]) -> bool:
    """Whether different regions of an image satisfy the groups of a claim; true without groups.

    Args:
        groups: a group of facts for each region that the sentence describes.
        attributes: the attributes of each region of an image.
    """
    options = [satisfying(group, attributes) for group in groups]

    def assign(n: int, used: frozenset[int]) -> bool:
        return n == len(options) or any(m not in used and assign(n + 1, used | {m}) for m in options[n])

    return assign(0, frozenset())


class FactTable:
    """The attributes of all regions of many images, for questions about all images at once.

    Args:
        attributes: for each image the attributes of its regions.
    """

    def __init__(self, attributes: Sequence[Sequence[Sequence[str]]]) -> None:
        self.images = len(attributes)
        self.owner = np.repeat(np.arange(self.images), [len(regions) for regions in attributes])
        self._has: dict[str, list[int]] = {}
        number = 0
        for regions in attributes:
            for region in regions:
                for fact in region:
                    self._has.setdefault(fact, []).append(number)
                number += 1
        self.regions = number
        self._masks: dict[str, np.ndarray] = {}

    def regions_with(self, group: Collection[str]) -> np.ndarray:
        """bool `[regions]`: the regions that have all facts of a group."""
        result = np.ones(self.regions, bool)
        for fact in group:
            if fact not in self._masks:
                mask = np.zeros(self.regions, bool)
                mask[self._has.get(fact, [])] = True
                self._masks[fact] = mask
            result &= self._masks[fact]
        return result

    def images_where(self, groups: Sequence[Collection[str]]) -> np.ndarray:
        """bool `[images]`: where different regions satisfy all groups (at most three), by Hall's condition."""
        masks = [self.regions_with(group) for group in groups]
        result = np.ones(self.images, bool)
        for chosen in range(1, 2 ** len(masks)):
            members = [mask for n, mask in enumerate(masks) if chosen >> n & 1]
            union = np.logical_or.reduce(members)
            result &= np.bincount(self.owner[union], minlength=self.images) >= len(members)
        return result
