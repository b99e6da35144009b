"""OpenAI CLIP's layout, checked against a plain-torch forward of that layout written here; refusals in one line."""

import math
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from modeling_rogle import RogleModel, RogleProcessor
from modeling_rogle.cli import main
from modeling_rogle.convert import ConvertError, convert_openai, read_state_dict, rogle_from_openai

WIDTH, DIM, PATCH, SIDE, LENGTH, LAYERS = 128, 24, 8, 32, 30, 2


def openai_state(vocabulary: int = 64) -> dict[str, torch.Tensor]:
    """Random weights under OpenAI's names: 2 heads, 2 layers a tower, 32 px in patches of 8."""
    torch.manual_seed(1)
    state = {
        "visual.conv1.weight": torch.randn(WIDTH, 3, PATCH, PATCH) * 0.05,
        "visual.class_embedding": torch.randn(WIDTH),
        "visual.positional_embedding": torch.randn((SIDE // PATCH) ** 2 + 1, WIDTH),
        "visual.proj": torch.randn(WIDTH, DIM) * 0.1,
        "token_embedding.weight": torch.randn(vocabulary, WIDTH),
        "positional_embedding": torch.randn(LENGTH, WIDTH),
        "text_projection": torch.randn(WIDTH, DIM) * 0.1,
        "logit_scale": torch.tensor(3.0),
    }
    norms = ["visual.ln_pre", "visual.ln_post", "ln_final"]
    for tower in ("visual.transformer", "transformer"):
        for layer in range(LAYERS):
            block = f"{tower}.resblocks.{layer}"
            norms += [f"{block}.ln_1", f"{block}.ln_2"]
            state[f"{block}.attn.in_proj_weight"] = torch.randn(3 * WIDTH, WIDTH) * 0.1
            state[f"{block}.attn.in_proj_bias"] = torch.randn(3 * WIDTH) * 0.1
            for name, (rows, columns) in {
                "attn.out_proj": (WIDTH, WIDTH),
                "mlp.c_fc": (2 * WIDTH, WIDTH),
                "mlp.c_proj": (WIDTH, 2 * WIDTH),
            }.items():
                state[f"{block}.{name}.weight"] = torch.randn(rows, columns) * 0.1
                state[f"{block}.{name}.bias"] = torch.randn(rows) * 0.1
    for norm in norms:
        state[f"{norm}.weight"] = 1 + 0.2 * torch.randn(WIDTH)
        state[f"{norm}.bias"] = 0.2 * torch.randn(WIDTH)
    return state


def norm(state, name, x):
    return nn.functional.layer_norm(x, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"])


def blocks(state, tower, x, causal):
    """OpenAI's residual attention blocks: fused projection, heads of 64, x * sigmoid(1.702 x)."""
    for layer in range(LAYERS):
        name = f"{tower}.resblocks.{layer}"
        fused = norm(state, f"{name}.ln_1", x) @ state[f"{name}.attn.in_proj_weight"].T
        query, key, value = (fused + state[f"{name}.attn.in_proj_bias"]).split(WIDTH, dim=-1)
        query, key, value = (part.unflatten(-1, (WIDTH // 64, 64)).transpose(1, 2) for part in (query, key, value))
        scores = query @ key.transpose(-1, -2) / math.sqrt(64)
        if causal:
            scores = scores + torch.full(scores.shape[-2:], -torch.inf).triu(1)
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        x = x + mixed @ state[f"{name}.attn.out_proj.weight"].T + state[f"{name}.attn.out_proj.bias"]
        hidden = norm(state, f"{name}.ln_2", x) @ state[f"{name}.mlp.c_fc.weight"].T + state[f"{name}.mlp.c_fc.bias"]
        hidden = hidden * torch.sigmoid(1.702 * hidden)
        x = x + hidden @ state[f"{name}.mlp.c_proj.weight"].T + state[f"{name}.mlp.c_proj.bias"]
    return x


def encode_image(state, pixels):
    tokens = nn.functional.conv2d(pixels, state["visual.conv1.weight"], stride=PATCH).flatten(2).transpose(1, 2)
    tokens = torch.cat([state["visual.class_embedding"].expand(len(tokens), 1, -1), tokens], dim=1)
    tokens = norm(state, "visual.ln_pre", tokens + state["visual.positional_embedding"])
    tokens = blocks(state, "visual.transformer", tokens, causal=False)
    return nn.functional.normalize(norm(state, "visual.ln_post", tokens[:, 0]) @ state["visual.proj"], dim=-1)


def encode_text(state, ids):
    tokens = state["token_embedding.weight"][ids] + state["positional_embedding"][: ids.shape[1]]
    tokens = norm(state, "ln_final", blocks(state, "transformer", tokens, causal=True))
    pooled = tokens[torch.arange(len(ids)), ids.argmax(-1)]
    return nn.functional.normalize(pooled @ state["text_projection"], dim=-1)


def captions(length: int) -> torch.Tensor:
    """`[3, length]`: start 62, words, end 63, then padding with 0 as OpenAI's code does."""
    torch.manual_seed(2)
    ids = torch.randint(1, 60, (3, length))
    ids[:, 0] = 62
    for row, end in enumerate((length - 1, length // 2, 4)):
        ids[row, end], ids[row, end + 1 :] = 63, 0
    return ids


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_embeds_as_the_layout_says(tmp_path: Path, suffix: str):
    state = openai_state()
    file = tmp_path / f"clip{suffix}"
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    done = convert_openai(file, tmp_path / "out", (SIDE, SIDE), LENGTH)
    assert (done.folder, done.with_processor) == (tmp_path / "out", False)
    assert sorted(os.listdir(tmp_path)) == [file.name, "out"]

    model, info = RogleModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    pixels, ids = torch.randn(2, 3, SIDE, SIDE), captions(LENGTH)
    torch.testing.assert_close(model.encode_images(pixels)[0], encode_image(state, pixels), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.encode_texts(ids), encode_text(state, ids), atol=1e-5, rtol=0)
    assert model.logit_scale.item() == 3.0
    assert done.parameters == sum(value.numel() for value in state.values()) + 1  # the region head's scale


def test_a_stretched_table_keeps_short_captions_and_half_precision_becomes_fp32():
    state = {key: value.half() for key, value in openai_state().items()}
    state["input_resolution"] = torch.tensor(SIDE)  # the archives carry three such numbers
    model = rogle_from_openai(state, (64, 32), 60)
    assert model.dtype == torch.float32 and model.config.text_config.max_position_embeddings == 60
    assert model.config.patch_grid == (8, 4)
    wide, ids = {key: value.float() for key, value in state.items()}, captions(20)
    torch.testing.assert_close(model.encode_texts(ids), encode_text(wide, ids), atol=1e-5, rtol=0)
    assert model.encode_texts(captions(60)).isfinite().all()
    assert model.encode_images(torch.randn(1, 3, 64, 32))[0].isfinite().all()


class _Code:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_files_that_need_code_or_are_damaged_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": _Code()}, "code.pt")
    torch.jit.script(nn.Linear(2, 2)).save("archive.pt")
    torch.save({"epoch": 3, "state_dict": {}}, "wrapped.pt")
    torch.save([torch.zeros(1)], "list.pt")
    whole = Path("code.pt").read_bytes()
    Path("cut.pt").write_bytes(whole[: len(whole) // 2])
    Path("empty.pt").touch()
    Path("text.safetensors").write_text("not tensors")
    for name, reason in {
        "code.pt": "without running code",
        "archive.pt": "TorchScript archive",
        "wrapped.pt": "'epoch' is a int",
        "list.pt": "a list, not a state dict",
        "cut.pt": "damaged",
        "empty.pt": "damaged",
        "text.safetensors": "damaged",
    }.items():
        with pytest.raises(ConvertError, match=reason) as caught:
            read_state_dict(Path(name))
        assert str(caught.value).startswith(f"{name}: ") and "\n" not in str(caught.value)
    assert not Path("ran").exists()


def _without(key):
    return lambda state: state.pop(key)


def _with(key, value):
    return lambda state: state.update({key: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("visual.proj"), "'visual_projection.weight'"),
        (_without("visual.conv1.weight"), "'visual.conv1.weight'"),
        (_without("transformer.resblocks.0.attn.in_proj_bias"), "k_proj.bias"),
        (_with("positional_embedding_res", torch.zeros(2)), "unknown key 'positional_embedding_res'"),
        (_with("visual.layer1.0.conv1.weight", torch.zeros(2)), "ResNet"),
        (_with("transformer.resblocks.0.attn.gate", torch.zeros(2)), "resblocks.0.attn.gate"),
        (_with("visual.positional_embedding", torch.zeros(12, WIDTH)), "not 1 \\+ a square"),
        (_with("ln_final.bias", torch.zeros(3)), "'ln_final.bias' is \\[3\\]"),
        (_with("visual.conv1.weight", torch.zeros(96, 3, PATCH, PATCH)), "not a multiple of 64"),
        (_with("token_embedding.weight", torch.zeros(8)), "'token_embedding.weight' has shape \\[8\\]"),
    ],
)
def test_another_layout_is_named_by_its_key(change, message: str):
    state = openai_state()
    change(state)
    with pytest.raises(ConvertError, match=message) as caught:
        rogle_from_openai(state, (SIDE, SIDE), LENGTH, "clip.pt")
    assert str(caught.value).startswith("clip.pt: ") and "\n" not in str(caught.value)


def test_an_image_size_that_the_patches_do_not_divide_is_refused():
    with pytest.raises(ConvertError, match="multiple of patch_size 8"):
        rogle_from_openai(openai_state(), (33, 16))


def test_nothing_is_overwritten_and_nothing_half_written_stays(tmp_path: Path):
    torch.save(openai_state(), tmp_path / "clip.pt")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    with pytest.raises(ConvertError, match="not an empty folder"):
        convert_openai(tmp_path / "clip.pt", tmp_path / "full")
    with pytest.raises(FileNotFoundError, match="nothing.pt: no such file"):
        convert_openai(tmp_path / "nothing.pt", tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["clip.pt", "full"]
    assert (tmp_path / "full" / "mine.txt").read_text() == "keep"


def test_neighbours_are_kept_and_the_folder_may_be_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.save(openai_state(), tmp_path / "clip.pt")
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "mine.txt").write_text("keep")
    whole = convert_openai(tmp_path / "clip.pt", tmp_path / "new" / "out", (SIDE, SIDE), LENGTH).folder
    convert_openai(tmp_path / "clip.pt", tmp_path / "out", (SIDE, SIDE), LENGTH)
    assert (tmp_path / "out.part" / "mine.txt").read_text() == "keep"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    convert_openai(tmp_path / "clip.pt", ".", (SIDE, SIDE), LENGTH)
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
    from transformers import CLIPTokenizer

    # A vocabulary in CLIP's order: start and end of text last.
    words = sorted(set(tiny_processor.tokenizer.get_vocab()) - {"<|startoftext|>", "<|endoftext|>"})
    vocab = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    CLIPTokenizer(vocab=vocab, merges=[]).save_pretrained(tmp_path / "tokenizer")
    save_file(openai_state(len(vocab)), tmp_path / "clip.safetensors")
    done = convert_openai(tmp_path / "clip.safetensors", tmp_path / "out", (32, 16), 40, tmp_path / "tokenizer")
    assert done.with_processor
    model, processor = RogleModel.from_pretrained(done.folder), RogleProcessor.from_pretrained(done.folder)
    ids = processor(text=["a man in red " * 40, "a bag"], return_tensors="pt")["input_ids"]
    assert ids.shape == (2, 40) and ids[0, -1] == model.config.text_config.eos_token_id == len(vocab) - 1
    assert model.encode_texts(ids).shape == (2, DIM)
