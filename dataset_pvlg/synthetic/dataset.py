"""Embedded synthetic P-VLG: procedural pedestrians as schema rows, deterministic from a seed and an index.

No asset files and no state: row (split, identity, image) is the same whatever else is generated, in any process.
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
from dataset_pvlg.synthetic.captions import Captions, write_captions
from dataset_pvlg.synthetic.identities import RECOLOURED, Identity, recoloured, sample_identities
from dataset_pvlg.synthetic.noise import Noise, add_text_faults, encode_with_faults, thin_boxes
from dataset_pvlg.synthetic.render import Rendering, View, render, sample_view

GENERATOR_VERSION = "v1"  # any change of image or text bumps it, and every table is run again

_VIEW, _RENDER, _CAPTION, _NOISE_TEXT, _NOISE_IMAGE, _EDIT = range(6)
_JPEG_QUALITY = (70, 95)
_STRETCH = 6_000_000  # identities between the starts of two splits


@dataclass(frozen=True)
class SyntheticConfig:
    """Sizes and faults. Identities are drawn for train, validation and test in this order, none shared."""

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
        return getattr(self, f"{split}_identities")

    def first_person(self, split: str) -> int:
        """person_id of the split's first identity: ids are contiguous over train, validation, test."""
        return sum(self.identities(before) for before in SPLITS[: SPLITS.index(split)])


@lru_cache(maxsize=8)
def split_identities(split: str, config: SyntheticConfig) -> tuple[Identity, ...]:
    """All identities of a split.

    Each split has its own stretch of the seed's endless sequence, so that the test split is the same however many
    identities are trained on; the later of (test, validation, train) leaves out what an earlier one holds.
    """
    order = ("test", "validation", "train")
    taken = {person for before in order[: order.index(split)] for person in split_identities(before, config)}
    count, spare = config.identities(split), 0
    while True:
        drawn = sample_identities(config.seed, order.index(split) * _STRETCH, count + spare)
        kept = [person for person in drawn if person not in taken]
        if len(kept) >= count:
            return tuple(kept[:count])
        spare = 2 * spare + 64


def image(split: str, index: int, number: int, config: SyntheticConfig) -> tuple[View, Rendering, Captions]:
    """View, rendering and clean captions of image `number` of the split's identity `index`."""
    key = (config.seed, SPLITS.index(split), index, number)
    identity = split_identities(split, config)[index]
    view = sample_view(np.random.default_rng((*key, _VIEW)))
    drawn = render(identity, view, np.random.default_rng((*key, _RENDER)))
    captions = write_captions(
        identity, view, drawn.visible, frozenset(drawn.boxes), np.random.default_rng((*key, _CAPTION))
    )
    return view, drawn, captions


def rows(split: str, start: int, stop: int, config: SyntheticConfig) -> Iterator[dict]:
    """P-VLG rows of identities start..stop-1 of a split, images_per_identity each."""
    for index in range(start, min(stop, config.identities(split))):
        for number in range(config.images_per_identity):
            yield _row(split, index, number, config)


def format_image_id(split: str, index: int, number: int) -> str:
    return f"synthetic-{GENERATOR_VERSION}/{split}/{index:06d}_{number}"


def parse_image_id(image_id: str) -> tuple[str, int, int]:
    """Split, identity and number of an image; the other way round than `format_image_id`.

    Raises:
        ValueError: the image_id is not one of this generator's images.
    """
    found = re.fullmatch(rf"synthetic-{GENERATOR_VERSION}/([a-z]+)/(\d+)_(\d+)", image_id)
    if not found or found[1] not in SPLITS:
        raise ValueError(f"image_id {image_id!r}: no image of synthetic P-VLG {GENERATOR_VERSION}")
    return found[1], int(found[2]), int(found[3])


@lru_cache(maxsize=8)
def _people(config: SyntheticConfig) -> frozenset[Identity]:
    return frozenset(person for split in SPLITS for person in split_identities(split, config))


def possible_edits(split: str, index: int, config: SyntheticConfig) -> list[tuple[str, Identity]]:
    """(field, edited identity) for everything of this person that can have another colour, in an order of its own.

    None is a person of any split. All images of a person share these edits, so that an edit of several is one new
    person.
    """
    identity = split_identities(split, config)[index]
    rng = np.random.default_rng((config.seed, SPLITS.index(split), index, 0, _EDIT))
    fields = [field for field in RECOLOURED if getattr(identity, field)]
    found = []
    for n in rng.permutation(len(fields)):
        edited = next((e for _ in range(8) if (e := recoloured(rng, identity, fields[n])) not in _people(config)), None)
        if edited is not None:
            found.append((fields[n], edited))
    return found


def edited_image(
    split: str, index: int, number: int, config: SyntheticConfig
) -> tuple[str, Identity, View, Rendering, Captions] | None:
    """The same image with one thing in another colour, in the image and in every caption: same person, pose,
    camera and scene. None where nothing that could change is both visible and named in the long caption.

    Returns:
        The changed field of Identity, the edited identity, and as [`image`] view, rendering and captions.
    """
    key = (config.seed, SPLITS.index(split), index, number)
    identity = split_identities(split, config)[index]
    view, before, captions = image(split, index, number, config)
    named = before.visible & frozenset().union(*captions.named)
    for field, edited in possible_edits(split, index, config):
        if field in named:
            drawn = render(edited, view, np.random.default_rng((*key, _RENDER)), built_as=identity)
            said = write_captions(
                identity,
                view,
                before.visible,
                frozenset(before.boxes),
                np.random.default_rng((*key, _CAPTION)),
                {field: getattr(edited, field)},
            )
            return field, edited, view, drawn, said
    return None


def edited_row(split: str, index: int, number: int, config: SyntheticConfig) -> tuple[str, dict] | None:
    """`field-colour` and the P-VLG row of [`edited_image`], clean whatever the noise; its person_id is the parent's.

    Raises:
        ValueError: there is no such image.
    """
    if not (index < config.identities(split) and number < config.images_per_identity):
        raise ValueError(f"image_id {format_image_id(split, index, number)!r}: not an image of this data set")
    found = edited_image(split, index, number, config)
    if found is None:
        return None
    field, edited, view, drawn, captions = found
    row = _row(split, index, number, replace(config, noise=Noise()), (view, drawn, captions))
    what = f"{field.removesuffix('_colour')}-{getattr(edited, field)}"
    image_id = f"generated/{row['image_id']}_{what}"
    return what, row | {
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
    made: tuple[View, Rendering, Captions] | None = None,
) -> dict:
    key = (config.seed, SPLITS.index(split), index, number)
    view, drawn, captions = made or image(split, index, number, config)
    text_rng = np.random.default_rng((*key, _NOISE_TEXT))
    image_rng = np.random.default_rng((*key, _NOISE_IMAGE))
    quality = int(image_rng.integers(*_JPEG_QUALITY))

    swapped = text_rng.random() < config.noise.swapped and config.identities(split) > 1
    said = image(split, (index + 1) % config.identities(split), number, config)[2] if swapped else captions
    short, texts, blank = add_text_faults(said, config.noise, text_rng)
    sentences, at = [], 0
    for text in texts:
        sentences.append({"text": text, "start": at, "end": at + len(text)})
        at += len(text) + len(blank)

    content, suffix = encode_with_faults(drawn.image, config.noise, image_rng, quality)
    boxes = thin_boxes(drawn.boxes, config.noise, image_rng)
    image_id = format_image_id(split, index, number)
    width, height = drawn.image.size
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
        "regions": _regions(boxes, [label for _, label in said.sentences]),
    }


def _regions(boxes: dict[str, tuple], labels: list[str | None]) -> list[dict]:
    """One entry for each sentence about a box, or one with sentence -1 where a box is not spoken of."""
    entries = []
    for label, box in boxes.items():
        for sentence in [n for n, about in enumerate(labels) if about == label] or [-1]:
            entries.append(
                {
                    "bbox": [float(np.float32(v)) for v in box],  # streaming does not cast, so round here
                    "label": label,
                    "sentence": sentence,
                    "score": 1.0,
                    "reliability": 1.0,
                    "origin": "synthetic",
                }
            )
    return entries
