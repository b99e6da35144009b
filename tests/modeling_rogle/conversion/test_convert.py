"""Each layout is checked against a plain-torch forward pass; unused weights are reported; refusals are one line."""

import json
import math
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTokenizer

from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.cli.main import main
from modeling_rogle.conversion.convert import ConvertError, convert_checkpoint, rogle_from_layout
from modeling_rogle.conversion.layouts import recognise
from tests.helpers.checkpoint_layouts import (
    LENGTH,
    PATCH,
    SIDE,
    TALL,
    WIDTH,
    captions,
    encode_image,
    encode_text,
    image_tokens,
    irra_state,
    long_clip_state,
    open_clip_state,
    openai_state,
    rde_state,
    tbps_clip_state,
    text_tokens,
    unit,
)


def converted(state, tmp_path: Path, wrapper: str | None = None, **kwargs):
    """The report and the model loaded back, from a file that torch.save wrote."""
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 3}, tmp_path / "file.pth")
    done = convert_checkpoint(tmp_path / "file.pth", tmp_path / "out", **kwargs)
    model, info = RogleModel.from_pretrained(done.folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    return done, model


def same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_openai_clip_embeds_as_its_layout_says(tmp_path: Path, suffix: str):
    state = openai_state()
    file = tmp_path / f"clip{suffix}"
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    done = convert_checkpoint(file, tmp_path / "out", (SIDE, SIDE), LENGTH)
    assert (done.folder, done.with_processor, done.layout) == (tmp_path / "out", False, "OpenAI CLIP")
    assert sorted(os.listdir(tmp_path)) == [file.name, "out"]

    model = RogleModel.from_pretrained(tmp_path / "out")
    pixels, ids = torch.randn(2, 3, SIDE, SIDE), captions(LENGTH)
    same(model.encode_images(pixels)[0], encode_image(state, pixels))
    same(model.encode_texts(ids), encode_text(state, ids))
    assert model.logit_scale.item() == 3.0
    assert done.parameters == sum(value.numel() for value in state.values()) + 1  # the region head's scale
    assert not done.unused


def test_a_stretched_table_keeps_short_captions_and_half_precision_becomes_fp32():
    state = {key: value.half() for key, value in openai_state().items()}
    state["input_resolution"] = torch.tensor(SIDE)  # the archives carry three such numbers
    layout = recognise(state, "clip.pt")
    assert layout.name == "OpenAI CLIP" and not layout.notes  # they are OpenAI's mark
    model = rogle_from_layout(layout, (64, 32), 60)
    assert model.dtype == torch.float32 and model.config.text_config.max_position_embeddings == 60
    assert model.config.patch_grid == (8, 4)
    wide, ids = {key: value.float() for key, value in state.items()}, captions(20)
    same(model.encode_texts(ids), encode_text(wide, ids))
    assert model.encode_texts(captions(60)).isfinite().all()
    assert model.encode_images(torch.randn(1, 3, 64, 32))[0].isfinite().all()


def test_open_clip_with_a_text_tower_apart_has_plain_gelu(tmp_path: Path):
    state = open_clip_state()
    trained = {f"module.{key}": value for key, value in state.items()} | {"module.logit_bias": torch.zeros(1)}
    done, model = converted(trained, tmp_path, "state_dict", image_size=(SIDE, SIDE), max_position_embeddings=LENGTH)
    assert done.layout == "open_clip" and done.unused == {"logit_bias": (1, 1)} and "gelu" in done.notes[0]
    pixels, ids, gelu = torch.randn(2, 3, SIDE, SIDE), captions(LENGTH), nn.functional.gelu
    same(model.encode_images(pixels)[0], encode_image(state, pixels, activation=gelu))
    tokens = text_tokens(state, ids, "text.", gelu)[torch.arange(3), ids.argmax(-1)]
    same(model.encode_texts(ids), unit(tokens @ state["text.text_projection"]))


def test_open_clip_settings_give_heads_activation_and_pixels(tmp_path: Path):
    settings = {
        "model_cfg": {"vision_cfg": {"head_width": 32}, "text_cfg": {"width": WIDTH, "heads": 8}, "quick_gelu": True},
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(settings))
    state = openai_state()
    done, model = converted(state, tmp_path, image_size=(SIDE, SIDE), max_position_embeddings=LENGTH)
    assert done.layout == "open_clip" and not done.notes
    pixels, ids = torch.randn(2, 3, SIDE, SIDE), captions(LENGTH)
    same(model.encode_images(pixels)[0], encode_image(state, pixels, head=32))
    same(model.encode_texts(ids), encode_text(state, ids, head=16))


def test_the_activation_may_be_given_and_an_assumption_is_noted(tmp_path: Path):
    state, pixels = openai_state(), torch.randn(1, 3, SIDE, SIDE)
    guessed = recognise(state, "clip.pt")
    assert "quick_gelu" in guessed.notes[0]
    given = recognise(state, "clip.pt", activation="gelu")
    assert not given.notes
    model = rogle_from_layout(given, (SIDE, SIDE))
    same(model.encode_images(pixels)[0], encode_image(state, pixels, activation=nn.functional.gelu))


def test_long_clip_reads_two_tables(tmp_path: Path):
    state = long_clip_state()
    done, model = converted(state, tmp_path, image_size=(SIDE, SIDE))
    assert done.layout == "Long-CLIP" and model.config.text_config.max_position_embeddings == 248
    first, later = torch.zeros(248, 1), torch.zeros(248, 1)  # mask1 and mask2 of its code
    first[:20], later[20:] = 1, 1
    positions = state["positional_embedding"] * first + state["positional_embedding_res"] * later
    ids, pixels = captions(248), torch.randn(2, 3, SIDE, SIDE)
    same(model.encode_texts(ids), encode_text(state, ids, positions=positions))
    same(model.encode_images(pixels)[0], encode_image(state, pixels))


@pytest.mark.parametrize(("name", "make"), [("IRRA", irra_state), ("RDE", rde_state)])
def test_irra_and_rde_keep_their_tall_grid_and_leave_their_heads_out(tmp_path: Path, name: str, make):
    state = make()
    done, model = converted(state, tmp_path, "model", max_position_embeddings=LENGTH)
    assert (done.layout, done.image_size) == (name, TALL)
    pixels, ids = torch.randn(2, 3, *TALL), captions(LENGTH)
    # As their encode_image and encode_text: every token is projected, one of them is taken.
    images = image_tokens(state, pixels, "base_model.") @ state["base_model.visual.proj"]
    same(model.encode_images(pixels)[0], unit(images[:, 0]))
    texts = text_tokens(state, ids, "base_model.") @ state["base_model.text_projection"]
    same(model.encode_texts(ids), unit(texts[torch.arange(3), ids.argmax(-1)]))
    assert math.isclose(model.logit_scale.exp().item(), 50, rel_tol=1e-5) and "0.02" in done.notes[-1]

    rest = {key: value for key, value in state.items() if not key.startswith("base_model.")}
    assert set(done.unused) == {key.split(".")[0] for key in rest}
    counts = [sum(pair[n] for pair in done.unused.values()) for n in (0, 1)]
    assert counts == [len(rest), sum(value.numel() for value in rest.values())]


def test_the_published_tall_grid_of_384_by_128(tmp_path: Path):
    state = {f"base_model.{key}": value for key, value in openai_state(grid=(24, 8)).items()}
    model = rogle_from_layout(recognise(state, "best.pth"))
    assert model.config.patch_grid == (24, 8) and model.config.image_size == [24 * PATCH, 8 * PATCH]
    torch.testing.assert_close(
        model.vision_model.embeddings.position_embedding.weight, state["base_model.visual.positional_embedding"]
    )


def test_tbps_clip_with_its_own_pixels(tmp_path: Path):
    state = tbps_clip_state()
    done, model = converted(state, tmp_path, "model", max_position_embeddings=LENGTH)
    assert (done.layout, done.image_size, done.notes) == ("TBPS-CLIP", (SIDE, SIDE), ())
    assert {"simclr_mlp", "mlm_head", "classifier"} <= set(done.unused) and "visual" not in done.unused
    pixels, ids = torch.randn(2, 3, SIDE, SIDE), captions(LENGTH)
    images = image_tokens(state, pixels) @ state["visual.proj"]
    same(model.encode_images(pixels)[0], unit(images[:, 0]))
    texts = text_tokens(state, ids, "encode_text.") @ state["encode_text.text_projection"]
    same(model.encode_texts(ids), unit(texts[torch.arange(3), ids.argmax(-1)]))
    assert model.logit_scale.item() == 3.0
    assert recognise(state, "x").pixels[0] == (0.485, 0.456, 0.406)


def _without(key):
    return lambda state: state.pop(key)


def _with(key, value):
    return lambda state: state.update({key: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("visual.proj"), "'visual_projection.weight'"),
        (_without("visual.conv1.weight"), "no key 'visual.conv1.weight'"),
        (_without("transformer.resblocks.0.attn.in_proj_bias"), "k_proj.bias"),
        (_with("positional_embedding_res", torch.zeros(2)), "'positional_embedding_res'"),
        (_with("visual.transformer.resblocks.0.ls_1.gamma", torch.zeros(2)), "ls_1.gamma"),
        (_with("transformer.resblocks.0.attn.gate", torch.zeros(2)), "resblocks.0.attn.gate"),
        (_with("visual.positional_embedding", torch.zeros(12, WIDTH)), "'visual.positional_embedding' has 12 rows"),
        (_with("ln_final.bias", torch.zeros(3)), "'ln_final.bias' has shape \\[3\\]"),
        (_with("visual.conv1.weight", torch.zeros(96, 3, PATCH, PATCH)), "not a multiple of 64"),
        (_with("token_embedding.weight", torch.zeros(8)), "'token_embedding.weight' has shape \\[8\\]"),
        (_with("transformer.resblocks.0.attn.in_proj_bias", torch.zeros(10)), "in_proj_bias"),
        (_with("ln_final.bias", torch.zeros(WIDTH, dtype=torch.int64)), "'ln_final.bias' has dtype torch.int64"),
    ],
)
def test_another_layout_is_named_by_its_key(change, message: str):
    state = openai_state()
    change(state)
    with pytest.raises(ConvertError, match=message) as caught:
        rogle_from_layout(recognise(state, "clip.pt"), (SIDE, SIDE), LENGTH, "clip.pt")
    assert str(caught.value).startswith("clip.pt: ") and "\n" not in str(caught.value)


def test_an_image_size_that_the_patches_do_not_divide_is_refused():
    with pytest.raises(ConvertError, match="multiple of patch_size 8"):
        rogle_from_layout(recognise(openai_state(), "clip.pt"), (33, 16))


def test_nothing_is_overwritten_and_no_partial_folder_remains(tmp_path: Path):
    torch.save(openai_state(), tmp_path / "clip.pt")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    with pytest.raises(ConvertError, match="not an empty folder"):
        convert_checkpoint(tmp_path / "clip.pt", tmp_path / "full")
    with pytest.raises(FileNotFoundError, match="nothing.pt: no such file"):
        convert_checkpoint(tmp_path / "nothing.pt", tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["clip.pt", "full"]
    assert (tmp_path / "full" / "mine.txt").read_text() == "keep"


def test_neighbours_are_kept_and_the_folder_may_be_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.save(openai_state(), tmp_path / "clip.pt")
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "mine.txt").write_text("keep")
    whole = convert_checkpoint(tmp_path / "clip.pt", tmp_path / "new" / "out", (SIDE, SIDE), LENGTH).folder
    convert_checkpoint(tmp_path / "clip.pt", tmp_path / "out", (SIDE, SIDE), LENGTH)
    assert (tmp_path / "out.part" / "mine.txt").read_text() == "keep"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    convert_checkpoint(tmp_path / "clip.pt", ".", (SIDE, SIDE), LENGTH)
    assert sorted(os.listdir(".")) == sorted(os.listdir(whole)) == sorted(os.listdir(tmp_path / "out"))
    assert RogleModel.from_pretrained(".").config.image_size == [SIDE, SIDE]
    assert os.stat(whole).st_mode == os.stat(tmp_path / "here").st_mode
    assert sorted(os.listdir(tmp_path)) == ["clip.pt", "here", "new", "out", "out.part"]


def test_command_with_and_without_a_tokenizer(
    tmp_path: Path, tiny_checkpoint: Path, tiny_processor: RogleProcessor, capsys: pytest.CaptureFixture[str]
):
    file, size = tmp_path / "clip.safetensors", ["--image-size", "32", "16"]
    vocabulary = len(tiny_processor.tokenizer)
    state = openai_state(vocabulary)
    save_file(state, file)
    assert main(["convert", str(file), "--out", str(tmp_path / "bare"), *size]) == 0
    assert "--tokenizer" in capsys.readouterr().err
    assert not (tmp_path / "bare" / "processor_config.json").exists()

    # The tiny tokenizer's end of text is not its last number, as CLIP's is.
    command = ["convert", str(file), "--out", str(tmp_path / "whole"), *size, "--tokenizer", str(tiny_checkpoint)]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "end of text" in error and error.count("\n") == 1 and not (tmp_path / "whole").exists()


def test_processor_is_saved_beside_the_weights(tmp_path: Path, tiny_processor: RogleProcessor):
    # A vocabulary in CLIP's order: start and end of text last.
    words = sorted(set(tiny_processor.tokenizer.get_vocab()) - {"<|startoftext|>", "<|endoftext|>"})
    vocab = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    CLIPTokenizer(vocab=vocab, merges=[]).save_pretrained(tmp_path / "tokenizer")
    save_file(openai_state(len(vocab)), tmp_path / "clip.safetensors")
    done = convert_checkpoint(tmp_path / "clip.safetensors", tmp_path / "out", (32, 16), 40, tmp_path / "tokenizer")
    assert done.with_processor
    model, processor = RogleModel.from_pretrained(done.folder), RogleProcessor.from_pretrained(done.folder)
    ids = processor(text=["a man in red " * 40, "a bag"], return_tensors="pt")["input_ids"]
    assert ids.shape == (2, 40) and ids[0, -1] == model.config.text_config.eos_token_id == len(vocab) - 1
    assert model.encode_texts(ids).shape == (2, model.config.projection_dim)
    assert processor.image_processor.image_mean[0] == pytest.approx(0.48145466)


def test_the_processor_resizes_and_normalises_as_the_project_does(tmp_path: Path, tiny_processor: RogleProcessor):
    words = sorted(set(tiny_processor.tokenizer.get_vocab()) - {"<|startoftext|>", "<|endoftext|>"})
    vocab = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    CLIPTokenizer(vocab=vocab, merges=[]).save_pretrained(tmp_path / "tokenizer")
    table = torch.randn(len(vocab), WIDTH)
    for name, state, mean, resample in (
        ("tbps", tbps_clip_state() | {"encode_text.token_embedding.weight": table}, 0.485, 3),
        ("irra", irra_state() | {"base_model.token_embedding.weight": table}, 0.48145466, 2),
    ):
        save_file(state, tmp_path / f"{name}.safetensors")
        done = convert_checkpoint(tmp_path / f"{name}.safetensors", tmp_path / name, tokenizer=tmp_path / "tokenizer")
        images = RogleProcessor.from_pretrained(done.folder).image_processor
        assert (images.image_mean[0], images.resample) == (pytest.approx(mean), resample)
        assert (images.size["height"], images.size["width"]) == done.image_size
