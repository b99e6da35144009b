"""Synthetic P-VLG: rows of procedural pedestrians, determined by a seed and an index.

There are no asset files and no state. Row (split, identity, image) does not depend on the other rows that are generated
or on the process that generates it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from dataclasses import field as default
from functools import lru_cache

import numpy as np

from dataset_pvlg.features import SPLITS
from dataset_pvlg.synthetic_v1.captions import Captions, write_captions
from dataset_pvlg.synthetic_v1.identities import RECOLOURED, Identity, recolour, sample_identities
from dataset_pvlg.synthetic_v1.noise import Noise, add_text_faults, encode_with_faults, thin_boxes
from dataset_pvlg.synthetic_v1.render import Rendering, View, render, sample_view

GENERATOR_VERSION = "v1"  # a change of any image or text needs a new version and new measurements

_VIEW, _RENDER, _CAPTION, _NOISE_TEXT, _NOISE_IMAGE, _EDIT = range(6)
_JPEG_QUALITY = (70, 95)
_EDIT_ATTEMPTS = 8  # to find a colour that gives a new identity
_SPLIT_DISTANCE = 6_000_000  # identities between the starts of two splits


@dataclass(frozen=True)
class SyntheticConfig:
    """Sizes and faults of a synthetic data set. The splits share no identity.

    Args:
        train_identities: number of identities in train. Default: 1500.
        validation_identities: number of identities in validation. Default: 150.
        test_identities: number of identities in test. Default: 200.
        images_per_identity: number of images of each identity. Default: 4.
        seed: seed of all random choices. Default: 0.
        noise: rates of faults. Default: none.

    Raises:
        ValueError: a number is out of range; the message names the field.
    """

    train_identities: int = 1500
    validation_identities: int = 150
    test_identities: int = 200
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


@lru_cache(maxsize=8)
def split_identities(split: str, config: SyntheticConfig) -> tuple[Identity, ...]:
    """All identities of a split.

    Each split has its own part of the seed's infinite sequence, so that the test split does not depend on the number of
    training identities. Identities of test are left out of validation, and those of both are left out of train.

    Args:
        split: train, validation or test.
        config: sizes and seed.
    """
    order = ("test", "validation", "train")
    used = {person for before in order[: order.index(split)] for person in split_identities(before, config)}
    count, extra = config.identities(split), 0
    while True:
        sampled = sample_identities(config.seed, order.index(split) * _SPLIT_DISTANCE, count + extra)
        unused = [person for person in sampled if person not in used]
        if len(unused) >= count:
            return tuple(unused[:count])
        extra = 2 * extra + 64


def image(split: str, index: int, number: int, config: SyntheticConfig) -> tuple[View, Rendering, Captions]:
    """Renders one image and writes its captions, without faults.

    Args:
        split: train, validation or test.
        index: index of the identity in the split.
        number: number of the image of this identity.
        config: sizes and seed.

    Returns:
        The view, the rendering and the captions.
    """
    key = (config.seed, SPLITS.index(split), index, number)
    identity = split_identities(split, config)[index]
    view = sample_view(np.random.default_rng((*key, _VIEW)))
    rendering = render(identity, view, np.random.default_rng((*key, _RENDER)))
    labels = frozenset(rendering.boxes)
    captions = write_captions(identity, view, rendering.visible, labels, np.random.default_rng((*key, _CAPTION)))
    return view, rendering, captions


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
            yield _row(split, index, number, config)


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


@lru_cache(maxsize=8)
def _all_identities(config: SyntheticConfig) -> frozenset[Identity]:
    return frozenset(person for split in SPLITS for person in split_identities(split, config))


def possible_edits(split: str, index: int, config: SyntheticConfig) -> list[tuple[str, Identity]]:
    """All colour edits of an identity that give no identity of any split.

    All images of an identity share these edits, so that equal edits of several images show one new identity.

    Args:
        split: train, validation or test.
        index: index of the identity in the split.
        config: sizes and seed.

    Returns:
        (edited field, edited identity) for everything that can have another colour, in a random but fixed order.
    """
    identity = split_identities(split, config)[index]
    rng = np.random.default_rng((config.seed, SPLITS.index(split), index, 0, _EDIT))
    fields = [field for field in RECOLOURED if getattr(identity, field)]
    existing = _all_identities(config)
    edits = []
    for n in rng.permutation(len(fields)):
        attempts = (recolour(rng, identity, fields[n]) for _ in range(_EDIT_ATTEMPTS))
        edited = next((attempt for attempt in attempts if attempt not in existing), None)
        if edited is not None:
            edits.append((fields[n], edited))
    return edits


def edited_image(
    split: str, index: int, number: int, config: SyntheticConfig
) -> tuple[str, Identity, View, Rendering, Captions] | None:
    """Draws an image again with one thing in another colour; person, pose, camera and scene stay the same.

    Args:
        split: train, validation or test.
        index: index of the identity in the split.
        number: number of the image of this identity.
        config: sizes and seed.

    Returns:
        The edited field of `Identity`, the edited identity, and the view, rendering and captions with the new colour.
        None if nothing that could change is both visible and named in the long caption.
    """
    key = (config.seed, SPLITS.index(split), index, number)
    identity = split_identities(split, config)[index]
    view, before, captions = image(split, index, number, config)
    named = before.visible & frozenset().union(*captions.named)
    for field, edited in possible_edits(split, index, config):
        if field in named:
            rendering = render(edited, view, np.random.default_rng((*key, _RENDER)), built_as=identity)
            new_captions = write_captions(
                identity,
                view,
                before.visible,
                frozenset(before.boxes),
                np.random.default_rng((*key, _CAPTION)),
                {field: getattr(edited, field)},
            )
            return field, edited, view, rendering, new_captions
    return None


def edited_row(split: str, index: int, number: int, config: SyntheticConfig) -> tuple[str, dict] | None:
    """The P-VLG row of [`edited_image`], without faults.

    Args:
        split: train, validation or test.
        index: index of the identity in the split.
        number: number of the image of this identity.
        config: sizes and seed.

    Returns:
        The name of the edit, `kind-colour`, and the row, whose person_id is that of the original. None if the image
        cannot be edited.

    Raises:
        ValueError: the image does not exist.
    """
    if not (index < config.identities(split) and number < config.images_per_identity):
        raise ValueError(f"image_id {format_image_id(split, index, number)!r}: not an image of this data set")
    edit = edited_image(split, index, number, config)
    if edit is None:
        return None
    field, edited, view, rendering, captions = edit
    row = _row(split, index, number, replace(config, noise=Noise()), (view, rendering, captions))
    name = f"{field.removesuffix('_colour')}-{getattr(edited, field)}"
    image_id = f"generated/{row['image_id']}_{name}"
    return name, row | {
        "image_id": image_id,
        "path": f"{image_id}.jpg",
        "image": row["image"] | {"path": f"{image_id}.jpg"},
        "source": "generated",
        "parent": row["image_id"],
    }


def _row(
    split: str,
    index: int,
    number: int,
    config: SyntheticConfig,
    rendered: tuple[View, Rendering, Captions] | None = None,
) -> dict:
    """A row with its faults; `rendered` replaces the result of [`image`]."""
    key = (config.seed, SPLITS.index(split), index, number)
    view, rendering, captions = rendered or image(split, index, number, config)
    text_rng = np.random.default_rng((*key, _NOISE_TEXT))
    image_rng = np.random.default_rng((*key, _NOISE_IMAGE))
    quality = int(image_rng.integers(*_JPEG_QUALITY))

    swapped = text_rng.random() < config.noise.swapped and config.identities(split) > 1
    if swapped:
        captions = image(split, (index + 1) % config.identities(split), number, config)[2]
    short, texts, blank = add_text_faults(
        list(captions.short), [t for t, _ in captions.sentences], config.noise, text_rng
    )
    sentences, start = [], 0
    for text in texts:
        sentences.append({"text": text, "start": start, "end": start + len(text)})
        start += len(text) + len(blank)

    content, suffix = encode_with_faults(rendering.image, config.noise, image_rng, quality)
    boxes = thin_boxes(rendering.boxes, config.noise, image_rng)
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
        "camera": view.camera,
        "parent": None,
        "captions": short,
        "caption": blank.join(texts),
        "caption_origin": "synthetic",
        "sentences": sentences,
        "regions": _regions(boxes, [label for _, label in captions.sentences]),
        "claims": None,
    }


def _regions(boxes: dict[str, tuple], labels: list[str | None]) -> list[dict]:
    """One entry for each sentence about a box, or one entry with sentence -1 for a box without a sentence."""
    entries = []
    for label, box in boxes.items():
        for sentence in [n for n, other in enumerate(labels) if other == label] or [-1]:
            entries.append(
                {
                    "bbox": [float(np.float32(v)) for v in box],  # streaming does not cast to float32
                    "label": label,
                    "sentence": sentence,
                    "score": 1.0,
                    "reliability": 1.0,
                    "origin": "synthetic",
                    "attributes": None,
                }
            )
    return entries
