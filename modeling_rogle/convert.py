"""Checkpoints of other projects -> RogleModel. So far one layout: the state dict of OpenAI's CLIP with a ViT.

Long-CLIP, open_clip, IRRA and RDE files are refused by the first key that does not belong. Nothing is ever unpickled
that needs code, so OpenAI's own downloads, which are TorchScript archives, have to be saved again by their user first,
as a plain state dict: `torch.save(torch.jit.load(FILE, map_location="cpu").state_dict(), OUT)`.
"""

import math
import os
import pickle
import re
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import CLIPImageProcessorPil, CLIPTokenizer

from .configuration_rogle import RogleConfig
from .modeling_rogle import CAPTION_TOKENS, TEXT_POSITIONS, VISION_POSITIONS, RogleModel
from .positions import lengthen_text_positions, resize_image_positions
from .processing_rogle import RogleProcessor

HEAD_WIDTH = 64  # OpenAI's code: heads = width // 64 in both towers
NOT_WEIGHTS = {"input_resolution", "context_length", "vocab_size"}  # numbers among the TorchScript archives' tensors

# Keys of openai/CLIP's `clip/model.py` and of `transformers.CLIPModel`; a trailing T is a transposed matrix.
_SINGLE = {
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": VISION_POSITIONS,
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight T",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": TEXT_POSITIONS,
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight T",
    "logit_scale": "logit_scale",
}
_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)")
_IN_BLOCK = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


class ConvertError(ValueError):
    """A file that cannot be converted; one line that names the file and, where there is one, the key in it."""


@dataclass(frozen=True)
class Converted:
    """What [`convert_openai`] saved: the folder, the number of parameters, and whether a processor is in it too."""

    folder: Path
    parameters: int
    with_processor: bool


def convert_openai(
    path: str | Path,
    out: str | Path,
    image_size: Sequence[int] = (384, 128),
    max_position_embeddings: int = CAPTION_TOKENS,
    tokenizer: str | Path | None = None,
) -> Converted:
    """Converts a state dict of OpenAI's CLIP into a folder that `RogleModel.from_pretrained` loads, in fp32.

    Args:
        path: `.safetensors`, or what `torch.save(state_dict)` wrote.
        out: new folder, written in one step; or an empty one, into which `config.json` comes last.
        image_size: height and width in pixels; the position table is resized to it.
        max_position_embeddings: caption length in tokens; never less than the file's.
        tokenizer: folder of CLIP's tokenizer. The weights do not hold one: without it no processor is saved.

    Raises:
        ConvertError: a file that is damaged, needs code or has another layout; a folder that is not empty; a tokenizer
            of another vocabulary.
        FileNotFoundError: no such file or folder.
    """
    path, out = Path(path), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConvertError(f"{out}: not an empty folder; nothing is overwritten")
    model = rogle_from_openai(read_state_dict(path), image_size, max_position_embeddings, str(path))
    processor = None if tokenizer is None else _processor(Path(tokenizer), model.config)
    # On the disk of `out`, so that nothing is copied; inside it if it is there, since what holds it may be read-only.
    there = out.exists()
    home = out if there else out.parent
    home.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".rogle-convert-", dir=home))
    part = scratch / "model"
    try:
        model.save_pretrained(part)
        if processor is not None:
            processor.save_pretrained(part)
        if there:
            for file in sorted(part.iterdir(), key=lambda file: file.name == "config.json"):
                os.replace(file, out / file.name)
        else:
            os.replace(part, out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Converted(out, sum(p.numel() for p in model.parameters()), processor is not None)


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Reads tensors by name without running any code.

    Raises:
        ConvertError: not a dict of tensors, damaged, or not readable without code.
        FileNotFoundError: no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, on archives and protocols: what matters is raised below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ConvertError(f"{path}: damaged, or not safetensors ({error})") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        if "TorchScript" in str(error):
            reason = "a TorchScript archive, which is code; save its state_dict() as a plain file first"
        elif "weights_only" in str(error) or "WeightsUnpickler" in str(error):
            reason = "not readable without running code from it; save a plain state dict or safetensors"
        else:
            reason = "damaged, or no PyTorch file"
        raise ConvertError(f"{path}: {reason}") from error
    if not isinstance(state, Mapping):
        raise ConvertError(f"{path}: holds a {type(state).__name__}, not a state dict")
    for key, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise ConvertError(f"{path}: {key!r} is a {type(value).__name__}, not a tensor; save the bare state dict")
    return dict(state)


def rogle_from_openai(
    state: Mapping[str, torch.Tensor],
    image_size: Sequence[int] = (384, 128),
    max_position_embeddings: int = CAPTION_TOKENS,
    name: str = "state dict",
) -> RogleModel:
    """Builds the model that a state dict describes; every dimension is read from the tensors' shapes.

    Args:
        state: keys as in openai/CLIP's `clip/model.py`, any floating dtype.
        image_size, max_position_embeddings: as in [`convert_openai`].
        name: what errors call it.

    Returns:
        A RogleModel in fp32, in evaluation mode; its region head is new.

    Raises:
        ConvertError: a key that is missing, unknown or of a shape that does not fit the others.
    """
    state = {key: value for key, value in state.items() if key not in NOT_WEIGHTS}
    renamed = _renamed(state, name)
    config, old_grid = _config(state, image_size, max_position_embeddings, name)
    for table, resize in (
        (VISION_POSITIONS, lambda t: resize_image_positions(t, config.patch_grid, old_grid)),
        (
            TEXT_POSITIONS,
            lambda t: lengthen_text_positions(t, config.text_config.max_position_embeddings, config.text_positions),
        ),
    ):
        source, tensor = renamed[table]
        renamed[table] = source, resize(tensor)
    model = RogleModel(config)
    expected = {key: value.shape for key, value in model.state_dict().items() if not key.startswith("region_head.")}
    for key, (source, tensor) in renamed.items():
        if key not in expected:
            raise ConvertError(f"{name}: unexpected key {source!r}")
        if tensor.shape != expected[key]:
            raise ConvertError(f"{name}: {source!r} is {list(tensor.shape)} where {list(expected[key])} fits the rest")
    for key in expected:
        if key not in renamed:
            raise ConvertError(f"{name}: nothing in it gives {key!r}; not OpenAI CLIP, or incomplete")
    model.load_state_dict({key: tensor for key, (_, tensor) in renamed.items()}, strict=False)
    return model.eval()


def _renamed(state: Mapping[str, torch.Tensor], name: str) -> dict[str, tuple[str, torch.Tensor]]:
    """CLIPModel's key -> (the file's key, fp32 tensor)."""
    found: dict[str, tuple[str, torch.Tensor]] = {}
    for key, tensor in state.items():
        tensor = tensor.float()
        if key in _SINGLE:
            target, _, transposed = _SINGLE[key].partition(" ")
            found[target] = key, tensor.T.contiguous() if transposed else tensor
            continue
        block = _BLOCK.fullmatch(key)
        if block is None:
            if key.startswith("visual.layer"):
                raise ConvertError(f"{name}: {key!r} belongs to a ResNet; only vision transformers are read")
            raise ConvertError(f"{name}: unknown key {key!r}; only OpenAI CLIP's layout is read")
        tower = "vision_model" if block[1] else "text_model"
        prefix, part = f"{tower}.encoder.layers.{block[2]}", block[3]
        inner, _, kind = part.rpartition(".")
        if part in ("attn.in_proj_weight", "attn.in_proj_bias"):
            # One matrix for query, key and value, in this order.
            for letter, piece in zip("qkv", tensor.chunk(3), strict=True):
                found[f"{prefix}.self_attn.{letter}_proj.{part.removeprefix('attn.in_proj_')}"] = key, piece.clone()
        elif inner in _IN_BLOCK and kind in ("weight", "bias"):
            found[f"{prefix}.{_IN_BLOCK[inner]}.{kind}"] = key, tensor
        else:
            raise ConvertError(f"{name}: unknown key {key!r}; only OpenAI CLIP's layout is read")
    return found


def _config(
    state: Mapping[str, torch.Tensor], image_size: Sequence[int], tokens: int, name: str
) -> tuple[RogleConfig, tuple[int, int]]:
    """The configuration, and rows and columns of the file's (square) grid of patches."""

    def shape(key: str, dimensions: int) -> torch.Size:
        if key not in state:
            raise ConvertError(f"{name}: no key {key!r}; not OpenAI CLIP with a vision transformer")
        if state[key].ndim != dimensions:
            raise ConvertError(f"{name}: {key!r} has shape {list(state[key].shape)}, not {dimensions} dimensions")
        return state[key].shape

    def layers(tower: str | None) -> int:
        return 1 + max((int(m[2]) for m in map(_BLOCK.fullmatch, state) if m and m[1] == tower), default=-1)

    width, _, patch, _ = shape("visual.conv1.weight", 4)
    positions = shape("visual.positional_embedding", 2)[0]
    vocabulary, text_width = shape("token_embedding.weight", 2)
    length = shape("positional_embedding", 2)[0]
    dimension = shape("text_projection", 2)[1]
    side = math.isqrt(max(positions - 1, 0))
    if side * side != positions - 1:
        raise ConvertError(f"{name}: 'visual.positional_embedding' has {positions} rows, not 1 + a square")
    for key, value in (("visual.conv1.weight", width), ("token_embedding.weight", text_width)):
        if value % HEAD_WIDTH:
            raise ConvertError(f"{name}: {key!r} is {value} wide, not a multiple of {HEAD_WIDTH}")
    try:
        config = RogleConfig(
            image_size=[int(side) for side in image_size],
            projection_dim=dimension,
            vision_config={
                "hidden_size": width,
                "intermediate_size": shape("visual.transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
                "num_hidden_layers": layers("visual."),
                "num_attention_heads": width // HEAD_WIDTH,
                "image_size": side * patch,
                "patch_size": patch,
                "projection_dim": dimension,
                "hidden_act": "quick_gelu",
            },
            text_config={
                "vocab_size": vocabulary,
                "hidden_size": text_width,
                "intermediate_size": shape("transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
                "num_hidden_layers": layers(None),
                "num_attention_heads": text_width // HEAD_WIDTH,
                "max_position_embeddings": max(tokens, length),
                "projection_dim": dimension,
                "hidden_act": "quick_gelu",
                # OpenAI pools at the largest id: the last two of its vocabulary are start and end of text.
                "bos_token_id": vocabulary - 2,
                "eos_token_id": vocabulary - 1,
                "pad_token_id": vocabulary - 1,
            },
        )
    except StrictDataclassError as error:
        raise ConvertError(f"{name}: {str(error.__cause__ or error).splitlines()[0]}") from error
    return config, (side, side)


def _processor(folder: Path, config: RogleConfig) -> RogleProcessor:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    text = config.text_config
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=text.max_position_embeddings)
    tokenizer.init_kwargs.pop("max_length", None)  # a limit stored by an earlier call would win over the new one
    if len(tokenizer) != text.vocab_size or tokenizer.eos_token_id != text.eos_token_id:
        raise ConvertError(
            f"{folder}: a tokenizer of {len(tokenizer)} tokens (end of text {tokenizer.eos_token_id}), the weights "
            f"have {text.vocab_size} (end of text {text.eos_token_id})"
        )
    height, width = config.image_size
    images = CLIPImageProcessorPil(size={"height": height, "width": width}, do_center_crop=False, do_convert_rgb=True)
    return RogleProcessor(images, tokenizer)


__all__ = ["ConvertError", "Converted", "convert_openai", "read_state_dict", "rogle_from_openai"]
