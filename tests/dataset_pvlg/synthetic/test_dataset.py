"""Rows of synthetic P-VLG version 2: deterministic, true of their images, and frozen."""

import hashlib
import io
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from dataset_pvlg.features import FEATURES, REGION_LABELS, SPLITS
from dataset_pvlg.synthetic import words
from dataset_pvlg.synthetic.baselines import NAMES, colour_map, nouns_of
from dataset_pvlg.synthetic.card import false_sentences
from dataset_pvlg.synthetic.dataset import (
    ORIGINS,
    SyntheticConfig,
    draw_image,
    edited_row,
    format_image_id,
    parse_image_id,
    possible_edits,
    rows,
)
from dataset_pvlg.synthetic.identities import identity_of, things_of
from dataset_pvlg.synthetic_v1.noise import Noise

SMALL = SyntheticConfig(train_identities=6, validation_identities=4, test_identities=6, images_per_identity=4)
FROZEN = (
    "16162e85b0ef47f497a4c9f0c4c144752ee8314c776012d7ae14e08c64473f6f",
    "d69ded666d35b4afc4dca578a8458a21e7f747952a50699592c4dce1c240a31d",
)


@pytest.fixture(scope="module")
def table() -> list[dict]:
    return [row for split in SPLITS for row in rows(split, 0, SMALL.identities(split), SMALL)]


def test_the_set_is_frozen():
    """A change of any text or image needs a new version of the generator and new measurements."""
    texts, images = hashlib.sha256(), hashlib.sha256()
    for split in SPLITS:
        for row in rows(split, 0, 2, SyntheticConfig()):
            images.update(row.pop("image")["bytes"])
            del row["sha256"]
            texts.update(json.dumps(row, sort_keys=True).encode())
    assert (texts.hexdigest(), images.hexdigest()) == FROZEN


def test_a_row_does_not_depend_on_the_others(table):
    first = SMALL.train_identities * 4
    more = SyntheticConfig(train_identities=6, validation_identities=9, test_identities=2)
    assert list(rows("validation", 2, 3, more)) == table[first + 8 : first + 12]


def test_rows_fit_the_schema(table):
    assert len({row["image_id"] for row in table}) == len(table)
    for row in table:
        assert list(row) == list(FEATURES) and FEATURES.encode_example(row)["image_id"] == row["image_id"]
        assert all(row["caption"][s["start"] : s["end"]] == s["text"] for s in row["sentences"])
        assert len(row["claims"]) == len(row["sentences"]) and len(row["captions"]) == 2
        with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
            assert image.size == (row["width"], row["height"])
        for region in row["regions"]:
            x, y, w, h = region["bbox"]
            assert x >= 0 and y >= 0 and w >= 7 and h >= 7 and x + w <= row["width"] and y + h <= row["height"]
            assert region["label"] in REGION_LABELS and -1 <= region["sentence"] < len(row["sentences"])
    people = Counter(row["person_id"] for row in table)
    assert people == dict.fromkeys(range(16), 4)


def test_every_sentence_is_true_of_its_image_and_of_its_regions(table):
    assert not false_sentences(table)
    changed = json.loads(json.dumps([row | {"image": None} for row in table]))
    row = next(row for row in changed if any(row["claims"]))
    sentence = next(n for n, groups in enumerate(row["claims"]) if groups)
    row["claims"][sentence][0].append("color=invisible")
    assert len(false_sentences(changed)) == 1


def test_a_sentence_names_what_it_claims(table):
    for row in table:
        for sentence, groups in zip(row["sentences"], row["claims"], strict=True):
            stated = {fact.partition("=")[2] for group in groups for fact in group}
            assert set(nouns_of(sentence["text"])) - {"hair", "bag", "cap"} <= stated, sentence["text"]
            assert 0 <= len(groups) <= 3 and all(groups)


def test_boxes_enclose_the_visible_part_and_colours_are_those_of_the_pixels():
    right, wrong = 0, []
    for index in range(12):
        drawn = draw_image("train", index, index % 4, SMALL)
        colours = colour_map(drawn.rendering.image, (drawn.view.width, drawn.view.height))
        for region in drawn.rendering.regions:
            mask = drawn.rendering.ids == region.number
            y, x = np.nonzero(mask)
            assert region.box == (x.min() / 2, y.min() / 2, (x.max() + 1 - x.min()) / 2, (y.max() + 1 - y.min()) / 2)
            inner = mask[::2, ::2] & mask[1::2, 1::2]
            if region.slot == "hair" or region.facts.get("pattern") != "plain" or inner.sum() < 80:
                continue
            named = NAMES[int(np.bincount(colours[inner]).argmax())]
            right += named == region.facts["color"]
            if named != region.facts["color"]:
                wrong.append((drawn.view.camera, region.facts["kind"], region.facts["color"], named))
    assert right >= 20 and len(wrong) <= 0.1 * right, wrong


def test_the_second_grammar_and_unseen_words_are_in_test_only():
    unseen = {word for table in (words.NOUNS, words.COLOURS) for common, rare in table.values() for word in rare
              if word not in {w for c, _ in table.values() for w in c}}  # fmt: skip
    for split, grammars in (("train", [0, 0, 0, 0]), ("test", [0, 1, 0, 1])):
        made = list(rows(split, 0, 6, SyntheticConfig()))
        assert [row["caption_origin"] for row in made] == [ORIGINS[g] for g in grammars] * 6
        text = " ".join(row["caption"] + " ".join(row["captions"]) for row in made).lower()
        assert any(word in text for word in unseen if " " not in word and len(word) > 5) == (split == "test")


def test_identities_differ_and_near_duplicates_differ_in_two_colours():
    people = [identity_of(0, split, n) for split in range(3) for n in range(400)]
    assert len(set(people)) == len(people)
    for n in range(7, 400, 8):
        before, after = things_of(identity_of(0, 0, n - 1)), things_of(identity_of(0, 0, n))
        changed = [slot for slot in before if before[slot] != after[slot]]
        assert set(before) == set(after) and 1 <= len(changed) <= 2
        assert all(before[slot].colour != after[slot].colour for slot in changed)


def test_an_edited_row_shows_and_names_another_colour():
    for index in range(3):
        name, row = edited_row("train", index, 1, SMALL)
        kind, _, colour = name.rpartition("-")
        own = list(rows("train", index, index + 1, SMALL))[1]
        assert list(row) == list(FEATURES) and row["parent"] == own["image_id"] == format_image_id("train", index, 1)
        assert row["image_id"] == f"generated/{row['parent']}_{name}" and row["image"]["bytes"] != own["image"]["bytes"]
        assert not false_sentences([row]) and f"color={colour}" in str(row["claims"])
        before, after = ({tuple(r["bbox"]): r["attributes"] for r in one["regions"]} for one in (own, row))
        assert set(before) == set(after)  # nothing moves
        changed = [box for box in before if f"color={colour}" in after[box] and f"color={colour}" not in before[box]]
        assert len(changed) == 1
    assert parse_image_id("synthetic-v2/train/000003_1") == ("train", 3, 1)
    for wrong in ("cuhk/1.jpg", "synthetic-v1/train/000003_1", "synthetic-v2/query/000003_1"):
        with pytest.raises(ValueError, match="image_id"):
            parse_image_id(wrong)
    with pytest.raises(ValueError, match="image_id"):
        edited_row("train", 6, 0, SMALL)
    assert len(possible_edits("train", 0, SMALL)) >= 3


def test_faults_are_off_by_default_and_swapped_captions_have_no_claims():
    noisy = SyntheticConfig(2, 1, 2, 1, noise=Noise(swapped=1.0, thin_box=1.0))
    for row in rows("train", 0, 2, noisy):
        assert row["claims"] is None and {region["sentence"] for region in row["regions"]} == {-1}
        assert min(region["bbox"][2] for region in row["regions"]) == 1.0


@pytest.mark.parametrize(
    ("field", "value"), [("train_identities", -1), ("seed", -1), ("images_per_identity", 0), ("test_identities", -3)]
)
def test_impossible_sizes_name_the_field(field, value):
    with pytest.raises(ValueError, match=field):
        SyntheticConfig(**{field: value})
