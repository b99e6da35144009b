"""Colour edits of texts, and of images by tiny random diffusers pipelines that are loaded like real ones."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset_pvlg.generation.image_edits import (
    ColourEdit,
    ImageEditor,
    choose_edit,
    coloured_things,
    paste_inside,
    swap_colour,
    swap_row_colour,
)
from modeling_rogle.sentences import split_sentences

JACKET = ColourEdit("red", "orange", "upper", "jacket")


def test_a_colour_belongs_to_the_noun_after_it_or_before_it() -> None:
    assert coloured_things(["A man in a red striped jacket. His shoes are white."]) == {
        "red": ("upper", "jacket"),
        "white": ("shoes", "shoes"),
    }
    assert coloured_things(["He has a gray bag.", "The bag is grey."]) == {"grey": ("bag", "bag")}


@pytest.mark.parametrize(
    "text",
    [
        "A red jacket and a red bag.",  # two things
        "A red jacket. Something red is there.",  # something unknown
        "She has red hair.",  # hair is not edited
        "A jacket. It is red.",  # in another sentence
    ],
)
def test_a_colour_of_several_or_unknown_things_stays(text: str) -> None:
    assert "red" not in coloured_things([text])
    assert choose_edit([text], np.random.default_rng(0)) is None


def test_no_caption_names_the_new_colour() -> None:
    texts = ["A red jacket over blue jeans and black shoes.", "The jacket is red, his bag is pink."]
    for seed in range(40):
        edit = choose_edit(texts, np.random.default_rng(seed))
        assert edit.old in ("red", "blue", "black", "pink")
        assert edit.new not in ("red", "blue", "black", "pink")
        assert all(edit.old not in swap_colour(text, edit) for text in texts)


def test_articles_capitals_and_spellings_follow() -> None:
    assert swap_colour("A red jacket. Red it is; bored.", JACKET) == "An orange jacket. Orange it is; bored."
    back = ColourEdit("orange", "red", "upper", "jacket")
    assert swap_colour("an orange jacket", back) == "a red jacket"
    assert swap_colour("Gray and grey shoes", ColourEdit("grey", "blue", "shoes", "shoes")) == "Blue and blue shoes"


def test_offsets_of_a_row_stay_correct() -> None:
    caption = "A man wears a red jacket.His red jacket is open.  Blue jeans."
    sentences = [{"text": t, "start": a, "end": b} for t, a, b in split_sentences(caption)]
    row = swap_row_colour({"caption": caption, "sentences": sentences, "captions": ["a red jacket"]}, JACKET)
    assert row["caption"] == "A man wears an orange jacket.His orange jacket is open.  Blue jeans."
    assert [row["caption"][s["start"] : s["end"]] for s in row["sentences"]] == [s["text"] for s in row["sentences"]]
    assert row["captions"] == ["an orange jacket"] and len(row["sentences"]) == 3


def test_nothing_outside_the_boxes_changes() -> None:
    black, white = Image.new("RGB", (20, 40)), Image.new("RGB", (20, 40), "white")
    pasted = np.asarray(paste_inside(black, white, [(4, 10, 10, 20)]))[..., 0]
    assert pasted[20, 9] > 240  # a box of this size is blended everywhere
    pasted = pasted.copy()
    pasted[10:30, 4:14] = 0
    assert not pasted.any()


def test_a_pipeline_edits_inside_the_boxes_and_is_deterministic(pipeline: Path) -> None:
    editor = ImageEditor(str(pipeline), steps=3, device="cpu")
    assert editor.follows_instructions == (pipeline.name == "instruction")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 40, 3), dtype=np.uint8))
    box = (5, 20, 25, 40)
    edited = editor.edit(image, JACKET, [box], seed=1)
    assert edited.size == image.size and edited.mode == "RGB"
    changed = np.abs(np.asarray(edited).astype(int) - np.asarray(image)).max(axis=2)
    assert changed[30:50, 12:24].mean() > 5
    changed[20:60, 5:30] = 0
    assert not changed.any()
    assert editor.edit(image, JACKET, [box], seed=1).tobytes() == edited.tobytes()
    assert editor.edit(image, JACKET, [box], seed=2).tobytes() != edited.tobytes()


def test_an_unreadable_model_is_reported_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    with pytest.raises(ValueError, match="--editor .*nowhere") as caught:
        ImageEditor(str(tmp_path / "nowhere"))
    assert "\n" not in str(caught.value)
