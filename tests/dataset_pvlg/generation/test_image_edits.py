"""Colour words swapped in text, and images edited by tiny random pipelines of diffusers, loaded as real ones are."""

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
    swap_in_row,
)
from modeling_rogle.sentences import split_sentences
from train.small_model import train_tokenizer

JACKET = ColourEdit("red", "orange", "upper", "jacket")


def test_a_colour_belongs_to_the_noun_after_it_or_to_the_one_before() -> None:
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
        "She has red hair.",  # hair stays
        "A jacket. It is red.",  # of another sentence
    ],
)
def test_a_colour_that_is_not_of_one_thing_alone_stays(text: str) -> None:
    assert "red" not in coloured_things([text])
    assert choose_edit([text], np.random.default_rng(0)) is None


def test_the_new_colour_is_one_that_no_caption_names() -> None:
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


def test_sentences_of_a_row_stay_where_they_say() -> None:
    caption = "A man wears a red jacket.His red jacket is open.  Blue jeans."
    sentences = [{"text": t, "start": a, "end": b} for t, a, b in split_sentences(caption)]
    row = swap_in_row({"caption": caption, "sentences": sentences, "captions": ["a red jacket"]}, JACKET)
    assert row["caption"] == "A man wears an orange jacket.His orange jacket is open.  Blue jeans."
    assert [row["caption"][s["start"] : s["end"]] for s in row["sentences"]] == [s["text"] for s in row["sentences"]]
    assert row["captions"] == ["an orange jacket"] and len(row["sentences"]) == 3


def test_nothing_outside_the_boxes_changes() -> None:
    black, white = Image.new("RGB", (20, 40)), Image.new("RGB", (20, 40), "white")
    found = np.asarray(paste_inside(black, white, [(4, 10, 10, 20)]))[..., 0]
    assert found[20, 9] > 240  # a box this small is all edge
    found = found.copy()
    found[10:30, 4:14] = 0
    assert not found.any()


# ---------------------------------------------------------------------------------------------- diffusers
@pytest.fixture(scope="module", params=["instruction", "inversion"])
def pipeline(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random pipeline: InstructPix2Pix, or plain Stable Diffusion, which is inverted."""
    diffusers = pytest.importorskip("diffusers")
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    tokenizer = train_tokenizer(["make the red jacket blue, black and white shoes"] * 20, max_length=16)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    instructed = request.param == "instruction"
    kind = diffusers.StableDiffusionInstructPix2PixPipeline if instructed else diffusers.StableDiffusionPipeline
    made = kind(
        vae=diffusers.AutoencoderKL(
            block_out_channels=(8,) * 4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=4,
            sample_size=64,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=diffusers.UNet2DConditionModel(
            sample_size=8,
            in_channels=8 if instructed else 4,
            block_out_channels=(8,) * 3,
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D",) * 3,
            up_block_types=("CrossAttnUpBlock2D",) * 3,
            cross_attention_dim=8,
            norm_num_groups=4,
            attention_head_dim=4,
        ),
        scheduler=diffusers.DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    folder = tmp_path_factory.mktemp("editor") / request.param
    made.save_pretrained(folder)
    return folder


def test_a_pipeline_edits_inside_the_boxes_and_repeats_itself(pipeline: Path) -> None:
    editor = ImageEditor(str(pipeline), steps=3, device="cpu")
    assert editor.instructed == (pipeline.name == "instruction")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 40, 3), dtype=np.uint8))
    box = (5, 20, 25, 40)
    found = editor.edit(image, JACKET, [box], seed=1)
    assert found.size == image.size and found.mode == "RGB"
    changed = np.abs(np.asarray(found).astype(int) - np.asarray(image)).max(axis=2)
    assert changed[30:50, 12:24].mean() > 5
    changed[20:60, 5:30] = 0
    assert not changed.any()
    assert editor.edit(image, JACKET, [box], seed=1).tobytes() == found.tobytes()
    assert editor.edit(image, JACKET, [box], seed=2).tobytes() != found.tobytes()


def test_a_model_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    with pytest.raises(ValueError, match="--editor .*nowhere") as caught:
        ImageEditor(str(tmp_path / "nowhere"))
    assert "\n" not in str(caught.value)
