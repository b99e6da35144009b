"""Colour edits of version 1: what an edit does not change."""

import io

import numpy as np
import pytest
from PIL import Image

from dataset_pvlg.features import FEATURES
from dataset_pvlg.synthetic_v1.dataset import (
    SyntheticConfig,
    edited_image,
    edited_row,
    image,
    parse_image_id,
    possible_edits,
    split_identities,
)
from dataset_pvlg.synthetic_v1.draw_camera import CAMERAS
from dataset_pvlg.synthetic_v1.identities import RECOLOURED

SMALL = SyntheticConfig(24, 4, 4, 2)
# Field -> the region that shows it; a blur or a JPEG block spreads its colour by up to REACH pixels.
REGIONS = {"upper": "upper body", "inner": "upper body", "lower": "lower body", "shoe": "feet", "headwear": "head"}
REACH = 18


def test_an_edited_pair_differs_in_one_garment_only() -> None:
    tried = 0
    for index in range(14):
        field, edited, view, drawn, new_captions = edited_image("train", index, 0, SMALL)
        own = split_identities("train", SMALL)[index]
        assert {f for f in vars(own) if vars(own)[f] != vars(edited)[f]} == {field}
        own_view, before, captions = image("train", index, 0, SMALL)
        assert view == own_view and drawn.boxes == before.boxes and drawn.visible == before.visible

        # Words: in all captions only the colour differs; sentences about other regions are equal.
        changed = set()
        for old, new in zip([captions.long, *captions.short], [new_captions.long, *new_captions.short], strict=True):
            old, new = old.split(), new.split()
            assert len(old) == len(new)
            changed |= {(a.strip(".,"), b.strip(".,")) for a, b in zip(old, new, strict=True) if a != b}
        assert {new for _, new in changed} - {"a", "an", "A", "An"} == {getattr(edited, field)}
        for (old, label), (new, again), named in zip(
            captions.sentences, new_captions.sentences, captions.named, strict=True
        ):
            assert label == again and (field in named or old == new)

        # Pixels: only those of the garment differ, up to the compression of the camera.
        part = field.removesuffix("_colour")
        there = np.abs(np.asarray(drawn.image).astype(int) - np.asarray(before.image)).max(axis=2)
        assert there.max() > 30
        if part not in REGIONS or (part == "upper" and own.upper_type == "dress"):
            continue
        x, y, w, h = before.boxes[REGIONS[part]]
        top, left = max(0, int(y) - REACH), max(0, int(x) - REACH)
        inside = there[top : int(y + h) + REACH, left : int(x + w) + REACH].copy()
        there[top : int(y + h) + REACH, left : int(x + w) + REACH] = 0
        assert inside.max() > 30 and there.max() <= (3 if CAMERAS[view.camera].jpeg else 0)
        tried += 1
    assert tried >= 5


def test_edits_give_new_identities_and_are_shared_by_all_images_of_a_person() -> None:
    existing = {p for split in ("train", "validation", "test") for p in split_identities(split, SMALL)}
    for index in range(24):
        edits = possible_edits("train", index, SMALL)
        assert not existing & {edited for _, edited in edits}
        assert {field for field, _ in edits} <= set(RECOLOURED)
        if index < 4:
            both = [edited_image("train", index, number, SMALL)[:2] for number in range(2)]
            assert all(edit in edits for edit in both)
        for _, edited in edits:
            assert edited.upper_colour != edited.inner_colour


def test_an_edited_row_fits_the_schema_and_names_its_parent() -> None:
    what, row = edited_row("train", 3, 1, SMALL)
    kind, colour = what.split("-")
    assert list(row) == list(FEATURES) and FEATURES.encode_example(row)["source"] == "generated"
    assert row["parent"] == "synthetic-v1/train/000003_1" and row["image_id"] == f"generated/{row['parent']}_{what}"
    assert colour in row["caption"] and f"{kind}_colour" in RECOLOURED
    assert all(row["caption"][s["start"] : s["end"]] == s["text"] for s in row["sentences"])
    with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
        assert image.size == (row["width"], row["height"])
    assert parse_image_id(row["parent"]) == ("train", 3, 1)
    for wrong in ("cuhk/1.jpg", "synthetic-v0/train/000003_1", "synthetic-v1/query/000003_1"):
        with pytest.raises(ValueError, match="image_id"):
            parse_image_id(wrong)
    with pytest.raises(ValueError, match="image_id"):
        edited_row("train", 24, 0, SMALL)
