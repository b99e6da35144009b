"""Synthetic P-VLG, version 2: rows of procedural pedestrians, determined by a seed and an index.

There are no asset files and no state. Row (split, identity, image) does not depend on the other rows that are generated
or on the process that generates it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field as default

import numpy as np

from dataset_pvlg.features import SPLITS
from dataset_pvlg.synthetic.captions import Captions, write_captions
from dataset_pvlg.synthetic.identities import Identity, identity_of, recolour, things_of
from dataset_pvlg.synthetic.render import Rendering, View, render, sample_view
from dataset_pvlg.synthetic.words import UNSEEN_RATE
from dataset_pvlg.synthetic_v1.noise import Noise, add_text_faults, encode_with_faults, thin_boxes

GENERATOR_VERSION = "v2"  # a change of any image or text needs a new version and new measurements
ORIGINS = ("synthetic", "synthetic:second-grammar")  # caption_origin by grammar
MIN_REGIONS = 4  # an image with fewer visible regions is drawn again with another view
_ATTEMPTS = 5
_VIEW, _RENDER, _CAPTION, _NOISE_TEXT, _NOISE_IMAGE, _EDIT = range(6)
_JPEG_QUALITY = (75, 95)
_OTHERS = 9  # number of the sequence of second persons, who are in no split


@dataclass(frozen=True)
class SyntheticConfig:
    """Sizes and faults of a synthetic data set. The splits share no identity.

    Args:
        train_identities: number of identities in train. Default: 2000.
        validation_identities: number of identities in validation. Default: 200.
        test_identities: number of identities in test. Default: 1000.
        images_per_identity: number of images of each identity. Default: 4.
        seed: seed of all random choices. Default: 0.
        noise: rates of faults. Default: none.

    Raises:
        ValueError: a number is out of range; the message names the field.
    """

    train_identities: int = 2000
    validation_identities: int = 200
    test_identities: int = 1000
    images_per_identity: int = 4
    seed: int = 0
    noise: Noise = default(default_factory=Noise)

    def __post_init__(self) -> None:
        for name in ("train_identities", "validation_identities", "test_identities", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"synthetic P-VLG: {name} must not be negative, got {getattr(self, name)}")
        if self.images_per_identity < 1:
            raise ValueError(f"synthetic P-VLG: images_per_identity must be at least 1, got {self.images_per_identity}")

    def identities(self, split: str) -> int:
        """Number of identities in a split."""
        return getattr(self, f"{split}_identities")

    def first_person(self, split: str) -> int:
        """person_id of the first identity of a split; ids are contiguous over train, validation and test."""
        return sum(self.identities(before) for before in SPLITS[: SPLITS.index(split)])


@dataclass(frozen=True)
class Drawn:
    """Everything about one image, before it is a row."""

    identity: Identity
    view: View
    rendering: Rendering
    captions: Captions
    grammar: int


def draw_image(split: str, index: int, number: int, config: SyntheticConfig, edited: Identity | None = None) -> Drawn:
    """Renders one image and writes its captions, without faults.

    Args:
        split: train, validation or test.
        index: index of the identity in the split.
        number: number of the image of this identity.
        config: the seed.
        edited: a recoloured identity that is drawn in the same view. None: the identity itself.
    """
    key = (config.seed, SPLITS.index(split), index, number)
    identity = identity_of(config.seed, SPLITS.index(split), index)
    other = identity_of(config.seed, _OTHERS + SPLITS.index(split), index * 64 + number)
    for attempt in range(_ATTEMPTS):
        view = sample_view(identity, np.random.default_rng((*key, attempt, _VIEW)))
        rendering = render(identity, other, view, (*key, attempt, _RENDER))
        if len(rendering.regions) >= MIN_REGIONS:
            break
    if edited is not None:
        identity, rendering = edited, render(edited, other, view, (*key, attempt, _RENDER))
    grammar = number % 2 if split == "test" else 0
    unseen = UNSEEN_RATE if split == "test" else 0.0
    rng = np.random.default_rng((*key, _CAPTION))
    return Drawn(identity, view, rendering, write_captions(identity, view, rendering, grammar, unseen, rng), grammar)


def rows(split: str, start: int, stop: int, config: SyntheticConfig) -> Iterator[dict]:
    """Generates the P-VLG rows of some identities.

    Args:
        split: train, validation or test.
        start: index of the first identity in the split.
        stop: index after the last identity.
        config: sizes, seed and faults.

    Yields:
        `images_per_identity` rows for each identity.
    """
    for index in range(start, min(stop, config.identities(split))):
        for number in range(config.images_per_identity):
            yield _row(split, index, number, config, draw_image(split, index, number, config))


def format_image_id(split: str, index: int, number: int) -> str:
    """The image_id of image `number` of identity `index` of a split."""
    return f"synthetic-{GENERATOR_VERSION}/{split}/{index:06d}_{number}"


def parse_image_id(image_id: str) -> tuple[str, int, int]:
    """The split, identity and number of an image, the inverse of [`format_image_id`].

    Raises:
        ValueError: the image_id is not one of this generator.
    """
    match = re.fullmatch(rf"synthetic-{GENERATOR_VERSION}/([a-z]+)/(\d+)_(\d+)", image_id)
    if not match or match[1] not in SPLITS:
        raise ValueError(f"image_id {image_id!r}: not an image of synthetic P-VLG {GENERATOR_VERSION}")
    return match[1], int(match[2]), int(match[3])


def possible_edits(split: str, index: int, config: SyntheticConfig) -> list[tuple[str, Identity]]:
    """Colour edits of an identity, one for each of its things.

    All images of an identity share these edits, so that equal edits of several images show one new identity.

    Returns:
        (slot, edited identity) in a random but fixed order.
    """
    identity = identity_of(config.seed, SPLITS.index(split), index)
    rng = np.random.default_rng((config.seed, SPLITS.index(split), index, 0, _EDIT))
    slots = list(things_of(identity))
    edits = [(slots[n], recolour(rng, identity, slots[n])) for n in rng.permutation(len(slots))]
    return [(slot, edited) for slot, edited in edits if edited != identity]


def edited_row(split: str, index: int, number: int, config: SyntheticConfig) -> tuple[str, dict] | None:
    """The P-VLG row of an image that is drawn again with one thing in another colour, without faults.

    Person, pose, camera and scene stay the same. The captions are written again for the new colour.

    Args:
        split: train, validation or test.
        index: index of the identity in the split.
        number: number of the image of this identity.
        config: sizes and seed.

    Returns:
        The name of the edit, `kind-colour`, and the row, whose person_id is that of the original. None if nothing that
        could change is both visible and named in both long captions.

    Raises:
        ValueError: the image does not exist.
    """
    if not (index < config.identities(split) and number < config.images_per_identity):
        raise ValueError(f"image_id {format_image_id(split, index, number)!r}: not an image of this data set")
    before = draw_image(split, index, number, config)
    named = _coloured_slots(before)
    for slot, edited in possible_edits(split, index, config):
        if slot not in named:
            continue
        drawn = draw_image(split, index, number, config, edited)
        if slot not in _coloured_slots(drawn):
            continue
        thing = things_of(edited)[slot]
        name = f"{thing.kind.replace(' ', '-')}-{thing.colour}"
        row = _row(split, index, number, SyntheticConfig(config.train_identities, config.validation_identities,
            config.test_identities, config.images_per_identity, config.seed), drawn)  # fmt: skip
        image_id = f"generated/{row['image_id']}_{name}"
        return name, row | {
            "image_id": image_id,
            "path": f"{image_id}.jpg",
            "image": row["image"] | {"path": f"{image_id}.jpg"},
            "source": "generated",
            "parent": row["image_id"],
        }
    return None


def _coloured_slots(drawn: Drawn) -> set[str]:
    """The slots of regions whose colour a sentence states."""
    slots = set()
    for sentence in drawn.captions.sentences:
        for n in sentence.regions:
            region = drawn.rendering.regions[n]
            if any(f"color={region.facts['color']}" in group for group in sentence.groups):
                slots.add(region.slot)
    return slots


def _row(split: str, index: int, number: int, config: SyntheticConfig, drawn: Drawn) -> dict:
    """A row with its faults."""
    key = (config.seed, SPLITS.index(split), index, number)
    rendering, captions = drawn.rendering, drawn.captions
    text_rng = np.random.default_rng((*key, _NOISE_TEXT))
    image_rng = np.random.default_rng((*key, _NOISE_IMAGE))
    quality = int(image_rng.integers(*_JPEG_QUALITY))
    pairs: dict[int, list[int]] = {}
    if text_rng.random() < config.noise.swapped and config.identities(split) > 1:
        captions = draw_image(split, (index + 1) % config.identities(split), number, config).captions
        claims = None
    else:
        claims = [[list(group) for group in sentence.groups] for sentence in captions.sentences]
        for n, sentence in enumerate(captions.sentences):
            for region in sentence.regions:
                pairs.setdefault(region, []).append(n)
    texts = [sentence.text for sentence in captions.sentences]
    short, texts, blank = add_text_faults(list(captions.short), texts, config.noise, text_rng)
    sentences, start = [], 0
    for text in texts:
        sentences.append({"text": text, "start": start, "end": start + len(text)})
        start += len(text) + len(blank)

    content, suffix = encode_with_faults(rendering.image, config.noise, image_rng, quality)
    boxes = thin_boxes({region.slot: region.box for region in rendering.regions}, config.noise, image_rng)
    regions = [
        {
            "bbox": [float(np.float32(v)) for v in boxes[region.slot]],  # streaming does not cast to float32
            "label": region.label,
            "sentence": sentence,
            "score": 1.0,
            "reliability": 1.0,
            "origin": "synthetic",
            "attributes": region.attributes,
        }
        for n, region in enumerate(rendering.regions)
        for sentence in pairs.get(n, [-1])
    ]
    image_id = format_image_id(split, index, number)
    width, height = rendering.image.size
    return {
        "image": {"bytes": content, "path": image_id + suffix} if content is not None else None,
        "path": image_id + suffix,
        "sha256": hashlib.sha256(content).hexdigest() if content is not None else None,
        "image_id": image_id,
        "width": width,
        "height": height,
        "person_id": config.first_person(split) + index,
        "source": "synthetic",
        "camera": drawn.view.camera,
        "parent": None,
        "captions": short,
        "caption": blank.join(texts),
        "caption_origin": ORIGINS[drawn.grammar],
        "sentences": sentences,
        "regions": regions,
        "claims": claims,
    }
